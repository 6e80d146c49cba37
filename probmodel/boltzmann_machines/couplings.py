"""Couplings between units of one layer: sums over neighbours, and classes of units that no coupling joins."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

SPARSE = 8
"""Neighbours of a unit, as a share 1/8 of all, up to which they are gathered; beyond that a matrix product is faster."""


class Block(NamedTuple):
    """Units that no coupling joins, so that they can be drawn together, and what couples to them."""

    units: Int[Tensor, " B"]
    rows: Float[Tensor, "B V"]
    neighbours: Int[Tensor, "B D"]
    values: Float[Tensor, "B D"]

    def field(self, v: Float[Tensor, "V S"]) -> Float[Tensor, "B S"]:
        """Σ_j J_ij v_j of each unit of the block."""
        if self.neighbours.shape[1] * SPARSE > len(v):
            return self.rows @ v
        return embedding_bag(self.neighbours, v, per_sample_weights=self.values, mode="sum")


def block(couplings: Float[Tensor, "V V"], units: Int[Tensor, " B"]) -> Block:
    """The rows of these units, dense and by neighbour."""
    rows = couplings[units]
    degree = max(1, int((rows != 0).sum(1).max()))
    # Units with fewer neighbours take some of weight 0.
    neighbours = (rows != 0).to(torch.int8).topk(degree, 1).indices
    return Block(units, rows, neighbours, rows.gather(1, neighbours))


def colour_classes(couplings: Float[Tensor, "V V"]) -> list[Int[Tensor, " B"]]:
    """Units in few classes without couplings inside any, each unit in the first that has room (Welsh & Powell, 1967)."""
    joined = (couplings != 0).cpu()
    colours = torch.full((len(joined),), -1)
    for unit in joined.sum(1).argsort(descending=True, stable=True).tolist():
        taken = set(colours[joined[unit]].tolist())
        colours[unit] = next(colour for colour in range(len(joined)) if colour not in taken)
    device = couplings.device
    return [torch.nonzero(colours == colour)[:, 0].to(device) for colour in range(int(colours.max()) + 1)]
