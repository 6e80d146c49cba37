"""A function of the coordinates traced on first use, and evaluated on many draws at once."""

from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from probmodel.protocols.arguments.checks import shown
from probmodel.protocols.memory import budget, refuse_above_memory
from probmodel.tracing.programs.graphs import SplitGraph, draws_numbers, recording, split_at_draws
from probmodel.tracing.programs.program import Program, bytes_of_result, bytes_per_call, trace

ACCELERATOR_BLOCK_BYTES = 2**29
"""Bytes per block of draws on an accelerator: of the random numbers where they can be split off, else of the whole call.
It is fixed, since seeded random numbers depend on where draws are split."""

CPU_CALL_BYTES = 2**26
"""Largest vectorized call on a CPU in bytes, whatever the budget: allocating gigabytes takes longer than computing in them."""

LARGE_CALL = 2**22
"""Bytes from which one draw keeps a CPU busy: a batch of draws would only move memory (a network with sampled weights)."""


class Density:
    """A function of theta traced on first use, evaluated on many draws at once.

    Args:
        function: theta → tensor.
        start: theta at which the function is traced.
        like: density of the same model; where that one runs eagerly, so does this one, without a second warning.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], start: Tensor, like: "Density | None" = None) -> None:
        self.function, self.start, self.like = function, start, like

    @cached_property
    def program(self) -> Program:
        """Traced function, or the reason why it runs eagerly."""
        if self.like is not None and self.like.program.run is None:
            return self.like.program
        return trace(self.function, self.start)

    @cached_property
    def _random(self) -> bool:
        return draws_numbers(self.program.run)

    @cached_property
    def _parts(self) -> SplitGraph | None:
        return split_at_draws(self.program.run, len(self.program.leaves))

    def at(self, theta: Float[Tensor, "*D"]) -> Tensor:
        """Value at one point; differentiable.

        Raises:
            ValueError: for theta of another shape.
        """
        refuse_other_shape(theta, self.start.shape)
        if self.program.run is None:
            return self.function(theta)
        return self.program.run(*self.program.detached, theta)

    def __call__(self, theta: Float[Tensor, "S *D"]) -> Tensor:
        refuse_other_draws(theta, self.start.shape)
        if self.program.run is None:
            # The model could not be traced, and Pyro's handlers run one draw at a time.
            return torch.stack([self.function(draw) for draw in theta])
        each = max(1, bytes_per_call(self.program))
        if evaluates_one_by_one(each, theta.device):
            return torch.stack([self.at(draw) for draw in theta])
        result = len(theta) * bytes_of_result(self.program)
        shape = f"a result for {len(theta):,} draws at once"
        refuse_above_memory(
            result, theta.device, shape, "use fewer draws (num_samples), thin them, or state more with memory_budget"
        )
        chunk = max(1, _allowed(theta.device) // each)
        if not self._random:
            return vmap(self.at, randomness="different", chunk_size=chunk)(theta)
        return torch.cat([self._drawn(block, chunk) for block in theta.split(self._block(each, theta.device))])

    def _block(self, each: int, device: torch.device) -> int:
        """Number of draws whose random numbers are drawn at once; seeded numbers depend on it, so it ignores the budget."""
        if device.type == "cpu":
            return max(1, CPU_CALL_BYTES // each)
        return max(1, ACCELERATOR_BLOCK_BYTES // (each if self._parts is None else max(1, self._parts.num_bytes)))

    def _drawn(self, theta: Float[Tensor, "S *D"], chunk: int) -> Tensor:
        """Values for one block of draws, whose random numbers are drawn at once and processed in chunks of the budget."""
        if len(theta) <= chunk or self._parts is None:
            return vmap(self.at, randomness="different")(theta)
        leaves, (draw, rest, _) = self.program.detached, self._parts
        noise = vmap(lambda each: draw(*leaves, each), randomness="different")(theta)
        return vmap(lambda *each: rest(*leaves, *each), chunk_size=chunk)(theta, *noise)


def refuse_other_shape(theta: object, shape: torch.Size) -> None:
    """Raise ValueError for a point theta that is no tensor of the shape."""
    if not torch.is_tensor(theta) or theta.shape != shape:
        raise ValueError(
            f"expected theta as a tensor of shape {tuple(shape)}, got {shown(theta)}; take a row of target.unconstrain(draws)"
        )


def refuse_other_draws(theta: object, shape: torch.Size) -> None:
    """Raise ValueError for draws theta that are no tensor of the shape behind their first axis, or none at all."""
    if not torch.is_tensor(theta) or theta.dim() != len(shape) + 1 or theta.shape[1:] != shape or not len(theta):
        axes = ", ".join(("S", *map(str, shape)))
        raise ValueError(
            f"expected draws theta as a tensor of shape ({axes}), S of them, one or more, got {shown(theta)}; make them by "
            "target.unconstrain or target.sample_prior"
        )


def _allowed(device: torch.device) -> int:
    """Bytes that one vectorized call may need: inside a graph the whole budget, since more calls would enlarge the graph."""
    whole = device.type != "cpu" or recording()
    return budget(device) if whole else min(budget(device), CPU_CALL_BYTES)


def evaluates_one_by_one(memory: int, device: torch.device) -> bool:
    """Return whether draws are evaluated faster one by one than in a batch."""
    return memory > LARGE_CALL and device.type == "cpu"
