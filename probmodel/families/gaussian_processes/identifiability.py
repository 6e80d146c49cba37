"""Identifiability of a Gaussian process from its initial hyperparameters.

The kernel may neither leave all pairs of rows uncorrelated nor correlate all of them perfectly, and the lower bound of
the noise variance has to lie well below the variance of y.
"""

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import covariance

CHECKED_ROWS = 300
"""Number of rows checked, evenly spaced: among so many some are neighbors."""
NEGLIGIBLE = 1e-12
"""Correlation, or distance of it from 1, that no gradient step can tell from 0."""
LEAST_VARIANCE_RATIO = 2.0
"""Ratio of the variance of y to the lower bound of the noise variance, below which most of y could be noise alone."""


def check_above_noise(likelihood: GaussianLikelihood, y: Float[Tensor, " n"]) -> None:
    """Raise ValueError where the lower bound of the noise variance would explain most of y as noise."""
    constraint = likelihood.noise_covar.raw_noise_constraint
    bound, variance = float(constraint.lower_bound), float(y.detach().double().var(correction=0))
    if 0 < variance < LEAST_VARIANCE_RATIO * bound:
        raise ValueError(
            f"expected y with a variance well above the lower bound of the noise, got a variance of {variance:.3g} and a bound "
            f"of {bound:.3g}; standardize y, or pass GaussianLikelihood(noise_constraint=GreaterThan({1e-4 * variance:.1g}))"
        )


def check_identifiable(
    kernel: Kernel, x: Float[Tensor, "n D"], others: Float[Tensor, "m D"] | None = None, *, what: str = "rows"
) -> None:
    """Raise ValueError where the kernel correlates all pairs of rows not at all, or all of them perfectly.

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
    with torch.no_grad():
        y = x if others is None else others.detach()
        prior = [kernel(rows, diag=True).to(rows) for rows in (x, y)]
        correlation = covariance(kernel, x, y) / (prior[0][:, None] * prior[1]).sqrt()
        pairs = correlation[(x[:, None] != y).any(-1)]
    if not len(pairs) or not bool(pairs.isfinite().all()):
        return
    low, high = float(pairs.min()), float(pairs.max())
    if high < NEGLIGIBLE or low > 1 - NEGLIGIBLE:
        found = "uncorrelated" if high < NEGLIGIBLE else "perfectly correlated"
        typical = float(torch.cdist(x, y).median())
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
