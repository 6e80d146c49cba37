"""Draws of a Boltzmann machine: exact by enumeration, else by parallel tempering (Desjardins et al., 2010)."""

import math
import time
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.boltzmann_machines.annealing import TemperatureSchedule
from probmodel.families.boltzmann_machines.machine import BoltzmannPath, Machine
from probmodel.families.boltzmann_machines.states import states_from_integers
from probmodel.tracing.randomness import isolated

MAX_ENUMERATED = 25
"""Largest number of units of the enumerated layer, whose 2^units states are summed."""
CHUNK = 2**13
"""Number of states summed at once; 64 units in the other layer then take 4 MB, which stays in the cache."""
TEMPERED_CHAINS = 40
SWEEPS_PER_DRAW = 5
LEAST_WARMUP_SWEEPS = 200
"""Least number of sweeps of parallel tempering before the first draw."""


class Enumerated(NamedTuple):
    """A machine with its exact log Z in nats, and the distribution function over the states of the enumerated units."""

    machine: Machine
    log_z: float
    cumulative: Float[Tensor, " M"]
    seconds: float
    """Time that the sum took, in seconds."""

    def draws(self, count: int, seed: int) -> Float[Tensor, "S U"]:
        """Exact draws: the enumerated units by inversion of their distribution function, the others given them."""
        with isolated(seed), torch.no_grad():
            uniform = torch.rand(count, dtype=self.cumulative.dtype, device=self.cumulative.device)
            index = torch.searchsorted(self.cumulative, uniform * self.cumulative[-1], right=True)
            return self.machine.states_given(
                states_from_integers(index.clamp(max=len(self.cumulative) - 1), self.machine.num_enumerated)
            )


def enumerated(machine: Machine, max_side: int) -> Enumerated | None:
    """Exact sum over the states of the machine's enumerated units; None where there are more than `max_side` of them.

    Raises:
        ValueError: for `max_side` below 0 or above 25.
    """
    if not 0 <= max_side <= MAX_ENUMERATED:
        raise ValueError(
            f"expected max_side between 0 and {MAX_ENUMERATED}, got {max_side}; pass {MAX_ENUMERATED} or less"
        )
    if machine.num_enumerated > max_side:
        return None
    begin = time.perf_counter()
    log_f = log_unnormalized_of_enumerated(machine)
    log_z = torch.logsumexp(log_f, 0)
    cumulative = torch.exp(log_f - log_z).cumsum(0)
    return Enumerated(machine, float(log_z), cumulative, time.perf_counter() - begin)


def log_unnormalized_of_enumerated(machine: Machine) -> Float[Tensor, " M"]:
    """Log f of all states of the enumerated units with all other units summed out, in nats."""
    index = torch.arange(2**machine.num_enumerated, device=machine.visible_bias.device)
    with torch.no_grad():
        return torch.cat(
            [
                machine.log_unnormalized_of_enumerated(states_from_integers(part, machine.num_enumerated))
                for part in index.split(CHUNK)
            ]
        )


def tempered_draws(schedule: TemperatureSchedule, count: int, seed: int) -> Float[Tensor, "S U"]:
    """Draws by parallel tempering over block Gibbs, chain after chain, with `count` rounded up to whole chains.

    Chains start at states annealed along the schedule.  As many sweeps as give the draws, at least 200, are discarded
    first.
    """
    with isolated(seed), torch.no_grad():
        return _tempered(
            schedule.path, schedule.tempering_betas, _started(schedule), math.ceil(count / TEMPERED_CHAINS)
        )


def _started(schedule: TemperatureSchedule) -> Float[Tensor, "C T U"]:
    """Initial states of all temperatures: chains annealed once along the schedule, copied at each temperature."""
    v = schedule.path.base(TEMPERED_CHAINS)
    tempering_betas = schedule.tempering_betas.tolist()
    held: list[Tensor] = []
    for number, beta in zip(schedule.betas.tolist(), schedule.betas, strict=True):
        if number > 0:
            v = schedule.path.gibbs(beta, schedule.path.products(v))
        while len(held) < len(tempering_betas) and tempering_betas[len(held)] <= number:
            held.append(v)
    return torch.stack(held, 1)


def _tempered(
    path: BoltzmannPath, betas: Float[Tensor, " T"], v: Float[Tensor, "C T U"], num_samples: int
) -> Float[Tensor, "S U"]:
    """Draws of the machine, β = 1, after the discarded sweeps."""
    kept = []
    num_warmup = max(LEAST_WARMUP_SWEEPS, num_samples * SWEEPS_PER_DRAW)
    for sweep in range(num_warmup + num_samples * SWEEPS_PER_DRAW):
        v = path.gibbs(betas, path.products(v))
        # Independent units are drawn anew, so that new states keep entering at the first temperature.
        v = torch.cat([path.base(TEMPERED_CHAINS, 1), v[:, 1:]], 1)
        v = _exchanged(path, betas, v, sweep % 2)
        if sweep >= num_warmup and (sweep - num_warmup) % SWEEPS_PER_DRAW == 0:
            kept.append(v[:, -1])
    return torch.stack(kept, 1).flatten(0, 1)


def _exchanged(
    path: BoltzmannPath, betas: Float[Tensor, " T"], v: Float[Tensor, "C T U"], first: int
) -> Float[Tensor, "C T U"]:
    """States after Metropolis exchanges between temperatures `first` and `first` + 1, and every second pair thereafter."""
    low = torch.arange(first, len(betas) - 1, 2, device=betas.device)
    cold, warm = path.products(v[:, low + 1]), path.products(v[:, low])
    ratio = path.log_f(betas[low + 1], warm) + path.log_f(betas[low], cold)
    ratio = ratio - path.log_f(betas[low + 1], cold) - path.log_f(betas[low], warm)
    swap = torch.rand_like(ratio).log() < ratio
    order = torch.arange(len(betas), device=betas.device).repeat(len(v), 1)
    order[:, low] += swap.long()
    order[:, low + 1] -= swap.long()
    return torch.take_along_dim(v, order[..., None], 1)
