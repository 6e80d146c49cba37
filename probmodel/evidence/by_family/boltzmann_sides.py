"""Forward and reverse annealing of a Boltzmann machine, and both combined (Grosse et al., 2015; Bennett, 1976)."""

import math
import time
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.weighing.agreement import DISAGREEMENT, agreement_p_value
from probmodel.evidence.weighing.bounds import lower_bound, upper_bound
from probmodel.evidence.weighing.chain_weights import chain_error, thinned
from probmodel.evidence.weighing.verdict import Side
from probmodel.evidence.weighing.weights import ESS_LIMIT, K_HAT_LIMIT, WeightedMean, weighted_mean
from probmodel.families.boltzmann_machines.annealing import TemperatureSchedule, backward, forward
from probmodel.families.boltzmann_machines.model_draws import TEMPERED_CHAINS, Enumerated, tempered_draws
from probmodel.protocols.evidence import Agreement, Estimate
from probmodel.tracing.randomness import spawn

BISECTIONS = 100
"""Number of halvings of an interval, more than the binary digits of float64."""
ENUMERATION = "exact (enumeration)"
REMEDY = "raise num_steps (temperatures) or num_chains"
LOWER_HOLDS = "the lower bound holds at finite sample size: base and temperatures were frozen after the pilot run"


class CombinedSides(NamedTuple):
    """Log Z, its standard error and bounds, in nats, and the checks of whether they can be trusted."""

    log_z: float
    stderr: float
    lower: float
    upper: float
    agreement: Agreement
    failed: tuple[str, ...]
    """Failed checks, each with a remedy; if there are any, the bounds are void."""
    certified: str
    """Statement of which side of the bound holds, and under what condition."""


def forward_side(schedule: TemperatureSchedule, num_chains: int, seed: int) -> Side:
    """Log weights and estimate of annealing from the base into the machine."""
    begin = time.perf_counter()
    log_w = forward(schedule, num_chains, seed)
    mean = weighted_mean(log_w)
    seconds = time.perf_counter() - begin
    estimate = Estimate("ais", mean.log_mean, mean.stderr, mean.relative_ess, mean.k_hat, seconds, _untrusted(mean))
    return Side(estimate, log_w, len(schedule.betas) - 1)


def backward_side(schedule: TemperatureSchedule, known: Enumerated | None, num_chains: int, seed: int) -> Side:
    """Log weights and estimate of annealing from draws of the machine to the base.

    The draws are exact if the machine was enumerated, else by parallel tempering, and their weights are thinned to
    independent ones.
    """
    begin = time.perf_counter()
    exact, of_draws = known is not None, spawn(seed, 1)
    v = tempered_draws(schedule, num_chains, of_draws) if known is None else known.draws(num_chains, of_draws)
    log_w = backward(schedule, v, spawn(seed, 2))
    mean = weighted_mean(-log_w)
    stderr = chain_error(-log_w, TEMPERED_CHAINS, exact=exact)
    kept = thinned(log_w, TEMPERED_CHAINS, exact=exact)
    seconds = time.perf_counter() - begin
    estimate = Estimate("reverse ais", -mean.log_mean, stderr, mean.relative_ess, mean.k_hat, seconds, _untrusted(mean))
    return Side(estimate, kept, len(schedule.betas) - 1)


def combined_sides(below: Side, above: Side, known: Enumerated | None, level: float) -> CombinedSides:
    """Compare both directions with each other, and with the exact value if there is one.

    Args:
        below: forward annealing.
        above: reverse annealing.
        known: the enumerated machine, from whose draws reverse annealing started; None for parallel-tempering draws.
        level: probability that both bounds hold, half of 1 − level on each side.
    """
    exact = [] if known is None else [Estimate(ENUMERATION, known.log_z, 0.0, seconds=known.seconds)]
    estimates = [below.estimate, above.estimate, *exact]
    agreement = Agreement(tuple(estimates), agreement_p_value(estimates))
    side_level = 1 - (1 - level) / 2
    lower, upper = lower_bound(below.log_w, side_level), upper_bound(above.log_w, side_level)
    failed = _failures(agreement, lower, upper)
    log_z, stderr = _combined(below, above, known, failed)
    return CombinedSides(log_z, stderr, lower, upper, agreement, failed, _certified(known, failed))


def _untrusted(mean: WeightedMean) -> str:
    failed = [f"relative ESS {mean.relative_ess:.2%} < {ESS_LIMIT:.0%}"] if mean.relative_ess < ESS_LIMIT else []
    return ", ".join([*failed, f"k-hat {mean.k_hat:.2f} > {K_HAT_LIMIT}"] if mean.k_hat > K_HAT_LIMIT else failed)


def _failures(agreement: Agreement, lower: float, upper: float) -> tuple[str, ...]:
    failed = []
    if agreement.p_value < DISAGREEMENT:
        failed.append(
            f"estimates disagree (p = {agreement.p_value:.2g}): one direction misses a mode of the machine; "
            "raise num_steps"
        )
    if lower > upper:
        failed.append(
            f"the bounds cross ({lower:.3f} > {upper:.3f}): the draws are not of this machine; raise num_steps"
        )
    return (*failed, *(f"{each.method}: {each.caveat}; {REMEDY}" for each in agreement if each.caveat))


def _combined(below: Side, above: Side, known: Enumerated | None, failed: tuple[str, ...]) -> tuple[float, float]:
    if known is not None:
        return known.log_z, 0.0
    if failed:
        return below.estimate.log_z, below.estimate.stderr
    return _bennett(below.log_w[:, 0], above.log_w[:, 0])


def _bennett(forward: Float[Tensor, " F"], reverse: Float[Tensor, " R"]) -> tuple[float, float]:
    """Log Z at which both directions classify paths equally well, and its standard error, in nats (Bennett, 1976)."""
    odds = math.log(len(reverse) / len(forward))
    pooled = torch.cat([forward, reverse])
    low, high = float(pooled.min()) - abs(odds) - 1, float(pooled.max()) + abs(odds) + 1
    for _ in range(BISECTIONS):
        log_z = (low + high) / 2
        surplus = torch.sigmoid(odds + forward - log_z).sum() - torch.sigmoid(log_z - odds - reverse).sum()
        low, high = (log_z, high) if float(surplus) > 0 else (low, log_z)
    fraction = torch.sigmoid(odds + pooled - log_z)
    variance = float(1 / (fraction * (1 - fraction)).sum()) - 1 / len(forward) - 1 / len(reverse)
    return log_z, math.sqrt(max(0.0, variance))


def _certified(known: Enumerated | None, failed: tuple[str, ...]) -> str:
    if failed:
        return "neither side: a check has failed"
    if known is not None:
        return f"{LOWER_HOLDS}; the upper bound holds at finite sample size: the draws are exact"
    draws = "the parallel-tempering draws are of the machine and, thinned, independent"
    return f"{LOWER_HOLDS}; the upper bound holds as far as {draws}"
