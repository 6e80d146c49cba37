"""Gaussian processes on the standard splits of UCI's regressions, beside published networks, and on the motorcycle data.

    PROBMODEL_DATA=FOLDER python benchmarks/gp.py [--quick] [--only TEXT] [--out FILE.json]

A task is a data set: root mean squared error and log score in the units of y, mean over the splits, with the standard error
over splits. `--quick` takes two splits of the two smallest. The published numbers come from the same splits: Gal &
Ghahramani (2016, MC dropout) and Lakshminarayanan, Pritzel & Blundell (2017, deep ensembles), their errors over splits.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from rows import Row, options, row, tabulate, verdict

import probmodel as pb

WORKERS = 2
FIRST_NOISE, LEAST_NOISE = 0.05, 1e-6
"""Variance of the noise that fits start from and may reach, in units of y's."""


class Published(NamedTuple):
    """RMSE and log score of a method, with their standard deviations over splits."""

    rmse: tuple[float, float]
    log_score: tuple[float, float]


class Task(NamedTuple):
    """A data set, bounds on our scores, and what others have published."""

    file: str
    rmse_at_most: float | None
    log_score_at_least: float | None
    dropout: Published
    ensembles: Published


TASKS = {
    "yacht": Task("yacht", 0.40, -0.30, Published((1.11, 0.38), (-1.55, 0.12)), Published((1.58, 0.48), (-1.18, 0.21))),
    "Boston": Task(
        "bostonHousing", 2.62, -2.37, Published((2.97, 0.85), (-2.46, 0.25)), Published((3.28, 1.0), (-2.41, 0.25))
    ),
    "energy": Task(
        "energy", None, None, Published((1.66, 0.19), (-1.99, 0.09)), Published((2.09, 0.29), (-1.38, 0.22))
    ),
    "concrete": Task(
        "concrete", None, None, Published((5.23, 0.53), (-3.04, 0.09)), Published((6.03, 0.58), (-3.06, 0.18))
    ),
    "wine": Task(
        "wine-quality-red", None, None, Published((0.62, 0.04), (-0.93, 0.06)), Published((0.64, 0.04), (-0.94, 0.12))
    ),
}
SECONDS = {"yacht": 30.0, "Boston": 30.0}
"""For all splits of a set."""


class Split(NamedTuple):
    """Standardised by the training rows; `unit` turns y's deviations back."""

    train: pb.Dataset
    x: torch.Tensor
    y: torch.Tensor
    unit: float


def folder() -> Path:
    """Where the data are.

    Raises:
        SystemExit: where PROBMODEL_DATA does not say so.
    """
    found = Path(os.environ.get("PROBMODEL_DATA", "")) / "uci_regression"
    if not found.is_dir():
        sys.exit(f"expected UCI's regressions in {found}, got none; set PROBMODEL_DATA to the folder of the data sets")
    return found


def split(file: str, index: int) -> Split:
    """One of the standard splits."""
    arrays = np.load(folder() / f"{file}.npz")
    x, y = arrays["X"], arrays["y"]
    test = arrays["test_mask"][index]
    width = x[~test].std(0)
    x = (x - x[~test].mean(0)) / np.where(width > 0, width, 1.0)
    unit = float(y[~test].std())
    y = (y - y[~test].mean()) / unit
    train = pb.Dataset((torch.as_tensor(x[~test]),), {"y": torch.as_tensor(y[~test])})
    return Split(train, torch.as_tensor(x[test]), torch.as_tensor(y[test]), unit)


def process(columns: int) -> pb.GaussianProcess:
    """An ARD Matérn-3/2 process with lengthscales of √D, the typical distance of standardised rows."""
    kernel = ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=columns))
    kernel.base_kernel.lengthscale = columns**0.5
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(LEAST_NOISE))
    likelihood.noise = FIRST_NOISE
    return pb.GaussianProcess(kernel, likelihood=likelihood)


def scores(file: str, index: int) -> tuple[float, float]:
    """RMSE and log score of the test rows, in the units of y."""
    torch.set_num_threads(1)
    given = split(file, index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jitter of a line search's wild steps.
        fit = pb.MaximumLikelihood()(process(given.x.shape[1]), given.train, seed=0)
        found = pb.predict(fit, given.x).distribution
    error = (found.mean - given.y).square().mean().sqrt() * given.unit
    return float(error), float(found.log_prob(given.y).mean() - np.log(given.unit))


def exact_rows(name: str, task: Task, count: int) -> Iterator[Row]:
    """Our scores beside the published ones."""
    begin = time.perf_counter()
    found = np.array(
        joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(scores)(task.file, index) for index in range(count))
    )
    seconds = time.perf_counter() - begin
    means, errors = found.mean(0), found.std(0, ddof=1) / count**0.5
    bounds = [
        {} if task.rmse_at_most is None else {"at_most": task.rmse_at_most},
        {} if task.log_score_at_least is None else {"at_least": task.log_score_at_least},
    ]
    for kind, mean, error, bound, dropout, ensembles in zip(
        ("RMSE", "log score"),
        means,
        errors,
        bounds,
        task.dropout,
        task.ensembles,
        strict=True,
    ):
        yield row(
            f"{name}, {kind}",
            float(mean),
            "units of y" if kind == "RMSE" else "nats a row",
            reference=dropout[0],
            seconds=seconds,
            source="MC dropout, Gal & Ghahramani (2016)",
            stderr=float(error),
            dropout=(dropout[0], dropout[1] / 20**0.5),
            ensembles=(ensembles[0], ensembles[1] / 20**0.5),
            splits=count,
            **bound,
        )
    if name in SECONDS:
        yield row(f"{name}, seconds", seconds, f"s for {count} splits, {WORKERS} processes", at_most=SECONDS[name])


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """All tasks."""
    for name, task in TASKS.items():
        if only not in name or (quick and name not in SECONDS):
            continue
        yield from exact_rows(name, task, 2 if quick else len(np.load(folder() / f"{task.file}.npz")["test_mask"]))


def line(found: Row) -> str:
    """Ours with its standard error, and the published ones."""
    if "stderr" not in found:
        return f"{found['task']:<22}{found['value']:>9.1f} {found['unit']}  {verdict(found)}"
    others = "   ".join(f"{name} {found[name][0]:.2f} ± {found[name][1]:.2f}" for name in ("dropout", "ensembles"))
    return f"{found['task']:<22}{found['value']:>9.3f} ± {found['stderr']:.3f}   {others}   {verdict(found)}"


def main() -> None:
    """Print the table; write it where asked."""
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="tasks whose name contains the text")
    arguments = parser.parse_args()
    tabulate(rows(quick=arguments.quick, only=arguments.only), arguments.out, line)


if __name__ == "__main__":
    main()
