"""Frozen annealing schedules into the posterior, from a distribution wider than it, and out of it, to one inside it."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.draws import Start, population
from probmodel.tempering.annealing import backward, forward, frozen
from probmodel.tempering.base import Base, TruncatedNormal, enclosed, matched
from probmodel.tempering.hmc import Kernel
from probmodel.tempering.path import Path
from probmodel.tempering.smc import Tempered, temper
from probmodel.tracing import isolated, spawn

DIRECT_BATCH = 4
DIRECT_GROWTH, ANNEALED_GROWTH = 64, 2
"""Times the chains asked for that a wanted precision may take, without temperatures and with them."""


class Way(NamedTuple):
    """A path with the schedule and kernels that a pilot run has fixed."""

    path: Path
    kernels: tuple[Kernel, ...]
    pilot: Tempered


def way_in(start: Start, seed: int, num_steps: int | None = None, *, seen: Float[Tensor, "P D"] | None = None) -> Way:
    """From a defensive Student-t around the draws: heavier in the tails, so that forward weights have a variance.

    Args:
        start: the draws.
        seed: of the pilot.
        num_steps: temperatures; None takes the best number.
        seen: particles that may have reached modes the draws have not; they widen the Student-t.
    """
    return _way(start, matched(start.target, _pooled(start.flat, seen)), seed, num_steps)


def way_out(start: Start, seed: int, num_steps: int | None = None) -> Way:
    """To a truncated normal inside the first half of the draws: lighter in the tails, so that backward weights have a
    variance.
    """
    return _way(start, enclosed(start.target, start.fitted), seed, num_steps)


def way_normal(start: Start, seed: int, num_steps: int | None = None) -> Way:
    """From a normal around the draws: every tempered mean of the log ratio exists, as thermodynamic integration needs."""
    return _way(start, enclosed(start.target, start.flat)._replace(share=1.0), seed, num_steps)


def forward_weights(way: Way, num_chains: int, seed: int, *, precision: float = 0.0) -> Float[Tensor, "S R"]:
    """Log weights of independent chains: `num_chains`, and more until the standard error is below `precision`.

    Stopping by what has been seen leaves the bounds of `evidence.bounds` valid, which hold at any stopping time.
    """
    # Without temperatures there is no graph of one size, and larger batches waste less.
    size = population(way.path.target) * (DIRECT_BATCH if len(way.kernels) == 1 else 1)
    batches: list[Tensor] = []
    growth = DIRECT_GROWTH if len(way.kernels) == 1 else ANNEALED_GROWTH
    for number in range(max(1, -(-num_chains // size)) * growth):
        with isolated(spawn(seed, number)):
            batches.append(forward(way.path, way.kernels, size))
        log_w = torch.cat(batches)
        if len(log_w) >= num_chains and (precision <= 0 or _stderr(log_w) < precision):
            break
    return log_w


def backward_weights(way: Way, theta: Float[Tensor, "S D"], seed: int) -> Float[Tensor, "S R"]:
    """Log weights of one chain from each draw of the posterior."""
    size = population(way.path.target)
    parts = []
    for number, part in enumerate(theta.split(size)):
        with isolated(spawn(seed, number)):
            # A population of one size runs one graph.
            filled = part[torch.arange(size, device=part.device) % len(part)]
            parts.append(backward(way.path, way.kernels, filled)[: len(part)])
    return torch.cat(parts)


def _stderr(log_w: Float[Tensor, "S R"]) -> float:
    relative = torch.softmax(log_w, 0) * len(log_w)
    return float((relative.var(0) / len(log_w)).sum().sqrt())


def _pooled(theta: Float[Tensor, "S D"], seen: Float[Tensor, "P D"] | None) -> Float[Tensor, "Q D"]:
    """Draws, and as many of the particles."""
    if seen is None:
        return theta
    count = min(len(theta), len(seen))
    chosen = torch.linspace(0, len(theta) - 1, count, device=theta.device).long()
    return torch.cat([theta[chosen], seen[:count]])


def _way(start: Start, base: Base | TruncatedNormal, seed: int, num_steps: int | None) -> Way:
    path = Path(base, start.target)
    with isolated(seed):
        pilot = temper(path, population(start.target))
    return Way(path, frozen(pilot, num_steps=num_steps), pilot)
