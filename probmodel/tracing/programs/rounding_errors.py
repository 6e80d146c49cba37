"""Tolerance for two results of the same arithmetic: the order of additions, and the conditioning of the problem."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING_ERROR = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest relative difference that the order of additions explains, between eager, traced and compiled code."""

HALF_ROUNDING_ERROR = 0.05
"""The same for half precision, where fused operations do not round intermediate results; 0.035 of the largest entry of a
convolution's gradient occurs."""

PERTURBATION, NUM_PERTURBATIONS = 16.0, 4
"""Perturbation of the inputs in machine epsilons, and number of perturbations: results jump where a rectifier switches."""

AMPLIFICATION = 3.0
"""Factor by which the effect of rounding errors inside a graph may exceed that of perturbations of its inputs."""


class Tolerance(NamedTuple):
    """Scale of the differences that are attributed to rounding.

    Args:
        of_largest: fraction of the largest number of a tensor below which no number counts, since differences of large
            numbers leave their rounding errors in small ones.
        half: half-precision dtype in which numbers were computed, where their own dtype is finer.
    """

    of_largest: float = 1e-4
    half: torch.dtype | None = None


FULL_PRECISION = Tolerance()


def tolerance(half: torch.dtype | None, of_largest: float = FULL_PRECISION.of_largest) -> Tolerance:
    """Tolerance for results of some precision.

    Results of half precision are compared with the largest number of their tensor, since sums of many rounding errors
    cancel.

    Args:
        half: half-precision dtype of intermediate results, or None.
        of_largest: as in `Tolerance`; 1 in half precision.
    """
    return Tolerance(of_largest if half is None else 1.0, half)


def relative_error(
    expected: Sequence[Tensor],
    got: Sequence[Tensor],
    perturbed_results: Callable[[int], Sequence[Tensor]],
    within: Tolerance = FULL_PRECISION,
) -> float:
    """Largest difference of `got` from `expected` in units of what rounding explains; 1 or less counts as equal.

    Args:
        expected: reference results.
        got: the same results by other code.
        perturbed_results: seed → the results for perturbed inputs, called only where the two differ: ill-conditioned
            arithmetic moves them by more than `ROUNDING_ERROR`.
        within: scale of the differences that are attributed to rounding.
    """
    apart, allowed = _distances(expected, got, within), [1.0] * len(expected)
    for seed in range(NUM_PERTURBATIONS):
        worst = max((a / b for a, b in zip(apart, allowed, strict=True)), default=0.0)
        if not 1 < worst < math.inf:
            break
        moved = _distances(expected, perturbed_results(seed), within)
        # Each result by its own conditioning; a perturbation out of the domain gives no information.
        allowed = [max(a, AMPLIFICATION * m) if m < math.inf else a for a, m in zip(allowed, moved, strict=True)]
    return max((a / b for a, b in zip(apart, allowed, strict=True)), default=0.0)


def _distances(expected: Sequence[Tensor], got: Sequence[Tensor], within: Tolerance) -> list[float]:
    return [distance(a, b, within) for a, b in zip(expected, got, strict=True)]


def distance(a: Tensor, b: Tensor, within: Tolerance = FULL_PRECISION) -> float:
    """Largest difference of two tensors in units of what rounding explains; infinite for integers that differ."""
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else math.inf
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(_kind_of(a[~finite]), _kind_of(b[~finite])):
        return math.inf
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    # A gradient of half precision that is small throughout is compared on its own scale, or its loss would not be detected.
    least = 1.0 if within.half is None else torch.finfo(a.dtype).tiny
    scale = a.abs().clamp(min=max(least, within.of_largest * float(a.abs().max())))
    unit = ROUNDING_ERROR.get(a.dtype, HALF_ROUNDING_ERROR) if within.half is None else HALF_ROUNDING_ERROR
    return float(((a - b).abs() / scale).max()) / unit


def _kind_of(bad: Tensor) -> Tensor:
    """The kind of each non-finite number: 0 for NaN, ±1 for ±∞."""
    return bad.nan_to_num(0.0, 1.0, -1.0)


def perturbed(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Numbers perturbed by up to `PERTURBATION` machine epsilons; integers stay, as they may be counts or indices."""

    def moved(t: Tensor) -> Tensor:
        away = t * (1 + PERTURBATION * torch.finfo(t.dtype).eps * (2 * torch.rand_like(t) - 1))
        return torch.where(t == t.round(), t, away)

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return [moved(t) if t.is_floating_point() else t for t in tensors]
