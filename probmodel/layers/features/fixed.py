"""Features that were trained before and stay as they are, standardized or discretized (Dougherty, Kohavi & Sahami, 1995)."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.protocols.integers import integer


class Standardize(nn.Module):
    """h = (network(x) − mean) / scale, nothing of it trainable.

    The network's parameters count as part of the data: an evidence is one of the codes, and does not name them among the
    point estimates that it is conditional on.

    Args:
        network: x → codes; it is copied, and the copy's parameters are fixed.
        mean: of the codes.
        scale: their standard deviations.
    """

    def __init__(self, network: nn.Module, mean: Float[Tensor, " D"], scale: Float[Tensor, " D"]) -> None:
        super().__init__()
        if not bool((scale > 0).all()):
            raise ValueError(f"expected positive scales, got {int((scale <= 0).sum())} that are not; drop those codes")
        self.network = _fixed(network)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    @classmethod
    def fitted(cls, network: nn.Module, x: Float[Tensor, "N *features"]) -> "Standardize":
        """Mean 0 and unit variance on the rows of x, which need to be training rows alone.

        Raises:
            ValueError: for a code without spread.
        """
        codes = _codes(network, x)
        return cls(network, codes.mean(0), codes.std(0, correction=0))

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        return (self.network(x) - self.mean) / self.scale

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"network": self.network, "mean": self.mean, "scale": self.scale}


class Discretize(nn.Module):
    """h_d = how many of code d's edges network(x)_d has reached, 0 … B − 1, nothing of it trainable.

    As for `Standardize`, the network's parameters count as part of the data.

    Args:
        network: x → codes; it is copied, and the copy's parameters are fixed.
        edges: of each code's bins, from low to high, without the outermost.
    """

    def __init__(self, network: nn.Module, edges: Float[Tensor, "D E"]) -> None:
        super().__init__()
        if not bool((edges.diff(dim=1) >= 0).all()):
            raise ValueError("expected edges from low to high, got others; sort them along the last axis")
        self.network = _fixed(network)
        self.edges: Tensor
        self.register_buffer("edges", edges)

    @classmethod
    def fitted(cls, network: nn.Module, x: Float[Tensor, "N *features"], bins: int) -> "Discretize":
        """Bins of equally many rows of x, which need to be training rows alone; fewer where many codes are equal.

        Args:
            network: x → codes.
            x: training rows.
            bins: of each code, two or more.
        """
        inner = torch.arange(1, integer("bins", bins, least=2)).to(x) / bins
        return cls(network, torch.quantile(_codes(network, x), inner.to(x), dim=0).T.contiguous())

    @property
    def bins(self) -> int:
        """Of each code."""
        return self.edges.shape[1] + 1

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        codes = self.network(x)
        return (codes[..., None] >= self.edges).sum(-1).to(codes)

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"network": self.network, "edges": self.edges}


def _fixed(network: nn.Module) -> nn.Module:
    return deepcopy(network).requires_grad_(False)


def _codes(network: nn.Module, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
    with torch.no_grad():
        return network(x)
