"""Modes far from the prior's bulk: ascents find them, particles that lack them are noticed, and a second run weighs them."""

import math
from functools import lru_cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import tensor
from scipy import integrate, stats

from probmodel.data.problems import rosenbrock
from probmodel.evidence import ais, importance, sandwich, smc
from probmodel.evidence.annealing.ascent import ascended, recombined
from probmodel.evidence.annealing.reference import ProductT
from probmodel.evidence.weighing.agreement import birge_ratio
from probmodel.evidence.weighing.modes import missed_modes
from probmodel.evidence.weighing.starting_draws import population_rhat, rhat_limit
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Estimate
from probmodel.protocols.posterior import Target
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target


def outlier(y: torch.Tensor) -> None:
    """An observation in the tail of a Cauchy prior: y is Cauchy(0, 2)."""
    theta = pyro.sample("theta", dist.Cauchy(torch.zeros_like(y), 1.0))
    pyro.sample("y", dist.Cauchy(theta, 1.0), obs=y)


@lru_cache
def far(y: float = 1000.0) -> Target:
    """Two modes of equal mass, at 0 and at the observation."""
    return target(outlier, Dataset((), {"y": tensor(y)}))


EXACT = float(stats.cauchy(0, 2).logpdf(1000))


def near(place: float, count: int, seed: int = 0) -> torch.Tensor:
    """Draws around one mode of `far`, whose density there is that of Cauchy(0, 1) around it."""
    return tensor(place + np.random.default_rng(seed).standard_cauchy(count).clip(-300, 300))[:, None]


# ------------------------------------------------------------------------------------------ ascents


def test_ascents_reach_the_mode_at_the_prior_and_the_one_at_the_data():
    ends = ascended(far(), far().sample_prior(200, 1), 0)[:, 0]
    assert (ends.abs() < 0.01).any()
    assert ((ends - 1000).abs() < 0.01).any()
    assert ((ends.abs() < 0.1) | ((ends - 1000).abs() < 0.1)).double().mean() > 0.9


def test_recombined_end_points_have_coordinates_of_end_points_and_all_combinations_of_extremes():
    ends = torch.zeros(20, 3).double()
    ends[0, 0], ends[1, 1], ends[2, 2] = 1.0, 2.0, 3.0
    with isolated(seed=0):
        crossed = recombined(ends)
    assert set(crossed[:, 1].tolist()) == {0.0, 2.0}
    assert {tuple((row > 0).tolist()) for row in crossed} == {
        (a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)
    }


# ------------------------------------------------------------------------------------------ what particles have missed


@pytest.mark.parametrize("place", [0.0, 1000.0])
def test_particles_at_one_mode_of_two_lack_the_other(place):
    theta, log_half = near(place, 1_000), float(far().log_joint(near(place, 1)[:1] * 0 + place)[0]) + math.log(math.pi)
    found = missed_modes(far(), theta, tensor([log_half]), far().sample_prior(200, 1), 0)
    locs = sorted(float(each.loc) for each in found.components)
    assert np.allclose(locs, [0.001, 999.999], atol=1e-3)
    assert np.allclose(found.weights, 0.5, atol=0.1)


def test_particles_at_both_modes_lack_none():
    theta = torch.cat([near(0.0, 500), near(1000.0, 500, seed=1)])
    log_z = tensor([-14.2671])
    assert not missed_modes(far(), theta, log_z, far().sample_prior(200, 1), 0)


def test_a_mode_of_no_weight_is_not_missed():
    """At 30, the posterior of a normal prior has a mode of the likelihood that carries e^-400 of the mass."""

    def model(y: torch.Tensor) -> None:
        theta = pyro.sample("theta", dist.Normal(0.0 * y, 1.0))
        pyro.sample("y", dist.Cauchy(theta, 0.01), obs=y)

    density = target(model, Dataset((), {"y": tensor(30.0)}))
    theta = tensor(np.random.default_rng(0).normal(size=(1_000, 1)))
    log_z = math.log(integrate.quad(lambda t: stats.norm.pdf(t) * stats.cauchy.pdf(30, t, 0.01), -8, 8)[0])
    assert not missed_modes(density, theta, tensor([log_z]), density.sample_prior(200, 1), 0)


def test_a_mode_without_curvature_has_the_width_of_its_mass():
    """Prior and likelihood of one width, two units apart, meet in a mode at 1 whose second derivative vanishes."""
    density = far(2.0)
    elsewhere = tensor(np.random.default_rng(0).normal(-60, 1, (1_000, 1)))
    found = missed_modes(density, elsewhere, tensor([-40.0]), density.sample_prior(200, 1), 0)
    assert len(found.components) == 1
    assert abs(float(found.components[0].loc) - 1) < 0.02
    assert 0.5 < float(found.components[0].scale_tril) < 2.5


def test_each_row_has_modes_of_its_own():
    density = two_rows()
    assert density.by_row is not None
    theta = torch.cat([near(0.0, 1_000), near(0.0, 1_000, seed=1)], 1)
    found = missed_modes(density, theta, tensor([-14.96, -12.55]), density.sample_prior(200, 1), 0)
    first, second = ({round(float(each.loc[row, 0])) for each in found.components} for row in (0, 1))
    assert {0, 1000} <= first
    assert {0, -300} <= second


def two_rows() -> Target:
    def model(y: torch.Tensor) -> None:
        with pyro.plate("rows", len(y)):
            theta = pyro.sample("theta", dist.Cauchy(torch.zeros_like(y), 1.0))
            pyro.sample("y", dist.Cauchy(theta, 1.0), obs=y)

    return target(model, Dataset.of_rows(y=tensor([1000.0, -300.0])))


def test_a_product_of_students_has_the_density_of_its_axes_and_draws_to_match():
    loc, factor = tensor([[1.0, -2.0]]), tensor([[[1.3, 0.0], [-0.7, 0.4]]])
    product = ProductT(torch.tensor([[0, 1]]), loc, factor, 2.5)
    theta = tensor(np.random.default_rng(0).normal(size=(20, 2)) * 3)
    z = np.linalg.solve(factor[0].numpy(), (theta - loc).T.numpy())
    expected = stats.t(2.5).logpdf(z).sum(0) - math.log(1.3 * 0.4)
    assert np.allclose(product.log_prob(theta)[:, 0], expected, atol=1e-12)
    with isolated(seed=1):
        z = np.linalg.solve(factor[0].numpy(), (product.sample(20_000) - loc).T.numpy())
    for axis in z:
        assert stats.kstest(axis, stats.t(2.5).cdf).pvalue > 1e-4
    assert abs(stats.spearmanr(np.abs(z[0]), np.abs(z[1])).statistic) < 0.03


# ------------------------------------------------------------------------------------------ estimates


def test_annealing_from_the_prior_weighs_a_mode_that_its_first_particles_missed():
    for estimator in (smc, importance):
        found = estimator(far(), seed=0)
        assert abs(found.log_z - EXACT) < 4.5 * found.stderr
        assert found.stderr < 0.2
        assert found.lower < EXACT


@pytest.mark.filterwarnings("ignore:ais", "ignore:sandwich")  # What is not to be relied on is said, and asked below.
@pytest.mark.parametrize("seed", range(3))
def test_the_sandwich_holds_an_outlier_under_a_heavy_tailed_prior(seed):
    found = sandwich(far(), seed=seed)
    assert found.info["failed"] == ()
    assert abs(found.log_z - EXACT) < 4 * found.stderr < 0.05
    assert found.lower < EXACT < found.upper
    assert abs(ais(far(), seed=seed).log_z - EXACT) < 0.1


@pytest.mark.filterwarnings("ignore:ais", "ignore:sandwich")  # What is not to be relied on is said, and asked below.
@pytest.mark.parametrize("num_dimensions", [2, 4])
def test_the_sandwich_holds_a_curved_ridge_and_seldom_refuses(num_dimensions):
    problem = rosenbrock(num_dimensions)
    density = target(problem.model, problem.data)
    found = [sandwich(density, seed=seed) for seed in range(4)]
    kept = [each for each in found if not each.info["failed"]]
    assert len(kept) >= 3
    for each in kept:
        assert abs(each.log_z - problem.log_z) < 4 * each.stderr
        assert each.lower < problem.log_z < each.upper


# ------------------------------------------------------------------------------------------ agreement of populations


def test_r_hat_of_populations_is_one_for_equals_and_grows_with_shift_and_with_spread():
    draws = tensor(np.random.default_rng(0).standard_cauchy((2_000, 2)))
    first, second = draws[:1_000], draws[1_000:]
    assert population_rhat(first, second) < 1.01
    assert population_rhat(first, second + tensor([0.0, 2.0])) > 1.05
    assert population_rhat(first, 3 * second) > 1.05
    assert population_rhat(first, second + 5) > population_rhat(first, second + 1)


def test_r_hat_of_populations_agrees_with_its_limit_for_normals():
    rng = np.random.default_rng(1)
    first, second = tensor(rng.normal(0, 1, (40_000, 1))), tensor(rng.normal(0.4, 1, (40_000, 1)))
    pooled = 1 + 0.04  # Ranks are of the pooled draws, whose variance is 1 + 0.4² / 4.
    assert abs(population_rhat(first, second) - math.sqrt(1 + 0.08)) < 0.01 * pooled


@pytest.mark.parametrize(("count", "dim"), [(32, 200), (500, 3)])
def test_independent_populations_of_one_distribution_stay_below_the_limit_however_few(count, dim):
    rng = np.random.default_rng(2)
    found = [population_rhat(*tensor(rng.normal(size=(2, count, dim)))) for _ in range(50)]
    assert max(found) < rhat_limit(1.0, count, dim) < 1.5
    assert max(found) > 1 + 0.3 * (rhat_limit(1.0, count, dim) - 1)
    assert rhat_limit(1.05, 10_000, 2) == 1.05


def test_ties_favor_neither_population():
    assert population_rhat(torch.zeros(100, 1), torch.zeros(100, 1)) < 1.01


def test_the_standard_error_is_widened_by_what_estimators_differ_by():
    def at(*values: float) -> list[Estimate]:
        return [Estimate("m", value, 0.1) for value in values]

    assert birge_ratio(at(0.0, 0.0, 0.0)) == 1
    assert math.isclose(birge_ratio(at(0.0, 0.6)), 0.6 / 0.1 / math.sqrt(2))
    assert birge_ratio(at(0.0)) == 1
    assert birge_ratio([*at(0.0, 0.0), Estimate("m", 9.0, 0.1, caveat="off")]) == 1
