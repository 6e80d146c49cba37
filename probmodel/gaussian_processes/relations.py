"""Whether a kernel tells rows apart and relates them at all: at either end its lengthscale has no gradient to start with."""

import torch
from gpytorch.kernels import Kernel
from jaxtyping import Float
from torch import Tensor

from probmodel.gaussian_processes.exact import covariance

MOST_ROWS = 300
"""Rows looked at, evenly spaced: of so many some are neighbours."""
NOTHING = 1e-12
"""Correlation, or its distance from 1, that no gradient step could tell from 0."""


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
    x = x[:: max(1, len(x) // MOST_ROWS)].detach()
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
    if high < NOTHING or low > 1 - NOTHING:
        found = "unrelated" if high < NOTHING else "alike"
        typical = float(torch.cdist(x, y).median())
        raise ValueError(
            f"expected {what} that the kernel relates and tells apart, got all of them {found} (correlations {low:.3g} to "
            f"{high:.3g}), so that no gradient moves it; standardise x, or start the lengthscale near {typical:.3g}"
        )
