"""Two-sided bound on the evidence of a Gaussian process, without Monte Carlo (Titsias, 2009, 2014; Artemev et al., 2021)."""

import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.families.gaussian_processes.nystrom import (
    Bounds,
    ObservedValues,
    SuppliesProcess,
    bounds,
    greedy_factor,
    inducing_factor,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import digest
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.integers import integer
from probmodel.protocols.posterior import Subject
from probmodel.tracing.ownership import parameters


@checks_arguments
def inducing_bounds(
    subject: Subject,
    *,
    seed: int = 0,
    inducing: int | Float[Tensor, "M D"] = 512,
    num_steps: int = 100,
    tolerance: float = 0.01,
) -> Evidence:
    """Log p(y | x) of the exact process between two bounds, in nats, from M inducing inputs; no n × n matrix is stored.

    The bounds are computed in float64 whatever the dtype of the data, and widened by the possible rounding error.

    They hold for any inducing inputs, and meet as M grows.  Hyperparameters are point estimates: the evidence is
    conditional on them.  For a pipeline of a `SparseGP` and a `Regress` of one output they are those of the exact
    process with its kernel, which shows whether its inducing inputs suffice.

    Args:
        subject: a fit of a `GaussianProcess`, or of `Pipeline(features, SparseGP, Regress)`.
        inducing: inputs of the kernel (features if there are any), or a number of rows to choose greedily by variance.
        num_steps: largest number of conjugate gradient steps, each of n² kernel evaluations in blocks; 0 gives Titsias'
            bounds.
        tolerance: gap that conjugate gradients may leave between the bounds, in nats.
        seed: unused; every estimator takes one.

    Returns:
        Evidence with `lower` and `upper` at level 1; `log_z` is their mean and `stderr` half their distance.

    Raises:
        ValueError: if the subject is no such fit, or hyperparameters are latents.
        MemoryError: if M × n numbers do not fit in memory.

    Reference:
        Titsias (2009), Variational Learning of Inducing Variables in Sparse Gaussian Processes, AISTATS; Titsias
        (2014), Variational Inference for Gaussian and Determinantal Point Processes; Artemev, Burt & van der Wilk
        (2021), ICML.
    """
    begin = time.perf_counter()
    point = starting_point(subject)
    process, data = point.model, point.data
    if data is None or not isinstance(process, SuppliesProcess):
        raise ValueError(
            f"expected the fit of a Gaussian process, got {point.description}; fit a GaussianProcess by MaximumLikelihood, or a "
            "Pipeline of SparseGP and Regress by SVI"
        )
    num_steps = integer("num_steps", num_steps, least=0)
    leaves = parameters(process)
    used = _used(process.process(data), list(leaves.values()))
    with torch.no_grad():
        # Rounding errors in float32 may exceed the gap between the bounds.
        whole: Any = deepcopy(process)
        model = whole.double()
        observed = model.process(data.to(torch.float64))
        if torch.is_tensor(inducing):
            _check_inducing(inducing, observed)
            w = inducing_factor(observed, inducing.to(observed.inputs))
        else:
            w = greedy_factor(observed, integer("inducing", inducing))
        found = bounds(observed, w, num_steps=num_steps, tolerance=tolerance)
        found = _widened(found, observed)
    return Evidence(
        (found.lower + found.upper) / 2,
        (found.upper - found.lower) / 2,
        lower=found.lower,
        upper=found.upper,
        level=1.0,
        method="inducing bounds",
        given=tuple(name for name, reads in zip(leaves, used, strict=True) if reads),
        digest=digest([observed.y]),
        certified="both sides, without Monte Carlo, up to rounding",
        info={
            "num_inducing": len(w),
            "trace": found.trace,
            "num_products": found.num_products,
            "seconds": time.perf_counter() - begin,
        },
    )


def _widened(found: Bounds, observed: ObservedValues) -> Bounds:
    """Bounds widened by the possible rounding error.

    Its ratio to log p(y) grows with the ratio of the largest eigenvalue to the noise.
    """
    ratio = float((observed.variance.sum() / observed.noise.min()).clamp(min=1.0))
    slack = torch.finfo(observed.y.dtype).eps * ratio * (1.0 + abs(found.lower))
    return found._replace(lower=found.lower - slack, upper=found.upper + slack)


def _check_inducing(inducing: Tensor, observed: ObservedValues) -> None:
    columns = observed.inputs.shape[1]
    if inducing.dim() != 2 or inducing.shape[1] != columns or not bool(inducing.isfinite().all()):
        raise ValueError(
            f"expected finite inducing inputs (M, {columns}), got {tuple(inducing.shape)}; pass inputs of the kernel"
        )


def _used(observed: ObservedValues, leaves: Sequence[Tensor]) -> list[bool]:
    """Flags of the parameters that the process depends on; those of a sparse process's guide do not count."""
    pair = observed.inputs[:2]
    total = observed.mean.sum() + observed.noise.sum() + observed.covariance(pair, pair).sum()
    found = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    return [each is not None for each in found]
