"""Each rule of a diagnosis by planted cases on both of its sides, and the table that states the rules."""

import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems.exact_answers import diabetes_arrays, tensor

import probmodel as pb
from probmodel.diagnosis import diagnose
from probmodel.diagnosis.agreement import is_only_lower, reason_against
from probmodel.diagnosis.complexity import NEGATIVE_LIMIT, complexity
from probmodel.diagnosis.convergence import DIVERGENCE_LIMIT, LEAST_ESS, LEAST_STEPS
from probmodel.diagnosis.findings import CAUTION, MARK, Diagnosis, Finding, Verdict, legend
from probmodel.diagnosis.guides import BAD_FRACTION
from probmodel.diagnosis.leave_one_out import loo_findings
from probmodel.diagnosis.rule import P_LOO_RATIO, doubted, follows_rows
from probmodel.diagnosis.scored import MATERIAL, Gain, overconfidence_verdict
from probmodel.draws.diagnostics import R_HAT_LIMIT
from probmodel.inference.descent.trend import MATERIAL_FALL, SPAN, recent_trend
from probmodel.protocols.evidence import Agreement, Evidence
from probmodel.protocols.posterior import Posterior

ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------------------ the table


def table_rows(text):
    return [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 3]


def test_module_and_guide_state_the_same_rules_with_the_limits_of_the_code():
    rules = table_rows(sys.modules[diagnose.__module__].__doc__)
    guide = (ROOT / "notebooks" / "guides" / "diagnosis.md").read_text(encoding="utf-8")
    assert len(rules) > 15
    assert not [rule for rule in rules if rule not in guide]
    text = "\n".join(rules)
    limits = (R_HAT_LIMIT, LEAST_ESS, DIVERGENCE_LIMIT, BAD_FRACTION, LEAST_STEPS, SPAN, NEGATIVE_LIMIT, P_LOO_RATIO)
    assert not [limit for limit in limits if f"{limit}" not in text]
    assert f"{MATERIAL_FALL} n" in text


# ------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("noise", [0.0, 20.0])
@pytest.mark.parametrize(
    ("rows", "fall", "falls"), [(10, 0.5, False), (10, 200.0, True), (10_000, 200.0, False), (1_000, 200.0, True)]
)
def test_a_fall_counts_if_it_is_significant_and_material(rows, fall, falls, noise):
    with pb.isolated(0):
        losses = 500 - fall * torch.linspace(0, 4, 2_000) + noise * torch.randn(2_000)
    assert recent_trend(losses.tolist(), rows).falls == falls


# ------------------------------------------------------------------------------------------ point estimates


def network(steps, lr=0.01):
    x, y = (tensor(values).float() for values in diabetes_arrays())
    train, test = (pb.Dataset((x[part],), {"y": y[part]}, len(x[part])) for part in (slice(350), slice(350, None)))
    with pb.isolated(0):
        model = pb.Pipeline(pb.Identity(), pb.DNN(x.shape[1], 16), pb.Regress(16))
    optimizer = lambda leaves: torch.optim.Adam(leaves, lr=lr)  # noqa: E731
    method = pb.SVI(steps, optimizer=optimizer, num_samples=20, progress=False, compile=False, patience=None)
    return method(model, train, seed=0), test


def test_a_network_is_failed_while_it_learns_and_overfits_once_it_has_learned_its_rows():
    early = pb.diagnose(*network(200, lr=0.003))
    assert early.verdict == early["plateau"].flag == Verdict.FAILED
    assert all(early[name].doubt for name in ("held-out log score", "gap", "effective dimension"))
    assert MARK in str(early)
    late = pb.diagnose(*network(800, lr=0.02))
    assert late["plateau"].flag == ""
    assert late.verdict == late["gap"].flag == Verdict.OVERFITS


def gapped(gap, stderr, lost, dimension):
    return [
        Finding("gap", gap, stderr, "gap"),
        Finding("lost gain", lost, math.nan, ""),
        Finding("effective dimension", dimension, math.nan, ""),
    ]


@pytest.mark.parametrize(
    ("gap", "stderr", "lost", "dimension", "overfits"),
    [
        (0.497, 0.14, 0.71, 272, True),
        (0.484, 0.16, 0.70, 444, True),
        (0.497, 0.30, 0.71, 272, False),
        (0.04, 0.01, 0.71, 272, False),
        (0.497, 0.14, 0.45, 272, False),
        (0.497, 0.14, 0.71, 170, False),
        (0.497, 0.14, math.nan, 272, False),
    ],
)
def test_estimates_follow_single_rows_if_gap_dimension_and_lost_gain_say_so(gap, stderr, lost, dimension, overfits):
    flags = {each.name: each.flag for each in follows_rows(gapped(gap, stderr, lost, dimension), 350)}
    assert flags == {"gap": Verdict.OVERFITS if overfits else "", "lost gain": "", "effective dimension": ""}


@pytest.mark.parametrize(
    ("mean", "on_train", "significant", "narrow", "verdict"),
    [
        (0.3, False, True, True, Verdict.OVERFITS),
        (0.3, False, False, True, Verdict.OVERFITS),
        (0.3, True, True, True, Verdict.OVERFITS),
        (0.3, True, False, True, Verdict.UNDERFITS),
        (0.3, False, True, False, Verdict.UNDERFITS),
        (MATERIAL - 0.001, False, True, True, ""),
        (math.nan, False, True, True, ""),
    ],
)
def test_predictions_too_narrow_for_new_rows_overfit_and_a_wrong_spread_underfits(
    mean, on_train, significant, narrow, verdict
):
    assert overconfidence_verdict(Gain(mean, 0.01, on_train), gap_is_significant=significant, narrow=narrow) == verdict


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_a_spread_that_is_wrong_on_all_rows_underfits_and_the_true_one_fits(spread):
    def model(x, y=None, spread=spread):
        b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(b * x, spread), obs=y)

    with pb.isolated(0):
        x = 3 * torch.randn(400, dtype=torch.float64)
        y = x + torch.randn(400, dtype=torch.float64)
    train, test = (pb.Dataset((x[part],), {"y": y[part]}, 200) for part in (slice(200), slice(200, None)))
    assert pb.diagnose(pb.Exact(100)(model, train, seed=0), test).verdict == Verdict.UNDERFITS
    true = pb.Exact(100)(lambda x, y=None: model(x, y, spread=1.0), train, seed=0)
    assert pb.diagnose(true, test).verdict == Verdict.FITS


# ------------------------------------------------------------------------------------------ leave-one-out


def by_row(spread, *, rows=40, bad=0):
    """Log likelihoods at 400 draws; the first `bad` rows have weights with a heavy tail."""
    with pb.isolated(0):
        values = -1 + spread * torch.randn(400, rows, dtype=torch.float64)
        values[:, :bad] -= torch.empty(400, bad, dtype=torch.float64).exponential_()  # 1 / p is Pareto with k = 1.
    return values


@pytest.mark.parametrize(("bad", "flag", "doubt"), [(0, None, False), (2, CAUTION, True), (4, Verdict.FAILED, True)])
def test_leave_one_out_marks_bad_rows_and_fails_where_they_are_many(bad, flag, doubt):
    found = {each.name: each for each in loo_findings(by_row(0.1, bad=bad), decisive=True)}
    assert (found["loo k-hat"].flag if flag else flag) == flag
    assert bool(found["elpd_loo"].doubt) == doubt
    beside = {each.name: each for each in loo_findings(by_row(0.1, bad=bad), decisive=False)}
    assert not flag or beside["loo k-hat"].flag == CAUTION  # Held-out rows decide.


@pytest.mark.parametrize(("spread", "flag"), [(0.5, ""), (1.1, Verdict.OVERFITS)])
def test_more_than_half_an_effective_parameter_per_row_overfits(spread, flag):
    found = {each.name: each for each in loo_findings(by_row(spread), decisive=True)}
    assert (found["p_loo"].value > 20) == bool(flag)
    assert found["p_loo"].flag == flag


# ------------------------------------------------------------------------------------------ curvature and marks


def saddle(x, y=None):
    """Posterior of a and b with two ridges; between them the curvature points both ways."""
    a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
    b = pyro.sample("b", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a * b * x, 1.0), obs=y)


def test_posterior_draws_need_not_be_at_a_mode():
    ones = torch.ones(50, dtype=torch.float64)
    with pb.isolated(0):
        draws = {name: 0.01 * torch.randn(4, 200, dtype=torch.float64) for name in ("a", "b")}
    fit = Posterior(saddle, pb.Dataset((ones,), {"y": ones}, 50), draws, {})
    found = {each.name: each for each in complexity(fit)}
    assert found["negative curvature"].value > NEGATIVE_LIMIT
    assert found["negative curvature"].flag == found["effective dimension"].doubt == ""


def test_a_number_of_one_check_is_doubted_alone_and_those_of_a_failed_fit_together():
    score, loo = Finding("held-out log score", -1.0, 0.1, ""), Finding("elpd_loo", -9.0, 0.1, "")
    of_fit = doubted([score, loo, Finding("R-hat", 1.3, math.nan, "", Verdict.FAILED)])
    assert [bool(each.doubt) for each in of_fit] == [True, True, False]
    of_one = doubted([score, loo, Finding("loo k-hat", 0.5, math.nan, "", Verdict.FAILED)])
    assert not any(each.doubt for each in of_one)
    assert legend(of_fit) == [f"{MARK} not to be relied on: inference failed (R-hat)"]
    assert legend(of_one) == []
    shown = Diagnosis(Verdict.FAILED, tuple(of_fit))
    assert str(shown).count(MARK) == shown._repr_html_().count(MARK) == 3


TRUSTED = {"k_hat": 0.3, "relative_ess": 0.5}


@pytest.mark.parametrize(
    ("evidence", "doubtful", "only_lower"),
    [
        (Evidence(-5.0, 0.1, lower=-5.2, info=TRUSTED), False, False),
        (Evidence(-5.0, 0.1, lower=-5.2, info={"k_hat": 0.8, "relative_ess": 0.5}), True, True),
        (Evidence(-5.0, 0.1, lower=-5.2, info={"k_hat": 0.8, "relative_ess": 0.95}), False, False),
        (Evidence(-5.0, 0.1, lower=-5.2, info={"k_hat": 0.3, "relative_ess": 0.005}), True, True),
        (Evidence(-5.0, 0.1, lower=-5.2), False, True),
        (Evidence(-5.0, 0.1, lower=-5.2, certified="the lower bound holds at finite sample size"), False, False),
        (Evidence(-5.0, 0.1, lower=-5.2, upper=-4.8, certified="neither side: a check has failed"), True, False),
        (Evidence(-5.0, 0.1, info={"failed": ("bridge: no overlap",)}), True, False),
        (Evidence(-5.0, 0.1, agreement=Agreement((), 1e-9)), True, False),
        (Evidence(-5.0, 0.1, lower=-4.0, upper=-4.5), True, False),
    ],
)
def test_an_evidence_is_marked_where_a_check_of_it_failed_and_bounds_where_it_estimates_nothing(
    evidence, doubtful, only_lower
):
    assert bool(reason_against(evidence)) == doubtful
    assert is_only_lower(evidence) == only_lower
