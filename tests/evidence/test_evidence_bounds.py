"""Bounds on log Z at finite sample size: they hold at their level for any weights, and cost little where weights are tame."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import binom

from probmodel.evidence.weighing.bounds import (
    GROUP_SIZES,
    MAX_BETS,
    RESOLUTION,
    STAKES,
    lower_bound,
    lowest_of,
    upper_bound,
)

LEVEL = 0.8
"""Low, so that violations are common enough to be counted."""
REPETITIONS = 200


def lognormal(rng, shape):
    return rng.normal(size=shape) - 0.5


def pareto(rng, shape):
    """Tail index 1.5: the variance is infinite."""
    return np.log(rng.pareto(1.5, shape) + 1) - math.log(3)


def very_heavy(rng, shape):
    """Tail index 1.05: the mean of a thousand weights is usually far below its expectation."""
    return np.log(rng.pareto(1.05, shape) + 1) - math.log(21)


def mostly_nothing(rng, shape):
    """Weight 10 in one of ten draws, else 0."""
    return np.where(rng.uniform(size=shape) < 0.1, math.log(10), -np.inf)


def skewed(rng, shape):
    return np.log(rng.gamma(0.3, 1 / 0.3, shape))


def tame(rng, shape):
    return np.log1p(0.1 * rng.uniform(-1, 1, shape))


UNBIASED: dict[str, Callable[..., np.ndarray]] = {
    each.__name__: each for each in (lognormal, pareto, very_heavy, mostly_nothing, skewed, tame)
}
"""Log weights whose exponentials have mean 1, so that log Z = 0."""


def most_violations(repetitions: int, alpha: float) -> int:
    """Exceeded once in ten thousand times by a bound that holds."""
    return int(binom.ppf(1 - 1e-4, repetitions, alpha))


def column(log_w) -> torch.Tensor:
    return torch.as_tensor(np.asarray(log_w, dtype=float)).reshape(len(log_w), -1)


# ------------------------------------------------------------------------------------------ validity


@pytest.mark.parametrize("weights", UNBIASED)
@pytest.mark.parametrize("size", [3, 60])
def test_the_lower_bound_is_violated_no_more_often_than_its_level_says(weights, size):
    samples = UNBIASED[weights](np.random.default_rng(1), (REPETITIONS, size))
    violations = sum(lower_bound(column(each), LEVEL) > 0 for each in samples)
    assert violations <= most_violations(REPETITIONS, 1 - LEVEL)


@pytest.mark.parametrize("weights", ["lognormal", "pareto", "skewed"])
def test_the_upper_bound_is_violated_no_more_often_than_its_level_says(weights):
    """Weights of the other direction: the exponential of the negative is unbiased for 1/Z."""
    samples = -UNBIASED[weights](np.random.default_rng(2), (REPETITIONS, 60))
    violations = sum(upper_bound(column(each), LEVEL) < 0 for each in samples)
    assert violations <= most_violations(REPETITIONS, 1 - LEVEL)


@pytest.mark.parametrize("weights", ["lognormal", "pareto"])
def test_the_bound_holds_for_whoever_stops_when_it_looks_best(weights):
    samples = UNBIASED[weights](np.random.default_rng(3), (REPETITIONS, 80))
    sizes = (5, 20, 80)
    violations = sum(max(lower_bound(column(each[:n]), LEVEL) for n in sizes) > 0 for each in samples)
    assert violations <= most_violations(REPETITIONS, 1 - LEVEL)


@pytest.mark.parametrize("weights", UNBIASED)
@pytest.mark.parametrize("size", [20, 90])
def test_the_bound_of_several_blocks_is_violated_no_more_often_than_its_level_says(weights, size):
    samples = UNBIASED[weights](np.random.default_rng(4), (REPETITIONS, size, 3))
    violations = sum(lower_bound(column(each), LEVEL) > 0 for each in samples)
    assert violations <= most_violations(REPETITIONS, 1 - LEVEL)


def test_a_normal_interval_would_be_violated_by_skewed_weights_of_a_backward_chain():
    """The purpose of the bounds: mean less 1.64 standard errors errs upwards if the error bar is small by chance."""
    weights = 1 / (np.random.default_rng(5).pareto(1.5, (REPETITIONS, 60)) + 1)
    weights /= 0.6  # Mean of 1 / x for a Pareto of index 1.5.
    weights = 2 - weights  # The long tail points down.
    naive = weights.mean(1) - 0.84 * weights.std(1, ddof=1) / math.sqrt(60)
    bounds = [lower_bound(column(np.log(each.clip(1e-300))), LEVEL) for each in weights]
    assert (naive > 1).mean() > 0.1
    assert np.mean(np.array(bounds) > 0) < (naive > 1).mean()


# ------------------------------------------------------------------------------------------ value


@pytest.mark.parametrize("weights", UNBIASED)
def test_the_bound_is_where_the_gamblers_wealth_is_one_over_alpha(weights):
    log_w = UNBIASED[weights](np.random.default_rng(6), 50)

    def excess(log_z: float) -> float:
        with np.errstate(divide="ignore"):
            gains = [logsumexp(np.log1p(-s + s * np.exp(log_w - log_z)).sum()) for s in STAKES]
        return float(logsumexp(gains) - math.log(len(STAKES)) - math.log(1 / 0.05))

    found = lower_bound(column(log_w), 0.95)
    root = brentq(excess, found - 1, found + 1, xtol=1e-12)
    assert root - RESOLUTION <= found <= root + 1e-9


@pytest.mark.parametrize("weights", ["lognormal", "pareto", "tame"])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_bound_is_the_full_stakes_but_for_the_price_of_eleven_and_so_near_the_least_weight(weights, size):
    log_w = UNBIASED[weights](np.random.default_rng(7), size)
    full = log_w.mean() + math.log(0.05) / size
    assert full >= lowest_of(torch.as_tensor(log_w), 0.95) - 1e-12
    assert lower_bound(column(log_w), 0.95) >= full - math.log(len(STAKES)) / size - RESOLUTION


@pytest.mark.parametrize("weights", ["lognormal", "pareto", "tame"])
@pytest.mark.parametrize("size", [40, 1_280])
def test_blocks_are_bounded_by_full_stakes_on_groups_shared_among_the_sizes_of_group(weights, size):
    log_w = UNBIASED[weights](np.random.default_rng(8), (size, 4))
    counts = [size // each for each in GROUP_SIZES if each <= size]
    whole = [(log_w[: count * each], count) for each, count in zip(GROUP_SIZES, counts, strict=False)]
    groups = [[logsumexp(part, 0) - math.log(len(part)) for part in np.split(kept, count)] for kept, count in whole]
    means = [np.sum(by_group, 1).mean() for by_group in groups]
    found = lower_bound(column(log_w), 0.95)
    highest = max(mean + math.log(0.05) / count for mean, count in zip(means, counts, strict=True))
    shared = max(mean + math.log(0.05 / len(counts)) / count for mean, count in zip(means, counts, strict=True))
    assert shared - RESOLUTION <= found <= highest + 1e-9
    least = [lowest_of(torch.as_tensor(np.sum(by_group, 1)), 1 - 0.05 / len(counts)) for by_group in groups]
    assert found >= max(least) - RESOLUTION


@pytest.mark.parametrize("size", [500, 5_000, 50_000])
def test_the_bound_loses_little_more_than_the_root_of_twice_the_variance_times_log_alpha(size):
    rng, lost = np.random.default_rng(9), []
    for _ in range(10):
        log_w = 0.5 * lognormal(rng, size)
        log_mean = float(logsumexp(log_w) - math.log(size))
        variance = np.exp(log_w - log_mean).var()
        lost.append((log_mean - lower_bound(column(log_w), 0.95)) / math.sqrt(2 * variance * math.log(20) / size))
    # Eleven stakes cost a factor √(log 220 / log 20) = 1.34 at most; neighboring ones share the profit.
    assert 1 < np.mean(lost) < 1.4


@pytest.mark.parametrize("weights", UNBIASED)
@pytest.mark.parametrize("bound", [lower_bound, upper_bound])
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_constant_added_to_the_log_weights_is_added_to_the_bound(weights, bound, blocks):
    log_w = column(UNBIASED[weights](np.random.default_rng(10), (80, blocks)))
    if bound is upper_bound:
        log_w = -log_w
    for shift in (-1_000.0, 3.5, 1e5):
        plain, moved = bound(log_w, 0.9), bound(log_w + shift, 0.9)
        assert moved == plain if math.isinf(plain) else abs(moved - plain - shift * blocks) < 2 * RESOLUTION


def test_upper_and_lower_mirror_each_other():
    log_w = column(lognormal(np.random.default_rng(11), 70))
    assert upper_bound(log_w, 0.9) == -lower_bound(-log_w, 0.9)
    assert lower_bound(log_w, 0.9) < float(torch.logsumexp(log_w, 0)) - math.log(70)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_higher_level_has_a_wider_bound(blocks):
    log_w = column(lognormal(np.random.default_rng(12), (70, blocks)))
    bounds = [lower_bound(log_w, level) for level in (0.5, 0.9, 0.99, 0.9999)]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 4


def test_equal_weights_bound_by_the_price_of_confidence_alone():
    found = lower_bound(torch.full((1_000, 1), 2.0), 0.95)
    assert 2 - (math.log(20) + math.log(len(STAKES))) / 1_000 <= found < 2


def test_blocks_with_equal_weights_add_up():
    most, price = max(GROUP_SIZES), math.log(20 * len(GROUP_SIZES))
    found = lower_bound(torch.tensor([[1.0, 2.0, -7.0]]).expand(4 * most, 3), 0.95)
    assert -4 - price / (4 * most) - RESOLUTION <= found < -4


# ------------------------------------------------------------------------------------------ what is no number


def test_weights_that_are_all_zero_bound_nothing():
    assert lower_bound(torch.full((10, 1), -math.inf), 0.95) == -math.inf
    assert lower_bound(torch.full((40, 2), -math.inf), 0.95) == -math.inf
    assert upper_bound(torch.full((10, 1), math.inf), 0.95) == math.inf


def test_a_weight_without_a_finite_value_bounds_nothing():
    log_w = torch.zeros(10, 1)
    for value in (math.inf, math.nan):
        log_w[3] = value
        assert lower_bound(log_w, 0.95) == -math.inf


def test_zero_weights_lower_the_bound_and_leave_it_finite():
    log_w = torch.zeros(200, 1)
    whole = lower_bound(log_w, 0.95)
    log_w[:100] = -math.inf
    half = lower_bound(log_w, 0.95)
    assert math.isfinite(half)
    assert half < whole - math.log(2) + 0.05


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 1.5, math.nan])
@pytest.mark.parametrize("bound", [lower_bound, upper_bound])
def test_a_level_outside_zero_and_one_is_refused(bound, level):
    with pytest.raises(ValueError, match=r"expected a level between 0 and 1, got .*; 0\.95 is usual"):
        bound(torch.zeros(5, 1), level)


def test_very_many_weights_are_bet_on_in_groups_and_bounded_alike():
    log_w = 0.5 * lognormal(np.random.default_rng(14), MAX_BETS + 7)
    lost = float(logsumexp(log_w) - math.log(len(log_w))) - lower_bound(column(log_w), 0.95)
    variance = np.exp(log_w - logsumexp(log_w) + math.log(len(log_w))).var()
    assert 0.95 < lost / math.sqrt(2 * variance * math.log(20) / len(log_w)) < 1.4


def test_single_precision_weights_are_summed_in_double():
    log_w = column(lognormal(np.random.default_rng(13), 300)).float()
    assert lower_bound(log_w, 0.95) == lower_bound(log_w.double(), 0.95)


# ------------------------------------------------------------------------------------------ sizes beyond rounding


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("size", [1e12, 1e16, -1e16, 1e20, -1e300])
def test_weights_of_any_size_are_bounded_by_their_own_size_less_rounding(size, blocks):
    log_w = torch.full((50, blocks), size, dtype=torch.float64)
    rounding = 20 * abs(size) * blocks * torch.finfo(torch.float64).eps + 1
    assert blocks * size - rounding <= lower_bound(log_w, 0.95) <= blocks * size
    assert blocks * size <= upper_bound(log_w, 0.95) <= blocks * size + rounding


def test_weights_further_apart_than_any_bound_reaches_leave_it_finite_or_none():
    apart = torch.tensor([[1e17], [-1e17]], dtype=torch.float64)
    assert lower_bound(apart, 0.95) <= -math.log(2) + 1e17
    assert lower_bound(torch.zeros(0, 1), 0.95) == -math.inf
    assert lower_bound(torch.full((4, 2), math.nan), 0.95) == -math.inf
