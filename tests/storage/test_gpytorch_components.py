"""Fits of Gaussian processes come back from their folder without any code of the caller's."""

import gpytorch
import pytest
import torch
from gpytorch.constraints import GreaterThan, Interval, Positive
from gpytorch.kernels import LinearKernel, MaternKernel, PeriodicKernel, RBFKernel, RQKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.priors import GammaPrior, HalfCauchyPrior, LogNormalPrior, NormalPrior
from torch import nn

import probmodel as pb

X = torch.linspace(-2, 2, 24, dtype=torch.float64)[:, None] * torch.tensor([1.0, -0.5], dtype=torch.float64)
NOISE = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
DATA = pb.Dataset((X,), {"y": (2 * X[:, 0]).sin() + 0.3 + 0.2 * NOISE})

PROCESSES = {
    "RBF": lambda: pb.GaussianProcess(ScaleKernel(RBFKernel(ard_num_dims=2))),
    "Matérn of one column": lambda: pb.GaussianProcess(MaternKernel(nu=1.5, active_dims=(0,))),
    "rational quadratic": lambda: pb.GaussianProcess(RQKernel(), mean=gpytorch.means.LinearMean(2)),
    "sum": lambda: pb.GaussianProcess(ScaleKernel(PeriodicKernel()) + LinearKernel()),
    "product": lambda: pb.GaussianProcess(RBFKernel(active_dims=(0,)) * RBFKernel(active_dims=(1,))),
    "bounds": lambda: pb.GaussianProcess(
        RBFKernel(lengthscale_constraint=Interval(0.1, 5.0)),
        mean=gpytorch.means.ZeroMean(),
        likelihood=GaussianLikelihood(noise_constraint=GreaterThan(1e-7)),
    ),
    "features": lambda: pb.GaussianProcess(RBFKernel(), features=pb.MLP(2, 3)),
    **{
        each.join.__name__: lambda each=each: pb.gp.GPProduct(RBFKernel(), shards=3, aggregation=each)
        for each in (pb.gp.poe, pb.gp.gpoe, pb.gp.bcm, pb.gp.robust_bcm, pb.gp.generalized_robust_bcm)
    },
}
GATES = {
    "Dirichlet": lambda: pb.gp.DirichletGate(2, concentration=0.7),
    "stick breaking": lambda: pb.gp.StickBreakingGate(2, concentration=2.0),
    "softmax": lambda: pb.gp.SoftmaxGate(2, 2, prior_scale=3.0),
    "density": lambda: pb.gp.DensityGate(2, 2),
}


def comes_back(fit: pb.Posterior, folder) -> pb.Posterior:
    """Loaded without `model=`: the same parameters, and predictions to the last bit."""
    pb.save(fit, folder / "fit")
    again = pb.load(folder / "fit")
    found, expected = (pb.predict(each, fit.data.args[0][:5]).distribution for each in (again, fit))
    assert torch.equal(found.mean, expected.mean) and torch.equal(found.variance, expected.variance)
    named = [dict(each.model.named_parameters()) for each in (again, fit)]
    assert named[0].keys() == named[1].keys()
    assert all(torch.equal(value, named[1][name]) for name, value in named[0].items())
    return again


@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:the model runs eagerly")
@pytest.mark.filterwarnings("ignore:A not p.d.")
@pytest.mark.parametrize("name", PROCESSES)
def test_processes_and_products_come_back(name, tmp_path):
    with pb.isolated(0):
        process = PROCESSES[name]()
    fit = pb.MaximumLikelihood(max_steps=5)(process, DATA, seed=0)
    again = comes_back(fit, tmp_path)
    near, far = (pb.evidence.exact(each).log_z for each in (again, fit)) if "features" not in name else (0.0, 0.0)
    assert near == far


@pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.ConvergenceWarning")
@pytest.mark.parametrize("name", GATES)
def test_mixtures_come_back(name, tmp_path):
    mixture = pb.gp.GPMixture([pb.GaussianProcess(RBFKernel()) for _ in range(2)], GATES[name]())
    settings = pb.VariationalEM(num_restarts=1, num_finalists=1, max_steps=5)
    again = comes_back(settings(mixture, DATA, seed=0), tmp_path)
    gate: object = again.model.gate
    assert type(gate) is type(mixture.gate)
    assert vars(gate).get("concentration") == vars(mixture.gate).get("concentration")
    assert vars(gate).get("prior_scale") == vars(mixture.gate).get("prior_scale")


def test_priors_come_back(tmp_path):
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=GammaPrior(2.0, 2.0)), outputscale_prior=LogNormalPrior(0.0, 1.0))
    mean = gpytorch.means.ConstantMean(constant_prior=NormalPrior(0.0, 2.0))
    process = pb.GaussianProcess(kernel, mean=mean, likelihood=GaussianLikelihood(noise_prior=HalfCauchyPrior(0.5)))
    fit = pb.Laplace()(process, DATA, seed=0)
    again = comes_back(fit, tmp_path)
    theta = torch.linspace(-1, 0.5, 4, dtype=torch.float64)[None]
    a, b = (pb.target(each, DATA).log_prior(theta) for each in (again.model, fit.model))
    # GPyTorch's half-Cauchy prior keeps its scale in float32 beside the one that moves to float64.
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "inducing", [5, nn.Parameter(torch.linspace(-1, 1, 10).reshape(5, 2))], ids=["fixed", "learnt"]
)
def test_a_sparse_process_comes_back(inducing, tmp_path):
    with pb.isolated(0):
        model = pb.Pipeline(pb.Identity(), pb.SparseGP(2, 1, inducing=inducing), pb.Regress(1, 1))
    data = pb.Dataset((X.float(),), {"y": DATA.kwargs["y"].float()[:, None]}, len(X))
    fit = pb.NaturalGradients(5, 12, progress=False, num_samples=5)(model, data, seed=0)
    comes_back(fit, tmp_path)


class Own(RBFKernel):
    """A kernel that no file can name."""


@pytest.mark.parametrize("kernel", [Own, lambda: RBFKernel(lengthscale_constraint=Positive(torch.exp, torch.log))])
def test_what_no_file_can_name_is_asked_for(kernel, tmp_path):
    made = kernel()
    made.lengthscale = 0.7
    fit = pb.Posterior(pb.GaussianProcess(made).double(), DATA, {}, {})
    pb.save(fit, tmp_path / "fit")
    with pytest.raises(ValueError, match="model="):
        pb.load(tmp_path / "fit")
    again = pb.load(tmp_path / "fit", model=pb.GaussianProcess(kernel()))
    assert torch.equal(pb.predict(again, X).action, pb.predict(fit, X).action)
