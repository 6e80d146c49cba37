"""Soft assignment of rows to Gaussian-process experts by responsibilities r: evidence bound, optimal r and predictions.

With q(c) = ∏_i r_{i c_i}, and processes and proportions π integrated out under it,
    L = Σ_k log ∫ p(f_k) ∏_i N(y_i | f_ki, σ_k²)^{r_ik} df_k + log ∫ p(π) ∏ π_k^{Σ_i r_ik} dπ − Σ_ik r_ik log r_ik ≤ log p(y).
W_k = r_k / σ_k² is the expected precision of the noise.
For responsibilities of 0 and 1 L is log p(y, c | x) itself, so that the same code handles draws of c.

Reference:
    Lázaro-Gredilla, Van Vaerenbergh & Lawrence (2012), "Overlapping mixtures of Gaussian processes for the data
    association problem"; King & Lawrence (2006); Tresp (2001), "Mixtures of Gaussian processes".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import (
    covariance,
    mean_at,
    noise_of_new_rows,
    prior_variance,
)
from probmodel.families.gaussian_processes.mixtures.assignments import Assigned, ProcessExpert
from probmodel.families.gaussian_processes.mixtures.gates import Gate, log_prior_of_counts
from probmodel.families.normal_mixture import NormalMixture
from probmodel.protocols.memory import refuse_above_memory

RESPONSIBILITY_BUFFERS = 3
"""Number of matrices per set and expert: the scaled covariance, its factor, and the solution for predictions."""
LEAST_RESPONSIBILITY = 1e-30
"""Responsibility used in place of 0, at which square root and logarithm have no derivative."""


class MixturePrediction(NamedTuple):
    """Predictive distribution of a mixture at new rows."""

    y: NormalMixture
    noise_variance: Float[Tensor, " m"]
    """Variance of y that would remain if the functions were known."""


class ConditionedExperts(NamedTuple):
    """K experts conditioned on rows by S sets of responsibilities r."""

    root: Float[Tensor, "S K n"]
    """Diagonal of W^½."""
    factor: Float[Tensor, "S K n n"]
    """Cholesky factor L of I + W^½ K W^½ = L Lᵀ."""
    white: Float[Tensor, "S K n"]
    """Whitened residuals L⁻¹ W^½ (y − m)."""


def condition_experts(model: Assigned, r: Float[Tensor, "S n K"]) -> ConditionedExperts:
    """Factor the matrices of the bound and of every prediction; an expert without rows keeps its prior.

    Raises:
        MemoryError: where the factors of all sets and experts exceed the free memory.
    """
    num_experts, n = model.residual.shape
    needed = RESPONSIBILITY_BUFFERS * len(r) * num_experts * n**2 * model.residual.element_size()
    what = f"{len(r)} sets of responsibilities of {n:,} rows to {num_experts} experts"
    refuse_above_memory(needed, model.residual.device, what, "keep fewer draws of assignments, or take fewer rows")
    root = r.mT.clamp(min=LEAST_RESPONSIBILITY).sqrt() / model.noise.sqrt()
    scaled = root[..., :, None] * model.covariance * root[..., None, :]
    factor = torch.linalg.cholesky(scaled + torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device))
    white = torch.linalg.solve_triangular(factor, (root * model.residual)[..., None], upper=False)[..., 0]
    return ConditionedExperts(root, factor, white)


def evidence_bound(model: Assigned, r: Float[Tensor, "S n K"]) -> Float[Tensor, " S"]:
    """Evidence bound L of each set of responsibilities, in nats over the whole data set."""
    r = r.clamp(min=LEAST_RESPONSIBILITY)
    found = condition_experts(model, r)
    log_det = found.factor.diagonal(dim1=-2, dim2=-1).log().sum((-1, -2))
    noise = (r.mT * (2 * math.pi * model.noise).log()).sum((-1, -2))
    fit = -0.5 * (found.white.square().sum((-1, -2)) + noise) - log_det
    gate = (r * model.log_input_factors).sum((-1, -2)) + log_prior_of_counts(model.count_prior, r.sum(-2))
    return fit + gate - (r * r.log()).sum((-1, -2))


def updated_responsibilities(model: Assigned, r: Float[Tensor, "S n K"]) -> Float[Tensor, "S n K"]:
    """Optimal responsibilities given the processes and proportions that r implies: one coordinate ascent step on L."""
    found = condition_experts(model, r)
    cross = torch.linalg.solve_triangular(found.factor, found.root[..., None] * model.covariance, upper=False)
    mean = (cross * found.white[..., None]).sum(-2)
    variance = model.covariance.diagonal(dim1=-2, dim2=-1) - cross.square().sum(-2)
    misfit = ((model.residual - mean).square() + variance) / model.noise
    log_y = -0.5 * (misfit + (2 * math.pi * model.noise).log())
    prior = model.log_input_factors + model.count_prior.expected_log(r.sum(-2))[..., None, :]
    return (log_y.mT + prior).softmax(-1)


def predicted(
    experts: Sequence[ProcessExpert],
    gate: Gate,
    model: Assigned,
    r: Float[Tensor, "S n K"],
    x: Float[Tensor, "n D"],
    new: Float[Tensor, "m D"],
) -> "MixturePrediction":
    """Predictive distribution p(y | new x, data): a normal per expert and set of responsibilities; batch shape (m,)."""
    found = condition_experts(model, r)
    k = torch.stack([covariance(each.kernel, x, new) for each in experts])
    cross = torch.linalg.solve_triangular(found.factor, found.root[..., None] * k, upper=False)
    prior_mean = torch.stack([mean_at(each.mean, new) for each in experts])
    prior = torch.stack([prior_variance(each.kernel, new) for each in experts])
    noise = torch.stack([noise_of_new_rows(each.likelihood, new) for each in experts])
    mean = prior_mean + (cross * found.white[..., None]).sum(-2)
    # Rounding errors may make the difference negative.
    variance = (prior - cross.square().sum(-2)).clamp(min=torch.finfo(new.dtype).eps * prior) + noise
    log_proportions = gate.count_prior.log_next_assignment(r.sum(-2))[..., None, :].to(new)
    log_weights = gate.log_input_factors(new) + log_proportions - math.log(len(r))
    every = (log_weights.mT, mean, variance.sqrt(), noise.expand_as(mean))
    logits, loc, scale, noises = (each.movedim(2, 0).flatten(1) for each in every)
    mixture = NormalMixture(logits, loc, scale)
    # Given the functions E[y | f] = Σ_k π_k f_k within a set; its variance is the part that more rows would remove.
    weight = mixture.logits.exp().unflatten(1, (len(r), -1)) * len(r)
    of_function = (scale.square() - noises).unflatten(1, (len(r), -1))
    means = (weight * loc.unflatten(1, (len(r), -1))).sum(-1)
    removed = (weight.square() * of_function).sum(-1).mean(-1) + means.var(-1, correction=0)
    return MixturePrediction(mixture, mixture.variance - removed)
