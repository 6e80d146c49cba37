"""The promises of the sandwich: bounds that enclose, methods that agree, and a refusal that names the check that failed."""

import math
from functools import lru_cache, partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import fingerprints
from problems import exact_answers as problems
from problems.exact_answers import Problem, tensor
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import integrate, stats
from torch.distributions import constraints

from probmodel.data.locate import locate
from probmodel.data.problems import sonar
from probmodel.evidence import laplace, sandwich
from probmodel.evidence.weighing.agreement import agreement_p_value
from probmodel.inference import SVI, Exact
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Estimate, Evidence
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target

EVERYWHERE = {"ais", "reverse ais", "bridge", "importance", "laplace"}


@lru_cache
def problem(name: str) -> Problem:
    return {
        "normal": problems.conjugate_normal,
        "beta": problems.beta_binomial,
        "gamma": problems.gamma_poisson,
        "dirichlet": problems.dirichlet_multinomial,
        "schools": problems.eight_schools,
    }[name]()


@lru_cache
def of_target(name: str, seed: int = 1) -> Evidence:
    return sandwich(target(problem(name).model, problem(name).data), seed=seed)


@lru_cache
def of_fit(name: str) -> Evidence:
    """Sandwich of a fit with draws by NUTS, of a guide, or in closed form."""
    model, data = problem(name).model, problem(name).data
    if name == "schools":
        return sandwich(problems.schools_draws(), seed=1)
    if name == "gamma":
        settings = SVI(
            num_steps=1_500,
            autoguide=partial(AutoMultivariateNormal, init_scale=0.3),
            optimizer=problems.annealed,
            patience=None,
            progress=False,
        )
        return sandwich(settings(model, data, seed=0), seed=1)
    return sandwich(Exact(num_samples=2_000)(model, data, seed=0), seed=1)


# ------------------------------------------------------------------------------------------ bounds and their table


@pytest.mark.parametrize("name", ["normal", "beta", "gamma", "dirichlet", "schools"])
@pytest.mark.parametrize("found", [of_target, of_fit])
def test_both_bounds_enclose_the_exact_evidence_closely_and_every_method_agrees(name, found):
    exact, found = problem(name).log_z, found(name)
    assert found.lower <= exact <= found.upper
    assert found.upper - found.lower < 0.3
    assert abs(found.log_z - exact) < 4 * found.stderr + 1e-6
    assert found.agreement.p_value > 1e-3
    for each in found.agreement:
        assert each.caveat or abs(each.log_z - exact) < 4.5 * each.stderr + 1e-6
    assert found.info["failed"] == ()
    assert found.method == "sandwich"


def test_the_table_has_a_row_for_every_method_that_applies():
    assert {each.method for each in of_target("schools").agreement} == EVERYWHERE | {"smc"}
    assert {each.method for each in of_fit("gamma").agreement} >= EVERYWHERE | {"smc", "iwae"}
    assert {each.method for each in of_fit("normal").agreement} >= EVERYWHERE | {"smc", "exact"}
    lines = str(of_target("schools").agreement).splitlines()
    assert len(lines) == len(of_target("schools").agreement) + 2
    assert lines[-1].startswith("agreement: chi-square p = ")


def test_certified_names_the_side_and_its_condition():
    assert of_target("gamma").certified == (
        "the lower bound holds at finite sample size: schedule and kernels were frozen after the pilot run; the upper bound "
        "holds as far as the particles of sequential Monte Carlo are of the posterior and, thinned, independent"
    )
    assert of_fit("gamma").certified.startswith("both sides, in closed form")


def test_certified_names_the_draws_of_a_fit():
    assert "as far as the draws by NUTS are of the posterior" in of_fit("schools").certified


@pytest.mark.parametrize("name", ["normal", "beta", "dirichlet"])
def test_a_closed_form_certifies_both_sides(name):
    found = of_fit(name)
    assert found.certified == "both sides, in closed form up to rounding"
    assert found.stderr == 0
    assert found.upper - found.lower < 1e-6
    assert found.lower < problem(name).log_z < found.upper


def test_a_laplace_row_that_is_off_says_by_how_much():
    assert "approximation, off by" in of_target("schools").agreement["laplace"].caveat
    assert of_fit("normal").agreement["laplace"].caveat == "approximation"


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_global_state_alone():
    before = fingerprints()
    density = target(problem("gamma").model, problem("gamma").data)
    with isolated(seed=99):
        torch.randn(3)
        again = sandwich(density, seed=1)
    assert fingerprints() == before
    first = of_target("gamma")
    assert (again.log_z, again.stderr, again.lower, again.upper) == (
        first.log_z,
        first.stderr,
        first.lower,
        first.upper,
    )
    assert of_target("gamma", seed=2).log_z != first.log_z


def test_a_higher_level_has_wider_bounds():
    density = target(problem("gamma").model, problem("gamma").data)
    narrow, usual, wide = (
        sandwich(density, seed=1, level=0.5),
        of_target("gamma"),
        sandwich(density, seed=1, level=0.999),
    )
    assert wide.lower < usual.lower < narrow.lower < narrow.upper < usual.upper < wide.upper
    assert (narrow.level, usual.level, wide.level) == (0.5, 0.95, 0.999)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_that_is_no_probability_is_refused(level):
    with pytest.raises(ValueError, match="expected a level between 0 and 1, got"):
        sandwich(target(problem("normal").model, problem("normal").data), level=level)


def test_a_model_without_latents_has_its_likelihood_as_evidence():
    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x, 1.5), obs=y)

    data = problem("normal").data
    exact = float(dist.Normal(data.args[0], 1.5).log_prob(data.kwargs["y"]).sum())
    found = sandwich(target(model, data))
    assert found.lower == found.log_z == found.upper
    assert abs(found.log_z - exact) < 1e-9


# ------------------------------------------------------------------------------------------ modes


def _two_modes(anchor):
    """Two bumps of unequal width and mass under a wide prior."""
    theta = pyro.sample("theta", dist.Normal(anchor, 5.0))
    low = dist.Normal(anchor - 6, 0.3).log_prob(theta) + math.log(0.3)
    high = dist.Normal(anchor + 5, 0.8).log_prob(theta) + math.log(0.7)
    pyro.factor("bumps", torch.logaddexp(low, high))


TWO_MODES = Dataset((tensor(0.0),))
LOG_LOW = math.log(0.3) + float(stats.norm(0, math.hypot(5, 0.3)).logpdf(-6))
LOG_HIGH = math.log(0.7) + float(stats.norm(0, math.hypot(5, 0.8)).logpdf(5))


def one_mode(where: float, scale: float, seed: int = 0) -> Posterior:
    precision = 1 / 25 + 1 / scale**2
    draws = np.random.default_rng(seed).normal(where / scale**2 / precision, precision**-0.5, (4, 500))
    return Posterior(_two_modes, TWO_MODES, {"theta": tensor(draws)}, {"method": "NUTS"})


@pytest.mark.parametrize(("where", "scale"), [(-6.0, 0.3), (5.0, 0.8)])
def test_draws_of_one_mode_of_two_are_refused_and_the_warning_names_the_check(where, scale):
    with pytest.warns(
        EvidenceWarning,
        match=r"sandwich: (estimators disagree|the bounds cross|(reverse )?ais: (relative ESS|k-hat)).*",
    ) as seen:
        found = sandwich(one_mode(where, scale), seed=1)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert found.certified == "neither side: a check has failed"
    assert len(found.info["failed"]) == len(seen)
    assert all("; " in each for each in found.info["failed"])
    exact = np.logaddexp(LOG_LOW, LOG_HIGH)
    assert abs(found.agreement["smc"].log_z - exact) < 4.5 * found.agreement["smc"].stderr
    assert found.log_z < exact + 0.2


def test_particles_from_the_prior_find_both_modes():
    found = sandwich(target(_two_modes, TWO_MODES), seed=1)
    exact = np.logaddexp(LOG_LOW, LOG_HIGH)
    assert found.lower < exact < found.upper
    assert abs(found.log_z - exact) < 4 * found.stderr
    assert found.stderr < 0.02


def _mixture(ones, y=None):
    mu = pyro.sample("mu", dist.Normal(torch.zeros_like(ones), 5.0).to_event(1))
    weights = pyro.sample("weights", dist.Dirichlet(ones))
    with pyro.plate("rows", len(y)):
        components = dist.Normal(mu, 0.8 * torch.ones_like(mu))
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weights), components), obs=y)


MIXED = np.concatenate(
    [-3 + 0.8 * stats.norm.ppf((np.arange(10) + 0.5) / 10), 3 + 0.8 * stats.norm.ppf((np.arange(15) + 0.5) / 15)]
)


@lru_cache
def one_labeling() -> tuple[Posterior, float]:
    """Draws with mu_1 < mu_2 from a grid, and the log evidence of both labelings."""
    share, first, second = np.linspace(0, 1, 101)[1:-1], np.linspace(-4.5, -1.5, 101), np.linspace(1.8, 4.2, 101)
    low, high = (stats.norm(m[:, None], 0.8).pdf(MIXED) for m in (first, second))
    log_p = np.zeros((99, 101, 101))
    for row in range(len(MIXED)):
        log_p += np.log(
            share[:, None, None] * low[:, None, row] + (1 - share)[:, None, None] * high[None, None, :, row]
        )
    log_p += stats.norm(0, 5).logpdf(first)[:, None] + stats.norm(0, 5).logpdf(second)
    cell = 0.01 * (first[1] - first[0]) * (second[1] - second[0])
    density = np.exp(log_p - log_p.max())
    log_z = log_p.max() + math.log(density.sum() * cell) + math.log(2)
    rng = np.random.default_rng(0)
    at = np.unravel_index(rng.choice(density.size, 4_000, p=density.ravel() / density.sum()), density.shape)
    noise = rng.uniform(-0.5, 0.5, (3, 4_000))
    w = share[at[0]] + 0.01 * noise[0]
    mu = np.stack([g[i] + (g[1] - g[0]) * n for g, i, n in zip((first, second), at[1:], noise[1:], strict=True)], 1)
    draws = {"mu": tensor(mu)[None], "weights": tensor(np.stack([w, 1 - w], 1))[None]}
    return Posterior(
        _mixture, Dataset((torch.ones(2).double(),), {"y": tensor(MIXED)}), draws, {"method": "NUTS"}
    ), log_z


def test_draws_of_one_labeling_are_symmetrized_and_log_two_is_not_lost():
    fit, exact = one_labeling()
    assert (fit.draws["mu"][..., 0] < fit.draws["mu"][..., 1]).all()
    found = sandwich(fit, seed=1)
    assert found.lower < exact < found.upper
    assert abs(found.log_z - exact) < 4 * found.stderr
    assert found.stderr < 0.02
    assert any("label switching: 2 exchangeable components" in each for each in found.info["findings"])
    assert any("log 2! = 0.6931" in each for each in found.info["findings"])
    for method in ("bridge", "importance", "reverse ais"):
        assert abs(found.agreement[method].log_z - exact) < 0.2


# ------------------------------------------------------------------------------------------ priors and supports


def _improper(x, y=None):
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(mu + x, 1.5), obs=y)


def test_an_improper_prior_leaves_the_evidence_defined_up_to_a_constant_and_says_so():
    data = problem("normal").data
    gap = (data.kwargs["y"] - data.args[0]).numpy()
    n, mean = len(gap), gap.mean()
    exact = stats.norm(mean, 1.5).logpdf(gap).sum() + 0.5 * math.log(2 * math.pi * 1.5**2 / n)
    draws = np.random.default_rng(0).normal(mean, 1.5 / math.sqrt(n), (2, 1_000))
    fit = Posterior(_improper, data, {"mu": tensor(draws)}, {"method": "by hand"})
    with pytest.warns(EvidenceWarning, match=r"improper prior of mu: the evidence is defined up to a constant") as seen:
        found = sandwich(fit, seed=1)
    assert len(seen) == 1
    assert abs(found.log_z - exact) < 4 * found.stderr + 1e-4
    assert "smc" not in {each.method for each in found.agreement}
    assert any("prior cannot be sampled" in each for each in found.info["findings"])


def _improper_and_not_normal(x, y=None):
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.StudentT(x.new_tensor(4.0), mu + x, 1.5), obs=y)


def test_an_improper_prior_without_draws_is_refused_where_the_posterior_has_no_closed_form():
    with pytest.raises(ValueError, match=r"expected a prior that can be sampled, got improper ones of \['mu'\]; fit"):
        sandwich(target(_improper_and_not_normal, problem("normal").data))


def test_draws_of_another_model_are_refused():
    known = problem("normal")
    wide = Posterior(known.model, known.data, {"mu": torch.zeros(1, 100, 2).double()}, {"method": "NUTS"})
    with pytest.raises(
        ValueError,
        match=r"expected draws of 'mu' as a tensor of shape \(S,\), got .* \(100, 2\); pass draws of the same model",
    ):
        sandwich(wide)
    other = Posterior(known.model, known.data, {"beta": torch.zeros(1, 100).double()}, {"method": "NUTS"})
    with pytest.raises(ValueError, match=r"expected values for every latent, got none for \['mu'\]"):
        sandwich(other)


def _root(x, y=None):
    theta = pyro.sample("theta", dist.Normal(x.new_tensor(1.0), 0.2))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x, theta.sqrt()), obs=y)


def test_a_density_that_is_no_number_at_a_draw_is_refused():
    theta = torch.linspace(0.5, 1.5, 100).double()
    theta[7] = -0.1
    fit = Posterior(_root, problem("normal").data, {"theta": theta[None]}, {"method": "NUTS"})
    with pytest.raises(
        ValueError, match=r"expected a finite log density at every draw, got NaN or infinity at 1 of 100"
    ):
        sandwich(fit)


def _ring(anchor):
    """Density around a circle: no curvature along it."""
    place = pyro.sample("place", dist.Normal(anchor.expand(2), 2.0).to_event(1))
    pyro.factor("ring", -((place.square().sum(-1).sqrt() - 2) ** 2) / (2 * 0.2**2))


def test_along_a_flat_direction_laplace_carries_a_caveat_and_the_rest_still_answers():
    exact = math.log(
        integrate.quad(lambda r: r / 4 * math.exp(-(r**2) / 8 - (r - 2) ** 2 / (2 * 0.2**2)), 0, 6, points=[2])[0]
    )
    found = sandwich(target(_ring, Dataset((tensor(0.0),))), seed=1)
    caveat = found.agreement["laplace"].caveat
    assert caveat.startswith("no maximum: ") or "off by" in caveat
    assert found.lower < exact < found.upper
    assert abs(found.log_z - exact) < 4 * found.stderr


def test_laplace_of_sonar_is_off_by_three_nats_and_its_row_would_say_so():
    try:
        locate("evidence/sonar_std.csv")
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    known = sonar()
    found = sandwich(target(known.model, known.data), seed=1, precision=math.inf)
    assert found.lower < known.log_z < found.upper
    assert found.agreement["laplace"].caveat.startswith("approximation, off by -3.")
    assert abs(laplace(target(known.model, known.data)).log_z - found.agreement["laplace"].log_z) < 1e-3


# ------------------------------------------------------------------------------------------ agreement


def test_the_agreement_is_a_chi_square_test_of_one_common_value():
    rng, p_values = np.random.default_rng(0), []
    for _ in range(500):
        errors = rng.uniform(0.01, 1, 4)
        p_values.append(agreement_p_value([Estimate("m", rng.normal(7, e), e) for e in errors]))
    assert stats.kstest(p_values, stats.uniform().cdf).pvalue > 1e-4


def test_only_estimates_without_a_caveat_and_with_an_error_are_compared():
    good, bad = [Estimate("a", 1.0, 0.1), Estimate("b", 1.1, 0.1)], Estimate("c", 9.0, 0.1)
    assert agreement_p_value([*good, bad]) < 1e-10
    assert agreement_p_value([*good, bad._replace(caveat="off")]) > 0.1
    assert agreement_p_value([*good, bad._replace(stderr=math.nan)]) > 0.1
    assert math.isnan(agreement_p_value([good[0], bad._replace(caveat="off")]))


def test_a_closed_form_does_not_refute_others_by_rounding():
    assert agreement_p_value([Estimate("exact", 1e3, 0.0), Estimate("other", 1e3 + 1e-10, 1e-12)]) > 0.5
