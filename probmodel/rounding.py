"""How far two results of the same arithmetic may differ: by the order of additions, and by the conditioning of the problem."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05}
"""Largest relative difference that the order of additions explains, between eager, traced and compiled code."""

NUDGE, NUDGES = 16.0, 4
"""Roundings by which inputs are moved to see what becomes of them, and how often: results jump where a rectifier switches."""

OF_LARGEST = 1e-4
"""Share of the largest number of a tensor that its small ones are compared at."""

AMPLIFIED = 3.0
"""How much farther the roundings inside a graph may lead than nudges of its inputs do."""


def excess(
    expected: Sequence[Tensor],
    got: Sequence[Tensor],
    nudged: Callable[[int], Sequence[Tensor]],
    dtype: torch.dtype | None = None,
    of_largest: float = OF_LARGEST,
) -> float:
    """How many times further off `got` is than rounding explains; 1 or less is as good as equal.

    Args:
        expected: the results.
        got: the same by other code.
        nudged: seed → the results for inputs some roundings away, asked for where the two differ: where the arithmetic
            is ill-conditioned, that moves them further than `ROUNDING`.
        dtype: what they were computed in, where that is coarser than their own.
        of_largest: as in `distance`.
    """
    apart, allowed = _distances(expected, got, dtype, of_largest), [1.0] * len(expected)
    for seed in range(NUDGES):
        worst = max((a / b for a, b in zip(apart, allowed, strict=True)), default=0.0)
        if not 1 < worst < math.inf:
            break
        moved = _distances(expected, nudged(seed), dtype, of_largest)
        # Each result by its own conditioning; a nudge out of the domain tells nothing.
        allowed = [max(a, AMPLIFIED * m) if m < math.inf else a for a, m in zip(allowed, moved, strict=True)]
    return max((a / b for a, b in zip(apart, allowed, strict=True)), default=0.0)


def _distances(
    expected: Sequence[Tensor], got: Sequence[Tensor], dtype: torch.dtype | None, of_largest: float
) -> list[float]:
    return [distance(a, b, dtype, of_largest) for a, b in zip(expected, got, strict=True)]


def distance(a: Tensor, b: Tensor, dtype: torch.dtype | None = None, of_largest: float = OF_LARGEST) -> float:
    """Largest difference in units of what rounding explains; infinite for whole numbers that differ.

    Args:
        a: numbers.
        b: numbers of the same shape.
        dtype: what they were computed in, where that is coarser than their own.
        of_largest: differences of large numbers leave their rounding in small ones; a number counts as no smaller than
            this share of the largest.
    """
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else math.inf
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(_kind_of(a[~finite]), _kind_of(b[~finite])):
        return math.inf
    if not finite.any():
        return 0.0
    a, b = a[finite], b[finite]
    scale = a.abs().clamp(min=max(1.0, of_largest * float(a.abs().max())))
    return float(((a - b).abs() / scale).max()) / max(ROUNDING[a.dtype], ROUNDING[dtype or a.dtype])


def _kind_of(bad: Tensor) -> Tensor:
    """0 for NaN, ±1 for ±∞."""
    return bad.nan_to_num(0.0, 1.0, -1.0)


def nudge(tensors: Sequence[Tensor], seed: int) -> list[Tensor]:
    """The numbers up to `NUDGE` roundings away; whole ones as they are, which may count or choose."""

    def moved(t: Tensor) -> Tensor:
        away = t * (1 + NUDGE * torch.finfo(t.dtype).eps * (2 * torch.rand_like(t) - 1))
        return torch.where(t == t.round(), t, away)

    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return [moved(t) if t.is_floating_point() else t for t in tensors]
