"""Gaussian-process predictions of new rows, and of each row left out (Rasmussen & Williams, 2006, sec. 2.2 and 5.4.2)."""

import math
from typing import NamedTuple

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import Mean
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import (
    check_rows,
    covariance,
    mean_at,
    noise_by_row,
    prior_variance,
)
from probmodel.families.gaussian_processes.positive_definite import factor_with_jitter


class NormalMarginals(NamedTuple):
    """Independent normal distributions, one per row."""

    mean: Float[Tensor, " m"]
    variance: Float[Tensor, " m"]


class ConditionedProcess(NamedTuple):
    """A Gaussian process conditioned on its observations: the quantities that every prediction needs."""

    upper: Float[Tensor, "n n"]
    """Upper Cholesky factor U of K + Σ = Uᵀ U."""
    alpha: Float[Tensor, " n"]
    """Weights α = (K + Σ)⁻¹ (y − m)."""


def condition(
    mean: Mean,
    kernel: Kernel,
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood,
    x: Float[Tensor, "n D"],
    y: Float[Tensor, " n"],
) -> ConditionedProcess:
    """Condition a Gaussian process on observations by a Cholesky factor of their covariance K + Σ.

    Args:
        mean: GPyTorch mean.
        kernel: GPyTorch kernel without batch dimensions.
        likelihood: Gaussian, with one noise variance or one per row.
        x: inputs (n, D).
        y: observations (n,).

    Raises:
        ValueError: under the conditions of `gp_log_marginal`.
    """
    check_rows(kernel, x, y)
    k = covariance(kernel, x)
    upper = factor_with_jitter(k, noise_by_row(likelihood, y))
    return ConditionedProcess(upper, torch.cholesky_solve((y - mean_at(mean, x))[:, None], upper, upper=True)[:, 0])


def conditional(
    mean: Mean, kernel: Kernel, given: ConditionedProcess, x: Float[Tensor, "n D"], new: Float[Tensor, "m D"]
) -> NormalMarginals:
    """Mean and variance of f at new rows, eqs. (2.25) and (2.26).

    Args:
        mean: GPyTorch mean.
        kernel: GPyTorch kernel without batch dimensions.
        given: the process conditioned on the observations at x.
        x: inputs of the observations.
        new: inputs of the new rows.
    """
    k = covariance(kernel, x, new)
    white = torch.linalg.solve_triangular(given.upper.mT, k, upper=False)
    return NormalMarginals(mean_at(mean, new) + k.mT @ given.alpha, conditional_variance(kernel, new, white))


def conditional_variance(kernel: Kernel, new: Float[Tensor, "m D"], white: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """Conditional variance of f at each row, always above 0.

    Args:
        kernel: GPyTorch kernel without batch dimensions.
        new: inputs of the rows.
        white: whitened covariances of the known values with f at the rows, one column per row.
    """
    prior = prior_variance(kernel, new)
    # Rounding errors may make the difference negative.
    return (prior - white.square().sum(0)).clamp(min=torch.finfo(new.dtype).eps * prior)


def leave_one_out(given: ConditionedProcess, y: Float[Tensor, " n"]) -> NormalMarginals:
    """Mean and variance of each y_i given all others at fixed hyperparameters, eqs. (5.10) to (5.12)."""
    precision = torch.cholesky_inverse(given.upper, upper=True).diagonal()
    return NormalMarginals(y - given.alpha / precision, 1 / precision)


def log_normal(y: Float[Tensor, " n"], at: NormalMarginals) -> Float[Tensor, " n"]:
    """Log density of each row under its normal distribution, in nats."""
    return -0.5 * ((y - at.mean).square() / at.variance + at.variance.log() + math.log(2 * math.pi))
