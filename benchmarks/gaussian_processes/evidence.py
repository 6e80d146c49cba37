"""Log evidence of processes and of their mixtures against exact values."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean
from gpytorch.priors import LogNormalPrior

import probmodel as pb
from benchmarks.gaussian_processes.models import alternating, known_experts, motorcycle, process
from benchmarks.rows import Row, near, row

LENGTHSCALES = {0.1: -125.706986, 0.3: -108.469855, 0.5: -108.592409, 1.0: -162.909235}
"""Log marginal likelihood of the standardized motorcycle data under an RBF kernel of variance 1 and noise variance 0.25."""
FULL_EVIDENCE = -112.399791
"""Log evidence with lengthscale, variance and noise integrated under standard log-normal priors, by quadrature."""
MIXTURES = {1: -268.3996021, 2: -14.7479318}
"""Log evidence of twelve points of two alternating functions by number of experts, by enumeration."""
SOURCE = "reference by quadrature or enumeration"


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of all groups whose name contains the text."""
    groups: dict[str, Callable[[bool], Iterator[Row]]] = {
        "mcycle evidence": _mcycle_evidence,
        "mixture evidence": _mixture_evidence,
    }
    for name, group in groups.items():
        if only in name:
            yield from group(quick)


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


def _standardized(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor((values - values.mean()) / values.std())


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
