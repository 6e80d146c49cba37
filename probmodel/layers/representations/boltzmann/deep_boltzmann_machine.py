"""Deep Boltzmann machine with two hidden layers (Salakhutdinov & Hinton, 2009)."""

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.deep import UNITS, DeepMachine, HiddenMeanField
from probmodel.families.boltzmann_machines.exact_sum import BoltzmannRows
from probmodel.families.boltzmann_machines.harmonium import HarmoniumPath, TemperedMachines, check_width
from probmodel.layers.representations.boltzmann.rows import check_call
from probmodel.protocols.dataset import Dataset

START_SCALE = 0.01
"""Standard deviation of the weights at the start (Hinton, 2012)."""


class DeepBoltzmannMachine(nn.Module):
    """P(v, h₁, h₂) ∝ exp(v W₁ h₁ + h₁ W₂ h₂ + b v + c₁ h₁ + c₂ h₂) of {0, 1} units.

    **Normalized where it can be**: called as `machine(x)` it is a Pyro model of the rows, log f less log Z, whose sum has up to
    2^14 terms; a larger machine refuses with a ValueError, since its density without log Z would mean nothing.  Any machine is
    fitted by `BoltzmannLearning`, and scored by `evidence.log_partition`, `log_partition_sandwich` and `log_likelihood`.

    The log likelihood of a row is at least −free_energy_bound(v) − log Z, and the gradient of log Z is the mean of that of
    −hidden_free_energy(h₁) over draws of the machine, which chains of `gibbs` give.  So `BoltzmannLearning` climbs by mean field
    for the data and stochastic approximation for the machine.

    As a representation it gives the mean-field probabilities of the upper layer.

    Args:
        in_features: visible units, V.
        hidden: units of the first hidden layer, H.
        out_features: units of the second one, K.

    Reference:
        Salakhutdinov & Hinton (2009), "Deep Boltzmann machines".
    """

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        if min(in_features, hidden, out_features) < 1:
            raise ValueError(f"expected a unit or more a layer, got {(in_features, hidden, out_features)}; add units")
        self.in_features, self.hidden, self.out_features = in_features, hidden, out_features
        self.first = nn.Parameter(START_SCALE * torch.randn(in_features, hidden))
        self.second = nn.Parameter(START_SCALE * torch.randn(hidden, out_features))
        self.visible_bias = nn.Parameter(torch.zeros(in_features))
        self.first_bias = nn.Parameter(torch.zeros(hidden))
        self.second_bias = nn.Parameter(torch.zeros(out_features))

    @property
    def layer_couplings(self) -> dict[str, tuple[str, str]]:
        """Weights → the biases of the two layers that they join."""
        return {"first": ("visible_bias", "first_bias"), "second": ("first_bias", "second_bias")}

    @property
    def machine(self) -> DeepMachine:
        """The parameters as they are now, with what follows from them."""
        return DeepMachine(self.first, self.second, self.visible_bias, self.first_bias, self.second_bias)

    def free_energy(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """F(v) = −log Σ f(v, h₁, h₂), nats a row, exact: over all states of the smaller hidden layer.

        Raises:
            ValueError: where that has more than 14 units.
        """
        return -self.machine.log_unnormalized(v)

    def free_energy_bound(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """An upper bound of F(v) by mean field, nats a row; differentiable in the parameters at a fixed point."""
        with torch.no_grad():
            q = self.machine.mean_field(v)
        return -self.machine.mean_field_bound(v, q)

    def hidden_free_energy(self, first: Float[Tensor, "*S H"]) -> Float[Tensor, "*S"]:
        """−log Σ f(v, h₁, h₂) over v and h₂, nats, exact at any size; Σ over h₁ of its exponential is Z."""
        return -self.machine.bipartite.log_unnormalized(first)

    def gibbs(self, first: Float[Tensor, "*S H"]) -> Float[Tensor, "*S H"]:
        """One block step of h₁, without gradients: (v, h₂) given h₁, then h₁; draws from the global random state."""
        with torch.no_grad():
            return self.machine.bipartite.gibbs(first)

    def upward(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """States of h₁ drawn from the mean field given rows, without gradients; draws from the global random state."""
        with torch.no_grad():
            return torch.bernoulli(self.mean_field(v).first)

    def tempered(self, betas: Float[Tensor, " T"], base_bias: Float[Tensor, " V"] | None = None) -> TemperedMachines:
        """Machines over h₁ from independent units at β = 0 to this one at β = 1, for parallel tempering.

        Args:
            betas: inverse temperatures.
            base_bias: log odds of the visible units at β = 0, the hidden ones being fair coins there; None keeps all biases and
                tempers the weights alone.
        """
        machine = self.machine.bipartite
        kept = HarmoniumPath(machine, machine.visible_bias, machine.hidden_bias)
        return TemperedMachines(kept if base_bias is None else self.machine.path(base_bias), betas)

    def mean_field(self, v: Float[Tensor, "*S V"]) -> HiddenMeanField:
        """Probabilities of the units of both hidden layers under the independent distribution closest to the posterior."""
        return self.machine.mean_field(v)

    def forward(self, x: Float[Tensor, "N V"]) -> None:
        """Rows are observed under p(v), normalized; ValueError for more than 14 units to sum over."""
        machine = self.machine
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("x", BoltzmannRows(machine, machine.log_unnormalized, machine.visible, len(x)), obs=x)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {}, N)` with rows of {0, 1}."""
        check_call("a DeepBoltzmannMachine", data, self._check_rows)

    def model(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> Float[Tensor, "N K"]:
        """Mean-field probabilities of the upper layer given the features.

        Means in between the values of the family are taken as they are, so that machines can be stacked.
        """
        check_width(h, self.in_features)
        return self.mean_field(h).second

    def guide(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> None:
        """Nothing is latent: the hidden units are summed out."""

    def settings(self) -> dict[str, object]:
        """Arguments that build the same piece again."""
        return {"in_features": self.in_features, "hidden": self.hidden, "out_features": self.out_features}

    def _check_rows(self, v: Tensor) -> None:
        check_width(v, self.in_features)
        UNITS.check(v)
