"""(model, guide, data) → loss in nats, and how good a prediction is."""

from probmodel.objectives.elbo import elbo
from probmodel.objectives.gaussian_process import gp_log_marginal
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
from probmodel.objectives.sparse_gaussian_process import svgp_elbo

__all__ = [
    "accuracy",
    "brier",
    "calibration",
    "crps_normal_mixture",
    "crps_samples",
    "elbo",
    "expected_calibration_error",
    "gp_log_marginal",
    "iwae",
    "log_score_by_row",
    "log_score_per_datum",
    "reliability",
    "rmse",
    "svgp_elbo",
]
