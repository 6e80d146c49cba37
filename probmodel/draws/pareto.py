"""Pareto-smoothed importance weights and their tail shape k-hat (Vehtari et al., 2024)."""

from math import ceil, sqrt

import numpy as np
from scipy.special import logsumexp

WEIGHT_ROUNDING = 1e-6
"""Difference below which log weights are equal: float32 log densities of order ten have rounding errors of this size."""


def pareto_k(log_weights: np.ndarray) -> float:
    """k-hat of importance weights: the tail shape of their generalized Pareto fit (Vehtari et al., 2024).

    The weights have 1/k finite moments; above 0.7 their mean is not reliable.  See `pareto_smoothed`.

    Args:
        log_weights: log importance weights in nats, (S,); -inf is a weight of zero.

    Example:
        >>> float(pareto_k(np.zeros(100)))
        -inf
    """
    return pareto_smoothed(log_weights)[1]


def pareto_smoothed(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Log weights whose tail is replaced by the quantiles of its generalized Pareto fit, and the tail shape k-hat.

    The tail is the ceil(min(0.2 S, 3 √S)) largest weights.  Smoothed weights stay below the largest raw one and keep its
    scale: they are not normalized, so their log mean exp still estimates the evidence.

    Args:
        log_weights: log importance weights in nats, (S,); -inf is a weight of zero.

    Returns:
        Log weights (S,) and k-hat.  The weights are returned unchanged with k-hat = -inf where the whole tail is one
        number (no tail: all moments exist), and with k-hat = inf where fewer than five weights are in the tail, as with
        fewer than 21 draws or with nearly all weights zero (the tail shape is unknown).

    Raises:
        ValueError: for an array that does not have one axis, or holds nan or +inf.

    Reference:
        Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, JMLR 25(72).
    """
    raw = np.array(log_weights, dtype=np.float64)
    bad = int((np.isnan(raw) | np.isposinf(raw)).sum())
    if raw.ndim != 1 or bad:
        raise ValueError(
            f"expected log_weights of shape (S,) without nan or +inf, got {raw.shape} with {bad} such values; drop these "
            "draws, or pass one axis"
        )
    size = ceil(min(0.2 * raw.size, 3 * sqrt(raw.size)))
    if size < 5 or np.isneginf(raw).all():
        return raw, float("inf")
    log_w = raw - raw.max()
    order = np.argsort(log_w, kind="stable")
    log_cut = log_w[order[-size - 1]]
    if log_cut >= -WEIGHT_ROUNDING:
        return raw, float("-inf")
    excess = np.exp(log_w[order[-size:]]) - np.exp(log_cut)
    tail, excess = order[-size:][excess > 0], excess[excess > 0]
    if len(tail) < 5:
        return raw, float("inf")
    k, sigma = _fit_generalized_pareto(excess)
    quantiles = _generalized_pareto_quantiles((np.arange(len(tail)) + 0.5) / len(tail), k, sigma)
    smoothed = raw.copy()
    smoothed[tail] = raw.max() + np.minimum(np.log(np.exp(log_cut) + quantiles), 0.0)
    return smoothed, k


def _fit_generalized_pareto(excess: np.ndarray) -> tuple[float, float]:
    """Pareto shape k and scale sigma of sorted positive numbers (Zhang & Stephens, 2009), k with the weak prior of PSIS.

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


def _generalized_pareto_quantiles(p: np.ndarray, k: float, sigma: float) -> np.ndarray:
    exponential = -np.log1p(-p)
    # For smaller k the exponential distribution, the limit k → 0, is more accurate than the rounded quotient.
    with np.errstate(over="ignore"):  # A tail so heavy that its quantiles are infinite; the caller caps them.
        return sigma * (exponential if abs(k) < 1e-12 else np.expm1(k * exponential) / k)
