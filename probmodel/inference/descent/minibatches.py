"""Minibatches drawn without replacement within an epoch (Robbins & Monro, 1951, require only that they be unbiased)."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from jaxtyping import Int
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.tracing.programs.compiling import Tensors

Rows = Int[Tensor, " B"] | None
"""Row numbers of one minibatch; None stands for all rows."""


class Order(Iterator[Rows]):
    """Endless iterator over minibatches; `first` is known before it is consumed."""

    def __init__(self, batches: Iterator[Rows]) -> None:
        self.first = next(batches)
        self.batches = chain([self.first], batches)

    def __next__(self) -> Rows:
        return next(self.batches)


class Batches:
    """Tensors that a step reads: the minibatch's rows of those that are aligned by row, and all of the others."""

    def __init__(self, tensors: Sequence[Tensor], num_rows: int | None) -> None:
        self.tensors = tuple(tensors)
        self.by_row = [bool(t.dim()) and len(t) == num_rows for t in self.tensors]

    def at(self, rows: Rows) -> Tensors:
        """Tensors of one step."""
        return self.among(self.tensors, rows)

    def among(self, tensors: Sequence[Tensor], rows: Rows) -> Tensors:
        """Same selection from other tensors in place of the stored ones."""
        pairs = zip(self.by_row, tensors, strict=True)
        return tuple(t if rows is None or not by_row else t.index_select(0, rows) for by_row, t in pairs)


def minibatches(data: Dataset, batch_size: int | None) -> Order:
    """Row numbers of minibatches, from a new permutation per epoch.

    The incomplete last batch of an epoch is left out, so that all minibatches are unbiased.

    Args:
        data: data set whose rows are taken.
        batch_size: number of rows per minibatch; None, or a number not below the rows, takes all rows.
    """
    return Order(_endless(data, batch_size))


def _endless(data: Dataset, batch_size: int | None) -> Iterator[Rows]:
    rows = data.num_rows
    if batch_size is None or rows is None or batch_size >= rows:
        while True:
            yield None
    # A separate random stream: which rows come next must not depend on how many steps run at a time.
    device = data.tensors()[0].device
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    while True:
        order = torch.randperm(rows, device=device, generator=generator)
        for index in order.split(batch_size):
            if len(index) == batch_size:
                yield index
