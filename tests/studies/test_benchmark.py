"""A benchmark of estimators of the evidence: its verdicts, and that runs can be lost, kept and spread without harm."""

import importlib
import importlib.util
import json
import math
import os
import signal
import warnings
from functools import lru_cache, partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from problems import exact_answers as problems
from problems.exact_answers import tensor

from probmodel import evidence
from probmodel.inference import Exact
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning, SlowRunWarning
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior, Subject
from probmodel.studies import records
from probmodel.studies.benchmark import Benchmark, benchmark
from probmodel.studies.records import code, label
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target, target_of

SEEDS = range(5)


@lru_cache
def subjects() -> dict[str, Posterior]:
    built = (problems.beta_binomial(), problems.gamma_poisson())
    return {p.name: Exact(num_samples=200)(p.model, p.data, seed=0) for p in built}


EXACT = {p.name: p.log_z for p in (problems.beta_binomial(), problems.gamma_poisson())}


def normal(subject: Subject, *, seed: int = 0, bias: float = 0.0, scale: float = 1.0) -> Evidence:
    """Exact evidence plus normal noise of standard deviation 0.1, said to be 0.1 / scale."""
    noise = 0.1 * float(np.random.default_rng(seed).standard_normal())
    log_z = EXACT["Beta-binomial"] + bias + noise
    return Evidence(log_z, 0.1 / scale, lower=log_z - 0.3, method="normal")


def global_noise(subject: Subject, *, seed: int = 0) -> Evidence:
    """Careless: draws from PyTorch's global random state."""
    return Evidence(float(torch.randn(())), 1.0)


def refusing(subject: Subject, *, seed: int = 0) -> Evidence:
    if seed == 2:
        raise ArithmeticError("expected a maximum, got none")
    if seed == 3:
        return Evidence(math.nan, 0.0)
    if seed == 4:
        warnings.warn("refusing: k-hat 0.90 > 0.7", EvidenceWarning, stacklevel=2)
    return Evidence(1.0, 0.1)


def only(**settings) -> Benchmark:
    return benchmark(
        {"Beta-binomial": subjects()["Beta-binomial"]},
        [partial(normal, **settings)],
        range(200),
        EXACT_ONE,
        progress=False,
    )


EXACT_ONE = {"Beta-binomial": EXACT["Beta-binomial"]}
SAMPLED = [partial(evidence.importance, num_samples=500), evidence.laplace]


def numbers(result: Benchmark) -> pd.DataFrame:
    return result.frame.drop(columns="seconds")


# ------------------------------------------------------------------------------------------ verdicts


def test_honest_error_bars_cover_at_their_level():
    row = only().summary.iloc[0]
    assert abs(row["coverage"] - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 200)
    assert abs(row["rms_z"] - 1) < 4 / math.sqrt(2 * 200)
    assert abs(row["rms_error"] - 0.1) < 4 * 0.1 / math.sqrt(2 * 200)
    assert abs(row["median_error"] - 0.0674) < 4 * 0.1 * 1.25 / math.sqrt(200)
    # The lower bound is three standard deviations down: 1 in 740 is above the exact value.
    assert row["violations"] <= 4
    assert row["bounded"] == 1 - row["violations"] / 200


@pytest.mark.parametrize(("settings", "coverage"), [({"scale": 3.0}, 0.4865), ({"bias": 0.2}, 0.484)])
def test_error_bars_too_small_or_a_bias_show_as_lost_coverage(settings, coverage):
    row = only(**settings).summary.iloc[0]
    assert abs(row["coverage"] - coverage) < 4 * 0.5 / math.sqrt(200)
    assert row["rms_z"] > 2


def test_an_error_is_signed_and_a_bound_can_be_violated_from_one_side():
    high, low = only(bias=1.0), only(bias=-1.0)
    assert (high.frame["error"] > 0).all()
    assert (low.frame["error"] < 0).all()
    assert high.summary.iloc[0]["violations"] == 200
    assert low.summary.iloc[0]["violations"] == 0


def test_without_exact_values_the_estimator_that_differs_shows():
    shifted = [partial(normal, scale=0.999), partial(normal, scale=1.001), partial(normal, bias=1.0)]
    result = benchmark({"any": subjects()["Beta-binomial"]}, shifted, range(20), progress=False)
    agreement = result.summary["agreement"].to_numpy()
    difference = result.summary["difference"].to_numpy()
    # All three share the noise of a seed, so two means are a and one a + 1: pooled a + 1/3.
    assert difference == pytest.approx([-1 / 3, -1 / 3, 2 / 3], abs=0.01)
    spread = max(0.1, float(result.summary["spread"][0])) / math.sqrt(20)
    assert agreement[2] == pytest.approx(2 / 3 / (spread * math.sqrt(2 / 3)), rel=0.01)
    assert result.summary["coverage"].isna().all()


def test_estimators_of_the_package_are_judged_by_the_exact_values():
    table = benchmark(subjects(), [*SAMPLED, evidence.exact], SEEDS, EXACT, progress=False).summary
    by = table.set_index("estimator")
    assert (by.loc["exact", "coverage"] == 1).all()
    assert (by.loc["exact", "rms_error"] < 1e-6).all()
    assert (by.loc["importance(num_samples=500)", "rms_error"] < 0.05).all()
    assert (by.loc["laplace", "rms_error"] > 1e-3).all()
    # Laplace's error shows in no draw, so nothing can be said of its error bar.
    assert by.loc["laplace", "coverage"].isna().all()


# ------------------------------------------------------------------------------------------ failures


def test_a_failing_run_is_recorded_and_stops_no_other():
    result = benchmark(subjects(), [refusing, evidence.laplace], SEEDS, EXACT, progress=False)
    runs = result.frame[result.frame["estimator"] == "refusing"]
    assert list(runs["failure"][runs["seed"] == 2]) == ["ArithmeticError: expected a maximum, got none"] * 2
    assert list(runs["failure"][runs["seed"] == 3]) == ["expected a finite log Z, got nan"] * 2
    assert list(runs["warnings"][runs["seed"] == 4]) == ["refusing: k-hat 0.90 > 0.7"] * 2
    assert list(result.summary["failed"]) == [2, 0, 2, 0]
    assert list(result.summary["warned"]) == [1, 0, 1, 0]
    assert (result.frame.loc[result.frame["estimator"] == "laplace", "failure"] == "").all()


def test_bad_input_says_expected_got_and_remedy():
    with pytest.raises(ValueError, match=r"different names, got \['normal'\]"):
        benchmark(subjects(), [normal, normal])
    with pytest.raises(ValueError, match=r"expected exact values of .* got some of \['other'\]"):
        benchmark(subjects(), [normal], exact={"other": 1.0})
    with pytest.raises(ValueError, match="at least one problem"):
        benchmark(subjects(), [])


def test_a_folder_needs_estimators_whose_name_says_it_all(tmp_path):
    shift = 1.0

    def closure(subject: Subject, *, seed: int = 0) -> Evidence:
        return Evidence(shift, 0.0)

    for estimator in (lambda subject, *, seed=0: Evidence(0.0, 0.0), closure, partial(closure)):
        with pytest.raises(ValueError, match="named after"):
            benchmark(subjects(), [estimator], folder=tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ kept runs


CALLS: list[int] = []


def counted(subject: Subject, *, seed: int = 0, shift: float = 0.0) -> Evidence:
    CALLS.append(seed)
    if shift == 9.0 and seed == 1:
        raise ArithmeticError("once")
    return Evidence(seed + shift, math.nan, upper=math.inf)


def calls(*args, **kwargs) -> int:
    CALLS.clear()
    benchmark(*args, progress=False, **kwargs)
    return len(CALLS)


def test_finished_runs_are_found_again(tmp_path):
    both = subjects()
    assert calls(both, [counted], range(3), folder=tmp_path) == 6
    assert calls(both, [counted], range(3), folder=tmp_path) == 0
    assert calls(both, [counted], range(4), folder=tmp_path) == 2
    assert calls(both, [partial(counted, shift=1.0)], range(3), folder=tmp_path) == 6
    assert calls(both, [partial(counted, shift=2.0)], range(3), folder=tmp_path) == 6
    again = benchmark(both, [counted], range(3), folder=tmp_path, progress=False)
    fresh = benchmark(both, [counted], range(3), progress=False)
    pd.testing.assert_frame_equal(numbers(again), numbers(fresh))
    assert not list(tmp_path.glob(".*"))


def test_runs_of_another_density_of_the_same_data_are_not_taken(tmp_path):
    data = Dataset((tensor(problems.BINOMIAL_N),), {"y": tensor(problems.BINOMIAL_Y)}, 5)

    def other(n, y=None):
        problems.binomial_model(n + 1, y)

    one, two = target(problems.binomial_model, data), target(other, data)
    assert one.digest == two.digest
    assert calls({"p": one}, [counted], [0], folder=tmp_path) == 1
    assert calls({"p": two}, [counted], [0], folder=tmp_path) == 1
    assert calls({"p": one}, [counted], [0], folder=tmp_path) == 0


def test_failed_and_damaged_runs_run_anew(tmp_path):
    both = subjects()
    fails = partial(counted, shift=9.0)
    assert calls(both, [fails], range(3), folder=tmp_path) == 6
    assert calls(both, [fails], range(3), folder=tmp_path) == 2
    path = next(p for p in tmp_path.iterdir() if not json.loads(p.read_text())["run"]["failure"])
    path.write_text(path.read_text()[:-20])
    assert calls(both, [fails], range(3), folder=tmp_path) == 3


def one_record(folder):
    beta = {"p": subjects()["Beta-binomial"]}
    assert calls(beta, [counted], [0], folder=folder) == 1
    assert calls(beta, [counted], [0], folder=folder) == 0
    (path,) = folder.iterdir()
    return beta, path, json.loads(path.read_text())


def test_a_changed_number_is_not_taken(tmp_path):
    beta, path, record = one_record(tmp_path)
    record["run"]["log_z"] = 5.0
    path.write_text(json.dumps(record))
    assert calls(beta, [counted], [0], folder=tmp_path) == 1
    assert json.loads(path.read_text())["run"]["log_z"] == 0.0


def test_the_record_of_another_run_is_not_taken_whatever_its_file_is_called(tmp_path):
    beta, path, _ = one_record(tmp_path)
    assert calls(beta, [counted], [1], folder=tmp_path) == 1
    (other,) = set(tmp_path.iterdir()) - {path}
    other.replace(path)
    assert calls(beta, [counted], [0], folder=tmp_path) == 1


@pytest.mark.parametrize("package", ["probmodel", "torch", "python"])
def test_no_record_outlives_a_change_of_version(package, tmp_path, monkeypatch):
    beta, _, record = one_record(tmp_path)
    released = records.versions()
    assert f"{package} " in released and record["key"]["versions"] == released
    monkeypatch.setattr(records, "versions", lambda: released.replace(f"{package} ", f"{package} 9."))
    assert calls(beta, [counted], [0], folder=tmp_path) == 1


def edited(text):
    names = {}
    exec(text, names)
    return names["estimator"]


def test_an_estimator_that_was_edited_runs_anew():
    text = "def estimator(subject, *, seed=0, scale=1.0):\n    return scale * 2.0 if seed in {1, 2} else 0.0"
    same, body, default = (edited(text), edited(text.replace("2.0", "3.0")), edited(text.replace("1.0", "1.5")))
    assert code(edited(text)) == code(same)
    assert code(same) != code(body) and code(same) != code(default)
    assert code(partial(same, f=body)) != code(partial(same, f=same))


def test_a_setting_whose_name_leaves_some_of_it_out_is_refused(tmp_path):
    long = partial(counted, shift=torch.arange(5_000.0))
    with pytest.raises(ValueError, match="named after"):
        benchmark(subjects(), [long], folder=tmp_path)


def handler(*_):
    raise RuntimeError("the caller's time is over")


def alarmed(subject: Subject, *, seed: int = 0) -> Evidence:
    signal.raise_signal(signal.SIGALRM)
    return Evidence(1.0, 0.1)


def limited(subject: Subject, *, seed: int = 0) -> Evidence:
    raise TimeoutError("the estimator's own")


def test_a_time_out_of_the_caller_is_no_result_and_one_of_the_estimator_is():
    beta = {"p": subjects()["Beta-binomial"]}
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(RuntimeError, match="the caller's time is over"):
            benchmark(beta, [alarmed], [0], progress=False)
    finally:
        signal.signal(signal.SIGALRM, before)
    failure = benchmark(beta, [limited], [0], progress=False).frame["failure"]
    assert list(failure) == ["TimeoutError: the estimator's own"]


# ------------------------------------------------------------------------------------------ workers


# A traced target holds weak references; whether it can be sent is its own affair, and the numbers are the same either way.
@pytest.mark.filterwarnings("ignore:benchmark. expected a problem that can be sent")
def test_numbers_do_not_depend_on_the_number_of_workers(tmp_path):
    estimators = [*SAMPLED, global_noise, refusing]
    mixed = {**subjects(), "target": target_of(subjects()["Beta-binomial"])}
    alone = benchmark(mixed, [global_noise, refusing], SEEDS, progress=False)
    spread = benchmark(mixed, [global_noise, refusing], SEEDS, num_jobs=2, progress=False, folder=tmp_path)
    pd.testing.assert_frame_equal(numbers(alone), numbers(spread))
    assert alone.frame.loc[alone.frame["estimator"] == "global_noise", "log_z"].nunique() == len(SEEDS)
    assert len(list(tmp_path.glob("*.json"))) == len(spread.frame)
    alone = benchmark(subjects(), estimators, SEEDS, EXACT, progress=False)
    with joblib.parallel_config("loky"):
        spread = benchmark(subjects(), estimators, SEEDS, EXACT, num_jobs=2, progress=False)
    pd.testing.assert_frame_equal(numbers(alone), numbers(spread))
    with joblib.parallel_config("threading"):
        threads = benchmark(subjects(), estimators, SEEDS, EXACT, num_jobs=3, progress=False)
    pd.testing.assert_frame_equal(numbers(alone), numbers(threads))


class _Unsendable:
    def __reduce__(self):
        raise TypeError("a handle of this process")


def test_a_problem_that_cannot_leave_the_process_runs_here_and_says_so():
    held = subjects()["Beta-binomial"]
    stuck = Posterior(held.model, held.data, held.draws, {**held.info, "handle": _Unsendable()})
    both = {"stuck": stuck, "free": subjects()["Gamma-Poisson"]}
    with pytest.warns(SlowRunWarning, match="got TypeError from 'stuck': a handle of this process"):
        found = benchmark(both, SAMPLED, SEEDS, num_jobs=2, progress=False)
    pd.testing.assert_frame_equal(numbers(found), numbers(benchmark(both, SAMPLED, SEEDS, progress=False)))


needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="the optional package distributed (Dask) is not installed"
)


@needs_dask
@pytest.mark.filterwarnings("ignore")
def test_two_dask_workers_find_the_same_numbers():
    distributed = importlib.import_module("distributed")

    def process(subject: Subject, *, seed: int = 0) -> Evidence:
        return Evidence(float(os.getpid()), 1.0)

    alone = benchmark(subjects(), SAMPLED, range(3), EXACT, progress=False)
    # Dask draws from Python's random state.
    with (
        isolated(0),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        client.wait_for_workers(2)
        spread = benchmark(subjects(), SAMPLED, range(3), EXACT, num_jobs=2, progress=False)
        processes = benchmark(subjects(), [process], range(8), num_jobs=2, progress=False)
    pd.testing.assert_frame_equal(numbers(alone), numbers(spread))
    assert os.getpid() not in set(processes.frame["log_z"])


# ------------------------------------------------------------------------------------------ names and pictures


def test_a_label_holds_the_settings_of_every_layer():
    assert label(evidence.importance) == "importance"
    nested = partial(partial(normal, scale=2.0), bias=-1.0)
    assert label(nested) == "normal(bias=-1.0, scale=2.0)"
    assert label(partial(normal, proposal=refusing)) == "normal(proposal=refusing)"


@pytest.mark.parametrize("exact", [EXACT, None])
def test_plot_and_tables_name_every_estimator(exact):
    result = benchmark(subjects(), [*SAMPLED, refusing], SEEDS, exact, progress=False)
    figure = result.plot()
    names = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert names == ["importance(num_samples=500)", "laplace", "refusing"]
    figure.draw_without_rendering()
    left = figure.axes[0]
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")
    column = "median_error" if exact else "spread"
    drawn = np.concatenate([line.get_ydata() for line in left.lines])
    expected = result.summary.sort_values("estimator", kind="stable")[column].clip(lower=1e-12).dropna()
    assert sorted(drawn[np.isfinite(drawn)]) == pytest.approx(sorted(expected))
    for text in (str(result), result._repr_html_()):
        assert "30 runs, 4 failed" in text
        assert all(name in text for name in names)
