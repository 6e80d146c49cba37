"""Diagnosis: numbers with an exact answer, and verdicts on fits whose fault is known."""

import math
import re
import warnings
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import conjugate_normal, diabetes_regression, tensor
from torch import nn
from torch.optim import Adam

import probmodel as pb
from probmodel.diagnosis.complexity import complexity
from probmodel.diagnosis.convergence import optimization_findings
from probmodel.diagnosis.findings import CAUTION, Verdict
from probmodel.diagnosis.lanczos import DENSE_LIMIT, spectrum
from probmodel.diagnosis.leave_one_out import leave_one_out
from probmodel.diagnosis.scored import MATERIAL
from probmodel.draws.diagnostics import R_HAT_LIMIT
from probmodel.inference.chains import chains
from probmodel.inference.descent.trend import loss_trend
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import ConvergenceWarning, EvidenceWarning
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated

LADDER = {0: -56.394, 1: -26.829, 2: -28.613, 3: -6.513, 4: -7.874, 5: -8.941, 6: -10.044, 10: -15.033, 15: -19.143}
"""Degree → log evidence, from the literature of the project (closed form)."""
QUICK = partial(pb.SVI, progress=False, compile=False, num_samples=50)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def regression(x, y=None, *, prior_sd=1.0, noise=0.5**0.5):
    b = pyro.sample("b", dist.Normal(x.new_zeros(x.shape[1]), prior_sd).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ b, noise), obs=y)


def dataset(x, y):
    return Dataset((x,), {"y": y}, len(x))


def halves(x, y, count):
    return dataset(x[:count], y[:count]), dataset(x[count:], y[count:])


# ------------------------------------------------------------------------------------------ effective dimension


@pytest.mark.parametrize(("variance", "expected"), [(1e-4, 0.830), (1e-2, 8.404), (1.0, 10.856472), (100.0, 10.998)])
def test_the_effective_dimension_of_a_regression_is_exact(variance, expected):
    problem = diabetes_regression()
    fit = pb.Exact(num_samples=20)(partial(regression, prior_sd=math.sqrt(variance)), problem.data, seed=0)
    found = {each.name: each for each in complexity(fit)}
    tolerance = 1e-6 if variance == 1.0 else 1e-3
    assert abs(found["effective dimension"].value - expected) < tolerance
    assert found["effective dimension"].stderr == 0
    assert found["parameters"].value == 11
    assert found["negative curvature"].value == 0
    assert found["negative curvature"].flag == ""


class Saddle(nn.Module):
    """y ~ N(a b, 1): at a = b = 0 the Hessian is [[0, −Σy], [−Σy, 0]]."""

    def __init__(self):
        super().__init__()
        self.pair = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x, y=None):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(self.pair.prod() * x, 1.0), obs=y)


@pytest.mark.parametrize("rows", [20, 1_000])
def test_the_curvature_of_point_estimates_counts_all_rows_and_points_both_ways_at_a_saddle(rows):
    ones = torch.ones(rows, dtype=torch.float64)
    found = {each.name: each for each in complexity(Posterior(Saddle(), dataset(ones, ones), {}, {}))}
    assert abs(found["effective dimension"].value - rows / (rows + 1)) < 1e-9
    assert abs(found["negative curvature"].value - 0.5) < 1e-9
    assert found["negative curvature"].flag == CAUTION
    assert found["parameters"].value == 2


def test_codes_of_rows_are_not_counted_as_parameters():
    with isolated(seed=0):
        model = pb.Pipeline(pb.Identity(), pb.VAE(3, 2), pb.Classify(2, 2)).double()
    data = dataset(normal(12, 3), torch.arange(12) % 2)
    fit = QUICK(20)(model, data, seed=0)
    found = {each.name: each for each in complexity(fit)}
    assert found["parameters"].value == (3 * 4 + 4) + (2 * 2 + 2)


# ------------------------------------------------------------------------------------------ spectrum


def symmetric(size, seed, *, values):
    """A random symmetric matrix of these eigenvalues."""
    rotation, _ = torch.linalg.qr(normal(size, size, seed=seed))
    return rotation @ torch.diag(values) @ rotation.T


FUNCTIONS = {
    "trace": lambda v: v,
    "squares": torch.square,
    "effective dimension": lambda v: v.abs() / (v.abs() + 1),
    "negative": lambda v: torch.where(v < 0, -v, torch.zeros_like(v)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lanczos_errors_are_as_large_as_reported(name):
    """Over twenty random matrices the errors in reported standard errors have a spread of about one."""
    errors = []
    for seed in range(20):
        size = 120 + 5 * seed
        values = torch.cat([-2 - normal(size // 5, seed=seed).abs(), 1 + 5 * normal(size - size // 5, seed=1).abs()])
        matrix = symmetric(size, seed, values=values)
        with isolated(seed):
            found = spectrum(lambda v, matrix=matrix: matrix @ v, matrix[0], num_probes=30)
        assert not found.exact
        estimate, stderr = found.trace(FUNCTIONS[name])
        exact = float(FUNCTIONS[name](torch.linalg.eigvalsh(matrix)).sum())
        assert abs(estimate - exact) < 4 * stderr + 1e-9 * abs(exact)
        assert abs(estimate - exact) < 0.2 * float(FUNCTIONS[name](values).abs().sum())
        errors.append((estimate - exact) / stderr)
    assert 0.6 < float(np.std(errors)) < 1.6
    assert abs(float(np.mean(errors))) < 4 / math.sqrt(20)


@pytest.mark.parametrize("size", [1, 7, DENSE_LIMIT])
def test_up_to_the_dense_limit_the_spectrum_is_exact(size):
    values = 3 * normal(size, seed=3)
    matrix = symmetric(size, 0, values=values)
    found = spectrum(lambda v: matrix @ v, matrix[0])
    assert found.exact
    torch.testing.assert_close(found.probes[0][0], values.sort().values)
    for function in FUNCTIONS.values():
        estimate, stderr = found.trace(function)
        assert abs(estimate - float(function(values).sum())) < 1e-8 * size
        assert stderr == 0
    assert abs(found.largest - float(values.abs().max())) < 1e-9


def test_lanczos_is_exact_for_a_matrix_of_few_different_eigenvalues():
    """After as many steps as there are different eigenvalues the Krylov space is full: the iteration ends by itself."""
    values = torch.cat([torch.full((150,), 2.0), torch.full((50,), -3.0)]).double()
    matrix = symmetric(200, 0, values=values)
    with isolated(seed=0):
        found = spectrum(lambda v: matrix @ v, matrix[0])
    for ritz, weights in found.probes:
        torch.testing.assert_close(ritz, torch.tensor([-3.0, 2.0], dtype=torch.float64))
        assert abs(float(weights.sum()) - 200) < 1e-9


def test_the_largest_eigenvalue_is_found():
    values = torch.cat([normal(299).abs(), torch.tensor([-40.0], dtype=torch.float64)])
    matrix = symmetric(300, 0, values=values)
    with isolated(seed=0):
        assert abs(spectrum(lambda v: matrix @ v, matrix[0]).largest - 40) < 1e-6


# ------------------------------------------------------------------------------------------ leave-one-out


def test_leave_one_out_recovers_the_exact_scores_of_the_regression():
    problem = diabetes_regression()
    fit = pb.Exact(num_samples=6_000)(problem.model, problem.data, seed=0)
    parts = [leave_one_out(replace(fit, draws={"b": draws})) for draws in fit.draws["b"].split(500, 1)]
    values = np.array([(part.elpd, part.p_loo) for part in parts])
    errors = values.std(0, ddof=1) / math.sqrt(len(values))
    assert (np.abs(values.mean(0) - [-476.8359, 10.1664]) < 4 * errors).all()
    assert (errors < 0.3).all()
    shown = pb.diagnose(replace(fit, draws={"b": fit.draws["b"][:, :500]}))
    assert shown["elpd_loo"].value == parts[0].elpd
    assert shown["elpd_loo"].stderr == parts[0].se
    assert shown["p_loo"].value == parts[0].p_loo


# ------------------------------------------------------------------------------------------ ladder


@lru_cache
def legendre(degree):
    i, x = np.arange(20), np.linspace(-1, 1, 20)
    y = np.sin(np.pi * x) + 0.3 * np.cos(37 * (i + 1))
    data = dataset(tensor(np.polynomial.legendre.legvander(x, degree)), tensor(y))
    return pb.Exact(num_samples=20)(partial(regression, noise=0.3), data, seed=0)


@lru_cache
def exact(fit, *, seed=0):
    return pb.evidence.exact(fit, seed=seed)


@pytest.mark.parametrize("order", ["up", "shuffled"])
def test_the_ladder_names_degree_three_in_any_order(order):
    degrees = {"up": range(16), "shuffled": np.random.default_rng(0).permutation(16)}
    ladder = pb.diagnosis.diagnose_ladder(
        {int(degree): legendre(int(degree)) for degree in degrees[order]}, estimator=exact
    )
    for degree, log_z in LADDER.items():
        assert abs(ladder.evidences[degree].log_z - log_z) < 1e-3
    assert ladder.best == 3
    expected = dict.fromkeys(range(3), Verdict.UNDERFITS) | {3: Verdict.FITS, 4: Verdict.FITS}
    assert dict(ladder.verdicts) == expected | dict.fromkeys(range(5, 16), Verdict.OVERFITS)
    assert str(ladder).startswith("best: 3")


def test_the_ladder_estimates_the_evidence_itself():
    ladder = pb.diagnosis.diagnose_ladder({"small": legendre(1), "right": legendre(3), "large": legendre(6)})
    found = {name: evidence.log_z for name, evidence in ladder.evidences.items()}
    assert found == pytest.approx({"small": LADDER[1], "right": LADDER[3], "large": LADDER[6]}, abs=1e-3)
    assert dict(ladder.verdicts) == {"small": Verdict.UNDERFITS, "right": Verdict.FITS, "large": Verdict.OVERFITS}


def test_the_ladder_refuses_different_observations():
    fit = legendre(3)
    y = fit.data.kwargs["y"].clone()
    y[7] += 1e-9
    other = pb.Exact(num_samples=20)(fit.model, dataset(fit.data.args[0], y), seed=0)
    with pytest.raises(ValueError, match="same observations"):
        pb.diagnosis.diagnose_ladder({"a": fit, "b": other})


def test_the_ladder_refuses_a_single_model():
    with pytest.raises(ValueError, match="two or more"):
        pb.diagnosis.diagnose_ladder({"a": legendre(3)})


# ------------------------------------------------------------------------------------------ verdicts: overfits


def test_a_large_network_trained_long_on_thirty_noisy_rows_overfits(seed=0):
    x = 4 * torch.rand(330, 1, generator=generator(seed)) - 2
    y = torch.sin(2 * x[:, 0]) + 0.5 * torch.randn(330, generator=generator(seed + 10))
    train, test = halves(x, y, 30)
    with isolated(seed):
        model = pb.Pipeline(pb.MLP(1, 64, hidden=(64, 64)), pb.DNN(64, 64), pb.Regress(64, 1))
    fit = QUICK(1_000, optimizer=partial(Adam, lr=5e-3), patience=None)(model, train, seed=seed)
    diagnosis = pb.diagnose(fit, test)
    assert diagnosis.verdict == Verdict.OVERFITS
    assert diagnosis["gap"].value > 2 * diagnosis["gap"].stderr
    assert diagnosis["gap"].flag == diagnosis["overconfidence"].flag == Verdict.OVERFITS
    assert diagnosis["parameters"].value > 30


def test_a_network_that_learns_random_labels_by_heart_overfits():
    x, labels = normal(240, 20), torch.randint(0, 3, (240,), generator=generator(1))
    train, test = halves(x, labels, 40)
    with isolated(seed=0):
        model = pb.Pipeline(pb.MLP(20, 64), pb.DNN(64, 64), pb.Classify(64, 3)).double()
    fit = QUICK(250, patience=None)(model, train, seed=0)
    diagnosis = pb.diagnose(fit, test)
    assert diagnosis["train log score"].value > -0.1
    assert diagnosis.verdict == Verdict.OVERFITS


# ------------------------------------------------------------------------------------------ verdicts: fits


def simulated(seed, *, rows=400, columns=4):
    x = normal(rows, columns, seed=seed)
    b = normal(columns, seed=seed + 100)
    return x, x @ b + math.sqrt(0.5) * normal(rows, seed=seed + 200)


@pytest.mark.parametrize("seed", range(3))
def test_a_bayesian_linear_model_fits_its_own_data(seed):
    train, test = halves(*simulated(seed), 200)
    fit = pb.Exact(num_samples=500)(regression, train, seed=seed)
    for held_out in (None, test):
        diagnosis = pb.diagnose(fit, held_out)
        assert diagnosis.verdict == Verdict.FITS
        assert not [each for each in diagnosis.findings if each.flag]
    assert diagnosis["overconfidence"].value < MATERIAL


def test_the_gap_is_the_difference_of_the_log_scores_with_their_errors():
    train, test = halves(*simulated(0), 200)
    diagnosis = pb.diagnose(pb.Exact(num_samples=500)(regression, train, seed=0), test)
    before, after, gap = (diagnosis[name] for name in ("train log score", "held-out log score", "gap"))
    assert abs(gap.value - (before.value - after.value)) < 1e-12
    assert abs(gap.stderr - math.hypot(before.stderr, after.stderr)) < 1e-12
    # Entropy of the noise, and p / N of optimism at 4 parameters and 200 rows.
    truth = -0.5 * math.log(2 * math.pi * math.e * 0.5)
    assert abs(before.value - truth) < 4 * before.stderr
    assert abs(after.value - truth) < 4 * after.stderr


# ------------------------------------------------------------------------------------------ verdicts: underfits


@pytest.mark.parametrize("seed", range(2))
def test_a_model_without_the_feature_it_needs_underfits(seed):
    x, y = simulated(seed)
    train, test = halves(normal(len(x), 1, seed=seed + 300), y, 200)
    fit = pb.Exact(num_samples=300)(regression, train, seed=0)
    assert pb.diagnose(fit, test).verdict == Verdict.UNDERFITS


def classes(seed, rows=300):
    """Three clusters, well apart."""
    labels = torch.arange(rows) % 3
    return normal(rows, 2, seed=seed) + 4 * torch.eye(3, 2, dtype=torch.float64)[labels], labels


def two_columns():
    with isolated(seed=0):
        return pb.Pipeline(pb.Identity(), pb.DNN(2, 3, hidden=()), pb.Classify(3, 3)).double()


def network(columns=2, num_classes=3):
    with isolated(seed=0):
        return pb.Pipeline(pb.MLP(columns, 8), pb.DNN(8, 8), pb.Classify(8, num_classes)).double()


def test_an_untrained_network_underfits_and_a_trained_one_fits():
    train, test = halves(*classes(0), 150)
    untrained = Posterior(network(), train, {}, {}, network().guide)
    assert pb.diagnose(untrained, test).verdict == Verdict.UNDERFITS
    fit = QUICK(300, optimizer=partial(Adam, lr=1e-2))(network(), train, seed=0)
    assert pb.diagnose(fit, test).verdict == Verdict.FITS


@pytest.mark.parametrize("seed", range(2))
def test_labels_that_know_nothing_of_the_features_underfit(seed):
    x, labels = normal(600, 2, seed=seed), torch.randint(0, 3, (600,), generator=generator(seed + 50))
    train, test = halves(x, labels, 300)
    with isolated(seed):
        model = pb.Pipeline(pb.Identity(), pb.VAE(2, 2), pb.Classify(2, 3)).double()
    fit = QUICK(300, optimizer=partial(Adam, lr=1e-2))(model, train, seed=0)
    assert pb.diagnose(fit, test).verdict == Verdict.UNDERFITS


# ------------------------------------------------------------------------------------------ verdicts: inference failed


def by_hand(*means, seed=0, draws=500, scale=1.0):
    """Chains of normals with these means, two of each."""
    problem = conjugate_normal()
    chains = torch.stack([mean + scale * normal(draws, seed=seed + i) for i, mean in enumerate(means)])
    return Posterior(problem.model, problem.data, {"mu": chains}, {"method": "by hand"})


def test_chains_that_disagree_have_failed():
    diagnosis = pb.diagnose(by_hand(0.0, 0.0, 3.0, 3.0))
    assert diagnosis.verdict == Verdict.FAILED
    assert diagnosis["R-hat"].value > 1.1
    assert diagnosis["R-hat"].flag == Verdict.FAILED


def test_chains_that_agree_have_not():
    diagnosis = pb.diagnose(by_hand(1.0, 1.0, 1.0, 1.0))
    assert diagnosis.verdict != Verdict.FAILED
    assert diagnosis["R-hat"].value < 1.01
    assert diagnosis["ESS"].value > 1_000
    assert diagnosis["R-hat"].flag == diagnosis["ESS"].flag == ""


def test_a_single_chain_and_few_draws_cannot_show_convergence():
    assert pb.diagnose(by_hand(1.0))["R-hat"].flag == Verdict.FAILED
    assert pb.diagnose(by_hand(1.0, 1.0, draws=50))["ESS"].flag == Verdict.FAILED


@pytest.mark.parametrize(("shift", "flag"), [(0.0, ""), (0.35, Verdict.FAILED)])
def test_one_limit_of_r_hat_decides_and_samplers_warn_by_it(shift, flag):
    found = pb.diagnose(by_hand(1.0, 1.0, 1.0, 1.0 + shift))["R-hat"]
    assert (found.value > R_HAT_LIMIT) == bool(flag)
    assert found.value < 1.05
    assert found.flag == flag
    assert chains.R_HAT_LIMIT is R_HAT_LIMIT


@pytest.mark.parametrize("bad", ["stuck at one value", "stuck apart", "nan", "one inf"])
def test_chains_that_never_move_or_are_not_finite_have_failed(bad):
    fit = by_hand(1.0, 1.0, 1.0, 1.0, scale=0.0 if "stuck" in bad else 1.0)
    draws = fit.draws["mu"].clone()
    if bad == "stuck apart":
        draws[2:] += 1
    if bad == "nan":
        draws[:] = math.nan
    if bad == "one inf":
        draws[0, 3] = math.inf
    assert pb.diagnose(replace(fit, draws={"mu": draws})).verdict == Verdict.FAILED


def test_an_element_that_cannot_move_is_no_failure():
    x = normal(50, 2)
    data = dataset(x, x[:, 0] + normal(50, seed=1))
    draws = torch.stack([normal(4, 500), torch.zeros(4, 500, dtype=torch.float64)], -1)
    diagnosis = pb.diagnose(Posterior(regression, data, {"b": 0.1 * draws}, {}))
    assert diagnosis["R-hat"].value < 1.01
    assert diagnosis["R-hat"].flag == ""


@pytest.mark.parametrize("losses", [[3.0, math.nan, 2.0], [3.0, 2.0, math.inf], [1.0, *[5.0] * 200]])
def test_losses_that_are_not_finite_or_end_above_their_start_have_failed(losses):
    fit = by_hand(1.0, 1.0, 1.0, 1.0)
    assert pb.diagnose(replace(fit, info={"losses": losses})).verdict == Verdict.FAILED


def test_a_descent_of_few_steps_has_not_been_shown_to_end():
    train, test = halves(*classes(0), 150)
    diagnosis = pb.diagnose(QUICK(30)(network(), train, seed=0), test)
    assert diagnosis["plateau"].flag == diagnosis.verdict == Verdict.FAILED
    assert diagnosis["loss"].flag == ""


@pytest.mark.parametrize("said", [{}, {"plateau": False}, {"plateau": True}])
@pytest.mark.parametrize(("slope", "flag"), [(0.001, ""), (1.0, Verdict.FAILED)])
def test_a_loss_in_free_fall_has_failed_whatever_the_inference_said_of_it(slope, flag, said):
    falling = (1_000 - slope * np.arange(500.0)).tolist()
    diagnosis = pb.diagnose(replace(by_hand(1.0, 1.0, 1.0, 1.0), info={"losses": falling, **said}))
    assert diagnosis["plateau"].flag == flag
    assert (diagnosis.verdict == Verdict.FAILED) == bool(flag)


def test_the_fall_at_the_start_of_a_short_descent_says_nothing_of_its_end():
    rng = np.random.default_rng(0)
    losses = (50 * np.exp(-np.arange(300) / 15) + rng.normal(size=300)).tolist()
    fit = replace(by_hand(1.0, 1.0, 1.0, 1.0), info={"losses": losses})
    assert pb.diagnose(fit)["plateau"].flag == ""
    assert loss_trend(losses).exceeds(1.0)


def test_a_descent_that_starts_at_its_minimum_has_not_risen():
    """The first loss is one draw of the noise; the mean of many others is above it in half of the runs."""
    rng = np.random.default_rng(0)
    start = replace(by_hand(1.0, 1.0, 1.0, 1.0), info={})
    runs = [
        [each.name for each in optimization_findings(replace(start, info={"losses": rng.normal(size=400).tolist()}))]
    ]
    runs += [
        [each.name for each in optimization_findings(replace(start, info={"losses": (rng.normal(size=400)).tolist()}))]
        for _ in range(99)
    ]
    assert sum("descent" in names for names in runs) < 10  # 2.5 of a hundred by chance


def test_a_sampler_of_likelihoods_that_still_rise_has_failed():
    fit = by_hand(1.0, 1.0, 1.0, 1.0)
    rising, level = np.linspace(-9, -3, 12), np.full(12, -3.0)
    for values, flag in ((rising, Verdict.FAILED), (level, "")):
        found = pb.diagnose(replace(fit, info={"log_likelihood": values.tolist()}))["plateau"]
        assert found.flag == flag


@pytest.mark.parametrize(("max_steps", "flag"), [(1, Verdict.FAILED), (500, "")])
def test_maximum_likelihood_that_stopped_early_has_failed(max_steps, flag):
    train, test = halves(*classes(0), 150)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = pb.MaximumLikelihood(max_steps=max_steps)(two_columns(), train, seed=0)
    assert pb.diagnose(fit, test)["converged"].flag == flag


def verdicts(slope, *, noise, steps=2_000):
    """Flags of the plateau, over fifty fits that go on, with a line and white noise as their losses."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        losses = (1_000 - slope * np.arange(steps) + noise * rng.normal(size=steps)).tolist()
        fit = replace(by_hand(1.0, 1.0, 1.0, 1.0), info={"losses": losses, "plateau": False})
        (found,) = (each for each in optimization_findings(fit) if each.name == "plateau")
        yield found


def test_noise_in_the_last_steps_is_no_failure_and_a_rise_is_no_fall():
    """A line is fitted to the last 500 steps; noise of 20 nats gives its decrease an error of 3.1."""
    found = list(verdicts(0.0, noise=20.0))
    assert sum(each.flag == Verdict.FAILED for each in found) <= 3  # 1 in 40 by chance.
    assert all(each.value == (each.flag == "") for each in found)
    assert not any("has not" in each.message for each in found)
    assert any(re.search(r"it rose by [\d.]+ ± 3\.\d nats", each.message) for each in found)


def test_a_fall_beyond_the_noise_fails():
    assert all(each.flag == Verdict.FAILED for each in verdicts(0.2, noise=20.0))
    assert all(each.flag == "" for each in verdicts(0.001, noise=0.02))  # Significant, and half a nat.


def test_a_fall_is_as_far_off_as_its_standard_error_says():
    rng = np.random.default_rng(1)
    falls = [loss_trend((3 - 0.1 * np.arange(60) + rng.normal(size=60)).tolist()) for _ in range(400)]
    errors = [(each.size - 5.9) / each.stderr for each in falls]
    assert abs(np.mean(errors)) < 4 / 20
    assert 0.9 < np.std(errors) < 1.1
    assert not loss_trend([5.0, 1.0]).exceeds(0.0)


def test_divergent_transitions_fail_above_one_in_a_hundred():
    fit = by_hand(1.0, 1.0, 1.0, 1.0)
    for count, flag in ((0, None), (20, ""), (21, Verdict.FAILED), (400, Verdict.FAILED)):
        diagnosis = pb.diagnose(replace(fit, info={"divergences": count}))
        assert (diagnosis.verdict == Verdict.FAILED) == (flag == Verdict.FAILED)
        if flag is not None:
            assert diagnosis["divergences"].value == count / 2_000
            assert diagnosis["divergences"].flag == flag


def weighed(scale):
    """Fit of eight normal means by a guide of this scale, in units of the posterior's standard deviation."""

    def model(y=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(8, dtype=torch.float64), 1.0).to_event(1))
        with pyro.plate("rows", 8):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    data = Dataset((), {"y": torch.linspace(-1, 1, 8, dtype=torch.float64)}, 8)

    def guide(y=None):
        pyro.sample("z", dist.Normal(y / 2, scale * 0.5**0.5).to_event(1))

    return pb.SVI(1, guide=guide, num_samples=1_000, progress=False, compile=False)(model, data, seed=0)


@pytest.mark.parametrize(("scale", "failed"), [(1.0, False), (1.1, False), (0.4, True)])
def test_a_guide_that_misses_the_posterior_has_failed_and_one_that_covers_it_has_not(scale, failed):
    fit = weighed(scale)
    alone, evidence = pb.diagnose(fit)["guide k-hat"], quiet(pb.evidence.iwae)(fit)
    assert (alone.value > 0.7) == failed
    assert (alone.flag == Verdict.FAILED) == failed
    shown = pb.diagnose(fit, evidence=evidence)
    # One fit has one k-hat of its guide, and the evidence by that guide the same one.
    assert shown["guide k-hat"].value == evidence.info["k_hat"] == pytest.approx(alone.value, abs=1e-9)
    assert ("evidence k-hat" in shown) == (scale != 1.0)  # Equal weights have no tail.
    assert bool(shown["log evidence"].doubt) == failed
    assert shown["log evidence"].only_lower == failed
    assert ("≥" in str(shown["log evidence"])) == failed


def test_the_k_hat_of_another_proposal_is_not_that_of_the_guide():
    fit = weighed(0.4)
    shown = pb.diagnose(fit, evidence=pb.evidence.importance(fit))
    assert shown["guide k-hat"].value > 0.7 > shown["evidence k-hat"].value
    assert shown.verdict == Verdict.FAILED


def test_few_rows_of_large_k_hat_are_outliers_and_many_a_pattern():
    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    x = normal(100)
    for bad, flag in ((4, ""), (6, Verdict.FAILED)):
        scale = torch.full((100,), 0.5**0.5, dtype=torch.float64)
        scale[:bad] *= 0.1

        def guide(x, y=None, scale=scale):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(y / 2, scale))

        data = Dataset((x,), {"y": normal(100, seed=1)}, 100)
        fit = pb.SVI(1, guide=guide, num_samples=50, progress=False, compile=False)(model, data, seed=0)
        found = pb.diagnose(fit, data)["guide k-hat"]
        assert found.value > 0.7
        assert found.flag == flag


# ------------------------------------------------------------------------------------------ recalibration


def fixed_normal(x, y=None):
    """Claims standard deviation 1 and knows nothing; the latent is there and does not matter."""
    pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x[:, 0], 1.0), obs=y)


def fixed(model, train):
    return Posterior(model, train, {"b": normal(4, 150)}, {})


@pytest.mark.parametrize("seed", range(4))
def test_recalibration_gains_nothing_where_predictions_are_calibrated(seed):
    x = 3 * normal(800, 1, seed=seed)
    train, test = halves(x, x[:, 0] + normal(800, seed=seed + 1), 400)
    diagnosis = pb.diagnose(fixed(fixed_normal, train), test)
    assert diagnosis["overconfidence"].value < max(MATERIAL, 2 * diagnosis["overconfidence"].stderr)
    assert diagnosis["overconfidence"].flag == ""
    assert diagnosis.verdict == Verdict.FITS


def test_recalibration_gains_what_twice_too_narrow_predictions_lose():
    """E log N(y; 0, 2²) − E log N(y; 0, 1) = −log 2 − 1/2 + 2 for y ~ N(0, 2²)."""
    x = 3 * normal(4_000, 1)
    train, test = halves(x, x[:, 0] + 2 * normal(4_000, seed=1), 2_000)
    gain = pb.diagnose(fixed(fixed_normal, train), test)["overconfidence"]
    assert abs(gain.value - (1.5 - math.log(2))) < 4 * gain.stderr
    assert gain.stderr < 0.1


def test_recalibration_gains_as_much_where_predictions_are_too_wide():
    """E log N(y; 0, s²) − E log N(y; 0, 1) = −log s − 1/2 + s² / 2 for y ~ N(0, s²), s = 1/2."""
    x = 3 * normal(4_000, 1)
    train, test = halves(x, x[:, 0] + 0.5 * normal(4_000, seed=1), 2_000)
    gain = pb.diagnose(fixed(fixed_normal, train), test)["overconfidence"]
    assert abs(gain.value - (math.log(2) - 0.375)) < 4 * gain.stderr


def coin(x, y=None, *, sharpness=1.0):
    pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=sharpness * x[:, 0]), obs=y)


def two_classes(x, y=None, *, sharpness=1.0):
    pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        logits = torch.stack([torch.zeros_like(x[:, 0]), sharpness * x[:, 0]], -1)
        pyro.sample("y", dist.Categorical(logits=logits), obs=y)


def tossed(rows, seed):
    x = 2 + 2 * normal(rows, 1, seed=seed)
    return x, torch.bernoulli(torch.sigmoid(x[:, 0]), generator=generator(seed + 1))


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_a_bernoulli_is_diagnosed_as_the_same_categorical(sharpness):
    """Density and probability must not be mixed: the base rate of a coin is a frequency, not a normal density."""
    x, y = tossed(800, 0)
    as_coin = pb.diagnose(fixed(partial(coin, sharpness=sharpness), halves(x, y, 400)[0]), halves(x, y, 400)[1])
    train, test = halves(x, y.long(), 400)
    as_classes = pb.diagnose(fixed(partial(two_classes, sharpness=sharpness), train), test)
    assert as_coin.verdict == as_classes.verdict
    for name in ("train log score", "held-out log score", "gap", "overconfidence", "gain over base rate"):
        assert abs(as_coin[name].value - as_classes[name].value) < 1e-5, name
        assert abs(as_coin[name].stderr - as_classes[name].stderr) < 1e-5, name


def test_a_true_model_of_rare_outcomes_fits():
    x, _ = tossed(800, 3)
    train, test = halves(x - 2, torch.bernoulli(torch.sigmoid(2 * x[:, 0] - 8), generator=generator(9)), 400)
    assert 0.05 < float(train.kwargs["y"].mean()) < 0.2

    def model(x, y=None):
        pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=2 * x[:, 0] - 4), obs=y)

    assert pb.diagnose(fixed(model, train), test).verdict == Verdict.FITS


@pytest.mark.parametrize("kind", [two_classes, coin])
def test_the_gain_over_the_base_rate_counts_frequencies_of_the_training_rows(kind):
    x, y = tossed(300, 5)
    train, test = halves(x, y.long() if kind is two_classes else y, 200)
    diagnosis = pb.diagnose(fixed(kind, train), test)
    ones = float(train.kwargs["y"].sum())
    rate = (ones + 1) / 202
    fit = dist.Bernoulli(logits=test.args[0][:, 0]).log_prob(test.kwargs["y"].double())
    null = dist.Bernoulli(tensor(rate)).log_prob(test.kwargs["y"].double())
    assert abs(diagnosis["gain over base rate"].value - float((fit - null).mean())) < 1e-5


def test_recalibration_of_classes_gains_what_their_sharpness_loses():
    x, y = tossed(4_000, 7)
    train, test = halves(x, y.long(), 2_000)
    gain = pb.diagnose(fixed(partial(two_classes, sharpness=3.0), train), test)["overconfidence"]
    logits, labels = test.args[0][:, 0], test.kwargs["y"].double()
    lost = dist.Bernoulli(logits=logits).log_prob(labels) - dist.Bernoulli(logits=3 * logits).log_prob(labels)
    assert abs(gain.value - float(lost.mean())) < 0.02
    assert gain.value > MATERIAL


def test_counts_are_set_against_their_own_frequencies():
    x = normal(600, 1)
    y = torch.poisson(torch.exp(x[:, 0] - 1), generator=generator(0))

    def model(x, y=None):
        pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Poisson(torch.exp(x[:, 0] - 1)), obs=y)

    train, test = halves(x, y, 300)
    diagnosis = pb.diagnose(fixed(model, train), test)
    counts = torch.bincount(train.kwargs["y"].long(), minlength=int(y.max()) + 1) + 1.0
    null = (counts / counts.sum()).log()[test.kwargs["y"].long()].double()
    expected = dist.Poisson(torch.exp(test.args[0][:, 0] - 1)).log_prob(test.kwargs["y"]) - null
    assert abs(diagnosis["gain over base rate"].value - float(expected.mean())) < 1e-5
    assert diagnosis.verdict == Verdict.FITS


# ------------------------------------------------------------------------------------------ order and errors


def test_failure_goes_before_overfitting():
    x, labels = normal(240, 20), torch.randint(0, 3, (240,), generator=generator(1))
    train, test = halves(x, labels, 40)
    with isolated(seed=0):
        model = pb.Pipeline(pb.MLP(20, 64), pb.DNN(64, 64), pb.Classify(64, 3)).double()
    fit = QUICK(250, patience=None)(model, train, seed=0)
    failed = replace(fit, info={**fit.info, "losses": [1.0, math.nan]})
    diagnosis = pb.diagnose(failed, test)
    assert Verdict.OVERFITS in {each.flag for each in diagnosis.findings}
    assert diagnosis.verdict == Verdict.FAILED


def quiet(estimator):
    """The estimator without its warnings of weights that are not to be trusted."""

    def estimated(fit):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EvidenceWarning)
            return estimator(fit)

    return estimated


def test_point_estimates_need_held_out_rows():
    train, _ = halves(*classes(0), 150)
    with pytest.raises(ValueError, match="held-out"):
        pb.diagnose(Posterior(network(), train, {}, {}, network().guide))


@pytest.mark.parametrize("kind", ["function", "pipeline"])
def test_held_out_rows_of_other_columns_are_refused(kind):
    if kind == "function":
        fit = pb.Exact(num_samples=20)(regression, halves(*simulated(0), 200)[0], seed=0)
        held_out = dataset(normal(20, 5), normal(20))
    else:
        train, _ = halves(*classes(0), 150)
        fit = Posterior(network(), train, {}, {}, network().guide)
        held_out = dataset(normal(20, 5), torch.arange(20) % 3)
    with pytest.raises(ValueError, match="columns"):
        pb.diagnose(fit, held_out)


def test_held_out_rows_with_nan_are_refused():
    train, test = halves(*simulated(0), 200)
    x = test.args[0].clone()
    x[3, 1] = math.nan
    with pytest.raises(ValueError, match="finite"):
        pb.diagnose(pb.Exact(num_samples=20)(regression, train, seed=0), dataset(x, test.kwargs["y"]))


def test_a_held_out_class_that_training_lacks_is_scored():
    x, labels = classes(0)
    kept = labels < 2
    train = dataset(x[kept], labels[kept])
    fit = QUICK(50)(network(), train, seed=0)
    diagnosis = pb.diagnose(fit, dataset(x, labels))
    assert math.isfinite(diagnosis["gain over base rate"].value)


def test_a_diagnosis_says_its_verdict_and_escapes_its_words():
    diagnosis = pb.diagnose(by_hand(1.0, 1.0, 1.0, 1.0))
    assert str(diagnosis).startswith("verdict: ")
    assert "<td>R-hat</td>" in diagnosis._repr_html_()
    assert "<script" not in diagnosis._repr_html_()
    assert "R-hat" in diagnosis
    with pytest.raises(KeyError, match="R-hat"):
        diagnosis["nothing"]


def test_an_evidence_given_is_among_the_findings():
    fit = legendre(3)
    evidence = pb.evidence.exact(fit)
    found = pb.diagnose(fit, evidence=evidence)["log evidence"]
    assert found.value == evidence.log_z
    assert found.stderr == 0
