"""Bounds on log Z at finite sample size, from unbiased estimates whose variance need not exist.

Any non-negative estimates with mean Z satisfy Markov's inequality, P(Ẑ > e^b Z) ≤ e^−b.  For n independent ones
∏ (1 − λ + λ Ẑ_k / z) is the wealth of a gambler who bets on Z > z; where Z ≤ z it is a supermartingale for every λ in
[0, 1], so it exceeds 1/α with probability α at most, at any stopping time (Ville, 1939).  The z at which the wealth is
1/α is a lower bound of Z.  λ = 1 gives the mean of log Ẑ_k less log(1/α)/n, which is never below the familiar
min_k log Ẑ_k − log(1/α)/n; smaller λ stake less where the weights vary more, and lose only √(2 Var log(1/α) / n).

Reference:
    Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting"; Grosse, Ghahramani & Adams
    (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

STAKES = tuple(2.0**-power for power in range(11))
"""Values of λ; the gambler splits the stake equally among them, which costs log 11 at most."""
RESOLUTION = 1e-6
"""Precision in nats to which a bound is solved; the end at which the bound holds is returned."""
GROUP_SIZES = (1, 4, 16, 64, 256, 1024, 4096)
"""Weights per group where there are several blocks: fixed numbers, so that the bound holds at any stopping time."""
WIDEST = 1e6
"""Largest distance of a bound from the log mean weight in nats, beyond which there is none."""
ROUNDING_OF_SUMS = 8 * torch.finfo(torch.float64).eps
"""Relative rounding error of a log mean weight."""
MAX_BETS = 50_000
"""Largest number of bets, if the number of weights was fixed beforehand."""


def lower_bound(log_w: Float[Tensor, "S R"], level: float, *, group_size: int | None = None) -> float:
    """Lower bound of log Z that holds with probability `level`, from independent log weights with E[exp log w] = Z.

    Args:
        log_w: log weights in nats, of R blocks whose log Z add up.
        level: probability, such as 0.95.
        group_size: number of weights whose mean is one bet, needed if the number of weights depended on their values;
            None if it was fixed beforehand.

    Raises:
        ValueError: if the level is outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is usual")
    log_w = log_w.double()
    if not len(log_w) or log_w.isnan().any():
        return -math.inf
    if log_w.shape[1] > 1:
        return _sum_of_blocks(log_w, level)
    return _single(_grouped(log_w[:, 0], group_size or -(-len(log_w) // MAX_BETS)), level)


def upper_bound(log_w: Float[Tensor, "S R"], level: float) -> float:
    """Upper bound of log Z of probability `level`, from independent log weights with E[exp −log w] = 1/Z."""
    return -lower_bound(-log_w, level)


def lowest_of(log_w: Float[Tensor, " K"], level: float) -> float:
    """Lower bound min_k log Ẑ_k − log(1/(1 − level)) / K, of probability `level` by Markov's inequality alone."""
    return float(log_w.min()) + math.log1p(-level) / len(log_w)


def _single(log_w: Float[Tensor, " S"], level: float) -> float:
    """Solve log wealth(z) = log(1/α) for log z; the wealth decreases in z."""
    wanted = -math.log1p(-level)
    log_mean = float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
    if not math.isfinite(log_mean):
        return -math.inf
    # Offsets from the mean are solved for: beside a mean of 1e16 an offset of one nat would be lost to rounding.
    log_ratio = log_w - log_mean
    high = 0.0  # The wealth at the mean itself is below 1 by Jensen's inequality.
    low = -1.0
    while _log_wealth(log_ratio - low) < wanted:
        low *= 2
        if low < -WIDEST:
            return -math.inf
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (middle, high) if _log_wealth(log_ratio - middle) >= wanted else (low, middle)
    return _rounded_down(log_mean + low, abs(log_mean))


def _grouped(log_w: Float[Tensor, " S"], size: int) -> Float[Tensor, " G"]:
    """Log mean weights of groups, as unbiased as the weights themselves; an incomplete last group is left out."""
    size = min(size, len(log_w))
    whole = log_w[: len(log_w) // size * size].reshape(-1, size)
    return torch.logsumexp(whole, 1) - math.log(size)


def _log_wealth(log_ratio: Float[Tensor, " S"]) -> float:
    """Log of the mean over stakes of ∏ (1 − λ + λ exp(log ratio))."""
    stakes = torch.tensor(STAKES, dtype=log_ratio.dtype, device=log_ratio.device)
    log_kept = torch.log1p(-stakes)
    gains = torch.logaddexp(log_kept[:, None], stakes.log()[:, None] + log_ratio)
    return float(torch.logsumexp(gains.sum(1), 0)) - math.log(len(stakes))


def _sum_of_blocks(log_w: Float[Tensor, "S R"], level: float) -> float:
    """Bound with λ = 1 over groups of draws: only then does the wealth depend on the sum of log evidences alone.

    Many small groups lose by Jensen's inequality, few large ones by log(1/α) / groups; the stake is split among sizes.
    """
    sizes = [size for size in GROUP_SIZES if size <= len(log_w)]
    counts = torch.tensor([len(log_w) // size for size in sizes], dtype=torch.float64)
    means = torch.tensor([_mean_over_groups(log_w, size) for size in sizes], dtype=torch.float64)
    wanted = -math.log1p(-level)
    high = float(means.max())
    if not math.isfinite(high):
        return -math.inf
    low = float((means - (wanted + math.log(len(sizes))) / counts).max())  # Any single size reaches this.
    while high - low > _resolution(high):
        middle = (low + high) / 2
        log_wealth = float(torch.logsumexp(counts * (means - middle), 0)) - math.log(len(sizes))
        low, high = (middle, high) if log_wealth >= wanted else (low, middle)
    # Groups whose weights are all zero say nothing, and have no rounding error.
    return _rounded_down(low, float(means[means.isfinite()].abs().max()))


def _rounded_down(bound: float, size: float) -> float:
    """Bound less the rounding error of the numbers it was computed from, where that exceeds the resolution."""
    rounding = ROUNDING_OF_SUMS * size
    return bound - rounding if rounding > RESOLUTION else bound


def _resolution(value: float) -> float:
    """Precision to which a bound is solved, no finer than its own rounding error."""
    return max(RESOLUTION, 1e-15 * abs(value))


def _mean_over_groups(log_w: Float[Tensor, "S R"], size: int) -> float:
    count = len(log_w) // size
    by_group = torch.logsumexp(log_w[: count * size].reshape(count, size, -1), 1) - math.log(size)
    return float(by_group.sum(1).mean())
