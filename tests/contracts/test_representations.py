"""One contract for every representation, with every decision."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
import torch
from conftest import fingerprints
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior
from problems import exact_answers as problems
from pyro import poutine
from torch import Tensor, nn

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.boltzmann_machines.real_units import GaussianUnits
from probmodel.families.gaussian_processes.experts.aggregation import generalized_robust_bcm
from probmodel.inference import SVI
from probmodel.inference.objectives.elbo import elbo
from probmodel.layers import decisions, representations
from probmodel.layers.decisions import Classify, ClassifyJoint, Regress
from probmodel.layers.features import MLP, Identity
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import (
    DNN,
    RBM,
    VAE,
    BoltzmannMachine,
    ClassNetwork,
    ClassRBM,
    DeepBoltzmannMachine,
    GaussianProcess,
    GPMixture,
    GPProduct,
    SparseGP,
    StandardNormal,
)
from probmodel.layers.representations.gaussian_process.gates import (
    DensityGate,
    DirichletGate,
    SoftmaxGate,
    StickBreakingGate,
)
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites

N, WIDE, CODES, INDUCING, EXPERTS = 12, 5, 3, 4, 2


def inducing_inputs() -> Tensor:
    return torch.randn(INDUCING, WIDE)


def wide() -> ScaleKernel:
    """A kernel under which standard normal rows of five columns are correlated."""
    kernel = ScaleKernel(MaternKernel(nu=1.5))
    kernel.base_kernel.lengthscale = 2.0
    return kernel


def experts() -> list[GaussianProcess]:
    return [GaussianProcess(wide(), out_features=CODES) for _ in range(EXPERTS)]


REPRESENTATIONS: dict[str, Callable[[], Any]] = {
    "DNN": lambda: DNN(WIDE, CODES, hidden=(7,)),
    "DNN without hidden layers": lambda: DNN(WIDE, CODES, hidden=()),
    "VAE": lambda: VAE(WIDE, CODES),
    "VAE with a deep encoder": lambda: VAE(WIDE, CODES, encoder=MLP(WIDE, 2 * CODES, hidden=(7,))),
    "VAE with a fixed prior": lambda: VAE(WIDE, CODES, prior=StandardNormal(CODES)),
    "SparseGP": lambda: SparseGP(WIDE, CODES, inducing=INDUCING),
    "SparseGP at fixed inputs": lambda: SparseGP(WIDE, CODES, inducing=inducing_inputs(), kernel=RBFKernel()),
    "GaussianProcess": lambda: GaussianProcess(wide(), out_features=CODES),
    "GaussianProcess with a prior": lambda: GaussianProcess(
        RBFKernel(lengthscale_prior=GammaPrior(20.0, 10.0)), out_features=CODES
    ),
    "GPProduct": lambda: GPProduct(wide(), shards=3, out_features=CODES),
    "GPProduct of experts that communicate": lambda: GPProduct(
        wide(), shards=3, aggregation=generalized_robust_bcm, out_features=CODES
    ),
    "GPMixture": lambda: GPMixture(experts(), DirichletGate(EXPERTS)),
    "GPMixture by stick breaking": lambda: GPMixture(experts(), StickBreakingGate(EXPERTS)),
    "GPMixture by input": lambda: GPMixture(experts(), SoftmaxGate(WIDE, EXPERTS)),
    "GPMixture by density": lambda: GPMixture(experts(), DensityGate(WIDE, EXPERTS)),
    "SparseGP with a prior": lambda: SparseGP(
        WIDE, CODES, inducing=INDUCING, kernel=RBFKernel(lengthscale_prior=GammaPrior(20.0, 10.0))
    ),
    "RBM": lambda: RBM(WIDE, CODES, units=GaussianUnits(WIDE)),
    "BoltzmannMachine": lambda: BoltzmannMachine(WIDE, CODES),
    "DeepBoltzmannMachine": lambda: DeepBoltzmannMachine(WIDE, 4, CODES),
    "ClassRBM": lambda: ClassRBM(WIDE, 6, CODES),
    "ClassNetwork": lambda: ClassNetwork(DAG.from_string("[class][a|class][b|a][c|b:class][d][e|class:d]"), CODES),
}
DECISIONS: dict[str, Callable[[], Any]] = {
    "Classify": lambda: Classify(CODES, 4),
    "ClassifyJoint": lambda: ClassifyJoint(CODES),
    "Regress": lambda: Regress(CODES, 2),
    # Bounded, since so few rows would be interpolated with noise that tends to 0.
    "Regress with noise of each row": lambda: Regress(CODES, 2, noise=nn.Sequential(nn.Linear(CODES, 2), nn.Tanh())),
}
NO_CODE = {
    "StandardNormal",
    "CategoricalNetwork",
    "ConditionalGaussianNetwork",
    "LinearGaussianNetwork",
    "NonlinearNetwork",
}
"""A prior of codes, and joint models of all columns, which have no code."""
DEPENDENT = [name for name in REPRESENTATIONS if name.split()[0] in ("GaussianProcess", "GPProduct", "GPMixture")]
"""Representations of dependent rows: data without a size, and no minibatches."""

LOCAL, SHARED = {"z": (N, CODES)}, {"u": (CODES, INDUCING)}
BY_SHARD = {f"u.{k}": (CODES, N // 3) for k in range(3)}
BY_EXPERT = {f"u.{k}": (CODES, N) for k in range(EXPERTS)}
FAMILIES: dict[str, dict[str, tuple[int, ...]]] = {
    "DNN": {},
    **{name: {} for name in ("RBM", "BoltzmannMachine", "DeepBoltzmannMachine", "ClassRBM")},
    "VAE": LOCAL,
    "SparseGP": {**SHARED, **LOCAL},
    "GaussianProcess": {"u": (CODES, N)},
    "GPProduct": BY_SHARD,
    "GPMixture": BY_EXPERT,
    # A node has one regression per class where the class is among its parents.
    "ClassNetwork": {
        "class.probabilities": (1, CODES),
        "a.variance": (CODES,),
        "a.intercept": (CODES,),
        "b.variance": (),
        "b.slopes": (1,),
        "b.intercept": (),
        "c.variance": (CODES,),
        "c.slopes": (CODES, 1),
        "c.intercept": (CODES,),
        "d.variance": (),
        "d.intercept": (),
        "e.variance": (CODES,),
        "e.slopes": (CODES, 1),
        "e.intercept": (CODES,),
    },
}
GENERATIVE = ("ClassNetwork",)
"""Densities of their codes: the codes are observed too, and features of trainable parameters are refused."""
LATENTS = {name: FAMILIES[name.split()[0]] for name in REPRESENTATIONS}
"""Each site in the order it is drawn, with the shape of a draw; those in LOCAL have one code per row."""
LATENTS["SparseGP with a prior"] = {"kernel.lengthscale": (1, 1), **SHARED, **LOCAL}

LATENTS["GaussianProcess with a prior"] = {"kernel.lengthscale": (1, 1), **FAMILIES["GaussianProcess"]}
for coupled in ("GPMixture", "GPMixture by stick breaking"):
    LATENTS[coupled] = {**BY_EXPERT, "sticks": (EXPERTS - 1,)}

each = pytest.mark.parametrize("name", REPRESENTATIONS)
by_row = pytest.mark.parametrize("name", [name for name in REPRESENTATIONS if name not in DEPENDENT])
VARIANTS = ("GPMixture by", "GPProduct of", "RBM", "BoltzmannMachine", "DeepBoltzmannMachine", "ClassRBM")
"""Variants of a representation that is tested with every decision, or deterministic ones; one decision is enough."""


def meet(name: str, decision: str) -> bool:
    if name == "ClassNetwork":  # Its codes are log densities of the classes, for one decision alone.
        return decision == "ClassifyJoint"
    if decision == "ClassifyJoint":  # The codes are logits themselves, which need few tests.
        return name in ("DNN", "VAE", "ClassRBM")
    return decision == "Classify" or not name.startswith(VARIANTS)


PAIRS = [(name, decision) for name in REPRESENTATIONS for decision in DECISIONS if meet(name, decision)]
each_pair = pytest.mark.parametrize(("name", "decision"), PAIRS)
each_pair_by_row = pytest.mark.parametrize(("name", "decision"), [pair for pair in PAIRS if pair[0] not in DEPENDENT])


def built(make: Callable[[], Any]) -> Any:
    # Initial weights come from the global random state.
    with isolated(seed=4):
        return make().double()


def rows_of(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(decision: str, count: int = N) -> Tensor:
    if decision.startswith("Classify"):
        return torch.arange(count) % (4 if decision == "Classify" else CODES)
    return rows_of(1, count, 2)


def dataset(decision: str, count: int = N, *, dependent: bool = False) -> Dataset:
    return Dataset((rows_of(0, count, WIDE),), {"y": labels(decision, count)}, None if dependent else count)


def pipeline(name: str, decision: str) -> Pipeline:
    fixed = name in GENERATIVE
    features = Identity if fixed else partial(MLP, WIDE, WIDE, hidden=(6,))
    return built(lambda: Pipeline(features(), REPRESENTATIONS[name](), DECISIONS[decision]()))


def code(representation: Any, h: Tensor, seed: int = 0) -> tuple[Tensor, poutine.Trace]:
    with isolated(seed), torch.no_grad():
        run = poutine.trace(representation.model).get_trace(h, pyro.plate("rows", len(h), dim=-1))
        run.compute_log_prob()
    return run.nodes["_RETURN"]["value"], run


def test_every_piece_is_under_contract():
    assert {name.split()[0] for name in REPRESENTATIONS} == set(representations.__all__) - NO_CODE
    assert {name.split()[0] for name in DECISIONS} == set(decisions.__all__)


@each
def test_the_code_has_one_row_for_each_row_of_features(name):
    representation, h = built(REPRESENTATIONS[name]), rows_of(0, N, WIDE)
    z, run = code(representation, h)
    assert z.shape == (N, representation.out_features) == (N, CODES)
    assert z.dtype == torch.float64
    for site in LATENTS[name]:
        assert run.nodes[site]["log_prob"].shape == ((N,) if site in LOCAL else ())


@each
def test_the_guide_samples_exactly_the_models_latents(name):
    representation, h = built(REPRESENTATIONS[name]), rows_of(0, N, WIDE)
    _, run = code(representation, h)
    with isolated(seed=0):
        guided = poutine.trace(representation.guide).get_trace(h, pyro.plate("rows", N, dim=-1))
        pyro.clear_param_store()

    def drawn(trace: poutine.Trace) -> dict[str, torch.Size]:
        # Experts are summed out, so that the guide has no such site.
        apart = ("rows", "expert")
        found = {n: node for n, node in trace.nodes.items() if node["type"] == "sample" and n not in apart}
        return {n: node["value"].shape for n, node in found.items() if not node["is_observed"]}

    assert drawn(run) == drawn(guided)
    assert drawn(run) == LATENTS[name]
    assert list(drawn(run)) == list(LATENTS[name])


@by_row
def test_a_row_is_coded_by_its_own_features_alone(name):
    representation, h = built(REPRESENTATIONS[name]), rows_of(0, N, WIDE)
    other = h.clone()
    other[3] += 10
    first, second = code(representation, h)[0], code(representation, other)[0]
    same = torch.ones(N, dtype=torch.bool)
    same[3] = False
    assert torch.allclose(first[same], second[same])
    assert name == "VAE with a fixed prior" or not torch.allclose(first[3], second[3])


@each
def test_settings_build_the_same_piece_again(name):
    representation, h = built(REPRESENTATIONS[name]), rows_of(0, N, WIDE)
    copied = built(lambda: type(representation)(**representation.constructor_arguments()))
    copied.load_state_dict(representation.state_dict())
    assert torch.equal(code(representation, h)[0], code(copied, h)[0])


OF_THE_DENSITY = (".visible_bias", ".upper")
"""Parameters of a Boltzmann machine's density of the features, on which its code, the hidden units, does not depend."""


@each_pair
def test_gradients_reach_every_parameter(name, decision):
    model = pipeline(name, decision)
    with isolated(seed=0):
        elbo(model, model.guide, dataset(decision, dependent=name in DEPENDENT)).backward()
        pyro.clear_param_store()
    # A StandardNormal has no parameters, the noise of a process is replaced by the decision's in a pipeline, and the means
    # of an affine decision and of a process have the same effect; everything else is fitted.
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for n, p in model.named_parameters()
        if ".likelihood." not in n and not n.endswith(OF_THE_DENSITY)
    )


@each_pair
def test_the_pipeline_has_the_representations_latents_and_one_observation(name, decision):
    with isolated(seed=0):
        found = sites(pipeline(name, decision), dataset(decision, dependent=name in DEPENDENT))
    assert [latent.name for latent in found.latents] == list(LATENTS[name])
    assert found.observed == (("codes", "y") if name in GENERATIVE else ("y",))
    assert found.num_rows == (None if name in DEPENDENT else N)
    assert found.discrete == (("expert",) if name.startswith("GPMixture") else ())
    assert {latent.name for latent in found.latents if latent.row_dim is not None} == LATENTS[name].keys() & LOCAL
    assert found.row_local == (set(LATENTS[name]) == set(LOCAL))


@each_pair_by_row
def test_the_elbo_of_minibatches_averages_to_that_of_all_rows(name, decision):
    """A wrong scale size / rows is the field's most common silent error."""
    model, data = pipeline(name, decision), dataset(decision)
    halves = [data.rows(torch.arange(0, N // 2)), data.rows(torch.arange(N // 2, N))]
    assert [half.size for half in halves] == [N, N]
    with isolated(seed=0), torch.no_grad():
        count = 150 if LATENTS[name] else 1
        full = torch.stack([elbo(model, model.guide, data) for _ in range(count)])
        parts = torch.stack([sum(elbo(model, model.guide, half) for half in halves) / 2 for _ in range(count)])
    error = torch.sqrt((full.var() + parts.var()) / count) if count > 1 else 0.0
    assert abs(full.mean() - parts.mean()) < 4 * error + 1e-9
    # Noise must be small enough to see a factor of two.
    assert error < 0.05 * abs(full.mean())


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_pipeline_of_linked_rows_refuses_minibatches_and_a_size(name):
    model = pipeline(name, "Regress")
    with pytest.raises(ValueError, match="expected data with rows for batch_size, got size=None; "):
        SVI(num_steps=1, batch_size=6, progress=False)(model, dataset("Regress", dependent=True), seed=0)
    with pytest.raises(ValueError, match=f"expected size=None, since {name.split()[0]} makes the rows dependent"):
        SVI(num_steps=1, progress=False)(model, dataset("Regress"), seed=0)


@pytest.mark.parametrize(
    ("name", "decision", "batch_size"),
    [(*pair, size) for pair in PAIRS for size in (None, 6) if size is None or pair[0] not in DEPENDENT],
)
def test_svi_fits_it_and_predict_integrates_the_latents(name, decision, batch_size):
    model, data = pipeline(name, decision), dataset(decision, dependent=name in DEPENDENT)
    before = fingerprints()
    settings = SVI(
        num_steps=60 if name in DEPENDENT else 150,
        batch_size=batch_size,
        num_samples=30,
        optimizer=partial(torch.optim.Adam, lr=0.02),
        compile=False,
        progress=False,
    )
    posterior = settings(model, data, seed=0)
    losses = posterior.info["losses"]
    assert sum(losses[-20:]) < sum(losses[:20])
    shapes = {site: tuple(draws.shape) for site, draws in posterior.draws.items()}
    assert shapes == {site: (1, 30, *shape) for site, shape in LATENTS[name].items()}
    # A guide of dependent rows has parameters for each row, which the model does not have.
    assert (posterior.info["num_parameters"] > model.num_parameters) == (name in DEPENDENT)
    new = rows_of(9, 7, WIDE)
    prediction = predict(posterior, new, num_samples=50, seed=3)
    again = predict(posterior, new, num_samples=50, seed=3)
    assert torch.equal(prediction.action, again.action)
    assert prediction.distribution.batch_shape == (7,)
    # Codes are drawn anew for each new row; latents that rows share take the draws of the posterior.
    draws = 30 if LATENTS[name].keys() - LOCAL.keys() else 50 if LATENTS[name] else 1
    assert prediction.by_draw.batch_shape == (draws, 7)
    weights = torch.full((draws, 7), 1 / draws).double()
    assert (prediction.log_weights is not None) == (name in GENERATIVE)
    if prediction.log_weights is not None:
        weights = prediction.log_weights.exp()
        assert torch.allclose(weights.sum(0), torch.ones(7).double())
    if decision.startswith("Classify"):
        probs = prediction.distribution.probs
        assert torch.allclose(probs.sum(-1), torch.ones(7).double())
        assert torch.allclose(probs, (weights[..., None] * prediction.by_draw.probs).sum(0))
        assert torch.equal(prediction.action, probs.argmax(-1))
    else:
        y = labels(decision, 7)
        by_draw = prediction.by_draw.log_prob(y)
        mixed = torch.logsumexp(by_draw + weights.log(), 0)
        assert torch.allclose(prediction.distribution.log_prob(y), mixed)
        assert torch.allclose(prediction.action, (weights[..., None] * prediction.by_draw.mean).sum(0))
    assert fingerprints() == before
    assert not pyro.get_param_store().keys()


@pytest.mark.parametrize("piece", ["encoder", "prior"])
def test_a_vae_says_how_wide_its_networks_need_to_be(piece):
    vae = built(lambda: VAE(WIDE, CODES, **{piece: nn.Linear(WIDE, CODES)}))
    with isolated(seed=0), pytest.raises(ValueError, match=r"with 6 outputs \(means, log scales\), got 3; change"):
        (vae.guide if piece == "encoder" else vae.model)(rows_of(0, N, WIDE), pyro.plate("rows", N, dim=-1))


def test_a_linear_vae_predicts_the_marginal_of_probabilistic_pca():
    """The code of a new row is drawn from its prior: y ~ N(mean, W Wᵀ + σ² I)."""
    x = problems.iris_array()
    fit = problems.ppca(x, 2)
    model = problems.ppca_pipeline(fit)
    data = Dataset((problems.tensor(x),), {"y": problems.tensor(x)}, len(x))
    still = partial(torch.optim.SGD, lr=0.0)
    posterior = SVI(num_steps=1, num_samples=5, optimizer=still, progress=False)(model, data, seed=0)
    prediction = predict(posterior, problems.tensor(x[:3]), num_samples=20_000, seed=0)
    variance = problems.tensor((fit.weight**2).sum(1))
    error = (variance / 20_000).sqrt()
    assert (abs(prediction.action - problems.tensor(fit.mean)) < 4 * error).all()
    assert (abs(prediction.epistemic / variance - 1) < 4 * (2 / 20_000) ** 0.5).all()
    assert torch.allclose(prediction.aleatoric, torch.tensor(fit.variance).double())


def test_identity_features_leave_the_representation_alone():
    model = built(lambda: Pipeline(Identity(), DNN(WIDE, CODES), Regress(CODES, 2)))
    x = rows_of(0, N, WIDE)
    with torch.no_grad():
        z = model.representation.model(x, pyro.plate("rows", N, dim=-1))
        assert torch.equal(model.decision.likelihood(z).mean, model.decision.mean(model.representation.network(x)))
