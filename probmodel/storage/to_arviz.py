"""Posterior → ArviZ: draws, log-likelihood by row, observed data and sampler statistics (Kumar et al., 2019)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probmodel.draws.containers import from_arrays
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.sites import Sites
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites
from probmodel.tracing.target import target_of


@checks_arguments
def to_arviz(
    posterior: Posterior,
    *,
    dims: Mapping[str, Sequence[str | None]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """Posterior as a container of ArviZ, for ArviZ's own plots, summaries and comparisons.

    Groups: "posterior" with the draws and the model's deterministic sites; "log_likelihood" in nats by observed site and
    row, (chain, draw, row), where the draws hold every latent of the model and each row has a likelihood of its own (one
    for all sites, "log_likelihood", where discrete latents couple several of them); "observed_data" by observed site;
    "sample_stats" from `posterior.info["sample_stats"]`, lists of shape (chain, draw), where inference recorded some.
    An axis over a plate is named after the plate.

    Args:
        posterior: result of inference; all draws are kept.
        dims: site → names of its axes after (chain, draw), in place of those of its plates.
        coords: name of an axis → labels of its entries; 0, 1, … by default.

    Returns:
        `arviz.InferenceData` under ArviZ 0.23, `xarray.DataTree` under ArviZ 1.

    Raises:
        ValueError: where `dims` or `coords` do not fit the sites; from `target`, where the model has no density on R^D.
    """
    with isolated(seed=0):
        found = sites(posterior.model, posterior.data)
    known = {*(latent.name for latent in found.latents), *found.discrete, *found.deterministic}
    unknown = sorted(set(posterior.draws) - known)
    if unknown:
        raise ValueError(
            f"expected draws of sites of the model, {sorted(known)}, got draws of {unknown}; pass a posterior of this model"
        )
    stats = posterior.info.get("sample_stats", {})
    functions, likelihood = _at_draws(posterior, found)
    draws = {site: _array(value) for site, value in {**posterior.draws, **functions}.items()}
    observed = {name: _array(value) for name, value in _observed(found).items()}
    return from_arrays(
        draws,
        sample_stats={key: np.asarray(values) for key, values in stats.items()},
        log_likelihood=likelihood,
        observed_data=observed,
        dims={**_plates(found, draws, observed), **_checked(dims, draws, observed)},
        coords=coords,
    )


def _checked(
    dims: Mapping[str, Sequence[str | None]] | None, *groups: Mapping[str, np.ndarray]
) -> Mapping[str, Sequence[str | None]]:
    known = {name for group in groups for name in group}
    unknown = [name for name in dims or {} if name not in known]
    if unknown:
        raise ValueError(f"expected dims of sites {sorted(known)}, got {unknown}; leave these out")
    return dims or {}


def _plates(
    found: Sites, draws: Mapping[str, np.ndarray], observed: Mapping[str, np.ndarray]
) -> dict[str, tuple[str | None, ...]]:
    """Names of the plates over the axes of each site, where they are names of axes of one size and of no site."""
    shapes = {**{name: value.shape[2:] for name, value in draws.items()}, **{n: v.shape for n, v in observed.items()}}
    fitting = {name: found.axes[name] for name, shape in shapes.items() if len(found.axes.get(name, ())) == len(shape)}
    sizes: dict[str, set[int]] = {}
    for name, axes in fitting.items():
        for axis, size in zip(axes, shapes[name], strict=True):
            sizes.setdefault(axis or "", set()).add(size)
    good = {axis for axis, found_sizes in sizes.items() if axis and len(found_sizes) == 1 and axis not in shapes}
    return {
        name: tuple(axis if axis in good and axes.count(axis) == 1 else None for axis in axes)
        for name, axes in fitting.items()
    }


def _at_draws(posterior: Posterior, found: Sites) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Deterministic sites, and log-likelihoods by site and row in nats, (chain, draw, …); empty where latents are missing."""
    names = [latent.name for latent in found.latents]
    if not names or not all(name in posterior.draws for name in names):
        return {}, {}
    target = target_of(posterior)
    chains, count = next(iter(posterior.draws.values())).shape[:2]
    with torch.no_grad():
        theta = target.unconstrain({name: posterior.draws[name].flatten(0, 1) for name in names})
        functions, by_site = target.deterministic(theta), target.log_likelihood_by_site(theta)
    numbers = dict(
        zip((n for n in target.sites.observed if n not in target.sites.factors), target.sites.observations, strict=True)
    )
    separate = {
        name: _array(value).reshape(chains, count, *_terms(value[0].numel(), numbers.get(name)))
        for name, value in by_site.items()
        if value.numel() and not (value.shape[-1] == 1 < _numel(name, numbers))
    }
    return {name: value.reshape(chains, count, *value.shape[1:]) for name, value in functions.items()}, separate


def _terms(count: int, observed: Tensor | None) -> tuple[int, ...]:
    """Shape of the terms of a site: the first axes of what it observed, as far as they make up the terms; else one axis."""
    shape = tuple(() if observed is None else observed.shape)
    fitting = [shape[:axes] for axes in range(1, len(shape) + 1) if math.prod(shape[:axes]) == count]
    return fitting[0] if fitting else (count,)


def _observed(found: Sites) -> dict[str, Tensor]:
    """Observed values by site."""
    names = [name for name in found.observed if name not in found.factors]
    return dict(zip(names, found.observations, strict=True))


def _numel(name: str, observed: Mapping[str, Tensor]) -> int:
    values = [observed[name]] if name in observed else list(observed.values())
    return sum(value.numel() for value in values)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
