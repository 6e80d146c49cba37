"""Sequential Monte Carlo estimate of the evidence (Del Moral, Doucet & Jasra, 2006)."""

import time

import torch

from probmodel.evidence.annealing.population import populations
from probmodel.evidence.annealing.schedule import frozen
from probmodel.evidence.weighing.bounds import lower_bound
from probmodel.evidence.weighing.starting_draws import explored, population
from probmodel.evidence.weighing.weights import plain_evidence, weighted_mean
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.randomness import isolated, spawn
from probmodel.tracing.target import target_of

NUM_GROUPS = 20


@checks_arguments
@shows_progress
def smc(
    subject: Subject,
    *,
    seed: int = 0,
    level: float = 0.95,
    num_groups: int = NUM_GROUPS,
    group_size: int | None = None,
    progress: bool = True,
) -> Evidence:
    """Log Z by sequential Monte Carlo from the prior to the posterior, in nats.

    A pilot run adapts temperatures and kernels.  The estimate is from a second run with both frozen, in independent
    groups of particles, each unbiased for Z.  It starts from the prior even for a fit, and so finds modes that a chain
    has missed.  If ascents from dispersed starts find a mode that the pilot's particles have missed, both runs start
    from a mixture of the particles and all modes instead (`evidence.weighing.modes`).

    Args:
        subject: a fit, or a target.
        seed: random seed of both runs.
        num_groups: number of independent groups; their spread gives the standard error.
        group_size: number of particles per group; None for the pilot's number divided by `num_groups`, 20 at least.
        level: probability that the bound holds.
        progress: whether to show what is being computed.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.

    Raises:
        ValueError: if the prior cannot be sampled, or `level` is outside (0, 1).
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "smc")
    begin = time.perf_counter()
    first = explored(target, seed)
    kernels = frozen(first.pilot, num_steps=len(first.pilot.kernels))
    size = group_size or max(20, population(target) // num_groups)
    with isolated(spawn(seed, 21)):
        found = populations(first.path, kernels, num_groups, size)
    log_z_by_group = found.increments.sum(0)
    mean = weighted_mean(log_z_by_group)
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=lower_bound(log_z_by_group, level),
        level=level,
        method="smc",
        given=target.given,
        digest=target.digest,
        certified="the lower bound holds at finite sample size",
        info={
            "num_particles": num_groups * size,
            "num_steps": len(kernels),
            "relative_ess": mean.relative_ess,
            "log_z_by_group": torch.sum(log_z_by_group, 1).tolist(),
            "seconds": time.perf_counter() - begin,
        },
    )
