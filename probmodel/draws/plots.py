"""Plots of draws by ArviZ: forests, densities, pairs, ranks, traces (Kumar et al., 2019)."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from math import prod

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from probmodel.draws.arrays import Arrays, encoded_name
from probmodel.draws.containers import from_arrays
from probmodel.draws.diagnostics import FEWEST_DRAWS
from probmodel.draws.versions import ARVIZ, Overlaid


def plot_forest(posteriors: Mapping[str, Arrays], *, max_elements: int = 40) -> Figure:
    """Forest plot of the intervals of each element of each site, one color per fit.

    Args:
        posteriors: fits of one model by name; sites that only some of them have are left out.
        max_elements: largest number of scalar elements, in the order of the sites; the figure states if there are more.

    Returns:
        Figure that pyplot no longer holds.

    Raises:
        ValueError: where the fits have no site in common.
    """
    with _pyplot_untouched():
        return _with_note(ARVIZ.forest(_overlaid(posteriors, max_elements)), posteriors, max_elements)


def plot_densities(posteriors: Mapping[str, Arrays], *, max_elements: int = 40) -> Figure:
    """Marginal densities of each element of each site, one color per fit; see `plot_forest`."""
    with _pyplot_untouched():
        return _with_note(ARVIZ.densities(_overlaid(posteriors, max_elements)), posteriors, max_elements)


def plot_pairs(posteriors: Mapping[str, Arrays], *, max_elements: int = 6) -> Figure:
    """Scatter plots of all pairs of elements, marginals on the diagonal, one color per fit; see `plot_forest`.

    Raises:
        ValueError: where the fits have fewer than two elements in common.
    """
    overlaid = _overlaid(posteriors, max_elements)
    if len(overlaid.labels) < 2:
        raise ValueError(f"expected two elements or more, got {overlaid.labels}; use plot_densities")
    with _pyplot_untouched():
        figure = ARVIZ.pairs(overlaid)
        handles = [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(posteriors)]
        figure.legend(handles=handles, loc="outside upper right")
        return _with_note(figure, posteriors, max_elements)


def plot_ranks(posterior: Arrays, *, max_elements: int = 20) -> Figure:
    """Rank plots of each chain's draws among all draws (Vehtari et al., 2021; Säilynoja et al., 2022).

    The ranks of mixing chains are uniform.  A single chain is split into halves.  ArviZ 0.23 draws histograms, ArviZ 1
    differences of distribution functions.

    Args:
        posterior: one fit with two draws or more.
        max_elements: largest number of scalar elements, as in `plot_forest`.

    Returns:
        Figure that pyplot no longer holds.

    Raises:
        ValueError: for no sites, or a single draw.
    """
    with _pyplot_untouched():
        figure = ARVIZ.ranks(_single(posterior, max_elements))
        return _with_note(figure, {"": posterior}, max_elements)


def plot_traces(posterior: Arrays, *, max_elements: int = 20) -> Figure:
    """Density and trace of each chain, one row per element; see `plot_ranks`."""
    with _pyplot_untouched():
        figure = ARVIZ.traces(_single(posterior, max_elements))
        return _with_note(figure, {"": posterior}, max_elements)


def _elements(posterior: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Scalar elements with their labels, (chain, draw) each: without event axes all versions of ArviZ plot alike."""
    for name, values in posterior.items():
        for index in np.ndindex(np.shape(values)[2:]):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            yield label, np.asarray(values)[(..., *index)]


def _shared(posteriors: Mapping[str, Arrays]) -> list[str]:
    """Sites that all fits have, in the order of the first fit."""
    fits = list(posteriors.values())
    sites = [name for name in fits[0] if all(name in fit for fit in fits)] if fits else []
    if not sites:
        raise ValueError(f"expected fits with a site in common, got {[list(fit) for fit in fits]}; plot one at a time")
    return sites


def _overlaid(posteriors: Mapping[str, Arrays], max_elements: int) -> Overlaid:
    sites = _shared(posteriors)
    fits = {
        name: dict(islice(_elements({site: posterior[site] for site in sites}), max_elements))
        for name, posterior in posteriors.items()
    }
    sizes = [values.size for fit in fits.values() for values in fit.values()]
    count = min((size for size in sizes if size >= FEWEST_DRAWS), default=max(sizes))
    # ArviZ 1 pads fits of unequal length with nan, so chains are joined and thinned; point estimates repeat their draws.
    equal = {name: {label: _resized(values, count) for label, values in fit.items()} for name, fit in fits.items()}
    labels = {encoded_name(label): label for label in next(iter(fits.values()))}
    return Overlaid({name: from_arrays(fit) for name, fit in equal.items()}, labels)


def _resized(values: np.ndarray, count: int) -> np.ndarray:
    index = np.arange(count) * values.size // count
    return values.reshape(1, -1)[:, index]


def _single(posterior: Arrays, max_elements: int) -> Overlaid:
    _shared({"": posterior})
    fit = dict(islice(_elements({name: _two_chains(values) for name, values in posterior.items()}), max_elements))
    return Overlaid({"": from_arrays(fit)}, {encoded_name(label): label for label in fit})


def _two_chains(values: np.ndarray) -> np.ndarray:
    """The array, or the halves of its only chain (2, draw // 2, *event)."""
    chains, draws, *event = np.shape(values)
    if chains > 1:
        return values
    if draws < 2:
        raise ValueError(
            f"expected two draws or more, got shape {np.shape(values)}; draw more, since a point estimate has no path"
        )
    return np.asarray(values)[0, : draws // 2 * 2].reshape(2, draws // 2, *event)


def _with_note(figure: Figure, posteriors: Mapping[str, Arrays], max_elements: int) -> Figure:
    """The figure with a layout free of overlaps, and a note of the number of elements left out, if any."""
    figure.set_layout_engine("constrained")
    first = next(iter(posteriors.values()))
    count = sum(prod(np.shape(first[site])[2:]) for site in _shared(posteriors))
    if count > max_elements:
        figure.supxlabel(f"first {max_elements} of {count} elements", fontsize="small")
    return figure


@contextmanager
def _pyplot_untouched() -> Iterator[None]:
    """Context that closes the figures opened inside: ArviZ draws through pyplot, which keeps every figure."""
    before = set(plt.get_fignums())
    try:
        with warnings.catch_warnings():
            # A point estimate has no density, as the plot shows.
            warnings.filterwarnings("ignore", "Your data appears to have a single value", UserWarning)
            yield
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
