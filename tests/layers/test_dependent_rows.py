"""Latent function values of processes, products and mixtures in a pipeline, against models that integrate them out."""

import math
from functools import partial

import gpytorch
import pyro
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.means import ConstantMean
from gpytorch.priors import GammaPrior
from problems import exact_answers as problems
from torch import Tensor
from torch.distributions import constraints

import probmodel as pb
from probmodel.families.gaussian_processes.experts.aggregation import Aggregation
from probmodel.inference.objectives.elbo import elbo

N, NOISE = 14, 0.3
DOUBLE = torch.float64
ALL_BUT_COMMUNICATING = (pb.gp.poe, pb.gp.gpoe, pb.gp.bcm, pb.gp.robust_bcm)


@pytest.fixture(autouse=True)
def _little_jitter():
    """Jitter as small as these well-spread rows allow, since it would be visible against an exact answer."""
    with gpytorch.settings.variational_cholesky_jitter(double_value=1e-11):
        yield


def data() -> pb.Dataset:
    noise = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    x = torch.linspace(-2, 2, N, dtype=DOUBLE)[:, None]
    return pb.Dataset((x,), {"y": torch.sin(2 * x[:, 0]) + NOISE * noise})


NEW = torch.tensor([[-1.1], [0.35], [2.4]], dtype=DOUBLE)


def kernel(lengthscale: float = 0.7) -> ScaleKernel:
    found = ScaleKernel(MaternKernel(nu=2.5)).double()
    found.base_kernel.lengthscale = torch.tensor(lengthscale, dtype=DOUBLE)
    found.outputscale = torch.tensor(1.4, dtype=DOUBLE)
    return found


def mean() -> ConstantMean:
    return ConstantMean(constant_prior=None).double().initialize(constant=0.2)


def pipeline(representation, decision=None):
    """Pipeline with a decision that returns the code itself and adds noise."""
    with pb.isolated(0):
        made = pb.Regress(1, 1, noise=NOISE) if decision is None else decision()
        model = pb.Pipeline(pb.Identity(), representation, made).double()
    if decision is None:
        with torch.no_grad():
            made.mean.weight.fill_(1.0)
            made.mean.bias.fill_(0.0)
    return model


def alone(shards: int | None = None, aggregation: Aggregation = pb.gp.robust_bcm):
    """The same process or product with its own noise, the function integrated out."""
    if shards is None:
        process = model = pb.GaussianProcess(kernel(), mean=mean()).double()
    else:
        model = pb.gp.GPProduct(kernel(), mean=mean(), shards=shards, aggregation=aggregation).double()
        process = model.expert
    process.likelihood.noise = torch.tensor(NOISE**2, dtype=DOUBLE)
    return model


def coded(shards: int | None = None, aggregation: Aggregation = pb.gp.robust_bcm):
    if shards is None:
        return pb.GaussianProcess(kernel(), mean=mean())
    return pb.gp.GPProduct(kernel(), mean=mean(), shards=shards, aggregation=aggregation)


def log_z_alone(shards: int | None = None) -> float:
    return pb.evidence.exact(pb.target(alone(shards), data())).log_z


# ------------------------------------------------------------------------------------------ equal to the marginal model


@pytest.mark.parametrize("shards", [None, 1, 3])
def test_the_evidence_of_the_pipeline_is_the_marginal_models(shards):
    found = pb.evidence.exact(pb.Exact()(pipeline(coded(shards)), data(), seed=0))
    assert abs(found.log_z - log_z_alone(shards)) < 1e-7


def test_two_communicating_experts_have_the_evidence_of_the_exact_process():
    model = pipeline(coded(2, pb.gp.generalized_robust_bcm))
    assert abs(pb.evidence.exact(pb.Exact()(model, data(), seed=0)).log_z - log_z_alone()) < 1e-7


@pytest.mark.parametrize(
    ("shards", "aggregation"),
    [(None, pb.gp.robust_bcm), (2, pb.gp.generalized_robust_bcm), (1, pb.gp.gpoe), (1, pb.gp.bcm)],
)
def test_predictions_average_to_those_of_the_exact_process(shards, aggregation):
    fit = pb.Exact(num_samples=4_000)(pipeline(coded(shards, aggregation)), data(), seed=0)
    found = pb.predict(fit, NEW, num_samples=4_000).by_draw
    exact = pb.predict(pb.Posterior(alone(), data(), {}, {}), NEW).distribution
    means = found.mean[..., 0]
    assert ((means.mean(0) - exact.mean).abs() < 4 * means.std(0) / math.sqrt(4_000)).all()
    # Codes are drawn: the variances of the code and of u are both in the draws, that of the noise is not.
    total = means.var(0) + NOISE**2
    assert ((total / exact.variance - 1).abs() < 4 * math.sqrt(2 / 4_000)).all()


@pytest.mark.parametrize("aggregation", ALL_BUT_COMMUNICATING)
def test_experts_say_of_new_rows_what_they_say_given_their_functions(aggregation):
    """With hardly any noise the observations of the experts equal their functions."""
    model, rows = alone(3, aggregation), data()
    model.expert.likelihood.noise_covar.raw_noise_constraint = gpytorch.constraints.GreaterThan(1e-12)
    model.expert.likelihood.noise = torch.tensor(1e-9, dtype=DOUBLE)
    exact = pb.predict(pb.Posterior(model, rows, {}, {}), NEW).distribution
    product = coded(3, aggregation).double()
    shards = product.rows(rows.args[0])
    uppers = [torch.linalg.cholesky(kernel()(rows.args[0][s]).to_dense()).mT for s in shards]
    u = {
        f"u.{k}": torch.linalg.solve_triangular(upper.mT, (rows.kwargs["y"][s] - 0.2)[:, None], upper=False).mT
        for k, (s, upper) in enumerate(zip(shards, uppers, strict=True))
    }
    with pb.isolated(0), pyro.poutine.trace() as run, pyro.poutine.condition(data=u):
        product.codes_of_new_rows(rows.args[0], NEW, pyro.plate("rows", len(NEW), dim=-1))
    z = run.trace.nodes["z"]["fn"]
    assert torch.allclose(z.mean[:, 0], exact.mean, atol=1e-5)
    assert torch.allclose(z.variance[:, 0], exact.variance, atol=1e-5)


# ------------------------------------------------------------------------------------------ the guide


def test_the_guide_holds_the_exact_posterior_of_a_linear_decision():
    """One weight per row, 1 / σ², and the posterior's mean: the bound is then the evidence, without Monte Carlo error."""
    model, rows = pipeline(coded()), data()
    x, y = rows.args[0], rows.kwargs["y"]
    lower = torch.linalg.cholesky(kernel()(x).to_dense())
    precision = torch.eye(N, dtype=DOUBLE) + lower.mT @ lower / NOISE**2
    loc = torch.linalg.solve(precision, lower.mT @ (y - 0.2) / NOISE**2)
    with pb.isolated(0), torch.no_grad():
        pyro.param("u.loc", loc[None])
        pyro.param(
            "u.weight",
            torch.full((1, N), 1 / NOISE**2, dtype=DOUBLE),
            constraint=constraints.positive,
        )
        bounds = torch.stack([-elbo(model, model.guide, rows) for _ in range(250)])
        pyro.clear_param_store()
    error = float(bounds.std()) / math.sqrt(len(bounds))
    assert abs(float(bounds.mean()) - log_z_alone()) < 4 * error < 0.8


@pytest.mark.parametrize("shards", [None, 2])
def test_svi_climbs_to_the_evidence(shards):
    model = pipeline(coded(shards))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    optimizer = partial(problems.annealed, decay=0.992)
    settings = pb.SVI(num_steps=600, optimizer=optimizer, patience=None, num_samples=400, progress=False)
    bound = pb.evidence.elbo(settings(model, data(), seed=0))
    assert -0.3 < bound.log_z - log_z_alone(shards) < 4 * bound.stderr


def test_a_hyperparameter_with_a_prior_is_drawn_beside_the_code():
    process = pb.GaussianProcess(RBFKernel(lengthscale_prior=GammaPrior(6.0, 8.0)), mean=mean(), out_features=2)
    model = pipeline(process, partial(pb.Classify, 2, 2))
    rows = data()
    rows = rows._replace(kwargs={"y": (rows.kwargs["y"] > 0).long()})
    fit = pb.SVI(num_steps=300, optimizer=partial(torch.optim.Adam, lr=0.05), num_samples=50, progress=False)(
        model, rows, seed=0
    )
    assert set(fit.draws) == {"kernel.lengthscale", "u"}
    assert float(fit.draws["kernel.lengthscale"].std()) > 0.01
    accuracy = float((pb.predict(fit, rows.args[0]).action == rows.kwargs["y"]).double().mean())
    assert accuracy > 0.85


# ------------------------------------------------------------------------------------------ mixtures


def mixture(gate, out_features: int = 1) -> pb.gp.GPMixture:
    lengthscales = (0.7, 0.3)[: gate.num_experts]
    return pb.gp.GPMixture(
        [pb.GaussianProcess(kernel(each), mean=mean(), out_features=out_features) for each in lengthscales], gate
    )


@pytest.mark.parametrize(
    "gate", [pb.gp.DirichletGate(1), pb.gp.StickBreakingGate(1), pb.gp.SoftmaxGate(1, 1), pb.gp.DensityGate(1, 1)]
)
def test_a_mixture_of_one_expert_is_the_process(gate):
    one, process = pb.target(pipeline(mixture(gate)), data()), pb.target(pipeline(coded()), data())
    theta = torch.randn(5, N, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    assert one.dim == process.dim == N
    assert torch.allclose(one.log_joint(theta), process.log_joint(theta), atol=1e-8)


def test_experts_are_summed_out_row_by_row():
    gate = pb.gp.SoftmaxGate(1, 2)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([[1.5], [-0.5]]))
    model, rows = pipeline(mixture(gate)), data()
    found = pb.target(model, rows)
    theta = torch.randn(3, 2 * N, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    u = found.constrain(theta)
    x, y = rows.args[0], rows.kwargs["y"]
    by_expert = []
    for k, lengthscale in enumerate((0.7, 0.3)):
        f = 0.2 + u[f"u.{k}"][:, 0] @ torch.linalg.cholesky(kernel(lengthscale)(x).to_dense()).mT
        by_expert.append(torch.distributions.Normal(f, NOISE).log_prob(y) + gate.log_input_factors(x)[:, k])
    expected = torch.stack(by_expert).logsumexp(0).sum(1)
    assert torch.allclose(found.log_likelihood(theta), expected, atol=1e-8)


def test_shares_are_drawn_where_the_gate_couples_rows():
    model = pipeline(mixture(pb.gp.DirichletGate(2, concentration=1.7)))
    found = pb.target(model, data())
    draws = found.constrain(found.sample_prior(4_000, 0))["sticks"][:, 0]
    # The first of two proportions under Dirichlet(1.7, 1.7).
    assert abs(float(draws.mean()) - 0.5) < 4 * float(draws.std()) / math.sqrt(4_000)
    assert abs(float(draws.var()) / (0.25 / 4.4) - 1) < 0.15


def test_a_new_row_is_of_the_expert_that_the_gate_draws():
    gate = pb.gp.SoftmaxGate(1, 2)
    with torch.no_grad():
        gate.bias.copy_(torch.tensor([0.0, 1.0]))
    model = mixture(gate).double()
    x = data().args[0]
    u = {"u.0": torch.full((1, N), 3.0, dtype=DOUBLE), "u.1": torch.full((1, N), -3.0, dtype=DOUBLE)}
    at = torch.tensor([[0.1]], dtype=DOUBLE).expand(4_000, 1)
    with pb.isolated(0), pyro.poutine.trace() as run, pyro.poutine.condition(data=u):
        model.codes_of_new_rows(x, at, pyro.plate("rows", 4_000, dim=-1))
    expert = run.trace.nodes["expert"]["value"]
    share = 1 / (1 + math.exp(-1.0))
    assert abs(float(expert.double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / 4_000)
    z: Tensor = run.trace.nodes["z"]["fn"].mean[:, 0].detach()
    assert len(z[expert == 0].unique()) == len(z[expert == 1].unique()) == 1
    assert float(z[expert == 0][0]) > 0.2 > float(z[expert == 1][0])


@pytest.mark.parametrize("gate", [pb.gp.StickBreakingGate(2), pb.gp.DensityGate(1, 2)])
def test_a_mixture_of_codes_classifies(gate):
    model, rows = pipeline(mixture(gate, 2), partial(pb.Classify, 2, 2)), data()
    rows = rows._replace(kwargs={"y": (rows.kwargs["y"] > 0).long()})
    settings = pb.SVI(num_steps=150, optimizer=partial(torch.optim.Adam, lr=0.08), num_samples=100, progress=False)
    fit = settings(model, rows, seed=0)
    assert float((pb.predict(fit, rows.args[0]).action == rows.kwargs["y"]).double().mean()) > 0.8


# ------------------------------------------------------------------------------------------ storage and refusals


def test_a_saved_fit_comes_back_with_its_guide(tmp_path):
    make = lambda: pipeline(coded())  # noqa: E731
    fit = pb.SVI(num_steps=20, num_samples=10, progress=False)(make(), data(), seed=0)
    pb.save(fit, tmp_path / "fit")
    again = pb.load(tmp_path / "fit", model=make())
    assert torch.equal(again.draws["u"], fit.draws["u"])
    assert torch.equal(pb.predict(again, NEW).distribution.mean, pb.predict(fit, NEW).distribution.mean)
    with pb.isolated(0), torch.no_grad():
        first = elbo(fit.model, fit.guide, fit.data)
    with pb.isolated(0), torch.no_grad():
        assert torch.equal(elbo(again.model, again.guide, again.data), first)


def test_rows_that_do_not_fit_the_memory_name_the_sparse_process():
    with pb.memory_budget(2**20), pytest.raises(MemoryError, match=r"use a sparse Gaussian process \(SparseGP\)"):
        coded().double().model(torch.zeros(3_000, 1, dtype=DOUBLE), pyro.plate("rows", 3_000, dim=-1))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: pb.GaussianProcess(kernel(), out_features=0), ValueError, "out_features"),
        (
            lambda: pb.gp.GPMixture([coded(), pb.GaussianProcess(kernel(), out_features=2)], pb.gp.DirichletGate(2)),
            ValueError,
            "experts of one width",
        ),
        (
            lambda: pb.gp.GPMixture([pb.GaussianProcess(kernel(), features=pb.Identity())], pb.gp.DirichletGate(1)),
            ValueError,
            "put features before the mixture in a Pipeline",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_features_of_its_own_are_not_dropped_in_silence():
    model = pipeline(pb.GaussianProcess(kernel(), features=pb.Identity()))
    with pytest.raises(ValueError, match="give them to the Pipeline"):
        pb.Exact()(model, data(), seed=0)
