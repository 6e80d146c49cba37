"""Annealed importance sampling (Neal, 2001), forward into the posterior and in reverse from its draws."""

import time

from probmodel.evidence.weighing.annealed_weights import (
    backward_weights,
    forward_schedule,
    forward_weights,
    reverse_schedule,
)
from probmodel.evidence.weighing.bounds import lower_bound, upper_bound
from probmodel.evidence.weighing.chain_weights import chain_error, thinned
from probmodel.evidence.weighing.claims import claimed
from probmodel.evidence.weighing.starting_draws import starting_draws
from probmodel.evidence.weighing.verdict import upper_condition
from probmodel.evidence.weighing.weights import plain_evidence, warn_if_untrusted, weighted_mean
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.randomness import spawn
from probmodel.tracing.target import target_of


@checks_arguments
@shows_progress
def ais(
    subject: Subject,
    *,
    seed: int = 0,
    level: float = 0.95,
    num_chains: int = 4_000,
    num_steps: int | None = None,
    progress: bool = True,
) -> Evidence:
    """Log mean weight of chains annealed from a defensive Student-t into the posterior, in nats.

    Temperatures and kernels (Hamiltonian Monte Carlo) are frozen after a pilot run, so that every chain is unbiased for
    Z.

    Args:
        subject: a fit, or a target.
        seed: random seed of the pilot and of the chains.
        num_chains: number of independent chains.
        num_steps: number of temperatures; None for the most efficient number.
        level: probability that the bound holds.
        progress: whether to show what is being computed.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, the draws do not fit the model, or `level` is
            outside (0, 1).
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "ais")
    begin = time.perf_counter()
    schedule = forward_schedule(starting_draws(subject, seed), spawn(seed, 11), num_steps)
    log_w = forward_weights(schedule, num_chains, spawn(seed, 12))
    mean = weighted_mean(log_w)
    warn_if_untrusted("ais", mean, "raise num_steps (temperatures) or num_chains")
    claim = claimed(
        "ais", target, lower=lower_bound(log_w, level), certified="the lower bound holds at finite sample size"
    )
    return Evidence(
        mean.log_mean,
        mean.stderr,
        level=level,
        lower=claim.lower,
        upper=claim.upper,
        certified=claim.certified,
        method="ais",
        given=target.given,
        digest=target.digest,
        info={
            "num_chains": len(log_w),
            "num_steps": len(schedule.kernels),
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "seconds": time.perf_counter() - begin,
        },
    )


@checks_arguments
@shows_progress
def reverse_ais(
    subject: Subject,
    *,
    seed: int = 0,
    level: float = 0.95,
    num_steps: int | None = None,
    progress: bool = True,
) -> Evidence:
    """Reverse annealing estimate −log mean exp(−log weight), in nats.

    Chains are annealed from posterior draws into a truncated normal inside the posterior.

    Args:
        subject: a fit, or a target; the draws of a target are particles of sequential Monte Carlo.
        seed: random seed of the pilot and of the chains.
        num_steps: number of temperatures; None for the most efficient number.
        level: probability that the bound holds.
        progress: whether to show what is being computed.

    Returns:
        Evidence whose `upper` holds with probability `level` if the draws are exact; else as far as the draws are
        independent and of the posterior, as `certified` states.

    Raises:
        ValueError: if there are no draws and the prior cannot be sampled, the draws do not fit the model, or `level` is
            outside (0, 1).

    Reference:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "reverse ais")
    begin = time.perf_counter()
    first = starting_draws(subject, seed)
    schedule = reverse_schedule(first, spawn(seed, 13), num_steps)
    log_w = backward_weights(schedule, first.scored, spawn(seed, 14))
    mean = weighted_mean(-log_w)
    warn_if_untrusted("reverse ais", mean, "raise num_steps (temperatures), or keep more posterior draws")
    kept = thinned(log_w, first.theta.shape[0], exact=first.exact)
    claim = claimed(
        "reverse ais",
        target,
        upper=upper_bound(kept, level),
        certified=upper_condition(exact=first.exact, source=first.source),
    )
    return Evidence(
        -mean.log_mean,
        chain_error(-log_w, first.theta.shape[0], exact=first.exact),
        level=level,
        lower=claim.lower,
        upper=claim.upper,
        certified=claim.certified,
        method="reverse ais",
        given=target.given,
        digest=target.digest,
        info={
            "num_chains": len(log_w),
            "num_independent": len(kept),
            "num_steps": len(schedule.kernels),
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "seconds": time.perf_counter() - begin,
        },
    )
