"""Features in half precision: the matrix products of a network, but no log density (Micikevicius et al., 2018)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.protocols.arguments.checks import checks_arguments


class HalfPrecision(nn.Module):
    """Feature network whose matrix products are in bfloat16 and whose features have the dtype of its input.

    Tensor cores multiply bfloat16 several times faster than float32; log densities, which add thousands of terms, stay
    in the data's own dtype.

    Args:
        network: module x → h; its parameters keep their dtype.

    Raises:
        TypeError: if `network` is not an nn.Module.
        ValueError: on the call, for float64 input, which would stay float64, and for integer input, whose dtype cannot
            hold features.
    """

    @checks_arguments
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(
                f"expected a network that is an nn.Module, got {network!r}; pass one that is built, as in "
                "HalfPrecision(CNN(1, 32))"
            )
        self.network = network

    def forward(self, x: Float[Tensor, "N *features"]) -> Float[Tensor, "N D"]:
        if x.dtype == torch.float64:
            raise ValueError(
                "expected float32 input, got float64, which half precision leaves unchanged; use data.to(torch.float32) or "
                "remove HalfPrecision"
            )
        if not x.is_floating_point():
            raise ValueError(
                f"expected float32 input, got {x.dtype}, in which features cannot be returned; convert it with x.float()"
            )
        # A cache of cast weights would be recorded once in a traced graph, as if the weights never changed.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.network(x).to(x.dtype)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"network": self.network}
