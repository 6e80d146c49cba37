"""Label switching: components of a mixture that may be permuted without changing the density.

K exchangeable components give the posterior K! modes.  Draws that stay in one of them miss log K! of the log evidence.

Reference:
    Frühwirth-Schnatter (2004), "Estimating marginal likelihoods for mixture and Markov switching models".
"""

from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.posterior import Target

MAX_COMPONENTS = 64
NUM_CHECKS = 4
LABEL_ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-4}


class Symmetry(NamedTuple):
    """Sites whose axis runs over exchangeable components, permuted together."""

    axes: tuple[tuple[str, int], ...]
    """Name of a site and the axis of its event that runs over components (from the left, draws not counted)."""
    num_components: int

    def __str__(self) -> str:
        names = ", ".join(name for name, _ in self.axes)
        return f"{self.num_components} exchangeable components ({names})"


def symmetry(target: Target, theta: Float[Tensor, "S D"]) -> Symmetry | None:
    """Largest set of sites whose components can be permuted together without changing the density, or None.

    The density is compared numerically at a few draws, so that it does not matter how the model is written.
    """
    points = theta[torch.linspace(0, len(theta) - 1, min(NUM_CHECKS, len(theta)), device=theta.device).long()]
    values = target.constrain(points)
    axes: dict[int, list[tuple[str, int]]] = {}
    for name, value in values.items():
        for axis, length in enumerate(value.shape[1:]):
            if 1 < length <= MAX_COMPONENTS:
                axes.setdefault(length, []).append((name, axis))
    for length in sorted(axes):
        for count in range(min(len(axes[length]), 4), 0, -1):
            for chosen in combinations(axes[length], count):
                found = Symmetry(tuple(chosen), length)
                if len({name for name, _ in chosen}) == count and _holds(target, points, found):
                    return found
    return None


def symmetrized(target: Target, theta: Float[Tensor, "S D"], found: Symmetry) -> Float[Tensor, "S D"]:
    """Draws with their components in random order; uses the global random state, so call it inside `isolated`."""
    order = torch.rand(len(theta), found.num_components, device=theta.device).argsort(-1)
    return _permuted(target, theta, found, order)


def _permuted(target: Target, theta: Float[Tensor, "S D"], found: Symmetry, order: Tensor) -> Float[Tensor, "S D"]:
    values = dict(target.constrain(theta))
    for name, axis in found.axes:
        value = values[name]
        index = order.reshape(len(order), *[1] * axis, found.num_components, *[1] * (value.dim() - axis - 2))
        values[name] = value.gather(axis + 1, index.expand(value.shape))
    return target.unconstrain(values)


def _holds(target: Target, points: Float[Tensor, "S D"], found: Symmetry) -> bool:
    """Return whether permuting components leaves the density of the constrained values unchanged.

    Two permutations generate all: a swap of the first two and a cycle.
    """
    k = found.num_components
    swap = torch.arange(k, device=points.device)
    swap[:2] = swap[:2].flip(0)
    cycle = torch.arange(k, device=points.device).roll(1)
    before = _log_density(target, points)
    for order in (swap, cycle):
        moved = _permuted(target, points, found, order.expand(len(points), k))
        if torch.allclose(moved, points):
            return False
        after = _log_density(target, moved)
        tolerance = LABEL_ROUNDING.get(points.dtype, 1e-4)
        if not torch.allclose(before, after, rtol=tolerance, atol=tolerance):
            return False
    return True


def _log_density(target: Target, theta: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
    """Log joint density on the constrained space, without the Jacobian of the map to R^D."""
    with torch.no_grad():
        return target.log_joint(theta) - target.log_jacobian(theta)
