"""Boltzmann machine of {0, 1} units with coupled visible units (Ackley, Hinton & Sejnowski, 1985; Osindero & Hinton, 2008).

p(v, h) ∝ exp(½ v J v + v W h + b v + c h); without hidden units the machine is fully visible, with them
semi-restricted.  The hidden units are summed out: f(v) = exp(½ v J v + b v) ∏_j (1 + exp(c_j + v W_j)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from probmodel.families.boltzmann_machines.couplings import SparseRows, color_classes, rows_of
from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits
from probmodel.families.boltzmann_machines.harmonium import check_finite, check_width
from probmodel.families.boltzmann_machines.states import SOFTPLUS_THRESHOLD, bernoulli, logit_of_mean
from probmodel.protocols.dataset import digest

UNITS = BernoulliUnits()


@dataclass(frozen=True, eq=False)
class CoupledMachine:
    """Parameters J (V, V), symmetric with a zero diagonal, W (V, H), b (V,) and c (H,); H may be 0.

    In a fully visible machine the largest class of mutually uncoupled units is summed out as hidden units are, so that
    sums and annealing run over the other units alone, which are every second one on a lattice.
    """

    couplings: Float[Tensor, "V V"]
    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " V"]
    hidden_bias: Float[Tensor, " H"]

    @property
    def machine(self) -> "CoupledMachine":
        """The machine itself, as the evidence functions read a model's `machine`."""
        return self

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name; those of hidden units only where the machine has some."""
        own = {"couplings": self.couplings, "visible_bias": self.visible_bias}
        return own | ({"weight": self.weight, "hidden_bias": self.hidden_bias} if len(self.hidden_bias) else {})

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters, by which a partition function is matched to its machine."""
        return digest(list(self.tensors.values()))

    @property
    def double(self) -> "CoupledMachine":
        """The same machine in float64, detached."""
        own = (self.couplings, self.weight, self.visible_bias, self.hidden_bias)
        return CoupledMachine(*(each.detach().double() for each in own))

    def check(self) -> None:
        """Raise ValueError unless shapes fit, parameters are finite and couplings symmetric with a zero diagonal."""
        check_finite(self.tensors)
        got = [tuple(each.shape) for each in (self.couplings, self.weight, self.visible_bias, self.hidden_bias)]
        v, h = len(self.visible_bias), len(self.hidden_bias)
        if got[:2] != [(v, v), (v, h)]:
            raise ValueError(
                f"expected couplings (V, V), weight (V, H), visible_bias (V,) and hidden_bias (H,), got {got}; pass weight "
                "(V, 0) and hidden_bias (0,) without hidden units"
            )
        j = self.couplings.detach()
        if bool((j != j.T).any()) or bool(j.diagonal().any()):
            raise ValueError(
                "expected symmetric couplings with a zero diagonal, got others; replace an upper triangle J by J + J.T, and add "
                "half of a diagonal to visible_bias"
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of visible and hidden units."""
        return tuple(self.weight.shape)

    @cached_property
    def kept_and_summed_out(self) -> tuple[Int[Tensor, " R"], Int[Tensor, " A"]]:
        """Indices of the visible units that sums and annealing run over, and of those that are summed out."""
        units = torch.arange(len(self.visible_bias), device=self.visible_bias.device)
        if len(self.hidden_bias):
            return units, units[:0]
        largest = max(color_classes(self.couplings), key=len)
        # Without any couplings one unit is kept, so that there is one to sum over.
        out = torch.isin(units, largest) & (units > 0 if len(largest) == len(units) else units >= 0)
        return units[~out], units[out]

    @cached_property
    def semi_restricted(self) -> "CoupledMachine":
        """The same machine with the summed-out visible units as hidden units."""
        kept, out = self.kept_and_summed_out
        if not len(out):
            return self
        couplings = self.couplings[kept]
        return CoupledMachine(couplings[:, kept], couplings[:, out], self.visible_bias[kept], self.visible_bias[out])

    @property
    def num_enumerated(self) -> int:
        """Number of units that an exact sum runs over: visible units that are not summed out."""
        return len(self.kept_and_summed_out[0])

    def hidden_inputs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """Log odds of the hidden units given v."""
        return self.hidden_bias + v @ self.weight

    def log_unnormalized(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log f(v) = −free energy, in nats."""
        pairs = 0.5 * (v @ self.couplings * v).sum(-1)
        return pairs + v @ self.visible_bias + softplus(self.hidden_inputs(v), threshold=SOFTPLUS_THRESHOLD).sum(-1)

    def gibbs(self, v: Float[Tensor, "*S V"], classes: Sequence[Int[Tensor, " B"]]) -> Float[Tensor, "*S V"]:
        """Gibbs step from v that leaves f invariant: hidden units given v, then each class of visible units."""
        inputs = self.visible_bias + bernoulli(self.hidden_inputs(v)) @ self.weight.T
        v = v.clone()
        for units in classes:
            v[..., units] = bernoulli(inputs[..., units] + v @ self.couplings[:, units])
        return v

    def log_unnormalized_of_enumerated(self, states: Float[Tensor, "M R"]) -> Float[Tensor, " M"]:
        """Log f of states of the units that are not summed out, in nats."""
        return self.semi_restricted.log_unnormalized(states)

    def states_given(self, states: Float[Tensor, "S R"]) -> Float[Tensor, "S R"]:
        """The states: the path runs over the same units."""
        return states

    def path(self, base_bias: Float[Tensor, " V"] | None) -> "CoupledPath":
        """Path from visible units with these log odds and hidden fair coins; None takes fair coins for all units."""
        visible = torch.zeros_like(self.visible_bias) if base_bias is None else base_bias
        kept, out = self.kept_and_summed_out
        return coupled_path(
            self.semi_restricted, visible[kept], torch.cat([visible[out], torch.zeros_like(self.hidden_bias)])
        )

    def natural_parameters(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Log odds of the rows' means, smoothed by one added row of zeros and one of ones."""
        UNITS.check(visible)
        return UNITS.natural_parameters(visible.to(self.visible_bias))

    def bounds(self, visible: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Lower and upper bound of log f of each row in nats, which are equal since log f is exact."""
        check_width(visible, len(self.visible_bias))
        UNITS.check(visible)
        log_f = self.log_unnormalized(visible.to(self.visible_bias))
        return log_f, log_f


class CoupledProducts(NamedTuple):
    """Functions of v that every f_β uses; states and sums over neighbors have the units as first axis."""

    v: Float[Tensor, "V *S"]
    local: Float[Tensor, "V *S"] | None
    """J v; None without couplings."""
    hidden: Float[Tensor, "H *S"]
    """W v."""
    base: Float[Tensor, "*S"]
    """a v, with the base's log odds a."""
    log_f: Float[Tensor, "*S"]
    """½ v J v + b v."""


class CoupledPath(NamedTuple):
    """Path f_β(v) from independent units with log odds a and d at β = 0 to the machine at β = 1.

    log f_β(v) = ((1 − β) a + β b) v + β ½ v J v + Σ_j log(1 + exp((1 − β) d_j + β (c_j + v W_j))).
    Draws use the global random state.
    """

    machine: CoupledMachine
    visible_base: Float[Tensor, " V"]
    hidden_base: Float[Tensor, " H"]
    classes: tuple[Int[Tensor, " B"], ...]
    """Classes of visible units that are drawn together, in the order of a Gibbs step."""
    class_couplings: tuple[SparseRows, ...]
    """Couplings of each class; empty where no visible units are coupled."""
    to_hidden: SparseRows | None
    """Rows of Wᵀ, one per hidden unit; None without hidden units."""
    to_visible: SparseRows | None
    """Rows of W, one per visible unit; None without hidden units."""

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v), in nats."""
        return float(
            sum(softplus(base, threshold=SOFTPLUS_THRESHOLD).sum() for base in (self.visible_base, self.hidden_base))
        )

    @property
    def reversed(self) -> "CoupledPath":
        """Path whose steps are the time reversals of these: hidden units first, then the classes in reverse order."""
        return self._replace(classes=self.classes[::-1], class_couplings=self.class_couplings[::-1])

    def base(self, *size: int) -> Tensor:
        """Independent draws at β = 0."""
        return bernoulli(self.visible_base.expand(*size, -1))

    def log_base(self, v: Tensor) -> Tensor:
        """Log base measure, which is zero."""
        return UNITS.log_base(v)

    def products(self, v: Tensor) -> CoupledProducts:
        """Products of v with the parameters, which every f_β uses."""
        across = v.movedim(-1, 0).contiguous()
        columns, shape = across.flatten(1), across.shape[1:]
        base, log_f = (torch.stack([self.visible_base, self.machine.visible_bias]) @ columns).view(2, *shape)
        hidden = columns[:0] if self.to_hidden is None else self.to_hidden.times(columns)
        if not self.class_couplings:
            return CoupledProducts(across, None, hidden.view(-1, *shape), base, log_f)
        local = torch.empty_like(columns)
        for units, block in zip(self.classes, self.class_couplings, strict=True):
            local[units] = block.times(columns)
        pairs = 0.5 * (local * columns).sum(0).view(shape)
        return CoupledProducts(across, local.view_as(across), hidden.view(-1, *shape), base, log_f + pairs)

    def hidden_inputs(self, beta: Tensor, products: CoupledProducts) -> Tensor:
        """Log odds (1 − β) d + β (c + v W) of the hidden units given v, with the units as first axis."""
        column = (-1, *[1] * (products.hidden.dim() - 1))
        return (1 - beta) * self.hidden_base.view(column) + beta * (
            self.machine.hidden_bias.view(column) + products.hidden
        )

    def log_f(self, beta: Tensor, products: CoupledProducts) -> Tensor:
        """Log f_β, in nats."""
        inputs = softplus(self.hidden_inputs(beta, products), threshold=SOFTPLUS_THRESHOLD).sum(0)
        return (1 - beta) * products.base + beta * products.log_f + inputs

    def gibbs(self, beta: Tensor, products: CoupledProducts) -> Tensor:
        """Gibbs step that leaves f_β invariant: hidden units given v, then each class of visible units."""
        h, shape = bernoulli(self.hidden_inputs(beta, products)).flatten(1), products.v.shape
        beta = beta.expand(shape[1:]).flatten()
        inputs = self.machine.visible_bias[:, None]
        inputs = inputs if self.to_visible is None else inputs + self.to_visible.times(h)
        inputs = (1 - beta) * self.visible_base[:, None] + beta * inputs
        if products.local is None:
            return bernoulli(inputs).view(shape).movedim(0, -1)
        v, local = products.v.flatten(1).clone(), products.local.flatten(1)
        for turn, (units, block) in enumerate(zip(self.classes, self.class_couplings, strict=True)):
            v[units] = bernoulli(inputs[units] + beta * (block.times(v) if turn else local[units]))
        return v.view(shape).movedim(0, -1)

    def fitted_base(self, v: Float[Tensor, "N V"]) -> "CoupledPath":
        """Path from independent units with the means of v and of the hidden units given v."""
        hidden = torch.sigmoid(self.machine.hidden_inputs(v))
        return self._replace(visible_base=logit_of_mean(v), hidden_base=logit_of_mean(hidden))


def coupled_path(
    machine: CoupledMachine, visible_base: Float[Tensor, " V"], hidden_base: Float[Tensor, " H"]
) -> CoupledPath:
    """Path over states of all visible units of the machine, from independent units with these log odds."""
    classes = tuple(color_classes(machine.couplings))
    class_couplings = tuple(rows_of(machine.couplings[units]) for units in classes) if len(classes) > 1 else ()
    hidden = bool(len(machine.hidden_bias))
    to_hidden = rows_of(machine.weight.T.contiguous()) if hidden else None
    to_visible = rows_of(machine.weight) if hidden else None
    return CoupledPath(machine, visible_base, hidden_base, classes, class_couplings, to_hidden, to_visible)
