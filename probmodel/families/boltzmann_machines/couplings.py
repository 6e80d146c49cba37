"""Products with sparse couplings, and classes of mutually uncoupled units."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

SPARSE = 8
"""Inverse of the largest fraction of nonzero entries at which rows are gathered; above it a matrix product is faster."""


class SparseRows(NamedTuple):
    """Rows of a matrix, dense and by their nonzero entries."""

    dense: Float[Tensor, "B V"]
    columns: Int[Tensor, "B D"]
    values: Float[Tensor, "B D"]

    def times(self, v: Float[Tensor, "V S"]) -> Float[Tensor, "B S"]:
        """Product of the matrix with the columns of v."""
        if self.columns.shape[1] * SPARSE > len(v):
            return self.dense @ v
        return embedding_bag(self.columns, v, per_sample_weights=self.values, mode="sum")


def rows_of(matrix: Float[Tensor, "B V"]) -> SparseRows:
    """Rows of a matrix with at least one column and row."""
    degree = max(1, int((matrix != 0).sum(1).max()))
    # Rows with fewer nonzero entries are filled up with zeros.
    columns = (matrix != 0).to(torch.int8).topk(degree, 1).indices
    return SparseRows(matrix, columns, matrix.gather(1, columns))


def colors(edges: Bool[Tensor, "V V"]) -> Int[Tensor, " V"]:
    """Graph coloring: an integer from 0 per unit, such that no edge joins units of one color (Welsh & Powell, 1967)."""
    joined = edges.cpu()
    found = torch.full((len(joined),), -1)
    for unit in joined.sum(1).argsort(descending=True, stable=True).tolist():
        taken = set(found[joined[unit]].tolist())
        found[unit] = next(color for color in range(len(joined)) if color not in taken)
    return found.to(edges.device)


def color_classes(couplings: Float[Tensor, "V V"]) -> list[Int[Tensor, " B"]]:
    """Few classes of units, by index, without couplings inside any class."""
    found = colors(couplings != 0)
    return [torch.nonzero(found == color)[:, 0] for color in range(int(found.max()) + 1)]
