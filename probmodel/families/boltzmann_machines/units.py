"""Visible units of an exponential-family harmonium (Welling, Rosen-Zvi & Hinton, 2005).

Given the hidden units, p(v | η) = exp(log_base(v) + statistic(v) · η − log_partition(η)) with η = b + W h, unit by unit.
"""

from copy import deepcopy
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from probmodel.protocols.structural import Structural

ONE_HOT = "code each variable by torch.nn.functional.one_hot and put the codes side by side"

LARGEST, BISECTIONS = 200.0, 60
"""Natural parameter of a unit whose mean lies half a hundredth from 0 or 1; halvings of the interval."""

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Units(Protocol, metaclass=Structural):
    """A layer of units of one exponential family; draws come from the global random state."""

    binary: bool
    """Whether the states are all of {0, 1}^V, so that they can be enumerated."""
    num_units: int | None
    """V, where the family has a number of its own; None for any."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name."""
        ...

    @property
    def detached(self) -> Any:
        """The same units in float64, detached."""
        ...

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """What couples to the hidden units and the bias."""
        ...

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log base measure, nats."""
        ...

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log ∫ exp(log_base(v) + statistic(v) · η) dv, nats."""
        ...

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """States given their natural parameters."""
        ...

    def natural(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Natural parameters of independent units that have the rows' means, a little smoothed."""
        ...

    def check(self, v: Tensor) -> None:
        """Raise ValueError for values that the units do not take."""
        ...


def frozen(units: Module) -> Module:
    """A copy in float64 whose parameters take no gradients."""
    return deepcopy(units).double().requires_grad_(False)


def check_values(v: Tensor, valid: Bool[Tensor, "..."], expected: str, remedy: str) -> None:
    if v.dim() < 2 or not v.numel() or not bool(valid.all()):
        raise ValueError(
            f"expected rows (N, V) of {expected} with N > 0, got {tuple(v.shape)} with other values or none; {remedy}"
        )
