"""Fits of Gaussian processes start in the units of the data, and at its periods; linear kernels are linear regressions."""

import math

import gpytorch
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from gpytorch.constraints import GreaterThan, Interval
from gpytorch.kernels import (
    CosineKernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PolynomialKernel,
    RBFKernel,
    ScaleKernel,
)
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean, LinearMean, ZeroMean
from gpytorch.priors import LogNormalPrior
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

import probmodel as pb
from probmodel.families.gaussian_processes.periods import candidate_periods
from probmodel.protocols.errors import ConvergenceWarning

N = 60


def waves(offset=0.0, unit=1.0):
    random = np.random.default_rng(0)
    x = np.sort(random.uniform(0, 20, N))
    y = offset + unit * (np.sin(x) + 0.2 * random.normal(size=N))
    return pb.Dataset((torch.as_tensor(x)[:, None],), {"y": torch.as_tensor(y)})


def years(seed=0):
    random = np.random.default_rng(seed)
    x = np.arange(1950.0, 1950.0 + N)
    y = 300 + 1.5 * (x - 1950) + 5 * np.sin(2 * np.pi * x / 11) + random.normal(size=N)
    return pb.Dataset((torch.as_tensor(x)[:, None],), {"y": torch.as_tensor(y)})


def fitted(kernel, data, **settings):
    return pb.MaximumLikelihood()(pb.GaussianProcess(kernel, **settings), data, seed=0)


def maximum(kernel, data, **settings):
    return fitted(kernel, data, **settings).info["log_likelihood"]


RBF = -16.434
"""Maximum of the log marginal likelihood of the waves under a scaled RBF kernel; scikit-learn, on centered data, has −16.480."""


@pytest.mark.parametrize(
    ("offset", "unit"), [(50, 1), (1013, 1), (-1e5, 1), (50_000, 3_000), (1e6, 1e6), (3, 0.1)], ids=str
)
def test_a_fit_is_the_same_in_all_units_and_at_any_offset(offset, unit):
    data = waves(offset, unit)
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(1e-4 * unit**2))
    found = fitted(ScaleKernel(RBFKernel()), data, likelihood=likelihood)
    assert found.info["log_likelihood"] + N * math.log(unit) == pytest.approx(RBF, abs=0.01)
    error = pb.predict(found, data.args[0]).action - data.kwargs["y"]
    assert float(error.var() / data.kwargs["y"].var()) < 0.06


@pytest.mark.parametrize(
    ("kernel", "mean", "expected"),
    [
        (lambda: ScaleKernel(RBFKernel()) + ScaleKernel(MaternKernel(nu=0.5)), ConstantMean, RBF),
        (lambda: RBFKernel(), ConstantMean, -16.746),
        (lambda: ScaleKernel(RBFKernel()), lambda: LinearMean(1), -16.361),
    ],
    ids=["sum", "without a scale", "linear mean"],
)
def test_sums_and_means_start_at_the_data_too(kernel, mean, expected):
    for offset in (0.0, 300.0):
        with pb.isolated(seed=0):
            assert maximum(kernel(), waves(offset), mean=mean()) == pytest.approx(expected, abs=0.02)


def test_float32_loses_an_offset_no_more_than_its_rounding():
    data = waves(1013.0).to(torch.float32)
    assert maximum(ScaleKernel(RBFKernel()), data) == pytest.approx(RBF, abs=0.05)


def test_products_and_mixtures_and_svi_start_at_the_data_too():
    near, far = waves(), waves(1013.0)
    products = [
        pb.MaximumLikelihood()(pb.gp.GPProduct(ScaleKernel(RBFKernel()), shards=2), data, seed=0)
        for data in (near, far)
    ]
    first, second = (fit.info["log_likelihood"] for fit in products)
    assert second == pytest.approx(first, abs=0.01)
    experts = [pb.GaussianProcess(ScaleKernel(RBFKernel())).double() for _ in range(1)]
    mixture = pb.gp.GPMixture(experts, pb.gp.DirichletGate(1))
    bound = pb.VariationalEM(num_restarts=1, num_rounds=2)(mixture, far, seed=0).info["bound"]
    assert bound == pytest.approx(RBF, abs=0.05)
    process = pb.GaussianProcess(ScaleKernel(RBFKernel(lengthscale_prior=LogNormalPrior(0.0, 1.0)))).double()
    fit = pb.SVI(num_steps=1, compile=False, progress=False)(process, far, seed=0)
    assert fit.model.mean.constant.item() == pytest.approx(float(far.kwargs["y"].mean()), abs=0.1)


def test_what_the_user_has_set_stays():
    data = waves(300.0, 20.0)
    mean, kernel, likelihood = ConstantMean(), ScaleKernel(RBFKernel()), GaussianLikelihood()
    mean.constant, kernel.outputscale, likelihood.noise = 250.0, 7.0, 3.0
    process = pb.GaussianProcess(kernel, mean=mean, likelihood=likelihood)
    (start,) = process.double().starting_values(data)
    for name, value in start.items():
        assert torch.equal(value, process.get_parameter(name)), name
    frozen = pb.GaussianProcess(ScaleKernel(RBFKernel())).requires_grad_(False)
    assert frozen.starting_values(data) == [{}]
    (start,) = pb.GaussianProcess(kernel, likelihood=likelihood).starting_values(data)
    assert float(start["mean.raw_constant"]) == pytest.approx(float(data.kwargs["y"].mean()))
    bounded = GaussianLikelihood(noise_constraint=Interval(1e-3, 0.1))
    (start,) = pb.GaussianProcess(ScaleKernel(RBFKernel()), likelihood=bounded).starting_values(data)
    assert float(start["likelihood.noise_covar.raw_noise"]) == 0.0


def test_standardized_data_start_where_gpytorch_does():
    data = waves()
    y = data.kwargs["y"]
    data = pb.Dataset(data.args, {"y": (y - y.mean()) / y.std(correction=0)})
    (start,) = pb.GaussianProcess(ScaleKernel(RBFKernel())).starting_values(data)
    assert all(float(value.abs().max()) < 1e-9 for value in start.values())


def test_a_noise_that_its_bound_holds_is_warned_of():
    with pytest.warns(
        ConvergenceWarning, match=r"0\.47 of the variance of y; standardize y, or pass GaussianLikelihood"
    ):
        fitted(ScaleKernel(RBFKernel()), waves(5.0, 0.02))


# ---------------------------------------------------------------------------------------------- periods


PERIODIC = -0.577
"""Maximum for a scaled periodic kernel, by scikit-learn from a period of 6 and by its ExpSineSquared kernel."""


def test_the_period_of_a_wave_is_found_from_the_default_start():
    fit = fitted(ScaleKernel(PeriodicKernel()), waves(100.0))
    assert fit.info["log_likelihood"] == pytest.approx(PERIODIC, abs=0.01)
    assert fit.model.kernel.base_kernel.period_length.item() == pytest.approx(2 * math.pi, abs=0.06)


@pytest.mark.parametrize(
    ("kernel", "data", "least"),
    [
        (lambda: ScaleKernel(CosineKernel()), waves(), 4.5),
        (lambda: ScaleKernel(PeriodicKernel()) + ScaleKernel(RBFKernel()), waves(), PERIODIC - 0.1),
        (lambda: ScaleKernel(PeriodicKernel() * RBFKernel()), waves(), PERIODIC - 1.0),
        (lambda: ScaleKernel(RBFKernel()) + ScaleKernel(PeriodicKernel()), years(), -108.0),
        (lambda: LinearKernel() + ScaleKernel(PeriodicKernel()), years(), -104.0),
    ],
    ids=["cosine", "sum", "product", "trend and cycle", "line and cycle"],
)
def test_periods_are_found_beside_other_kernels(kernel, data, least):
    assert maximum(kernel(), data) > least


def test_two_periods_are_found_one_after_the_other():
    random = np.random.default_rng(1)
    x = np.sort(random.uniform(0, 20, N))
    y = np.sin(2 * np.pi * x / 1.7) + 0.7 * np.sin(2 * np.pi * x / 5.3) + 0.1 * random.normal(size=N)
    data = pb.Dataset((torch.as_tensor(x)[:, None],), {"y": torch.as_tensor(y)})
    kernels = fitted(ScaleKernel(PeriodicKernel()) + ScaleKernel(PeriodicKernel()), data).model.kernel.kernels
    found = sorted(each.base_kernel.period_length.item() for each in kernels)
    assert found == pytest.approx([1.7, 5.3], rel=0.02)


def test_each_column_has_its_period():
    random = np.random.default_rng(2)
    x = random.uniform(0, 10, (80, 2))
    y = np.sin(2 * np.pi * x[:, 0] / 1.3) * np.cos(2 * np.pi * x[:, 1] / 3.1) + np.sin(2 * np.pi * x[:, 1] / 3.1)
    y = y + np.sin(2 * np.pi * x[:, 0] / 1.3) + 0.05 * random.normal(size=80)
    data = pb.Dataset((torch.as_tensor(x),), {"y": torch.as_tensor(y)})
    kernel = fitted(ScaleKernel(PeriodicKernel(ard_num_dims=2)), data).model.kernel
    assert kernel.base_kernel.period_length[0].tolist() == pytest.approx([1.3, 3.1], rel=0.02)


def test_a_period_that_the_user_has_set_is_the_only_start():
    kernel = ScaleKernel(PeriodicKernel())
    kernel.base_kernel.period_length = 6.0
    assert len(fitted(kernel, waves()).info["starts"]) == 1
    assert len(fitted(ScaleKernel(RBFKernel()), waves()).info["starts"]) == 1


def test_more_starts_keep_the_best():
    fit = pb.MaximumLikelihood(num_starts=4)(pb.GaussianProcess(ScaleKernel(RBFKernel())), waves(), seed=0)
    assert len(fit.info["starts"]) == 4
    assert fit.info["log_likelihood"] == max(fit.info["starts"])
    one = pb.MaximumLikelihood(num_starts=1)(pb.GaussianProcess(ScaleKernel(PeriodicKernel())), waves(), seed=0)
    assert len(one.info["starts"]) == 1
    assert one.info["log_likelihood"] == pytest.approx(PERIODIC, abs=0.1)
    with pytest.raises(ValueError, match="num_starts to be an integer"):
        pb.MaximumLikelihood(num_starts=0)


def test_more_starts_find_the_better_of_two_maxima_of_any_model():
    def model(y):
        at = pyro.param("at", torch.tensor(-1.5, dtype=torch.float64))
        height = (-((at - 2) ** 2)).exp() * 3 + (-((at + 2) ** 2)).exp()
        pyro.sample("y", dist.Normal(height, 1.0), obs=y)

    data = pb.Dataset((torch.tensor(10.0, dtype=torch.float64),))
    from_one = pb.MaximumLikelihood()(model, data, seed=0).info["log_likelihood"]
    from_several = pb.MaximumLikelihood(num_starts=12)(model, data, seed=0).info["log_likelihood"]
    best = -0.5 * 7.0**2 - 0.5 * math.log(2 * math.pi)
    assert from_one < best - 10
    assert from_several == pytest.approx(best, abs=0.01)


def test_peaks_of_the_spectrum_are_the_periods_of_uneven_rows_beside_a_trend():
    random = np.random.default_rng(3)
    x = torch.as_tensor(np.sort(random.uniform(1000, 1050, 90)))
    y = 3 * (x - 1000) + 0.1 * (x - 1000) ** 2 + torch.sin(2 * torch.pi * x / 4.4) + torch.sin(2 * torch.pi * x / 1.9)
    found = candidate_periods(x, y, 5)
    assert sorted(found[:2].tolist()) == pytest.approx([1.9, 4.4], rel=0.01)
    assert len(candidate_periods(x[:5], y[:5], 5)) == 0
    assert len(candidate_periods(torch.ones(9).double(), y[:9], 5)) == 0


# ---------------------------------------------------------------------------------------------- linear regression


def line(low, high, columns=1, seed=0):
    random = np.random.default_rng(seed)
    x = random.uniform(low, high, (40, columns))
    y = (x - low).sum(1) * 20 / (high - low) + 20 + random.normal(size=40)
    return x, y


def regression(x, y, constant, variance, noise):
    """Log evidence of y = c + x w + e, w ~ N(0, v I), e ~ N(0, s): Bishop (2006), eq. (3.86), from the posterior of w."""
    n, d = x.shape
    precision = np.eye(d) / variance + x.T @ x / noise
    mean = np.linalg.solve(precision, x.T @ (y - constant)) / noise
    misfit = ((y - constant - x @ mean) ** 2).sum() / noise + mean @ mean / variance
    log_det = np.linalg.slogdet(precision)[1]
    return -0.5 * (n * math.log(2 * math.pi * noise) + d * math.log(variance) + log_det + misfit), mean


def best_regression(x, y):
    slope = np.polyfit(x.sum(1), y, 1)[0]
    starts = [(y.mean() - slope * x.sum(1).mean(), math.log(v), 0.0) for v in (1e-4, 1e-2, 1.0)]
    starts += [(y.mean(), math.log(v), 0.0) for v in (1e-4, 1.0)]
    each = [
        minimize(
            lambda t: -regression(x, y, t[0], math.exp(t[1]), math.exp(t[2]))[0],
            start,
            method="Nelder-Mead",
            options={"maxiter": 4_000, "maxfev": 4_000, "xatol": 1e-6, "fatol": 1e-8},
        ).fun
        for start in starts
    ]
    return -min(each)


@pytest.mark.parametrize(
    ("low", "high", "columns"), [(0, 10, 1), (1950, 2020, 1), (90, 110, 1), (-5, 5, 3), (1e5, 3e5, 1)], ids=str
)
@pytest.mark.parametrize("build", [LinearKernel, lambda: ScaleKernel(LinearKernel())], ids=["linear", "scaled"])
def test_a_linear_kernel_is_bayesian_linear_regression(build, low, high, columns):
    x, y = line(low, high, columns)
    data = pb.Dataset((torch.as_tensor(x),), {"y": torch.as_tensor(y)})
    fit = fitted(build(), data)
    with torch.no_grad():
        kernel = fit.model.kernel
        variance = float(kernel(torch.ones(1, 1).double()).to_dense())
        constant, noise = float(fit.model.mean.constant), float(fit.model.likelihood.noise)
    evidence, weights = regression(x, y, constant, variance, noise)
    assert pb.evidence.exact(fit).log_z == pytest.approx(evidence, abs=1e-4)
    found = pb.predict(fit, torch.as_tensor(x[:5])).action.numpy()
    assert found == pytest.approx(constant + x[:5] @ weights, abs=1e-4)
    assert evidence > best_regression(x, y) - 0.1


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_polynomial_kernel_is_the_normal_density_of_its_features(power, columns):
    x, y = line(0, 3, columns)
    data = pb.Dataset((torch.as_tensor(x),), {"y": torch.as_tensor(y)})
    fit = fitted(ScaleKernel(PolynomialKernel(power=power)), data)
    with torch.no_grad():
        scale, offset = float(fit.model.kernel.outputscale), float(fit.model.kernel.base_kernel.offset)
        noise, constant = float(fit.model.likelihood.noise), float(fit.model.mean.constant)
    k = scale * (x @ x.T + offset) ** power + noise * np.eye(40)
    expected = multivariate_normal(np.full(40, constant), k).logpdf(y)
    assert pb.evidence.exact(fit).log_z == pytest.approx(expected, abs=1e-5)
    residual = pb.predict(fit, data.args[0]).action.numpy() - y
    assert residual.std() < 1.2


def test_a_stationary_part_is_still_checked():
    x, y = line(0, 10)
    data = pb.Dataset((1e7 * torch.as_tensor(x),), {"y": torch.as_tensor(y)})
    for kernel in (LinearKernel() + RBFKernel(), LinearKernel() * RBFKernel()):
        with pytest.raises(ValueError, match="all of them uncorrelated"):
            fitted(kernel, data)


def test_data_of_rows_say_one_thing():
    x, y = line(0, 10)
    data = pb.Dataset.of_rows(x, y=y)
    process = pb.GaussianProcess(ScaleKernel(RBFKernel()))
    with pytest.raises(ValueError, match=r"pass data\._replace\(size=None\), which holds the same rows"):
        pb.MaximumLikelihood()(process, data, seed=0)
    fit = pb.MaximumLikelihood()(process, data._replace(size=None), seed=0)
    assert fit.info["log_likelihood"] > -80


def test_a_zero_mean_has_a_variance_about_zero():
    fit = fitted(ScaleKernel(RBFKernel()), waves(300.0), mean=ZeroMean())
    error = pb.predict(fit, fit.data.args[0]).action - fit.data.kwargs["y"]
    assert float(error.square().mean().sqrt()) < 0.5


def test_a_known_period_is_kept_by_a_constraint():
    kernel = ScaleKernel(PeriodicKernel(period_length_constraint=Interval(11.0, 13.0)))
    found = fitted(kernel, years()).model.kernel.base_kernel.period_length
    assert 11.0 <= found.item() <= 13.0
    assert isinstance(kernel, gpytorch.kernels.Kernel)
