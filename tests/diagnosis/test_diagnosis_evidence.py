"""Overfitting tied to evidence: conditional evidence, gaps of inference, wide priors; numbers with an exact answer."""

import math
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import (
    beta_binomial,
    conjugate_normal,
    diabetes_arrays,
    diabetes_regression,
    gamma_poisson,
    iris_array,
    linear_model,
    log_evidence_linear,
    ppca,
    ppca_pipeline,
    tensor,
)
from scipy import optimize, special, stats

import probmodel as pb
from probmodel.diagnosis import conditional_evidence, inference_gaps, prequential, prior_sensitivity, recalibrated
from probmodel.diagnosis.experiments.prior_sensitivity import PriorScore, prior_width
from probmodel.diagnosis.findings import CAUTION, Finding, Verdict
from probmodel.diagnosis.leave_one_out import p_waic
from probmodel.diagnosis.rule import against_smaller
from probmodel.draws.diagnostics import Loo
from probmodel.evidence import exact, importance
from probmodel.inference.guides.draws import guide_draws
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Agreement, Estimate, Evidence
from probmodel.protocols.posterior import Posterior, Target
from probmodel.tracing.curvature import gaussian_at, mode
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites
from probmodel.tracing.target import target_of

QUICK = pb.Exact(num_samples=2)
SPLIT = 353
VARIANCES = {
    1e-4: (-651.916, -619.164, -132.274),
    1e-2: (-491.079, -477.015, -96.987),
    0.1: (-489.819, -476.754, -96.327),
    1.0: (-499.992, -476.836, -95.860),
    100.0: (-524.913, -476.941, -95.754),
    1e4: (-550.237, -476.943, -95.753),
    1e6: (-575.566, -476.943, -95.753),
}
"""Prior variance → log Z, elpd_loo and conditional log evidence of the diabetes regression."""


def guide_draws_of(model, guide, data, num_samples, seed):
    with isolated(seed=0):
        latents = sites(model, data).latents
    return guide_draws(guide, data, latents, num_samples, seed)


def solved(posterior, *, seed=0):
    """The evidence that `Exact` has found on its way."""
    log_z = posterior.info["log_evidence"]
    return Evidence(log_z, 0.0, log_z, log_z, level=1.0, method="exact", digest=target_of(posterior).digest)


def after(fit, num_rows):
    """Conditional evidence of a fit's rows beyond the first ones, without a second fit to all of them."""

    def inference(model, data, *, seed):
        return fit if data.size == fit.data.size else QUICK(model, data, seed=seed)

    return conditional_evidence(fit.model, fit.data, num_rows, estimator=solved, inference=inference)


def dataset(x, y):
    return Dataset((tensor(x),), {"y": tensor(y)}, len(y))


def diabetes_evidence(variance, rows=slice(None)):
    x, y = diabetes_arrays()
    return log_evidence_linear(x[rows] * math.sqrt(variance), y[rows], 0.5)


def regression(x, y=None, *, mean=0.0, prior_sd=1.0, noise=0.5**0.5):
    b = pyro.sample("b", dist.Normal(x.new_full((x.shape[1],), mean), prior_sd).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, noise), obs=y)


# ------------------------------------------------------------------------------------------ conditional evidence


def test_the_conditional_evidence_of_the_last_rows_is_exact():
    problem = diabetes_regression()
    found = conditional_evidence(problem.model, problem.data, SPLIT, estimator=exact, inference=QUICK)
    assert abs(found.log_z - -95.8600) < 1e-4
    assert abs(found.log_z - (problem.log_z - diabetes_evidence(1.0, slice(SPLIT)))) < 1e-9
    assert found.lower == found.upper == found.log_z
    assert found.stderr == 0
    assert found.level == 1
    assert found.method == "conditional (exact)"
    assert found.info["num_rows"] == SPLIT
    assert abs(found.info["log_z"] - problem.log_z) < 1e-9
    assert found.digest == exact(QUICK(problem.model, problem.data, seed=0)).digest


def test_it_conditions_on_the_first_rows_and_not_on_the_last():
    x, y = np.linspace(-1, 2, 7)[:, None], np.array([2.1, 3.4, -0.7, 1.9, 5.2, 0.3, 2.8])
    found = conditional_evidence(linear_model, dataset(x, y), 2, estimator=exact, inference=QUICK)
    first = 1 / (1 + x[:2].T @ x[:2] / 0.5)
    mean = (first @ x[:2].T @ y[:2] / 0.5)[0]
    covariance = first[0, 0] * x[2:] @ x[2:].T + 0.5 * np.eye(5)
    expected = stats.multivariate_normal(mean * x[2:, 0], covariance).logpdf(y[2:])
    assert abs(found.log_z - expected) < 1e-9


def test_errors_of_the_two_estimates_are_independent_and_add_in_squares():
    """log Z of the beta-binomial in closed form for any rows; importance sampling with few draws errs visibly."""
    n, y = np.array([4.0, 9, 2, 12, 5]), np.array([1.0, 2, 0, 3, 2])

    def log_z(count):
        rows = slice(count)
        ways = special.gammaln(n + 1) - special.gammaln(y + 1) - special.gammaln(n - y + 1)
        a, b = 1.5 + y[rows].sum(), 4 + (n - y)[rows].sum()
        return ways[rows].sum() + special.betaln(a, b) - special.betaln(1.5, 4)

    kept = []

    def estimator(subject, *, seed=0):
        kept.append(importance(subject, seed=seed, num_samples=300))
        return kept[-1]

    problem, errors = beta_binomial(), []

    @lru_cache
    def fit(size):
        return pb.Exact(num_samples=200)(problem.model, problem.data.rows(slice(size))._replace(size=size), seed=0)

    def inference(model, data, *, seed):
        assert data.num_rows == data.size
        return fit(data.size)

    for seed in range(12):
        found = conditional_evidence(
            problem.model, problem.data, 2, estimator=estimator, inference=inference, seed=seed
        )
        assert abs(found.stderr - math.hypot(*(each.stderr for each in kept[-2:]))) < 1e-12
        errors.append((found.log_z - (log_z(5) - log_z(2))) / found.stderr)
        assert found.lower == float("-inf")
        assert found.upper == kept[-2].upper - kept[-1].lower == float("inf")
    assert abs(np.mean(errors)) < 4 / math.sqrt(12)
    assert 0.4 < np.std(errors) < 1.8


def bounded(subject, *, seed=0):
    """A made-up estimate that knows how many rows it has seen."""
    rows = float(subject.data.size)
    return Evidence(-rows, 0.3, lower=-rows - 1, upper=-rows + 2, level=0.95, method="made up")


def test_bounds_subtract_the_opposite_bounds():
    problem = conjugate_normal()
    found = conditional_evidence(problem.model, problem.data, 3, estimator=bounded, inference=QUICK)
    assert (found.log_z, found.lower, found.upper) == (-4.0, -7.0, -1.0)
    assert abs(found.level - 0.90) < 1e-12


def gaussian_evidence(subject, *, seed=0):
    """Log Z of a target with a normal posterior, without any fit."""
    assert isinstance(subject, Target)
    gaussian = gaussian_at(subject, mode(subject, torch.zeros(subject.dim, dtype=subject.dtype)))
    log_z = float(subject.log_joint_at(gaussian.loc) + gaussian.log_normalizer())
    return Evidence(log_z, 0.0, digest=subject.digest, method="gaussian")


def test_an_estimator_that_needs_no_fit_gets_targets():
    problem = diabetes_regression()
    found = conditional_evidence(problem.model, problem.data, SPLIT, estimator=gaussian_evidence)
    assert abs(found.log_z - -95.8600025) < 1e-6


@pytest.mark.parametrize("num_rows", [0, 7, -2])
def test_a_split_without_rows_on_both_sides_is_refused(num_rows):
    problem = conjugate_normal()
    with pytest.raises(ValueError, match="1 to 6 of 7 rows"):
        conditional_evidence(problem.model, problem.data, num_rows, estimator=exact, inference=QUICK)


def test_minibatches_and_data_without_rows_are_refused():
    problem = conjugate_normal()
    with pytest.raises(ValueError, match="minibatch"):
        conditional_evidence(problem.model, problem.data.rows(slice(5)), 2, estimator=exact, inference=QUICK)
    with pytest.raises(ValueError, match="rows"):
        conditional_evidence(problem.model, problem.data._replace(size=None), 2, estimator=exact, inference=QUICK)


def test_point_estimates_fitted_anew_to_each_part_are_told():
    x = iris_array()[:10]
    data, fit = dataset(x, x), ppca_pipeline(ppca(iris_array(), 2))

    def inference(model, data, *, seed):
        return Posterior(model, data, {}, {"method": "none"})

    with pytest.warns(EvidenceWarning, match="point estimates"):
        conditional_evidence(fit, data, 6, estimator=exact, inference=inference)


# ------------------------------------------------------------------------------------------ prequential


def test_prequential_blocks_are_exact_and_sum_to_the_evidence():
    problem = diabetes_regression()
    ends = [20, 150, SPLIT, 442]
    found = prequential(problem.model, problem.data, ends, estimator=exact, inference=QUICK)
    assert abs(found.log_z - problem.log_z) < 1e-9
    seen = [0.0, *(diabetes_evidence(1.0, slice(end)) for end in ends)]
    for block, end, expected in zip(found.blocks, ends, np.diff(seen), strict=True):
        assert block.num_rows == end
        assert abs(block.log_evidence - expected) < 1e-9
        assert block.stderr == 0
    assert abs(found.blocks[-1].log_evidence - -95.8600) < 1e-4
    assert f"{found.log_z:.4f}" in str(found)


def test_the_error_of_the_sum_is_that_of_the_last_evidence():
    problem = conjugate_normal()
    found = prequential(problem.model, problem.data, [1, 4, 7], estimator=bounded, inference=QUICK)
    assert [block.log_evidence for block in found.blocks] == [-1.0, -3.0, -3.0]
    assert [block.stderr for block in found.blocks] == [0.3, *[math.hypot(0.3, 0.3)] * 2]
    assert found.evidence.stderr == 0.3


@pytest.mark.parametrize("ends", [[], [3], [3, 3, 7], [5, 3, 7], [0, 7], [3, 8]])
def test_ends_that_do_not_rise_to_all_rows_are_refused(ends):
    problem = conjugate_normal()
    with pytest.raises(ValueError, match="7"):
        prequential(problem.model, problem.data, ends, estimator=exact, inference=QUICK)


# ------------------------------------------------------------------------------------------ gaps of inference


def amortized(angle, *, shift=None, num_samples=500):
    """PPCA of the irises with the best amortized guide, its mean moved by `shift` of each row."""
    x = iris_array()
    fit = ppca(x, 2, angle=angle)
    model = ppca_pipeline(fit)
    if shift is not None:
        with torch.no_grad():
            model.representation.encoder.weight[0, 2] += shift
            model.representation.encoder.bias[1] -= shift
    data = dataset(x, x)
    draws = guide_draws_of(model, model.guide, data, num_samples, 0)
    return fit, Posterior(model, data, draws, {"method": "by hand"}, model.guide)


@pytest.mark.parametrize(("angle", "expected"), [(0.0, 0.0), (math.pi / 8, 0.538379), (math.pi / 4, 0.791577)])
def test_the_approximation_gap_of_a_linear_vae_is_exact_and_its_best_guide_has_no_other(angle, expected):
    gaps = inference_gaps(amortized(angle)[1], estimator=exact)
    assert abs(gaps.approximation / 150 - expected) < 1e-6
    assert gaps.approximation_stderr < 1e-9
    assert abs(gaps.amortization) < 4 * gaps.amortization_stderr + 1e-9
    assert gaps.amortization_stderr < 0.5
    assert len(gaps.amortization_by_row) == 150
    assert "approximation gap" in str(gaps)


@pytest.mark.parametrize("angle", [0.0, math.pi / 4])
def test_a_worse_encoder_has_an_amortization_gap_and_the_family_keeps_its_own(angle):
    """The log joint is quadratic: means off by e lose e' P e / 2 with P the posterior's precision."""
    fit, posterior = amortized(angle, shift=0.1)
    gaps = inference_gaps(posterior, estimator=exact, num_samples=1_000)
    off = np.stack([0.1 * iris_array()[:, 2], np.full(150, -0.1)], -1)
    lost = 0.5 * np.einsum("ni,ij,nj->n", off, np.linalg.inv(fit.posterior()[1]), off)
    assert lost.sum() > 50
    assert abs(gaps.amortization - lost.sum()) < 4 * gaps.amortization_stderr
    assert np.corrcoef(gaps.amortization_by_row.numpy(), lost)[0, 1] > 0.9
    assert abs(gaps.approximation / 150 - (0.791577 if angle else 0.0)) < 1e-6


def test_a_guide_of_full_covariance_beats_the_factorized_family_by_its_gap():
    problem = diabetes_regression()
    gaps = inference_gaps(pb.Exact(num_samples=300)(problem.model, problem.data, seed=0), estimator=exact)
    assert abs(gaps.approximation - 3.805531) < 1e-5
    assert abs(gaps.amortization + 3.805531) < 1e-5


def test_the_family_is_optimized_in_unconstrained_coordinates():
    """Rate ~ Gamma(a, r) given the data: the best normal of its logarithm by quadrature."""
    problem = gamma_poisson()
    a, r = 2.0 + 16, 1.5 + 8.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)

    def negative_elbo(q):
        log_rate = q[0] + np.exp(q[1]) * nodes
        energy = (weights * (a * log_rate - r * np.exp(log_rate))).sum() / math.sqrt(2 * math.pi)
        return -(energy + q[1] + 0.5 * math.log(2 * math.pi * math.e) + a * math.log(r) - special.gammaln(a))

    gap = optimize.minimize(negative_elbo, [0.5, -1.0], tol=1e-12).fun
    assert gap > 1e-3
    fit = pb.Exact(num_samples=200)(problem.model, problem.data, seed=0)
    gaps = inference_gaps(fit, estimator=exact)
    assert gap - 1e-9 - 4 * gaps.approximation_stderr < gaps.approximation < gap + 1e-3 + 4 * gaps.approximation_stderr
    assert gaps.approximation_stderr < 0.2 * gap


def test_gaps_refuse_what_has_none():
    problem = conjugate_normal()
    fit = pb.Exact(num_samples=50)(problem.model, problem.data, seed=0)
    with pytest.raises(ValueError, match="guide"):
        inference_gaps(replace(fit, guide=None), estimator=exact)
    with pytest.raises(ValueError, match="minibatch"):
        inference_gaps(replace(fit, data=fit.data.rows(slice(3))), estimator=exact)
    with pytest.raises(ValueError, match="2 draws"):
        inference_gaps(replace(fit, draws={"mu": fit.draws["mu"][:, :1]}), estimator=exact)


# ------------------------------------------------------------------------------------------ effective parameters


def test_p_waic_and_p_loo_stand_beside_the_effective_dimension():
    problem = diabetes_regression()
    fit = pb.Exact(num_samples=6_000)(problem.model, problem.data, seed=0)
    by_row = target_of(fit).log_likelihood_by_row(fit.draws["b"][0])
    values = np.array([float(p_waic(part).sum()) for part in by_row.split(500)])
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - 10.1516) < 4 * error
    assert error < 0.2
    shown = pb.diagnose(replace(fit, draws={"b": fit.draws["b"][:, :500]}))
    assert abs(shown["p_waic"].value - values[0]) < 1e-9
    assert abs(shown["p_loo"].value - 10.1664) < 1.5
    assert abs(shown["effective dimension"].value - 10.856472) < 1e-6
    assert shown["p_loo ratio"].value == shown["p_loo"].value / shown["effective dimension"].value
    assert shown["p_loo ratio"].flag == ""


# ------------------------------------------------------------------------------------------ prior too wide


@lru_cache
def sensitivity():
    problem = diabetes_regression()
    models = {variance: recalibrated(problem.model, math.sqrt(variance)) for variance in VARIANCES}
    fits = pb.Exact(num_samples=500)
    return prior_sensitivity(models, problem.data, SPLIT, estimator=solved, inference=fits)


def exact_elpd_loo(variance):
    """Σ log N(y_i; leave-one-out mean, variance) of a linear model through its hat matrix."""
    x, y = diabetes_arrays()
    covariance = np.linalg.inv(x.T @ x / 0.5 + np.eye(x.shape[1]) / variance)
    leverage = np.einsum("ni,ij,nj->n", x, covariance, x) / 0.5
    residual = (y - x @ covariance @ x.T @ y / 0.5) / (1 - leverage)
    return float(stats.norm.logpdf(residual, 0, np.sqrt(0.5 / (1 - leverage))).sum())


@pytest.mark.parametrize("variance", VARIANCES)
def test_evidence_loo_and_conditional_evidence_of_a_widened_prior_are_exact(variance):
    log_z, elpd, conditional = VARIANCES[variance]
    score = sensitivity().scores[variance]
    assert abs(score.evidence.log_z - log_z) < 1e-3
    assert abs(score.evidence.log_z - diabetes_evidence(variance)) < 1e-8
    assert abs(score.conditional.log_z - conditional) < 1e-3
    assert abs(exact_elpd_loo(variance) - elpd) < 1e-3
    # Five hundred draws: p_loo of at most 11, its Monte Carlo error measured at 0.25.
    assert abs(score.left_out.elpd - elpd) < 4 * 0.25


def test_a_prior_that_costs_evidence_and_no_predictions_is_too_wide_and_nothing_else():
    found = sensitivity()
    assert found.best == 0.1
    flagged = {variance for variance, finding in found.findings.items() if finding.flag}
    assert flagged == {1.0, 100.0, 1e4, 1e6}
    assert {found.findings[variance].flag for variance in flagged} == {Verdict.TOO_WIDE}
    widest = found.findings[1e6]
    assert abs(widest.value - 85.746) < 2e-3
    scores = found.scores
    assert abs(scores[1e6].conditional.log_z - scores[0.1].conditional.log_z) < 0.6
    assert abs(exact_elpd_loo(1e6) - exact_elpd_loo(0.1) - -0.19) < 0.002
    assert "prior too wide" in str(found)


def test_a_prior_that_is_too_narrow_costs_predictions_and_is_not_called_wide():
    narrow = sensitivity().findings[1e-4]
    assert narrow.value > 100
    assert narrow.flag == ""


def left_out(*elpd_by_row):
    by_row = np.array(elpd_by_row)
    return Loo(float(by_row.sum()), 1.0, 1.0, np.zeros(len(by_row)), by_row)


SCORE = PriorScore(Evidence(0.0, 0.0), Evidence(0.0, 0.0), left_out(-1.0, -1.0, -2.0), 0.0)


@pytest.mark.parametrize(
    ("fall", "stderr", "lost", "elpd", "spread", "too_wide"),
    [
        (10.0, 0.1, 1.0, (-1.0, -1.0, -2.1), 1.0, True),
        (10.0, math.nan, 1.0, (-1.0, -1.0, -2.1), 1.0, True),
        (10.0, 0.1, -9.0, (-1.0, -1.0, -1.0), 1.0, True),
        (2.2, 0.1, 0.0, (-1.0, -1.0, -2.0), 1.0, False),
        (10.0, 6.0, 0.0, (-1.0, -1.0, -2.0), 1.0, False),
        (10.0, 0.1, 2.4, (-1.0, -1.0, -2.0), 1.0, False),
        (4.0, 0.1, 2.1, (-1.0, -1.0, -2.0), 1.0, False),
        (10.0, 0.1, 0.0, (-2.0, -2.0, -2.9), 1.0, False),
        (10.0, 0.1, 0.0, (-4.0, -1.0, -1.9), 1.0, True),
        (10.0, 0.1, 1.0, (-1.0, -1.0, -2.0), 0.05, False),
        (10.0, 0.1, 1.0, (-1.0, -1.0, -2.0), -1.0, False),
    ],
)
def test_a_prior_is_too_wide_if_wider_far_behind_and_as_good_in_its_predictions(
    fall, stderr, lost, elpd, spread, too_wide
):
    """A loss of elpd that single rows make is within two standard errors over rows; an even one is not."""
    other = PriorScore(Evidence(-fall, stderr), Evidence(-lost, 0.0), left_out(*elpd), spread)
    assert prior_width(SCORE, other).flag == (Verdict.TOO_WIDE if too_wide else "")
    assert prior_width(SCORE, other).value == fall
    assert prior_width(SCORE, other._replace(left_out=None)).flag in ("", Verdict.TOO_WIDE)


def prior_fits(**models):
    """Fits of the diabetes regression and their conditional evidences."""
    data = diabetes_regression().data
    fits = {name: pb.Exact(num_samples=500)(model, data, seed=0) for name, model in models.items()}
    return fits, {name: after(fit, SPLIT) for name, fit in fits.items()}


def few(x, y=None):
    """Intercept, bmi, bp and s5 alone, under the best prior."""
    return regression(x[:, [0, 3, 4, 9]], y, prior_sd=math.sqrt(0.1))


def test_the_ladder_tells_a_wide_prior_from_a_large_model_and_from_a_misplaced_one():
    fits, conditional = prior_fits(
        good=partial(regression, prior_sd=math.sqrt(0.1)),
        wide=partial(regression, prior_sd=1e3),
        misplaced=partial(regression, prior_sd=math.sqrt(0.1), mean=2.0),
        small=few,
    )
    good = {name: fits[name] for name in ("good", "wide", "misplaced")}
    ladder = pb.diagnosis.diagnose_ladder(
        good, estimator=solved, conditional={name: conditional[name] for name in good}
    )
    expected = {"good": Verdict.FITS, "wide": Verdict.TOO_WIDE, "misplaced": Verdict.FITS}
    assert dict(ladder.verdicts) == expected
    assert "conditional -96.327" in str(ladder)

    pair = {name: fits[name] for name in ("small", "wide")}
    assert conditional["wide"].log_z > conditional["small"].log_z - 1
    ladder = pb.diagnosis.diagnose_ladder(
        pair, estimator=solved, conditional={name: conditional[name] for name in pair}
    )
    assert ladder.best == "small"
    assert ladder.verdicts["wide"] == Verdict.TOO_WIDE
    assert pb.diagnosis.diagnose_ladder(pair, estimator=solved).verdicts["wide"] == Verdict.OVERFITS


def test_a_prior_is_widened_around_its_mean_where_asked():
    def model(x, y=None):
        a = pyro.sample("a", dist.Normal(x.new_tensor(3.0), 2.0))
        b = pyro.sample("b", dist.MultivariateNormal(x.new_full((2,), -1.0), torch.eye(2).to(x)))
        s = pyro.sample("s", dist.Gamma(x.new_tensor(2.0), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(a * x + b.sum() * s, 1.5), obs=y)

    x, y = tensor([0.5, 1.0]), tensor([1.0, 2.0])
    values = {"a": tensor(1.0), "b": tensor([0.5, -2.0]), "s": tensor(0.7)}

    def log_probs(changed):
        with isolated(seed=0):
            run = pyro.poutine.trace(pyro.poutine.condition(changed, values)).get_trace(x, y)
            run.compute_log_prob()
        return {name: float(run.nodes[name]["log_prob"].sum()) for name in ("a", "b", "s", "y")}

    plain, wide = log_probs(model), log_probs(recalibrated(model, 5.0))
    assert abs(wide["a"] - stats.norm(3, 10).logpdf(1.0)) < 1e-9
    assert abs(wide["b"] - stats.multivariate_normal([-1, -1], 25 * np.eye(2)).logpdf([0.5, -2.0])) < 1e-6
    assert (wide["s"], wide["y"]) == (plain["s"], plain["y"])
    only = log_probs(recalibrated(model, 5.0, where=lambda name: name == "b"))
    assert (only["a"], only["b"]) == (plain["a"], wide["b"])


def test_widening_refuses_bad_factors_and_models_without_normal_latents():
    with pytest.raises(ValueError, match="positive"):
        recalibrated(linear_model, 0.0)
    problem = beta_binomial()
    with pytest.raises(ValueError, match="normal latents"):
        pb.target(recalibrated(problem.model, 2.0), problem.data)


# ------------------------------------------------------------------------------------------ the rule


def polynomial(*, degree, noise_sd, curve):
    """Legendre regression of modeled noise 0.3 on rows of true noise `noise_sd`, shuffled."""
    rng = np.random.default_rng(12)
    x = rng.uniform(-1, 1, 60)
    y = curve(x) + noise_sd * rng.standard_normal(60)
    data = dataset(np.polynomial.legendre.legvander(x, degree), y)
    fit = pb.Exact(num_samples=500)(partial(regression, noise=0.3), data, seed=0)
    return fit, after(fit, 40)


def test_more_effective_parameters_than_dimensions_overfit_where_a_smaller_model_predicts_better():
    """Noise three times what the model says: p_loo is about nine times the effective dimension."""
    fit, conditional = polynomial(degree=8, noise_sd=0.9, curve=np.zeros_like)
    _, smaller = polynomial(degree=0, noise_sd=0.9, curve=np.zeros_like)
    alone = pb.diagnose(fit)
    assert alone["p_loo ratio"].value > 1.5
    assert alone["p_loo ratio"].flag == ""
    diagnosis = pb.diagnose(fit, conditional=conditional, smaller={"constant": smaller})
    assert diagnosis["smaller model"].value == smaller.log_z - conditional.log_z > 0
    assert diagnosis["p_loo ratio"].flag == diagnosis["smaller model"].flag == Verdict.OVERFITS
    assert diagnosis.verdict == Verdict.OVERFITS
    assert "constant" in diagnosis["smaller model"].message


def test_the_same_symptom_supports_no_verdict_where_the_data_support_the_parameters():
    def curve(x):
        return 4 * np.polynomial.legendre.legval(x, [0, 0, 0, 0, 0, 1.0, 0, -1.0])

    fit, conditional = polynomial(degree=8, noise_sd=0.9, curve=curve)
    _, smaller = polynomial(degree=2, noise_sd=0.9, curve=curve)
    diagnosis = pb.diagnose(fit, conditional=conditional, smaller={"parabola": smaller})
    assert diagnosis["p_loo ratio"].value > 1.5
    assert diagnosis["p_loo ratio"].flag == ""
    assert diagnosis["smaller model"].value < 0
    assert diagnosis.verdict != Verdict.OVERFITS


def conditional_of(log_z, *, stderr=0.0, rows=40, digest="d"):
    return Evidence(log_z, stderr, digest=digest, info={"num_rows": rows})


GAP = Finding("gap", 0.4, 0.1, "", Verdict.OVERFITS)


@pytest.mark.parametrize(
    ("smaller", "stderr", "flag"),
    [(-9.0, 0.0, Verdict.OVERFITS), (-11.0, 0.0, ""), (-9.0, 0.8, ""), (-9.0, math.nan, Verdict.OVERFITS)],
)
def test_a_gap_counts_only_where_a_smaller_model_is_ahead_beyond_the_error(smaller, stderr, flag):
    rivals = {"far": conditional_of(-50.0), "near": conditional_of(smaller, stderr=stderr)}
    settled = against_smaller([GAP], conditional_of(-10.0), rivals)
    assert settled[0].flag == flag
    assert "near" in settled[-1].message
    assert abs(settled[-1].value - (smaller + 10)) < 1e-12
    assert against_smaller([GAP], conditional_of(-10.0), {})[0] == GAP
    assert against_smaller([GAP], None, {}) == [GAP]


@pytest.mark.parametrize(("share", "flag"), [(0.04, CAUTION), (0.06, Verdict.OVERFITS)])
def test_rows_of_large_k_hat_are_a_symptom_beyond_one_in_twenty(share, flag):
    found = [Finding("loo k-hat", share, math.nan, "", CAUTION)]
    assert against_smaller(found, conditional_of(-10.0), {"s": conditional_of(-5.0)})[0].flag == flag


def test_a_better_smaller_model_without_a_symptom_is_no_overfitting():
    found = [Finding("p_loo", 3.0, math.nan, ""), Finding("p_loo ratio", 1.4, math.nan, "")]
    settled = against_smaller(found, conditional_of(-10.0), {"s": conditional_of(-5.0)})
    assert [each.flag for each in settled] == [""] * 4


def test_conditional_evidences_of_other_rows_are_refused():
    for other in (conditional_of(-5.0, rows=39), conditional_of(-5.0, digest="e"), Evidence(-5.0, 0.0, digest="d")):
        with pytest.raises(ValueError, match="same rows"):
            against_smaller([GAP], conditional_of(-10.0), {"s": other})
    with pytest.raises(ValueError, match="pass conditional="):
        against_smaller([GAP], None, {"s": conditional_of(-5.0)})


# ------------------------------------------------------------------------------------------ the ladder


@lru_cache
def legendre(degree):
    i, x = np.arange(20), np.linspace(-1, 1, 20)
    y = np.sin(np.pi * x) + 0.3 * np.cos(37 * (i + 1))
    shuffled = np.random.default_rng(0).permutation(20)
    data = dataset(np.polynomial.legendre.legvander(x, degree)[shuffled], y[shuffled])
    return pb.Exact(num_samples=500)(partial(regression, noise=0.3), data, seed=0)


@lru_cache
def legendre_conditional(degree):
    return after(legendre(degree), 16)


def test_a_larger_model_overfits_only_where_the_best_one_has_the_higher_conditional_evidence():
    """Given sixteen rows, degree 4 to 15: 0.311, 0.193, …, −2.020, degree 3: 0.256; log Z falls throughout."""
    degrees = (1, 3, 5, 15)
    conditional = {degree: legendre_conditional(degree) for degree in degrees}
    for degree, expected in zip(degrees, (-3.696, 0.256, 0.193, -2.020), strict=True):
        assert abs(conditional[degree].log_z - expected) < 1e-3
    fits = {degree: legendre(degree) for degree in degrees}
    ladder = pb.diagnosis.diagnose_ladder(fits, estimator=solved, conditional=conditional)
    expected = {1: Verdict.UNDERFITS, 3: Verdict.FITS, 5: Verdict.OVERFITS, 15: Verdict.OVERFITS}
    assert dict(ladder.verdicts) == expected
    ahead = conditional | {15: replace(conditional[15], log_z=0.3)}
    ladder = pb.diagnosis.diagnose_ladder(fits, estimator=solved, conditional=ahead)
    assert dict(ladder.verdicts) == expected | {15: Verdict.FITS}


def test_the_ladder_refuses_conditional_evidences_that_do_not_belong_to_it():
    fits = {3: legendre(3), 5: legendre(5)}
    both = {3: legendre_conditional(3), 5: legendre_conditional(5)}
    with pytest.raises(ValueError, match="for each"):
        pb.diagnosis.diagnose_ladder(fits, estimator=solved, conditional={3: both[3]})
    with pytest.raises(ValueError, match="same rows"):
        other = replace(both[5], info={"num_rows": 12})
        pb.diagnosis.diagnose_ladder(fits, estimator=solved, conditional={3: both[3], 5: other})
    with pytest.raises(ValueError, match="same observations"):
        elsewhere = {degree: replace(each, digest="other") for degree, each in both.items()}
        pb.diagnosis.diagnose_ladder(fits, estimator=solved, conditional=elsewhere)


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (0.0, 0.0, Verdict.OVERFITS),
        (0.4, 0.4, Verdict.OVERFITS),
        (1.0, 0.4, Verdict.FITS),
        (0.4, 1.0, Verdict.FITS),
        (3.0, math.inf, Verdict.OVERFITS),
        (math.inf, 3.0, Verdict.OVERFITS),
    ],
)
def test_strong_evidence_must_hold_under_the_bounds_where_both_exist(lower, upper, verdict):
    """Degree 5 is 3.3 nats behind; log 10 is 2.3."""
    values = {id(legendre(3)): -10.0, id(legendre(5)): -13.3}

    def estimator(posterior, *, seed=0):
        value = values[id(posterior)]
        return Evidence(value, 0.1, lower=value - lower, upper=value + upper, digest="d")

    ladder = pb.diagnosis.diagnose_ladder({"right": legendre(3), "large": legendre(5)}, estimator=estimator)
    assert dict(ladder.verdicts) == {"right": Verdict.FITS, "large": verdict}


# ------------------------------------------------------------------------------------------ inference failed


def diagnosed(**changes):
    fit = legendre(3)
    return pb.diagnose(fit, evidence=replace(exact(fit), **changes))


def two_estimates(p_value):
    return Agreement(
        (Estimate("bridge", -6.5, 0.1), Estimate("ais", -5.1, 0.1), Estimate("bic", 0.5, 0.1, caveat="x")), p_value
    )


@pytest.mark.parametrize(("p_value", "verdict"), [(9e-6, Verdict.FAILED), (2e-5, Verdict.FITS)])
def test_estimators_that_disagree_mean_that_inference_failed(p_value, verdict):
    diagnosis = diagnosed(agreement=two_estimates(p_value))
    assert diagnosis.verdict == verdict
    assert diagnosis["agreement"].value == p_value
    assert "bridge, ais" in diagnosis["agreement"].message
    assert "bic" not in diagnosis["agreement"].message
    assert diagnosis["bic error"].value == 0.5 - diagnosis["log evidence"].value
    assert "x" in diagnosis["bic error"].message
    assert "ais error" not in diagnosis


def test_bounds_that_cross_mean_that_inference_failed():
    crossed = diagnosed(lower=-6.0, upper=-6.9)
    assert crossed.verdict == Verdict.FAILED
    assert crossed["evidence bounds"].flag == Verdict.FAILED
    sound = diagnosed(lower=-6.9, upper=-6.0)
    assert sound.verdict == Verdict.FITS
    assert abs(sound["evidence bounds"].value - 0.9) < 1e-12
    assert "agreement" not in sound


def test_an_evidence_without_bounds_says_what_was_refused():
    open_sides = {"lower": -math.inf, "upper": math.inf}
    diagnosis = diagnosed(**open_sides, info={"failed": ("bridge: no overlap", "ais: acceptance 2 %")})
    assert diagnosis["refused estimates"].flag == CAUTION
    assert diagnosis["refused estimates"].message == "bridge: no overlap; ais: acceptance 2 %"
    assert diagnosis.verdict == Verdict.FITS
    assert "evidence bounds" not in diagnosis
    assert "refused estimates" not in diagnosed(**open_sides)
    both = diagnosed(**open_sides, info={"failed": ("bridge: no overlap",)}, agreement=two_estimates(1e-6))
    assert both.verdict == Verdict.FAILED
