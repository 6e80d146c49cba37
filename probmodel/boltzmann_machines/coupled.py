"""Boltzmann machine of {0, 1} units whose visible ones are coupled (Ackley, Hinton & Sejnowski, 1985; Osindero & Hinton, 2008).

p(v, h) ∝ exp(½ v J v + v W h + b v + c h); without hidden units it is fully visible, with them semi-restricted.  The hidden
units are summed out: f(v) = exp(½ v J v + b v) ∏_j (1 + exp(c_j + v W_j)).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from probmodel.boltzmann_machines.couplings import Block, block, colour_classes
from probmodel.boltzmann_machines.harmonium import check_width
from probmodel.boltzmann_machines.states import THRESHOLD, bernoulli, logit_of_mean
from probmodel.boltzmann_machines.units import BernoulliUnits
from probmodel.protocols import digest

UNITS = BernoulliUnits()


class CoupledMachine(NamedTuple):
    """Parameters: J (V, V), symmetric with an empty diagonal, W (V, H), b (V,), c (H,); H may be 0."""

    couplings: Float[Tensor, "V V"]
    weight: Float[Tensor, "V H"]
    visible_bias: Float[Tensor, " V"]
    hidden_bias: Float[Tensor, " H"]

    @property
    def machine(self) -> "CoupledMachine":
        """Itself: what the evidence room asks a model for."""
        return self

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name; those of hidden units only where there are any."""
        own = {"couplings": self.couplings, "visible_bias": self.visible_bias}
        return own | ({"weight": self.weight, "hidden_bias": self.hidden_bias} if len(self.hidden_bias) else {})

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters: what a partition function belongs to."""
        return digest(list(self.tensors.values()))

    @property
    def double(self) -> "CoupledMachine":
        """The machine in float64, detached."""
        return CoupledMachine(*(each.detach().double() for each in self))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Visible and hidden units."""
        return tuple(self.weight.shape)

    @property
    def num_enumerated(self) -> int:
        """Units that an exact sum runs over: the visible ones, which are coupled."""
        return len(self.visible_bias)

    def hidden_inputs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """Log odds of the hidden units given v."""
        return self.hidden_bias + v @ self.weight

    def log_unnormalised(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Log f(v) = −free energy, nats."""
        pairs = 0.5 * (v @ self.couplings * v).sum(-1)
        return pairs + v @ self.visible_bias + softplus(self.hidden_inputs(v), threshold=THRESHOLD).sum(-1)

    def gibbs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """The next v: hidden units given v, then class after class of uncoupled visible ones; leaves f invariant."""
        path = self.path(None)
        return path.gibbs(torch.ones(v.shape[:-1]).to(v), path.fields(v))

    def log_masses(self, states: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
        """Log f of states of the visible units, nats."""
        return self.log_unnormalised(states)

    def given(self, states: Float[Tensor, "S V"]) -> Float[Tensor, "S V"]:
        """The states, all of whose units are enumerated."""
        return states

    def path(self, base_bias: Float[Tensor, " V"] | None) -> "CoupledPath":
        """From visible units with these log odds and hidden fair coins; None takes fair coins for all."""
        visible = torch.zeros_like(self.visible_bias) if base_bias is None else base_bias
        blocks = tuple(block(self.couplings, units) for units in colour_classes(self.couplings))
        every = block(self.couplings, torch.arange(len(visible), device=visible.device))
        return CoupledPath(self, blocks, every, visible, torch.zeros_like(self.hidden_bias))

    def natural(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Log odds of the rows' means, one row of each value added."""
        UNITS.check(visible)
        return UNITS.natural(visible.to(self.visible_bias))

    def bounds(self, visible: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Log f of each row, exact, twice."""
        check_width(visible, len(self.visible_bias))
        UNITS.check(visible)
        log_f = self.log_unnormalised(visible.to(self.visible_bias))
        return log_f, log_f


class CoupledFields(NamedTuple):
    """What every f_β needs of v; states and the sums over their neighbours have the units first."""

    v: Float[Tensor, "V *S"]
    local: Float[Tensor, "V *S"]
    hidden: Float[Tensor, "*S H"]
    pairs: Float[Tensor, "*S"]
    base: Float[Tensor, "*S"]
    bias: Float[Tensor, "*S"]


class CoupledPath(NamedTuple):
    """f_β(v) from independent units with log odds a and d at β = 0 to the machine at β = 1; it draws from the global state.

    log f_β(v) = ((1 − β) a + β b) v + β ½ v J v + Σ_j log(1 + exp((1 − β) d_j + β (c_j + v W_j))).
    """

    machine: CoupledMachine
    blocks: tuple[Block, ...]
    """Units drawn together, in the order in which a step takes them."""
    every: Block
    visible_base: Float[Tensor, " V"]
    hidden_base: Float[Tensor, " H"]

    @property
    def log_z0(self) -> float:
        """Log Σ_v f_0(v)."""
        return float(sum(softplus(base, threshold=THRESHOLD).sum() for base in (self.visible_base, self.hidden_base)))

    @property
    def reversed(self) -> "CoupledPath":
        """The path whose steps are these backwards in time: hidden units first here too, then the blocks from the last on."""
        return self._replace(blocks=self.blocks[::-1])

    def base(self, *size: int) -> Tensor:
        """Draws at β = 0."""
        return bernoulli(self.visible_base.expand(*size, -1))

    def log_base(self, v: Tensor) -> Tensor:
        """Zero: states are counted."""
        return UNITS.log_base(v)

    def fields(self, v: Tensor) -> CoupledFields:
        """The products of v that every f_β needs."""
        across = v.movedim(-1, 0).contiguous()
        local = self.every.field(across.flatten(1)).view_as(across)
        pairs = 0.5 * (local * across).sum(0)
        return CoupledFields(
            across, local, v @ self.machine.weight, pairs, v @ self.visible_base, v @ self.machine.visible_bias
        )

    def hidden_inputs(self, beta: Tensor, fields: CoupledFields) -> Tensor:
        """(1 − β) d + β (c + v W), log odds of the hidden units given v."""
        beta = beta[..., None]
        return (1 - beta) * self.hidden_base + beta * (self.machine.hidden_bias + fields.hidden)

    def log_f(self, beta: Tensor, fields: CoupledFields) -> Tensor:
        """Log f_β, nats."""
        inputs = softplus(self.hidden_inputs(beta, fields), threshold=THRESHOLD).sum(-1)
        return (1 - beta) * fields.base + beta * (fields.bias + fields.pairs) + inputs

    def gibbs(self, beta: Tensor, fields: CoupledFields) -> Tensor:
        """The next v: hidden units given v, then block after block of visible ones; leaves f_β invariant."""
        h = bernoulli(self.hidden_inputs(beta, fields)).movedim(-1, 0)
        v, shape = fields.v.flatten(1).clone(), fields.v.shape
        beta = beta.expand(shape[1:]).flatten()
        from_hidden = (self.machine.weight @ h.flatten(1)) if len(self.hidden_base) else None
        for turn, each in enumerate(self.blocks):
            field = fields.local.flatten(1)[each.units] if turn == 0 else each.field(v)
            field = field + self.machine.visible_bias[each.units, None]
            if from_hidden is not None:
                field = field + from_hidden[each.units]
            v[each.units] = bernoulli((1 - beta) * self.visible_base[each.units, None] + beta * field)
        return v.view(shape).movedim(0, -1)

    def fitted(self, v: Float[Tensor, "N V"]) -> "CoupledPath":
        """From units whose means are those of v and of the hidden units given v."""
        hidden = torch.sigmoid(self.machine.hidden_inputs(v))
        return self._replace(visible_base=logit_of_mean(v), hidden_base=logit_of_mean(hidden))
