"""Fully connected features, and the identity."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from probmodel.layers.features.cnn import fully_connected
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integers


class MLP(nn.Module):
    """Multilayer perceptron: linear layers with rectifiers between them, on flattened rows.

    Args:
        in_features: number of values per flattened row.
        out_features: width of h.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: on the call, if the rows have a wrong number of values.
    """

    @checks_arguments
    def __init__(self, in_features: int, out_features: int, *, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        self.in_features, self.out_features, self.hidden = in_features, out_features, integers("hidden", hidden)
        self.connected = fully_connected(in_features, out_features, self.hidden)

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        x = x.flatten(1)
        if x.shape[1] != self.in_features:
            raise ValueError(
                f"expected x with {self.in_features} values per row, got {x.shape[1]}; set in_features={x.shape[1]}"
            )
        return self.connected(x)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"in_features": self.in_features, "out_features": self.out_features, "hidden": self.hidden}


class Identity(nn.Module):
    """Identity features: the rows themselves, flattened, h = x."""

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        return x.flatten(1)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {}
