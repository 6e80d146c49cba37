"""Predictions of the motorcycle data by a process, a heteroscedastic process and a mixture of processes."""

import math
import time
import warnings
from collections.abc import Callable, Iterator

import joblib
import numpy as np
import torch
from gpytorch.kernels import MaternKernel
from torch import nn

import probmodel as pb
from benchmarks.gaussian_processes.models import DOUBLE, motorcycle, process
from benchmarks.rows import Row, near, row

WORKERS = 2
SPLITS = 60


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of random splits, if "mcycle splits" contains the text."""
    if only in "mcycle splits":
        yield from _mcycle_splits(quick)


def single() -> pb.GaussianProcess:
    """Process with constant noise."""
    return process(0.5, 1.0, 0.2, kernel=MaternKernel(nu=2.5))


def mixture() -> pb.gp.GPMixture:
    """Mixture of three experts with different noise, each with its own region of the inputs."""
    experts = [process(0.5, 1.0, noise, kernel=MaternKernel(nu=2.5)) for noise in (0.01, 0.1, 0.3)]
    return pb.gp.GPMixture(experts, pb.gp.SoftmaxGate(1, 3))


def heteroscedastic(data: pb.Dataset, seed: int) -> pb.Posterior:
    """Two functions with one kernel: one linear map of both is the mean, another the log standard deviation of the noise."""
    x = data.args[0]
    inducing = torch.linspace(float(x.min()), float(x.max()), 30, dtype=DOUBLE)[:, None]
    with pb.isolated(seed):
        code = pb.SparseGP(1, 2, inducing=inducing, kernel=single().kernel)
        noise = nn.Linear(2, 1)
        nn.init.constant_(noise.bias, -1.0)
        model = pb.Pipeline(pb.Identity(), code, pb.Regress(2, 1, noise=noise)).double()
    settings = pb.NaturalGradients(600, None, rate=0.2, num_samples=400, progress=False)
    return settings(model, data._replace(size=len(x)), seed=seed)


FITS: dict[str, Callable[[pb.Dataset, int], pb.Posterior]] = {
    "single process": lambda data, seed: pb.MaximumLikelihood()(single(), data, seed=seed),
    "heteroscedastic process": heteroscedastic,
    "mixture of three": lambda data, seed: pb.VariationalEM()(mixture(), data, seed=seed),
}


def nlpd(name: str, seed: int) -> float:
    """Mean negative log predictive density of a random tenth of the rows, in nats, with times in milliseconds and y in g."""
    torch.set_num_threads(1)
    times, accelerations = motorcycle()
    order = np.random.default_rng(seed).permutation(len(times))
    test, train = order[: round(len(order) / 10)], order[round(len(order) / 10) :]
    (center, width), (level, unit) = ((v[train].mean(), v[train].std()) for v in (times, accelerations))
    x, y = torch.as_tensor((times - center) / width)[:, None], torch.as_tensor((accelerations - level) / unit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Long steps of a line search need jitter.
        fit = FITS[name](pb.Dataset((x[train],), {"y": y[train]}), seed)
    found = pb.predict(fit, x[test], num_samples=400).distribution
    return math.log(unit) - float(found.log_prob(y[test].reshape(found.mean.shape)).mean())


def _mcycle_splits(quick: bool) -> Iterator[Row]:
    bounds: dict[str, dict[str, float]] = {
        "single process": {"reference": 4.56, "tolerance": 0.10},
        "heteroscedastic process": {"at_most": 4.35},
        "mixture of three": {},
    }
    count = 2 if quick else SPLITS
    for name, bound in bounds.items():
        begin = time.perf_counter()
        found = np.array(joblib.Parallel(n_jobs=WORKERS)(joblib.delayed(nlpd)(name, seed) for seed in range(count)))
        more = {
            "seconds": time.perf_counter() - begin,
            "stderr": float(found.std(ddof=1) / count**0.5),
            "splits": count,
        }
        make: Callable[..., Row] = near if "tolerance" in bound else row
        yield make(f"mcycle, NLPD of a {name}", float(found.mean()), "nats per row", **bound, **more)
