"""Comparison of models: the table holds what the parts give, and refuses what cannot be compared."""

import math
from functools import lru_cache

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import diabetes_arrays, linear_model, tensor

import probmodel as pb
from probmodel.diagnosis import Verdict
from probmodel.diagnosis.findings import MARK
from probmodel.diagnosis.scored import scored
from probmodel.prediction.scores.calibration import expected_calibration_error
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated


def renamed_model(x, y=None):
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("cases", len(x)):
        pyro.sample("target", dist.Normal(x @ weights, 0.5**0.5), obs=y)


@lru_cache
def fitted(columns, rows=200, model=linear_model, dtype=torch.float64, whole=False):
    x, y = (tensor(values)[:rows].to(dtype) for values in diabetes_arrays())
    data = Dataset((x[:, :columns],), {"y": y.sign() if whole else y}, rows)
    return pb.Exact(num_samples=300)(model, data, seed=0)


def held_out():
    x, y = (tensor(values)[200:] for values in diabetes_arrays())
    return Dataset((x,), {"y": y}, len(y))


@lru_cache
def network():
    with isolated(seed=0):
        x, labels = torch.randn(160, 2, dtype=torch.float64), torch.arange(160) % 2
        model = pb.Pipeline(pb.MLP(2, 4), pb.DNN(4, 4), pb.Classify(4, 2)).double()
    x = x + 2 * labels[:, None]
    train, test = (Dataset((x[i],), {"y": labels[i]}, 80) for i in (slice(80), slice(80, 160)))
    return Posterior(model, train, {}, {"seconds": 1.5}, model.guide), test


def test_a_regression_shows_what_its_parts_give():
    fit, test = fitted(11), held_out()
    row = pb.compare({"all": fit}, test).frame.loc["all"]
    evidence, diagnosis, score = pb.evidence.best(fit), pb.diagnose(fit, test), scored(fit, test)
    assert row["log evidence"] == evidence.log_z
    assert row["± evidence"] == evidence.stderr
    for column, error, name in (
        ("elpd_loo", "± elpd_loo", "elpd_loo"),
        ("held-out log score", "± held-out", "held-out log score"),
    ):
        assert (row[column], row[error]) == (diagnosis[name].value, diagnosis[name].stderr)
    expected = float((score.prediction.distribution.mean - test.kwargs["y"]).square().mean().sqrt())
    assert abs(row["rmse"] - expected) < 1e-12
    assert math.isnan(row["accuracy"])
    assert math.isnan(row["ECE"])
    assert row["parameters"] == 11
    assert row["effective dimension"] == diagnosis["effective dimension"].value
    assert row["seconds"] == fit.info["seconds"]
    assert row["verdict"] == diagnosis.verdict
    assert row["evidence k-hat"] == evidence.info["k_hat"]
    assert row["evidence given"] == 0


def test_a_classifier_shows_accuracy_and_calibration_beside_its_null():
    fit, test = network()
    table = pb.compare({"net": fit}, test)
    row, score = table.frame.loc["net"], scored(fit, test)
    probs = score.prediction.distribution.probs
    calibration = expected_calibration_error(probs, score.observed)
    assert abs(row["accuracy"] - float((probs.argmax(-1) == test.kwargs["y"]).double().mean())) < 1e-6
    assert (row["ECE"], row["ECE null"], row["ECE p"]) == (calibration.ece, calibration.null_mean, calibration.p_value)
    assert row["seconds"] == 1.5
    assert math.isnan(row["rmse"])
    assert math.isnan(row["elpd_loo"])
    assert row["evidence given"] > 0
    assert any("net" in note and "conditional on point-estimated" in note for note in table.notes)
    assert "*" in str(table)


def test_the_best_evidence_comes_first_without_held_out_rows():
    fits = {"none of it": fitted(1), "all": fitted(11)}
    table = pb.compare(fits)
    assert list(table.frame.index) == ["all", "none of it"]
    assert table.best == "all"
    assert table.frame["log evidence"].is_monotonic_decreasing
    assert table.frame["held-out log score"].isna().all()
    assert any("no held-out" in note for note in table.notes)
    assert not any("conditional" in note for note in table.notes)


def test_different_observations_are_refused():
    with pytest.raises(ValueError, match="same observations"):
        pb.compare({"many": fitted(3), "few": fitted(3, rows=150)})


def test_no_fits_are_refused():
    with pytest.raises(ValueError, match="one or more fits"):
        pb.compare({})


def test_the_same_numbers_in_another_dtype_or_under_another_name_are_accepted():
    fits = {
        "double": fitted(3, whole=True),
        "single": fitted(3, dtype=torch.float32, whole=True),
        "renamed": fitted(3, model=renamed_model, whole=True),
    }
    values = pb.compare(fits).frame["log evidence"]
    assert float(values.max() - values.min()) < 0.01


def test_it_is_shown_as_text_page_and_frame():
    table = pb.compare({"<script>alert(1)</script>": fitted(3)})
    page = table._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "log evidence" in str(table)
    assert repr(table) == str(table)
    assert isinstance(table.frame, pd.DataFrame)


def test_each_model_is_announced():
    heard = []
    pb.compare({"a": fitted(3), "b": fitted(1)}, notice=heard.append)
    assert heard == ["a", "b"]


# ------------------------------------------------------------------------------------------ numbers that are not to be relied on


def guided(scale):
    """The exact posterior, and guides of it that are far too narrow: their weights have no variance."""
    fit = fitted(11)
    exact = fit.draws["b"].flatten(0, 1)
    center, spread = exact.mean(0), torch.linalg.cholesky(exact.T.cov())

    def guide(x, y=None):
        pyro.sample("b", dist.MultivariateNormal(center, scale_tril=scale * spread))

    return Posterior(fit.model, fit.data, fit.draws, {"method": "by hand"}, guide)


def test_an_evidence_of_untrusted_weights_is_a_marked_lower_bound_in_table_diagnosis_and_notes():
    fits = {"covers": guided(1.05), "narrow": guided(0.2)}
    table = pb.compare(fits, held_out())
    lines = {line.split("  ")[0]: line for line in str(table).splitlines()}
    assert "≥" in lines["narrow"] and MARK in lines["narrow"]
    assert "≥" not in lines["covers"] and MARK not in lines["covers"]
    narrow, covers = (next(row for row in table.rows if row.name == name) for name in ("narrow", "covers"))
    assert narrow.diagnosis.verdict == Verdict.FAILED
    assert covers.diagnosis.verdict == Verdict.FITS
    assert f"≥ {narrow.evidence.log_z:.4g}" in str(narrow.diagnosis)
    assert any(note.startswith(f"narrow: {MARK} not to be relied on") for note in table.notes)
    assert not any(note.startswith("covers: ") for note in table.notes)
    assert any("lower bound" in note for note in table.notes)


def test_an_elbo_is_a_lower_bound_and_no_estimate():
    table = pb.compare({"covers": guided(1.05)}, held_out(), estimator=pb.evidence.elbo)
    assert f"≥ {table.rows[0].evidence.log_z:.1f}" in str(table)
    assert MARK not in str(table)


def test_numbers_of_chains_that_disagree_are_marked():
    fit = fitted(11)
    draws = fit.draws["b"].flatten(0, 1)[:300].reshape(2, 150, 11)
    apart = Posterior(fit.model, fit.data, {"b": draws + tensor([0.0, 1.0])[:, None, None]}, {"method": "by hand"})
    table = pb.compare({"apart": apart}, held_out())
    found = table.rows[0].diagnosis
    assert found.verdict == Verdict.FAILED
    for name in ("log evidence", "elpd_loo", "held-out log score", "gap"):
        assert "R-hat" in found[name].doubt
        assert found[name].number.endswith(MARK)
    assert str(table).splitlines()[2].count(MARK) == 4


@pytest.mark.usefixtures("annotations_unchecked")
def test_an_estimator_that_returns_no_evidence_is_refused():
    with pytest.raises(TypeError, match="expected an estimator that returns an Evidence, got NoneType"):
        pb.compare({"one": fitted(2)}, estimator=lambda fit: None)
