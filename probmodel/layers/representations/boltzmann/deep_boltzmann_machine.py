"""Deep Boltzmann machine with two hidden layers (Salakhutdinov & Hinton, 2009)."""

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.deep import UNITS, DeepMachine, HiddenMeanField
from probmodel.families.boltzmann_machines.exact_sum import BoltzmannRows
from probmodel.families.boltzmann_machines.harmonium import HarmoniumPath, TemperedMachines, check_width
from probmodel.layers.representations.boltzmann.rows import check_row_data
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset

DEEP_START_SCALE = 0.01
"""Standard deviation of the initial weights (Hinton, 2012)."""


class DeepBoltzmannMachine(nn.Module):
    """Deep Boltzmann machine P(v, h₁, h₂) ∝ exp(v W₁ h₁ + h₁ W₂ h₂ + b v + c₁ h₁ + c₂ h₂) of {0, 1} units.

    **Normalized where possible**: called as `machine(x)` it is a Pyro model of the rows with log density log f − log Z,
    where Z is a sum of up to 2^14 terms.  A larger machine raises a ValueError, since a density without log Z has no
    meaning. Any machine is fitted by `BoltzmannLearning`, and scored by `evidence.log_partition`,
    `log_partition_sandwich` and `log_likelihood`.

    The log likelihood of a row is at least −free_energy_bound(v) − log Z.  The gradient of log Z is the mean gradient
    of −hidden_free_energy(h₁) over draws of the machine, which chains of `gibbs` supply.  `BoltzmannLearning` therefore
    ascends this bound with mean field in the positive phase and stochastic approximation in the negative phase.

    As a representation it gives the mean-field probabilities of the second hidden layer.

    Args:
        in_features: number of visible units, V.
        num_hidden: number of units of the first hidden layer, H.
        out_features: number of units of the second hidden layer, K.

    Raises:
        ValueError: if a layer has no units.

    Reference:
        Salakhutdinov & Hinton (2009), "Deep Boltzmann machines".
    """

    @checks_arguments
    def __init__(self, in_features: int, num_hidden: int, out_features: int) -> None:
        super().__init__()
        if min(in_features, num_hidden, out_features) < 1:
            raise ValueError(
                f"expected 1 or more units per layer, got {(in_features, num_hidden, out_features)}; add units"
            )
        self.in_features, self.num_hidden, self.out_features = in_features, num_hidden, out_features
        self.first = nn.Parameter(DEEP_START_SCALE * torch.randn(in_features, num_hidden))
        self.second = nn.Parameter(DEEP_START_SCALE * torch.randn(num_hidden, out_features))
        self.visible_bias = nn.Parameter(torch.zeros(in_features))
        self.first_bias = nn.Parameter(torch.zeros(num_hidden))
        self.second_bias = nn.Parameter(torch.zeros(out_features))

    @property
    def layer_couplings(self) -> dict[str, tuple[str, str]]:
        """Name of each weight matrix → names of the biases of the two layers that it joins."""
        return {"first": ("visible_bias", "first_bias"), "second": ("first_bias", "second_bias")}

    @property
    def machine(self) -> DeepMachine:
        """The machine at the present values of the parameters."""
        return DeepMachine(self.first, self.second, self.visible_bias, self.first_bias, self.second_bias)

    def free_energy(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Free energy F(v) = −log Σ f(v, h₁, h₂) in nats per row, exact, over all states of the smaller hidden layer.

        Raises:
            ValueError: if that layer has more than 14 units.
        """
        return -self.machine.log_unnormalized(v)

    def free_energy_bound(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Upper bound of F(v) by mean field, in nats per row; differentiable in the parameters at a fixed point."""
        with torch.no_grad():
            q = self.machine.mean_field(v)
        return -self.machine.mean_field_bound(v, q)

    def hidden_free_energy(self, first: Float[Tensor, "*S H"]) -> Float[Tensor, "*S"]:
        """Free energy F(h₁) = −log Σ f(v, h₁, h₂) over v and h₂, nats, exact at any size; Σ exp(−F(h₁)) over h₁ is Z."""
        return -self.machine.bipartite.log_unnormalized(first)

    def gibbs(self, first: Float[Tensor, "*S H"]) -> Float[Tensor, "*S H"]:
        """One block Gibbs step of h₁, (v, h₂) given h₁ and then h₁; no gradients, global random state."""
        with torch.no_grad():
            return self.machine.bipartite.gibbs(first)

    def upward(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """States of h₁ drawn from the mean field given rows; no gradients, global random state."""
        with torch.no_grad():
            return torch.bernoulli(self.mean_field(v).first)

    def tempered(self, betas: Float[Tensor, " T"], base_bias: Float[Tensor, " V"] | None = None) -> TemperedMachines:
        """Machines over h₁ from independent units at β = 0 to this one at β = 1, for parallel tempering.

        Args:
            betas: inverse temperatures, (T,).
            base_bias: log odds of the visible units at β = 0, where hidden units have probability ½; None keeps all
                biases and tempers only the weights.
        """
        machine = self.machine.bipartite
        kept = HarmoniumPath(machine, machine.visible_bias, machine.hidden_bias)
        return TemperedMachines(kept if base_bias is None else self.machine.path(base_bias), betas)

    def mean_field(self, v: Float[Tensor, "*S V"]) -> HiddenMeanField:
        """Probabilities of the units of both hidden layers under the mean-field approximation of their posterior."""
        return self.machine.mean_field(v)

    def forward(self, x: Float[Tensor, "N V"]) -> None:
        """Observe rows under the normalized p(v); raise ValueError for more than 14 units to sum over."""
        machine = self.machine
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("x", BoltzmannRows(machine, machine.log_unnormalized, machine.visible, len(x)), obs=x)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {}, N)` with rows of {0, 1}."""
        check_row_data("a DeepBoltzmannMachine", data, self._check_rows)

    def model(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Mean-field probabilities of the second hidden layer given the features.

        Features between 0 and 1 are accepted as means of the units, so that machines can be stacked.
        """
        check_width(h, self.in_features)
        return self.mean_field(h).second

    def guide(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> None:
        """Do nothing: the hidden units are summed out, and there are no latents."""

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"in_features": self.in_features, "num_hidden": self.num_hidden, "out_features": self.out_features}

    def _check_rows(self, v: Tensor) -> None:
        check_width(v, self.in_features)
        UNITS.check(v)
