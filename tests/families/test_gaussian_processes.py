"""Exact and sparse Gaussian processes: value and every gradient against GPyTorch, scikit-learn and the dense normal."""

import inspect
import itertools
import warnings
from functools import partial

import gpytorch
import numpy as np
import pytest
import torch
from gpytorch.kernels import (
    ConstantKernel,
    CosineKernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PiecewisePolynomialKernel,
    PolynomialKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
)
from gpytorch.likelihoods import (
    BernoulliLikelihood,
    FixedNoiseGaussianLikelihood,
    GaussianLikelihood,
    MultitaskGaussianLikelihood,
    StudentTLikelihood,
)
from gpytorch.means import ConstantMean, LinearMean, ZeroMean
from gpytorch.utils.warnings import NumericalWarning
from problems.refusals import refused
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from torch.fx.experimental.proxy_tensor import make_fx

from probmodel.families.gaussian_processes import exact as gaussian_process
from probmodel.families.gaussian_processes import positive_definite
from probmodel.families.gaussian_processes.exact import gp_log_marginal
from probmodel.families.gaussian_processes.positive_definite import inverted_in_place
from probmodel.families.gaussian_processes.sparse import JITTER_MULTIPLES, svgp_elbo, whitened_marginals
from probmodel.families.gaussian_processes.stationary_kernels import stationary, stationary_covariance
from probmodel.protocols.errors import TracingWarning
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.programs.program import trace

N, D, M = 40, 3, 7
KERNELS = {
    "rbf": lambda: RBFKernel(),
    "rbf ard": lambda: ScaleKernel(RBFKernel(ard_num_dims=D)),
    "matern 1/2": lambda: ScaleKernel(MaternKernel(nu=0.5, ard_num_dims=D)),
    "matern 3/2": lambda: ScaleKernel(MaternKernel(nu=1.5)),
    "matern 5/2": lambda: MaternKernel(nu=2.5, ard_num_dims=D),
    "matern 5/2 on two columns": lambda: ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=2, active_dims=(2, 0))),
    "scale on two columns": lambda: ScaleKernel(RBFKernel(), active_dims=(0, 2)),
    "scaled twice": lambda: ScaleKernel(ScaleKernel(RBFKernel())),
    "sum": lambda: RBFKernel(active_dims=(0,)) + ScaleKernel(MaternKernel(nu=1.5, active_dims=(1, 2))),
    "product": lambda: ScaleKernel(PeriodicKernel()) * LinearKernel(),
}
MORE_KERNELS = {
    "periodic": lambda: PeriodicKernel(ard_num_dims=D),
    "rational quadratic": lambda: ScaleKernel(RQKernel(ard_num_dims=D)),
    "linear": lambda: ScaleKernel(LinearKernel(ard_num_dims=D)),
    "polynomial": lambda: ScaleKernel(PolynomialKernel(power=3, active_dims=(2, 0))),
    "cosine and constant": lambda: CosineKernel(active_dims=(1,)) + ConstantKernel(),
}


def problem(n=N, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator, dtype=torch.float64) + 3.0
    y = torch.sin(2.0 * x[:, 0]) + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64) + 1.0
    return x.to(dtype), y.to(dtype)


def shaken(*modules, dtype=torch.float64):
    """The modules with parameters away from their defaults, so that no factor is 1."""
    generator = torch.Generator().manual_seed(1)
    for module in modules:
        module.to(dtype)
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.add_(0.4 * noise.to(dtype))
    return modules


def linear_mean():
    with torch.random.fork_rng():  # Its first weights are drawn.
        return LinearMean(D)


def parameters(*modules):
    return [parameter for module in modules for parameter in module.parameters()]


def variational(m=M):
    """Inducing inputs, and a q of whitened values with rubbish above the triangle, which nobody may read."""
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(m, D, generator=generator, dtype=torch.float64) + 3.0
    loc = torch.randn(m, generator=generator, dtype=torch.float64)
    scale = 0.3 * torch.randn(m, m, generator=generator, dtype=torch.float64) + torch.eye(m)
    return u.requires_grad_(), loc.requires_grad_(), scale.requires_grad_()


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x, y, mean, kernel, likelihood):
        super().__init__(x, y, likelihood)
        self.mean, self.kernel = mean, kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))


class Sparse(gpytorch.models.ApproximateGP):
    def __init__(self, mean, kernel, inducing):
        q = gpytorch.variational.CholeskyVariationalDistribution(len(inducing), mean_init_std=0.0)
        super().__init__(gpytorch.variational.VariationalStrategy(self, inducing, q))
        self.mean, self.kernel = mean, kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))


def by_gpytorch(mean, kernel, likelihood, x, y):
    model = Exact(x, y, mean, kernel, likelihood).train()
    with gpytorch.settings.fast_computations(False, False, False), gpytorch.settings.debug(False):
        return gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)(model(x), y) * len(y)


def assert_same(ours, theirs, wanted, tolerance=1e-8):
    """Equal values and gradients, relative to the largest entry of each."""
    assert abs(ours - theirs) < tolerance * (1.0 + abs(theirs))
    pairs = zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True)
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        assert (found - expected).abs().max() < tolerance * (1.0 + expected.abs().max())


@pytest.mark.parametrize("build", KERNELS.values(), ids=KERNELS)
def test_log_marginal_and_every_gradient_equal_gpytorch(build, monkeypatch):
    # Blocks smaller than the data, so that panels and the blocked inverse meet their borders.
    monkeypatch.setattr(gaussian_process, "PANEL", 16)
    monkeypatch.setattr(positive_definite, "BLOCK", 8)
    x, y = problem()
    x.requires_grad_(), y.requires_grad_()
    modules = shaken(linear_mean(), build(), GaussianLikelihood())
    # GPyTorch leaves rounding on the diagonal of r², whose root is 1e-8, where x takes a gradient.
    tolerance = 1e-6 if build is KERNELS["matern 1/2"] else 1e-8
    assert_same(gp_log_marginal(*modules, x, y), by_gpytorch(*modules, x, y), [x, y, *parameters(*modules)], tolerance)


@pytest.mark.parametrize("build", [KERNELS["rbf ard"], KERNELS["sum"]], ids=["rbf ard", "sum"])
@pytest.mark.parametrize("learn", [False, True])
def test_noise_of_each_row_equals_gpytorch(build, learn):
    x, y = problem()
    noise = torch.linspace(0.05, 0.6, N, dtype=torch.float64)
    likelihood = FixedNoiseGaussianLikelihood(noise, learn_additional_noise=learn)
    modules = shaken(ConstantMean(), build(), likelihood)
    assert_same(gp_log_marginal(*modules, x, y), by_gpytorch(*modules, x, y), parameters(*modules))


@pytest.mark.parametrize("name", ["rbf ard", "matern 5/2", "product"])
def test_log_marginal_equals_the_dense_normal(name):
    x, y = problem()
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood())
    covariance = kernel(x).to_dense() + likelihood.noise * torch.eye(N)
    exact = torch.distributions.MultivariateNormal(mean(x), covariance).log_prob(y)
    found = gp_log_marginal(mean, kernel, likelihood, x, y)
    assert abs(found - exact) < 1e-9
    with torch.no_grad():
        assert gp_log_marginal(mean, kernel, likelihood, x, y) == found


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, None])
def test_log_marginal_and_gradient_equal_scikit_learn(nu):
    x, y = problem()
    lengthscale = np.array([0.7, 1.3, 2.0])
    base = sk.RBF(lengthscale) if nu is None else sk.Matern(lengthscale, nu=nu)
    theirs = GaussianProcessRegressor(
        sk.ConstantKernel(1.7) * base + sk.WhiteKernel(0.2), alpha=0.0, optimizer=None
    ).fit(x.numpy(), y.numpy())
    value, grads = theirs.log_marginal_likelihood(theirs.kernel_.theta, eval_gradient=True)
    ours = RBFKernel(ard_num_dims=D) if nu is None else MaternKernel(nu=nu, ard_num_dims=D)
    kernel, likelihood = ScaleKernel(ours).double(), GaussianLikelihood().double()
    # A Python float would pass through float32.
    scale, noise = torch.tensor([1.7, 0.2], dtype=torch.float64)
    ours.lengthscale, kernel.outputscale, likelihood.noise = torch.tensor(lengthscale), scale, noise
    found = gp_log_marginal(ZeroMean(), kernel, likelihood, x, y)
    assert abs(found - value) < 1e-8
    # Theirs is the gradient in the logarithms: multiply ours by softplus(raw) / softplus'(raw).
    raw = [kernel.raw_outputscale, ours.raw_lengthscale, likelihood.noise_covar.raw_noise]
    values = [kernel.outputscale, ours.lengthscale, likelihood.noise]
    by_log = [
        (g * v / torch.sigmoid(r)).flatten()
        for g, v, r in zip(torch.autograd.grad(found, raw), values, raw, strict=True)
    ]
    assert np.allclose(torch.cat(by_log).detach().numpy(), grads, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["rbf ard", "matern 3/2", "sum"])
def test_gradients_of_both_objectives_equal_finite_differences(name):
    x, y = problem(n=6)
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood())
    inputs = (x.requires_grad_(), y.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: gp_log_marginal(mean, kernel, likelihood, x, y), inputs)
    u, loc, scale = variational(3)
    elbo = lambda u, loc, scale, x, y: svgp_elbo(mean, kernel, likelihood, u, loc, scale, x, y, 9)  # noqa: E731
    assert torch.autograd.gradcheck(elbo, (u, loc, scale, *inputs))


@pytest.mark.parametrize("name", ["rbf ard", "matern 1/2", "sum"])
def test_float32_stays_float32_and_near_float64(name):
    values = {}
    for dtype in (torch.float32, torch.float64):
        x, y = problem(dtype=dtype)
        x.requires_grad_()
        modules = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood(), dtype=dtype)
        u, loc, scale = (tensor.detach().to(dtype) for tensor in variational())
        value = torch.stack([gp_log_marginal(*modules, x, y), svgp_elbo(*modules, u, loc, scale, x, y, N)])
        assert value.dtype == dtype
        values[dtype] = value
        assert torch.autograd.grad(value.sum(), x)[0].dtype == dtype
    assert torch.allclose(values[torch.float32].double()[0], values[torch.float64][0], rtol=1e-4)
    # The jitter of sparse processes is 1e-4 in float32 and 1e-6 in float64.
    assert torch.allclose(values[torch.float32].double()[1], values[torch.float64][1], rtol=1e-2)


def test_parameters_of_another_precision_follow_the_data():
    x, y = problem()
    modules = ConstantMean(), ScaleKernel(RBFKernel()), GaussianLikelihood()
    found = gp_log_marginal(*modules, x, y)
    assert found.dtype == torch.float64
    assert abs(found - gp_log_marginal(*(module.double() for module in modules), x, y)) < 1e-5


@pytest.mark.parametrize("name", ["rbf ard", "matern 1/2", "product"])
def test_one_row_is_a_normal_density(name):
    x, y = problem(n=1)
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood())
    variance = kernel(x).to_dense()[0] + likelihood.noise
    exact = torch.distributions.Normal(mean(x), variance.sqrt()).log_prob(y).sum()
    assert_same(gp_log_marginal(mean, kernel, likelihood, x, y), exact, parameters(mean, likelihood))


@pytest.mark.parametrize("name", ["rbf ard", "matern 1/2", "matern 3/2", "matern 5/2"])
def test_equal_and_nearly_equal_rows_keep_value_and_gradient(name):
    x, y = problem()
    with torch.no_grad():
        x = torch.cat([x, x[:5], x[5:10] + 1e-4])
        y = torch.cat([y, y[:10] + 0.1])
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood())
    found = gp_log_marginal(mean, kernel, likelihood, x.requires_grad_(), y)
    exact = torch.distributions.MultivariateNormal(mean(x), slowly(kernel, x) + likelihood.noise * torch.eye(len(y)))
    assert_same(found, exact.log_prob(y), [x, *parameters(mean, kernel, likelihood)], 1e-6)


@pytest.mark.parametrize("name", ["matern 1/2", "matern 5/2"])
def test_gradients_are_exact_to_rounding_from_explicit_differences(name):
    x, y = problem()
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood())
    found = gp_log_marginal(mean, kernel, likelihood, x.requires_grad_(), y)
    exact = torch.distributions.MultivariateNormal(mean(x), slowly(kernel, x) + likelihood.noise * torch.eye(N))
    assert_same(found, exact.log_prob(y), [x, *parameters(mean, kernel, likelihood)], 1e-10)


def slowly(kernel, x, other=None):
    """The covariance from differences, exact for near rows, with slope 0 where they are equal."""
    scale, base = (kernel.outputscale, kernel.base_kernel) if type(kernel) is ScaleKernel else (1.0, kernel)
    r2 = ((x[:, None] - (x if other is None else other)) / base.lengthscale).square().sum(2)
    if type(base) is RBFKernel:
        return scale * torch.exp(-0.5 * r2)
    same = r2 == 0
    a = (2.0 * base.nu * torch.where(same, 1.0, r2)).sqrt()
    polynomial = {0.5: 1.0, 1.5: 1.0 + a, 2.5: 1.0 + a + a**2 / 3.0}[base.nu]
    return scale * torch.where(same, 1.0, polynomial * torch.exp(-a))


def test_inverse_by_blocks_equals_the_inverse(monkeypatch):
    monkeypatch.setattr(positive_definite, "BLOCK", 8)
    for n in (1, 7, 8, 9, 37, 64):
        a = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        k = a @ a.mT + torch.eye(n)
        upper = inverted_in_place(positive_definite.upper_factor(k.clone()))
        assert torch.allclose(upper.triu(), torch.linalg.inv(k).triu(), atol=1e-10)


def test_added_jitter_is_warned_of_and_enters_the_value():
    x, y = problem()
    x = torch.cat([x, x])
    y = torch.cat([y, y])
    kernel, mean = ScaleKernel(RBFKernel()).double(), ZeroMean()
    kernel.outputscale = 50.0
    likelihood = GaussianLikelihood(noise_constraint=gpytorch.constraints.GreaterThan(0.0)).double()
    likelihood.noise = 1e-18
    with pytest.warns(NumericalWarning, match="jitter of 1e-10 × the mean variance"):
        found = gp_log_marginal(mean, kernel, likelihood, x, y)
    likelihood.noise = 50.0 * 1e-10
    assert abs(found - gp_log_marginal(mean, kernel, likelihood, x, y)) < 1e-4 * abs(found)


def test_a_covariance_beyond_jitter_is_refused():
    x, y = problem()
    kernel = RBFKernel().double()
    kernel.raw_lengthscale.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"expected a positive definite .+ got .+; check"):
        gp_log_marginal(ZeroMean(), kernel, GaussianLikelihood(), x, y)
    with pytest.raises(ValueError, match=r"expected a positive definite .+ got .+; check"):
        svgp_elbo(ZeroMean(), kernel, GaussianLikelihood(), *variational(), x, y, N)


def test_too_many_rows_are_refused_before_anything_is_allocated():
    n = 2_000_000
    x = torch.zeros(1, 1, dtype=torch.float64).expand(n, 1)
    with pytest.raises(MemoryError, match=r"needs 96,000,000,000,000; use a sparse"):
        gp_log_marginal(ZeroMean(), RBFKernel(), GaussianLikelihood(), x, x[:, 0])


def bad_calls():
    x, y = problem()
    u, loc, scale = variational()
    rbf, gaussian = RBFKernel(), GaussianLikelihood()
    with torch.random.fork_rng():  # Its first weights are drawn.
        other = LinearMean(D)
    nan = torch.where(torch.arange(N) == 3, float("nan"), y)
    exact = {
        "y is a column": (rbf, gaussian, x, y[:, None]),
        "y is short": (rbf, gaussian, x, y[1:]),
        "x is a vector": (rbf, gaussian, y, y),
        "no rows": (rbf, gaussian, x[:0], y[:0]),
        "two types": (rbf, gaussian, x, y.float()),
        "whole numbers": (rbf, gaussian, x.long(), y.long()),
        "nan in y": (rbf, gaussian, x, nan),
        "infinite x": (rbf, gaussian, x / 0.0, y),
        "wrong ard": (RBFKernel(ard_num_dims=D + 1), gaussian, x, y),
        "batch of kernels": (RBFKernel(batch_shape=torch.Size([2])), gaussian, x, y),
        "noise of other rows": (rbf, FixedNoiseGaussianLikelihood(torch.ones(N - 1)), x, y),
        "several outputs": (gpytorch.kernels.RBFKernelGrad(), gaussian, x, y),
    }
    sparse = {
        "size below the batch": (u, loc, scale, N - 1),
        "other columns": (u[:, 1:], loc, scale, N),
        "fewer values": (u, loc[1:], scale, N),
        "not square": (u, loc, scale[1:], N),
        "other type": (u.float(), loc, scale, N),
        "a scale of 0": (u, loc, scale * (torch.arange(M) != 2), N),
        "a scale that is no number": (u, loc, scale * torch.where(torch.arange(M) == 2, float("nan"), 1.0), N),
    }
    yield pytest.param(lambda: gp_log_marginal(other, rbf, gaussian, x, y), id="a mean of another type")
    yield pytest.param(
        lambda: svgp_elbo(other, rbf, gaussian, u, loc, scale, x, y, N), id="a mean of another type, sparse"
    )
    for name, (kernel, likelihood, a, b) in exact.items():
        yield pytest.param(lambda k=kernel, q=likelihood, a=a, b=b: gp_log_marginal(ZeroMean(), k, q, a, b), id=name)
    for name, (*q, size) in sparse.items():
        yield pytest.param(lambda q=q, size=size: svgp_elbo(ZeroMean(), rbf, gaussian, *q, x, y, size), id=name)


@pytest.mark.parametrize("call", list(bad_calls()))
def test_bad_input_is_refused_with_expected_got_and_remedy(call):
    with refused():
        call()


@pytest.mark.parametrize("position", range(2))
def test_numpy_arrays_are_refused_with_a_remedy(position):
    """Annotations, which are checked in tests only, would refuse them first."""
    rows = [x.numpy() if i == position else x for i, x in enumerate(problem())]
    modules, q = (ZeroMean(), RBFKernel(), GaussianLikelihood()), variational()
    message = rf"expected {'xy'[position]} as a PyTorch tensor, got numpy.ndarray; give torch.as_tensor"
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(gp_log_marginal)(*modules, *rows)
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(svgp_elbo)(*modules, *q, *rows, N)
    with pytest.raises(TypeError, match=r"expected q_loc as a PyTorch tensor, got numpy\.ndarray; give"):
        inspect.unwrap(svgp_elbo)(*modules, q[0], q[1].detach().numpy(), q[2], *problem(), N)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, StudentTLikelihood])
def test_the_exact_marginal_refuses_other_likelihoods_and_names_the_sparse_bound(likelihood):
    x, y = problem()
    message = rf"expected a GaussianLikelihood .+, got {likelihood.__name__}; .+ use svgp_elbo"
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(gp_log_marginal)(ZeroMean(), RBFKernel(), likelihood(), x, y)


def test_any_kernel_of_a_higher_precision_follows_the_data():
    x, y = problem(dtype=torch.float32)
    mean, kernel, likelihood = shaken(ZeroMean(), KERNELS["product"](), GaussianLikelihood())
    q = (tensor.detach().float() for tensor in variational())
    for found in (gp_log_marginal(mean, kernel, likelihood, x, y), svgp_elbo(mean, kernel, likelihood, *q, x, y, N)):
        assert found.dtype == torch.float32
        assert found.isfinite()


def sparse_pair(mean, kernel, likelihood, x, y, size):
    """Our bound and GPyTorch's on the same parameters, and those parameters."""
    u, loc, scale = (tensor.detach() for tensor in variational())
    model = Sparse(mean, kernel, u).double().train()
    strategy, q = model.variational_strategy, model.variational_strategy._variational_distribution
    strategy.variational_params_initialized.fill_(1)
    q.variational_mean.data.copy_(loc), q.chol_variational_covar.data.copy_(scale)
    given = strategy.inducing_points, q.variational_mean, q.chol_variational_covar
    theirs = gpytorch.mlls.VariationalELBO(likelihood, model, size)(model(x), y) * size
    wanted = [*given, *parameters(mean, kernel, likelihood)]
    return svgp_elbo(mean, kernel, likelihood, *given, x, y, size), theirs, wanted


@pytest.mark.parametrize("build", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("rows", [5, N])
def test_sparse_elbo_and_every_gradient_equal_gpytorch(build, rows):
    x, y = problem(n=rows)
    x.requires_grad_(), y.requires_grad_()
    modules = shaken(linear_mean(), build(), GaussianLikelihood())
    ours, theirs, wanted = sparse_pair(*modules, x, y, 100)
    assert_same(ours, theirs, [x, y, *wanted])


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood, StudentTLikelihood])
def test_other_likelihoods_equal_gpytorch(likelihood):
    x, y = problem()
    y = (y > 1.0).double()
    assert_same(*sparse_pair(*shaken(ConstantMean(), KERNELS["rbf ard"](), likelihood()), x, y, 100))


def test_noise_of_each_row_enters_the_sparse_elbo():
    x, y = problem()
    likelihood = FixedNoiseGaussianLikelihood(torch.linspace(0.05, 0.6, N, dtype=torch.float64))
    assert_same(*sparse_pair(*shaken(ConstantMean(), KERNELS["matern 5/2"](), likelihood), x, y, N))


def test_a_likelihood_of_several_outputs_is_refused():
    x, y = problem()
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        svgp_elbo(ZeroMean(), RBFKernel(), MultitaskGaussianLikelihood(2), *variational(), x, y, N)


@pytest.mark.parametrize("name", ["rbf ard", "product"])
def test_mean_over_all_minibatches_equals_the_full_elbo(name):
    x, y = problem(n=6)
    modules, q = shaken(ConstantMean(), KERNELS[name](), GaussianLikelihood()), variational()
    wanted = [*q, *parameters(*modules)]
    batches = [list(rows) for rows in itertools.combinations(range(6), 2)]
    mean = torch.stack([svgp_elbo(*modules, *q, x[rows], y[rows], 6) for rows in batches]).mean()
    assert_same(mean, svgp_elbo(*modules, *q, x, y, 6), wanted, 1e-10)


def test_sparse_elbo_with_the_optimal_q_at_all_inputs_reaches_the_log_marginal():
    x, y = problem(n=12)
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS["matern 1/2"](), GaussianLikelihood())
    with torch.no_grad():
        factor = torch.linalg.cholesky(kernel(x).to_dense() + 1e-6 * torch.eye(12))
        precision = torch.eye(12) + factor.mT @ factor / likelihood.noise
        covariance = torch.linalg.inv(precision)
        loc = covariance @ factor.mT @ (y - mean(x)) / likelihood.noise
        q = x, loc, torch.linalg.cholesky(covariance)
    elbo = svgp_elbo(mean, kernel, likelihood, *q, x, y, 12)
    exact = gp_log_marginal(mean, kernel, likelihood, x, y)
    assert elbo < exact
    assert exact - elbo < 1e-3


def test_repeated_inducing_inputs_are_helped_by_the_jitter_without_a_warning():
    x, y = problem()
    u, loc, scale = variational()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        doubled = torch.cat([u[:4], u[:3]])
        assert svgp_elbo(ZeroMean(), RBFKernel(), GaussianLikelihood(), doubled, loc, scale, x, y, N).isfinite()


def test_a_second_derivative_is_refused():
    x, y = problem()
    x.requires_grad_()
    modules, q = shaken(ConstantMean(), RBFKernel(), GaussianLikelihood()), variational()
    for value in (gp_log_marginal(*modules, x, y), svgp_elbo(*modules, *q, x, y, N)):
        with pytest.raises(NotImplementedError, match=r"expected a first derivative, got .+; "):
            torch.autograd.grad(value, x, create_graph=True)


@pytest.mark.parametrize("name", [*KERNELS, *MORE_KERNELS])
def test_a_traced_bound_has_the_eager_value_and_gradient(name):
    mean, kernel, likelihood = shaken(ConstantMean(), (KERNELS | MORE_KERNELS)[name](), GaussianLikelihood())
    x, y = problem()
    _, _, wanted = sparse_pair(mean, kernel, likelihood, x, y, 2 * N)
    u, loc, scale = wanted[:3]
    x = torch.cat([x[:-1], u[:1].detach()])  # A row at an inducing input, where a distance has no slope.

    def loss(x, y):
        return -svgp_elbo(mean, kernel, likelihood, u, loc, scale, x, y, 2 * N)

    traced = Gradient(loss, wanted, x, y)
    assert traced.program.reason is None
    value, grads = traced(x, y)
    eager = loss(x, y)
    torch.testing.assert_close(value, eager.detach(), rtol=1e-10, atol=0.0)
    for ours, exact in zip(grads, torch.autograd.grad(eager, wanted), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-7, atol=1e-8 * float(exact.abs().max()))


def test_kernels_whose_code_asks_for_values_run_eagerly_with_a_warning():
    kernel, likelihood = PiecewisePolynomialKernel().double(), GaussianLikelihood().double()
    x, y = problem()
    u, loc, scale = (tensor.detach() for tensor in variational())
    with pytest.warns(TracingWarning, match="runs eagerly.*aten.equal"):
        program = trace(lambda x: svgp_elbo(ZeroMean(), kernel, likelihood, u, loc, scale, x, y, N), x)
    assert program.run is None


def test_a_traced_bound_is_nan_where_the_covariance_is_not_positive_definite():
    kernel, likelihood = RBFKernel().double(), GaussianLikelihood().double()
    x, y = problem(N)
    u, loc, scale = variational()

    def loss(u):
        return svgp_elbo(ZeroMean(), kernel, likelihood, u, loc.detach(), scale.detach(), x, y, N)

    with gpytorch.settings.variational_cholesky_jitter(double_value=0.0):
        program = trace(loss, u.detach())
    assert program.run(*program.detached, u.detach()).isfinite()
    assert program.run(*program.detached, u.detach()[:1].expand(M, D)).isnan()


JITTER = torch.tensor(1e-3, dtype=torch.float64)


def indefinite(rung):
    """[Kuu, Kux] with a smallest eigenvalue of −half of what the rung adds."""
    rows = torch.randn(M, M + 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(rows[:, :M] @ rows[:, :M].mT + torch.eye(M))
    values[0] = -0.5 * JITTER_MULTIPLES[rung] * JITTER
    return torch.cat([vectors @ torch.diag(values) @ vectors.mT, rows[:, M:]], 1)


@pytest.mark.parametrize("rung", range(4))
def test_a_traced_bound_climbs_the_same_ladder_with_finite_gradients(rung):
    """The eager branch warns, the recorded one only adds."""
    jitter, k = JITTER, indefinite(rung)
    _, loc, scale = (tensor.detach() for tensor in variational())

    def loss(k, jitter, loc, scale):
        return torch.cat(whitened_marginals(k, jitter, loc, scale)).sum()

    start = torch.cat([torch.eye(M, dtype=torch.float64), k[:, M:]], 1)
    program = trace(loss, start, jitter, loc, scale)
    inputs = [tensor.clone().requires_grad_() for tensor in (k, jitter, loc, scale)]
    found = program.run(*inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exact = loss(*inputs)
    assert len(caught) == (rung > 0)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0.0)
    for ours, theirs in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(exact, inputs), strict=True):
        assert ours.isfinite().all()
        # Of a symmetric argument only the symmetric part of a gradient is defined.
        ours, theirs = (torch.cat([g[:, :M] + g[:, :M].mT, g[:, M:]], 1) if g.dim() == 2 else g for g in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * float(theirs.abs().max()))
    k[:M, :M] -= 10.0 * JITTER_MULTIPLES[-1] * jitter * torch.eye(M)
    assert program.run(k, jitter, loc, scale).isnan()


@pytest.mark.compiles
def test_compiled_code_climbs_the_ladder():
    k = torch.cat([torch.eye(M, dtype=torch.float64), indefinite(2)[:, M:]], 1).requires_grad_()
    _, loc, scale = (tensor.detach() for tensor in variational())

    def loss(jitter):
        return torch.cat(whitened_marginals(k, jitter, loc, scale)).sum()

    compiled = Gradient(loss, [k], JITTER)
    compiled.compile()
    assert compiled.native.compiled
    k.data.copy_(indefinite(2))
    value, (grad,) = compiled(JITTER)
    with pytest.warns(NumericalWarning, match="jitter of 100 ×"):
        exact = loss(JITTER)
    torch.testing.assert_close(value, exact.detach(), rtol=1e-9, atol=0.0)
    (exact_slope,) = torch.autograd.grad(exact, k)
    torch.testing.assert_close(grad[:, M:], exact_slope[:, M:], rtol=1e-6, atol=1e-8)
    assert grad.isfinite().all()


@pytest.mark.parametrize("columns", [2, 6])
@pytest.mark.parametrize("build", [RBFKernel, *(partial(MaternKernel, nu) for nu in (0.5, 1.5, 2.5))])
def test_a_recorded_covariance_has_the_second_derivative_of_gpytorch(build, columns):
    generator = torch.Generator().manual_seed(3)
    a, b, weights = (torch.randn(n, columns, generator=generator, dtype=torch.float64) for n in (4, 5, 4))
    weights = weights @ weights.new_ones(columns, 5)
    kernel = build().double()
    kernel.lengthscale = torch.tensor(1.3, dtype=torch.float64)
    shape, lengthscale = stationary(kernel).shape, kernel.lengthscale.detach()

    def ours(a, b, scale):
        return stationary_covariance(shape, a / scale, b / scale)

    recorded = make_fx(ours)(a, b, lengthscale)
    inputs = [tensor.clone().requires_grad_() for tensor in (a, b, lengthscale)]
    torch.testing.assert_close(recorded(*inputs), kernel(a, b).to_dense(), rtol=1e-10, atol=1e-12)
    with torch.random.fork_rng():
        assert torch.autograd.gradcheck(recorded, inputs)
        assert torch.autograd.gradgradcheck(recorded, inputs)

    def curvature(function):
        return torch.autograd.functional.hessian(lambda a: (weights * function(a)).sum(), a)

    # GPyTorch's distance for Matérn kernels has no second derivative.
    theirs = curvature(lambda a: kernel(a, b).to_dense() if build is RBFKernel else slowly(kernel, a, b))
    torch.testing.assert_close(curvature(lambda a: recorded(a, b, lengthscale)), theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("columns", [2, 6])
@pytest.mark.parametrize(
    ("build", "derivative"), [(RBFKernel, -0.5), (partial(MaternKernel, 1.5), -1.5), (MaternKernel, -5 / 6)]
)
def test_a_recorded_covariance_curves_at_equal_rows(build, derivative, columns):
    """There d²k / da² = 2 ∂k/∂r² I: a mask of r² would lose it, a root of r² make it NaN."""
    a = torch.randn(3, columns, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    shape = stationary(build()).shape
    recorded = make_fx(lambda a, b: stationary_covariance(shape, a, b))(a, a.clone())
    curved = torch.autograd.functional.hessian(lambda x: recorded(torch.cat([x[None], a[1:]]), a)[0, 0], a[0])
    torch.testing.assert_close(curved, 2.0 * derivative * torch.eye(columns, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_a_recorded_bound_has_a_second_derivative():
    mean, kernel, likelihood = shaken(ConstantMean(), KERNELS["matern 5/2"](), GaussianLikelihood())
    x, y = problem(n=6)
    _, loc, scale = (tensor.detach() for tensor in variational(3))
    modules = [module.requires_grad_(False) for module in (mean, kernel, likelihood)]
    u = variational(3)[0].detach()
    program = trace(lambda u: svgp_elbo(*modules, u, loc, scale, x, y, 9), u)
    with torch.random.fork_rng():
        assert torch.autograd.gradgradcheck(program.run, (u.requires_grad_(),))
