"""From wherever chains start to a normal approximation each, by climbing its evidence lower bound (Kucukelbir et al., 2017)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.inference.chains.adaptation import Gradient

WARM_START_STEPS = 150
STEP_GROWTH, STEP_SHRINKAGE = 1.2, 0.5
"""Of a coordinate's step while its slope keeps its sign, and when that changes (Riedmiller & Braun, 1993)."""
FIRST_STEP, LARGEST_STEP = 0.1, 2.0
FIRST_WIDTH, NARROWEST, WIDEST = 0.1, 1e-10, 1e3


class Ascent(NamedTuple):
    """C chains on their way up, and the best place each has seen: P = 2D means and log standard deviations."""

    place: Float[Tensor, "C P"]
    step: Float[Tensor, "C P"]
    before: Float[Tensor, "C P"]
    """The slope one step earlier."""
    best: Float[Tensor, "C P"]
    best_bound: Float[Tensor, " C"]


def initial_state(theta: Float[Tensor, "C D"]) -> Ascent:
    """Before the first step."""
    place = torch.cat([theta, torch.full_like(theta, math.log(FIRST_WIDTH))], -1)
    nothing = torch.zeros_like(place)
    return Ascent(place, nothing + FIRST_STEP, nothing, place, nothing[:, 0] - torch.inf)


def ascent_step(ascent: Ascent, gradient: Gradient) -> Ascent:
    """One step by the signs of the slope, which is free of scale.

    Far from the typical set no one step size suits all chains, and many that share theirs would wait for the worst; here
    each chain climbs from its own start, so that chains of different modes stay apart.  They climb a bound on the
    evidence, since the density itself has no bound where a hierarchy's scale goes to zero.
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
    """A draw from each chain's normal, and a variance for each coordinate: its median over chains."""
    mean, log_width = ascent.best.chunk(2, -1)
    moved = mean + log_width.exp() * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device)
    inside = gradient(moved)[0].isfinite()
    # A median: one chain at a cliff must not set the width for all.
    return torch.where(inside[:, None], moved, mean), (2 * log_width).exp().median(0).values


def _bound(place: Float[Tensor, "C P"], gradient: Gradient) -> tuple[Float[Tensor, " C"], Float[Tensor, "C P"]]:
    """E log p(theta) + sum log width and its slope, by a pair of opposite points one width away in every coordinate."""
    mean, log_width = place.chunk(2, -1)
    away = log_width.exp() * torch.randn(mean.shape, dtype=mean.dtype, device=mean.device).sign()
    above, grad_above = gradient(mean + away)
    below, grad_below = gradient(mean - away)
    bound = (above + below) / 2 + log_width.sum(-1)
    # Where the density ends, the slope says nothing: narrower is the way back.
    inwards = torch.where(bound.isfinite()[:, None], 1 + away * (grad_above - grad_below) / 2, -1.0)
    return bound, torch.cat([(grad_above + grad_below) / 2, inwards], -1)
