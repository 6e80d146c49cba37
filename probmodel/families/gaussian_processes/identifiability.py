"""Whether a process can be learnt from where it stands: a kernel that tells rows apart and relates them, noise below y's size."""

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import covariance

CHECKED_ROWS = 300
"""Rows looked at, evenly spaced: of so many some are neighbors."""
NEGLIGIBLE = 1e-12
"""Correlation, or its distance from 1, that no gradient step could tell from 0."""
LEAST_TO_BOUND = 2.0
"""Variance of y over the least noise: below it most of y could be nothing but noise."""


def check_above_noise(likelihood: GaussianLikelihood, y: Float[Tensor, " n"]) -> None:
    """Raise ValueError where the bound on the noise's variance would pass most of y off as noise."""
    constraint = likelihood.noise_covar.raw_noise_constraint
    bound, variance = float(constraint.lower_bound), float(y.detach().double().var(correction=0))
    if 0 < variance < LEAST_TO_BOUND * bound:
        raise ValueError(
            f"expected y of a variance well above the least noise, got {variance:.3g} and a bound of {bound:.3g}; standardize "
            f"y, or give GaussianLikelihood(noise_constraint=GreaterThan({1e-4 * variance:.1g}))"
        )


def check_related(
    kernel: Kernel, x: Float[Tensor, "n D"], others: Float[Tensor, "m D"] | None = None, *, what: str = "rows"
) -> None:
    """Raise ValueError where under the kernel's present parameters all pairs of rows are unrelated, or all alike.

    Args:
        kernel: of GPyTorch.
        x: inputs; fewer than three say nothing.
        others: what x is to be related to, such as inducing inputs; x itself by default.
        what: x is called in the message.
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
        found = "unrelated" if high < NEGLIGIBLE else "alike"
        typical = float(torch.cdist(x, y).median())
        raise ValueError(
            f"expected {what} that the kernel relates and tells apart, got all of them {found} (correlations {low:.3g} to "
            f"{high:.3g}), so that no gradient moves it; standardize x, or start the lengthscale near {typical:.3g}"
        )


def _check_width(kernel: Kernel, width: int) -> None:
    """Raise ValueError for a kernel with another number of lengthscales than there are columns."""
    for part in (part for part in kernel.modules() if isinstance(part, Kernel) and part.active_dims is None):
        if part.ard_num_dims not in (None, 1, width):
            raise ValueError(
                f"expected inputs of {part.ard_num_dims} columns for {type(part).__name__}, got {width}; set ard_num_dims={width}"
            )
