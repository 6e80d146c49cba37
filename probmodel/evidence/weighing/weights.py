"""Importance weights of many draws at once, and the log of their mean with its error."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.draws.pareto import pareto_k
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior, Subject, Target
from probmodel.tracing.density import Density
from probmodel.tracing.guided_runs import log_weights
from probmodel.tracing.randomness import isolated

ONE_SIDED = {0.95: 1.6448536269514722}
"""Normal quantile of a one-sided bound at its level."""
K_HAT_LIMIT = 0.7
EVEN_RELATIVE_ESS = 0.9
"""Effective share of draws above which weights are so even that the shape of their tail says nothing."""
ESS_LIMIT = 0.01
"""Effective share of the draws below which a weighted mean is not to be trusted."""


_NEEDS_GUIDE = "expected a posterior with a guide, got one by {}; use evidence.importance, which needs draws only"


class WeightedMean(NamedTuple):
    """Σ_rows log (1/S Σ_s w_s) with its delta-method error, and the checks of its weights."""

    log_mean: float
    stderr: float
    relative_ess: float
    """Effective sample size / S (Kong, 1992), of the worst row."""
    k_hat: float
    """Pareto k-hat (Vehtari et al., 2024), of the worst row."""


def fit_with_guide(subject: Subject) -> Posterior:
    """The subject as a fit whose guide can be drawn from.

    Raises:
        ValueError: for a target, or a fit without a guide.
    """
    point = starting_point(subject)
    if point.model is None or point.data is None:
        raise ValueError(
            "expected a posterior with a guide, got a target; fit the model by SVI first, or use evidence.ais"
        )
    if point.guide is None:
        raise ValueError(_NEEDS_GUIDE.format(point.info.get("method")))
    return Posterior(point.model, point.data, point.draws, point.info, point.guide)


def guide_weights(posterior: Posterior, num_samples: int, seed: int) -> Float[Tensor, "S R"]:
    """Log weights log p(data, z) − log q(z) of draws of the guide; R = rows where rows are independent, else 1.

    Raises:
        ValueError: for a posterior without a guide.
    """
    model, guide, data = posterior.model, posterior.guide, posterior.data
    if guide is None:
        raise ValueError(_NEEDS_GUIDE.format(posterior.info.get("method")))
    like = next((d for d in posterior.draws.values()), None)
    start = (like if like is not None else torch.zeros(1)).new_zeros(())
    with isolated(seed), torch.no_grad(), pyro.validation_enabled(False):
        weigh = Density(lambda _: log_weights(model, guide, data).values, start)
        return weigh(start.expand(num_samples).clone())


def weighted_mean(log_w: Float[Tensor, "S R"]) -> WeightedMean:
    """Log Σ over rows of the log mean weight; the errors of rows add in squares."""
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
    """Standard error of Σ log mean weight over blocks, draws taken as independent."""
    relative = torch.softmax(log_w.double(), 0) * len(log_w)
    return float((relative.var(0) / len(log_w)).sum().sqrt())


def warn_if_untrusted(method: str, mean: WeightedMean, remedy: str) -> None:
    """Warn where k-hat or the effective sample size says that the error bar is not to be trusted."""
    failed = []
    if mean.k_hat > K_HAT_LIMIT and mean.relative_ess < EVEN_RELATIVE_ESS:
        failed.append(f"k-hat {mean.k_hat:.2f} > {K_HAT_LIMIT}")
    if mean.relative_ess < ESS_LIMIT:
        failed.append(f"effective share of draws {mean.relative_ess:.2%} < {ESS_LIMIT:.0%}")
    if failed:
        warnings.warn(f"{method}: {' and '.join(failed)}; {remedy}", EvidenceWarning, stacklevel=3)


def theta_draws(posterior: Posterior, target: Target) -> Float[Tensor, "S D"]:
    """The posterior's draws of all chains, in unconstrained coordinates."""
    return target.unconstrain({name: draws.flatten(0, 1) for name, draws in posterior.draws.items()})


def plain_evidence(target: Target, method: str) -> Evidence:
    """Evidence of a model without latents: its log likelihood, exactly."""
    log_z = plain(target)
    return Evidence(
        log_z, 0.0, lower=log_z, upper=log_z, level=1.0, method=method, given=target.given, digest=target.digest
    )


def plain(target: Target) -> float:
    """Log evidence of a model without latents: its log likelihood.

    Raises:
        ArithmeticError: where that is NaN.
    """
    log_z = float(target.log_joint_at(torch.zeros(0, dtype=target.dtype, device=target.device)).detach())
    if math.isnan(log_z):
        raise ArithmeticError(
            "expected a log likelihood, got NaN; scale the data, or take evidence.assignments_smc for a mixture of Gaussian "
            "processes of too many rows to enumerate"
        )
    return log_z
