"""How far two results of the same arithmetic may differ: by the order of additions, and by the conditioning of the problem."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest relative difference that the order of additions explains, between eager, traced and compiled code."""

AMPLIFIED = 10.0
"""How much farther the roundings inside a graph may lead than one rounding of each of its inputs does."""


def excess(expected: Sequence[Tensor], got: Sequence[Tensor], perturbed: Callable[[], Sequence[Tensor]]) -> float:
    """How many times further off `got` is than rounding explains; 1 or less is as good as equal.

    Args:
        expected: the results.
        got: the same by other code.
        perturbed: the results for inputs one rounding away, asked for where the two differ: where the arithmetic is
            ill-conditioned, it moves them further than `ROUNDING`.
    """
    worst = farthest(expected, got)
    if not 1 < worst < math.inf:
        return worst
    amplified = farthest(expected, perturbed())
    return worst / max(1.0, AMPLIFIED * amplified) if math.isfinite(amplified) else worst


def farthest(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The largest `distance` of any pair."""
    return max((distance(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)


def distance(a: Tensor, b: Tensor, of_largest: float = 1e-4) -> float:
    """Largest difference in units of what rounding explains; infinite for whole numbers that differ.

    Args:
        a: numbers.
        b: numbers of the same shape.
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
    return float(((a - b).abs() / scale).max()) / ROUNDING.get(a.dtype, 0.05)


def _kind_of(bad: Tensor) -> Tensor:
    """0 for NaN, ±1 for ±∞."""
    return bad.nan_to_num(0.0, 1.0, -1.0)


def rounded_up(tensor: Tensor) -> Tensor:
    """The numbers one rounding above."""
    return torch.nextafter(tensor, torch.full_like(tensor, math.inf)) if tensor.is_floating_point() else tensor
