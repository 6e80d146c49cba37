"""Boltzmann machine with couplings between visible units (Ackley, Hinton & Sejnowski, 1985; Osindero & Hinton, 2008)."""

import pyro
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from probmodel.families.boltzmann_machines.coupled import UNITS, CoupledMachine, coupled_path
from probmodel.families.boltzmann_machines.couplings import colors
from probmodel.families.boltzmann_machines.exact_sum import BoltzmannRows
from probmodel.families.boltzmann_machines.harmonium import TemperedMachines, check_width
from probmodel.layers.representations.boltzmann.rows import check_row_data
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset

MACHINE_START_SCALE = 0.01
"""Standard deviation of the initial couplings and weights (Hinton, 2012)."""


class BoltzmannMachine(nn.Module):
    """Boltzmann machine P(v, h) ∝ exp(½ v J v + v W h + b v + c h) of {0, 1} units.

    It is fully visible without hidden units, and semi-restricted with them.

    **Normalized where possible**: called as `machine(x)` it is a Pyro model of the rows with log density log f − log Z,
    where Z is a sum of up to 2^14 terms.  A larger machine raises a ValueError, since a density without log Z has no
    meaning. Any machine is fitted by `BoltzmannLearning`, and scored by `evidence.log_partition`,
    `log_partition_sandwich` and `log_likelihood`.

    Args:
        in_features: number of visible units, V.
        out_features: number of hidden units, H, which are not coupled with each other; 0 for a fully visible machine.
        edges: True for the pairs of visible units that are coupled, (V, V), symmetric; None couples all pairs.

    Raises:
        ValueError: if there is no visible unit, or `edges` is not an undirected graph of the visible units.

    Reference:
        Ackley, Hinton & Sejnowski (1985), "A learning algorithm for Boltzmann machines"; Osindero & Hinton (2008),
        "Modeling image patches with a directed hierarchy of Markov random fields".
    """

    @checks_arguments
    def __init__(self, in_features: int, out_features: int = 0, *, edges: Bool[Tensor, "V V"] | None = None) -> None:
        super().__init__()
        if in_features < 1 or out_features < 0:
            raise ValueError(
                f"expected 1 or more visible and 0 or more hidden units, got {in_features} and {out_features}; add units"
            )
        self.in_features, self.out_features, self.given_edges = in_features, out_features, edges is not None
        self.edges: Tensor
        self.register_buffer("edges", _checked(edges, in_features))
        self.colors: Tensor
        self.register_buffer("colors", colors(self.edges))
        self.pairs: Tensor
        self.register_buffer("pairs", torch.nonzero(self.edges.triu(1)))
        self.upper = nn.Parameter(MACHINE_START_SCALE * torch.randn(len(self.pairs)))
        self.weight = nn.Parameter(MACHINE_START_SCALE * torch.randn(in_features, out_features))
        self.visible_bias = nn.Parameter(torch.zeros(in_features))
        self.hidden_bias = nn.Parameter(torch.zeros(out_features))

    @property
    def couplings(self) -> Float[Tensor, "V V"]:
        """Coupling matrix J, built from one parameter per pair of coupled units."""
        low, high = self.pairs.T
        empty = self.upper.new_zeros(self.in_features, self.in_features)
        return empty.index_put((low, high), self.upper).index_put((high, low), self.upper)

    @property
    def layer_couplings(self) -> dict[str, tuple[str, str]]:
        """Name of each weight matrix → names of the biases of the two layers that it joins."""
        return {"weight": ("visible_bias", "hidden_bias")}

    @property
    def machine(self) -> CoupledMachine:
        """The machine at the present values of the parameters."""
        return CoupledMachine(self.couplings, self.weight, self.visible_bias, self.hidden_bias)

    @property
    def color_classes(self) -> list[Int[Tensor, " B"]]:
        """Sets of visible units without couplings between them, which are drawn together."""
        return [torch.nonzero(self.colors == color)[:, 0] for color in range(int(self.colors.max()) + 1)]

    def free_energy(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Free energy F(v) = −log Σ_h exp(−energy(v, h)) in nats per row, so that p(v) = exp(−F(v)) / Z."""
        return -self.machine.log_unnormalized(v)

    def gibbs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """One Gibbs step of the hidden units, then of each set in `color_classes`; no gradients, global random state."""
        with torch.no_grad():
            return self.machine.gibbs(v, self.color_classes)

    def hidden(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """Probabilities P(h = 1 | v) of the hidden units."""
        return torch.sigmoid(self.machine.hidden_inputs(v))

    def tempered(self, betas: Float[Tensor, " T"], base_bias: Float[Tensor, " V"] | None = None) -> TemperedMachines:
        """Machines from independent units at β = 0 to this one at β = 1, for parallel tempering.

        Args:
            betas: inverse temperatures, (T,).
            base_bias: log odds of the visible units at β = 0, where hidden units have probability ½; None keeps the
                biases b and c and tempers only couplings and weights.
        """
        visible = self.visible_bias if base_bias is None else base_bias
        hidden = self.hidden_bias if base_bias is None else torch.zeros_like(self.hidden_bias)
        return TemperedMachines(coupled_path(self.machine, visible, hidden), betas)

    def forward(self, x: Float[Tensor, "N V"]) -> None:
        """Observe rows under the normalized p(v); raise ValueError for more than 14 units to sum over."""
        machine = self.machine
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("x", BoltzmannRows(machine, machine.log_unnormalized, machine.states_given, len(x)), obs=x)

    def check(self, data: Dataset) -> None:
        """Raise ValueError unless data is `Dataset((x,), {}, N)` with rows of {0, 1}."""
        check_row_data("a BoltzmannMachine", data, self._check_rows)

    def model(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> Float[Tensor, "N H"]:
        """Probabilities of the hidden units given the features.

        Features between 0 and 1 are accepted as means of the units, so that machines can be stacked.
        """
        check_width(h, self.in_features)
        return self.hidden(h)

    def guide(self, h: Float[Tensor, "N V"], rows: pyro.plate) -> None:
        """Do nothing: the hidden units are summed out, and there are no latents."""

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        edges = self.edges if self.given_edges else None
        return {"in_features": self.in_features, "out_features": self.out_features, "edges": edges}

    def _check_rows(self, v: Tensor) -> None:
        check_width(v, self.in_features)
        UNITS.check(v)


def _checked(edges: Bool[Tensor, "V V"] | None, num_units: int) -> Bool[Tensor, "V V"]:
    every = ~torch.eye(num_units, dtype=torch.bool)
    if edges is None:
        return every
    if edges.dtype != torch.bool:
        raise ValueError(f"expected edges of dtype bool, got {edges.dtype}; pass edges.bool()")
    if edges.shape != every.shape or bool((edges != edges.T).any()) or bool(edges.diagonal().any()):
        raise ValueError(
            f"expected edges ({num_units}, {num_units}), symmetric with an empty diagonal, got {tuple(edges.shape)}; use "
            "edges | edges.T and clear the diagonal"
        )
    return edges
