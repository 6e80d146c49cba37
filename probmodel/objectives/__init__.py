"""(model, guide, data) → loss in nats, and how good a prediction is."""

from probmodel.gaussian_processes.exact import gp_log_marginal
from probmodel.gaussian_processes.sparse import svgp_elbo
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
    "gp_log_marginal",
    "iwae",
    "log_score_by_row",
    "log_score_per_datum",
    "reliability",
    "rmse",
    "svgp_elbo",
]
