"""Checks of the estimates of a sandwich: which of them failed, findings, and what is certified."""

import math
import time
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.weighing.agreement import DISAGREEMENT, DOUBTFUL, birge_ratio
from probmodel.evidence.weighing.claims import improper_finding
from probmodel.evidence.weighing.starting_draws import Explored, StartingDraws, rhat_limit
from probmodel.evidence.weighing.weights import ESS_LIMIT, EVEN_RELATIVE_ESS, K_HAT_LIMIT, WeightedMean
from probmodel.protocols.evidence import Agreement, Estimate
from probmodel.protocols.posterior import Target


def upper_condition(*, exact: bool, source: str) -> str:
    """Condition under which the upper bound holds, in words."""
    if exact:
        return "the upper bound holds at finite sample size: the draws are exact"
    return f"the upper bound holds as far as the {source} are of the posterior and, thinned, independent"


CLOSED_FORM_ROUNDING = 1e-9
"""Relative error of a closed form in double precision."""
ROUNDINGS = 16
"""Rounding errors of a closed form in lower precision, in units of the last place of its largest term, per coordinate."""


def closed_form_rounding(target: Target, log_z: float) -> float:
    """Rounding error in nats of an evidence in closed form, as far as the target's precision carries it."""
    if target.dtype == torch.float64:
        return CLOSED_FORM_ROUNDING * max(1.0, abs(log_z))
    theta = torch.zeros(1, target.dim, dtype=target.dtype, device=target.device)
    with torch.no_grad():
        terms = [float(each(theta).abs()) for each in (target.log_prior, target.log_likelihood)]
    largest = max(1.0, abs(log_z), *(each for each in terms if math.isfinite(each)))
    return (ROUNDINGS + target.dim) * torch.finfo(target.dtype).eps * largest


EVEN_IN_REVERSE = 0.7
"""Relative ESS of reverse weights above which k-hat does not count.  A heavy tail that draws have missed raises the upper
bound, which then still holds; what would break it, a draw that is not of the posterior, takes 2 % of the mean at most."""
POPULATION_RHAT = 1.05
"""Rank-normalized R-hat of two populations above which their particles cannot stand for the posterior."""


class Side(NamedTuple):
    """Log weights of one annealing direction and the estimate they give."""

    estimate: Estimate
    log_w: Float[Tensor, "S R"]
    num_steps: int


def estimate_of(method: str, mean: WeightedMean, begin: float, *, even: float = EVEN_RELATIVE_ESS) -> Estimate:
    """Row of the table for a weighted mean whose computation began at time `begin`."""
    seconds = time.perf_counter() - begin
    caveat = untrusted(mean.relative_ess, mean.k_hat, even=even)
    return Estimate(method, mean.log_mean, mean.stderr, mean.relative_ess, mean.k_hat, seconds, caveat)


def untrusted(relative_ess: float, k_hat: float, *, even: float = EVEN_RELATIVE_ESS) -> str:
    """Caveat that names the failed checks of weights; empty if none failed."""
    failed = []
    if relative_ess < ESS_LIMIT:
        failed.append(f"relative ESS {relative_ess:.2%} < {ESS_LIMIT:.0%}")
    if k_hat > K_HAT_LIMIT and relative_ess < even:
        failed.append(f"k-hat {k_hat:.2f} > {K_HAT_LIMIT}")
    return ", ".join(failed)


def combined_estimate(estimates: list[Estimate], failed: list[str], p_value: float) -> tuple[float, float]:
    """Log Z and its standard error, in nats.

    They come from the closed form if there is one, else from forward annealing and sequential Monte Carlo, which are
    independent and unbiased for Z, weighted by inverse variance.  The standard error covers what the estimators differ
    by beyond their own errors (Birge, 1932).
    """
    by_method = {each.method: each for each in estimates}
    if "exact" in by_method and not failed:
        return by_method["exact"].log_z, 0.0
    widening = birge_ratio(estimates) if p_value < DOUBTFUL else 1.0
    ais = by_method["ais"]
    smc_estimate = by_method.get("smc")
    # The standard error of a few groups is itself uncertain: it counts only if small, beside annealing that is trusted.
    if smc_estimate is None or smc_estimate.stderr > 0.5 or ais.caveat:
        return ais.log_z, widening * ais.stderr
    precision = np.array([max(each.stderr, 1e-12) ** -2.0 for each in (ais, smc_estimate)])
    log_z = float(precision @ np.array([ais.log_z, smc_estimate.log_z]) / precision.sum())
    return log_z, widening * float(precision.sum() ** -0.5)


def failures_of(
    first: StartingDraws, agreement: Agreement, below: Side, above: Side, lower: float, upper: float
) -> list[str]:
    """Failed checks, each with a remedy."""
    failed = []
    limit = rhat_limit(POPULATION_RHAT, first.theta.shape[1] // 2, first.target.dim)
    if first.disagreement > limit:
        failed.append(
            f"two populations of particles differ (rank-normalized R-hat {first.disagreement:.2f} > {limit:.2f}): they "
            "have not reached the posterior; fit the model with NUTS and pass the fit"
        )
    if agreement.p_value < DISAGREEMENT:
        failed.append(
            f"estimators disagree (p {_p_text(agreement.p_value)}): a mode may be missing from the draws; run more chains from "
            "dispersed starts, or raise num_steps"
        )
    if lower > upper:
        failed.append(
            f"the bounds cross ({lower:.3f} > {upper:.3f}): the draws are not of this posterior; sample longer"
        )
    for side, remedy in ((below, "raise num_steps"), (above, "raise num_steps or keep more posterior draws")):
        if side.estimate.caveat:
            failed.append(f"{side.estimate.method}: {side.estimate.caveat}; {remedy}")
    return failed


def _p_text(p_value: float) -> str:
    return "< 1e-10" if p_value < 1e-10 else f"= {p_value:.2g}"


def findings_of(first: StartingDraws, seen: Explored | None) -> list[str]:
    found = []
    if first.target.improper:
        found.append(improper_finding(first.target))
    if first.target.factors:
        names = ", ".join(first.target.factors)
        found.append(
            f"unnormalized: factor {names} counts as written; the evidence contains any constant that it leaves out"
        )
    if first.symmetry is not None:
        count = first.symmetry.num_components
        found.append(
            f"label switching: {first.symmetry}; draws symmetrized, so that log {count}! = "
            f"{math.lgamma(count + 1):.4f} nats are not lost"
        )
    if seen is None:
        found.append("the prior cannot be sampled: modes that the draws have missed would go undetected")
    return found


def certified_sides(first: StartingDraws, is_exact: bool, failed: list[str]) -> str:
    """Statement of which side of the bound holds, and under what condition."""
    if failed:
        return "neither side: a check has failed"
    if first.target.improper:
        return "neither side: the prior is improper"
    if is_exact:
        return "both sides, in closed form up to rounding"
    lower = "the lower bound holds at finite sample size: schedule and kernels were frozen after the pilot run"
    return f"{lower}; {upper_condition(exact=first.exact, source=first.source)}"
