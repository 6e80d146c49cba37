"""Scores equal their definitions; calibration errors are judged against what perfect calibration would show."""

import math
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from problems.refusals import BAD, BOUNDED, SEEDS, refused
from scipy import stats
from torch.distributions import Bernoulli, Categorical, Independent, MixtureSameFamily, Normal

from probmodel.prediction.scores import scoring_rules as scores
from probmodel.prediction.scores.calibration import calibration, expected_calibration_error, reliability
from probmodel.prediction.scores.scoring_rules import (
    accuracy,
    brier,
    crps_normal_mixture,
    crps_samples,
    log_score_by_row,
    log_score_per_datum,
    rmse,
)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def calibrated(num_rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    confidence = uniform(num_rows, seed=seed)
    return confidence, uniform(num_rows, seed=seed + 10**6) < confidence


def test_accuracy_and_rmse_equal_hand_counts():
    assert accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 0])) == 0.75
    assert rmse(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 6.0])) == math.sqrt(12.5)


def test_the_log_score_of_a_mixture_averages_densities_not_log_densities():
    y = torch.tensor([0.3, -1.0], dtype=torch.float64)
    means = torch.tensor([[0.0, 2.0], [1.0, -1.0]], dtype=torch.float64)
    mixture = MixtureSameFamily(Categorical(torch.ones(2, 2, dtype=torch.float64)), Normal(means, 1.0))
    exact = np.log(stats.norm.pdf(y.numpy()[:, None], means.numpy()).mean(1))
    np.testing.assert_allclose(log_score_by_row(mixture, y).numpy(), exact, atol=1e-12)
    assert abs(log_score_per_datum(mixture, y).item() - exact.mean()) < 1e-12


def test_the_log_score_takes_rows_of_several_outputs():
    y = normal(5, 3)
    by_row = log_score_by_row(Independent(Normal(torch.zeros_like(y), 1.0), 1), y)
    np.testing.assert_allclose(by_row.numpy(), stats.norm.logpdf(y.numpy()).sum(1), atol=1e-12)


@given(rows=st.integers(2, 6), bad=BAD)
@BOUNDED
def test_the_log_score_refuses_shapes_that_would_broadcast_and_bad_values(rows, bad):
    predictive = Normal(torch.zeros(rows), 1.0)
    for y in (torch.zeros(rows, 1), torch.zeros(1), torch.zeros(rows + 1), torch.full((rows,), bad)):
        with refused():
            log_score_by_row(predictive, y)
    with refused():
        log_score_by_row(Normal(torch.zeros(rows, 2), 1.0), torch.zeros(rows, 2))
    with refused():
        log_score_per_datum(Normal(torch.zeros(0), 1.0), torch.zeros(0))


def test_crps_of_one_normal_equals_its_closed_form():
    mean, sd, y = normal(1, 20), 0.1 + uniform(1, 20, seed=1), normal(20, seed=2)
    z = (y - mean[0]).numpy() / sd[0].numpy()
    exact = sd[0].numpy() * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    np.testing.assert_allclose(crps_normal_mixture(mean, sd, y).numpy(), exact, atol=1e-12)


def test_crps_of_a_mixture_equals_the_integral_that_defines_it():
    means, sds, y = 2 * normal(4, 3), 0.2 + uniform(4, 3, seed=1), normal(3, seed=2)
    x = torch.linspace(-25, 25, 400_001, dtype=torch.float64)
    for row, value in enumerate(crps_normal_mixture(means, sds, y)):
        cdf = Normal(means[:, row, None], sds[:, row, None]).cdf(x).mean(0)
        exact = torch.trapezoid((cdf - (x >= y[row]).double()).square(), x)
        assert abs(value - exact) < 2e-4  # The step at y costs half a grid cell.


def test_crps_in_chunks_of_rows_is_the_same(monkeypatch):
    means, sds, y = normal(5, 11), 0.5 + uniform(5, 11, seed=1), normal(11, seed=2)
    whole = crps_normal_mixture(means, sds, y)
    monkeypatch.setattr(scores, "MAX_ELEMENTS", 4 * 25)
    torch.testing.assert_close(crps_normal_mixture(means, sds, y), whole, rtol=0, atol=1e-12)


@given(seed=SEEDS, shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
@BOUNDED
def test_crps_shifts_and_scales_with_its_unit(seed, shift, scale):
    means, sds, y = normal(4, 6, seed=seed), 0.5 + uniform(4, 6, seed=seed), normal(6, seed=seed + 1)
    moved = crps_normal_mixture(shift + scale * means, scale * sds, shift + scale * y)
    torch.testing.assert_close(moved, scale * crps_normal_mixture(means, sds, y), rtol=1e-9, atol=1e-9)
    moved = crps_samples(shift + scale * means, shift + scale * y)
    torch.testing.assert_close(moved, scale * crps_samples(means, y), rtol=1e-9, atol=1e-9)


def test_crps_from_draws_equals_the_sum_over_pairs():
    x, y = normal(7, 5), normal(5, seed=1)
    pairs = (x[:, None] - x[None]).abs().sum((0, 1)) / (2 * 7 * 6)
    torch.testing.assert_close(crps_samples(x, y), (x - y).abs().mean(0) - pairs)


def test_crps_from_three_draws_is_unbiased():
    rows = 40_000
    by_row = crps_samples(normal(3, rows), torch.full((rows,), 0.7, dtype=torch.float64))
    exact = crps_normal_mixture(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.7])).item()
    assert abs(by_row.mean() - exact) < 4 * by_row.std() / math.sqrt(rows)


@given(row=st.integers(0, 4), draw=st.integers(0, 2), bad=BAD, sd=st.floats(-2, 0))
@BOUNDED
def test_crps_refuses_bad_values_shapes_and_scales(row, draw, bad, sd):
    means, sds, y = normal(3, 5), torch.ones(3, 5, dtype=torch.float64), normal(5, seed=1)
    broken, flat, missing = means.clone(), sds.clone(), y.clone()
    broken[draw, row], flat[draw, row], missing[row] = bad, sd, bad
    for arguments in (
        (broken, sds, y),
        (means, broken.abs(), y),
        (means, flat, y),
        (means, sds, missing),
        (means, sds[:2], y),
        (means[:, :4], sds[:, :4], y),
        (means[:0], sds[:0], y),
        (means[:, :0], sds[:, :0], y[:0]),
        (means[0], sds[0], y),
    ):
        with refused():
            crps_normal_mixture(*arguments)
    for samples, observed in ((broken, y), (means, missing), (means[:1], y), (means, y[:4]), (means[:, :0], y[:0])):
        with refused():
            crps_samples(samples, observed)


def test_brier_equals_hand_values():
    probs = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    by_row = brier(probs, torch.tensor([2, 0, 1]))
    np.testing.assert_allclose(by_row.numpy(), [0.04 + 0.09 + 0.25, 0.0, 2.0], atol=1e-15)
    assert torch.equal(brier(probs, torch.tensor([2, 0, 1], dtype=torch.int32)), by_row)


@given(seed=SEEDS)
@BOUNDED
def test_the_expected_brier_score_is_least_at_the_truth(seed):
    truth, other = uniform(2, 4, seed=seed).log_softmax(1).exp()
    expected = [(truth * brier(p.expand(4, 4), torch.arange(4))).sum() for p in (truth, other)]
    assert expected[0] <= expected[1]


@given(bad=BAD, row=st.integers(0, 3), label=st.one_of(st.integers(-4, -1), st.integers(3, 9)))
@BOUNDED
def test_probabilities_and_labels_that_are_none_are_refused(bad, row, label):
    good, y = torch.full((4, 3), 1 / 3), torch.zeros(4, dtype=torch.int64)
    broken, logits, below, outside = good.clone(), good.clone(), good.clone(), y.clone()
    broken[row, 1], logits[row], below[row], outside[row] = bad, 1.0, torch.tensor([-0.5, 0.5, 1.0]), label
    cases = [(broken, y), (logits, y), (below, y), (good, outside), (good[:3], y), (good[:0], y[:0])]
    for probs, labels in [*cases, (good[:, 0], y), (good[:, :0], y), (good, y[:, None])]:
        for score in (brier, expected_calibration_error):
            with refused():
                score(probs, labels)


@pytest.mark.parametrize(("num_rows", "mean", "sd"), [(1_000, 0.0382, 0.0076), (10_000, 0.0123, 0.0025)])
def test_the_calibration_error_of_a_calibrated_model_has_its_known_null(num_rows, mean, sd):
    found = calibration(*calibrated(num_rows, seed=0))
    assert abs(found.null_mean - mean) < 4 * sd / math.sqrt(2_000) + 0.00005  # The references have four digits.
    assert abs(found.null_sd - sd) < 4 * sd / math.sqrt(2 * 2_000) + 0.00005
    assert abs(found.ece - mean) < 4 * sd


def test_null_and_p_value_equal_the_binomial_where_all_confidences_agree():
    num_rows, hits, p = 40, 34, 0.75
    found = calibration(torch.full((num_rows,), p), torch.arange(num_rows) < hits, num_samples=20_000)
    k = np.arange(num_rows + 1)
    weight, error = stats.binom.pmf(k, num_rows, p), np.abs(k / num_rows - p)
    mean = weight @ error
    sd, tail = math.sqrt(weight @ (error - mean) ** 2), weight[error >= error[hits] - 1e-12].sum()
    assert abs(found.ece - error[hits]) < 1e-6
    assert abs(found.null_mean - mean) < 4 * sd / math.sqrt(20_000)
    assert abs(found.null_sd - sd) < 4 * sd / math.sqrt(20_000)
    assert abs(found.p_value - tail) < 4 * math.sqrt(tail * (1 - tail) / 20_000) + 1 / 20_000


def test_p_values_of_calibrated_models_are_uniform():
    p_values = [calibration(*calibrated(200, seed), num_samples=200, seed=seed).p_value for seed in range(300)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert abs(np.mean(p_values) - 0.5) < 4 / math.sqrt(12 * 300) + 1 / 201


def test_an_overconfident_model_is_told_from_chance():
    truth = uniform(1_000)
    logits = torch.stack([truth.logit(), torch.zeros(1_000, dtype=torch.float64)], 1)
    y = (uniform(1_000, seed=1) >= truth).long()
    assert expected_calibration_error(logits.softmax(1), y).p_value > 0.01
    sharp = expected_calibration_error((3 * logits).softmax(1), y)
    assert sharp.p_value == pytest.approx(1 / 2_001) and sharp.ece > sharp.null_mean + 4 * sharp.null_sd


def test_certain_and_correct_is_perfectly_calibrated():
    found = calibration(torch.ones(50), torch.ones(50, dtype=torch.bool))
    assert found == (0.0, 0.0, 0.0, 1.0)


@given(seed=SEEDS, num_rows=st.integers(1, 80), num_bins=st.integers(1, 20))
@BOUNDED
def test_the_calibration_error_is_the_weighted_gap_of_the_reliability_table(seed, num_rows, num_bins):
    confidence, correct = calibrated(num_rows, seed)
    exact = 0.0
    for lower in np.arange(num_bins) / num_bins:
        inside = (confidence > lower) & (confidence <= lower + 1 / num_bins)
        exact += abs(float((correct[inside].double() - confidence[inside]).sum())) / num_rows
    table = reliability(confidence, correct, num_bins=num_bins)
    gap = (table.num_rows * (table.accuracy - table.confidence).abs()).nansum() / num_rows
    assert abs(gap - exact) < 1e-9
    assert abs(calibration(confidence, correct, num_bins=num_bins, num_samples=2).ece - exact) < 1e-9
    assert table.num_rows.sum() == num_rows and torch.equal(table.num_rows == 0, table.accuracy.isnan())


def test_bins_hold_their_right_edge_and_the_first_holds_zero():
    table = reliability(torch.tensor([0.0, 0.5, 0.75, 1.0]), torch.tensor([False, True, True, True]), num_bins=4)
    assert table.num_rows.tolist() == [1, 1, 1, 1]
    assert table.lower.tolist() == [0.0, 0.25, 0.5, 0.75] and table.upper.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_calibration_depends_on_its_seed_alone():
    rows, before = calibrated(300, seed=0), torch.get_rng_state()
    assert calibration(*rows, seed=1) == calibration(*rows, seed=1)
    assert calibration(*rows, seed=1).null_mean != calibration(*rows, seed=2).null_mean
    assert torch.equal(torch.get_rng_state(), before)


def test_simulations_in_chunks_draw_from_the_same_null(monkeypatch):
    rows = calibrated(300, seed=0)
    whole = calibration(*rows)
    monkeypatch.setattr(scores, "MAX_ELEMENTS", 300 * 7)
    chunked = calibration(*rows)
    assert chunked.ece == whole.ece and chunked.null_mean != 0
    assert abs(chunked.null_mean - whole.null_mean) < 4 * whole.null_sd * math.sqrt(2 / 2_000)
    assert abs(chunked.null_sd - whole.null_sd) < 4 * whole.null_sd / math.sqrt(2_000)


def test_half_precision_confidences_are_counted_exactly():
    confidence, correct = torch.full((5_001,), 0.5, dtype=torch.float16), torch.arange(5_001) < 2_501
    assert calibration(confidence, correct, num_samples=2).ece == pytest.approx(0.5 / 5_001, rel=1e-3)


@given(
    bad=BAD, row=st.integers(0, 5), outside=st.one_of(st.floats(-3, -0.1), st.floats(1.1, 3)), few=st.integers(-2, 0)
)
@BOUNDED
def test_calibration_refuses_bad_confidences_shapes_and_counts(bad, row, outside, few):
    good, correct = torch.full((6,), 0.5), torch.ones(6, dtype=torch.bool)
    broken, beyond = good.clone(), good.clone()
    broken[row], beyond[row] = bad, outside
    for confidence, truth in ((broken, correct), (beyond, correct), (good[:5], correct), (good[:0], correct[:0])):
        for score in (calibration, reliability):
            with refused():
                score(confidence, truth)
    for score in (calibration, reliability):
        with refused():
            score(good, correct, num_bins=few)
    with refused():
        calibration(good, correct, num_samples=few + 1)


@given(rows=st.integers(1, 5), extra=st.integers(1, 3), bad=BAD)
@BOUNDED
def test_accuracy_and_rmse_refuse_other_shapes_no_rows_and_bad_values(rows, extra, bad):
    labels, values = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows)
    for score, y in ((accuracy, labels), (rmse, values)):
        for predicted, observed in ((y, y.repeat(1 + extra)), (y[:, None], y), (y[:0], y[:0])):
            with refused():
                score(predicted, observed)
    for predicted, observed in ((values + bad, values), (values, values + bad)):
        with refused():
            rmse(predicted, observed)


def test_the_log_score_of_labels_equals_the_cross_entropy():
    probs, y = uniform(6, 3).log_softmax(1).exp(), torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(log_score_by_row(Categorical(probs), y), probs[torch.arange(6), y].log())
    assert log_score_by_row(Bernoulli(torch.tensor([0.25])), torch.tensor([1.0])).exp() == 0.25


@pytest.mark.parametrize("wrong", [7.0, -1.0, 0.5])
@pytest.mark.parametrize("function", [calibration, reliability])
@pytest.mark.usefixtures("annotations_unchecked")
def test_what_came_true_is_true_or_false(function, wrong):
    with pytest.raises(ValueError, match="expected correct as True or False, got values from"):
        function(torch.full((10,), 0.6), torch.full((10,), wrong))


@pytest.mark.usefixtures("annotations_unchecked")
def test_true_and_false_count_as_one_and_zero():
    flags, numbers = torch.tensor([True, False, True]), torch.tensor([1.0, 0.0, 1.0])
    guess = torch.tensor([0.2, 0.4, 0.9])
    several = torch.stack([guess, 1 - guess])
    rules = (
        partial(scores.rmse, guess),
        partial(scores.crps_samples, several),
        partial(scores.crps_normal_mixture, several, torch.ones(2, 3)),
    )
    for rule in rules:
        assert torch.equal(rule(flags), rule(numbers))
    assert torch.equal(
        scores.log_score_by_row(Bernoulli(guess), flags), scores.log_score_by_row(Bernoulli(guess), numbers)
    )
