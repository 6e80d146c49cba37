"""Thermodynamic integration (Gelman & Meng, 1998) and the stepping stone (Xie et al., 2011), on one frozen path."""

import time
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.population import Populations, populations
from probmodel.evidence.annealing.transitions import Kernel
from probmodel.evidence.weighing.annealed_weights import schedule_from_normal
from probmodel.evidence.weighing.starting_draws import population, start
from probmodel.evidence.weighing.weights import plain_evidence
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.tracing.randomness import isolated, spawn
from probmodel.tracing.target import target_of

NUM_STEPS = 20
NUM_GROUPS = 20
HALVINGS = 8


def thermodynamic(
    subject: Subject, *, seed: int = 0, num_steps: int = NUM_STEPS, num_groups: int = NUM_GROUPS
) -> Evidence:
    """Log Z = ∫₀¹ E_β[log joint − log base] dβ from a normal base, nats.

    The trapezium is corrected by the difference of variances at its ends, −(Δβ)² (V' − V) / 12, which takes the error from
    Δβ² to Δβ⁴.

    Args:
        subject: a fit, or a target.
        seed: of pilot and run.
        num_steps: temperatures, at equal distance along the path.
        num_groups: independent groups of particles; their spread is the standard error.

    Reference:
        Friel, Hurn & Wyse (2014), "Improving power posterior estimation of statistical evidence".
    """
    return _along(subject, seed, num_steps, num_groups, integral, "thermodynamic")


def stepping_stone(
    subject: Subject, *, seed: int = 0, num_steps: int = NUM_STEPS, num_groups: int = NUM_GROUPS
) -> Evidence:
    """Log Z = Σ_t log E_β_t[(joint / base)^(β_t+1 − β_t)] from a normal base, nats.

    Args:
        subject: a fit, or a target.
        seed: of pilot and run.
        num_steps: temperatures, at equal distance along the path.
        num_groups: independent groups of particles; their spread is the standard error.

    Reference:
        Xie, Lewis, Fan, Kuo & Chen (2011), "Improving marginal likelihood estimation for Bayesian phylogenetic model
        selection"; from a base near the posterior: Fan et al. (2011).
    """
    return _along(subject, seed, num_steps, num_groups, stones, "stepping stone")


def integral(found: Populations) -> Float[Tensor, " G"]:
    """Corrected trapezium of each group, summed over blocks."""
    width = found.betas.diff()[:, None, None]
    trapezium = 0.5 * width * (found.means[1:] + found.means[:-1])
    correction = width.square() / 12 * (found.variances[1:] - found.variances[:-1])
    return (trapezium - correction).sum((0, 2))


def stones(found: Populations) -> Float[Tensor, " G"]:
    """Sum of the log mean weights of each group's steps, and over blocks."""
    return found.increments.sum((0, 2))


def _along(
    subject: Subject, seed: int, num_steps: int, num_groups: int, rule: Callable[[Populations], Tensor], method: str
) -> Evidence:
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, method)
    begin = time.perf_counter()
    schedule = schedule_from_normal(start(subject, seed), spawn(seed, 31), num_steps)
    kernels = (*_towards_the_base(schedule.kernels[0]), *schedule.kernels)
    size = max(20, 2 * population(target) // num_groups)
    with isolated(spawn(seed, 32)):
        by_group = rule(populations(schedule.path, kernels, num_groups, size))
    return Evidence(
        float(by_group.mean()),
        float(by_group.std() / num_groups**0.5),
        method=method,
        given=target.given,
        digest=target.digest,
        info={
            "num_particles": num_groups * size,
            "num_steps": len(kernels),
            "seconds": time.perf_counter() - begin,
        },
    )


def _towards_the_base(first: Kernel) -> list[Kernel]:
    """Temperatures below the first: the integrand falls steeply where the base still reaches far outside the posterior, and
    powers of β resolve it (Friel & Pettitt, 2008).
    """
    return [first._replace(beta=first.beta * 0.5**halving) for halving in range(HALVINGS, 0, -1)]
