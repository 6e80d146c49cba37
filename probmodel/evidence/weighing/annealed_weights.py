"""Frozen annealing schedules: forward from a distribution wider than the posterior, and reverse to one inside it."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.path import AnnealingPath
from probmodel.evidence.annealing.population import effective_size, temper
from probmodel.evidence.annealing.reference import ReferenceMixture, enclosed, matched, normal
from probmodel.evidence.annealing.schedule import backward, forward, frozen, path_length
from probmodel.evidence.annealing.transitions import Kernel
from probmodel.evidence.weighing.starting_draws import Explored, StartingDraws, population
from probmodel.evidence.weighing.weights import independent_error
from probmodel.tracing.randomness import isolated, spawn

DIRECT_FRACTION = 0.2
"""Relative ESS of base draws from which a single step into the posterior is cheaper than temperatures."""
INSIDE_FRACTION = 0.9
"""Relative ESS of base draws from which a single step in reverse suffices."""
BACKWARD_VARIANCE = 0.05
MAX_REVERSE_STEPS = 200
"""Variance of backward log weights to aim at, and the largest number of temperatures for it.  The weights are as few as
the draws and their heavy tail is on the side that samples miss, so their variance is kept small."""
DIRECT_BATCH = 4
DIRECT_GROWTH, ANNEALED_GROWTH = 64, 2
"""Largest ratio of chains run to chains requested for a given precision, without temperatures and with them."""
MAX_COORDINATES = 50_000_000
"""Largest number of coordinates drawn for a given precision."""
CHAIN_MARGIN = 1.05
"""Safety factor on the number of chains that a given precision is expected to take."""
ANNEALED_PRECISION = 3.0
"""Factor on the standard error to reach with annealed chains, which cost a hundred times as much."""


class AnnealingSchedule(NamedTuple):
    """Path with its schedule of kernels, frozen before any weight is computed."""

    path: AnnealingPath
    kernels: tuple[Kernel, ...]


def forward_schedule(
    start: StartingDraws, seed: int, num_steps: int | None = None, *, seen: Explored | None = None
) -> AnnealingSchedule:
    """Forward schedule from a defensive Student-t around the draws, whose heavier tails give weights a finite variance.

    Args:
        start: starting draws.
        seed: random seed of the pilot.
        num_steps: number of temperatures; None for the most efficient number.
        seen: run from the prior, which may have reached modes that the draws have not; it widens the Student-t.
    """
    pooled = start.flat if seen is None else _pooled(start.flat, seen.theta)
    modes = start.modes if seen is None else seen.modes
    path = AnnealingPath(modes.joined(matched(start.target, pooled)), start.target)
    with isolated(seed):
        if num_steps is None and _overlap(path) >= DIRECT_FRACTION:
            return AnnealingSchedule(path, (_single_step(start),))
        return AnnealingSchedule(path, frozen(temper(path, population(start.target)), num_steps=num_steps))


def reverse_schedule(start: StartingDraws, seed: int, num_steps: int | None = None) -> AnnealingSchedule:
    """Reverse schedule to a truncated normal inside the first half of the draws.

    Its lighter tails give backward weights a finite variance.
    """
    path = AnnealingPath(_inside(start), start.target)
    with isolated(seed):
        if num_steps is None and _overlap(path) >= INSIDE_FRACTION:
            return AnnealingSchedule(path, (_single_step(start),))
        pilot = temper(path, population(start.target))
    steps = num_steps or min(MAX_REVERSE_STEPS, math.ceil(path_length(pilot) ** 2 / BACKWARD_VARIANCE))
    return AnnealingSchedule(path, frozen(pilot, num_steps=steps))


def schedule_from_normal(start: StartingDraws, seed: int, num_steps: int | None = None) -> AnnealingSchedule:
    """Schedule from a normal around the draws, under which the tempered means of thermodynamic integration exist."""
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
    """Log weights of `num_chains` independent chains, and of more while the standard error exceeds `precision`, nats.

    Stopping that depends on the weights leaves the bounds of `evidence.weighing.bounds` valid, which hold at any
    stopping time.

    Args:
        schedule: frozen schedule.
        num_chains: least number of chains.
        seed: random seed of the chains.
        precision: standard error to reach, in nats; three times that if chains anneal, which costs a hundred times as
            much.
        max_chains: largest number of chains; None for 64 times `num_chains`, or twice `num_chains` if chains anneal.
    """
    direct = len(schedule.kernels) == 1
    # Without temperatures no compiled graph fixes the batch size, and larger batches waste less.
    size = population(schedule.path.target) * (DIRECT_BATCH if direct else 1)
    wanted = precision if direct else ANNEALED_PRECISION * precision
    growth = DIRECT_GROWTH if direct else ANNEALED_GROWTH
    most = max_chains or max(num_chains, min(num_chains * growth, MAX_COORDINATES // max(1, schedule.path.target.dim)))
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
        goal = min(most, 2 * goal, max(goal + size, math.ceil(goal * (stderr / wanted) ** 2 * CHAIN_MARGIN)))


def backward_weights(schedule: AnnealingSchedule, theta: Float[Tensor, "S D"], seed: int) -> Float[Tensor, "S R"]:
    """Log weights of one chain per draw of the posterior, in nats."""
    size = population(schedule.path.target)
    parts = []
    for number, part in enumerate(theta.split(size)):
        with isolated(spawn(seed, number)):
            # Populations of equal size run one compiled graph.
            filled = part[torch.arange(size, device=part.device) % len(part)]
            parts.append(backward(schedule.path, schedule.kernels, filled)[: len(part)])
    return torch.cat(parts)


def _inside(start: StartingDraws) -> ReferenceMixture:
    """Truncated normals inside the clusters of draws, or inside the modes where clusters are not sought."""
    base = enclosed(start.target, start.fitted)
    return start.modes.enclosed() if start.modes and len(base.components) == 1 else base


def _pooled(theta: Float[Tensor, "S D"], seen: Float[Tensor, "P D"]) -> Float[Tensor, "Q D"]:
    """Draws together with an equal number of particles."""
    count = min(len(theta), len(seen))
    chosen = torch.linspace(0, len(theta) - 1, count, device=theta.device).long()
    return torch.cat([theta[chosen], seen[:count]])


def _single_step(start: StartingDraws) -> Kernel:
    """Single step of a schedule without temperatures, at which no chain moves."""
    return Kernel(1.0, 1.0, torch.eye(1, dtype=start.target.dtype, device=start.target.device)[None])


def _overlap(path: AnnealingPath) -> float:
    """Relative ESS of base draws under the target, of the worst block."""
    log_w = path.log_ratio(path.base.sample(population(path.target)))
    return float(effective_size(log_w).min()) / len(log_w)
