"""Areas under the curves of edge scores against a true graph."""

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score


def areas(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Area under the receiver operating characteristic and average precision, over pairs of different variables."""
    pairs = ~np.eye(len(truth), dtype=bool)
    return float(roc_auc_score(truth[pairs], scores[pairs])), float(
        average_precision_score(truth[pairs], scores[pairs])
    )
