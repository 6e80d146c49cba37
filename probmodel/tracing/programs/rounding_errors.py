"""How far two results of the same arithmetic may differ: by the order of additions, and by the conditioning of the problem."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING_ERROR = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest relative difference that the order of additions explains, between eager, traced and compiled code."""

HALF_ROUNDING_ERROR = 0.05
"""The same of half precision, where fused operations do not round in between; .035 of the largest entry of a convolution's
gradient was seen."""

PERTURBATION, NUM_PERTURBATIONS = 16.0, 4
"""Roundings by which inputs are moved to see what becomes of them, and how often: results jump where a rectifier switches."""

AMPLIFIED = 3.0
"""How much farther the roundings inside a graph may lead than nudges of its inputs do."""


class Tolerance(NamedTuple):
    """What is put down to rounding.

    Args:
        of_largest: differences of large numbers leave their rounding in small ones; a number counts as no smaller than
            this share of the largest in its tensor.
        half: the half precision that numbers were computed in, where their own is finer.
    """

    of_largest: float = 1e-4
    half: torch.dtype | None = None


FINE = Tolerance()


def tolerance(half: torch.dtype | None, of_largest: float = FINE.of_largest) -> Tolerance:
    """Numbers of half precision are held to the largest in their tensor, since sums of many roundings cancel."""
    return Tolerance(of_largest if half is None else 1.0, half)


def relative_error(
    expected: Sequence[Tensor],
    got: Sequence[Tensor],
    perturbed_results: Callable[[int], Sequence[Tensor]],
    within: Tolerance = FINE,
) -> float:
    """How many times further off `got` is than rounding explains; 1 or less is as good as equal.

    Args:
        expected: the results.
        got: the same by other code.
        nudged: seed → the results for inputs some roundings away, asked for where the two differ: where the arithmetic
            is ill-conditioned, that moves them further than `ROUNDING_ERROR`.
        within: what is put down to rounding.
    """
    apart, allowed = _distances(expected, got, within), [1.0] * len(expected)
    for seed in range(NUM_PERTURBATIONS):
        worst = max((a / b for a, b in zip(apart, allowed, strict=True)), default=0.0)
        if not 1 < worst < math.inf:
            break
        moved = _distances(expected, perturbed_results(seed), within)
        # Each result by its own conditioning; a nudge out of the domain tells nothing.
        allowed = [max(a, AMPLIFIED * m) if m < math.inf else a for a, m in zip(allowed, moved, strict=True)]
    return max((a / b for a, b in zip(apart, allowed, strict=True)), default=0.0)


def _distances(expected: Sequence[Tensor], got: Sequence[Tensor], within: Tolerance) -> list[float]:
    return [distance(a, b, within) for a, b in zip(expected, got, strict=True)]


def distance(a: Tensor, b: Tensor, within: Tolerance = FINE) -> float:
    """Largest difference of tensors of one shape in units of what rounding explains; infinite for whole numbers that differ."""
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else math.inf
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(_kind_of(a[~finite]), _kind_of(b[~finite])):
        return math.inf
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    # A gradient of half precision that is small throughout is held to its own size, or losing it would not show.
    least = 1.0 if within.half is None else torch.finfo(a.dtype).tiny
    scale = a.abs().clamp(min=max(least, within.of_largest * float(a.abs().max())))
    unit = ROUNDING_ERROR.get(a.dtype, HALF_ROUNDING_ERROR) if within.half is None else HALF_ROUNDING_ERROR
    return float(((a - b).abs() / scale).max()) / unit


def _kind_of(bad: Tensor) -> Tensor:
    """0 for NaN, ±1 for ±∞."""
    return bad.nan_to_num(0.0, 1.0, -1.0)


def perturbed(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The numbers up to `PERTURBATION` roundings away; whole ones as they are, which may count or choose."""

    def moved(t: Tensor) -> Tensor:
        away = t * (1 + PERTURBATION * torch.finfo(t.dtype).eps * (2 * torch.rand_like(t) - 1))
        return torch.where(t == t.round(), t, away)

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return [moved(t) if t.is_floating_point() else t for t in tensors]
