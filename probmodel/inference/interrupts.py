"""Fits that a user interrupts: they are returned with what was found by then, and marked."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from probmodel.protocols.errors import InterruptedWarning, warn


class Reached:
    """Values of tensors after the last complete steps: an interrupt may strike in the middle of the next one."""

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self.leaves = list(leaves)
        self.last: tuple[int, list[Tensor], tuple[Tensor, ...]] = (0, [], ())
        self.interrupted = False

    @property
    def num_steps(self) -> int:
        """Number of steps that led to the values kept."""
        return self.last[0]

    @property
    def other(self) -> tuple[Tensor, ...]:
        """Tensors that were kept as they are."""
        return self.last[2]

    def keep(self, num_steps: int, other: tuple[Tensor, ...] = ()) -> None:
        """Keep the values that the tensors have after so many steps, and other tensors that belong to them."""
        self.last = num_steps, [leaf.detach().clone() for leaf in self.leaves], other


@contextmanager
def until_interrupted(reached: Reached) -> Iterator[None]:
    """Context that a KeyboardInterrupt ends, with the tensors as they were when last kept.

    Raises:
        KeyboardInterrupt: where nothing was kept, so that there is no fit yet.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not reached.num_steps:
            raise
        with torch.no_grad():
            for leaf, value in zip(reached.leaves, reached.last[1], strict=True):
                leaf.copy_(value)
        reached.interrupted = True


def warn_interrupted(method: str, done: int, total: int, unit: str) -> None:
    """Warn that a fit is returned after `done` of `total` units."""
    warn(
        f"{method}: interrupted after {done:,} of {total:,} {unit}; the fit is what these have found, fit again for all",
        InterruptedWarning,
    )
