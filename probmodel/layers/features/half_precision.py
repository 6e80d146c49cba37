"""Features in half precision: the matrix products of a network, and nothing that is a log density (Micikevicius et al., 2018)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HalfPrecision(nn.Module):
    """A feature extractor whose products are in bfloat16; its features come out in the dtype of its input.

    Tensor cores multiply bfloat16 several times faster than float32; log densities, which add thousands of terms, stay
    in the data's own dtype.

    Args:
        network: x → h; its parameters stay as they are.

    Raises:
        TypeError: for a network that is no module.
        ValueError: for float64 input, which would stay float64, and for integers, whose dtype no feature fits in.
    """

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
                "expected float32 input, got float64, which half precision leaves as it is; use data.to(torch.float32) or "
                "take HalfPrecision away"
            )
        if not x.is_floating_point():
            raise ValueError(
                f"expected float32 input, got {x.dtype}, in which features cannot be returned; convert it with x.float()"
            )
        # The cache of casted weights would be recorded into a traced graph once, as if weights never changed.
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.network(x).to(x.dtype)

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"network": self.network}
