"""Minibatches drawn without replacement within an epoch (Robbins & Monro, 1951, ask only that they be unbiased)."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from probmodel.compiling import Tensors
from probmodel.protocols import Dataset

Order = Iterator[Int[Tensor, " B"] | None]
"""Endless minibatches of row numbers; None stands for all rows."""


class Batches:
    """Which tensors of the data a step reads: rows of some, all of the others."""

    def __init__(self, tensors: Sequence[Tensor], num_rows: int | None) -> None:
        self.tensors = tuple(tensors)
        self.by_row = [bool(t.dim()) and len(t) == num_rows for t in self.tensors]

    def at(self, rows: Int[Tensor, " B"] | None, tensors: Sequence[Tensor] | None = None) -> Tensors:
        """The tensors of one step."""
        pairs = zip(self.by_row, tensors or self.tensors, strict=True)
        return tuple(t if rows is None or not by_row else t.index_select(0, rows) for by_row, t in pairs)


def minibatches(data: Dataset, batch_size: int | None) -> Order:
    """Endless row numbers: each epoch a fresh permutation, the incomplete last batch left out so that all are unbiased."""
    rows = data.num_rows
    if batch_size is None or rows is None or batch_size >= rows:
        while True:
            yield None
    # A stream of its own: which rows come next must not depend on how many steps run at a time.
    device = data.tensors()[0].device
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    while True:
        order = torch.randperm(rows, device=device, generator=generator)
        for index in order.split(batch_size):
            if len(index) == batch_size:
                yield index
