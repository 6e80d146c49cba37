"""Interface of a Boltzmann machine for sums over its states: states to enumerate, and a path from independent units.

Annealed importance sampling and parallel tempering (Salakhutdinov & Murray, 2008) use nothing else of a machine.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.structural import Structural


@runtime_checkable
class BoltzmannPath(Protocol, metaclass=Structural):
    """Densities f_β of states v from independent units (β = 0) to the machine (β = 1); draws use the global state."""

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v), in nats."""
        ...

    @property
    def reversed(self) -> "BoltzmannPath":
        """Path of the same densities whose steps are the time reversals of these."""
        ...

    def base(self, *size: int) -> Tensor:
        """Independent draws at β = 0, (*size, V)."""
        ...

    def log_base(self, v: Tensor) -> Tensor:
        """Log base measure of v in nats, which is the same at every β."""
        ...

    def products(self, v: Tensor) -> Any:
        """Products of v with the parameters that every f_β uses, computed once."""
        ...

    def log_f(self, beta: Tensor, products: Any) -> Tensor:
        """Log f_β(v) less the log base measure, in nats."""
        ...

    def gibbs(self, beta: Tensor, products: Any) -> Tensor:
        """Gibbs step from v that leaves f_β invariant."""
        ...

    def fitted_base(self, v: Float[Tensor, "N V"]) -> "BoltzmannPath":
        """Path to the same machine from independent units with the means of the machine's draws v."""
        ...


@runtime_checkable
class Machine(Protocol, metaclass=Structural):
    """Parameters of a Boltzmann machine p = f / Z, with every unit summed out that can be in closed form."""

    @property
    def visible_bias(self) -> Float[Tensor, " V"]:
        """Biases of the visible units; their number, dtype and device are those of the machine."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters by name."""
        ...

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters, by which a partition function is matched to its machine."""
        ...

    @property
    def double(self) -> "Machine":
        """The same machine in float64, detached."""
        ...

    def check(self) -> None:
        """Raise ValueError for invalid parameters: not finite, or couplings that are not symmetric."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of units of each layer."""
        ...

    @property
    def num_enumerated(self) -> int:
        """Number of {0, 1} units over whose states an exact sum runs."""
        ...

    def log_unnormalized_of_enumerated(self, states: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
        """Log f of states of the enumerated units with all other units summed out, in nats."""
        ...

    def states_given(self, states: Float[Tensor, "S K"]) -> Float[Tensor, "S U"]:
        """Draw of the states that the path runs over, given those of the enumerated units."""
        ...

    def path(self, base_bias: Float[Tensor, " V"] | None) -> BoltzmannPath:
        """Path from visible units with these natural parameters and fair coins else; None takes parameters 0."""
        ...

    def natural_parameters(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Natural parameters of independent visible units with the rows' means.

        Raises:
            ValueError: for rows that do not fit.
        """
        ...

    def bounds(self, visible: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Lower and upper bound of log f of each row in nats, which are equal where log f is exact.

        Raises:
            ValueError: for rows that do not fit.
        """
        ...


@runtime_checkable
class SuppliesMachine(Protocol, metaclass=Structural):
    """A model p = f / Z that provides its parameters as a `machine`: a Pyro module, or parameters alone."""

    @property
    def machine(self) -> Machine: ...
