"""By how much noisy losses fall: a least-squares line with the standard error of its slope."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST = 3
"""Losses of which a line leaves something to tell its error by."""


class Trend(NamedTuple):
    """From the first loss of a stretch to the last, in nats; negative where the losses rise."""

    size: float
    stderr: float
    """The noise of a step is taken to be independent of the last one's; infinite for fewer than three losses."""

    def exceeds(self, threshold: float) -> bool:
        """Whether it is larger, by two standard errors or more, than the threshold in nats."""
        return self.size - 2 * self.stderr > threshold


def loss_trend(losses: Sequence[float]) -> Trend:
    """Fall of the line through all of these losses.

    >>> fall([5.0, 4.0, 3.0, 2.0])
    Fall(size=3.0, stderr=0.0)
    >>> fall([3.0, 5.0] * 50).exceeds(0.0)
    False

    Args:
        losses: one a step, in nats.
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
