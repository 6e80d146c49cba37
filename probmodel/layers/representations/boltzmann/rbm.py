"""Restricted Boltzmann machine (Smolensky, 1986; Hinton, 2002) with visible units of any exponential family.

Welling, Rosen-Zvi & Hinton (2005) call it an exponential-family harmonium.
"""

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits
from probmodel.families.boltzmann_machines.exact_sum import BoltzmannRows
from probmodel.families.boltzmann_machines.harmonium import Harmonium, HarmoniumPath, TemperedMachines, check_width
from probmodel.families.boltzmann_machines.units import Units
from probmodel.layers.representations.boltzmann.rows import check_row_data
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer

RBM_START_SCALE = 0.01
"""Standard deviation of the initial weights (Hinton, 2012)."""


class RBM(nn.Module):
    """Restricted Boltzmann machine P(v, h) ∝ m(v) exp(T(v) W h + b T(v) + c h) with hidden units {0, 1}.

    T is the sufficient statistic and m the base measure of the visible units' family.

    **Normalized where possible**: called as `rbm(x)` it is a Pyro model of the rows with log density log f − log Z,
    where Z is a sum of up to 2^14 terms.  A larger machine raises a ValueError, since a density without log Z has no
    meaning. Any machine is fitted by `BoltzmannLearning`, and scored by `evidence.log_partition`,
    `log_partition_sandwich` and `log_likelihood`.

    As a representation it gives the probabilities of the hidden units given the features.

    Args:
        in_features: number of visible units, V.
        out_features: number of hidden units, H.
        units: family of the visible units; {0, 1} by default.

    Raises:
        ValueError: if a layer has no units, or if `units` is a family for a number of columns unequal to `in_features`.

    Reference:
        Hinton (2012), "A practical guide to training restricted Boltzmann machines".
    """

    @checks_arguments
    def __init__(self, in_features: int, out_features: int, *, units: Units | None = None) -> None:
        super().__init__()
        integer("in_features", in_features)
        integer("out_features", out_features)
        self.in_features, self.out_features = in_features, out_features
        self.units = BernoulliUnits() if units is None else units
        if self.units.num_units not in (None, in_features):
            raise ValueError(
                f"expected visible units of {in_features} columns, got a family of {self.units.num_units}; pass "
                f"in_features={self.units.num_units}"
            )
        self.weight = nn.Parameter(RBM_START_SCALE * torch.randn(in_features, out_features))
        self.visible_bias = nn.Parameter(torch.zeros(in_features))
        self.hidden_bias = nn.Parameter(torch.zeros(out_features))

    @property
    def layer_couplings(self) -> dict[str, tuple[str, str]]:
        """Name of each weight matrix → names of the biases of the two layers that it joins."""
        return {"weight": ("visible_bias", "hidden_bias")}

    @property
    def machine(self) -> Harmonium:
        """The machine at the present values of the parameters."""
        return Harmonium(self.weight, self.visible_bias, self.hidden_bias, self.units)

    def free_energy(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Free energy F(v) = −log Σ_h exp(−energy(v, h)) in nats per row, so that p(v) = exp(−F(v)) / Z."""
        return -self.machine.log_unnormalized(v)

    def gradients(self, v: Float[Tensor, "N V"]) -> dict[str, Tensor]:
        """Gradient of the mean of −free_energy over rows with respect to each parameter, by name.

        It has the closed form ⟨T(v) h⟩, ⟨T(v)⟩ and ⟨h⟩ given v, but for parameters of `units`, which are differentiated
        automatically.
        """
        own = dict(self.units.named_parameters()) if isinstance(self.units, nn.Module) else {}
        of_units = torch.autograd.grad(-self.free_energy(v).mean(), list(own.values())) if own else ()
        with torch.no_grad():
            statistic, hidden = self.units.statistic(v), self.hidden(v)
            return {
                "weight": statistic.T @ hidden / len(v),
                "visible_bias": statistic.mean(0),
                "hidden_bias": hidden.mean(0),
                **{f"units.{name}": grad for name, grad in zip(own, of_units, strict=True)},
            }

    def gibbs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """One block Gibbs step, hidden units and then visible ones; no gradients, global random state."""
        with torch.no_grad():
            return self.machine.gibbs(v)

    def hidden(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """Probabilities P(h = 1 | v) of the hidden units."""
        return torch.sigmoid(self.machine.hidden_inputs(v))

    def tempered(self, betas: Float[Tensor, " T"], base_bias: Float[Tensor, " V"] | None = None) -> TemperedMachines:
        """Machines from independent units at β = 0 to this one at β = 1, for parallel tempering.

        Args:
            betas: inverse temperatures, (T,).
            base_bias: natural parameters of the visible units at β = 0, such as `units.natural_parameters(training rows)`, where
                hidden units have probability ½; None keeps the biases b and c and tempers only the weights.
        """
        visible = self.visible_bias if base_bias is None else base_bias
        hidden = self.hidden_bias if base_bias is None else torch.zeros_like(self.hidden_bias)
        return TemperedMachines(HarmoniumPath(self.machine, visible, hidden), betas)

    def forward(self, x: Float[Tensor, "N V"]) -> None:
        """Observe rows under the normalized p(v); raise ValueError for more than 14 units to sum over."""
        machine = self.machine
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("x", BoltzmannRows(machine, machine.log_unnormalized, machine.states_given, len(x)), obs=x)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {}, N)` with rows of values that the visible units can have."""
        check_row_data("an RBM", data, self._check_rows)

    def model(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> Float[Tensor, "N H"]:
        """Probabilities of the hidden units given the features.

        Features between the values of the units are accepted as their means, so that machines can be stacked.
        """
        check_width(h, self.in_features)
        return self.hidden(h)

    def guide(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> None:
        """Do nothing: the hidden units are summed out, and there are no latents."""

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"in_features": self.in_features, "out_features": self.out_features, "units": self.units}

    def _check_rows(self, v: Tensor) -> None:
        check_width(v, self.in_features)
        self.units.check(v)
