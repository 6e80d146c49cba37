"""One contract for every inference, on targets that are not symmetric and whose posterior is known."""

import copy
import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import fingerprints
from gpytorch.kernels import MaternKernel, ScaleKernel
from problems import exact_answers as problems
from problems.exact_answers import Problem
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import constraints

from probmodel import inference
from probmodel.draws import diagnostics as arviz_data
from probmodel.inference import (
    NUTS,
    SVI,
    ChEES,
    CollapsedGibbs,
    Exact,
    Laplace,
    MaximumLikelihood,
    NaturalGradients,
    VariationalEM,
)
from probmodel.inference.objectives.elbo import elbo
from probmodel.inference.svi import descends
from probmodel.layers.features import Identity
from probmodel.layers.pipeline import Pipeline
from probmodel.layers.representations import DNN, GaussianProcess, GPMixture, SparseGP
from probmodel.layers.representations.gaussian_process.gates import DirichletGate
from probmodel.prediction.predictive import predict
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import NonFiniteError, NotConjugateError
from probmodel.protocols.posterior import Posterior
from probmodel.storage.fits import load, save
from probmodel.tracing.randomness import isolated

NUM_SAMPLES = 2_000
SEED = 11
pytestmark = pytest.mark.filterwarnings("ignore::probmodel.protocols.errors.TracingWarning")
"""Beta and gamma guides may run eagerly; the numbers are the same."""


class Case(NamedTuple):
    """A posterior of one variable, its moments, those of Laplace's approximation, and a guide of its family."""

    problem: Problem
    site: str
    mean: float
    sd: float
    laplace_mean: float
    laplace_sd: float
    guide: Any


def _beta_guide(n, y=None):
    a = pyro.param("a", n.new_tensor(7.0), constraint=constraints.positive)
    b = pyro.param("b", n.new_tensor(28.0), constraint=constraints.positive)
    pyro.sample("p", dist.Beta(a, b))


def _gamma_guide(exposure, y=None):
    a = pyro.param("a", exposure.new_tensor(12.0), constraint=constraints.positive)
    r = pyro.param("r", exposure.new_tensor(8.0), constraint=constraints.positive)
    pyro.sample("rate", dist.Gamma(a, r))


def normal_case() -> Case:
    y, x = np.array(problems.NORMAL_Y), np.linspace(0, 1, len(problems.NORMAL_Y))
    precision = 1 / 2.0**2 + len(y) / 1.5**2
    mean = (-1.0 / 2.0**2 + (y - x).sum() / 1.5**2) / precision
    sd = precision**-0.5
    return Case(problems.conjugate_normal(), "mu", mean, sd, mean, sd, None)


def beta_case() -> Case:
    n, y = np.array(problems.BINOMIAL_N), np.array(problems.BINOMIAL_Y)
    a, b = 1.5 + y.sum(), 4 + (n - y).sum()
    mean = a / (a + b)
    sd = math.sqrt(mean * (1 - mean) / (a + b + 1))
    # Normal in the logit, at the mode of the density with its Jacobian.
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    p = 1 / (1 + np.exp(-(np.log(a / b) + nodes / math.sqrt((a + b) * mean * (1 - mean)))))
    weights = weights / weights.sum()
    laplace_mean = weights @ p
    laplace_sd = math.sqrt(weights @ p**2 - laplace_mean**2)
    return Case(problems.beta_binomial(), "p", mean, sd, laplace_mean, laplace_sd, _beta_guide)


def gamma_case() -> Case:
    a, r = 2.0 + sum(problems.POISSON_Y), 1.5 + sum(problems.POISSON_EXPOSURE)
    # Log-normal: normal in log rate with variance 1 / a around log (a / r).
    laplace_mean = a / r * math.exp(0.5 / a)
    laplace_sd = laplace_mean * math.sqrt(math.expm1(1 / a))
    return Case(problems.gamma_poisson(), "rate", a / r, math.sqrt(a) / r, laplace_mean, laplace_sd, _gamma_guide)


CASES: dict[str, Callable[[], Case]] = {"normal": normal_case, "beta": beta_case, "gamma": gamma_case}


def _svi(case: Case) -> SVI:
    return SVI(
        num_steps=1_000,
        guide=case.guide,
        optimizer=partial(problems.annealed, decay=0.994),
        patience=None,
        num_samples=NUM_SAMPLES,
        progress=False,
    )


METHODS: dict[str, Callable[[Case], Any]] = {
    "SVI": _svi,
    # Uncompiled: eight schools, below, run compiled, and chains cost next to nothing in a batch.
    "NUTS": lambda _: NUTS(num_samples=50, num_warmup=75, num_chains=16, compile=False, progress=False),
    "ChEES": lambda _: ChEES(num_samples=60, num_warmup=100, num_chains=32, progress=False),
    "Laplace": lambda _: Laplace(num_samples=NUM_SAMPLES),
    "Exact": lambda _: Exact(num_samples=NUM_SAMPLES),
}
CHAINS = {"NUTS": (16, 50), "ChEES": (32, 60)}
"""Chains and draws of the samplers; the others draw independently."""
QUICK: dict[str, Any] = {
    "SVI": SVI(num_steps=30, num_samples=20, progress=False),
    "NUTS": NUTS(num_samples=10, num_warmup=10, num_chains=2, compile=False, progress=False),
    "ChEES": ChEES(num_samples=20, num_warmup=20, num_chains=4, progress=False),
    "Laplace": Laplace(num_samples=20),
    "Exact": Exact(num_samples=20),
}


@lru_cache
def fit(method: str, case: str) -> tuple[Case, Posterior]:
    known = CASES[case]()
    return known, METHODS[method](known)(known.problem.model, known.problem.data, seed=SEED)


NO_INFERENCE = {"BoltzmannLearning"}
"""Learning of undirected machines, which have no latents: tests/inference/test_boltzmann_learning.py."""


def test_every_inference_is_under_contract():
    assert set(METHODS) == set(QUICK)
    assert set(METHODS) | set(MODEL_SPECIFIC) == set(inference.__all__) - NO_INFERENCE
    assert not set(METHODS) & set(MODEL_SPECIFIC)


# ------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_draws_have_the_known_mean_and_standard_deviation(method, case):
    known, posterior = fit(method, case)
    draws = posterior.draws[known.site].numpy()
    mean, sd = (known.laplace_mean, known.laplace_sd) if method == "Laplace" else (known.mean, known.sd)
    effective = float(arviz_data.ess_bulk({"x": draws})["x"]) if method in CHAINS else draws.size
    # SVI ends a random step away from the optimum: some 3 % of a standard deviation after annealing.
    walk = 0.03 * sd if method == "SVI" else 0.0
    assert abs(draws.mean() - mean) < 4 * sd / math.sqrt(effective) + walk
    # The ESS of squared deviations is at most a few times smaller than that of the mean.
    deviations = (draws - mean) ** 2
    spread = float(arviz_data.ess_bulk({"x": deviations})["x"]) if method in CHAINS else draws.size
    assert abs(deviations.mean() - sd**2) < 4 * deviations.std() / math.sqrt(spread) + 2 * walk * sd


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_draws_are_chain_by_draw_by_event_inside_the_support(method, case):
    known, posterior = fit(method, case)
    draws = posterior.draws[known.site]
    assert set(posterior.draws) == {known.site}
    assert draws.shape == CHAINS.get(method, (1, NUM_SAMPLES))
    assert draws.dtype == torch.float64
    assert torch.isfinite(draws).all()
    assert case == "normal" or (draws > 0).all()
    assert case != "beta" or (draws < 1).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_info_says_how_it_went(method, case):
    known, posterior = fit(method, case)
    assert posterior.info["method"] == method
    assert posterior.info["seed"] == SEED
    assert 0 < posterior.info["seconds"] < 600
    assert posterior.data is known.problem.data
    assert (posterior.guide is None) == (method in CHAINS)
    assert repr(posterior).startswith(f"Posterior by {method} in ")


@pytest.mark.parametrize("method", METHODS)
def test_vector_and_matrix_sites_keep_their_event_shape(method):
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(3, 2), 1.0).to_event(2))
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w + b, 0.5).to_event(1), obs=y)

    noise = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = Dataset((noise[:, :3],), {"y": noise[:, 3:]}, 9)
    draws = QUICK[method](model, data, seed=0).draws
    lead = {"NUTS": (2, 10), "ChEES": (4, 20)}.get(method, (1, 20))
    assert {site: tuple(value.shape) for site, value in draws.items()} == {"w": (*lead, 3, 2), "b": lead}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_identical_draws_and_another_seed_others(method):
    case = normal_case()
    run = partial(QUICK[method], case.problem.model, case.problem.data)
    first, again, other = run(seed=1), run(seed=1), run(seed=2)
    assert torch.equal(first.draws["mu"], again.draws["mu"])
    assert not torch.isin(first.draws["mu"], other.draws["mu"]).any()


def test_chains_of_neighboring_seeds_are_independent():
    """Chains of two runs that share their random numbers coalesce, so that two seeds are not two experiments."""
    case = normal_case()
    sampler = NUTS(num_samples=150, num_warmup=50, num_chains=2, progress=False)
    first, second = (sampler(case.problem.model, case.problem.data, seed=seed).draws["mu"] for seed in (0, 1))
    for chain in first:
        for other in second:
            # The correlation of 150 independent pairs has a standard error of 0.08.
            assert abs(np.corrcoef(chain, other)[0, 1]) < 0.35


@pytest.mark.parametrize("method", METHODS)
def test_nothing_global_and_nothing_of_the_callers_changes(method):
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x, y=None):
            mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(mu + self.offset, 1.0), obs=y)

    model, data = Model(), normal_case().problem.data
    state, attributes = copy.deepcopy(model.state_dict()), set(vars(model))
    arrays = [t.clone() for t in data.tensors()]
    before = fingerprints()
    posterior = QUICK[method](model, data, seed=0)
    assert fingerprints() == before
    assert not pyro.get_param_store().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert set(vars(model)) == attributes
    assert model.offset.grad is None
    assert all(torch.equal(old, new) for old, new in zip(arrays, data.tensors(), strict=True))
    moved = not torch.equal(dict(posterior.model.named_parameters())["offset"].detach(), state["offset"])
    assert moved == (method == "SVI")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_the_dtype_of_the_data_is_kept(method, dtype):
    case = normal_case()
    posterior = QUICK[method](case.problem.model, case.problem.data.to(dtype), seed=0)
    assert posterior.draws["mu"].dtype == dtype


BAD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda t: torch.cat([t[:-1], t.new_tensor([math.nan])]),
    "infinity": lambda t: torch.cat([t[:-1], t.new_tensor([math.inf])]),
    "no rows": lambda t: t[:0],
}


@pytest.mark.parametrize("where", ["args", "kwargs"])
@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("method", METHODS)
def test_bad_data_raise_a_clear_error(method, kind, where):
    case = normal_case()
    x, y = case.problem.data.args[0], case.problem.data.kwargs["y"]
    if kind == "no rows":
        data = Dataset((x[:0],), {"y": y[:0]}, 0)
    elif where == "args":
        data = Dataset((BAD[kind](x),), {"y": y}, len(x))
    else:
        data = Dataset((x,), {"y": BAD[kind](y)}, len(x))
    message = "expected at least one row" if kind == "no rows" else "expected finite numbers, got 1 NaN or infinite"
    with pytest.raises(ValueError, match=message):
        QUICK[method](case.problem.model, data, seed=0)


# ------------------------------------------------------------------------------------------ of particular models


class ModelSpecific(NamedTuple):
    """An inference method for one kind of model: quick settings, and a model that it accepts."""

    settings: Any
    model: Callable[[], nn.Module]
    size: int | None = None


def _process() -> GaussianProcess:
    return GaussianProcess(ScaleKernel(MaternKernel(nu=2.5)))


def _mixture() -> GPMixture:
    return GPMixture([_process(), _process()], DirichletGate(2))


def _sparse() -> Pipeline:
    return Pipeline(Identity(), SparseGP(1, 1, inducing=torch.linspace(-1, 1, 5)[:, None]), problems.Regress(1, 1))


MODEL_SPECIFIC: dict[str, ModelSpecific] = {
    "MaximumLikelihood": ModelSpecific(MaximumLikelihood(), _process),
    "NaturalGradients": ModelSpecific(NaturalGradients(30, 8, num_samples=20, progress=False), _sparse, 24),
    "VariationalEM": ModelSpecific(VariationalEM(num_restarts=2, num_rounds=2), _mixture),
    "CollapsedGibbs": ModelSpecific(CollapsedGibbs(num_samples=5, num_warmup=2, num_chains=2), _mixture),
}
"""Inference methods for particular models; their own tests compare them with exact answers."""
each_particular = pytest.mark.parametrize("name", MODEL_SPECIFIC)


def particular(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, nn.Module, Dataset]:
    settings, make, size = MODEL_SPECIFIC[name]
    noise = torch.randn(24, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x = torch.linspace(-1, 1, 24, dtype=dtype)[:, None]
    with isolated(seed=0):
        model = make().to(dtype)
    return settings, model, Dataset((x,), {"y": torch.sin(3 * x[:, 0]) + 0.2 * noise}, size)


@each_particular
def test_a_particular_inference_changes_nothing_that_the_caller_holds(name):
    settings, model, data = particular(name)
    state, arrays, before = copy.deepcopy(model.state_dict()), [t.clone() for t in data.tensors()], fingerprints()
    attributes = set(vars(model))
    fit = settings(model, data, seed=0)
    assert fingerprints() == before
    assert not pyro.get_param_store().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert set(vars(model)) == attributes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(old, new) for old, new in zip(arrays, data.tensors(), strict=True))
    moved = any(not torch.equal(value, state[key]) for key, value in fit.model.state_dict().items() if key in state)
    assert moved == (name != "CollapsedGibbs")  # It draws assignments at the present hyperparameters.


@each_particular
def test_a_particular_inference_says_how_it_went(name):
    settings, model, data = particular(name)
    fit = settings(model, data, seed=SEED)
    assert fit.info["method"] == name
    assert fit.info["seed"] == SEED
    assert 0 < fit.info["seconds"] < 600
    assert fit.data is data
    assert repr(fit).startswith(f"Posterior by {name} in ")


@each_particular
def test_a_particular_inference_depends_on_its_seed_alone(name):
    settings, model, data = particular(name)
    first, again = settings(model, data, seed=1), settings(model, data, seed=1)
    new = data.args[0][:5] + 0.01
    assert torch.equal(predict(first, new).action, predict(again, new).action)
    assert all(torch.equal(value, again.draws[site]) for site, value in first.draws.items())


@each_particular
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_particular_inference_keeps_the_dtype(name, dtype):
    settings, model, data = particular(name, dtype)
    fit = settings(model, data, seed=0)
    kernels = [value for key, value in fit.model.state_dict().items() if "raw_lengthscale" in key and "con" not in key]
    assert {value.dtype for value in kernels} == {dtype}
    assert predict(fit, data.args[0][:5]).action.dtype == dtype


@each_particular
@pytest.mark.parametrize("kind", BAD)
def test_a_particular_inference_refuses_bad_data(name, kind):
    settings, model, data = particular(name)
    y = BAD[kind](data.kwargs["y"])
    x = data.args[0][: len(y)]
    size = None if data.size is None else len(y)
    with pytest.raises(ValueError, match="expected"):
        settings(model, Dataset((x,), {"y": y}, size), seed=0)


@each_particular
def test_a_particular_inference_refuses_other_models(name):
    settings = MODEL_SPECIFIC[name].settings
    problem = problems.conjugate_normal()
    with pytest.raises(ValueError, match=r"expected a (GPMixture|Pipeline with a SparseGP|model with parameters)"):
        settings(problem.model, problem.data, seed=0)


@each_particular
def test_a_particular_inferences_fit_comes_back_from_a_folder(name, tmp_path):
    settings, model, data = particular(name)
    fit = settings(model, data, seed=0)
    save(fit, tmp_path / "fit")
    again, new = load(tmp_path / "fit", model=particular(name)[1]), data.args[0][:5] + 0.01
    assert torch.equal(predict(again, new).action, predict(fit, new).action)


# ------------------------------------------------------------------------------------------ NUTS


def test_nuts_has_converged_on_eight_schools():
    draws = {site: value.numpy() for site, value in problems.schools_draws().draws.items()}
    assert all(np.max(r) < 1.015 for r in arviz_data.rhat(draws).values())
    assert all(np.min(e) > 300 for e in arviz_data.ess_bulk(draws).values())
    assert draws["eta"].shape == (4, 400, 8)
    assert problems.schools_draws().info["divergences"] < 20


@pytest.mark.parametrize("site", ["mu", "tau"])
def test_nuts_agrees_with_quadrature_on_eight_schools(site):
    exact = problems.schools_quadrature()
    draws = problems.schools_draws().draws[site].numpy()
    error = float(arviz_data.mcse_mean({site: draws})[site])
    assert abs(draws.mean() - exact.mean[site]) < 4 * error
    assert error < 0.05 * exact.sd[site]
    squares = draws**2
    second = exact.sd[site] ** 2 + exact.mean[site] ** 2
    assert abs(squares.mean() - second) < 4 * float(arviz_data.mcse_mean({site: squares})[site])


def test_nuts_needs_latents():
    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x, 1.5), obs=y)

    with pytest.raises(ValueError, match="expected continuous latents to sample"):
        QUICK["NUTS"](model, normal_case().problem.data, seed=0)


@pytest.mark.parametrize("name", ["num_samples", "num_warmup", "num_chains"])
def test_nuts_refuses_counts_below_one(name):
    case = normal_case()
    with pytest.raises(ValueError, match="1 or more"):
        NUTS(**{name: 0})(case.problem.model, case.problem.data, seed=0)


# ------------------------------------------------------------------------------------------ Exact


def test_exact_refuses_what_has_no_closed_form():
    problem = problems.eight_schools()
    with pytest.raises(NotConjugateError, match="use NUTS, SVI or Laplace"):
        Exact()(problem.model, problem.data, seed=0)


def test_exact_and_nuts_agree_on_correlated_latents():
    problem = problems.diabetes_regression()
    x, y = problems.diabetes_arrays()
    covariance = np.linalg.inv(np.eye(11) + x.T @ x / 0.5)
    draws = Exact(num_samples=20_000)(problem.model, problem.data, seed=0).draws["b"][0].numpy()
    loc, scale = covariance @ x.T @ y / 0.5, np.sqrt(np.diag(covariance))
    assert (abs(draws.mean(0) - loc) < 4 * scale / math.sqrt(len(draws))).all()
    correlation, exact = np.corrcoef(draws.T), covariance / np.outer(scale, scale)
    assert (abs(correlation - exact) < 4 / math.sqrt(len(draws))).all()
    assert abs(exact).max() > 0.5


# ------------------------------------------------------------------------------------------ SVI


def test_svi_names_the_first_bad_site():
    def model(x, y=None):
        a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            # Finite, but the square root has no derivative at 0.
            pyro.sample("broken", dist.Normal(x + (0 * a).abs().sqrt(), 1.0), obs=y)
            pyro.sample("after", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(NonFiniteError, match=r"step 0, first at site 'broken' of the model"):
        QUICK["SVI"](model, normal_case().problem.data, seed=0)


def test_svi_stops_early_on_a_plateau_and_says_so():
    case = normal_case()
    optimizer = partial(torch.optim.Adam, lr=0.02)
    settings = SVI(num_steps=20_000, optimizer=optimizer, num_samples=10, patience=2, compile=False, progress=False)
    info = settings(case.problem.model, case.problem.data, seed=0).info
    assert len(info["losses"]) < 5_000
    assert len(info["losses"]) % 100 == 0
    assert info["plateau"]


def test_svi_goes_on_while_the_loss_falls():
    case = normal_case()
    optimizer = partial(torch.optim.SGD, lr=1e-5)
    far = case.problem.data._replace(kwargs={"y": case.problem.data.kwargs["y"] + 1e3})
    settings = SVI(num_steps=1_000, optimizer=optimizer, num_samples=10, patience=1, progress=False)
    info = settings(case.problem.model, far, seed=0).info
    assert len(info["losses"]) == 1_000
    assert not info["plateau"]


def test_descends_ignores_noise_and_sees_a_slope_within_it():
    noise = np.random.default_rng(0).normal(size=500)
    assert not descends(list(100 + noise))
    assert descends(list(100 + noise - 0.01 * np.arange(500)))
    assert not descends(list(100 + noise + 0.01 * np.arange(500)))


def test_svi_never_stops_early_without_patience():
    case = normal_case()
    settings = SVI(num_steps=1_500, optimizer=partial(torch.optim.Adam, lr=0.02), patience=None, progress=False)
    assert len(settings(case.problem.model, case.problem.data, seed=0).info["losses"]) == 1_500


def _tight(model):
    return AutoNormal(model, init_scale=1e-3)


def test_the_mean_loss_of_minibatches_is_the_full_loss():
    """A wrong scale size / rows is visible: the guide is narrow, and its parameters do not change."""
    problem = problems.diabetes_regression()
    still = partial(torch.optim.SGD, lr=0.0)
    run = SVI(num_steps=34, autoguide=_tight, optimizer=still, patience=None, num_samples=1, progress=False)
    full = run(problem.model, problem.data, seed=0).info["losses"]
    # 442 rows in 34 batches of 13: one epoch sees each row once.
    part = copy.copy(run)
    object.__setattr__(part, "batch_size", 13)
    parts = part(problem.model, problem.data, seed=0).info["losses"]
    assert np.std(parts) > 10 * np.std(full)
    assert abs(np.mean(parts) - np.mean(full)) < 4 * np.std(full) * math.sqrt(2) + 1e-3 * abs(np.mean(full))


def test_minibatches_end_at_the_posterior_that_all_rows_give():
    problem = problems.diabetes_regression()
    x, y = problems.diabetes_arrays()
    precision = np.eye(11) + x.T @ x / 0.5
    loc, sd = np.linalg.solve(precision, x.T @ y / 0.5), np.diag(precision) ** -0.5
    settings = SVI(
        num_steps=3_000, batch_size=64, optimizer=partial(problems.annealed, decay=0.997), patience=None, progress=False
    )
    draws = settings(problem.model, problem.data, seed=0).draws["b"][0].numpy()
    # Mean-field keeps the mean and has the precision's diagonal; along the two nearly collinear columns Adam is slow.
    assert (abs(draws.std(0) / sd - 1) < 0.15).all()
    fitted = x @ (draws.mean(0) - loc)
    assert np.sqrt((fitted**2).mean()) < 2 * math.sqrt(11 * 0.5 / 442)


def test_a_minibatch_of_a_model_without_rows_is_refused():
    problem = problems.eight_schools()
    with pytest.raises(ValueError, match="expected data with rows for batch_size, got size=None; "):
        SVI(batch_size=2)(problem.model, problem.data, seed=0)


def test_a_minibatch_of_a_model_without_a_plate_is_refused():
    def model(x, y=None):
        mu = pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("y", dist.Normal(mu + x, 1.5).to_event(1), obs=y)

    with pytest.raises(ValueError, match="expected a plate over the 3 rows"):
        SVI(num_steps=5, batch_size=3, progress=False)(model, normal_case().problem.data, seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_settings_that_count_are_checked_when_they_are_made(method):
    settings = METHODS[method](normal_case())
    counts = [field.name for field in fields(settings) if field.name.startswith(("num_", "max_", "batch_size"))]
    assert counts
    for name in counts:
        with pytest.raises(
            ValueError, match=rf"expected {name} to be an integer, [12] or more, got 0; pass {name}=[12]"
        ):
            replace(settings, **{name: 0})


def test_svi_without_latents_maximizes_the_likelihood():
    x, y = problems.diabetes_arrays()
    from_data = Dataset((problems.tensor(x),), {"y": problems.tensor(y)}, len(y))
    model = _linear_pipeline()
    fit = SVI(num_steps=1_500, optimizer=problems.annealed, patience=None, progress=False)
    fitted = fit(model, from_data, seed=0)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    exact = -0.5 * len(y) * (math.log(2 * math.pi * (residual**2).mean()) + 1)
    # Least squares is the maximum; Adam comes within a hundredth of a nat.
    assert -0.1 < -fitted.info["losses"][-1] - exact <= 1e-6
    assert float(elbo(fitted.model, fitted.guide, from_data).detach()) == pytest.approx(
        fitted.info["losses"][-1], abs=0.1
    )
    assert fitted.draws == {}


def _linear_pipeline():
    from_features = problems.Identity()
    with isolated(seed=0):
        code = DNN(11, 11, hidden=())
        code.network = nn.Identity()
        decision = problems.Regress(11, 1).double()
    return Pipeline(from_features, code, decision)
