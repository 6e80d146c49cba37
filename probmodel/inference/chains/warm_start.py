"""Warm start by variational inference, with a normal approximation per chain (Kucukelbir et al., 2017)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.inference.chains.adaptation import Gradient

WARM_START_STEPS = 150
STEP_GROWTH, STEP_SHRINKAGE = 1.2, 0.5
"""Factors of a coordinate's step while its gradient keeps its sign, and at a change (Riedmiller & Braun, 1993)."""
FIRST_STEP, LARGEST_STEP = 0.1, 2.0
FIRST_WIDTH, NARROWEST, WIDEST = 0.1, 1e-10, 1e3


class Ascent(NamedTuple):
    """State of C ascents, and the best place that each has visited: P = 2D means and log standard deviations."""

    place: Float[Tensor, "C P"]
    step: Float[Tensor, "C P"]
    before: Float[Tensor, "C P"]
    """Gradient at the previous step."""
    best: Float[Tensor, "C P"]
    best_bound: Float[Tensor, " C"]


def initial_state(theta: Float[Tensor, "C D"]) -> Ascent:
    """State before the first step, around the chains' own initial states."""
    place = torch.cat([theta, torch.full_like(theta, math.log(FIRST_WIDTH))], -1)
    zeros = torch.zeros_like(place)
    return Ascent(place, zeros + FIRST_STEP, zeros, place, zeros[:, 0] - torch.inf)


def ascent_step(ascent: Ascent, gradient: Gradient) -> Ascent:
    """State after one step by the signs of the gradient, which does not depend on its scale.

    Far from the typical set no one step size suits all chains, and many that share theirs would wait for the worst;
    here each chain ascends from its own initial state, so that chains in different modes stay apart.  The objective is
    a bound on the evidence, since the density itself is unbounded where a hierarchy's scale goes to zero.
    """
    bound, grad = _bound(ascent.place, gradient)
    better = bound > ascent.best_bound
    turned = grad.sign() * ascent.before.sign() < 0
    step = torch.where(turned, STEP_SHRINKAGE * ascent.step, (STEP_GROWTH * ascent.step).clamp(max=LARGEST_STEP))
    mean, log_width = (ascent.place + step * grad.sign()).chunk(2, -1)
    return Ascent(
        torch.cat([mean, log_width.clamp(math.log(NARROWEST), math.log(WIDEST))], -1),
        step,
        grad,
        torch.where(better[:, None], ascent.place, ascent.best),
        torch.where(better, bound, ascent.best_bound),
    )


def sample_approximation(ascent: Ascent, gradient: Gradient) -> tuple[Float[Tensor, "C D"], Float[Tensor, " D"]]:
    """Draw from each chain's normal approximation, and the variance of each coordinate: its median over chains."""
    mean, log_width = ascent.best.chunk(2, -1)
    moved = mean + log_width.exp() * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)
    inside = gradient(moved)[0].isfinite()
    # A median, so that no single chain sets the width for all.
    return torch.where(inside[:, None], moved, mean), (2 * log_width).exp().median(0).values


def _bound(place: Float[Tensor, "C P"], gradient: Gradient) -> tuple[Float[Tensor, " C"], Float[Tensor, "C P"]]:
    """Bound E log p(theta) + sum log width and its gradient, by a pair of opposite points one width away."""
    mean, log_width = place.chunk(2, -1)
    away = log_width.exp() * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device).sign()
    above, grad_above = gradient(mean + away)
    below, grad_below = gradient(mean - away)
    bound = (above + below) / 2 + log_width.sum(-1)
    # Outside the support the gradient is uninformative, and a smaller width leads back.
    inwards = torch.where(bound.isfinite()[:, None], 1 + away * (grad_above - grad_below) / 2, -1.0)
    return bound, torch.cat([(grad_above + grad_below) / 2, inwards], -1)
