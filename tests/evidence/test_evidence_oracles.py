"""Independent estimates of the evidence (harmonic mean, nested sampling) and the crude criteria, on exact problems."""

import importlib.util
import math
import sys
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import exact_answers as problems
from problems.exact_answers import Problem, tensor

from probmodel.evidence.criteria.bic import bic, num_rows
from probmodel.evidence.criteria.wbic import wbic
from probmodel.evidence.harmonic import harmonic
from probmodel.evidence.nested import nested
from probmodel.inference import Exact
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.posterior import Posterior, Target
from probmodel.tracing.target import target, target_of

needs_zuko = pytest.mark.skipif(
    importlib.util.find_spec("zuko") is None, reason="the optional package zuko is not installed"
)
needs_dynesty = pytest.mark.skipif(
    importlib.util.find_spec("dynesty") is None, reason="the optional package dynesty is not installed"
)

BUILT = {
    "conjugate normal": problems.conjugate_normal,
    "Beta-binomial": problems.beta_binomial,
    "Gamma-Poisson": problems.gamma_poisson,
    "Dirichlet-multinomial": problems.dirichlet_multinomial,
    "diabetes": problems.diabetes_regression,
    "eight schools": problems.eight_schools,
    "iris, one code, function": lambda: problems.iris_ppca(1, as_pipeline=False),
}


@lru_cache
def problem(name: str) -> Problem:
    return BUILT[name]()


@lru_cache
def posterior(name: str) -> Posterior:
    known = problem(name)
    if "conjugate" not in known.tags:
        return problems.schools_draws()
    return Exact(num_samples=2_000)(known.model, known.data, seed=0)


def no_latents() -> Posterior:
    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    data = Dataset((tensor([0.0, 1.0, 2.0]),), {"y": tensor([0.5, 1.0, 3.0])}, 3)
    return Posterior(model, data, {}, {})


NO_LATENTS = -1.5 * math.log(2 * math.pi) - 0.5 * (0.25 + 1)

# ------------------------------------------------------------------------------------------ harmonic mean


@needs_zuko
@pytest.mark.parametrize("name", [n for n in BUILT if "iris" not in n])
def test_harmonic_recovers_the_exact_evidence(name):
    known, found = problem(name), harmonic(posterior(name), seed=1)
    assert abs(found.log_z - known.log_z) < 4 * found.stderr
    assert found.stderr < (0.3 if name == "eight schools" else 0.03)
    assert found.log_z < found.upper < found.log_z + 2 * found.stderr
    assert found.lower == -math.inf
    assert (found.method, found.digest) == ("harmonic", target_of(posterior(name)).digest)


@needs_zuko
def test_a_flow_bends_to_a_posterior_no_normal_matches():
    """A ring: its moments are those of a round normal whose center holds nothing."""
    draws = ring_draws(2_000)
    found = harmonic(draws, num_steps=200)
    assert abs(found.log_z - RING) < 4 * found.stderr
    with pytest.warns(EvidenceWarning, match=r"harmonic: k-hat .*lower the temperature"):
        flat = harmonic(draws, num_steps=0)
    assert found.stderr < 0.5 * flat.stderr
    assert found.info["relative_ess"] > 2 * flat.info["relative_ess"]


RING = 1.25


def ring_model(anchor):
    """Log density: radius ~ N(2, 0.3²), angle leaning to one side; times e^1.25 after normalizing."""
    x = pyro.sample("x", dist.Normal(anchor, 10.0).to_event(1))
    radius = x.square().sum(-1).sqrt()
    lean = 0.8 * x[..., 0] / radius - torch.special.i0(tensor(0.8)).log()
    shape = dist.Normal(2.0, 0.3).log_prob(radius) - radius.log() - math.log(2 * math.pi)
    pyro.factor("ring", shape + lean + RING - dist.Normal(0.0, 10.0).log_prob(x).sum(-1))


@lru_cache
def ring_draws(count: int) -> Posterior:
    rng = np.random.default_rng(0)
    radius, angle = rng.normal(2, 0.3, count), rng.vonmises(0, 0.8, count)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return Posterior(ring_model, Dataset((tensor([0.0, 0.0]),)), {"x": tensor(x)[None]}, {})


@needs_zuko
def test_the_error_of_a_chain_counts_its_effective_draws():
    known = problem("Beta-binomial")
    independent = posterior("Beta-binomial").draws["p"]
    slow = independent[:, :200].repeat_interleave(10, 1)  # Each of 200 draws ten times in a row.
    chain = Posterior(known.model, known.data, {"p": slow}, {})
    few = Posterior(known.model, known.data, {"p": independent[:, :200]}, {})
    many, found = harmonic(few), harmonic(chain)
    assert abs(found.log_z - known.log_z) < 4 * found.stderr
    assert 0.5 < found.stderr / many.stderr < 2


@needs_zuko
def test_harmonic_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"expected a temperature in \(0, 1\], got 1\.5; pass"):
        harmonic(posterior("Beta-binomial"), temperature=1.5)
    few = problems.schools_at_their_prior(10)
    with pytest.raises(ValueError, match="expected at least 40 posterior draws, got 10"):
        harmonic(few)
    assert harmonic(no_latents()).log_z == pytest.approx(NO_LATENTS)


@needs_zuko
def test_harmonic_repeats_itself():
    assert harmonic(posterior("Beta-binomial"), seed=3) == harmonic(posterior("Beta-binomial"), seed=3)


@pytest.mark.parametrize(
    ("estimator", "flag", "extra"), [(harmonic, "HAS_ZUKO", "flows"), (nested, "HAS_DYNESTY", "nested")]
)
def test_a_missing_optional_package_is_named_with_its_extra(monkeypatch, estimator, flag, extra):
    monkeypatch.setattr(sys.modules[estimator.__module__], flag, False)
    with pytest.raises(ImportError, match=rf"got none; pip install 'probmodel\[{extra}\]'"):
        estimator(no_latents())


# ------------------------------------------------------------------------------------------ nested sampling


def shells_model(low):
    """Two rings of radius 2 and width 0.1 about ±3.5, uniform on [−6, 6]²."""
    x = pyro.sample("x", dist.Uniform(low, -low).to_event(1))
    center = tensor([3.5, 0.0])

    def ring(sign):
        return dist.Normal(2.0, 0.1).log_prob((x - sign * center).square().sum(-1).sqrt())

    pyro.factor("shells", torch.logaddexp(ring(1), ring(-1)))


TOYS = {"shells": (shells_model, -6.0, -1.7456, 200)}
"""Model, lower end of its uniform prior, log evidence, and live points.  The eggbox's eighteen modes want 500 and a minute."""


def toy(name: str) -> tuple[Target, float]:
    model, low, log_z, _ = TOYS[name]
    return target(model, Dataset((tensor([low, low]),))), log_z


@needs_dynesty
@pytest.mark.parametrize("name", TOYS)
def test_nested_finds_every_mode_under_a_uniform_prior(name):
    subject, log_z = toy(name)
    live = TOYS[name][3]
    found = nested(subject, num_live=live)
    assert abs(found.log_z - log_z) < 3 * found.stderr
    # √(H / nlive), Skilling (2006): the base lies as near to the posterior as one wide hill can.
    assert found.stderr == pytest.approx(math.sqrt(found.info["H"] / live), rel=0.2)
    assert found.stderr < 0.25
    assert found.info["nlive"] == live
    assert found.info["ncall"] > 200


@needs_dynesty
@pytest.mark.parametrize("name", ["Beta-binomial", "Gamma-Poisson", "Dirichlet-multinomial", "diabetes"])
def test_nested_recovers_the_exact_evidence(name):
    known = problem(name)
    found = nested(posterior(name), num_live=100)
    assert abs(found.log_z - known.log_z) < 4 * found.stderr
    assert found.stderr < 0.3


@needs_dynesty
def test_the_draws_set_the_speed_of_nested_sampling_and_not_its_value():
    known, held = problem("Gamma-Poisson"), posterior("Gamma-Poisson")
    astray = Posterior(known.model, known.data, {"rate": 1.5 * held.draws["rate"] ** 1.7}, {})
    found = nested(astray, num_live=100)
    assert abs(found.log_z - known.log_z) < 4 * found.stderr


@needs_dynesty
def test_nested_repeats_itself_and_says_where_it_stopped_early():
    held = posterior("Beta-binomial")
    one, two, other = (nested(held, seed=seed, num_live=50) for seed in (0, 0, 1))
    assert (one.log_z, one.info["ncall"]) == (two.log_z, two.info["ncall"])
    assert one.log_z != other.log_z
    with pytest.warns(EvidenceWarning, match="nested: stopped at"):
        nested(held, num_live=50, max_calls=100)
    with pytest.raises(ValueError, match="expected at least 22 live points, got 10"):
        nested(posterior("diabetes"), num_live=10)
    assert nested(no_latents()).log_z == pytest.approx(NO_LATENTS)


@needs_dynesty
@pytest.mark.filterwarnings("ignore")
def test_an_error_of_the_model_ends_nested_sampling(capsys):
    def refuse(theta):
        raise ArithmeticError("no such density")

    held = toy("shells")[0]
    with pytest.raises(ArithmeticError, match="no such density"):
        nested(replace(held, log_joint=refuse), num_live=20)


# ------------------------------------------------------------------------------------------ crude criteria


def tempered_mean(design: np.ndarray, y: np.ndarray, variance: float) -> float:
    """E of the log likelihood of b ~ N(0, I), y ~ N(Xb, variance I) at inverse temperature 1 / log N."""
    n, p = design.shape
    beta = 1 / math.log(n)
    covariance = np.linalg.inv(np.eye(p) + beta * design.T @ design / variance)
    residual = y - design @ (covariance @ design.T @ y) * beta / variance
    quadratic = residual @ residual + np.trace(design @ covariance @ design.T)
    return float(-0.5 * (n * math.log(2 * math.pi * variance) + quadratic / variance))


def test_the_crude_criteria_of_diabetes_are_the_reference():
    exact = tempered_mean(*problems.diabetes_arrays(), 0.5)
    assert abs(exact - -498.1441) < 1e-4
    found = wbic(posterior("diabetes"))
    assert abs(found.log_z - exact) < 4 * found.info["mc_stderr"]
    assert found.info["mc_stderr"] < 0.0125
    assert abs(bic(posterior("diabetes")).log_z - -499.6427) < 1e-4


def test_the_temperature_of_wbic_moves_far_from_the_posterior():
    """The prior holds the weights of a filter so tightly that the tempered posterior is elsewhere."""
    known = problems.linear_cnn()
    images, y = problems._zeros_and_ones()
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    design = np.column_stack([windows.mean((1, 2)).reshape(len(y), 9), np.ones(len(y))])
    # One column a weight: the same density as the images', at a hundredth of the cost.
    data = Dataset((tensor(design),), {"y": tensor(y)}, len(y))

    def model(x, y=None):
        b = pyro.sample("b", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)

    fit = Exact(num_samples=1_000)(model, data, seed=0)
    found = wbic(fit)
    assert abs(found.log_z - tempered_mean(design, y, 0.25)) < 4 * found.info["mc_stderr"]
    assert found.info["mc_stderr"] < 0.1
    # The criterion itself is 120 nats off: it is crude.
    assert abs(found.log_z - known.log_z) > 100


@pytest.mark.parametrize("name", ["Beta-binomial", "Gamma-Poisson"])
def test_the_crude_criteria_of_asymmetric_posteriors_equal_their_definition(name):
    if name == "Beta-binomial":
        n, y = np.array(problems.BINOMIAL_N), np.array(problems.BINOMIAL_Y)
        grid = np.linspace(0, 1, 200_001)[1:-1]
        ways = sum(math.log(math.comb(int(a), int(b))) for a, b in zip(n, y, strict=True))
        log_prior = 0.5 * np.log(grid) + 3 * np.log1p(-grid)
        log_likelihood = ways + y.sum() * np.log(grid) + (n - y).sum() * np.log1p(-grid)
    else:
        t, y = np.array(problems.POISSON_EXPOSURE), np.array(problems.POISSON_Y)
        grid = np.linspace(0, 40, 400_001)[1:]
        level = float((y * np.log(t)).sum() - sum(math.lgamma(each + 1) for each in y))
        log_prior = np.log(grid) - 1.5 * grid
        log_likelihood = level + y.sum() * np.log(grid) - t.sum() * grid
    beta = 1 / math.log(len(y))
    log_w = log_prior + beta * log_likelihood
    weights = np.exp(log_w - log_w.max())
    found = wbic(posterior(name))
    assert abs(found.log_z - (weights @ log_likelihood) / weights.sum()) < 4 * found.info["mc_stderr"]
    assert found.info["mc_stderr"] < 0.005
    highest = log_likelihood.max()
    assert abs(bic(posterior(name)).log_z - (highest - 0.5 * math.log(len(y)))) < 1e-6


@pytest.mark.parametrize("estimator", [bic, wbic])
def test_a_crude_criterion_says_so_and_claims_no_error(estimator):
    found = estimator(posterior("Beta-binomial"))
    assert found.method == f"{estimator.__name__} (crude)"
    assert math.isnan(found.stderr)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert "not a reliable" in estimator.__doc__
    assert estimator(no_latents()).log_z == pytest.approx(NO_LATENTS)
    # A bare target has no rows of its own; its observations are counted.
    assert num_rows(target_of(posterior("diabetes"))) == 442


@pytest.mark.parametrize("estimator", [bic, wbic])
def test_a_crude_criterion_needs_rows_that_share_their_latents(estimator):
    with pytest.raises(ValueError, match=r"expected data with rows, got size=None; give Dataset"):
        estimator(problems.schools_at_their_prior(50))
    with pytest.raises(ValueError, match="expected latents that rows share, got 150 coordinates local to 150 rows"):
        estimator(posterior("iris, one code, function"))
