"""Thermodynamic integration (Gelman & Meng, 1998) and the stepping stone (Xie et al., 2011) on one frozen schedule."""

import time
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.population import Populations, populations
from probmodel.evidence.annealing.transitions import Kernel
from probmodel.evidence.weighing.annealed_weights import schedule_from_normal
from probmodel.evidence.weighing.starting_draws import population, starting_draws
from probmodel.evidence.weighing.weights import plain_evidence
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.randomness import isolated, spawn
from probmodel.tracing.target import target_of

NUM_STEPS = 20
NUM_GROUPS = 20
HALVINGS = 8


@checks_arguments
@shows_progress
def thermodynamic(
    subject: Subject,
    *,
    seed: int = 0,
    num_steps: int = NUM_STEPS,
    num_groups: int = NUM_GROUPS,
    progress: bool = True,
) -> Evidence:
    """Thermodynamic integration log Z = ∫₀¹ E_β[log joint − log base] dβ from a normal base, in nats.

    The trapezoidal rule is corrected by the difference of variances at the ends of each interval, −(Δβ)² (V' − V) / 12,
    which reduces the error from order Δβ² to order Δβ⁴.

    Args:
        subject: a fit, or a target.
        seed: random seed of the pilot and of the run.
        num_steps: number of temperatures, at equal distances along the path.
        num_groups: number of independent groups of particles; their spread gives the standard error.
        progress: whether to show what is being computed.

    Returns:
        Evidence without bounds.

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, or the draws do not fit the model.

    Reference:
        Friel, Hurn & Wyse (2014), "Improving power posterior estimation of statistical evidence".
    """
    return _estimate_on_path(subject, seed, num_steps, num_groups, integral, "thermodynamic")


@checks_arguments
@shows_progress
def stepping_stone(
    subject: Subject,
    *,
    seed: int = 0,
    num_steps: int = NUM_STEPS,
    num_groups: int = NUM_GROUPS,
    progress: bool = True,
) -> Evidence:
    """Stepping-stone estimate log Z = Σ_t log E_β_t[(joint / base)^(β_t+1 − β_t)] from a normal base, in nats.

    Args:
        subject: a fit, or a target.
        seed: random seed of the pilot and of the run.
        num_steps: number of temperatures, at equal distances along the path.
        num_groups: number of independent groups of particles; their spread gives the standard error.
        progress: whether to show what is being computed.

    Returns:
        Evidence without bounds.

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, or the draws do not fit the model.

    Reference:
        Xie, Lewis, Fan, Kuo & Chen (2011), "Improving marginal likelihood estimation for Bayesian phylogenetic model
        selection"; from a base near the posterior: Fan et al. (2011).
    """
    return _estimate_on_path(subject, seed, num_steps, num_groups, stones, "stepping stone")


def integral(found: Populations) -> Float[Tensor, " G"]:
    """Log Z per group by the corrected trapezoidal rule, summed over blocks, in nats."""
    width = found.betas.diff()[:, None, None]
    trapezium = 0.5 * width * (found.means[1:] + found.means[:-1])
    correction = width.square() / 12 * (found.variances[1:] - found.variances[:-1])
    return (trapezium - correction).sum((0, 2))


def stones(found: Populations) -> Float[Tensor, " G"]:
    """Log Z per group: log mean weights, summed over steps and blocks, in nats."""
    return found.increments.sum((0, 2))


def _estimate_on_path(
    subject: Subject, seed: int, num_steps: int, num_groups: int, rule: Callable[[Populations], Tensor], method: str
) -> Evidence:
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, method)
    begin = time.perf_counter()
    schedule = schedule_from_normal(starting_draws(subject, seed), spawn(seed, 31), num_steps)
    kernels = (*_kernels_near_base(schedule.kernels[0]), *schedule.kernels)
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


def _kernels_near_base(first: Kernel) -> list[Kernel]:
    """Kernels at inverse temperatures below the first, each half the next.

    The integrand is steep where the base still reaches far outside the posterior, and powers of β resolve it (Friel &
    Pettitt, 2008).
    """
    return [first._replace(beta=first.beta * 0.5**halving) for halving in range(HALVINGS, 0, -1)]
