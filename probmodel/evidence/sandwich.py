"""Two-sided bound on the evidence, and several estimators that must agree (Grosse, Ghahramani & Adams, 2015)."""

import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import NormalDist

import torch
from torch import Tensor

from probmodel.evidence.annealing.reference import matched
from probmodel.evidence.bridge import bridge
from probmodel.evidence.by_family.own_estimators import own_estimators
from probmodel.evidence.importance import proposal_weights
from probmodel.evidence.iwae import iwae
from probmodel.evidence.laplace import laplace
from probmodel.evidence.smc import smc
from probmodel.evidence.weighing.agreement import DOUBTFUL, agreement_p_value
from probmodel.evidence.weighing.annealed_weights import (
    AnnealingSchedule,
    backward_weights,
    forward_schedule,
    forward_weights,
    reverse_schedule,
)
from probmodel.evidence.weighing.bounds import MAX_BETS, lower_bound, upper_bound
from probmodel.evidence.weighing.chain_weights import chain_error, thinned
from probmodel.evidence.weighing.closed_form import closed_form
from probmodel.evidence.weighing.starting_draws import Explored, StartingDraws, explored, starting_draws
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.evidence.weighing.verdict import (
    EVEN_IN_REVERSE,
    Side,
    certified_sides,
    closed_form_rounding,
    combined_estimate,
    estimate_of,
    failures_of,
    findings_of,
    untrusted,
)
from probmodel.evidence.weighing.weights import plain_evidence, weighted_mean
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.errors import EvidenceWarning, NotConjugateError, warn
from probmodel.protocols.evidence import Agreement, Estimate, Evidence
from probmodel.protocols.posterior import Subject, Target
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.randomness import spawn
from probmodel.tracing.target import target_of

MORE_STEPS = (8, 32)
"""Temperatures of further attempts, if the weights of the first cannot be trusted."""

WEIGHTS_PER_BET = 8
"""Number of weights whose mean is one bet, for chains without temperatures."""

NUM_CHAINS = 4_000

NUM_PROPOSALS = 5_000

MAX_LAPLACE = 200
"""Largest number of coordinates for which a Hessian is worth its cost, unless every latent is local to a row."""


@checks_arguments
@shows_progress
def sandwich(
    subject: Subject,
    *,
    seed: int = 0,
    level: float = 0.95,
    precision: float = 0.003,
    num_steps: int | None = None,
    max_chains: int | None = None,
    progress: bool = True,
) -> Evidence:
    """Log Z in nats between two bounds, with the estimators that must agree on it.

    The lower bound is by annealed importance sampling from a defensive Student-t, with temperatures and kernels frozen
    after a pilot run, so that every chain is unbiased for Z.  The upper bound is by the same in reverse, from posterior
    draws into a truncated normal, unbiased for 1/Z.  Both hold at finite sample size by betting
    (`evidence.weighing.bounds`), half of 1 − level on each side.

    Modes that particles from the prior have missed are sought by ascents from dispersed starts and weighed by a second
    run.  Without a fit the draws are two populations by different paths, which must agree; where they differ, longer
    runs replace them.

    Sequential Monte Carlo from the prior, bridge sampling, importance sampling, Laplace's approximation, and the
    weights of a guide or a closed form, if there is one, are computed for comparison.

    A model with estimators of its own uses these instead, with `seed` and `level` alone.  A mixture of Gaussian
    processes is summed over assignments, or estimated by `assignments_smc` and `assignments_ais`, with a lower bound
    alone.

    Args:
        subject: any fit, also of a Pyro model of your own; or `target(model, data)`, which needs no fit.
        seed: random seed of the whole computation.
        level: probability that both bounds hold.
        precision: standard error of the forward estimate to reach, in nats.
        num_steps: number of temperatures; None for the most efficient number.
        max_chains: largest number of forward chains; None for 256,000, or 8,000 if chains anneal.
        progress: whether to show what is being computed.

    Returns:
        Evidence: `log_z` and `stderr` combine forward annealing and sequential Monte Carlo (a closed form replaces
        both), `stderr` widened by the Birge ratio if estimators differ at p < 0.05; `agreement` is the table of all
        estimates, `certified` states which side holds under what condition.  If estimators or populations disagree, the
        bounds cross, relative ESS is below 1 % or k-hat above 0.7, `lower` and `upper` are infinite, a warning names the
        check and a remedy, and `info["failed"]` lists it; the estimates are returned all the same.

    Raises:
        ValueError: if the draws do not fit the model, there are neither draws nor a prior that can be sampled, or
            `level` is outside (0, 1).

    Reference:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is usual")
    own = own_estimators(subject)
    if own is not None:
        return own.sandwich(subject, seed=seed, level=level)
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "sandwich")
    begin = time.perf_counter()
    first, seen = starting_draws(subject, seed), _explored(target, seed)
    side_level = 1 - (1 - level) / 2
    below = _forward(
        first, seen, spawn(seed, 51), num_steps, partial(forward_weights, precision=precision, max_chains=max_chains)
    )
    above = _backward(first, spawn(seed, 52), num_steps)
    estimates = [below.estimate, above.estimate, *_others(subject, first, seen, below.estimate, seed)]
    agreement = Agreement(tuple(estimates), agreement_p_value(estimates))
    lower, upper = _bounds(first, below, above, side_level, max_chains)
    failed = failures_of(first, agreement, below, above, lower, upper)
    log_z, stderr = combined_estimate(estimates, failed, agreement.p_value)
    if agreement.p_value < DOUBTFUL:  # What a side certifies may not contradict the widened interval.
        quantile = NormalDist().inv_cdf(side_level)
        lower, upper = min(lower, log_z - quantile * stderr), max(upper, log_z + quantile * stderr)
    exact = next((each for each in estimates if each.method == "exact"), None)
    if exact is not None and not failed:
        allowance = closed_form_rounding(target, exact.log_z)
        lower, upper = exact.log_z - allowance, exact.log_z + allowance
        stderr = 0.0 if target.dtype == torch.float64 else allowance
    findings = findings_of(first, seen)
    for finding in (*failed, *(each for each in findings if each.startswith("improper"))):
        warn(f"sandwich: {finding}", EvidenceWarning)
    return Evidence(
        log_z,
        stderr,
        lower=-math.inf if failed or target.improper else lower,
        upper=math.inf if failed or target.improper else upper,
        level=level,
        method="sandwich",
        given=target.given,
        digest=target.digest,
        agreement=agreement,
        certified=certified_sides(first, exact is not None, failed),
        info={
            "failed": tuple(failed),
            "findings": tuple(findings),
            "unchecked_bounds": (lower, upper),
            "num_chains": len(below.log_w),
            "num_steps": (below.num_steps, above.num_steps),
            "k_hat": below.estimate.k_hat,
            "relative_ess": below.estimate.relative_ess,
            "seconds": time.perf_counter() - begin,
        },
    )


def _bounds(
    first: StartingDraws, below: Side, above: Side, side_level: float, max_chains: int | None
) -> tuple[float, float]:
    """Bounds of both sides, each of probability `side_level`."""
    # The number of chains stopped at a precision depends on their weights: the size of groups must not depend on it.
    group_size = max(WEIGHTS_PER_BET, -(-(max_chains or 0) // MAX_BETS)) if below.num_steps == 1 else 1
    lower = lower_bound(below.log_w, side_level, group_size=group_size)
    return lower, upper_bound(thinned(above.log_w, len(first.theta), exact=first.exact), side_level)


def _explored(target: Target, seed: int) -> Explored | None:
    """Run from the prior; None if the prior cannot be sampled."""
    try:
        return explored(target, seed)
    except ValueError:
        return None


def _forward(
    first: StartingDraws,
    seen: Explored | None,
    seed: int,
    num_steps: int | None,
    weigh: Callable[[AnnealingSchedule, int, int], Tensor],
) -> Side:
    def attempt(steps: int | None) -> Side:
        begin = time.perf_counter()
        schedule = forward_schedule(first, seed, steps, seen=seen)
        log_w = weigh(schedule, NUM_CHAINS, spawn(seed, 1))
        return Side(estimate_of("ais", weighted_mean(log_w), begin), log_w, len(schedule.kernels))

    return _trusted(attempt, num_steps)


def _backward(first: StartingDraws, seed: int, num_steps: int | None) -> Side:
    def attempt(steps: int | None) -> Side:
        begin = time.perf_counter()
        schedule = reverse_schedule(first, seed, steps)
        log_w = backward_weights(schedule, first.scored, spawn(seed, 1))
        mean = weighted_mean(-log_w)
        stderr = chain_error(-log_w, len(first.theta), exact=first.exact)
        estimate = estimate_of("reverse ais", mean, begin, even=EVEN_IN_REVERSE)._replace(
            log_z=-mean.log_mean, stderr=stderr
        )
        return Side(estimate, log_w, len(schedule.kernels))

    return _trusted(attempt, num_steps)


def _trusted(attempt: Callable[[int | None], Side], num_steps: int | None) -> Side:
    """Result of the first attempt, or of ones with more temperatures while its weights cannot be trusted."""
    best = attempt(num_steps)
    for steps in MORE_STEPS:
        if not best.estimate.caveat or num_steps is not None:
            break
        again = attempt(max(steps, 2 * best.num_steps))
        best = again if again.estimate.k_hat < best.estimate.k_hat else best
    return best


def _others(
    subject: Subject, first: StartingDraws, seen: Explored | None, forward: Estimate, seed: int
) -> list[Estimate]:
    """Estimates by other methods, for comparison with the two sides."""
    found = []
    if seen is not None:
        found.append(_of(smc, subject, seed))
    found.append(_of(bridge, subject, seed))
    found.append(_importance(first, seed))
    if starting_point(subject).guide is not None:
        found.append(_of(iwae, subject, seed))
    if first.target.by_row is not None or first.target.dim <= MAX_LAPLACE:
        found.append(_laplace(subject, forward, seed))
    if first.exact:
        try:
            found.append(Estimate("exact", closed_form(subject).log_z, 0.0))
        except NotConjugateError:
            return found
    return found


def _of(estimator: Callable[..., Evidence], subject: Subject, seed: int) -> Estimate:
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvidenceWarning)  # The table shows it.
        found = estimator(subject, seed=seed)
    relative_ess, k_hat = found.info.get("relative_ess", math.nan), found.info.get("k_hat", math.nan)
    caveat = "" if found.method == "smc" else untrusted(relative_ess, k_hat)
    seconds = time.perf_counter() - begin
    return Estimate(found.method, found.log_z, found.stderr, relative_ess, k_hat, seconds, caveat)


def _importance(first: StartingDraws, seed: int) -> Estimate:
    """Estimate by importance sampling from the defensive Student-t around the draws, without temperatures."""
    begin = time.perf_counter()
    proposal = matched(first.target, first.flat)
    mean = weighted_mean(proposal_weights(first.target, proposal, NUM_PROPOSALS, spawn(seed, 53)))
    return estimate_of("importance", mean, begin)


def _laplace(subject: Subject, reference: Estimate, seed: int) -> Estimate:
    begin = time.perf_counter()
    try:
        log_z = laplace(subject, seed=seed).log_z
    except ArithmeticError as error:
        return Estimate("laplace", math.nan, math.nan, caveat=f"no maximum: {error}")
    off = log_z - reference.log_z
    far = abs(off) > max(0.05, 4 * reference.stderr)
    caveat = f"approximation{f', off by {off:+.2f}' if far else ''}"
    return Estimate("laplace", log_z, math.nan, seconds=time.perf_counter() - begin, caveat=caveat)
