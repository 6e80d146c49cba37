"""Frozen annealing schedules into the posterior, from a distribution wider than it, and out of it, to one inside it."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.path import AnnealingPath
from probmodel.evidence.annealing.population import effective_size, temper
from probmodel.evidence.annealing.reference import enclosed, matched, normal
from probmodel.evidence.annealing.schedule import backward, forward, frozen, path_length
from probmodel.evidence.annealing.transitions import Kernel
from probmodel.evidence.weighing.starting_draws import Start, population
from probmodel.evidence.weighing.weights import independent_error
from probmodel.tracing.randomness import isolated, spawn

DIRECT_FRACTION = 0.2
"""Effective share of draws from which a single step into the posterior is cheaper than temperatures."""
INSIDE_FRACTION = 0.9
BACKWARD_VARIANCE = 0.05
MAX_STEPS_OUT = 200
"""Backward weights are few, as the draws are, and their heavy tail is on the side that samples miss: they are kept narrow."""
DIRECT_BATCH = 4
DIRECT_GROWTH, ANNEALED_GROWTH = 64, 2
"""Times the chains asked for that a wanted precision may take, without temperatures and with them."""
MAX_NUMBERS = 50_000_000
"""Coordinates drawn for a wanted precision at most."""
MARGIN = 1.05
"""On the number of chains that a wanted precision is expected to take."""
ANNEALED_PRECISION = 3.0
"""Annealed chains cost a hundred times as much, and are asked for that much less precision."""


class AnnealingSchedule(NamedTuple):
    """A path with a schedule and kernels, fixed before any weight is computed."""

    path: AnnealingPath
    kernels: tuple[Kernel, ...]


def forward_schedule(
    start: Start, seed: int, num_steps: int | None = None, *, seen: Float[Tensor, "P D"] | None = None
) -> AnnealingSchedule:
    """From a defensive Student-t around the draws: heavier in the tails, so that forward weights have a variance.

    Args:
        start: the draws.
        seed: of the pilot.
        num_steps: temperatures; None takes the best number.
        seen: particles that may have reached modes the draws have not; they widen the Student-t.
    """
    path = AnnealingPath(matched(start.target, _pooled(start.flat, seen)), start.target)
    with isolated(seed):
        if num_steps is None and _overlap(path) >= DIRECT_FRACTION:
            return AnnealingSchedule(path, (_whole(start),))
        return AnnealingSchedule(path, frozen(temper(path, population(start.target)), num_steps=num_steps))


def reverse_schedule(start: Start, seed: int, num_steps: int | None = None) -> AnnealingSchedule:
    """To a truncated normal inside the first half of the draws: lighter in the tails, so that backward weights have a
    variance.
    """
    path = AnnealingPath(enclosed(start.target, start.fitted), start.target)
    with isolated(seed):
        if num_steps is None and _overlap(path) >= INSIDE_FRACTION:
            return AnnealingSchedule(path, (_whole(start),))
        pilot = temper(path, population(start.target))
    steps = num_steps or min(MAX_STEPS_OUT, math.ceil(path_length(pilot) ** 2 / BACKWARD_VARIANCE))
    return AnnealingSchedule(path, frozen(pilot, num_steps=steps))


def schedule_from_normal(start: Start, seed: int, num_steps: int | None = None) -> AnnealingSchedule:
    """From a normal around the draws: every tempered mean of the log ratio exists, as thermodynamic integration needs."""
    path = AnnealingPath(normal(start.target, start.flat), start.target)
    with isolated(seed):
        return AnnealingSchedule(path, frozen(temper(path, population(start.target)), num_steps=num_steps))


def forward_weights(
    schedule: AnnealingSchedule,
    num_chains: int,
    seed: int,
    *,
    precision: float = math.inf,
    max_chains: int | None = None,
) -> Float[Tensor, "S R"]:
    """Log weights of independent chains: `num_chains`, and more while the standard error is above `precision`.

    Stopping by what has been seen leaves the bounds of `evidence.bounds` valid, which hold at any stopping time.

    Args:
        way: a frozen schedule.
        num_chains: chains at least.
        seed: of the chains.
        precision: standard error wanted, nats; three times that where chains anneal, which costs a hundred times as much.
        max_chains: chains at most; 64 times `num_chains` by default, twice where chains anneal.
    """
    direct = len(schedule.kernels) == 1
    # Without temperatures there is no graph of one size, and larger batches waste less.
    size = population(schedule.path.target) * (DIRECT_BATCH if direct else 1)
    wanted = precision if direct else ANNEALED_PRECISION * precision
    growth = DIRECT_GROWTH if direct else ANNEALED_GROWTH
    most = max_chains or max(num_chains, min(num_chains * growth, MAX_NUMBERS // max(1, schedule.path.target.dim)))
    batches: list[Tensor] = []
    goal = num_chains
    while True:
        while len(batches) * size < goal:
            with isolated(spawn(seed, len(batches))):
                batches.append(forward(schedule.path, schedule.kernels, size))
        log_w = torch.cat(batches)[:goal]
        stderr = independent_error(log_w)
        if stderr <= wanted or goal >= most or not math.isfinite(stderr):
            return log_w
        goal = min(most, 2 * goal, max(goal + size, math.ceil(goal * (stderr / wanted) ** 2 * MARGIN)))


def backward_weights(schedule: AnnealingSchedule, theta: Float[Tensor, "S D"], seed: int) -> Float[Tensor, "S R"]:
    """Log weights of one chain from each draw of the posterior."""
    size = population(schedule.path.target)
    parts = []
    for number, part in enumerate(theta.split(size)):
        with isolated(spawn(seed, number)):
            # A population of one size runs one graph.
            filled = part[torch.arange(size, device=part.device) % len(part)]
            parts.append(backward(schedule.path, schedule.kernels, filled)[: len(part)])
    return torch.cat(parts)


def _pooled(theta: Float[Tensor, "S D"], seen: Float[Tensor, "P D"] | None) -> Float[Tensor, "Q D"]:
    """Draws, and as many of the particles."""
    if seen is None:
        return theta
    count = min(len(theta), len(seen))
    chosen = torch.linspace(0, len(theta) - 1, count, device=theta.device).long()
    return torch.cat([theta[chosen], seen[:count]])


def _whole(start: Start) -> Kernel:
    """The only step of a schedule without temperatures; no chain moves."""
    return Kernel(1.0, 1.0, torch.eye(1, dtype=start.target.dtype, device=start.target.device)[None])


def _overlap(path: AnnealingPath) -> float:
    """Effective share of base draws under the target, of the worst block."""
    log_w = path.log_ratio(path.base.sample(population(path.target)))
    return float(effective_size(log_w).min()) / len(log_w)
