"""Importance weights of many draws at once, and their log mean with its standard error."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.draws.pareto import pareto_k
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior, Subject, Target
from probmodel.tracing.density import Density
from probmodel.tracing.devices import traced_run
from probmodel.tracing.guided_runs import log_weights
from probmodel.tracing.randomness import isolated

ONE_SIDED = {0.95: 1.6448536269514722}
"""Level of a one-sided bound → its normal quantile."""
K_HAT_LIMIT = 0.7
EVEN_RELATIVE_ESS = 0.9
"""Relative ESS above which weights are so even that the shape of their tail is uninformative."""
ESS_LIMIT = 0.01
"""Relative ESS below which a weighted mean cannot be trusted."""


_NEEDS_GUIDE = "expected a posterior with a guide, got one by {}; use evidence.importance, which needs draws only"


class WeightedMean(NamedTuple):
    """Log mean weight Σ_rows log (1/S Σ_s w_s) in nats, its delta-method standard error, and checks of the weights."""

    log_mean: float
    stderr: float
    relative_ess: float
    """Effective sample size / S (Kong, 1992), of the worst row."""
    k_hat: float
    """Pareto k-hat (Vehtari et al., 2024), of the worst row."""


def fit_with_guide(subject: Subject) -> Posterior:
    """Return the subject as a fit whose guide can be sampled.

    Raises:
        ValueError: if the subject is a target, or a fit without a guide.
    """
    point = starting_point(subject)
    if point.model is None or point.data is None:
        raise ValueError(
            "expected a posterior with a guide, got a target; fit the model by SVI first, or use evidence.ais"
        )
    if point.guide is None:
        raise ValueError(_NEEDS_GUIDE.format(point.info.get("method")))
    return Posterior(point.model, point.data, point.draws, point.info, point.guide)


def point_estimates(posterior: Posterior) -> tuple[str, ...]:
    """Latents that the guide of a fit sets to the same values in every draw."""
    guide, data = posterior.guide, posterior.data
    if guide is None or not posterior.draws:
        return ()
    runs: list[Mapping[str, Any]] = []
    for seed in (0, 1):
        with isolated(seed), torch.no_grad(), pyro.validation_enabled(False):
            runs.append(traced_run(guide, data).nodes)
    names = [name for name in posterior.draws if name in runs[0] and runs[0][name]["value"].numel()]
    return tuple(name for name in names if torch.equal(runs[0][name]["value"], runs[1][name]["value"]))


def guide_weights(posterior: Posterior, num_samples: int, seed: int) -> Float[Tensor, "S R"]:
    """Log weights log p(data, z) − log q(z) of draws of the guide, in nats.

    R is the number of rows where rows are independent, else 1.

    Raises:
        ValueError: if the posterior has no guide, or one of point estimates.
    """
    model, guide, data = posterior.model, posterior.guide, posterior.data
    if guide is None:
        raise ValueError(_NEEDS_GUIDE.format(posterior.info.get("method")))
    points = point_estimates(posterior)
    if points:
        raise ValueError(
            f"expected a guide with a density for every latent, got point estimates of {list(points)}, whose number would be a "
            "density, not an evidence; use pb.Laplace, or another guide for these sites"
        )
    like = next((d for d in posterior.draws.values()), None)
    start = (like if like is not None else torch.zeros(1)).new_zeros(())
    with isolated(seed), torch.no_grad(), pyro.validation_enabled(False):
        weigh = Density(lambda _: log_weights(model, guide, data).values, start)
        return weigh(start.expand(num_samples).clone())


def weighted_mean(log_w: Float[Tensor, "S R"]) -> WeightedMean:
    """Sum over rows of the log mean weight, in nats; the squared standard errors of rows add up."""
    log_w = log_w.double()
    count = len(log_w)
    log_mean = torch.logsumexp(log_w, 0) - math.log(count)
    relative = torch.exp(log_w - log_mean)  # w / mean(w), eq. (9.9) of Owen (2013)
    variance = relative.var(0, correction=1) / count if count > 1 else torch.full_like(log_mean, math.inf)
    ess = 1 / (relative**2).mean(0)
    worst = torch.argsort(ess)[:50]  # k-hat of the rows whose weights vary most; the others' are smaller.
    k_hats = [pareto_k(log_w[:, r].cpu().numpy()) for r in worst]
    return WeightedMean(float(log_mean.sum()), float(variance.sum().sqrt()), float(ess.min()), float(np.max(k_hats)))


def independent_error(log_w: Float[Tensor, "S R"]) -> float:
    """Standard error of the sum over blocks of the log mean weight, in nats, for draws taken as independent."""
    relative = torch.softmax(log_w.double(), 0) * len(log_w)
    return float((relative.var(0) / len(log_w)).sum().sqrt())


def warn_if_untrusted(method: str, mean: WeightedMean, remedy: str) -> None:
    """Warn if k-hat or the relative ESS shows that the standard error cannot be trusted."""
    failed = []
    if mean.k_hat > K_HAT_LIMIT and mean.relative_ess < EVEN_RELATIVE_ESS:
        failed.append(f"k-hat {mean.k_hat:.2f} > {K_HAT_LIMIT}")
    if mean.relative_ess < ESS_LIMIT:
        failed.append(f"relative ESS {mean.relative_ess:.2%} < {ESS_LIMIT:.0%}")
    if failed:
        warn(f"{method}: {' and '.join(failed)}; {remedy}", EvidenceWarning)


def theta_draws(posterior: Posterior, target: Target) -> Float[Tensor, "S D"]:
    """Posterior draws of all chains, in unconstrained coordinates."""
    return target.unconstrain({name: draws.flatten(0, 1) for name, draws in posterior.draws.items()})


def plain_evidence(target: Target, method: str) -> Evidence:
    """Exact evidence of a model without latents: its log likelihood."""
    log_z = plain(target)
    return Evidence(
        log_z, 0.0, lower=log_z, upper=log_z, level=1.0, method=method, given=target.given, digest=target.digest
    )


def plain(target: Target) -> float:
    """Log evidence of a model without latents: its log likelihood, in nats.

    Raises:
        ArithmeticError: if the log likelihood is NaN.
    """
    log_z = float(target.log_joint_at(torch.zeros(0, dtype=target.dtype, device=target.device)).detach())
    if math.isnan(log_z):
        raise ArithmeticError(
            "expected a number as log likelihood, got NaN; scale the data, or use evidence.assignments_smc for a mixture "
            "of Gaussian processes of too many rows to enumerate"
        )
    return log_z
