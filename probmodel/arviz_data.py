"""Draws as NumPy arrays ↔ ArviZ 0.23 and 1: groups, diagnostics, LOO, NetCDF, plots (Kumar et al., 2019).

The only module that knows ArviZ, and it needs neither torch nor the rest of the package.  A posterior here is a mapping
from site names to arrays (chain, draw, *event).  ArviZ and NetCDF cannot hold every site name: "/" and the few names
that xarray uses itself are percent-encoded there, and decoded by `load_netcdf`.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from math import ceil, prod, sqrt
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import arviz
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import logsumexp

az: Any = arviz  # Its two generations have different functions, which a type checker sees one of.

Arrays = Mapping[str, np.ndarray]
"""Site name → array; a posterior's arrays are (chain, draw, *event)."""

FEWEST_DRAWS = 25
"""A fifth of the draws is the tail, and five numbers are the fewest a generalised Pareto distribution is fitted to."""

ROUNDING = 1e-6
"""Log weights this close are equal: float32 log densities of order ten differ by as much through rounding alone."""


class Loo(NamedTuple):
    """Leave-one-out predictive density by PSIS, in nats.

    Args:
        elpd: expected log predictive density of the data set, summed over rows.
        se: its standard error over rows; nan for a single row.
        p_loo: effective number of parameters.
        pareto_k: (row,); above 0.7 that row's entry is not to be trusted.
        elpd_by_row: (row,).
    """

    elpd: float
    se: float
    p_loo: float
    pareto_k: np.ndarray
    elpd_by_row: np.ndarray


def from_arrays(
    posterior: Arrays,
    *,
    sample_stats: Arrays | None = None,
    log_likelihood: Arrays | None = None,
    observed_data: Arrays | None = None,
    posterior_predictive: Arrays | None = None,
) -> Any:
    """ArviZ's container of the given groups; a group that is None or empty is left out.

    Args:
        posterior: draws, (chain, draw, *event).
        sample_stats: what the sampler says of each draw, (chain, draw), for example "diverging".
        log_likelihood: nats, (chain, draw, row).
        observed_data: any shape; no draws.
        posterior_predictive: (chain, draw, *event).

    Returns:
        `arviz.InferenceData` under ArviZ 0.23, `xarray.DataTree` under ArviZ 1.

    Raises:
        ValueError: where an array lacks the two axes, or its number of chains or draws differs from the others.
    """
    sampled = {
        "posterior": posterior,
        "sample_stats": sample_stats,
        "log_likelihood": log_likelihood,
        "posterior_predictive": posterior_predictive,
    }
    groups = {name: _dataset(group) for name, group in sampled.items() if group}
    if observed_data:
        groups["observed_data"] = _dataset(observed_data, sample_dims=())
    return _ARVIZ.tree(groups)


def rhat(posterior: Arrays) -> dict[str, np.ndarray]:
    """Rank-normalised split R-hat (Vehtari et al., 2021) by site, of the event's shape; 1 at convergence.

    It is nan for one chain, fewer than four draws, or an element that never moves: none of them can show convergence.
    """
    return _by_site(posterior, lambda draws: az.rhat(draws, method="rank"), min_chains=2)


def ess_bulk(posterior: Arrays) -> dict[str, np.ndarray]:
    """Effective sample size of the bulk (Vehtari et al., 2021) by site, of the event's shape; nan below four draws."""
    return _by_site(posterior, lambda draws: az.ess(draws, method="bulk"))


def ess_tail(posterior: Arrays) -> dict[str, np.ndarray]:
    """Smaller effective sample size of the 5 % and 95 % quantiles (Vehtari et al., 2021); as `ess_bulk` otherwise."""
    # The probabilities are given because ArviZ 1 takes its default from the width of its credible intervals.
    return _by_site(posterior, lambda draws: az.ess(draws, method="tail", prob=(0.05, 0.95)))


def ess_mean(posterior: Arrays) -> dict[str, np.ndarray]:
    """Effective sample size of the mean (Vehtari et al., 2021) by site; as `ess_bulk` otherwise."""
    return _by_site(posterior, lambda draws: az.ess(draws, method="mean"))


def mcse_mean(posterior: Arrays) -> dict[str, np.ndarray]:
    """Monte Carlo standard error of the posterior mean by site, of the event's shape; nan below four draws."""
    return _by_site(posterior, lambda draws: az.mcse(draws, method="mean"))


def loo(log_likelihood: np.ndarray) -> Loo:
    """Leave-one-out elpd by Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry, 2017).

    elpd = Σ_i log p(y_i | y_{-i}), with the smoothed weights of 1 / p(y_i | theta_s).  ArviZ's warning of a large
    k-hat is silenced: the caller has `pareto_k` and decides.  The tail is that of independent draws.
    Rows no Pareto distribution can be fitted to keep their raw weights: k-hat is -inf where the likelihood is the same
    at all tail draws, inf where there are fewer than 25 draws or a likelihood is not finite.

    Args:
        log_likelihood: nats, (chain, draw, row); one chain is enough.

    Returns:
        Loo, in nats.

    Raises:
        ValueError: for an array of another number of axes, or without draws or rows.

    Reference:
        Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and
        WAIC, Statistics and Computing 27.
    """
    if np.ndim(log_likelihood) != 3 or not np.size(log_likelihood):
        raise ValueError(f"log_likelihood needs shape (chain, draw, row), got {np.shape(log_likelihood)}; add the axes")
    values = np.asarray(log_likelihood, dtype=np.float64)
    draws = values.reshape(-1, values.shape[-1])
    log_count = np.log(len(draws))
    elpd_by_row = log_count - logsumexp(-draws, axis=0)
    finite = np.isfinite(draws).all(0)
    enough = len(draws) >= FEWEST_DRAWS
    varies = finite & (_tail_spread(np.where(finite, draws, 0.0)) > ROUNDING)
    pareto_k = np.where(finite & ~varies & enough, -np.inf, np.inf)
    if enough and varies.any():
        elpd_by_row[varies], pareto_k[varies] = _ARVIZ.loo(values[..., varies])
    rows = len(elpd_by_row)
    with np.errstate(invalid="ignore"):  # A row that is impossible at some draw has elpd -inf, and no variance.
        p_loo = (logsumexp(draws, axis=0) - log_count - elpd_by_row).sum()
        se = sqrt(rows * elpd_by_row.var(ddof=1)) if rows > 1 else float("nan")
    return Loo(float(elpd_by_row.sum()), se, float(p_loo), pareto_k, elpd_by_row)


def pareto_k(log_weights: np.ndarray) -> float:
    """k-hat of importance weights: the tail shape of their generalised Pareto fit (Vehtari et al., 2024).

    The weights have 1/k finite moments; above 0.7 their mean is not to be trusted.  See `pareto_smoothed`.

    Example:
        >>> float(pareto_k(np.zeros(100)))
        -inf
    """
    return pareto_smoothed(log_weights)[1]


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Log weights whose tail is replaced by the quantiles of its generalised Pareto fit, and its shape k-hat.

    The tail is the ceil(min(0.2 S, 3 √S)) largest weights.  Smoothed ones stay below the largest raw one and keep its
    scale: nothing is normalised, so log mean exp of them still estimates the evidence.

    Args:
        log_weights: nats, (S,); -inf is a weight of zero.

    Returns:
        Log weights (S,) and k-hat.  The weights come back as they are with k-hat = -inf where the whole tail is one
        number (no tail: all moments exist), and with k-hat = inf where fewer than five weights are in the tail, as with
        fewer than 21 draws or with nearly all weights zero (nothing can be told).

    Raises:
        ValueError: for an array of another number of axes, nan or +inf.

    Reference:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72).
    """
    raw = np.array(log_weights, dtype=np.float64)
    if raw.ndim != 1 or np.isnan(raw).any() or np.isposinf(raw).any():
        raise ValueError(f"log_weights needs shape (S,) without nan or +inf, got {raw.shape}; drop the bad draws")
    size = ceil(min(0.2 * raw.size, 3 * sqrt(raw.size)))
    if size < 5 or np.isneginf(raw).all():
        return raw, float("inf")
    log_w = raw - raw.max()
    order = np.argsort(log_w, kind="stable")
    log_cut = log_w[order[-size - 1]]
    if log_cut >= -ROUNDING:
        return raw, float("-inf")
    excess = np.exp(log_w[order[-size:]]) - np.exp(log_cut)
    tail, excess = order[-size:][excess > 0], excess[excess > 0]
    if len(tail) < 5:
        return raw, float("inf")
    k, sigma = _fit_generalised_pareto(excess)
    quantiles = _generalised_pareto_quantiles((np.arange(len(tail)) + 0.5) / len(tail), k, sigma)
    smoothed = raw.copy()
    smoothed[tail] = raw.max() + np.minimum(np.log(np.exp(log_cut) + quantiles), 0.0)
    return smoothed, k


def save_netcdf(posterior: Arrays, path: str | Path) -> None:
    """Write draws as the group "posterior" of a NetCDF file that `arviz.from_netcdf` opens; bit-exact in any dtype."""
    _dataset(posterior).to_netcdf(path, mode="w", group="posterior", engine="h5netcdf")


def load_netcdf(path: str | Path) -> dict[str, np.ndarray]:
    """The draws `save_netcdf` wrote, by site, (chain, draw, *event)."""
    dataset = xr.load_dataset(path, group="posterior", engine="h5netcdf")
    return {unquote(str(name)): values.to_numpy() for name, values in dataset.data_vars.items()}


def plot_forest(posteriors: Mapping[str, Arrays], *, max_elements: int = 40) -> Figure:
    """Intervals of each element of each site, one colour a fit.

    Args:
        posteriors: fits of one model by name; sites that only some of them have are left out.
        max_elements: scalar elements drawn, in the order of the sites; the figure says where there are more.

    Returns:
        A figure that pyplot no longer holds.

    Raises:
        ValueError: where the fits share no site.
    """
    with _pyplot_untouched():
        return _noted(_ARVIZ.forest(_overlaid(posteriors, max_elements)), posteriors, max_elements)


def plot_densities(posteriors: Mapping[str, Arrays], *, max_elements: int = 40) -> Figure:
    """Marginal densities of each element of each site, one colour a fit; see `plot_forest`."""
    with _pyplot_untouched():
        return _noted(_ARVIZ.densities(_overlaid(posteriors, max_elements)), posteriors, max_elements)


def plot_pairs(posteriors: Mapping[str, Arrays], *, max_elements: int = 6) -> Figure:
    """Scatter plots of all pairs of elements, marginals on the diagonal, one colour a fit; see `plot_forest`.

    Raises:
        ValueError: where the fits share fewer than two elements.
    """
    overlaid = _overlaid(posteriors, max_elements)
    if len(overlaid.labels) < 2:
        raise ValueError(f"expected two elements or more, got {overlaid.labels}; use plot_densities")
    with _pyplot_untouched():
        figure = _ARVIZ.pairs(overlaid)
        handles = [Line2D([], [], color=f"C{i}", label=name) for i, name in enumerate(posteriors)]
        figure.legend(handles=handles, loc="outside upper right")
        return _noted(figure, posteriors, max_elements)


def plot_ranks(posterior: Arrays, *, max_elements: int = 20) -> Figure:
    """Ranks of each chain's draws among all draws (Vehtari et al., 2021; Säilynoja et al., 2022): even if they mix.

    A single chain is split into halves.  ArviZ 0.23 draws histograms, ArviZ 1 differences of distribution functions.

    Args:
        posterior: one fit, two draws or more.
        max_elements: as in `plot_forest`.

    Returns:
        A figure that pyplot no longer holds.

    Raises:
        ValueError: for no sites, or a single draw.
    """
    with _pyplot_untouched():
        figure = _ARVIZ.ranks(_single(posterior, max_elements))
        return _noted(figure, {"": posterior}, max_elements)


def plot_traces(posterior: Arrays, *, max_elements: int = 20) -> Figure:
    """Density and path of each chain, a row an element; see `plot_ranks`."""
    with _pyplot_untouched():
        figure = _ARVIZ.traces(_single(posterior, max_elements))
        return _noted(figure, {"": posterior}, max_elements)


# xarray's own dimensions, those made below, and HDF5's names for a group and its parent.
_TAKEN = re.compile(r"chain|draw|sample|model|column|\.+|.*_dim_\d+")


def _encoded(name: str) -> str:
    """A name that xarray, NetCDF and ArviZ accept; `urllib.parse.unquote` undoes it."""
    safe = name.replace("%", "%25").replace("/", "%2F")
    if not _TAKEN.fullmatch(safe) or safe.startswith("%"):
        return safe
    return "".join(f"%{byte:02X}" for byte in safe[0].encode()) + safe[1:]


def _dataset(arrays: Arrays, sample_dims: tuple[str, ...] = ("chain", "draw")) -> xr.Dataset:
    variables: dict[str, Any] = {}
    coords: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        array, safe = np.asarray(values), _encoded(name)
        if array.ndim < len(sample_dims):
            raise ValueError(f"{name} needs shape ({', '.join(sample_dims)}, *event), got {array.shape}; add the axes")
        dims = (*sample_dims, *(f"{safe}_dim_{i}" for i in range(array.ndim - len(sample_dims))))
        variables[safe] = (dims, array)
        coords |= {dim: np.arange(size) for dim, size in zip(dims, array.shape, strict=True)}
    return xr.Dataset(variables, coords=coords)


def _by_site(
    posterior: Arrays, statistic: Callable[[xr.Dataset], xr.Dataset], *, min_chains: int = 1
) -> dict[str, np.ndarray]:
    """A statistic of each element of each site; nan where there are too few chains or draws for it."""
    found = {name: np.full(np.shape(values)[2:], np.nan) for name, values in posterior.items()}
    enough = {
        name: values
        for name, values in posterior.items()
        if np.size(values) and np.shape(values)[0] >= min_chains and np.shape(values)[1] >= 4
    }
    if not enough:
        return found
    with np.errstate(invalid="ignore", divide="ignore"):  # An element that never moves has no variance to divide by.
        values = statistic(_dataset(enough))
    return found | {name: values[_encoded(name)].to_numpy() for name in enough}


def _tail_spread(draws: np.ndarray) -> np.ndarray:
    """Range of the smallest log-likelihoods (row,) of draws (S, row): those of the largest importance weights."""
    size = max(1, int(min(0.2 * len(draws), 3 * sqrt(len(draws)))))
    smallest = np.partition(draws, size - 1, axis=0)[:size]
    return np.ptp(smallest, axis=0)


def _fit_generalised_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Shape k and scale sigma of sorted positive numbers (Zhang & Stephens, 2009), k with the weak prior of PSIS.

    The prior is worth ten observations at k = 0.5 (Vehtari et al., 2024, appendix G).
    """
    n = len(excess)
    m = 30 + int(sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    b = 1 / excess[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)
    k = np.log1p(-b[:, None] * excess).mean(1)
    log_profile = n * (np.log(-b / k) - k - 1)
    b_mean = float(np.sum(b * np.exp(log_profile - logsumexp(log_profile))))
    k_mean = float(np.log1p(-b_mean * excess).mean())
    return (n * k_mean + 10 * 0.5) / (n + 10), -k_mean / b_mean


def _generalised_pareto_quantiles(p: np.ndarray, k: float, sigma: float) -> np.ndarray:
    exponential = -np.log1p(-p)
    # Below this the exponential distribution, the limit k → 0, is closer than the quotient's rounding.
    with np.errstate(over="ignore"):  # A tail so heavy that its quantiles are infinite; the caller caps them.
        return sigma * (exponential if abs(k) < 1e-12 else np.expm1(k * exponential) / k)


class _Overlaid(NamedTuple):
    """Containers by fit, and the scalar elements each of them holds, by encoded name."""

    trees: dict[str, Any]
    labels: dict[str, str]

    def labeller(self) -> Any:
        return az.labels.MapLabeller(var_name_map=self.labels)


def _elements(posterior: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Scalar elements, (chain, draw) each: with no event axes every ArviZ lays a plot out alike."""
    for name, values in posterior.items():
        for index in np.ndindex(np.shape(values)[2:]):
            label = f"{name}[{', '.join(map(str, index))}]" if index else name
            yield label, np.asarray(values)[(..., *index)]


def _shared(posteriors: Mapping[str, Arrays]) -> list[str]:
    """Sites that every fit has, in the order of the first."""
    fits = list(posteriors.values())
    sites = [name for name in fits[0] if all(name in fit for fit in fits)] if fits else []
    if not sites:
        raise ValueError(f"expected fits with a site in common, got {[list(fit) for fit in fits]}; plot one at a time")
    return sites


def _overlaid(posteriors: Mapping[str, Arrays], max_elements: int) -> _Overlaid:
    sites = _shared(posteriors)
    fits = {
        name: dict(islice(_elements({site: posterior[site] for site in sites}), max_elements))
        for name, posterior in posteriors.items()
    }
    sizes = [values.size for fit in fits.values() for values in fit.values()]
    count = min((size for size in sizes if size >= FEWEST_DRAWS), default=max(sizes))
    # ArviZ 1 fills unequal fits up with nan, so chains are joined and thinned; point estimates repeat their few draws.
    equal = {name: {label: _resized(values, count) for label, values in fit.items()} for name, fit in fits.items()}
    labels = {_encoded(label): label for label in next(iter(fits.values()))}
    return _Overlaid({name: from_arrays(fit) for name, fit in equal.items()}, labels)


def _resized(values: np.ndarray, count: int) -> np.ndarray:
    index = np.arange(count) * values.size // count
    return values.reshape(1, -1)[:, index]


def _single(posterior: Arrays, max_elements: int) -> _Overlaid:
    _shared({"": posterior})
    fit = dict(islice(_elements({name: _two_chains(values) for name, values in posterior.items()}), max_elements))
    return _Overlaid({"": from_arrays(fit)}, {_encoded(label): label for label in fit})


def _two_chains(values: np.ndarray) -> np.ndarray:
    """The array, or the halves of its only chain (2, draw // 2, *event)."""
    chains, draws, *event = np.shape(values)
    if chains > 1:
        return values
    if draws < 2:
        raise ValueError(f"expected two draws or more, got shape {np.shape(values)}; a point estimate has no path")
    return np.asarray(values)[0, : draws // 2 * 2].reshape(2, draws // 2, *event)


def _noted(figure: Figure, posteriors: Mapping[str, Arrays], max_elements: int) -> Figure:
    """The figure, its texts clear of each other, with a line that says what was left out, if anything."""
    figure.set_layout_engine("constrained")
    first = next(iter(posteriors.values()))
    count = sum(prod(np.shape(first[site])[2:]) for site in _shared(posteriors))
    if count > max_elements:
        figure.supxlabel(f"first {max_elements} of {count} elements", fontsize="small")
    return figure


@contextmanager
def _pyplot_untouched() -> Iterator[None]:
    """Close the figures opened inside: ArviZ draws through pyplot, which keeps every figure it makes."""
    before = set(plt.get_fignums())
    try:
        with warnings.catch_warnings():
            # A point estimate has no density, and the plot shows that.
            warnings.filterwarnings("ignore", "Your data appears to have a single value", UserWarning)
            yield
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)


def _pointwise_loo(tree: Any, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # The caller gets k-hat itself.
        return az.loo(tree, pointwise=True, reff=1.0, **settings)


class _ArviZ0:
    """ArviZ before 1: InferenceData, and plots that return arrays of axes."""

    def tree(self, groups: Mapping[str, xr.Dataset]) -> Any:
        return az.InferenceData(**groups)

    def loo(self, log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tree = self.tree({"log_likelihood": _dataset({"y": log_likelihood})})
        found = _pointwise_loo(tree, scale="log")
        return found.loo_i.to_numpy(), found.pareto_k.to_numpy()

    def forest(self, fits: _Overlaid) -> Figure:
        trees, names = list(fits.trees.values()), list(fits.trees)
        axes = az.plot_forest(
            trees,
            model_names=names,
            var_names=list(fits.labels),
            combined=True,
            labeller=fits.labeller(),
            backend="matplotlib",
            show=False,
        )
        return self._figure(axes)

    def densities(self, fits: _Overlaid) -> Figure:
        trees, names = list(fits.trees.values()), list(fits.trees)
        axes = az.plot_density(trees, data_labels=names, labeller=fits.labeller(), backend="matplotlib", show=False)
        return self._figure(axes)

    def pairs(self, fits: _Overlaid) -> Figure:
        axes = None
        for i, tree in enumerate(fits.trees.values()):
            colour = {"color": f"C{i}"}
            axes = az.plot_pair(
                tree,
                ax=axes,
                figsize=(2.2 * len(fits.labels), 2.2 * len(fits.labels)),
                textsize=8,
                marginals=True,
                scatter_kwargs=colour | {"alpha": 0.3},
                marginal_kwargs=colour | {"plot_kwargs": colour},
                labeller=fits.labeller(),
                backend="matplotlib",
                show=False,
            )
        return self._figure(axes)

    def ranks(self, fits: _Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_rank(tree, labeller=fits.labeller(), backend="matplotlib", show=False))

    def traces(self, fits: _Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_trace(tree, labeller=fits.labeller(), backend="matplotlib", show=False))

    def _figure(self, axes: Any) -> Figure:
        return np.ravel(axes)[0].figure


class _ArviZ1:
    """ArviZ from 1 on: DataTree, and plots that return a PlotCollection."""

    def tree(self, groups: Mapping[str, xr.Dataset]) -> Any:
        return xr.DataTree.from_dict(dict(groups))

    def loo(self, log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = _pointwise_loo(self.tree({"log_likelihood": _dataset({"y": log_likelihood})}))
        return found.elpd_i.to_numpy(), found.pareto_k.to_numpy()

    def forest(self, fits: _Overlaid) -> Figure:
        plots = az.plot_forest(fits.trees, combined=True, labeller=fits.labeller(), backend="matplotlib")
        return self._with_legend(plots, fits)

    def densities(self, fits: _Overlaid) -> Figure:
        quiet = {"point_estimate_text": False}
        plots = az.plot_dist(fits.trees, visuals=quiet, labeller=fits.labeller(), backend="matplotlib")
        return self._with_legend(plots, fits)

    def pairs(self, fits: _Overlaid) -> Figure:
        plots = None
        for i, tree in enumerate(fits.trees.values()):
            colour, first = {"color": f"C{i}"}, i == 0
            visuals = {"scatter": colour | {"alpha": 0.3, "size": 12}, "dist": colour, "xlabel": first, "ylabel": first}
            plots = az.plot_pair(
                tree, plot_matrix=plots, visuals=visuals, labeller=fits.labeller(), backend="matplotlib"
            )
        return self._figure(plots)

    def ranks(self, fits: _Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_rank(tree, labeller=fits.labeller(), backend="matplotlib"))

    def traces(self, fits: _Overlaid) -> Figure:
        (tree,) = fits.trees.values()
        return self._figure(az.plot_trace_dist(tree, labeller=fits.labeller(), backend="matplotlib"))

    def _with_legend(self, plots: Any, fits: _Overlaid) -> Figure:
        if len(fits.trees) > 1:
            plots.add_legend("model")
        return self._figure(plots)

    def _figure(self, plots: Any) -> Figure:
        return plots.viz["figure"].item()


_ARVIZ = _ArviZ0() if int(az.__version__.split(".")[0]) < 1 else _ArviZ1()
