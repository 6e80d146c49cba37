"""Evidence of processes and their mixtures against exact values; the motorcycle data; two functions that cross."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import joblib
import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.priors import LogNormalPrior
from benchmarks.rows import Row, near, row
from torch import nn

import probmodel as pb

WORKERS = 2
SPLITS = 60
DOUBLE = torch.float64
LENGTHSCALES = {0.1: -125.706986, 0.3: -108.469855, 0.5: -108.592409, 1.0: -162.909235}
"""Log marginal likelihood of the motorcycle data, standardized, under an RBF kernel of variance 1 and noise .25."""
FULL_EVIDENCE = -112.399791
"""The same with lengthscale, variance and noise integrated under standard log-normal priors, by quadrature."""
MIXTURES = {1: -268.3996021, 2: -14.7479318}
"""Twelve points of two functions that alternate, by enumeration."""
SOURCE = "reference by quadrature or enumeration"


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """All whose group's name contains the text."""
    groups: dict[str, Callable[[bool], Iterator[Row]]] = {
        "mcycle evidence": _mcycle_evidence,
        "mixture evidence": _mixture_evidence,
        "mcycle splits": _mcycle_splits,
        "crossing": _crossing,
    }
    for name, group in groups.items():
        if only in name:
            yield from group(quick)


# ------------------------------------------------------------------------------------------ evidence


def process(
    lengthscale: float, variance: float, noise: float, *, kernel: Any = None, least_noise: float = 1e-4
) -> pb.GaussianProcess:
    """One process with a kernel of GPyTorch's, an RBF by default, and no mean."""
    scaled = ScaleKernel(RBFKernel() if kernel is None else kernel)
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(least_noise))
    found = pb.GaussianProcess(scaled, mean=ZeroMean(), likelihood=likelihood).double()
    scaled.base_kernel.lengthscale = torch.tensor(lengthscale, dtype=DOUBLE)
    scaled.outputscale = torch.tensor(variance, dtype=DOUBLE)
    likelihood.noise = torch.tensor(noise, dtype=DOUBLE)
    return found


def motorcycle() -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds after the impact and accelerations in g."""
    train = pb.data.motorcycle()
    return train.args[0][:, 0].numpy(), train.kwargs["y"].numpy()


def _standardized(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor((values - values.mean()) / values.std())


def _mcycle_evidence(quick: bool) -> Iterator[Row]:
    times, accelerations = motorcycle()
    data = pb.Dataset((_standardized(times)[:, None],), {"y": _standardized(accelerations)})
    for lengthscale, reference in LENGTHSCALES.items():
        found = pb.evidence.exact(pb.target(process(lengthscale, 1.0, 0.25), data))
        yield near(
            f"mcycle, l = {lengthscale}", found.log_z, "nats", reference=reference, tolerance=1e-6, source=SOURCE
        )
    if quick:
        return
    begin = time.perf_counter()
    prior = LogNormalPrior(0.0, 1.0)
    kernel = ScaleKernel(RBFKernel(lengthscale_prior=prior), outputscale_prior=LogNormalPrior(0.0, 1.0))
    likelihood = GaussianLikelihood(noise_prior=LogNormalPrior(0.0, 1.0), noise_constraint=GreaterThan(1e-8))
    full = pb.GaussianProcess(kernel, mean=ZeroMean(), likelihood=likelihood).double()
    found = pb.evidence.sandwich(pb.target(full, data))
    seconds = time.perf_counter() - begin
    common = {"reference": FULL_EVIDENCE, "seconds": seconds, "source": SOURCE, "stderr": found.stderr}
    yield near("mcycle, full evidence", found.log_z, "nats", tolerance=0.02, **common)
    yield row("mcycle, full evidence, lower", found.lower, "nats", at_most=FULL_EVIDENCE, source=SOURCE)
    yield row("mcycle, full evidence, upper", found.upper, "nats", at_least=FULL_EVIDENCE, source=SOURCE)


def alternating() -> pb.Dataset:
    """Twelve points, in turn of sin 2πx and of its negative."""
    x = torch.linspace(0, 1, 12, dtype=DOUBLE)
    y = (-1.0) ** torch.arange(12, dtype=DOUBLE) * torch.sin(2 * math.pi * x)
    return pb.Dataset((x[:, None],), {"y": y})


def known_experts(number: int) -> pb.gp.GPMixture:
    """Experts whose hyperparameters are known, with equal shares a priori."""
    return pb.gp.GPMixture([process(0.3, 1.0, 0.01) for _ in range(number)], pb.gp.DirichletGate(number))


def _mixture_evidence(quick: bool) -> Iterator[Row]:
    data = alternating()
    for number, reference in MIXTURES.items():
        mixture = known_experts(number)
        exact, smc = pb.evidence.assignments, pb.evidence.assignments_smc
        ais = partial(pb.evidence.assignments_ais, num_chains=2_000, num_steps=400)
        for name, estimator, tolerance in (
            ("enumerated", exact, 1e-6),
            ("particles", smc, 0.02),
            ("annealed", ais, 0.02),
        ):
            begin = time.perf_counter()
            found = estimator(pb.Posterior(mixture, data, {}, {}))
            yield near(
                f"mixture of {number}, {name}",
                found.log_z,
                "nats",
                reference=reference,
                tolerance=tolerance,
                seconds=time.perf_counter() - begin,
                source=SOURCE,
                stderr=found.stderr,
            )


# ------------------------------------------------------------------------------------------ motorcycle


def single() -> pb.GaussianProcess:
    """One process, its noise the same throughout."""
    return process(0.5, 1.0, 0.2, kernel=MaternKernel(nu=2.5))


def mixture() -> pb.gp.GPMixture:
    """Three experts of different noise, each with its region of the inputs."""
    experts = [process(0.5, 1.0, noise, kernel=MaternKernel(nu=2.5)) for noise in (0.01, 0.1, 0.3)]
    return pb.gp.GPMixture(experts, pb.gp.SoftmaxGate(1, 3))


def heteroscedastic(data: pb.Dataset, seed: int) -> pb.Posterior:
    """Two functions of one kernel: a linear map of both is the mean, another the logarithm of the noise."""
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
    """Mean negative log predictive density of a random tenth of the rows, nats, in milliseconds and g."""
    torch.set_num_threads(1)
    times, accelerations = motorcycle()
    order = np.random.default_rng(seed).permutation(len(times))
    test, train = order[: round(len(order) / 10)], order[round(len(order) / 10) :]
    (center, width), (level, unit) = ((v[train].mean(), v[train].std()) for v in (times, accelerations))
    x, y = torch.as_tensor((times - center) / width)[:, None], torch.as_tensor((accelerations - level) / unit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jitter of a line search's wild steps.
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
        yield make(f"mcycle, NLPD of a {name}", float(found.mean()), "nats a row", **bound, **more)


# ------------------------------------------------------------------------------------------ crossing functions


def crossing(count: int, seed: int) -> tuple[pb.Dataset, torch.Tensor, torch.Tensor]:
    """Two smooth functions that cross, which of them each row is of, and where they are apart."""
    with pb.isolated(seed):
        x = torch.rand(count, 1, dtype=DOUBLE) * 2 - 1
        c = (torch.rand(count) < 0.5).long()
        f = torch.stack([torch.sin(2.5 * x[:, 0]), 0.3 * x[:, 0] ** 2 - torch.sin(2.5 * x[:, 0])])
        y = f.gather(0, c[None])[0] + 0.1 * torch.randn(count, dtype=DOUBLE)
    return pb.Dataset((x,), {"y": y}), c, (f[0] - f[1]).abs() > 0.6


def crossing_mixture() -> pb.gp.GPMixture:
    """Four experts under stick breaking: twice as many as there are functions."""
    return pb.gp.GPMixture([process(0.5, 1.0, 0.02) for _ in range(4)], pb.gp.StickBreakingGate(4))


def _crossing(quick: bool) -> Iterator[Row]:
    yield from _twelve()
    for seed in range(1 if quick else 3):
        agree, experts = _recovered(200, seed)
        title = f"crossing, 200 points, seed {seed}"
        yield row(f"{title}, rows given to the right function, where they are apart", agree, "", at_least=0.98)
        yield row(f"{title}, experts of 4 that hold rows", experts, "", at_least=2, at_most=2)


def _twelve() -> Iterator[Row]:
    """Too few rows to learn hyperparameters from: the assignments at known ones, and how many experts by evidence."""
    data, truth = alternating(), torch.arange(12) % 2
    fit = pb.CollapsedGibbs(num_samples=500)(known_experts(2), data, seed=0)
    draws = fit.draws["assignments"].flatten(0, 1)
    together = (draws[:, :, None] == draws[:, None]).double().mean(0)
    apart = data.kwargs["y"].abs() > 0.3
    pairs = torch.ones(12, 12).triu(1).bool() & apart & apart[:, None]
    right = (together > 0.5) == (truth[:, None] == truth)
    title = "crossing, 12 points"
    yield row(
        f"{title}, pairs of rows told together or apart rightly", float(right[pairs].double().mean()), "", at_least=0.98
    )
    log_z = [pb.evidence.exact(pb.Posterior(known_experts(k), data, {}, {})).log_z for k in (1, 2, 3, 4)]
    yield row(f"{title}, experts of highest evidence", float(np.argmax(log_z) + 1), "", at_least=2, at_most=2)


def _recovered(count: int, seed: int) -> tuple[float, float]:
    data, c, apart = crossing(count, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = pb.VariationalEM()(crossing_mixture(), data, seed=seed)
    r: Any = fit.model.responsibilities[0]
    first = (r.argmax(1) == r.sum(0).argmax()).long()[apart]
    agree = float((first == c[apart]).double().mean())
    return max(agree, 1 - agree), fit.info["num_experts"]
