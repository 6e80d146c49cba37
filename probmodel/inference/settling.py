"""From wherever chains start to the neighbourhood of a mode each, with the width of the posterior there."""

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.inference.recording import Slope

STEPS = 300
GROWTH, SHRINKAGE = 1.2, 0.5
"""Of a coordinate's step while its slope keeps its sign, and when that changes (Riedmiller & Braun, 1993)."""
FIRST_STEP, LARGEST_STEP = 0.1, 2.0
PROBES = 4
DIFFERENCE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Step of the finite differences of the gradient: large enough for its rounding errors."""
WIDEST = 1e3


def settled(theta: Float[Tensor, "C D"], gradient: Slope) -> tuple[Float[Tensor, "C D"], Float[Tensor, " D"]]:
    """Each chain climbs from its own start, then is scattered around where it came to; variances by curvature.

    Chains of different modes stay apart.  Far from the typical set no one step size suits all chains, and many chains
    that share theirs would wait for the worst: climbing by the slope's signs is free of scale.

    Args:
        theta: overdispersed starts.
        gradient: theta → log density and slope.

    Returns:
        New starts, and a variance for each coordinate: the inverse of the mean curvature's diagonal, by random probes
        (Hutchinson, 1990).
    """
    best, best_log_prob = theta, gradient(theta)[0]
    step, before = torch.full_like(theta, FIRST_STEP), torch.zeros_like(theta)
    for _ in range(STEPS):
        log_prob, slope = gradient(theta)
        better = log_prob > best_log_prob
        best, best_log_prob = torch.where(better[:, None], theta, best), torch.where(better, log_prob, best_log_prob)
        turned = slope.sign() * before.sign() < 0
        step = torch.where(turned, SHRINKAGE * step, (GROWTH * step).clamp(max=LARGEST_STEP))
        theta, before = theta + step * slope.sign(), slope
    variance = _variance(best, gradient)
    scattered = best + variance.sqrt() * torch.randn(theta.shape, dtype=theta.dtype, device=theta.device)
    inside = gradient(scattered)[0].isfinite()
    return torch.where(inside[:, None], scattered, best), variance


def _variance(theta: Float[Tensor, "C D"], gradient: Slope) -> Float[Tensor, " D"]:
    step = DIFFERENCE.get(theta.dtype, 1e-2)
    curvature = torch.zeros_like(theta)
    for _ in range(PROBES):
        sign = 2.0 * torch.randint(0, 2, theta.shape, device=theta.device).to(theta.dtype) - 1
        change = gradient(theta - step * sign)[1] - gradient(theta + step * sign)[1]
        curvature = curvature + sign * change / (2 * step * PROBES)
    # A median: one chain at a cliff must not set the width for all.
    typical = curvature.median(0).values
    return torch.where(typical > WIDEST**-2, 1 / typical.clamp(min=WIDEST**-2), torch.ones_like(typical))
