"""A step of Adam with its gradient as one graph that works in place, for models of many parameters (Kingma & Ba, 2015)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.optim import Optimizer

from probmodel.compiling import Native, Tensors
from probmodel.graphs import Lifted
from probmodel.inference import adam
from probmodel.inference.minibatches import Batches


class WholeStep:
    """Minibatch, loss, gradient and Adam in one call that changes each tensor where it lies.

    A step with a loss that is not finite changes nothing; a gradient that is not finite does not move its own tensor.
    """

    def __init__(
        self, pure: Lifted, leaves: Tensors, batches: Batches, index: Int[Tensor, " B"] | None, settings: list[float]
    ) -> None:
        self.leaves, self.settings, self.steps = leaves, settings, 0
        self.means = self.squares = tuple(torch.zeros_like(leaf, requires_grad=False) for leaf in leaves)
        self.constants = (*pure.constants, *batches.tensors)
        self.native = Native(
            _whole(pure, batches, len(leaves), index is not None), self._arguments(index), in_place=3 * len(leaves)
        )

    def go_on_from(self, optimizer: Optimizer) -> None:
        """Take over the moments of PyTorch's optimiser."""
        self.means, self.squares, self.steps = adam.continued(optimizer, self.leaves)

    def __call__(self, index: Int[Tensor, " B"] | None) -> float:
        """The loss, in nats; NaN or infinite where it or its gradient is."""
        loss = float(self.native(*self._arguments(index))[0])
        self.steps += math.isfinite(loss)
        return loss

    def _arguments(self, index: Int[Tensor, " B"] | None) -> Tensors:
        state = (*(leaf.detach() for leaf in self.leaves), *self.means, *self.squares)
        numbers = state[0].new_tensor(adam.rates(self.settings, self.steps + 1))
        return (*state, numbers, *(() if index is None else (index,)), *self.constants)


def _whole(pure: Lifted, batches: Batches, size: int, batched: bool) -> Callable[..., Tensors]:
    """(*leaves, *means, *squares, numbers of Adam, rows if batched, *constants of the graph, *data) → (loss,)."""

    def step(*tensors: Tensor) -> Tensors:
        state, (numbers, *rest) = tensors[: 3 * size], tensors[3 * size :]
        index, constants = (rest[0], rest[1:]) if batched else (None, rest)
        ends = len(pure.constants)
        slopes, loss = pure.graph(*constants[:ends], *state[:size], *batches.at(index, constants[ends:]))
        rates, judged = numbers.unbind(), loss
        for i, slope in enumerate(slopes):
            # Each by itself, so that no gradient has to wait, in memory, for the last one.
            total = slope.sum()
            good, judged = (loss + total).isfinite(), judged + total
            held = state[i::size]
            for old, new in zip(held, adam.moved(*held, slope, rates), strict=True):  # type: ignore[call-arg,arg-type]
                old.copy_(torch.where(good, new, old))
        return (torch.where(judged.isfinite(), loss, torch.nan),)

    return step
