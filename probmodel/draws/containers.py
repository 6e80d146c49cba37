"""Draws as NumPy arrays ↔ ArviZ 0.23 and 1: groups, diagnostics, LOO, NetCDF, plots (Kumar et al., 2019).

This folder alone uses ArviZ, and it needs neither torch nor the rest of the package.  A posterior here is a mapping from
site names to arrays (chain, draw, *event).  ArviZ and NetCDF do not accept every site name: "/" and the few names that
xarray uses itself are percent-encoded there, and decoded by `load_netcdf`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from probmodel.draws.arrays import Arrays, xarray_dataset
from probmodel.draws.versions import ARVIZ


def from_arrays(
    posterior: Arrays,
    *,
    sample_stats: Arrays | None = None,
    log_likelihood: Arrays | None = None,
    observed_data: Arrays | None = None,
    posterior_predictive: Arrays | None = None,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """ArviZ's container of the given groups; a group that is None or empty is left out.

    Args:
        posterior: draws, (chain, draw, *event).
        sample_stats: statistics of the sampler for each draw, (chain, draw), for example "diverging".
        log_likelihood: log-likelihood by row in nats, (chain, draw, row).
        observed_data: observed values of any shape, without axes for draws.
        posterior_predictive: draws of new observations, (chain, draw, *event).
        dims: array's name → names of its event axes, in every group; None for one that is named after the array.  A
            log-likelihood takes the first of them, as one term stands for all entries of an observation.
        coords: name of an axis → labels of its entries.

    Returns:
        `arviz.InferenceData` under ArviZ 0.23, `xarray.DataTree` under ArviZ 1.

    Raises:
        ValueError: where an array lacks the axes (chain, draw), has other numbers of chains or draws than the others, or
            does not fit `dims` or `coords`.
    """
    sampled = {
        "posterior": posterior,
        "sample_stats": sample_stats,
        "log_likelihood": log_likelihood,
        "posterior_predictive": posterior_predictive,
    }
    by_group = {"log_likelihood": _leading(dims or {}, log_likelihood or {})}
    groups = {
        name: xarray_dataset(group, dims=by_group.get(name, dims), coords=coords)
        for name, group in sampled.items()
        if group
    }
    if observed_data:
        groups["observed_data"] = xarray_dataset(observed_data, (), dims, coords)
    return ARVIZ.tree(groups)


def _leading(dims: Mapping[str, Sequence[str | None]], arrays: Arrays) -> dict[str, Sequence[str | None]]:
    """As many of the first names of axes as each array (chain, draw, …) has; none where there are too few."""
    counts = {name: np.ndim(value) - 2 for name, value in arrays.items() if name in dims}
    return {name: dims[name][:count] for name, count in counts.items() if len(dims[name]) >= count}
