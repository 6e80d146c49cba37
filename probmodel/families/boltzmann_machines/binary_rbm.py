"""Parameters of a restricted Boltzmann machine of {0, 1} units, checked (Smolensky, 1986)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits
from probmodel.families.boltzmann_machines.harmonium import Harmonium, check_finite
from probmodel.protocols.arguments.checks import checks_fields


@checks_fields
@dataclass(frozen=True, eq=False)
class BinaryRBM:
    """Restricted Boltzmann machine of {0, 1} units, p(v, h) ∝ exp(v W h + b v + c h).

    Args:
        weight: couplings W, (V, H).
        visible_bias: biases b of the visible units, (V,).
        hidden_bias: biases c of the hidden units, (H,).

    Raises:
        ValueError: for shapes that do not fit, V or H of 0, or values that are not finite.
    """

    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " B"]
    hidden_bias: Float[Tensor, " C"]

    def __post_init__(self) -> None:
        got = [tuple(each.shape) for each in (self.weight, self.visible_bias, self.hidden_bias)]
        if self.weight.dim() != 2 or 0 in got[0] or got[1:] != [got[0][:1], got[0][1:]]:
            raise ValueError(
                f"expected weight (V, H), visible_bias (V,) and hidden_bias (H,) with V, H > 0, got {', '.join(map(str, got))}; "
                "transpose scikit-learn's components_, which are (H, V)"
            )
        check_finite(self.machine.tensors)

    @property
    def machine(self) -> Harmonium:
        """The harmonium with these parameters, which computes energies, draws and sums."""
        return Harmonium(self.weight, self.visible_bias, self.hidden_bias, BernoulliUnits())

    @property
    def transposed(self) -> "BinaryRBM":
        """The same machine with visible and hidden units exchanged; its partition function is the same."""
        return BinaryRBM(self.weight.T, self.hidden_bias, self.visible_bias)

    def log_unnormalized(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Log f(v) = −free energy: b v + Σ_j log(1 + exp(c_j + v W_j)), in nats per row."""
        return self.machine.log_unnormalized(visible)
