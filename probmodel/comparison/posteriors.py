"""Comparison of posterior approximations of one model with a reference fit."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from probmodel.draws.diagnostics import mcse_mean
from probmodel.draws.plots import plot_densities, plot_forest, plot_pairs
from probmodel.evidence.weighing.weights import guide_weights, point_estimates, weighted_mean
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.session.progress import shows_progress

K_HAT_DRAWS = 1_000
ENERGY_DRAWS = 300
"""Draws of each fit at most in the energy distance."""
PERMUTATIONS = 499
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class PosteriorComparison:
    """Differences of each fit from the reference per element of each site.

    `frame` has, for every fit and element, the means, their difference in Monte Carlo standard errors, the ratio of
    standard deviations, and the 1-Wasserstein distance in standard deviations of the reference.  `joint` has, for every
    fit, the k-hat of all its latents jointly (a diagnosis judges independent rows one by one), the energy distance over all
    latents jointly, and the permutation p-value of the hypothesis that both sets of draws come from the same distribution.
    """

    reference: str
    frame: pd.DataFrame
    joint: pd.DataFrame
    draws: Mapping[str, Arrays]

    def __str__(self) -> str:
        return (
            f"{self.joint.to_string(float_format=_short)}\n\n{self.frame.to_string(index=False, float_format=_short)}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        caption = f"<p>reference: {html.escape(self.reference)}</p>"
        tables = (
            self.joint.to_html(border=0, float_format=_short),
            self.frame.to_html(border=0, index=False, float_format=_short),
        )
        return caption + "".join(tables)

    def plot_forest(self) -> Figure:
        """Plot the intervals of every element for all fits."""
        return plot_forest(self.draws)

    def plot_densities(self) -> Figure:
        """Plot the marginal densities of all fits in the same axes."""
        return plot_densities(self.draws)

    def plot_pairs(self) -> Figure:
        """Plot the draws of pairs of elements for all fits in the same axes."""
        return plot_pairs(self.draws)


def _short(value: float) -> str:
    return f"{value:.3g}"


@checks_arguments
@shows_progress
def compare_posteriors(
    posteriors: Mapping[str, Posterior], *, reference: str, seed: int = 0, progress: bool = True
) -> PosteriorComparison:
    """Compare every fit of one model with a reference fit.

    Args:
        posteriors: name → fit; sites are matched by name.
        reference: name of the fit taken as the truth, usually a long NUTS run.
        seed: random seed of the permutations and of the draws for k-hat.
        progress: whether to show what is being computed.

    Returns:
        PosteriorComparison: differences per element, and of all latents jointly.

    Raises:
        ValueError: for an unknown reference, fewer than two fits, or sites that differ in name or shape.

    Reference:
        Székely & Rizzo (2013), "Energy statistics"; Yao et al. (2018), "Yes, but did it work?" for k-hat.
    """
    if reference not in posteriors:
        raise ValueError(
            f"expected reference to be one of {list(posteriors)}, got {reference!r}; pass the name of a fit in posteriors"
        )
    if len(posteriors) < 2:
        raise ValueError(
            f"expected two or more fits, got {list(posteriors)}; add the ones to compare with {reference!r}"
        )
    draws = {name: _arrays(posterior) for name, posterior in posteriors.items()}
    for name, arrays in draws.items():
        _check_sites(name, arrays, reference, draws[reference])
    others = [name for name in posteriors if name != reference]
    by_element = [line for name in others for line in _by_element(name, draws[name], draws[reference])]
    joint = [_joint(name, posteriors[name], draws[name], draws[reference], seed) for name in others]
    return PosteriorComparison(reference, pd.DataFrame(by_element), pd.DataFrame(joint).set_index("fit"), draws)


def _arrays(posterior: Posterior) -> Arrays:
    return {name: value.numpy(force=True) for name, value in posterior.draws.items()}


def _check_sites(name: str, arrays: Arrays, reference: str, expected: Arrays) -> None:
    if set(arrays) != set(expected):
        raise ValueError(
            f"expected the sites {sorted(expected)} of {reference!r}, got {sorted(arrays)} in {name!r}; compare fits of one model"
        )
    for site, value in arrays.items():
        if value.shape[2:] != expected[site].shape[2:]:
            raise ValueError(
                f"expected site {site!r} of shape {tuple(expected[site].shape[2:])} as in {reference!r}, got "
                f"{tuple(value.shape[2:])} in {name!r}; compare fits of one model"
            )


def _by_element(name: str, arrays: Arrays, expected: Arrays) -> list[dict[str, Any]]:
    lines = []
    errors, expected_errors = mcse_mean(arrays), mcse_mean(expected)
    for site in expected:
        a, b = _flat(arrays[site]), _flat(expected[site])
        error = np.sqrt(errors[site].reshape(-1) ** 2 + expected_errors[site].reshape(-1) ** 2)
        index = np.ndindex(expected[site].shape[2:])
        for j, position in enumerate(index):
            label = site + (f"[{', '.join(map(str, position))}]" if position else "")
            sd = b[:, j].std()
            lines.append(
                {
                    "fit": name,
                    "element": label,
                    "mean": a[:, j].mean(),
                    "reference mean": b[:, j].mean(),
                    "difference / error": (a[:, j].mean() - b[:, j].mean()) / error[j] if error[j] > 0 else np.nan,
                    "sd ratio": a[:, j].std() / sd if sd > 0 else np.nan,
                    "Wasserstein / sd": wasserstein_distance(a[:, j], b[:, j]) / sd if sd > 0 else np.nan,
                }
            )
    return lines


def _joint(name: str, posterior: Posterior, arrays: Arrays, expected: Arrays, seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    a, b = _all_sites(arrays, expected), _all_sites(expected, expected)
    center, scale = b.mean(0), np.where(b.std(0) > 0, b.std(0), 1.0)
    a, b = (_thinned((x - center) / scale) for x in (a, b))
    distance, p_value = energy_distance(a, b, generator)
    k_hat = np.nan
    if posterior.guide is not None:
        weights = None if point_estimates(posterior) else guide_weights(posterior, K_HAT_DRAWS, seed)
        k_hat = np.inf if weights is None else weighted_mean(weights.sum(-1, keepdim=True)).k_hat
    return {"fit": name, "joint k-hat": k_hat, "energy distance": distance, "p-value": p_value}


def energy_distance(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Energy distance 2 E|X − Y| − E|X − X'| − E|Y − Y'| of two samples, and its permutation p-value.

    Args:
        a: (S, D) draws.
        b: (T, D) draws.
        generator: random generator of the permutations.

    Returns:
        Distance and p-value (1 + #{permuted ≥ observed}) / (1 + permutations).
    """
    distances = cdist(np.concatenate([a, b]), np.concatenate([a, b]))
    first = np.arange(len(distances)) < len(a)
    observed = _energy(distances, first)
    permuted = [_energy(distances, generator.permutation(first)) for _ in range(PERMUTATIONS)]
    return observed, (1 + sum(value >= observed for value in permuted)) / (1 + PERMUTATIONS)


def _energy(distances: np.ndarray, first: np.ndarray) -> float:
    x, y = first.astype(float), (~first).astype(float)
    n, m = x.sum(), y.sum()
    # The zero distance of a draw to itself is left out, which makes the means within a sample unbiased.
    within = (x @ distances @ x) / (n * (n - 1)) + (y @ distances @ y) / (m * (m - 1))
    return float(2 * (x @ distances @ y) / (n * m) - within)


def _flat(draws: np.ndarray) -> np.ndarray:
    return draws.reshape(draws.shape[0] * draws.shape[1], -1).astype(float)


def _all_sites(arrays: Arrays, order: Arrays) -> np.ndarray:
    return np.concatenate([_flat(arrays[site]) for site in order], -1)


def _thinned(draws: np.ndarray) -> np.ndarray:
    """Draws at equal distances: neighbors in a chain are dependent, but the permutation test assumes exchangeable draws."""
    if len(draws) <= ENERGY_DRAWS:
        return draws
    return draws[np.linspace(0, len(draws) - 1, ENERGY_DRAWS).astype(int)]
