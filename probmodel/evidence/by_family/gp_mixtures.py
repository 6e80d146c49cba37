"""Evidence of a mixture of Gaussian processes: the sum over assignments of rows to experts, exactly or by Monte Carlo.

The processes and the gate's mixing proportions are integrated out, the assignments are summed out; hyperparameters are
point estimates that the evidence is conditional on.  Labels are part of an assignment, so that no factor K! is lost or
gained.
"""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.weighing.agreement import DISAGREEMENT, agreement_p_value
from probmodel.evidence.weighing.bounds import lower_bound
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.evidence.weighing.weights import warn_if_untrusted, weighted_mean
from probmodel.families.gaussian_processes.mixtures.assignments import (
    Assigned,
    ProcessMixture,
    log_evidence_by_enumeration,
    most_rows,
)
from probmodel.families.gaussian_processes.mixtures.assignments_smc import (
    annealed_log_weights,
    annealing_powers,
    order_along_direction,
    smc_over_rows,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import digest
from probmodel.protocols.dataset_checks import inputs_and_observations
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Agreement, Estimate, Evidence
from probmodel.protocols.integers import checked_seed, integer
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated, spawn

ENUMERATION, PARTICLES, ANNEALING = "enumeration of assignments", "smc over assignments", "ais over assignments"
ENUMERATION_ROUNDING = 1e-10
"""Relative error of log Z by rounding in float64 sums of a million terms."""
CHECK_CHAINS, CHECK_STEPS = 24, 200
"""Settings of the annealing that checks particles: a sweep costs n³ operations per chain, and 0.1 nats suffice."""
CERTIFIED = "lower bound at any number of independent runs"


@checks_arguments
def assignments(subject: Posterior, *, seed: int = 0) -> Evidence:
    """Exact log p(y | x) in nats by enumeration of assignments, up to 16 rows for two experts and 13 for more.

    Args:
        subject: a fit of a `GPMixture`, or `Posterior(mixture, data, {}, {})` for a mixture without a fit.
        seed: unused; every estimator takes one.

    Returns:
        Evidence with both bounds at level 1.

    Raises:
        ValueError: if there are more rows; the message names `assignments_smc`.
    """
    begin = time.perf_counter()
    mixture, model, y = _evaluated(subject)
    log_z = float(log_evidence_by_enumeration(model))
    allowance = ENUMERATION_ROUNDING * max(1.0, abs(log_z))
    return Evidence(
        log_z,
        0.0,
        lower=log_z - allowance,
        upper=log_z + allowance,
        level=1.0,
        method=ENUMERATION,
        given=_given(mixture),
        digest=digest([y]),
        certified="both sides, by enumeration up to rounding",
        info={"seconds": time.perf_counter() - begin},
    )


@checks_arguments
def assignments_smc(
    subject: Posterior,
    *,
    seed: int = 0,
    level: float = 0.95,
    num_particles: int = 200,
    num_repeats: int = 32,
) -> Evidence:
    """Log p(y | x) in nats by sequential Monte Carlo over the rows.

    Each repeat takes the rows in its own order along a direction of the inputs, and is unbiased for the evidence; the
    standard error is that of independent repeats.

    Args:
        subject: a fit of a `GPMixture`, or `Posterior(mixture, data, {}, {})` for a mixture without a fit.
        num_particles: number of particles per repeat; memory is num_particles × K × n² numbers.
        num_repeats: number of independent runs.
        seed: random seed of all repeats.
        level: probability that the lower bound holds.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.

    Raises:
        ValueError: if there are fewer than two repeats or no particle, or the level is outside (0, 1).

    Reference:
        Fearnhead (2004), "Particle filters for mixture models with an unknown number of components".
    """
    num_repeats, num_particles = integer("num_repeats", num_repeats, least=2), integer("num_particles", num_particles)

    def weights(model: Assigned) -> Tensor:
        x = inputs_and_observations(subject.data)[0]
        runs = [smc_over_rows(model, num_particles, order_along_direction(x)) for _ in range(num_repeats)]
        return torch.stack([run.log_z for run in runs])

    info = {"num_particles": num_particles, "num_repeats": num_repeats}
    return _by_weights(subject, weights, PARTICLES, "raise num_particles", info, seed, level)


@checks_arguments
def assignments_ais(
    subject: Posterior,
    *,
    seed: int = 0,
    level: float = 0.95,
    num_chains: int = 256,
    num_steps: int = 200,
) -> Evidence:
    """Log p(y | x) in nats by annealing from the gate's prior, with a collapsed Gibbs sweep at each temperature.

    It is slower than `assignments_smc` and of another kind, so that the two check each other.

    Args:
        subject: a fit of a `GPMixture`, or `Posterior(mixture, data, {}, {})` for a mixture without a fit.
        num_chains: number of independent chains; memory is num_chains × K × n² numbers.
        num_steps: number of sweeps per chain, at inverse temperatures that a pilot run spaces to steps of equal
            difficulty.
        seed: random seed of the pilot and of the chains.
        level: probability that the lower bound holds.

    Returns:
        Evidence whose `lower` holds with probability `level` at finite sample size.

    Raises:
        ValueError: if there are fewer than two chains or no step, or the level is outside (0, 1).

    Reference:
        Neal (2001), "Annealed importance sampling".
    """
    num_chains, num_steps = integer("num_chains", num_chains, least=2), integer("num_steps", num_steps)

    def weights(model: Assigned) -> Tensor:
        return annealed_log_weights(model, num_chains, annealing_powers(model, num_steps))

    info = {"num_chains": num_chains, "num_steps": num_steps}
    return _by_weights(subject, weights, ANNEALING, "raise num_steps or num_chains", info, seed, level)


def by_size(subject: Any, *, seed: int = 0) -> Evidence:
    """Log p(y | x) of a mixture, in nats: by enumeration if the rows are few enough, else by `assignments_smc`."""
    return assignments(subject, seed=seed) if _is_small(subject) else assignments_smc(subject, seed=seed)


def sandwich_of_mixture(subject: Any, *, seed: int, level: float) -> Evidence:
    """Log p(y | x) of a mixture as by `by_size`, checked by annealing, in nats; no lower bound if the two disagree."""
    if _is_small(subject):
        return assignments(subject, seed=seed)
    first = assignments_smc(subject, seed=seed, level=level)
    with warnings.catch_warnings():
        # So few chains are only a check, whose k-hat is in the table.
        warnings.simplefilter("ignore", EvidenceWarning)
        second = assignments_ais(
            subject, seed=spawn(checked_seed(seed), 1), num_chains=CHECK_CHAINS, num_steps=CHECK_STEPS
        )
    estimates = [_estimate(each) for each in (first, second)]
    agreement = Agreement(tuple(estimates), agreement_p_value(estimates))
    agree = not agreement.p_value < DISAGREEMENT
    if not agree:
        message = f"estimators disagree (p = {agreement.p_value:.2g}); raise num_particles and num_steps of each"
        warn(f"sandwich: {message}", EvidenceWarning)
    return replace(first, method="sandwich", lower=first.lower if agree else -math.inf, agreement=agreement)


def _estimate(found: Evidence) -> Estimate:
    info = found.info
    return Estimate(found.method, found.log_z, found.stderr, info["relative_ess"], info["k_hat"], info["seconds"])


def _is_small(subject: Any) -> bool:
    return len(inputs_and_observations(subject.data)[1]) <= most_rows(subject.model.gate.num_experts)


def _by_weights(
    subject: Posterior,
    weights: Callable[[Assigned], Float[Tensor, " S"]],
    method: str,
    remedy: str,
    info: Mapping[str, object],
    seed: int,
    level: float,
) -> Evidence:
    begin = time.perf_counter()
    mixture, model, y = _evaluated(subject)
    with isolated(spawn(checked_seed(seed), 71)), torch.no_grad():
        log_w = weights(model)[:, None]
    mean = weighted_mean(log_w)
    warn_if_untrusted(method, mean, remedy)
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=lower_bound(log_w, level),
        level=level,
        method=method,
        given=_given(mixture),
        digest=digest([y]),
        certified=CERTIFIED,
        info={
            **info,
            "k_hat": mean.k_hat,
            "relative_ess": mean.relative_ess,
            "seconds": time.perf_counter() - begin,
        },
    )


def _evaluated(subject: Posterior) -> tuple[ProcessMixture, Assigned, Tensor]:
    point = starting_point(subject)
    mixture, data = point.model, point.data
    if data is None or not isinstance(mixture, ProcessMixture):
        raise ValueError(
            f"expected a fit of a GPMixture, got {point.description}; for one without a fit "
            "pass Posterior(mixture, data, {}, {})"
        )
    x, y = inputs_and_observations(data)
    with torch.no_grad():
        return mixture, mixture.assigned(x, y).double(), y


def _given(mixture: ProcessMixture) -> tuple[str, ...]:
    return tuple(name for name, _ in mixture.named_parameters())
