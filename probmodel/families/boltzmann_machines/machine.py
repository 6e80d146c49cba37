"""What the sum over a Boltzmann machine's states needs of it: states to enumerate, and a path from independent units.

Annealed importance sampling and parallel tempering (Salakhutdinov & Murray, 2008) know no more of a machine than this.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.structural import Structural


@runtime_checkable
class BoltzmannPath(Protocol, metaclass=Structural):
    """Densities f_β of states v, from independent units at β = 0 to the machine at β = 1; draws from the global state."""

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v), nats."""
        ...

    @property
    def reversed(self) -> "BoltzmannPath":
        """The same densities, each step the time reversal of this path's."""
        ...

    def base(self, *size: int) -> Tensor:
        """Independent draws at β = 0, (*size, V)."""
        ...

    def log_base(self, v: Tensor) -> Tensor:
        """Log base measure of v, nats, which is the same at every β."""
        ...

    def fields(self, v: Tensor) -> Any:
        """What every f_β needs of v, computed once."""
        ...

    def log_f(self, beta: Tensor, fields: Any) -> Tensor:
        """Log f_β(v) less the base measure's, nats."""
        ...

    def gibbs(self, beta: Tensor, fields: Any) -> Tensor:
        """The next v, by a step that leaves f_β invariant."""
        ...

    def fitted(self, v: Float[Tensor, "N V"]) -> "BoltzmannPath":
        """The path to the same machine from units whose means are those of the machine's draws v."""
        ...


@runtime_checkable
class Machine(Protocol, metaclass=Structural):
    """A Boltzmann machine as numbers, p = f / Z, every unit that can be summed in closed form summed out."""

    @property
    def visible_bias(self) -> Float[Tensor, " V"]:
        """Natural parameters of the visible units alone, whose number, type and device are the machine's."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters by name."""
        ...

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters: what a partition function belongs to."""
        ...

    @property
    def double(self) -> "Machine":
        """The machine in float64, detached."""
        ...

    def check(self) -> None:
        """Raise ValueError for parameters that are no machine: not finite, couplings that are not symmetric."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer."""
        ...

    @property
    def num_enumerated(self) -> int:
        """Units {0, 1} over whose states an exact sum runs."""
        ...

    def log_masses(self, states: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
        """Log of the sum over everything else, given states of the enumerated units; nats."""
        ...

    def given(self, states: Float[Tensor, "S K"]) -> Float[Tensor, "S U"]:
        """A draw of the states that the path runs over, given those of the enumerated units."""
        ...

    def path(self, base_bias: Float[Tensor, " V"] | None) -> BoltzmannPath:
        """To the machine from visible units with these natural parameters, all else even; None: from even units alone."""
        ...

    def natural(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Natural parameters of independent visible units with the rows' means; ValueError for rows that do not fit."""
        ...

    def bounds(self, visible: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Log f of each row from below and from above, nats: equal where it is exact; ValueError for rows that do not fit."""
        ...


@runtime_checkable
class Undirected(Protocol, metaclass=Structural):
    """A model p = f / Z whose numbers can be had; a Pyro module, or numbers alone."""

    @property
    def machine(self) -> Machine: ...
