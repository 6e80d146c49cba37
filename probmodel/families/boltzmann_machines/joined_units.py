"""Visible units of several exponential families in one layer, as in a machine of features and their class."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.units import Units, frozen
from probmodel.protocols.arguments.checks import checks_arguments


class JoinedUnits(nn.Module):
    """Units of several families in one layer, such as {0, 1} features followed by the one-hot code of their class.

    Args:
        parts: units of each family, in the order of their columns.
        widths: number of columns of each family; V is their sum.

    Raises:
        ValueError: for widths that do not fit the families.
    """

    binary = False

    @checks_arguments
    def __init__(self, parts: Sequence[Units], widths: Sequence[int]) -> None:
        super().__init__()
        if not parts or len(parts) != len(widths) or min(widths, default=0) < 1:
            raise ValueError(
                f"expected a width of 1 or more for each of {len(parts)} families, got {list(widths)}; pass the number of "
                "columns of each"
            )
        wrong = [
            (part.num_units, width)
            for part, width in zip(parts, widths, strict=True)
            if part.num_units not in (None, width)
        ]
        if wrong:
            raise ValueError(
                f"expected widths equal to the families' num_units, got (num_units, width) {wrong}; pass each num_units as width"
            )
        self.parts, self.widths = nn.ModuleList(_modules(parts)), tuple(widths)
        self.num_units: int | None = sum(widths)

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    @property
    def detached(self) -> "JoinedUnits":
        return frozen(self)

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return torch.cat([part.statistic(each) for part, each in self._split(v)], -1)

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return torch.stack([part.log_base(each) for part, each in self._split(v)]).sum(0)

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        return torch.stack([part.log_partition(each) for part, each in self._split(eta)]).sum(0)

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        return torch.cat([part.sample(each) for part, each in self._split(eta)], -1)

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        return torch.cat([part.natural_parameters(each) for part, each in self._split(v)], -1)

    def check(self, v: Tensor) -> None:
        if v.shape[-1] != sum(self.widths):
            raise ValueError(
                f"expected rows of {sum(self.widths)} values, got {v.shape[-1]}; concatenate the columns of all parts"
            )
        for part, each in self._split(v):
            part.check(each)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"parts": list(self.parts), "widths": self.widths}

    def _split(self, v: Tensor) -> list[tuple[Any, Tensor]]:
        return list(zip(self.parts, v.split(self.widths, -1), strict=True))


def _modules(parts: Sequence[Any]) -> list[nn.Module]:
    """The families as modules, which hold their parameters."""
    return list(parts)
