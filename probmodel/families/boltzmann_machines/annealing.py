"""Annealing of a Boltzmann machine from independent units, and back (Salakhutdinov & Murray, 2008; Grosse et al., 2015).

A path of densities f_β(v) starts at β = 0 with independent units, whose partition function is known, and ends at β = 1
with the machine.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.boltzmann_machines.machine import BoltzmannPath, Machine
from probmodel.tracing.randomness import isolated, spawn

PILOT_CHAINS = 500
PILOT_STEPS = 64
MAX_STEPS = 10_000
MAX_PILOTS = 12
SCHEDULE_GROWTH = (1.25, 8.0)
"""Least and largest factor by which the number of temperatures grows from one trial to the next."""
TARGET_VARIANCE = 0.5
"""Variance of the log weights in nats² that sets the number of temperatures: below it more chains beat more steps."""


class Pilot(NamedTuple):
    """A path, and the standard deviation of the log weight over each step of its pilot run."""

    path: BoltzmannPath
    spread: Float[Tensor, " K"]

    def betas(self, num_steps: int) -> Float[Tensor, " L"]:
        """Inverse temperatures β with steps of equal thermodynamic length."""
        # A tenth of the mean is added everywhere: the spread is an estimate, and no part of the path may be skipped.
        spread = (self.spread + 0.1 * self.spread.mean() + 1e-12).numpy(force=True)
        covered = np.concatenate([[0.0], np.cumsum(spread)])
        grid = np.linspace(0, 1, len(covered))
        betas = np.interp(np.linspace(0, 1, num_steps + 1), covered / covered[-1], grid)
        return torch.as_tensor(betas, dtype=self.spread.dtype, device=self.spread.device)


class TemperatureSchedule(NamedTuple):
    """A path, the inverse temperatures for annealing, and fewer of them for parallel tempering."""

    path: BoltzmannPath
    betas: Float[Tensor, " K"]
    tempering_betas: Float[Tensor, " T"]


def annealing_schedule(
    machine: Machine,
    base_bias: Float[Tensor, " K"] | None,
    *,
    num_steps: int | None,
    draws: Callable[[int, int], Float[Tensor, "S U"]] | None,
    seed: int,
) -> TemperatureSchedule:
    """Annealing schedule: base and temperatures, fixed by a pilot run before any weight is computed.

    Args:
        machine: parameters of the machine.
        base_bias: natural parameters of the visible units at β = 0, where all other units are fair coins; None fits the
            base of all units to a short annealed run.
        num_steps: number of temperatures; None takes as many as bring the variance of the log weights to 0.5 nats², at
            most 10,000.
        draws: (number, seed) → exact draws of the machine, so that reverse weights count too; None without exact draws.
        seed: seed of the pilot run.

    Raises:
        ValueError: for a base of wrong shape or with values that are not finite.
    """
    pilot = _pilot(machine, base_bias, spawn(seed, 61))
    # With temperatures one standard deviation of the log weight apart, about half of the exchanges are accepted.
    tempering_betas = pilot.betas(2 + math.ceil(float(pilot.spread.sum())))
    if num_steps is not None:
        return TemperatureSchedule(pilot.path, pilot.betas(num_steps), tempering_betas)
    count, (least, most) = PILOT_STEPS, SCHEDULE_GROWTH
    for attempt in range(MAX_PILOTS):
        schedule = TemperatureSchedule(pilot.path, pilot.betas(count), tempering_betas)
        variance = _variance(schedule, draws, spawn(spawn(seed, 62), attempt))
        if variance <= TARGET_VARIANCE or count == MAX_STEPS:
            break
        count = min(MAX_STEPS, math.ceil(count * min(most, max(least, variance / TARGET_VARIANCE))))
    return schedule


def forward(schedule: TemperatureSchedule, num_chains: int, seed: int) -> Float[Tensor, "S 1"]:
    """Log weights of independent chains annealed from the base to the machine; the weights have mean Z."""
    with isolated(seed), torch.no_grad():
        return schedule.path.log_z0 + _annealed(schedule.path, schedule.betas, schedule.path.base(num_chains))


def backward(schedule: TemperatureSchedule, v: Float[Tensor, "S U"], seed: int) -> Float[Tensor, "S 1"]:
    """Log weights of chains annealed from draws of the machine to the base; E exp(−log w) = 1/Z."""
    with isolated(seed), torch.no_grad():
        return schedule.path.log_z0 - _annealed(schedule.path.reversed, schedule.betas.flip(0), v)


def _pilot(machine: Machine, base_bias: Float[Tensor, " K"] | None, seed: int) -> Pilot:
    """Fit the base to an annealed run from fair coins unless it is given, then measure the spread along its path."""
    bias = machine.visible_bias
    betas = torch.linspace(0, 1, PILOT_STEPS + 1, dtype=bias.dtype, device=bias.device)
    with isolated(seed), torch.no_grad():
        path = _fitted_base(machine, betas) if base_bias is None else _given_base(machine, base_bias)
        steps = torch.stack(list(_increments(path, betas, path.base(PILOT_CHAINS))))
    return Pilot(path, steps.std(1))


def _increments(
    path: BoltzmannPath, betas: Float[Tensor, " K"], v: Float[Tensor, "S U"]
) -> Iterator[Float[Tensor, " S"]]:
    """Increments log f_after(v) − log f_before(v) between successive temperatures, with a block Gibbs step after each.

    Their sum has E exp = Z_last / Z_first where v is drawn at the first temperature; on the reversed path it is that of
    the reverse chain.
    """
    for before, after in pairwise(betas):
        products = path.products(v)
        yield path.log_f(after, products) - path.log_f(before, products)
        v = path.gibbs(after, products)


def _annealed(path: BoltzmannPath, betas: Float[Tensor, " K"], v: Float[Tensor, "S U"]) -> Float[Tensor, "S 1"]:
    """Log weights of one annealed run from states v, the sum of its increments."""
    log_w = v.new_zeros(len(v))
    for increment in _increments(path, betas, v):
        log_w = log_w + increment
    return log_w[:, None]


def _given_base(machine: Machine, base_bias: Float[Tensor, " K"]) -> BoltzmannPath:
    if base_bias.shape != machine.visible_bias.shape or not bool(torch.isfinite(base_bias).all()):
        raise ValueError(
            f"expected finite base biases of shape {tuple(machine.visible_bias.shape)}, got {tuple(base_bias.shape)}; "
            "pass log_odds(training rows), or None"
        )
    return machine.path(base_bias.detach().to(machine.visible_bias))


def _fitted_base(machine: Machine, betas: Float[Tensor, " K"]) -> BoltzmannPath:
    """Path whose base units have the means of the units at the end of an annealed run from fair coins."""
    path = machine.path(None)
    v = path.base(PILOT_CHAINS)
    for beta in betas[1:]:
        v = path.gibbs(beta, path.products(v))
    return path.fitted_base(v)


def _variance(
    schedule: TemperatureSchedule, draws: Callable[[int, int], Float[Tensor, "S U"]] | None, seed: int
) -> float:
    """Variance of the log weights of a few chains, the larger of forward and reverse where exact draws are available."""
    variance = float(forward(schedule, PILOT_CHAINS, spawn(seed, 1)).var())
    if draws is None:
        return variance
    v = draws(PILOT_CHAINS, spawn(seed, 2))
    return max(variance, float(backward(schedule, v, spawn(seed, 3)).var()))
