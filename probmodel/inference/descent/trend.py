"""Trend of noisy losses, by a least-squares line with the standard error of its slope, and whether they still fall."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST = 3
"""Smallest number of losses for which the residuals of a line determine its standard error."""
SPAN = 500
"""Number of losses at most to which the line is fitted; fewer in a short fit, of which only the last half counts."""
MATERIAL_FALL = 0.05
"""Nats per row: a fall of less within the last losses, or of less than one nat in all, would change no conclusion."""


class Trend(NamedTuple):
    """Decrease of a fitted line from the first loss to the last, in nats; negative where the losses rise."""

    size: float
    stderr: float
    """Standard error in nats, for noise that is independent between steps; infinite for fewer than three losses."""

    def exceeds(self, threshold: float) -> bool:
        """Return whether the decrease is above the threshold, in nats, by more than two standard errors."""
        return self.size - 2 * self.stderr > threshold


class RecentTrend(NamedTuple):
    """Trend of the last losses of a fit, and whether it is a fall that more steps would continue."""

    trend: Trend
    num_steps: int
    """Number of losses in the window."""
    falls: bool
    """True for a fall that is significant, by two standard errors, and material."""

    def __str__(self) -> str:
        direction = "rose" if self.trend.size < 0 else "fell"
        error = f" ± {self.trend.stderr:,.2g}" if np.isfinite(self.trend.stderr) else ""
        return f"{direction} by {abs(self.trend.size):,.4g}{error} nats in the last {self.num_steps:,} steps"


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


def recent_trend(losses: Sequence[float], num_rows: int | None) -> RecentTrend:
    """Trend of the last half of the losses, of the last 500 at most: the one rule by which a loss is said to fall still.

    The first half of a short fit is left out, since the initial descent says nothing about the end.

    >>> recent_trend([1000.0 - step for step in range(1000)], 50).falls, recent_trend([3.0, 5.0] * 500, 50).falls
    (True, False)

    Args:
        losses: one loss per step, in nats over the data set.
        num_rows: number of rows of the data set, None where it has none.
    """
    window = losses[-min(SPAN, max(LEAST, (len(losses) + 1) // 2)) :]
    trend = loss_trend(window)
    material = trend.size > max(1.0, MATERIAL_FALL * (num_rows or 0))
    return RecentTrend(trend, len(window), material and trend.exceeds(0.0))
