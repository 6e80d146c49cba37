"""Adam step with its gradient as one graph that works in place, for many parameters (Kingma & Ba, 2015)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from probmodel.inference.descent import adam
from probmodel.inference.descent.minibatches import Batches, Rows
from probmodel.tracing.programs.compiling import Native, Tensors
from probmodel.tracing.programs.graphs import ClosedGraph


class WholeStep:
    """Minibatch, loss, gradient and Adam update in one call that changes each tensor in place.

    A step with a loss that is not finite changes nothing; a gradient that is not finite leaves its own tensor
    unchanged, while the others are updated.

    Args:
        pure: graph of gradients and loss.
        leaves: parameters that the graph reads.
        batches: tensors of the data.
        rows: example of a step's row numbers; None where each step takes all rows.
        optimizer: PyTorch's own Adam, whose settings the steps use and from whose moments they continue.
    """

    def __init__(self, pure: ClosedGraph, leaves: Tensors, batches: Batches, rows: Rows, optimizer: Optimizer) -> None:
        self.leaves, self.settings = leaves, adam.adam_settings(optimizer)
        self.constants = (*pure.constants, *batches.tensors)
        self.continue_from(optimizer)
        self.native = Native(
            _whole(pure, batches, len(leaves), batched=rows is not None),
            self._arguments(rows),
            in_place=3 * len(leaves),
        )

    def continue_from(self, optimizer: Optimizer) -> None:
        """Take over the moments and the step count of PyTorch's optimizer."""
        self.means, self.squares, self.steps = adam.optimizer_moments(optimizer, self.leaves)

    def __call__(self, rows: Rows) -> float:
        """Run one step, and return its loss in nats; NaN or infinite where the loss or its gradient is."""
        loss = float(self.native(*self._arguments(rows))[0])
        self.steps += math.isfinite(loss)
        return loss

    def _arguments(self, rows: Rows) -> Tensors:
        state = (*(leaf.detach() for leaf in self.leaves), *self.means, *self.squares)
        numbers = state[0].new_tensor(adam.rates(self.settings, self.steps + 1))
        return (*state, numbers, *(() if rows is None else (rows,)), *self.constants)


def _whole(pure: ClosedGraph, batches: Batches, size: int, *, batched: bool) -> Callable[..., Tensors]:
    """Function (*leaves, *means, *squares, `adam.rates`, rows if batched, *constants of the graph, *data) → (loss,)."""

    def step(*tensors: Tensor) -> Tensors:
        state, (numbers, *rest) = tensors[: 3 * size], tensors[3 * size :]
        rows, constants = (rest[0], rest[1:]) if batched else (None, rest)
        ends = len(pure.constants)
        grads, loss = pure.graph(*constants[:ends], *state[:size], *batches.among(constants[ends:], rows))
        rates = numbers.unbind()
        total = torch.zeros_like(loss)
        for i, grad in enumerate(grads):
            # Tensor by tensor, so that no gradient has to stay in memory until the last one is known.
            own = grad.sum()
            good, total = (loss + own).isfinite(), total + own
            held = state[i::size]
            for old, new in zip(held, adam.adam_update(*held, grad, rates), strict=True):  # type: ignore[call-arg,arg-type]
                old.copy_(torch.where(good, new, old))
        return (nan_unless_finite(loss, total),)

    return step


def nan_unless_finite(loss: Tensor, total: Tensor) -> Tensor:
    """Loss, or NaN where it or the sum of all gradients is not finite; compilers would fold 0 · ∞ into 0."""
    return torch.where((loss + total).isfinite(), loss, torch.nan)
