"""Visible units of an exponential-family harmonium (Welling, Rosen-Zvi & Hinton, 2005).

Given the hidden units, p(v | η) = exp(log_base(v) + statistic(v) · η − log_partition(η)) with η = b + W h,
independently for each unit.
"""

from copy import deepcopy
from typing import Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from probmodel.protocols.structural import Structural

ONE_HOT = "encode each variable by torch.nn.functional.one_hot and concatenate the codes"

LARGEST_NATURAL_PARAMETER, NUM_BISECTIONS = 200.0, 60
"""Largest natural parameter of a unit, with mean 0.005 from 0 or 1, and number of halvings of the interval."""

Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class Units(Protocol, metaclass=Structural):
    """A layer of units of one exponential family; draws use the global random state."""

    binary: bool
    """True if all states are those in {0, 1}^V, so that they can be enumerated."""
    num_units: int | None
    """Number of units V where the family fixes it; None where any is possible."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name."""
        ...

    @property
    def detached(self) -> Any:
        """The same units in float64, detached."""
        ...

    def statistic(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """Sufficient statistic, which couples to the hidden units and the bias."""
        ...

    def log_base(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log base measure, in nats."""
        ...

    def log_partition(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log partition function log ∫ exp(log_base(v) + statistic(v) · η) dv, in nats."""
        ...

    def sample(self, eta: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """Draws of the states given their natural parameters."""
        ...

    def natural_parameters(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Natural parameters of independent units with the slightly smoothed means of the rows."""
        ...

    def check(self, v: Tensor) -> None:
        """Raise ValueError for values outside the support of the units."""
        ...


def frozen(units: Module) -> Module:
    """Copy of the units in float64 with parameters that take no gradients."""
    return deepcopy(units).double().requires_grad_(False)


def check_values(v: Tensor, valid: Bool[Tensor, "..."], expected: str, remedy: str) -> None:
    """Raise ValueError unless v has rows and all of its values are valid."""
    if v.dim() < 2 or not v.numel() or not bool(valid.all()):
        raise ValueError(
            f"expected rows (N, V) of {expected} with N > 0, got {tuple(v.shape)} with other values or none; {remedy}"
        )
