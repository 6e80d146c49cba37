"""Chains that follow a path leave their distribution alone, and their weights are unbiased for Z and 1/Z."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import POISSON_EXPOSURE, POISSON_Y, gamma_poisson, tensor
from scipy import integrate, stats
from scipy.special import gammaln

from probmodel.evidence.annealing.path import GRADIENT_MEMORY, AnnealingPath
from probmodel.evidence.annealing.population import TemperedPopulation, populations, resample, temper
from probmodel.evidence.annealing.reference import Prior, ReferenceMixture, StudentT, TruncatedNormal, covariance_factor
from probmodel.evidence.annealing.schedule import backward, decorrelated, forward, frozen
from probmodel.evidence.annealing.transitions import Kernel, first_step, transition
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Target
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

INDEX = torch.zeros(1, 1, dtype=torch.long)

# ------------------------------------------------------------------------------------------ targets with a long left tail


@lru_cache
def skewed() -> tuple[Target, float]:
    """Log of a gamma variable: posterior of a Poisson rate in unconstrained coordinates, and its log Z."""
    problem = gamma_poisson()
    return target(problem.model, problem.data), problem.log_z


def _rates(exposure, y=None):
    with pyro.plate("rows", len(exposure)):
        rate = pyro.sample("rate", dist.Gamma(exposure.new_tensor(2.0), exposure.new_tensor(1.5)))
        pyro.sample("y", dist.Poisson(rate * exposure), obs=y)


@lru_cache
def rows() -> tuple[Target, np.ndarray]:
    """One rate per row: four independent skewed posteriors, and the log Z of each."""
    t, y = np.array(POISSON_EXPOSURE), np.array(POISSON_Y)
    a, r = 2 + y, 1.5 + t
    log_z = y * np.log(t) - gammaln(y + 1) + 2 * np.log(1.5) - gammaln(2) + gammaln(a) - a * np.log(r)
    return target(_rates, Dataset((tensor(t),), {"y": tensor(y)}, len(y))), log_z


def one_row(row: int) -> Target:
    t, y = tensor(POISSON_EXPOSURE[row : row + 1]), tensor(POISSON_Y[row : row + 1])
    return target(_rates, Dataset((t,), {"y": y}, 1))


def student(num_rows: int = 1, *, loc: float = 0.5, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> StudentT:
    """Off the target's center, so that a sign that is wrong shows."""
    index = torch.arange(num_rows)[:, None]
    return StudentT(
        index, torch.full((num_rows, 1), loc, dtype=dtype), torch.full((num_rows, 1, 1), scale, dtype=dtype)
    )


def inside(loc: float = 0.6, scale: float = 0.25) -> TruncatedNormal:
    return TruncatedNormal(INDEX, tensor([[loc]]), tensor([[[scale]]]))


def exact_draws(size: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return tensor(np.log(rng.gamma(2 + sum(POISSON_Y), 1 / (1.5 + sum(POISSON_EXPOSURE)), size)))[:, None]


def schedule(num_steps: int, *, step: float = 0.9, scale: float = 0.3, num_rows: int = 1, dtype=torch.float64) -> tuple:
    factor = torch.full((num_rows, 1, 1), scale, dtype=dtype)
    return tuple(Kernel((t + 1) / num_steps, step, factor) for t in range(num_steps))


def assert_unbiased(log_ratio) -> None:
    """The mean of exp(log ratio) is 1, to four standard errors; they are small enough to say something."""
    ratio = np.exp(np.asarray(log_ratio, dtype=float))
    error = ratio.std(ddof=1) / math.sqrt(len(ratio))
    assert error < 0.03
    assert abs(ratio.mean() - 1) < 4 * error


# ------------------------------------------------------------------------------------------ transitions


@lru_cache
def tempered_table(beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Places and cumulative probabilities of p_β between the base and the skewed target, by quadrature."""
    grid = np.linspace(-8, 6, 40_001)
    path = AnnealingPath(student(), skewed()[0])
    with torch.no_grad():
        log_p = path.at(tensor(grid)[:, None], beta).log_prob(beta)[:, 0].numpy()
    cumulative = integrate.cumulative_trapezoid(np.exp(log_p - log_p.max()), grid, initial=0)
    return grid, cumulative / cumulative[-1]


@pytest.mark.parametrize("beta", [0.15, 1.0])
@pytest.mark.parametrize("step", [0.5, 1.9])
def test_transitions_leave_a_skewed_density_as_it_is(beta, step):
    grid, cumulative = tempered_table(beta)
    uniform = np.random.default_rng(4).uniform(size=40_000)
    theta = tensor(np.interp(uniform, cumulative, grid))[:, None]
    path, kernel = AnnealingPath(student(), skewed()[0]), Kernel(beta, step, tensor([[[0.5 if beta < 1 else 0.3]]]))
    with isolated(seed=2):
        point = path.at(theta, beta)
        for _ in range(4):
            point, acceptance = transition(path, point, kernel, INDEX)
    moved = point.theta[:, 0].numpy()
    assert 0.3 < acceptance < 0.999
    assert np.mean(moved != theta[:, 0].numpy()) > 0.5
    middle, weights = (grid[1:] + grid[:-1]) / 2, np.diff(cumulative)
    for power in (1, 2, 3):
        center = weights @ middle
        values = (moved - center) ** power
        expected = weights @ (middle - center) ** power
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(moved))
    assert stats.kstest(moved, lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-4


def test_transitions_forget_where_they_started():
    path = AnnealingPath(student(), skewed()[0])
    with isolated(seed=3):
        point = decorrelated(path, path.at(torch.full((20_000, 1), -2.0).double(), 1.0), schedule(1, step=0.7)[0], 12)
    assert stats.ks_2samp(point.theta[:, 0], exact_draws(20_000, seed=8)[:, 0]).pvalue > 1e-4


def test_a_point_that_moves_keeps_its_densities_with_it():
    path = AnnealingPath(student(), skewed()[0])
    with isolated(seed=4):
        point, _ = transition(path, path.at(exact_draws(200), 0.5), schedule(1)[0]._replace(beta=0.5), INDEX)
    again = path.at(point.theta, 0.5)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(point, again, strict=True))


# ------------------------------------------------------------------------------------------ weights along a fixed path


@pytest.mark.parametrize("num_steps", [1, 2, 5, 12])
def test_forward_weights_are_unbiased_for_the_evidence(num_steps):
    density, log_z = skewed()
    with isolated(seed=num_steps):
        log_w = forward(AnnealingPath(student(), density), schedule(num_steps), 10_000)
    assert log_w.shape == (10_000, 1)
    assert_unbiased(log_w[:, 0] - log_z)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 12])
def test_backward_weights_of_exact_draws_are_unbiased_for_its_reciprocal(num_steps):
    density, log_z = skewed()
    with isolated(seed=num_steps):
        log_w = backward(
            AnnealingPath(inside(), density), schedule(num_steps, step=0.7), exact_draws(20_000, seed=num_steps)
        )
    assert_unbiased(log_z - log_w[:, 0])


def test_backward_weights_have_the_same_path_of_temperatures_as_forward_ones():
    """Crooks' relation: the law of forward weights, tilted by the weight, is that of backward weights."""
    density, log_z = skewed()
    path, kernels = AnnealingPath(student(scale=0.6), density), (*schedule(4)[:1], *schedule(4)[2:])
    with isolated(seed=6):
        forwards = (forward(path, kernels, 20_000)[:, 0] - log_z).numpy()
        backwards = (backward(path, kernels, exact_draws(20_000, seed=6))[:, 0] - log_z).numpy()
    for power in (0.5, -0.5, -1.0):
        tilted, plain = np.exp((1 + power) * forwards), np.exp(power * backwards)
        error = math.hypot(tilted.std(), plain.std()) / math.sqrt(20_000)
        assert abs(tilted.mean() - plain.mean()) < 4 * error


def test_more_temperatures_leave_less_variance():
    density, log_z = skewed()
    with isolated(seed=7):
        log_w = [forward(AnnealingPath(student(), density), schedule(t), 4_000) - log_z for t in (1, 4, 16)]
    spread = [float(each.exp().std()) for each in log_w]
    assert spread[0] > 1.5 * spread[2]
    assert spread == sorted(spread, reverse=True)


def test_groups_of_particles_on_a_frozen_path_are_unbiased_for_the_evidence():
    density, log_z = skewed()
    with isolated(seed=8):
        found = populations(AnnealingPath(student(), density), schedule(4), 400, 20, num_moves=1)
    assert_unbiased(found.increments.sum(0)[:, 0] - log_z)
    assert found.means.shape == found.variances.shape == (5, 400, 1)
    # d E_β[log ratio] / dβ = Var_β(log ratio).
    grad = (found.means[-1] - found.means[-2]).mean() / 0.25
    assert found.variances[-1].mean() < grad < found.variances[-2].mean()


# ------------------------------------------------------------------------------------------ pilot and schedule


@lru_cache
def pilot() -> TemperedPopulation:
    with isolated(seed=9):
        return temper(AnnealingPath(student(loc=-3.0, scale=2.0), skewed()[0]), 2_000)


def test_a_pilot_reaches_the_target_and_its_evidence():
    found, (_, log_z) = pilot(), skewed()
    betas = [kernel.beta for kernel in found.kernels]
    assert betas == sorted(set(betas))
    assert betas[-1] == 1.0
    assert abs(float(found.log_z.sum()) - log_z) < 4 * found.stderr
    assert 0.01 < found.stderr < 0.2
    a, r = 2 + sum(POISSON_Y), 1.5 + sum(POISSON_EXPOSURE)
    assert stats.kstest(np.exp(found.point.theta[::4, 0].numpy()), stats.gamma(a, scale=1 / r).cdf).pvalue > 1e-4


@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_a_frozen_schedule_has_steps_of_equal_length_and_ends_at_one(num_steps):
    found = pilot()
    betas = np.array([0.0, *(kernel.beta for kernel in frozen(found, num_steps=num_steps))])
    assert len(betas) == num_steps + 1
    assert betas[-1] == 1.0
    length = np.concatenate([[0.0], np.cumsum(np.sqrt(found.variances))])
    steps = np.diff(np.interp(betas, [0.0, *(kernel.beta for kernel in found.kernels)], length))
    assert np.allclose(steps, length[-1] / num_steps, rtol=1e-6)


def test_the_number_of_steps_is_chosen_by_price():
    """A base near the target is worth no temperatures at all; one that is far is."""
    with isolated(seed=10):
        near = temper(AnnealingPath(student(loc=0.6, scale=0.25), skewed()[0]), 500)
        far = temper(AnnealingPath(student(loc=30.0, scale=0.2), skewed()[0]), 500)
    assert len(frozen(near)) == 1
    assert len(frozen(far)) > 3


def test_the_prior_is_a_base_and_its_log_evidence_is_found():
    density, log_z = skewed()
    with isolated(seed=11):
        found = temper(AnnealingPath(Prior(density, 3), density), 2_000)
    assert abs(float(found.log_z.sum()) - log_z) < 4 * found.stderr


def test_a_target_without_a_finite_density_at_any_draw_is_refused():
    density, _ = skewed()
    nowhere = replace(
        density,
        log_joint=lambda theta: theta[:, 0] * math.nan,
        traced=lambda: density.traced()._replace(fallback="eager"),
    )
    with isolated(seed=0), pytest.raises(ValueError, match=r"expected draws of the base with a finite density, got 50"):
        temper(AnnealingPath(student(), nowhere), 50)


# ------------------------------------------------------------------------------------------ blocks, chunks, precision


def test_each_row_has_weights_of_its_own_unbiased_for_its_evidence():
    density, log_z = rows()
    with isolated(seed=12):
        log_w = forward(AnnealingPath(student(4), density), schedule(3, num_rows=4, scale=0.5), 8_000)
    assert log_w.shape == (8_000, 4)
    for row in range(4):
        assert_unbiased(log_w[:, row] - log_z[row])
    assert np.abs(np.corrcoef(log_w.T.numpy()) - np.eye(4)).max() < 5 / math.sqrt(8_000)


@pytest.mark.parametrize("row", [0, 2])
def test_rows_together_are_distributed_as_each_alone(row):
    with isolated(seed=13):
        together = forward(AnnealingPath(student(4), rows()[0]), schedule(3, num_rows=4, scale=0.5), 4_000)
    with isolated(seed=14):
        alone = forward(AnnealingPath(student(), one_row(row)), schedule(3, scale=0.5), 4_000)
    assert stats.ks_2samp(together[:, row], alone[:, 0]).pvalue > 1e-4


def test_a_pilot_tempers_all_rows_at_once():
    density, log_z = rows()
    with isolated(seed=15):
        found = temper(AnnealingPath(student(4, scale=2.0), density), 4_000)
    assert found.log_z.shape == (4,)
    assert np.abs(found.log_z.numpy() - log_z).max() < 4 * found.stderr
    assert abs(float(found.log_z.sum()) - log_z.sum()) < 4 * found.stderr


@pytest.mark.parametrize("chunk", [1, 7, 16])
def test_chunks_change_no_number(chunk):
    density, _ = rows()
    whole, small = AnnealingPath(student(4), density), AnnealingPath(student(4), density, memory=0)
    small.chunk = chunk
    assert AnnealingPath(student(4), density, memory=chunk * GRADIENT_MEMORY * density.bytes_per_draw).chunk == chunk
    found = []
    for path in (whole, small):
        with isolated(seed=16):
            found.append(forward(path, schedule(3, num_rows=4), 16))
    assert torch.allclose(*found, rtol=1e-12, atol=1e-12)


def test_single_precision_targets_have_unbiased_weights_in_double_precision():
    problem = gamma_poisson()
    density = target(problem.model, problem.data.to(torch.float32))
    assert density.dtype == torch.float32
    with isolated(seed=17):
        log_w = forward(AnnealingPath(student(dtype=torch.float32), density), schedule(5, dtype=torch.float32), 20_000)
    assert log_w.dtype == torch.float64
    assert_unbiased(log_w[:, 0] - problem.log_z)


# ------------------------------------------------------------------------------------------ bases

FACTOR = tensor([[1.3, 0.0], [-0.7, 0.4]])


def wide(degrees: float = 5.0) -> StudentT:
    return StudentT(torch.tensor([[0, 1]]), tensor([[1.0, -2.0]]), FACTOR[None], degrees)


def cut(share: float = 0.95) -> TruncatedNormal:
    return TruncatedNormal(torch.tensor([[0, 1]]), tensor([[1.0, -2.0]]), FACTOR[None], share)


def two_blocks() -> ReferenceMixture:
    """Blocks of two coordinates each, interleaved."""
    index = torch.tensor([[3, 0], [1, 2]])
    loc = tensor([[1.0, -2.0], [0.0, 4.0]])
    factor = torch.stack([FACTOR, 2 * FACTOR])
    return ReferenceMixture((StudentT(index, loc, factor), StudentT(index, loc + 2, 3 * factor, 2.5)), (0.7, 0.3))


@pytest.mark.parametrize("degrees", [2.0, 5.0])
def test_a_student_density_is_that_of_scipy(degrees):
    theta = tensor(np.random.default_rng(0).normal(size=(20, 2)) * 3)
    expected = stats.multivariate_t([1.0, -2.0], (FACTOR @ FACTOR.T).numpy(), df=degrees).logpdf(theta.numpy())
    assert np.allclose(wide(degrees).log_prob(theta)[:, 0], expected, atol=1e-12)


@pytest.mark.parametrize("base", [wide(), cut(), cut(1.0)], ids=["student", "cut", "whole"])
def test_a_density_integrates_to_one(base):
    def ring(radius: float) -> float:
        angle = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)[:-1]
        place = tensor([1.0, -2.0]) + radius * torch.stack([angle.cos(), angle.sin()], 1) @ FACTOR.T
        density = base.log_prob(place)[:, 0].exp().mean()
        return float(density) * 2 * math.pi * radius * float(FACTOR.det())

    edge = math.sqrt(stats.chi2.ppf(0.95, 2))
    total = sum(integrate.quad(ring, *ends)[0] for ends in ((0, edge), (edge, math.inf)))
    assert abs(total - 1) < 1e-6


@pytest.mark.parametrize("degrees", [2.0, 5.0])
def test_draws_of_a_student_have_its_distances_and_directions(degrees):
    with isolated(seed=18):
        z = torch.linalg.solve_triangular(FACTOR, (wide(degrees).sample(20_000) - tensor([1.0, -2.0])).T, upper=False)
    assert stats.kstest((z.square().sum(0) / 2).numpy(), stats.f(2, degrees).cdf).pvalue > 1e-4
    assert stats.kstest(torch.atan2(z[1], z[0]).numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_draws_of_a_truncated_normal_have_its_distances_and_directions_and_stay_inside(share):
    with isolated(seed=19):
        theta = cut(share).sample(20_000)
    z = torch.linalg.solve_triangular(FACTOR, (theta - tensor([1.0, -2.0])).T, upper=False)
    squared = z.square().sum(0).numpy()
    assert stats.kstest(stats.chi2(2).cdf(squared) / share, stats.uniform().cdf).pvalue > 1e-4
    assert stats.kstest(torch.atan2(z[1], z[0]).numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4
    assert torch.isfinite(cut(share).log_prob(theta)).all()
    assert share == 1 or float(cut(share).log_prob(tensor([[50.0, 50.0]]))) == -math.inf


def test_a_mixture_has_the_weighted_density_of_its_components():
    mixture = two_blocks()
    theta = tensor(np.random.default_rng(1).normal(size=(10, 4)) * 3)
    first, second = (component.log_prob(theta).exp() for component in mixture.components)
    assert mixture.log_prob(theta).shape == (10, 2)
    assert torch.allclose(mixture.log_prob(theta).exp(), 0.7 * first + 0.3 * second)


@pytest.mark.parametrize("block", [0, 1])
def test_draws_of_a_mixture_agree_with_its_density_in_each_block(block):
    """A normalized density h has E_q[h / q] = 1, and a narrow one at one component sees that component's share."""
    mixture = two_blocks()
    with isolated(seed=20):
        theta = mixture.sample(20_000)
    for component in mixture.components:
        narrow = component._replace(scale_tril=0.7 * component.scale_tril, degrees=30.0)
        assert_unbiased((narrow.log_prob(theta) - mixture.log_prob(theta))[:, block])
    mean = 0.7 * mixture.components[0].loc[block] + 0.3 * mixture.components[1].loc[block]
    drawn = theta[:, mixture.components[0].coordinates[block]]
    assert (((drawn.median(0).values - mean) / drawn.std(0)).abs() < 0.3).all()


def test_blocks_of_a_mixture_choose_their_components_independently():
    far = two_blocks()
    components = (far.components[0], far.components[1]._replace(loc=far.components[1].loc + 1_000))
    with isolated(seed=21):
        theta = ReferenceMixture(components, far.weights).sample(10_000)
    chosen = (theta[:, [0, 1]] > 500).double()
    assert abs(chosen.mean(0) - 0.3).max() < 4 * math.sqrt(0.21 / 10_000)
    assert abs(np.corrcoef(chosen.T.numpy())[0, 1]) < 4 / math.sqrt(10_000)


def test_a_covariance_of_too_few_draws_is_diagonal():
    theta = tensor(np.random.default_rng(2).normal(size=(12, 3)) @ np.array([[1, 2, 3], [0, 1, 1], [0, 0, 1.0]]))
    index = torch.arange(3)[None]
    few, many = covariance_factor(theta, index)[0], covariance_factor(theta.repeat(4, 1), index)[0]
    assert torch.equal(few, torch.diag(theta.std(0)))
    assert torch.allclose(many @ many.T, torch.cov(theta.repeat(4, 1).T), rtol=1e-4)


# ------------------------------------------------------------------------------------------ resampling


def test_resampling_copies_each_particle_as_often_as_its_weight_says():
    theta = torch.arange(10).double()[:, None].repeat(1, 2)
    log_w = tensor(np.random.default_rng(3).normal(size=(10, 2)) * 2)
    index = torch.tensor([[0], [1]])
    with isolated(seed=22):
        runs = torch.stack([resample(theta, log_w, index) for _ in range(4_000)])
    expected = 10 * torch.softmax(log_w, 0)
    copies = torch.stack([(runs == each).sum(1) for each in range(10)], 1).double()
    assert (copies >= expected.floor()).all()
    assert (copies <= expected.ceil()).all()
    # Systematic copies differ from their mean by less than one.
    assert ((copies.mean(0) - expected).abs() < 4 * 0.5 / math.sqrt(4_000)).all()


def test_particles_without_weight_die_and_a_group_without_any_stays():
    theta = torch.arange(6).double()[:, None]
    log_w = torch.tensor([0.0, -math.inf, 0.0, -math.inf, -math.inf, 0.0]).double()[:, None]
    with isolated(seed=23):
        assert set(resample(theta, log_w, INDEX)[:, 0].tolist()) == {0.0, 2.0, 5.0}
        assert resample(theta, torch.full_like(log_w, -math.inf), INDEX)[:, 0].tolist() == theta[:, 0].tolist()


def test_the_first_step_shrinks_with_the_fourth_root_of_the_dimension():
    assert first_step(1) == 16**0.25 * first_step(16)
