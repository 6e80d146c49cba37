"""Log evidence of known problems by two other packages: nested sampling in dynesty, tempered SMC in PyMC.

Each problem is written as a user of that package would write it: for dynesty a transform of the unit cube and a NumPy
log likelihood, for PyMC a model.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import dynesty
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from scipy.special import gammaincinv, ndtri

from benchmarks.rows import Row, near, verdict
from probmodel.data.problems import Problem, eight_schools, gaussian_shells, pima_m1, radiata_pine_m1

Vector = np.ndarray


class Peer(NamedTuple):
    """Problem in the forms that the other packages need."""

    problem: Problem
    num_dimensions: int
    prior_transform: Callable[[Vector], Vector]
    """Map from the unit cube to the parameters."""
    log_likelihood: Callable[[Vector], float]
    pymc_model: Callable[[], pm.Model]


class Run(NamedTuple):
    """Estimate of a package."""

    log_z: float
    stderr: float
    """Standard error in nats, as reported by the package (dynesty) or over independent chains (PyMC)."""
    seconds: float


def run_dynesty(problem_name: str, seed: int, nlive: int = 1000, dlogz: float = 0.01, sample: str = "auto") -> Run:
    """Static nested sampling with multiple ellipsoids (Speagle, 2020).

    Args:
        problem_name: key of `PEERS`.
        seed: random seed of the sampler.
        nlive: number of live points; the error falls with their square root, the time rises in proportion.
        dlogz: nats that the live points may still add when sampling stops.
        sample: name in dynesty of the method that replaces a live point.
    """
    peer = PEERS[problem_name]()
    start = time.perf_counter()
    sampler = dynesty.NestedSampler(
        peer.log_likelihood,
        peer.prior_transform,
        peer.num_dimensions,
        nlive=nlive,
        sample=sample,
        rstate=np.random.default_rng(seed),
    )
    sampler.run_nested(dlogz=dlogz, print_progress=False)
    results = sampler.results
    return Run(float(results.logz[-1]), float(results.logzerr[-1]), time.perf_counter() - start)


def run_pymc_smc(problem_name: str, seed: int, draws: int = 2000, chains: int = 4, cores: int = 1) -> Run:
    """Sequential Monte Carlo from prior to posterior; seconds include the compilation of the model.

    Args:
        problem_name: key of `PEERS`.
        seed: random seed of the sampler.
        draws: number of particles per chain.
        chains: number of independent runs, at least two, whose estimates of Z are averaged and give the standard error.
        cores: number of processes.
    """
    peer = PEERS[problem_name]()
    start = time.perf_counter()
    with peer.pymc_model():
        trace = pm.sample_smc(
            draws=draws,
            chains=chains,
            cores=cores,
            random_seed=seed,
            progressbar=False,
            compute_convergence_checks=False,
            # Chains of unequal numbers of stages do not fit an InferenceData of numbers.
            return_inferencedata=False,
        )
    log_z = np.array([stages[-1] for stages in trace.report.log_marginal_likelihood])
    relative = np.exp(log_z - log_z.max())
    mean = relative.mean()
    stderr = relative.std(ddof=1) / mean / np.sqrt(chains)
    return Run(float(log_z.max() + np.log(mean)), float(stderr), time.perf_counter() - start)


def pima_peer() -> Peer:
    """Logistic regression, 532 rows, 5 coefficients."""
    problem = pima_m1()
    x, y = problem.data.args[0].numpy(), problem.data.kwargs["y"].numpy()
    signed = (1 - 2 * y)[:, None] * x

    def model() -> pm.Model:
        with pm.Model() as built:
            theta = pm.Normal("theta", 0, 10, shape=x.shape[1])
            pm.Bernoulli("y", logit_p=pt.dot(x, theta), observed=y)
        return built

    return Peer(
        problem,
        x.shape[1],
        lambda u: 10 * ndtri(u),
        lambda theta: -np.logaddexp(0, signed @ theta).sum(),
        model,
    )


def radiata_peer() -> Peer:
    """Straight line through 42 points under a normal-gamma prior; parameters tau, a, b."""
    problem = radiata_pine_m1()
    x, y = problem.data.args[0].numpy(), problem.data.kwargs["y"].numpy()
    rate = 2 * 300.0**2

    def prior_transform(u: Vector) -> Vector:
        tau = gammaincinv(3, u[0]) / rate
        a, b = np.array([3000, 185]) + ndtri(u[1:]) / np.sqrt(np.array([0.06, 6]) * tau)
        return np.array([tau, a, b])

    def log_likelihood(theta: Vector) -> float:
        tau, a, b = theta
        residual = y - a - b * x
        return 0.5 * (len(y) * np.log(tau / (2 * np.pi)) - tau * residual @ residual)

    def model() -> pm.Model:
        with pm.Model() as built:
            tau = pm.Gamma("tau", alpha=3, beta=rate)
            a = pm.Normal("a", 3000, tau=0.06 * tau)
            b = pm.Normal("b", 185, tau=6 * tau)
            pm.Normal("y", a + b * x, tau=tau, observed=y)
        return built

    return Peer(problem, 3, prior_transform, log_likelihood, model)


def shells_peer() -> Peer:
    """Two Gaussian shells in five dimensions."""
    num_dimensions, radius, width, offset = 5, 2.0, 0.1, 3.5
    center = np.zeros(num_dimensions)
    center[0] = offset
    centers = np.stack([center, -center])
    log_peak = -0.5 * np.log(2 * np.pi * width**2)

    def log_likelihood(theta: Vector) -> float:
        r = np.sqrt(((theta - centers) ** 2).sum(1))
        near, far = -0.5 * ((r - radius) / width) ** 2
        return log_peak + np.logaddexp(near, far)

    def model() -> pm.Model:
        with pm.Model() as built:
            theta = pm.Uniform("theta", -6, 6, shape=num_dimensions)
            r = pt.sqrt(((theta - centers) ** 2).sum(1))
            pm.Potential("shells", log_peak + pt.logsumexp(-0.5 * ((r - radius) / width) ** 2))
        return built

    return Peer(gaussian_shells(num_dimensions), num_dimensions, lambda u: 12 * u - 6, log_likelihood, model)


def schools_peer() -> Peer:
    """Eight schools, not centered; parameters mu, tau and eight eta."""
    problem = eight_schools()
    sigma, y = problem.data.args[0].numpy(), problem.data.kwargs["y"].numpy()
    log_scale = -np.log(sigma).sum() - 0.5 * len(y) * np.log(2 * np.pi)

    def prior_transform(u: Vector) -> Vector:
        theta = ndtri(u)
        theta[0] *= 5
        theta[1] = 5 * np.tan(np.pi / 2 * u[1])
        return theta

    def log_likelihood(theta: Vector) -> float:
        residual = (y - theta[0] - theta[1] * theta[2:]) / sigma
        return log_scale - 0.5 * residual @ residual

    def model() -> pm.Model:
        with pm.Model() as built:
            mu = pm.Normal("mu", 0, 5)
            tau = pm.HalfCauchy("tau", 5)
            eta = pm.Normal("eta", 0, 1, shape=len(y))
            pm.Normal("y", mu + tau * eta, sigma, observed=y)
        return built

    return Peer(problem, 10, prior_transform, log_likelihood, model)


PEERS: dict[str, Callable[[], Peer]] = {
    "pima_m1": pima_peer,
    "radiata_m1": radiata_peer,
    "shells_5": shells_peer,
    "eight_schools": schools_peer,
}


class Settings(NamedTuple):
    """Cheapest settings found for an error of about 0.05 nats; live points extrapolated from a run with 250 as 1 / error²."""

    nlive: int
    sample: str
    draws: int


SETTINGS = {
    "pima_m1": Settings(nlive=8000, sample="unif", draws=4000),
    "radiata_m1": Settings(nlive=2500, sample="unif", draws=2000),
    "shells_5": Settings(nlive=2700, sample="rwalk", draws=2000),
    "eight_schools": Settings(nlive=500, sample="rwalk", draws=1000),
}
QUICK = Settings(nlive=100, sample="auto", draws=200)


def rows(*, quick: bool) -> Iterator[Row]:
    """Rows of both packages on all problems."""
    for name, peer in PEERS.items():
        exact, chosen = peer().problem, QUICK if quick else SETTINGS[name]
        packages = {
            "dynesty": partial(run_dynesty, nlive=chosen.nlive, sample=chosen.sample),
            "PyMC SMC": partial(run_pymc_smc, draws=chosen.draws),
        }
        for package, estimate in packages.items():
            run = estimate(name, 0)
            yield near(
                f"{name}, {package}",
                run.log_z,
                "nats",
                reference=exact.log_z,
                tolerance=max(4 * run.stderr, 0.2),
                seconds=run.seconds,
                source=exact.source,
                stderr=run.stderr,
            )


def line(found: Row) -> str:
    """Text of a row: estimate, known value and seconds."""
    return (
        f"{found['task']:<25}{found['value']:>11.4f} ± {found['stderr']:<8.4f}{found['reference']:>11.4f}"
        f"{found['seconds']:>8.1f} s  {verdict(found)}"
    )
