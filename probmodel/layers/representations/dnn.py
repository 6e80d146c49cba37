"""Deterministic representation, without uncertainty: a baseline for the others."""

from collections.abc import Sequence
from itertools import pairwise

import pyro
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integers


class DNN(nn.Module):
    """Deterministic code z = network(h) of a rectifier network; nothing is sampled, and the guide is empty.

    Args:
        in_features: width of h.
        out_features: width of z.
        hidden: widths of the hidden layers.
    """

    @checks_arguments
    def __init__(self, in_features: int, out_features: int, *, hidden: Sequence[int] = (32,)) -> None:
        super().__init__()
        self.in_features, self.out_features, self.hidden = in_features, out_features, integers("hidden", hidden)
        widths = (in_features, *self.hidden)
        layers = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
        self.network = nn.Sequential(*layers, nn.Linear(widths[-1], out_features), nn.ReLU())

    def model(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Codes of the rows, z = network(h)."""
        return self.network(h)

    def guide(self, h: Float[Tensor, "N D"], rows: pyro.plate) -> None:
        """Do nothing: there are no latents."""

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"in_features": self.in_features, "out_features": self.out_features, "hidden": self.hidden}
