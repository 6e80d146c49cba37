"""Comparison of posterior fits: departures of known sign and size, and a permutation test that is one."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from problems.exact_answers import conjugate_normal, diabetes_regression
from scipy import stats

import probmodel as pb
from probmodel.comparison.posteriors import energy_distance
from probmodel.protocols.posterior import Posterior

PROBLEM = conjugate_normal()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(**draws):
    return Posterior(PROBLEM.model, PROBLEM.data, draws, {"method": "by hand"})


def element(comparison, fit, name):
    frame = comparison.frame
    (line,) = frame[(frame["fit"] == fit) & (frame["element"] == name)].to_dict("records")
    return line


def test_two_runs_of_one_posterior_do_not_differ():
    fits = {
        name: by_hand(mu=normal(4, 500, seed=seed), b=normal(4, 500, 3, seed=seed + 10))
        for seed, name in ((0, "a"), (1, "b"))
    }
    found = pb.compare_posteriors(fits, reference="a")
    assert list(found.frame["element"]) == ["mu", "b[0]", "b[1]", "b[2]"]
    assert set(found.frame["fit"]) == {"b"}
    assert (found.frame["difference / error"].abs() < 4).all()
    # The standard error of a ratio of sample deviations of 2,000 draws is about 1 / √2,000.
    assert ((found.frame["sd ratio"] - 1).abs() < 4 / math.sqrt(2_000)).all()
    assert (found.frame["Wasserstein / sd"] < 0.1).all()
    assert found.joint.loc["b", "p-value"] > 0.01


def test_the_same_draws_are_at_distance_zero():
    fit = by_hand(mu=normal(4, 250))
    found = pb.compare_posteriors({"a": fit, "b": fit}, reference="a")
    line = element(found, "b", "mu")
    assert (line["difference / error"], line["sd ratio"], line["Wasserstein / sd"]) == (0, 1, 0)
    assert line["mean"] == line["reference mean"]
    assert found.joint.loc["b", "p-value"] > 0.5


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_shift_is_found_with_its_sign_and_size(shift):
    """The 1-Wasserstein distance of draws and the same draws shifted is the shift, exactly."""
    mu = 2 * normal(4, 500)
    shifted = by_hand(mu=mu + 2 * shift)
    found = pb.compare_posteriors({"truth": by_hand(mu=mu), "shifted": shifted}, reference="truth")
    line = element(found, "shifted", "mu")
    assert abs(line["Wasserstein / sd"] - abs(2 * shift) / float(mu.std(correction=0))) < 1e-9
    assert abs(line["sd ratio"] - 1) < 1e-9
    # Independent draws: each mean has error σ / √S, their difference √2 times that.
    assert abs(line["difference / error"] / (shift * math.sqrt(2_000 / 2)) - 1) < 0.1
    assert abs(line["mean"] - line["reference mean"] - 2 * shift) < 1e-9
    assert found.joint.loc["shifted", "p-value"] == 1 / 500
    assert found.joint.loc["shifted", "energy distance"] > 0


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_width_is_found_with_its_size(factor):
    """W₁ of N(0, 1) and N(0, s²) is |s − 1| √(2 / π)."""
    fits = {"truth": by_hand(mu=normal(4, 1_000)), "wrong": by_hand(mu=factor * normal(4, 1_000, seed=1))}
    found = pb.compare_posteriors(fits, reference="truth")
    line = element(found, "wrong", "mu")
    assert abs(line["sd ratio"] - factor) < 4 * factor / math.sqrt(4_000)
    assert abs(line["Wasserstein / sd"] - abs(factor - 1) * math.sqrt(2 / math.pi)) < 0.06
    assert abs(line["difference / error"]) < 4
    assert found.joint.loc["wrong", "p-value"] < 0.02


def test_only_the_joint_distance_sees_a_lost_correlation():
    common = normal(4, 500)
    tied = torch.stack([common, 0.98 * common + 0.2 * normal(4, 500, seed=1)], -1)
    loose = torch.stack([normal(4, 500, seed=2), math.sqrt(0.98**2 + 0.04) * normal(4, 500, seed=3)], -1)
    found = pb.compare_posteriors({"truth": by_hand(b=tied), "mean field": by_hand(b=loose)}, reference="truth")
    assert (found.frame["difference / error"].abs() < 4).all()
    assert ((found.frame["sd ratio"] - 1).abs() < 0.1).all()
    assert found.joint.loc["mean field", "p-value"] == 1 / 500


def test_monte_carlo_errors_know_that_draws_depend_on_each_other():
    """An AR(1) chain of correlation 0.9 is worth 1/19 of its length."""
    noise, chain = normal(4, 2_000).numpy(), np.zeros((4, 2_000))
    for t in range(1, 2_000):
        chain[:, t] = 0.9 * chain[:, t - 1] + math.sqrt(1 - 0.81) * noise[:, t]
    mu = torch.from_numpy(chain)
    found = pb.compare_posteriors({"a": by_hand(mu=mu), "b": by_hand(mu=mu + 1)}, reference="a")
    expected = 1 / math.sqrt(2 * 19 / 8_000)
    assert 0.7 < element(found, "b", "mu")["difference / error"] / expected < 1.4


# ------------------------------------------------------------------------------------------ energy distance


def by_formula(a, b):
    """2 E|X − Y| − E|X − X'| − E|Y − Y'|, pairs of different draws within a sample."""
    between = np.mean([[np.linalg.norm(x - y) for y in b] for x in a])
    within = [
        np.mean([np.linalg.norm(x - y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)
    ]
    return 2 * between - within[0] - within[1]


def test_the_energy_distance_is_its_formula():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(13, 3)), 0.7 + 2 * rng.normal(size=(19, 3))
    found, _ = energy_distance(a, b, rng)
    assert abs(found - by_formula(a, b)) < 1e-12
    assert abs(energy_distance(b, a, rng)[0] - found) < 1e-12


def test_the_energy_distance_of_two_normals_is_the_exact_one():
    """X − Y ~ N(μ, 2): E|X − Y| = √2 (2 φ(t) + t (2 Φ(t) − 1)), t = μ / √2."""
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        found.append(by_chunks(rng.normal(size=(300, 1)), 1 + rng.normal(size=(300, 1)), rng))
    t = 1 / math.sqrt(2)
    expected = math.sqrt(2) * 2 * (2 * stats.norm.pdf(t) + t * (2 * stats.norm.cdf(t) - 1)) - 4 / math.sqrt(math.pi)
    assert abs(np.mean(found) - expected) < 4 * np.std(found, ddof=1) / math.sqrt(10)


def by_chunks(a, b, rng):
    return energy_distance(a, b, rng)[0]


def test_the_permutation_p_value_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = [energy_distance(rng.normal(size=(30, 2)), rng.normal(size=(40, 2)), rng)[1] for _ in range(150)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert min(found) >= 1 / 500
    assert max(found) <= 1


# ------------------------------------------------------------------------------------------ fits of one model


def test_sites_are_matched_by_name_in_any_order():
    mu, b = normal(2, 300), 5 + normal(2, 300, 2, seed=1)
    fits = {"a": by_hand(mu=mu, b=b), "b": by_hand(b=b, mu=mu)}
    found = pb.compare_posteriors(fits, reference="a")
    assert (found.frame["difference / error"] == 0).all()
    assert abs(found.joint.loc["b", "energy distance"]) < 0.1
    assert found.joint.loc["b", "p-value"] > 0.5


def test_fits_may_have_different_numbers_of_chains_and_draws():
    fits = {"long": by_hand(mu=normal(4, 700)), "short": by_hand(mu=normal(1, 90, seed=1))}
    found = pb.compare_posteriors(fits, reference="long")
    assert abs(element(found, "short", "mu")["difference / error"]) < 4
    assert found.joint.loc["short", "p-value"] > 0.01


def test_an_element_that_never_moves_has_no_ratio_and_no_error():
    draws = torch.stack([normal(2, 100), torch.zeros(2, 100).double()], -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pb.compare_posteriors({"a": by_hand(b=draws), "b": by_hand(b=draws)}, reference="a")
    line = element(found, "b", "b[1]")
    assert math.isnan(line["sd ratio"])
    assert math.isnan(line["difference / error"])


def test_k_hat_is_that_of_a_guide_and_missing_without_one():
    problem = diabetes_regression()
    exact = pb.Exact(num_samples=300)(problem.model, problem.data, seed=0)
    found = pb.compare_posteriors(
        {"exact": exact, "draws alone": replace(exact, guide=None), "again": exact}, reference="exact"
    )
    assert found.joint.loc["again", "joint k-hat"] < 0.7
    assert math.isnan(found.joint.loc["draws alone", "joint k-hat"])
    assert list(found.joint.index) == ["draws alone", "again"]
    assert len(found.frame) == 2 * 11


@pytest.mark.parametrize(
    ("other", "reference", "message"),
    [
        ({"mu": normal(2, 50), "b": normal(2, 50, 3)}, "truth", "reference"),
        ({"mu": normal(2, 50)}, "a", "sites"),
        ({"mu": normal(2, 50), "b": normal(2, 50, 3), "c": normal(2, 50)}, "a", "sites"),
        ({"mu": normal(2, 50), "c": normal(2, 50, 3)}, "a", "sites"),
        ({"mu": normal(2, 50), "b": normal(2, 50, 4)}, "a", "shape"),
        ({"mu": normal(2, 50, 1), "b": normal(2, 50, 3)}, "a", "shape"),
    ],
)
def test_fits_that_cannot_be_compared_are_refused(other, reference, message):
    fits = {"a": by_hand(mu=normal(2, 50), b=normal(2, 50, 3)), "b": by_hand(**other)}
    with pytest.raises(ValueError, match=message):
        pb.compare_posteriors(fits, reference=reference)


def test_one_fit_is_refused():
    with pytest.raises(ValueError, match="two or more"):
        pb.compare_posteriors({"a": by_hand(mu=normal(2, 50))}, reference="a")


def test_the_same_seed_gives_the_same_table():
    fits = {"a": by_hand(mu=normal(2, 200)), "b": by_hand(mu=normal(2, 200, seed=1))}
    first, again = (pb.compare_posteriors(fits, reference="a", seed=3) for _ in range(2))
    assert first.joint.equals(again.joint)
    assert first.frame.equals(again.frame)


# ------------------------------------------------------------------------------------------ shown


def test_tables_name_every_fit_and_escape_names():
    fits = {"<script>a": by_hand(mu=normal(2, 50)), "<b>&": by_hand(mu=normal(2, 50, seed=1))}
    found = pb.compare_posteriors(fits, reference="<script>a")
    page = found._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;a" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" in str(found)
    assert "energy distance" in repr(found)


def labels(figure):
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return " ".join(texts + [text.get_text() for legend in legends for text in legend.get_texts()])


@pytest.mark.parametrize("name", ["plot_forest", "plot_densities", "plot_pairs"])
def test_plots_show_every_fit_by_name(name):
    fits = {
        title: by_hand(mu=normal(2, 60, seed=i), b=normal(2, 60, 2, seed=i))
        for i, title in enumerate(("svi", "nuts", "laplace"))
    }
    found = pb.compare_posteriors(fits, reference="nuts")
    plots = {"plot_forest": found.plot_forest, "plot_densities": found.plot_densities, "plot_pairs": found.plot_pairs}
    figure = plots[name]()
    assert isinstance(figure, Figure)
    for title in fits:
        assert title in labels(figure)
