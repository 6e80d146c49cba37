"""Scores of predictions (`pb.scores`); nats are per row where the name says so.

Scoring rules: log_score_by_row, log_score_per_datum, brier, crps_normal_mixture, crps_samples, accuracy, rmse.
Calibration: calibration, reliability, expected_calibration_error.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.prediction.scores.calibration import (
        Calibration,
        Reliability,
        calibration,
        expected_calibration_error,
        reliability,
    )
    from probmodel.prediction.scores.scoring_rules import (
        accuracy,
        brier,
        crps_normal_mixture,
        crps_samples,
        log_score_by_row,
        log_score_per_datum,
        rmse,
    )

on_first_use(__name__)

__all__ = [
    "Calibration",
    "Reliability",
    "accuracy",
    "brier",
    "calibration",
    "crps_normal_mixture",
    "crps_samples",
    "expected_calibration_error",
    "log_score_by_row",
    "log_score_per_datum",
    "reliability",
    "rmse",
]
