"""Recorded kernels have the values of GPyTorch's, and the derivatives that a closed form has at equal rows."""

import math

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
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.priors import LogNormalPrior
from torch.distributions import MultivariateNormal
from torch.fx.experimental.proxy_tensor import make_fx

import probmodel as pb
from probmodel.families.gaussian_processes.covariances import covariance, prior_variance
from probmodel.families.gaussian_processes.recordable_kernels import is_recordable

KERNELS = {
    "periodic": lambda: PeriodicKernel(),
    "periodic ard on two columns": lambda: ScaleKernel(PeriodicKernel(ard_num_dims=2, active_dims=(2, 0))),
    "rational quadratic": lambda: ScaleKernel(RQKernel(ard_num_dims=3)),
    "cosine": lambda: CosineKernel(active_dims=(1,)),
    "linear": lambda: ScaleKernel(LinearKernel()),
    "linear ard": lambda: LinearKernel(ard_num_dims=3),
    "polynomial": lambda: ScaleKernel(PolynomialKernel(power=3)),
    "sum with a constant": lambda: RBFKernel(active_dims=(0,)) + ScaleKernel(MaternKernel(nu=1.5)) + ConstantKernel(),
    "product": lambda: ScaleKernel(PeriodicKernel(active_dims=(0,)) * LinearKernel() * RQKernel()),
    "scaled twice": lambda: ScaleKernel(ScaleKernel(RBFKernel(active_dims=(1, 2)))),
}


def rows(n=7, seed=0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2.0


def away_from_defaults(kernel):
    kernel = kernel.double()
    for number, parameter in enumerate(kernel.parameters()):
        parameter.data += 0.3 * (number + 1) + 0.1 * torch.arange(parameter.numel()).view_as(parameter)
    return kernel


@pytest.mark.parametrize("build", KERNELS.values(), ids=KERNELS)
def test_recorded_covariances_and_variances_equal_gpytorchs(build):
    kernel, a = away_from_defaults(build()), rows()
    b = torch.cat([rows(4, seed=1), a[:2]])
    recorded = make_fx(lambda a, b: covariance(kernel, a, b))(a, b)
    torch.testing.assert_close(recorded(a, b), kernel(a, b).to_dense(), rtol=1e-10, atol=1e-12)
    variance = make_fx(lambda a: prior_variance(kernel, a))(a)
    torch.testing.assert_close(variance(a), kernel(a, diag=True), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in KERNELS if "sum" not in name])
def test_recorded_covariances_have_two_derivatives_also_at_equal_rows(name):
    kernel, a = away_from_defaults(KERNELS[name]()), rows(3)
    b = torch.cat([rows(2, seed=1), a[:1]])
    recorded = make_fx(lambda a: covariance(kernel, a, b))(a)
    with torch.random.fork_rng():
        assert torch.autograd.gradcheck(recorded, a.requires_grad_())
        assert torch.autograd.gradgradcheck(recorded, a.requires_grad_())


@pytest.mark.parametrize(
    ("kernel", "curvature"),
    [
        (PeriodicKernel(), -4 * math.pi**2 / math.log(2) ** 3),
        (RQKernel(), -1 / math.log(2) ** 2),
        (CosineKernel(), -(math.pi**2) / math.log(2) ** 2),
    ],
    ids=["periodic", "rational quadratic", "cosine"],
)
def test_stationary_kernels_curve_at_equal_rows(kernel, curvature):
    """The period and the lengthscale are log 2, as GPyTorch starts them."""
    kernel, b = kernel.double(), torch.tensor([[0.7]], dtype=torch.float64)
    recorded = make_fx(lambda a: covariance(kernel, a[:, None], b).sum())(b[0])
    found = torch.autograd.functional.hessian(recorded, b[0])
    assert float(found) == pytest.approx(curvature, rel=1e-9)


@pytest.mark.parametrize(
    "build",
    [
        lambda prior: PeriodicKernel(period_length_prior=prior),
        lambda prior: RQKernel(lengthscale_prior=prior),
        lambda prior: ScaleKernel(LinearKernel(), outputscale_prior=prior),
        lambda prior: RBFKernel() + ScaleKernel(PeriodicKernel(), outputscale_prior=prior),
    ],
    ids=["periodic", "rational quadratic", "scaled linear", "sum"],
)
def test_processes_of_these_kernels_are_traced_with_the_dense_normals_density(build):
    x = torch.cat([rows(9), rows(9)[:1]])
    y = torch.sin(x[:, 0])
    process = pb.GaussianProcess(build(LogNormalPrior(0.0, 1.0)), mean=ZeroMean(), likelihood=GaussianLikelihood())
    target = pb.target(process.double(), pb.Dataset((x,), {"y": y}))
    assert target.fallback is None
    theta = torch.tensor([[0.4]], dtype=torch.float64)
    (site,) = target.constrain(theta)
    kernel = build(None).double()
    name = site.removeprefix("kernel.")
    kernel.initialize(**{name: target.constrain(theta)[site][0]})
    with torch.no_grad():
        k = kernel(x).to_dense() + process.likelihood.noise * torch.eye(10, dtype=torch.float64)
        expected = MultivariateNormal(torch.zeros(10, dtype=torch.float64), k).log_prob(y)
    assert float(target.log_likelihood(theta)) == pytest.approx(float(expected), rel=1e-9)


def test_a_kernel_of_ones_own_is_left_to_its_code():
    class Doubled(RBFKernel):
        def forward(self, *args, **kwargs):
            return 2.0 * super().forward(*args, **kwargs)

    assert not is_recordable(Doubled())
    assert not is_recordable(ScaleKernel(PeriodicKernel() + PiecewisePolynomialKernel()))
    assert is_recordable(ScaleKernel(PeriodicKernel() + RBFKernel()))
