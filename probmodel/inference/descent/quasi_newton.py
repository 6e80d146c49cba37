"""Maximization in place by L-BFGS-B, restarted where a line search meets a value that cannot be computed.

Reference:
    Byrd, Lu, Nocedal & Zhu (1995), "A limited memory algorithm for bound constrained optimization".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from probmodel.protocols.errors import NotPositiveDefiniteError

FAILED_VALUE = 1e25
"""Replacement for a value that cannot be computed, from which the line search turns back."""
BOX = 10.0
"""Half width of a restarted search's box in each parameter, in units of the parameter where that is above 1."""


class Maximum(NamedTuple):
    """Result of a maximization: the value reached, and the number of steps and evaluations."""

    value: float
    num_steps: int
    num_evaluations: int
    converged: bool
    """True if the search ended by itself, at a point from which a new search gains nothing."""
    message: str
    interrupted: bool = False
    """True where a KeyboardInterrupt ended the search, whose best point was taken."""


def maximize(
    value: Callable[[], Tensor],
    leaves: Sequence[Tensor],
    *,
    max_steps: int,
    tolerance: float,
    units: Sequence[Tensor] | None = None,
) -> Maximum:
    """Move the leaves to a maximum of the value.

    A line search that meets NaN, infinity or a covariance without a Cholesky factor may mistake its last point for the
    maximum; the search is then restarted from the best point, in a box, until it meets none of these or gains less than
    the tolerance.  At its end, large parameters are doubled and halved, since the gradient by a scale far from its best
    value nearly vanishes.

    Args:
        value: function to maximize, evaluated at the leaves as they are.
        leaves: parameters, changed in place.
        max_steps: number of steps of all searches together, at most.
        tolerance: nats; a step that gains less is the last of its search.
        units: natural step of each number of each leaf, 1 by default: the search is the same in all units of the leaves.

    Returns:
        Maximum, whose value is in the unit of `value`; after a KeyboardInterrupt, the best point by then.

    Raises:
        ValueError: for a negative tolerance.
        ArithmeticError: where value or gradient cannot be computed at the start.
    """
    if not tolerance >= 0.0:
        raise ValueError(f"expected a tolerance of 0 or more nats, got {tolerance}; pass 1e-3, the usual value")
    search = _Search(value, leaves, units)
    theta = search.start()
    first, _ = search(theta)
    if first == FAILED_VALUE:
        raise ArithmeticError(
            "expected a finite value and gradient at the start, got none; scale the data, start the parameters "
            "elsewhere, or use VariationalEM for a mixture of more rows than can be enumerated"
        )
    if not len(theta):
        return Maximum(-first, 0, 1, True, "no parameters to move")
    try:
        return _ascended(search, theta, first, max_steps, tolerance)
    except KeyboardInterrupt:
        best, theta = search.lowest
        search.place(theta)
        return Maximum(-best, search.num_steps, search.evaluations, False, "interrupted", True)


def _ascended(search: "_Search", theta: np.ndarray, first: float, max_steps: int, tolerance: float) -> Maximum:
    """Searches from a start with value `first`, until none gains."""
    best, num_steps, bounds = first, 0, None
    while True:
        search.failures, scale = 0, max(1.0, abs(best))
        # SciPy's tolerance is relative to the value, which may grow.
        options = {"maxiter": max_steps - num_steps, "ftol": tolerance / scale, "gtol": 0.0}
        found = minimize(
            search, theta, jac=True, method="L-BFGS-B", bounds=bounds, options=options, callback=search.count
        )
        gained, theta, best, num_steps = best - found.fun, found.x, found.fun, num_steps + int(found.nit)
        stopped = num_steps >= max_steps
        # A search at the edge of its box has not ended by itself.
        within = bounds is None or bool((np.abs(found.x - bounds.mean(1)) < 0.99 * np.ptp(bounds, 1) / 2).all())
        ended = found.success and not search.failures and within
        coarse = abs(best) > 2 * scale and gained > tolerance
        if ended and not coarse and not stopped:
            before, bounds = best, None
            theta, best = search.rescaled(theta, best, tolerance)
            coarse = before - best > tolerance
        if stopped or (ended and not coarse) or (bounds is not None and gained <= tolerance and within):
            break
        if ended:
            continue
        reach = BOX * np.maximum(1.0, np.abs(theta))
        bounds = np.stack([theta - reach, theta + reach], 1)
    search.place(theta)
    return Maximum(-float(best), num_steps, search.evaluations, ended and not stopped, str(found.message))


class _Search:
    """Negative of the value, and its gradient, as a function of one vector."""

    def __init__(
        self, value: Callable[[], Tensor], leaves: Sequence[Tensor], units: Sequence[Tensor] | None = None
    ) -> None:
        self.value, self.leaves = value, leaves
        self.units = _vector([torch.ones_like(leaf) for leaf in leaves] if units is None else units)
        self.sizes = [leaf.numel() for leaf in leaves]
        self.failures = self.evaluations = self.num_steps = 0
        self.lowest = FAILED_VALUE, self.start()

    def start(self) -> np.ndarray:
        return _vector([leaf.detach() for leaf in self.leaves]) / self.units

    def count(self, theta: np.ndarray) -> None:
        """Count a step."""
        self.num_steps += 1

    def place(self, theta: np.ndarray) -> None:
        with torch.no_grad():
            for leaf, part in zip(self.leaves, torch.as_tensor(theta * self.units).split(self.sizes), strict=True):
                leaf.copy_(part.view_as(leaf))

    def rescaled(self, theta: np.ndarray, value: float, tolerance: float) -> tuple[np.ndarray, float]:
        """Double or halve large parameters, one after the other, as long as each change gains more than the tolerance.

        Raw scales are linear: from 10⁴ to 10⁸ no step of a quasi-Newton search gains enough to continue.
        """
        theta = theta.copy()
        for i in np.flatnonzero(np.abs(theta * self.units) > BOX):
            for factor in (2.0, 0.5):
                while True:
                    tried = theta.copy()
                    tried[i] *= factor
                    found, _ = self(tried)
                    if not found < value - tolerance:
                        break
                    theta, value = tried, found
        return theta, value

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        self.place(theta)
        self.evaluations += 1
        try:
            value = self.value()
        except (ValueError, torch.linalg.LinAlgError) as error:
            # Pyro wraps the error that a site raises.
            if not {type(error), type(error.__cause__)} & {NotPositiveDefiniteError, torch.linalg.LinAlgError}:
                raise
            return self._failed(theta)
        grad = np.zeros_like(theta)
        if self.leaves and value.requires_grad:
            found = torch.autograd.grad(value, list(self.leaves), allow_unused=True, materialize_grads=True)
            grad = -_vector(found) * self.units
        number = -float(value.detach())
        if not (np.isfinite(number) and np.isfinite(grad).all()):
            return self._failed(theta)
        if number < self.lowest[0]:
            self.lowest = number, theta.copy()
        return number, grad

    def _failed(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        self.failures += 1
        return FAILED_VALUE, np.zeros_like(theta)


def _vector(tensors: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([each.reshape(-1) for each in tensors] or [torch.zeros(0)]).double().numpy(force=True)
