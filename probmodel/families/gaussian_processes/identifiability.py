"""Identifiability of a Gaussian process from its initial hyperparameters.

A stationary kernel may neither leave all pairs of rows uncorrelated nor correlate all of them perfectly, and the lower
bound of the noise variance has to lie well below the variance of y.
"""

from collections.abc import Iterator
from typing import TypeAlias

import torch
from gpytorch.kernels import AdditiveKernel, Kernel, ProductKernel, ScaleKernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import covariance, prior_variance
from probmodel.protocols.errors import ConvergenceWarning, warn

Likelihood: TypeAlias = GaussianLikelihood | FixedNoiseGaussianLikelihood
CHECKED_ROWS = 300
"""Number of rows checked, evenly spaced: among so many some are neighbors."""
NEGLIGIBLE = 1e-12
"""Correlation, or distance of it from 1, that no gradient step can tell from 0."""
LEAST_VARIANCE_RATIO = 2.0
"""Ratio of the variance of y to the lower bound of the noise variance, below which most of y could be noise alone."""

AT_BOUND = 1.05
"""Ratio of the noise variance to its lower bound, below which the bound holds it."""
NEGLIGIBLE_NOISE = 2e-3
"""Share of the variance of y that a bound of the noise may hold without a warning; GPyTorch's own is 1e-4 of unit variance."""


def check_above_noise(likelihood: Likelihood, y: Float[Tensor, " n"]) -> None:
    """Raise ValueError where the lower bound of the noise variance would explain most of y as noise."""
    bound, variance = least_noise(likelihood), float(y.detach().double().var(correction=0))
    if 0 < variance < LEAST_VARIANCE_RATIO * bound:
        raise ValueError(
            f"expected y with a variance well above the lower bound of the noise, got a variance of {variance:.3g} and a bound "
            f"of {bound:.3g}; standardize y, or pass GaussianLikelihood(noise_constraint=GreaterThan({1e-4 * variance:.1g}))"
        )


def least_noise(likelihood: Likelihood) -> float:
    """Lower bound of the noise variance; 0 for a likelihood whose noise is known, which is no bound that a fit could meet."""
    constraint = dict(likelihood.noise_covar.named_children()).get("raw_noise_constraint")
    return 0.0 if constraint is None else float(constraint.lower_bound)


def warn_at_least_noise(likelihood: Likelihood, y: Float[Tensor, " n"]) -> None:
    """Warn where a fit ended at the lower bound of the noise variance, and the bound is no small part of the variance of y."""
    bound, variance = least_noise(likelihood), float(y.detach().double().var(correction=0))
    at_bound = bound > 0 and float(likelihood.noise.detach().min()) < AT_BOUND * bound
    if at_bound and bound > NEGLIGIBLE_NOISE * variance > 0:
        warn(
            f"expected a noise variance above its lower bound of {bound:.3g}, got one that the bound holds, which is "
            f"{bound / variance:.2g} of the variance of y; standardize y, or pass "
            f"GaussianLikelihood(noise_constraint=GreaterThan({1e-4 * variance:.1g}))",
            ConvergenceWarning,
        )


def check_identifiable(
    kernel: Kernel, x: Float[Tensor, "n D"], others: Float[Tensor, "m D"] | None = None, *, what: str = "rows"
) -> None:
    """Raise ValueError where a stationary kernel correlates all pairs of rows not at all, or all of them perfectly.

    Stationary summands and factors are each checked by themselves.  Other kernels are not checked: a linear kernel of one
    column correlates all rows perfectly, and has no lengthscale.

    Args:
        kernel: GPyTorch kernel.
        x: inputs (n, D); fewer than three rows pass unchecked.
        others: inputs (m, D) to pair with x, such as inducing inputs; x itself by default.
        what: name of the rows in the message.
    """
    _check_width(kernel, x.shape[1])
    x = x[:: max(1, len(x) // CHECKED_ROWS)].detach()
    if len(x) < 3 or bool((x == x[0]).all()):
        return
    for part in _stationary_parts(kernel):
        _check_correlations(part, x, x if others is None else others.detach(), what)


def _stationary_parts(kernel: Kernel) -> Iterator[Kernel]:
    """The kernel itself where it is stationary, else its stationary summands and factors."""
    if kernel.is_stationary:
        yield kernel
    elif type(kernel) in (AdditiveKernel, ProductKernel):
        for part in kernel.kernels:
            yield from _stationary_parts(part)
    elif type(kernel) is ScaleKernel:
        yield from _stationary_parts(kernel.base_kernel)


def _check_correlations(kernel: Kernel, x: Tensor, y: Tensor, what: str) -> None:
    with torch.no_grad():
        prior = [prior_variance(kernel, rows) for rows in (x, y)]
        correlation = covariance(kernel, x, y) / (prior[0][:, None] * prior[1]).sqrt()
        active = slice(None) if kernel.active_dims is None else kernel.active_dims
        pairs = correlation[(x[:, None] != y)[..., active].any(-1)]
    if not len(pairs) or not bool(pairs.isfinite().all()):
        return
    low, high = float(pairs.min()), float(pairs.max())
    if float(pairs.abs().max()) < NEGLIGIBLE or low > 1 - NEGLIGIBLE:
        found = "perfectly correlated" if low > 1 - NEGLIGIBLE else "uncorrelated"
        typical = float(torch.cdist(x[:, active], y[:, active]).median())
        raise ValueError(
            f"expected {what} whose correlations under the kernel differ from 0 and 1, got all of them {found} "
            f"(correlations {low:.3g} to {high:.3g}), so that no gradient moves them; standardize x, or start the "
            f"lengthscale near {typical:.3g}"
        )


def _check_width(kernel: Kernel, width: int) -> None:
    """Raise ValueError for a kernel whose number of lengthscales is unequal to the number of columns."""
    for part in (part for part in kernel.modules() if isinstance(part, Kernel) and part.active_dims is None):
        if part.ard_num_dims not in (None, 1, width):
            raise ValueError(
                f"expected inputs of {part.ard_num_dims} columns for {type(part).__name__}, got {width}; set ard_num_dims={width}"
            )
