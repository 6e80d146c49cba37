"""The adapter under both generations of ArviZ, and k-hat against exact tails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import genpareto, norm

from probmodel.draws.containers import from_arrays
from probmodel.draws.diagnostics import loo
from probmodel.draws.pareto import pareto_k, pareto_smoothed
from probmodel.draws.plots import plot_pairs, plot_ranks

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "tests" / "draws" / "arviz_adapter_checks.py"
CONSTRAINTS = ROOT / "constraints-arviz1.txt"


def new_python():
    """An interpreter of Python 3.12 or later, or None; a pyenv shim may exist and not run."""
    named = [shutil.which(name) for name in ("python3.13", "python3.12")]
    versions = sorted((Path.home() / ".pyenv" / "versions").glob("3.1[23]*/bin/python"))
    for candidate in [*named, *map(str, versions), sys.executable]:
        if candidate is None:
            continue
        asked = subprocess.run([candidate, "-c", "import sys; print(sys.version_info >= (3, 12))"], capture_output=True)
        if asked.returncode == 0 and asked.stdout.strip() == b"True":
            return candidate
    return None


@pytest.fixture(scope="session")
def arviz1():
    """Python of an environment with ArviZ 1, built once and again when its constraints change."""
    folder = ROOT / ".venv-arviz1"
    python, stamp = folder / "bin" / "python", folder / "constraints-arviz1.txt"
    if python.exists() and stamp.exists() and stamp.read_text() == CONSTRAINTS.read_text():
        return python
    base = new_python()
    if base is None:
        pytest.skip("ArviZ 1 needs Python 3.12: no python3.13 or python3.12 on PATH, none in ~/.pyenv/versions")
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    wanted = ["arviz>=1.0", "h5netcdf", "h5py", "matplotlib"]
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", CONSTRAINTS, *wanted]
    installed = subprocess.run(command, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    stamp.write_text(CONSTRAINTS.read_text())
    return python


def checked(python):
    """The numbers `arviz_adapter_checks.py` prints in that environment, after its own assertions."""
    flags = ["-W", "error", "-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    run = subprocess.run(
        [python, *flags, CHECKS, ROOT], capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "Agg"}
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_adapter_gives_the_same_numbers_under_arviz_0_23_and_1(arviz1):
    old, new = checked(sys.executable), checked(arviz1)
    assert old["arviz"].startswith("0.") and new["arviz"].startswith("1.")
    assert old["numbers"].keys() == new["numbers"].keys()
    for name, values in old["numbers"].items():
        np.testing.assert_allclose(new["numbers"][name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def shrunk(k, tail):
    """A shape under the weak prior: ten observations at 0.5."""
    return (tail * k + 5) / (tail + 10)


def mean_and_stderr(values):
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.7, 1.2])
def test_pareto_k_recovers_the_shape_of_exact_pareto_weights(k):
    size, weights = 40_000, genpareto(k)
    found = [pareto_k(np.log(weights.rvs(size, random_state=seed))) for seed in range(20)]
    mean, stderr = mean_and_stderr(found)
    assert abs(mean - shrunk(k, 3 * np.sqrt(size))) < 4 * stderr


@pytest.mark.parametrize("scale", [0.5, 0.7, 0.8, 0.9])
def test_pareto_k_of_a_narrow_normal_proposal_tends_to_one_minus_its_variance(scale):
    """Target N(0, 1), proposal N(0, s²): the ratio's tail has k = 1 - s², less a bias that vanishes like 1 / log S."""
    size = 40_000
    tail = int(3 * np.sqrt(size))
    half_gap = (1 - scale**2) / 2
    start = norm.isf(tail / size / 2)
    beyond = norm.isf(tail / size / 2 * (np.arange(20_000) + 0.5) / 20_000)
    excess = np.exp(half_gap * (beyond**2 - start**2)) - 1
    fitted = minimize(
        lambda p: -genpareto.logpdf(excess, p[0], scale=np.exp(p[1])).mean(),
        [0.3, np.log(excess.mean())],
        method="Nelder-Mead",
    )
    found = []
    for seed in range(20):
        x = np.random.default_rng(seed).normal(size=size)  # x / s, a draw of the proposal in its own units.
        found.append(pareto_k(half_gap * x**2))
    mean, stderr = mean_and_stderr(found)
    assert abs(mean - shrunk(fitted.x[0], tail)) < 4 * stderr
    assert abs(mean - (1 - scale**2)) < 0.07


@pytest.mark.parametrize("scale", [0.4, 0.7, 0.95, 1.5])
def test_pareto_smoothed_equals_arviz_psislw(scale):
    x = scale * np.random.default_rng(7).normal(size=3000)
    log_weights = norm.logpdf(x) - norm.logpdf(x, scale=scale) + 40
    smoothed, k = pareto_smoothed(log_weights)
    expected, expected_k = az.psislw(log_weights.copy(), normalize=False)
    np.testing.assert_allclose(smoothed, expected, atol=1e-10)
    assert abs(k - float(expected_k)) < 1e-10


def test_pareto_k_is_invariant_to_order_and_scale_of_the_weights():
    log_weights = np.random.default_rng(8).standard_t(5, size=500)
    shuffled = np.random.default_rng(9).permutation(log_weights) - 1234.5
    assert abs(pareto_k(log_weights) - pareto_k(shuffled)) < 1e-8


def test_pareto_smoothing_keeps_body_order_and_largest_weight():
    log_weights = 2 * np.random.default_rng(10).normal(size=1000)
    before = log_weights.copy()
    smoothed, _ = pareto_smoothed(log_weights)
    order = np.argsort(log_weights)
    assert np.array_equal(log_weights, before)
    assert np.array_equal(smoothed[order[:-95]], log_weights[order[:-95]])
    assert np.all(np.diff(smoothed[order]) >= 0) and smoothed.max() <= log_weights.max()


def test_weights_without_a_tail_have_the_lightest_one_and_stay_as_they_are():
    for log_weights in (np.full(100, -3.0), 1e-9 * np.arange(100.0), np.r_[np.full(60, -5.0), np.zeros(40)]):
        smoothed, k = pareto_smoothed(log_weights)
        assert k == -np.inf and np.array_equal(smoothed, log_weights)


def test_weights_too_few_to_judge_have_infinite_k():
    normal = np.random.default_rng(11).normal(size=20)
    impossible = np.full(100, -np.inf)
    mostly_zero = np.r_[impossible, normal[:4]]
    for log_weights in (normal[:1], normal, impossible, mostly_zero):
        smoothed, k = pareto_smoothed(log_weights)
        assert k == np.inf and np.array_equal(smoothed, log_weights)


def test_bad_arrays_are_refused_with_their_shape():
    with pytest.raises(ValueError, match=r"got \(2, 3\)"):
        pareto_k(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="without nan"):
        pareto_k(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match=r"of shape \(chain, draw, row\), got \(4, 5\)"):
        loo(np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"z of shape \(chain, draw, \*event\), got \(4,\); add"):
        from_arrays({"z": np.zeros(4)})
    with pytest.raises(ValueError, match="one size of the axis 'draw'"):
        from_arrays({"a": np.zeros((2, 4)), "b": np.zeros((2, 5))})


def test_plots_refuse_what_they_cannot_show():
    with pytest.raises(ValueError, match="use plot_densities"):
        plot_pairs({"nuts": {"z": np.zeros((1, 30))}})
    with pytest.raises(ValueError, match="a point estimate has no path"):
        plot_ranks({"z": np.zeros((1, 1))})
    with pytest.raises(ValueError, match="a site in common"):
        plot_pairs({"nuts": {"z": np.zeros((1, 30))}, "svi": {"x": np.zeros((1, 30))}})
