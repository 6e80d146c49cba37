"""Ascents of the joint density from many dispersed starts at once, by resilient steps (Riedmiller & Braun, 1993).

Starts are prior draws, prior draws stretched about their median, and observed values.  Half of the ascents first run
with a flattened prior, which leads from the prior's bulk to modes of the likelihood far in its tails.  End points are
recombined coordinate by coordinate and ascended again.

Reference:
    Riedmiller & Braun (1993), "A direct adaptive method for faster backpropagation learning: the RPROP algorithm".
"""

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.posterior import Target
from probmodel.protocols.session.progress import tick
from probmodel.tracing.density import evaluates_one_by_one
from probmodel.tracing.programs.gradients import Batched
from probmodel.tracing.randomness import isolated

NUM_STARTS = 64
STRETCHES = (1.0, 3.0, 10.0, 100.0)
"""Factors by which prior draws are moved away from their median, one per start and coordinate."""
FLATTENED = 0.05
"""Exponent of the prior in the first phase of every other ascent."""
NUM_STEPS = 120
"""Steps of each of the two phases: steps that grow by a fifth cross nine orders of magnitude in 120."""
GROWTH, SHRINKAGE = 1.2, 0.5
FIRST_STEP = 0.1
"""First step in units of the prior's median absolute deviation."""


def ascended(target: Target, prior: Float[Tensor, "P D"], seed: int) -> Float[Tensor, "S D"]:
    """End points of ascents of the log joint from dispersed starts, which lie at or near its modes.

    Args:
        target: density to ascend.
        prior: draws of the prior.
        seed: random seed of the starts.
    """
    center = prior.median(0).values
    spread = (prior - center).abs().median(0).values.clamp(min=torch.finfo(prior.dtype).eps)
    with isolated(seed):
        theta = dispersed(target, prior, center)
    ascent = Batched(
        lambda place, power: _flattened(target, place, power),
        eager=target.fallback is not None or evaluates_one_by_one(target.bytes_per_draw, target.device),
    )
    half = torch.arange(len(theta), device=theta.device)[:, None] % 2 == 0
    for power in (torch.where(half, 1.0, FLATTENED).to(theta), torch.ones_like(theta[:, :1])):
        theta = _resilient(ascent, theta, power, FIRST_STEP * spread)
    first = theta[torch.isfinite(theta).all(1)]
    if not len(first):
        return first
    with isolated(seed + 1):
        crossed = recombined(first)
    second = _resilient(ascent, crossed, torch.ones_like(crossed[:, :1]), FIRST_STEP * spread)
    return torch.cat([first, second[torch.isfinite(second).all(1)]])


def dispersed(target: Target, prior: Float[Tensor, "P D"], center: Float[Tensor, " D"]) -> Float[Tensor, "S D"]:
    """Starting points: stretched prior draws, a quarter of them with observed values in half of the coordinates."""
    chosen = prior[torch.randint(len(prior), (NUM_STARTS,), device=prior.device)]
    stretch = torch.tensor(STRETCHES, dtype=prior.dtype, device=prior.device)
    theta = center + stretch[torch.randint(len(stretch), chosen.shape, device=prior.device)] * (chosen - center)
    theta[: NUM_STARTS // 4] = chosen[: NUM_STARTS // 4]
    seen = [each.detach().flatten() for each in target.sites.observations if each.numel() and not each.is_complex()]
    values = torch.cat([each.to(prior) for each in seen]) if seen else prior.new_zeros(0)
    values = values[torch.isfinite(values)]
    if len(values):
        taken = values[torch.randint(len(values), theta.shape, device=prior.device)]
        mixed = torch.where(torch.rand(theta.shape, device=prior.device) < 0.5, taken, theta)
        theta[-NUM_STARTS // 4 :] = mixed[-NUM_STARTS // 4 :]
    return theta


def recombined(ends: Float[Tensor, "E D"]) -> Float[Tensor, "S D"]:
    """Points whose coordinates are those of different end points: the least, the largest or any, at random.

    Of independent coordinates with two modes each, some combinations are too rare to be reached from random starts.
    """
    shape = NUM_STARTS, ends.shape[1]
    options = torch.stack(
        [
            ends.min(0).values.expand(shape),
            ends.max(0).values.expand(shape),
            ends.gather(0, torch.randint(len(ends), shape, device=ends.device)),
        ]
    )
    return options.gather(0, torch.randint(len(options), (1, *shape), device=ends.device))[0]


def _flattened(target: Target, theta: Tensor, power: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    prior = target.log_prior(theta)
    value = target.log_joint(theta) - (1 - power[:, 0]) * prior
    return value.sum(), (value,)


def _resilient(
    ascent: Batched, theta: Float[Tensor, "S D"], power: Float[Tensor, "S 1"], first: Float[Tensor, " D"]
) -> Float[Tensor, "S D"]:
    """Move each coordinate by its own step along the sign of its gradient: longer while the sign stays, else shorter."""
    step = first.expand_as(theta)
    before = torch.zeros_like(theta)
    for _ in range(NUM_STEPS):
        tick()
        grad = torch.nan_to_num(ascent(theta, power)[0], 0.0, 0.0, 0.0)
        turned = grad * before
        step = torch.where(turned < 0, SHRINKAGE * step, torch.where(turned > 0, GROWTH * step, step))
        before = torch.where(turned < 0, torch.zeros_like(grad), grad)
        theta = theta + before.sign() * step
    return theta
