"""UCI regressions on their standard splits: exact, sparse and product-of-experts processes compared with published networks.

Scores are in the units of y, as means over splits with their standard errors.  The published numbers come from the same splits:
Gal & Ghahramani (2016, MC dropout) and Lakshminarayanan, Pritzel & Blundell (2017, deep ensembles); they print the standard
deviation over splits, which is converted to a standard error here.  Neither has kin40k.
"""

import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from torch import nn
from torch.distributions import Distribution

import probmodel as pb
from benchmarks.rows import Row, row

WORKERS = 2
FIRST_NOISE, LEAST_NOISE = 0.05, 1e-6
"""Initial and smallest variance of the noise, in units of the variance of y."""
MOST_ROWS, SOME_ROWS = 2_000, 1_000
"""Rows above which an exact process takes its hyperparameters from a random subset, and the size of that subset."""
INDUCING, BATCH, STEPS = 512, 1_024, 1_200
MOST_SPLITS = {"kin40k": 4}
"""Splits out of ten, where there are no published numbers for the same splits."""
EXPERT_ROWS, FEW_EXPERTS, FEW_ROWS = 3_000, 4, 1_000
"""Rows per expert of a product; number of smaller experts that give the common hyperparameters, and their rows."""


class Published(NamedTuple):
    """RMSE and log score of a published method, with their standard deviations over splits."""

    rmse: tuple[float, float]
    log_score: tuple[float, float]


class Task(NamedTuple):
    """Data set, our methods, bounds of our scores, and published scores."""

    file: str
    methods: tuple[str, ...] = ("exact",)
    dropout: Published | None = None
    ensembles: Published | None = None
    rmse_at_most: float = math.inf
    log_score_at_least: float = -math.inf
    seconds_at_most: float = math.inf
    """Largest seconds allowed for all splits."""
    rounded_to: float = 0.0
    """Rounding step of y, a twelfth of whose square is the smallest variance of the noise; 0 if y is not rounded."""


TASKS = {
    "yacht": Task(
        "yacht",
        ("exact",),
        Published((1.11, 0.38), (-1.55, 0.12)),
        Published((1.58, 0.48), (-1.18, 0.21)),
        0.40,
        -0.30,
        30.0,
    ),
    "Boston": Task(
        "bostonHousing",
        ("exact",),
        Published((2.97, 0.85), (-2.46, 0.25)),
        Published((3.28, 1.00), (-2.41, 0.25)),
        2.62,
        -2.37,
        30.0,
    ),
    "energy": Task(
        "energy", ("exact",), Published((1.66, 0.19), (-1.99, 0.09)), Published((2.09, 0.29), (-1.38, 0.22))
    ),
    "concrete": Task(
        "concrete", ("exact",), Published((5.23, 0.53), (-3.04, 0.09)), Published((6.03, 0.58), (-3.06, 0.18))
    ),
    "wine": Task(
        "wine-quality-red",
        ("exact",),
        Published((0.62, 0.04), (-0.93, 0.06)),
        Published((0.64, 0.04), (-0.94, 0.12)),
        rounded_to=1.0,
    ),
    "naval": Task(
        "naval-propulsion-plant",
        ("exact",),
        Published((0.01, 0.00), (3.80, 0.05)),
        # Printed as 0.00, so below 0.005.
        Published((0.005, 0.00), (5.63, 0.05)),
    ),
    "protein": Task(
        "protein-tertiary-structure",
        ("SVGP", "robust BCM"),
        Published((4.36, 0.04), (-2.89, 0.01)),
        Published((4.71, 0.06), (-2.83, 0.02)),
    ),
    "kin40k": Task("trefor_kin40k", ("SVGP", "robust BCM")),
}


class Split(NamedTuple):
    """Data standardized by the training rows; `unit` is the standard deviation of y."""

    train: pb.Dataset
    x: torch.Tensor
    y: torch.Tensor
    unit: float
    least_noise: float = LEAST_NOISE


def folder() -> Path:
    """Folder of the data.

    Raises:
        SystemExit: if PROBMODEL_DATA does not name a folder with the data.
    """
    found = Path(os.environ.get("PROBMODEL_DATA", "")) / "uci_regression"
    if not found.is_dir():
        sys.exit(f"expected UCI regressions in {found}, got none; set PROBMODEL_DATA to the folder of the data sets")
    return found


def split(task: Task, index: int) -> Split:
    """One of the standard splits."""
    arrays = np.load(folder() / f"{task.file}.npz")
    x, y = arrays["X"], arrays["y"]
    test = arrays["test_mask"][index]
    width = x[~test].std(0)
    x = (x - x[~test].mean(0)) / np.where(width > 0, width, 1.0)
    unit = float(y[~test].std())
    y = (y - y[~test].mean()) / unit
    train = pb.Dataset((torch.as_tensor(x[~test]),), {"y": torch.as_tensor(y[~test])})
    least_noise = max(LEAST_NOISE, (task.rounded_to / unit) ** 2 / 12)
    return Split(train, torch.as_tensor(x[test]), torch.as_tensor(y[test]), unit, least_noise)


def kernel(columns: int) -> ScaleKernel:
    """ARD Matérn-3/2 kernel with initial lengthscales √D, the typical distance of standardized rows."""
    found = ScaleKernel(MaternKernel(nu=1.5, ard_num_dims=columns))
    found.base_kernel.lengthscale = columns**0.5
    return found


def noise(least: float = LEAST_NOISE) -> GaussianLikelihood:
    """Gaussian noise with a smallest variance."""
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(least))
    likelihood.noise = max(FIRST_NOISE, 2 * least)
    return likelihood


def some(data: pb.Dataset, count: int) -> pb.Dataset:
    """At most `count` rows, chosen at random."""
    x, y = data.args[0], data.kwargs["y"]
    chosen = torch.as_tensor(np.random.default_rng(0).permutation(len(y))[:count])
    return pb.Dataset((x[chosen],), {"y": y[chosen]})


def exact(given: Split) -> Distribution:
    """Predict by an exact process with hyperparameters of maximum likelihood, given all rows."""
    process = pb.GaussianProcess(kernel(given.x.shape[1]), likelihood=noise(given.least_noise))
    count = len(given.train.args[0])
    rows_to_fit = some(given.train, SOME_ROWS) if count > MOST_ROWS else given.train
    fit = pb.MaximumLikelihood()(process, rows_to_fit, seed=0)
    return pb.predict(pb.Posterior(fit.model, given.train, {}, fit.info), given.x).distribution


def svgp(given: Split) -> Distribution:
    """Predict by a sparse process with learned inducing inputs, natural gradients and a cosine schedule, in float32."""
    data = given.train.to(torch.float32)
    x, columns = data.args[0], data.args[0].shape[1]
    with pb.isolated(0):
        start = nn.Parameter(x[torch.randperm(len(x))[:INDUCING]].clone())
        code = pb.SparseGP(columns, 1, inducing=start, kernel=kernel(columns))
        model = pb.Pipeline(pb.Identity(), code, pb.Regress(1, 1, noise=0.5))
    settings = pb.NaturalGradients(STEPS, BATCH, optimizer=cosine, num_samples=100, progress=False)
    fit = settings(model, data._replace(size=len(x)), seed=0)
    return pb.predict(fit, given.x.float(), num_samples=100).distribution


def cosine(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate that falls to zero along a cosine."""
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    optimizer.register_step_post_hook(lambda *_: schedule.step())
    return optimizer


def robust_bcm(given: Split) -> Distribution:
    """Predict by experts on random rows, whose common hyperparameters come from a few smaller experts."""
    x = given.train.args[0]
    shards = math.ceil(len(x) / EXPERT_ROWS)
    few = some(given.train, FEW_EXPERTS * FEW_ROWS)
    start = pb.gp.GPProduct(kernel(x.shape[1]), likelihood=noise(given.least_noise), shards=FEW_EXPERTS)
    fit = pb.MaximumLikelihood(max_steps=60)(start, few, seed=0)
    process: Any = fit.model
    parts = process.expert
    whole = pb.gp.GPProduct(parts.kernel, mean=parts.mean, likelihood=parts.likelihood, shards=shards)
    return pb.predict(pb.Posterior(whole, given.train, {}, fit.info), given.x).distribution


METHODS: dict[str, Callable[[Split], Distribution]] = {"exact": exact, "SVGP": svgp, "robust BCM": robust_bcm}


def scores(task: Task, method: str, index: int) -> tuple[float, float]:
    """RMSE and log score of the test rows, in the units of y."""
    torch.set_num_threads(1)
    given = split(task, index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Long steps of a line search need jitter.
        found = METHODS[method](given)
    y = given.y.to(found.mean)
    y = y.reshape(found.mean.shape)
    error = (found.mean - y).square().mean().sqrt() * given.unit
    log_score = found.log_prob(y)
    return float(error), float(log_score.mean() - math.log(given.unit))


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of all tasks whose name contains the text; a quick run has the two smallest."""
    for name, task in TASKS.items():
        for method in task.methods:
            title = name if method == "exact" else f"{name} by {method}"
            if only not in title or (quick and task.seconds_at_most == math.inf):
                continue
            splits = len(np.load(folder() / f"{task.file}.npz")["test_mask"])
            count = 2 if quick else min(splits, MOST_SPLITS.get(name, splits))
            yield from _scored(title, task, method, count)


def _scored(title: str, task: Task, method: str, count: int) -> Iterator[Row]:
    begin = time.perf_counter()
    jobs = (joblib.delayed(scores)(task, method, index) for index in range(count))
    found = np.array(joblib.Parallel(n_jobs=WORKERS)(jobs))
    seconds = time.perf_counter() - begin
    errors = found.std(0, ddof=1) / count**0.5
    others = {"dropout": task.dropout, "ensembles": task.ensembles}
    published = {name: each for name, each in others.items() if each is not None}
    for kind, column, sign, own_bound in (
        ("RMSE", 0, 1.0, task.rmse_at_most),
        ("log score", 1, -1.0, task.log_score_at_least),
    ):
        by_method = {name: (each[column][0], each[column][1] / count**0.5) for name, each in published.items()}
        # At most one standard error of the difference worse than the published score.
        limits = [sign * value + math.hypot(error, errors[column]) for value, error in by_method.values()]
        bound = sign * min([*limits, sign * own_bound])
        yield row(
            f"{title}, {kind}",
            float(found[:, column].mean()),
            "units of y" if kind == "RMSE" else "nats per row",
            seconds=seconds,
            source="Gal & Ghahramani (2016); Lakshminarayanan, Pritzel & Blundell (2017)",
            stderr=float(errors[column]),
            splits=count,
            **by_method,
            **({} if math.isinf(bound) else {"at_most" if sign > 0 else "at_least": bound}),
        )
    if math.isfinite(task.seconds_at_most):
        unit = f"s for {count} splits, {WORKERS} processes"
        yield row(f"{title}, seconds", seconds, unit, at_most=task.seconds_at_most)
