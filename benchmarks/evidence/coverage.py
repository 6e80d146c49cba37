"""Coverage of intervals and bounds of the log evidence over seeds, on problems whose value is known."""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.stats import binom
from torch import Tensor

import probmodel as pb
from probmodel.data import problems
from probmodel.data.problems import Problem

PROBLEMS: Mapping[str, Callable[[], Problem]] = MappingProxyType(
    {
        "outlier": lambda: outlier(1000.0),
        "two outliers": lambda: two_outliers(),
        "rosenbrock_2": partial(problems.rosenbrock, 2),
        "rosenbrock_4": partial(problems.rosenbrock, 4),
        "rosenbrock_10": partial(problems.rosenbrock, 10),
        "rastrigin_1": partial(problems.rastrigin, 1),
        "rastrigin_2": partial(problems.rastrigin, 2),
        "shells_2": partial(problems.gaussian_shells, 2),
        "shells_5": partial(problems.gaussian_shells, 5),
        "eggbox": problems.eggbox,
        "radiata_m1": problems.radiata_pine_m1,
        "radiata_m2": problems.radiata_pine_m2,
        "pima_m1": problems.pima_m1,
        "pima_m2": problems.pima_m2,
        "hierarchical_h0": problems.hierarchical_normal_h0,
        "hierarchical_h1": problems.hierarchical_normal_h1,
        "eight_schools": problems.eight_schools,
        "sonar": problems.sonar,
        "galaxy": problems.galaxy,
        "diabetes": problems.diabetes_regression,
        "linear_cnn": problems.linear_cnn,
    }
)
"""Name → problem; the first ones have few dimensions and are quick."""
SMALL = ("outlier", "rastrigin_1", "rosenbrock_2")
"""Names of problems of one and two dimensions."""
METHODS = ("sandwich", "ais", "reverse ais", "smc", "bridge", "importance")
NOMINAL, LEAST, MOST = 0.95, 0.92, 0.98
"""Nominal coverage of log_z ± 1.96 stderr, and the range that it should be in."""
CHANCE = 0.01
"""Probability of a worse result by chance alone, below which a problem counts as failed."""


def outlier(y: float) -> Problem:
    """One observation far in the tail of a Cauchy prior: theta ~ Cauchy(0, 1), y ~ Cauchy(theta, 1), so y ~ Cauchy(0, 2)."""
    log_z = -math.log(2 * math.pi) - math.log1p((y / 2) ** 2)
    data = pb.Dataset((), {"y": torch.tensor(y, dtype=torch.float64)})
    return Problem("outlier under a Cauchy prior", _outlier, data, log_z, source="closed form")


def two_outliers() -> Problem:
    """Observations far in both tails: theta_i ~ Cauchy(0, 1), y_i ~ Cauchy(theta_i, 1), i = 1, 2; four modes."""
    y = torch.tensor([1000.0, -300.0], dtype=torch.float64)
    log_z = float((-math.log(2 * math.pi) - torch.log1p((y / 2) ** 2)).sum())
    return Problem("outliers in both tails", _outlier, pb.Dataset((), {"y": y}), log_z, source="closed form")


def _outlier(y: Tensor) -> None:
    theta = pyro.sample("theta", dist.Cauchy(torch.zeros_like(y), 1.0).to_event(y.dim()))
    pyro.sample("y", dist.Cauchy(theta, 1.0).to_event(y.dim()), obs=y)


def over_problems(seeds: int, folder: Path | None, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measure and print the coverage of each estimator on each problem.

    Args:
        seeds: number of seeds.
        folder: folder in which finished seeds are kept and found again; None keeps nothing.
        names: problems of `PROBLEMS`; none for all of them.
    """
    table = []
    for name in names or tuple(PROBLEMS):
        for row in coverage(name, seeds, folder):
            print(json.dumps(row), flush=True)
            table.append(row)
    return table


def coverage(name: str, seeds: int, folder: Path | None = None) -> list[dict[str, Any]]:
    """Coverage of log_z ± 1.96 stderr, root mean square of error / stderr and violated bounds, for each estimator.

    A run that was refused counts for neither coverage nor bounds, but for the refused share of the first row.

    Args:
        name: problem of `PROBLEMS`.
        seeds: number of seeds.
        folder: folder in which finished seeds are kept and found again; None keeps nothing.
    """
    problem = PROBLEMS[name]()
    runs = [_kept(name, problem, seed, folder) for seed in range(seeds)]
    rows = []
    for method in METHODS:
        trusted = [run[method] for run in runs if method in run and not run[method][2]]
        if not trusted:
            if method == "sandwich":
                rows.append({"problem": name, "method": method, "runs": 0, "refused": 1.0, "within": False})
            continue
        error = np.array([log_z - problem.log_z for log_z, _, _ in trusted])
        z = error / np.array([max(stderr, _rounding(problem.log_z)) for _, stderr, _ in trusted])
        row: dict[str, Any] = {"problem": name, "method": method, "runs": len(z)}
        row |= {"refused": 1 - len(z) / sum(method in run for run in runs)}
        row |= {"coverage": float(np.mean(np.abs(z) < 1.96)), "rms_z": float(np.sqrt(np.mean(z**2)))}
        row |= {"mean_error": float(error.mean()), "stderr": float(np.mean([each for _, each, _ in trusted]))}
        if method == "sandwich":
            row |= _bounds([run["bounds"] for run in runs if not run[method][2]], problem.log_z)
            row["within"], row["conservative"] = is_within(row), is_conservative(row)
        rows.append(row)
    return rows


def is_within(row: Mapping[str, Any]) -> bool:
    """Return whether coverage and violated bounds are such as the nominal ones give, but for chance."""
    count = row["runs"]
    covered = round(row["coverage"] * count)
    too_few = binom.cdf(covered, count, LEAST) < CHANCE
    violated = max(round(row[side] * count) for side in ("above_lower", "below_upper"))
    return bool(not too_few and binom.sf(violated - 1, count, (1 - NOMINAL) / 2) >= CHANCE)


def is_conservative(row: Mapping[str, Any]) -> bool:
    """Return whether intervals cover more often than they should, but for chance: they are wider than needed."""
    return bool(binom.sf(round(row["coverage"] * row["runs"]) - 1, row["runs"], MOST) < CHANCE)


def _bounds(bounds: Sequence[Sequence[float]], log_z: float) -> dict[str, float]:
    lower, upper = np.array(bounds).T
    slack = _rounding(log_z)
    return {
        "above_lower": float(np.mean(lower > log_z + slack)),
        "below_upper": float(np.mean(upper < log_z - slack)),
        "width": float(np.median(upper - lower)),
    }


def _rounding(log_z: float) -> float:
    """Digits to which values are known."""
    return 1e-7 * max(1.0, abs(log_z))


def _kept(name: str, problem: Problem, seed: int, folder: Path | None) -> dict[str, Any]:
    kept = None if folder is None else folder / f"{name.replace(' ', '_')}-{seed}.json"
    if kept is not None and kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text())
        return found
    run = _run(problem, seed)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(run))
    return run


def _run(problem: Problem, seed: int) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pb.errors.EvidenceWarning)  # The table shows what it warns of.
        found = pb.evidence.sandwich(pb.target(problem.model, problem.data), seed=seed)
    run: dict[str, Any] = {each.method: [each.log_z, each.stderr, each.caveat] for each in found.agreement}
    run["sandwich"] = [found.log_z, found.stderr, "; ".join(found.info["failed"])]
    run["bounds"] = [found.lower, found.upper]
    return run
