"""Trend of noisy losses: a least-squares line with the standard error of its slope."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST = 3
"""Smallest number of losses for which the residuals of a line determine its standard error."""


class Trend(NamedTuple):
    """Decrease of a fitted line from the first loss to the last, in nats; negative where the losses rise."""

    size: float
    stderr: float
    """Standard error in nats, for noise that is independent between steps; infinite for fewer than three losses."""

    def exceeds(self, threshold: float) -> bool:
        """Return whether the decrease is above the threshold, in nats, by more than two standard errors."""
        return self.size - 2 * self.stderr > threshold


def loss_trend(losses: Sequence[float]) -> Trend:
    """Decrease of the least-squares line through all of these losses.

    >>> loss_trend([5.0, 4.0, 3.0, 2.0])
    Trend(size=3.0, stderr=0.0)
    >>> loss_trend([3.0, 5.0] * 50).exceeds(0.0)
    False

    Args:
        losses: one loss per step, in nats.
    """
    y = np.asarray(losses, dtype=float)
    if len(y) < LEAST:
        return Trend(0.0, np.inf)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    y = y - y.mean()
    slope = (x @ y) / (x @ x)
    residual = y - slope * x
    stderr = np.sqrt(residual @ residual / (len(y) - 2) / (x @ x))
    return Trend(float(-slope * (len(y) - 1)), float(stderr * (len(y) - 1)))
