"""From wherever chains start to the neighbourhood of a mode each, with the width of the posterior there."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.inference.adaptation import Gradient

STEPS = 300
GROWTH, RETREAT = 1.2, 0.5
"""Of a coordinate's step while its slope keeps its sign, and when that changes (Riedmiller & Braun, 1993)."""
FIRST_STEP, LARGEST_STEP = 0.1, 2.0
PROBES = 2
DIFFERENCE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Step of the finite differences of the gradient: large enough for its rounding errors."""
WIDEST = 1e3


class Climb(NamedTuple):
    """C chains on their way up, and the best place each has seen."""

    theta: Float[Tensor, "C D"]
    step: Float[Tensor, "C D"]
    before: Float[Tensor, "C D"]
    """The slope one step earlier."""
    best: Float[Tensor, "C D"]
    best_log_prob: Float[Tensor, " C"]


def foot(theta: Float[Tensor, "C D"]) -> Climb:
    """Before the first step."""
    nothing = torch.zeros_like(theta)
    return Climb(theta, nothing + FIRST_STEP, nothing, theta, nothing[:, 0] - torch.inf)


def higher(climb: Climb, gradient: Gradient) -> Climb:
    """One step by the signs of the slope, which is free of scale.

    Far from the typical set no one step size suits all chains, and many that share theirs would wait for the worst; here
    each chain climbs from its own start, so that chains of different modes stay apart.
    """
    log_prob, slope = gradient(climb.theta)
    better = log_prob > climb.best_log_prob
    turned = slope.sign() * climb.before.sign() < 0
    step = torch.where(turned, RETREAT * climb.step, (GROWTH * climb.step).clamp(max=LARGEST_STEP))
    return Climb(
        climb.theta + step * slope.sign(),
        step,
        slope,
        torch.where(better[:, None], climb.theta, climb.best),
        torch.where(better, log_prob, climb.best_log_prob),
    )


def scattered(climb: Climb, gradient: Gradient) -> tuple[Float[Tensor, "C D"], Float[Tensor, " D"]]:
    """Starts around where each chain came to, and a variance for each coordinate.

    The variance is the inverse of the curvature's diagonal, by random probes (Hutchinson, 1990), its median over chains.
    """
    theta, variance = climb.best, _variance(climb.best, gradient)
    moved = theta + variance.sqrt() * torch.randn(theta.shape, dtype=theta.dtype, device=theta.device)
    inside = gradient(moved)[0].isfinite()
    return torch.where(inside[:, None], moved, theta), variance


def _variance(theta: Float[Tensor, "C D"], gradient: Gradient) -> Float[Tensor, " D"]:
    step = DIFFERENCE.get(theta.dtype, 1e-2)
    curvature = torch.zeros_like(theta)
    for _ in range(PROBES):
        sign = 2.0 * torch.randint(0, 2, theta.shape, device=theta.device).to(theta.dtype) - 1
        change = gradient(theta - step * sign)[1] - gradient(theta + step * sign)[1]
        curvature = curvature + sign * change / (2 * step * PROBES)
    # A median: one chain at a cliff must not set the width for all.
    typical = curvature.median(0).values
    return torch.where(typical > WIDEST**-2, 1 / typical.clamp(min=WIDEST**-2), torch.ones_like(typical))
