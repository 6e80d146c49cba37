"""(model, guide, data) → loss in nats, and how good a prediction is."""

from probmodel.objectives.elbo import elbo
from probmodel.objectives.iwae import iwae
from probmodel.objectives.scores import (
    accuracy,
    brier,
    calibration,
    crps_normal_mixture,
    crps_samples,
    expected_calibration_error,
    log_score_by_row,
    log_score_per_datum,
    reliability,
    rmse,
)

__all__ = [
    "accuracy",
    "brier",
    "calibration",
    "crps_normal_mixture",
    "crps_samples",
    "elbo",
    "expected_calibration_error",
    "iwae",
    "log_score_by_row",
    "log_score_per_datum",
    "reliability",
    "rmse",
]
