"""The exact process against GPyTorch, refits and known evidences; priors become latents; bad input is refused."""

import os
from functools import partial

import gpytorch
import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, PiecewisePolynomialKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.priors import GammaPrior, LogNormalPrior, NormalPrior
from pyro import poutine

import probmodel as pb
from probmodel.data.locate import VARIABLE, locate
from probmodel.families.gaussian_processes.conditional import condition, conditional, leave_one_out
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.tracing.randomness import isolated

N, D = 40, 3


def problem(n=N, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64)
    y = torch.sin(2.0 * x[:, 0]) + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64) + 1.0
    return x.to(dtype), y.to(dtype)


def parts():
    """Mean, kernel and likelihood away from their defaults."""
    kernel = ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=D)).double()
    kernel.base_kernel.lengthscale = torch.tensor([[0.7, 1.3, 2.1]])
    kernel.outputscale = 1.7
    likelihood = GaussianLikelihood().double()
    likelihood.noise = 0.2
    mean = gpytorch.means.ConstantMean().double()
    mean.initialize(constant=0.4)
    return mean, kernel, likelihood


def process():
    mean, kernel, likelihood = parts()
    return pb.GaussianProcess(kernel, mean=mean, likelihood=likelihood)


def dataset(x, y):
    return pb.Dataset((x,), {"y": y})


def log_likelihood(model, x, y):
    with isolated(seed=0), torch.no_grad():
        return float(poutine.trace(model).get_trace(x, y).log_prob_sum())


def with_priors():
    kernel = ScaleKernel(
        RBFKernel(ard_num_dims=D, lengthscale_prior=GammaPrior(3.0, 2.0)), outputscale_prior=GammaPrior(2.0, 1.0)
    )
    likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(-1.0, 1.0))
    return pb.GaussianProcess(kernel, likelihood=likelihood).double()


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.skipif(
    not os.environ.get(VARIABLE), reason=f"{VARIABLE} does not name the folder with evidence/mcycle.csv"
)
@pytest.mark.parametrize(
    ("lengthscale", "expected"), [(0.1, -125.706986), (0.3, -108.469855), (0.5, -108.592409), (1.0, -162.909235)]
)
def test_mcycle_has_its_known_log_likelihoods(lengthscale, expected):
    columns = torch.from_numpy(pd.read_csv(locate("evidence/mcycle.csv")).to_numpy(np.float64))
    x, y = ((columns - columns.mean(0)) / columns.std(0, correction=0)).unbind(1)
    kernel = ScaleKernel(RBFKernel()).double()
    kernel.outputscale, kernel.base_kernel.lengthscale = 1.0, lengthscale
    likelihood = GaussianLikelihood().double()
    likelihood.noise = 0.25
    model = pb.GaussianProcess(kernel, mean=gpytorch.means.ZeroMean(), likelihood=likelihood)
    assert log_likelihood(model, x[:, None], y) == pytest.approx(expected, abs=1e-6)


class TheirProcess(gpytorch.models.ExactGP):
    def __init__(self, x, y, mean, kernel, likelihood):
        super().__init__(x, y, likelihood)
        self.mean, self.kernel = mean, kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))


def test_predictions_equal_gpytorchs():
    (x, y), (new, _) = problem(), problem(9, seed=1)
    mean, kernel, likelihood = parts()
    theirs = TheirProcess(x, y, mean, kernel, likelihood).double().eval()
    with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
        expected = likelihood.eval()(theirs(new))
    fit = pb.Posterior(process(), dataset(x, y), {}, {})
    found = pb.predict(fit, new).distribution
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.variance, expected.variance, rtol=1e-8, atol=1e-8)


def test_leave_one_out_equals_refits_without_each_row():
    x, y = problem(12)
    mean, kernel, likelihood = parts()
    with torch.no_grad():
        found = leave_one_out(condition(mean, kernel, likelihood, x, y), y)
        for row in range(12):
            others = torch.arange(12) != row
            given = condition(mean, kernel, likelihood, x[others], y[others])
            alone = conditional(mean, kernel, given, x[others], x[row : row + 1])
            assert float(found.mean[row]) == pytest.approx(float(alone.mean[0]), rel=1e-10)
            assert float(found.variance[row]) == pytest.approx(float(alone.variance[0] + likelihood.noise), rel=1e-10)


def test_draws_have_the_processs_moments():
    x, _ = problem(5)
    with isolated(seed=0), torch.no_grad():
        draws = poutine.trace(process()).get_trace(x).nodes["y"]["fn"].rsample(torch.Size([20_000]))
        mean, kernel, likelihood = parts()
        expected = kernel(x).to_dense() + likelihood.noise * torch.eye(5)
    assert (draws.mean(0) - mean(x)).abs().max() < 4 * (1.9 / 20_000) ** 0.5
    assert (draws.T.cov() - expected).abs().max() < 4 * 2**0.5 * 1.9 / 20_000**0.5


# ---------------------------------------------------------------------------------------------- hyperparameters


def test_prior_hyperparameters_are_sites_of_their_dotted_names_and_densities():
    x, y = problem(12)
    target = pb.target(with_priors(), dataset(x, y))
    assert target.fallback is None
    assert target.given == ("model.mean.raw_constant",)
    theta = torch.linspace(-0.6, 0.8, D + 2).double()[None]
    at = {name: value[0] for name, value in target.constrain(theta).items()}
    priors = {
        "kernel.base_kernel.lengthscale": dist.Gamma(3.0, 2.0),
        "kernel.outputscale": dist.Gamma(2.0, 1.0),
        "likelihood.noise_covar.noise": dist.LogNormal(-1.0, 1.0),
    }
    assert set(at) == set(priors)
    expected = sum(prior.log_prob(at[name]).sum() for name, prior in priors.items())
    found = target.log_prior(theta) - target.log_jacobian(theta)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    model = with_priors()
    model.kernel.base_kernel.lengthscale = at["kernel.base_kernel.lengthscale"]
    model.kernel.outputscale = at["kernel.outputscale"]
    model.likelihood.noise = at["likelihood.noise_covar.noise"]
    plain = pb.GaussianProcess(without(model.kernel), likelihood=without(model.likelihood))
    assert float(target.log_likelihood(theta)) == pytest.approx(log_likelihood(plain, x, y), rel=1e-9)


def without(module):
    """The module without its priors."""
    for each in module.modules():
        each._priors.clear() if isinstance(each, gpytorch.Module) else None
    return module.double()


def test_a_process_without_priors_is_traced_in_float64():
    x, y = problem(12)
    target = pb.target(process(), dataset(x, y))
    assert target.fallback is None
    assert (target.dim, target.dtype) == (0, torch.float64)
    assert len(target.given) == 4
    found = target.log_likelihood(torch.zeros(1, 0).double())
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(log_likelihood(process(), x, y), rel=1e-10)


def test_maximum_likelihood_climbs_to_where_the_gradient_vanishes():
    x, y = problem()
    model = process()
    before = log_likelihood(model, x, y)
    fit = pb.MaximumLikelihood(tolerance=1e-9)(model, dataset(x, y), seed=0)
    assert log_likelihood(model, x, y) == before
    assert fit.info["log_likelihood"] == pytest.approx(log_likelihood(fit.model, x, y), abs=1e-8)
    assert fit.info["log_likelihood"] > before + 1.0
    with isolated(seed=0):
        value = poutine.trace(fit.model).get_trace(x, y).log_prob_sum()
    assert max(float(g.abs().max()) for g in torch.autograd.grad(value, list(fit.model.parameters()))) < 0.05


def test_maximum_likelihood_refuses_latents():
    with pytest.raises(ValueError, match=r"no latents, got latents .+lengthscale.+; fit latents by"):
        pb.MaximumLikelihood()(with_priors(), dataset(*problem(12)), seed=0)


# ---------------------------------------------------------------------------------------------- refusals


def test_minibatches_are_refused():
    x, y = problem(6)
    for run in (pb.target, lambda *call: pb.MaximumLikelihood()(*call, seed=0)):
        with pytest.raises(ValueError, match=r"expected size=None, .+ got size=6; pass"):
            run(process(), pb.Dataset((x,), {"y": y}, 6))


def test_rows_that_do_not_fit_name_what_does():
    x = torch.zeros(1, D, dtype=torch.float64).expand(2_000_000, D)
    with pytest.raises(MemoryError, match=r"needs 96,000,000,000,000; .+SparseGP.+GPProduct"), isolated(seed=0):
        poutine.trace(process()).get_trace(x, x[:, 0]).log_prob_sum()


# ------------------------------------------------------------------------------------------------ deep kernels


def test_a_deep_kernel_is_the_process_of_the_features():
    (x, y), (new, _) = problem(), problem(9, seed=1)
    mean, kernel, likelihood = parts()
    with isolated(seed=0):
        network = pb.MLP(5, D, hidden=(4,)).double()
    wide, new_wide = torch.cat([x, x[:, :2]], 1), torch.cat([new, new[:, :2]], 1)
    deep = pb.GaussianProcess(kernel, mean=mean, likelihood=likelihood, features=network)
    plain = pb.GaussianProcess(kernel, mean=mean, likelihood=likelihood)
    with torch.no_grad():
        h, new_h = network(wide), network(new_wide)
    assert log_likelihood(deep, wide, y) == pytest.approx(log_likelihood(plain, h, y), abs=1e-10)
    found = pb.predict(pb.Posterior(deep, dataset(wide, y), {}, {}), new_wide).distribution
    expected = pb.predict(pb.Posterior(plain, dataset(h, y), {}, {}), new_h).distribution
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)


@pytest.mark.filterwarnings("ignore:MaximumLikelihood. stopped")
def test_the_evidence_fits_the_network_of_a_deep_kernel():
    x, y = problem()
    images = x.reshape(N, 1, 1, D).expand(N, 1, 4, D)
    with isolated(seed=0):
        model = pb.GaussianProcess(parts()[1], features=pb.CNN(1, D, channels=(3,))).double()
    fit = pb.MaximumLikelihood(max_steps=30)(model, dataset(images, y), seed=0)
    assert fit.info["log_likelihood"] > log_likelihood(model, images, y) + 1
    before, after = dict(model.named_parameters()), dict(fit.model.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before if "features" in name)
    assert any("features" in name for name in before)
    again = pb.GaussianProcess(**fit.model.constructor_arguments())
    assert log_likelihood(again, images, y) == pytest.approx(fit.info["log_likelihood"], abs=1e-9)


def test_images_need_features():
    with pytest.raises(ValueError, match="give features that map images to vectors"):
        pb.MaximumLikelihood()(process(), dataset(torch.zeros(4, 1, 8, 8), torch.zeros(4)), seed=0)


# ---------------------------------------------------------------------------------------------- never a wrong number


def test_noise_and_function_make_up_the_predictive_variance():
    x, y = problem()
    model = process()
    found = pb.predict(pb.Posterior(model, dataset(x, y), {}, {}), x[:5] + 0.1)
    given = condition(model.mean, model.kernel, model.likelihood, x, y)
    function = conditional(model.mean, model.kernel, given, x, x[:5] + 0.1).variance.detach()
    assert torch.allclose(found.aleatoric, torch.full((5,), 0.2, dtype=torch.float64), atol=1e-7)
    assert torch.allclose(found.epistemic, function, atol=1e-9)


def test_quantiles_of_predictions_are_the_normals():
    x, y = problem()
    found = pb.predict(pb.Posterior(process(), dataset(x, y), {}, {}), x[:4]).distribution
    low, middle, high = pb.gp.quantiles(found, np.array([0.025, 0.5, 0.975]))
    assert torch.allclose(middle, found.mean, atol=1e-8)
    assert torch.allclose(high - low, 2 * 1.959963984540054 * found.stddev, atol=1e-6)


@pytest.mark.parametrize(("scale", "found"), [(1e6, "uncorrelated"), (1e-9, "perfectly correlated")])
def test_inputs_far_from_the_lengthscale_are_refused_and_not_fitted_as_noise(scale, found):
    x, y = problem()
    kernel = ScaleKernel(RBFKernel())
    with pytest.raises(ValueError, match=f"got all of them {found}.*start the lengthscale near"):
        pb.MaximumLikelihood()(pb.GaussianProcess(kernel), dataset(scale * x, y), seed=0)
    kernel.base_kernel.lengthscale = scale
    fit = pb.MaximumLikelihood()(pb.GaussianProcess(kernel).double(), dataset(scale * x, y), seed=0)
    assert float((pb.predict(fit, scale * x).action - y).square().mean().sqrt()) < 0.5


def test_one_row_and_equal_rows_are_fitted():
    x, y = problem()
    for rows in (slice(1), [0, 0, 0]):
        fit = pb.MaximumLikelihood()(pb.GaussianProcess(ScaleKernel(RBFKernel())), dataset(x[rows], y[rows]), seed=0)
        assert torch.isfinite(pb.predict(fit, x).distribution.variance).all()


def test_a_prior_of_a_function_of_the_parameter_is_refused():
    kernel = RBFKernel()
    kernel.register_prior(
        "log_prior", LogNormalPrior(0.0, 1.0), lambda m: m.lengthscale.log(), lambda m, v: m._set_lengthscale(v.exp())
    )
    with pytest.raises(ValueError, match="prior of lengthscale itself, got 'log_prior' of a function of it"):
        pb.GaussianProcess(kernel)


def test_a_prior_of_numbers_that_the_parameter_cannot_be_is_refused():
    with pytest.raises(ValueError, match="positive numbers for lengthscale, got NormalPrior"):
        pb.GaussianProcess(RBFKernel(lengthscale_prior=NormalPrior(0.0, 1.0)))


def test_a_kernel_in_two_places_is_drawn_in_both():
    x, y = problem(12)
    shared = RBFKernel(lengthscale_prior=GammaPrior(3.0, 3.0))
    model = pb.GaussianProcess(ScaleKernel(shared) + shared).double()
    plain = RBFKernel().double()
    plain.lengthscale = 0.3
    expected = pb.GaussianProcess(ScaleKernel(plain) + plain).double()
    (name,) = [each.site for each in model.hyperparameters]
    drawn = {name: torch.full((1, 1), 0.3, dtype=torch.float64)}
    found = log_likelihood(poutine.condition(model, drawn), x, y)
    prior = float(GammaPrior(3.0, 3.0).log_prob(torch.tensor(0.3)))
    assert found - prior == pytest.approx(log_likelihood(expected, x, y), abs=1e-6)


def test_new_rows_have_the_columns_of_the_old():
    x, y = problem()
    fit = pb.Posterior(pb.GaussianProcess(RBFKernel()).double(), dataset(x[:, :1], y), {}, {})
    with pytest.raises(ValueError, match=r"columns of shape \(1,\) as in training, got \(2,\)"):
        pb.predict(fit, x[:, :2])


@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.TracingWarning")
def test_a_kernel_that_cannot_be_traced_has_the_same_evidence_by_every_door():
    x, y = problem(15)
    model = pb.GaussianProcess(ScaleKernel(PiecewisePolynomialKernel())).double()
    direct = log_likelihood(model, x, y)
    assert pb.evidence.exact(pb.target(model, dataset(x, y))).log_z == pytest.approx(direct, abs=1e-9)
    assert pb.evidence.exact(pb.Posterior(model, dataset(x, y), {}, {})).log_z == pytest.approx(direct, abs=1e-9)


@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.TracingWarning")
def test_laplace_takes_kernels_that_cannot_be_traced():
    x, y = problem(15)
    model = pb.GaussianProcess(PiecewisePolynomialKernel(lengthscale_prior=GammaPrior(3.0, 3.0))).double()
    fit = pb.Laplace(num_samples=50)(model, dataset(x, y), seed=0)
    assert (fit.draws["kernel.lengthscale"] > 0).all()


def test_later_rows_given_earlier_ones_are_a_difference_of_evidences():
    x, y = problem()
    model = process()
    found = pb.diagnosis.conditional_evidence(model, dataset(x, y), 25, estimator=pb.evidence.exact)
    expected = log_likelihood(model, x, y) - log_likelihood(model, x[:25], y[:25])
    assert found.log_z == pytest.approx(expected, abs=1e-8)
    blocks = pb.diagnosis.prequential(model, dataset(x, y), [10, 25, N], estimator=pb.evidence.exact)
    assert blocks.log_z == pytest.approx(log_likelihood(model, x, y), abs=1e-8)


def test_a_joint_likelihood_leaves_no_row_out_by_weights():
    x, y = problem(20)
    kernel = RBFKernel(lengthscale_prior=GammaPrior(3.0, 3.0))
    draws = {"kernel.lengthscale": torch.linspace(0.5, 1.5, 30, dtype=torch.float64)[None, :, None, None]}
    fit = pb.Posterior(pb.gp.GPProduct(kernel, shards=2).double(), dataset(x, y), draws, {})
    assert "log_likelihood" not in pb.to_arviz(fit).groups()
    held = dataset(*problem(10, seed=3))
    assert "elpd_loo" not in [each.name for each in pb.diagnose(fit, held).findings]


def test_laplace_without_latents_says_what_to_take():
    x, y = problem(10)
    with pytest.raises(ValueError, match="fit parameters by MaximumLikelihood"):
        pb.Laplace()(process(), dataset(x, y), seed=0)


def test_a_bounded_parameter_takes_a_prior_on_its_interval_alone():
    interval = gpytorch.constraints.Interval(0.1, 1.0)
    with pytest.raises(ValueError, match="expected no upper bound of lengthscale together with a prior"):
        pb.GaussianProcess(RBFKernel(lengthscale_prior=GammaPrior(3.0, 3.0), lengthscale_constraint=interval))


def test_derivatives_by_transforms_are_those_of_autograd():
    x, y = problem(12)
    mean, _, likelihood = parts()
    kernel = ScaleKernel(RBFKernel()).double()

    def value(rows):
        return gp_log_marginal(mean, kernel, likelihood, rows, y)

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf), leaf)
    assert torch.allclose(torch.func.grad(value)(x), expected, atol=1e-9)
    several = torch.stack([x, x + 0.1])
    assert torch.allclose(torch.func.vmap(value)(several), torch.stack([value(rows) for rows in several]), atol=1e-9)


def test_a_y_below_the_bound_of_the_noise_is_refused():
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    small = pb.Dataset((x,), {"y": 1e-3 * (6 * x[:, 0]).sin()})
    with pytest.raises(ValueError, match="standardize y"):
        pb.MaximumLikelihood()(pb.GaussianProcess(RBFKernel()), small, seed=0)
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(1e-12))
    likelihood.noise = 1e-8
    kernel = ScaleKernel(RBFKernel())
    kernel.outputscale = 1e-6
    fit = pb.MaximumLikelihood()(pb.GaussianProcess(kernel, likelihood=likelihood), small, seed=0)
    assert float((pb.predict(fit, x).action - small.kwargs["y"]).abs().max()) < 1e-5


def test_a_kernel_of_another_width_is_named():
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    process = pb.GaussianProcess(ScaleKernel(RBFKernel(ard_num_dims=3)))
    with pytest.raises(ValueError, match="3 columns for RBFKernel, got 2; set ard_num_dims=2"):
        pb.MaximumLikelihood()(process, pb.Dataset((x,), {"y": x[:, 0]}), seed=0)


def test_svi_of_a_process_by_itself_integrates_its_hyperparameters():
    """Its own guide is for its codes in a pipeline; outside a pipeline it has an automatic one."""
    x = torch.linspace(-2, 2, 25, dtype=torch.float64)[:, None]
    data = pb.Dataset((x,), {"y": (2 * x[:, 0]).sin()})
    process = pb.GaussianProcess(RBFKernel(lengthscale_prior=GammaPrior(3.0, 3.0)), mean=ZeroMean()).double()
    process.likelihood.noise = 0.05
    process.likelihood.raw_noise.requires_grad_(False)
    settings = pb.SVI(num_steps=1_000, optimizer=partial(torch.optim.Adam, lr=0.03), patience=None, progress=False)
    found = settings(process, data, seed=0).draws["kernel.lengthscale"].flatten()
    theta = torch.linspace(-2, 2, 2_001, dtype=torch.float64)[:, None]
    target = pb.target(process, data)
    weights = target.log_joint(theta).softmax(0)
    exact = (weights * theta[:, 0].exp()).sum()
    width = (weights * (theta[:, 0].exp() - exact).square()).sum().sqrt()
    assert abs(found.mean() - exact) < 0.3 * width
    assert 0.7 < found.std() / width < 1.3
