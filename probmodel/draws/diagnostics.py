"""Convergence diagnostics of draws and PSIS-LOO (Vehtari, Gelman & Gabry, 2017; Vehtari et al., 2021)."""

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from probmodel.draws.arrays import Arrays, encoded_name, xarray_dataset
from probmodel.draws.pareto import WEIGHT_ROUNDING
from probmodel.draws.versions import ARVIZ, az

R_HAT_LIMIT = 1.01
"""Largest R-hat of chains that agree (Vehtari et al., 2021); samplers warn above it, and a diagnosis calls them failed."""
FEWEST_DRAWS = 25
"""Fewest draws for PSIS: a fifth of them is the tail, and a generalized Pareto distribution needs five numbers."""


class Loo(NamedTuple):
    """Leave-one-out predictive density by PSIS, in nats.

    Args:
        elpd: expected log predictive density of the data set, summed over rows.
        se: its standard error over rows; nan for a single row.
        p_loo: effective number of parameters.
        pareto_k: k-hat of each row, (row,); above 0.7 the elpd of that row is not reliable.
        elpd_by_row: elpd of each row, (row,).
    """

    elpd: float
    se: float
    p_loo: float
    pareto_k: np.ndarray
    elpd_by_row: np.ndarray


def rhat(posterior: Arrays) -> dict[str, np.ndarray]:
    """Rank-normalized split R-hat (Vehtari et al., 2021) by site, of the event's shape; 1 at convergence.

    It is nan for one chain, fewer than four draws, or a constant element, none of which can show convergence.
    """
    return _by_site(posterior, lambda draws: az.rhat(draws, method="rank"), min_chains=2)


def ess_bulk(posterior: Arrays) -> dict[str, np.ndarray]:
    """Effective sample size of the bulk (Vehtari et al., 2021) by site, of the event's shape; nan for fewer than four draws."""
    return _by_site(posterior, lambda draws: az.ess(draws, method="bulk"))


def ess_tail(posterior: Arrays) -> dict[str, np.ndarray]:
    """Smaller effective sample size of the 5 % and 95 % quantiles (Vehtari et al., 2021), shaped as `ess_bulk`."""
    # Explicit probabilities, because ArviZ 1 takes its default from the width of its credible intervals.
    return _by_site(posterior, lambda draws: az.ess(draws, method="tail", prob=(0.05, 0.95)))


def ess_mean(posterior: Arrays) -> dict[str, np.ndarray]:
    """Effective sample size of the mean (Vehtari et al., 2021) by site, shaped as `ess_bulk`."""
    return _by_site(posterior, lambda draws: az.ess(draws, method="mean"))


def mcse_mean(posterior: Arrays) -> dict[str, np.ndarray]:
    """Monte Carlo standard error of the posterior mean by site, of the event's shape; nan for fewer than four draws."""
    return _by_site(posterior, lambda draws: az.mcse(draws, method="mean"))


def loo(log_likelihood: np.ndarray) -> Loo:
    """Leave-one-out elpd by Pareto-smoothed importance sampling (Vehtari, Gelman & Gabry, 2017).

    elpd = Σ_i log p(y_i | y_{-i}), with the smoothed weights of 1 / p(y_i | theta_s).  ArviZ's warning of a large
    k-hat is silenced, since the caller has `pareto_k`.  The size of the tail is that for independent draws.
    Rows to which no Pareto distribution can be fitted keep their raw weights: k-hat is -inf where the likelihood is the
    same at all tail draws, inf where there are fewer than 25 draws or a likelihood is not finite.

    Args:
        log_likelihood: log-likelihood by row in nats, (chain, draw, row); one chain is enough.

    Returns:
        Loo, in nats.

    Raises:
        ValueError: for an array that does not have three axes, or has no draws or rows.

    Reference:
        Vehtari, Gelman & Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and
        WAIC, Statistics and Computing 27.
    """
    if np.ndim(log_likelihood) != 3 or not np.size(log_likelihood):
        raise ValueError(
            f"expected log_likelihood of shape (chain, draw, row), got {np.shape(log_likelihood)}; add the missing axes"
        )
    values = np.asarray(log_likelihood, dtype=np.float64)
    draws = values.reshape(-1, values.shape[-1])
    log_count = np.log(len(draws))
    elpd_by_row = log_count - logsumexp(-draws, axis=0)
    finite = np.isfinite(draws).all(0)
    enough = len(draws) >= FEWEST_DRAWS
    varies = finite & (_tail_spread(np.where(finite, draws, 0.0)) > WEIGHT_ROUNDING)
    pareto_k = np.where(finite & ~varies & enough, -np.inf, np.inf)
    if enough and varies.any():
        elpd_by_row[varies], pareto_k[varies] = ARVIZ.loo(values[..., varies])
    rows = len(elpd_by_row)
    with np.errstate(invalid="ignore"):  # A row of likelihood zero at some draw has elpd -inf and no variance.
        p_loo = (logsumexp(draws, axis=0) - log_count - elpd_by_row).sum()
        se = sqrt(rows * elpd_by_row.var(ddof=1)) if rows > 1 else float("nan")
    return Loo(float(elpd_by_row.sum()), se, float(p_loo), pareto_k, elpd_by_row)


def _by_site(
    posterior: Arrays, statistic: Callable[[xr.Dataset], xr.Dataset], *, min_chains: int = 1
) -> dict[str, np.ndarray]:
    """Statistic of each element of each site; nan where there are too few chains or draws for it."""
    found = {name: np.full(np.shape(values)[2:], np.nan) for name, values in posterior.items()}
    enough = {
        name: values
        for name, values in posterior.items()
        if np.size(values) and np.shape(values)[0] >= min_chains and np.shape(values)[1] >= 4
    }
    if not enough:
        return found
    with np.errstate(invalid="ignore", divide="ignore"):  # A constant element has variance zero.
        values = statistic(xarray_dataset(enough))
    return found | {name: values[encoded_name(name)].to_numpy() for name in enough}


def _tail_spread(draws: np.ndarray) -> np.ndarray:
    """Range of the smallest log-likelihoods per row, (row,), of draws (S, row): those of the largest importance weights."""
    size = max(1, int(min(0.2 * len(draws), 3 * sqrt(len(draws)))))
    smallest = np.partition(draws, size - 1, axis=0)[:size]
    return np.ptp(smallest, axis=0)
