"""Bounds on log Z at finite sample size, from unbiased estimates whose variance need not exist.

Any non-negative estimates with mean Z satisfy Markov's inequality, P(Ẑ > e^b Z) ≤ e^−b.  For n independent ones
∏ (1 − λ + λ Ẑ_k / z) is the wealth of a gambler who bets on Z > z; where Z ≤ z it is a supermartingale for every λ in [0, 1],
so it exceeds 1/α with probability α at most, at any stopping time (Ville, 1939).  The z at which the wealth is 1/α is a
lower bound of Z.  λ = 1 gives the mean of log Ẑ_k less log(1/α)/n, which is never below the familiar
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
"""Nats to which a bound is solved for; the side that holds is returned."""
NUM_GROUPS = (5, 20, 80, 320, 1280)
"""Numbers of groups that weights of several blocks are split into."""
MANY = 50_000
"""Weights beyond which means of groups are bet on: unbiased as well, and fewer."""


def lower_bound(log_w: Float[Tensor, "S R"], level: float) -> float:
    """Lower bound of log Z that holds with probability `level`, from independent log weights with E[exp log w] = Z.

    Args:
        log_w: log weights, nats; R > 1 blocks whose log Z add up.
        level: probability, say .95.

    Raises:
        ValueError: for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level needs to lie between 0 and 1, got {level}; .95 is usual")
    log_w = log_w.double()
    return _single(log_w[:, 0], level) if log_w.shape[1] == 1 else _sum_of_blocks(log_w, level)


def upper_bound(log_w: Float[Tensor, "S R"], level: float) -> float:
    """Upper bound of log Z that holds with probability `level`, from independent log weights with E[exp −log w] = 1/Z."""
    return -lower_bound(-log_w, level)


def lowest_of(log_w: Float[Tensor, " K"], level: float) -> float:
    """min_k log Ẑ_k − log(1/(1 − level)) / K: holds with probability `level` and needs no more than Markov's inequality."""
    return float(log_w.min()) + math.log1p(-level) / len(log_w)


def _single(log_w: Float[Tensor, " S"], level: float) -> float:
    """Solve log wealth(z) = log(1/α) for log z; the wealth falls in z."""
    log_w = _grouped(log_w)
    wanted = -math.log1p(-level)
    log_mean = float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
    if not math.isfinite(log_mean):
        return -math.inf
    high = log_mean  # The wealth at the mean itself is below 1 by Jensen's inequality.
    low = high - 1.0
    while _log_wealth(log_w - low) < wanted:
        low = high - 2 * (high - low)
        if high - low > 1e6:
            return -math.inf
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        low, high = (middle, high) if _log_wealth(log_w - middle) >= wanted else (low, middle)
    return low


def _grouped(log_w: Float[Tensor, " S"]) -> Float[Tensor, " G"]:
    size = -(-len(log_w) // MANY)
    if size == 1:
        return log_w
    # The last group would be smaller; its weights are left out, which changes no mean.
    whole = log_w[: len(log_w) // size * size].reshape(-1, size)
    return torch.logsumexp(whole, 1) - math.log(size)


def _log_wealth(log_ratio: Float[Tensor, " S"]) -> float:
    """Log of the mean over stakes of ∏ (1 − λ + λ exp(log ratio))."""
    stakes = torch.tensor(STAKES, dtype=log_ratio.dtype, device=log_ratio.device)
    log_kept = torch.log1p(-stakes)
    gains = torch.logaddexp(log_kept[:, None], stakes.log()[:, None] + log_ratio)
    return float(torch.logsumexp(gains.sum(1), 0)) - math.log(len(stakes))


def _sum_of_blocks(log_w: Float[Tensor, "S R"], level: float) -> float:
    """λ = 1 over groups of draws: only then does the wealth depend on the blocks' evidences through their sum alone.

    Many small groups lose by Jensen's inequality, few large ones by log(1/α) / groups; the stake is split among sizes.
    """
    counts = [count for count in NUM_GROUPS if count <= len(log_w)]
    means = torch.tensor([_mean_over_groups(log_w, count) for count in counts], dtype=torch.float64)
    sizes = torch.tensor(counts, dtype=torch.float64)
    wanted = -math.log1p(-level)
    high = float(means.max())
    if not math.isfinite(high):
        return -math.inf
    low = float((means - (wanted + math.log(len(counts))) / sizes).max())  # Any single size reaches this.
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        log_wealth = float(torch.logsumexp(sizes * (means - middle), 0)) - math.log(len(counts))
        low, high = (middle, high) if log_wealth >= wanted else (low, middle)
    return low


def _mean_over_groups(log_w: Float[Tensor, "S R"], count: int) -> float:
    size = len(log_w) // count
    by_group = torch.logsumexp(log_w[: count * size].reshape(count, size, -1), 1) - math.log(size)
    return float(by_group.sum(1).mean())
