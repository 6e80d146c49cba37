"""Fixed features of a pretrained network, standardized or discretized (Dougherty, Kohavi & Sahami, 1995)."""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer


class Standardize(nn.Module):
    """Standardized features h = (network(x) − mean) / scale, without trainable parameters.

    The network's parameters count as part of the data: an evidence is that of the codes, and does not name these
    parameters among the point estimates that it is conditional on.

    Args:
        network: module x → codes; it is copied, and the copy's parameters are fixed.
        mean: mean of each code, (D,).
        scale: standard deviation of each code, (D,), positive.

    Raises:
        ValueError: if a scale is not positive.
    """

    @checks_arguments
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
        """Standardization to mean 0 and variance 1 on the rows of x.

        Args:
            network: module x → codes.
            x: rows of the training set alone.

        Raises:
            ValueError: if a code is constant on these rows.
        """
        codes = _codes(network, x)
        return cls(network, codes.mean(0), codes.std(0, correction=0))

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        return (self.network(x) - self.mean) / self.scale

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"network": self.network, "mean": self.mean, "scale": self.scale}


class Discretize(nn.Module):
    """Discretized features, without trainable parameters: h_d, 0 … B − 1, counts the edges of code d up to network(x)_d.

    The network's parameters count as part of the data, as in `Standardize`.

    Args:
        network: module x → codes; it is copied, and the copy's parameters are fixed.
        edges: inner edges of each code's bins, (D, B − 1), from low to high.

    Raises:
        ValueError: if the edges of a code are not from low to high.
    """

    @checks_arguments
    def __init__(self, network: nn.Module, edges: Float[Tensor, "D E"]) -> None:
        super().__init__()
        if not bool((edges.diff(dim=1) >= 0).all()):
            raise ValueError("expected edges from low to high, got edges that decrease; sort them along the last axis")
        self.network = _fixed(network)
        self.edges: Tensor
        self.register_buffer("edges", edges)

    @classmethod
    def fitted(cls, network: nn.Module, x: Float[Tensor, "N *features"], bins: int) -> "Discretize":
        """Discretization into bins with equal numbers of the rows of x; fewer bins are used where many codes are equal.

        Args:
            network: module x → codes.
            x: rows of the training set alone.
            bins: number of bins of each code, 2 or more.

        Raises:
            ValueError: if `bins` is not an integer of 2 or more.
        """
        inner = torch.arange(1, integer("bins", bins, least=2)).to(x) / bins
        return cls(network, torch.quantile(_codes(network, x), inner.to(x), dim=0).T.contiguous())

    @property
    def bins(self) -> int:
        """Number of bins of each code."""
        return self.edges.shape[1] + 1

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        codes = self.network(x)
        return (codes[..., None] >= self.edges).sum(-1).to(codes)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"network": self.network, "edges": self.edges}


def _fixed(network: nn.Module) -> nn.Module:
    return deepcopy(network).requires_grad_(False)


def _codes(network: nn.Module, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
    with torch.no_grad():
        return network(x)
