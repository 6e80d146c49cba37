"""Deep Boltzmann machine with two hidden layers of {0, 1} units (Salakhutdinov & Hinton, 2009).

p(v, h₁, h₂) ∝ exp(v W₁ h₁ + h₁ W₂ h₂ + b v + c₁ h₁ + c₂ h₂).  No coupling joins v and h₂, so that it is a restricted
machine between h₁ on one side and (v, h₂) on the other, with the same partition function.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from probmodel.families.boltzmann_machines.discrete_units import BernoulliUnits
from probmodel.families.boltzmann_machines.harmonium import Harmonium, HarmoniumPath, check_finite, check_width
from probmodel.families.boltzmann_machines.states import SOFTPLUS_THRESHOLD, bernoulli, states_from_integers
from probmodel.protocols.dataset import digest

UNITS = BernoulliUnits()
MEAN_FIELD_STEPS = 50
"""Number of updates of both layers; they converge after about 25 (Salakhutdinov & Hinton, 2009)."""
MAX_ENUMERATED_HIDDEN = 14
"""Largest number of units of the smaller hidden layer at which log f of a row is summed over all their states."""
MAX_VALUES_AT_ONCE = 2**24
"""Largest number of values held at once: units of the larger hidden layer × states × rows."""


class HiddenMeanField(NamedTuple):
    """Probabilities of the units of both hidden layers under an independent distribution near the posterior."""

    first: Float[Tensor, "*S H"]
    second: Float[Tensor, "*S K"]


class DeepMachine(NamedTuple):
    """Parameters W₁ (V, H), W₂ (H, K), b (V,), c₁ (H,) and c₂ (K,) of the machine."""

    first: Float[Tensor, "V H"]
    second: Float[Tensor, "H K"]
    visible_bias: Float[Tensor, " V"]
    first_bias: Float[Tensor, " H"]
    second_bias: Float[Tensor, " K"]

    @property
    def machine(self) -> "DeepMachine":
        """The machine itself, as the evidence functions read a model's `machine`."""
        return self

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters by name."""
        return self._asdict()

    @property
    def digest(self) -> str:
        """Fingerprint of the parameters, by which a partition function is matched to its machine."""
        return digest(list(self))

    @property
    def double(self) -> "DeepMachine":
        """The same machine in float64, detached."""
        return DeepMachine(*(each.detach().double() for each in self))

    def check(self) -> None:
        """Raise ValueError for parameters that are not finite."""
        check_finite(self.tensors)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of units of the three layers."""
        return *self.first.shape, self.second.shape[1]

    @property
    def bipartite(self) -> Harmonium:
        """The restricted machine with h₁ as its visible units and (v, h₂) as its hidden ones."""
        weight = torch.cat([self.first.T, self.second], 1)
        return Harmonium(weight, self.first_bias, torch.cat([self.visible_bias, self.second_bias]), UNITS)

    @property
    def num_enumerated(self) -> int:
        """Number of units that an exact sum runs over: those of h₁, or of v and h₂ if these are fewer."""
        return self.bipartite.num_enumerated

    def log_unnormalized_of_enumerated(self, states: Float[Tensor, "M K"]) -> Float[Tensor, " M"]:
        """Log f of states of the enumerated units with the others summed out, in nats."""
        return self.bipartite.log_unnormalized_of_enumerated(states)

    def states_given(self, states: Float[Tensor, "S K"]) -> Float[Tensor, "S H"]:
        """States of h₁ given those of the enumerated units."""
        return self.bipartite.states_given(states)

    def visible(self, states: Float[Tensor, "S K"]) -> Float[Tensor, "S V"]:
        """A draw of the visible units given states of the enumerated ones."""
        return bernoulli(self.visible_bias + self.states_given(states) @ self.first.T)

    def path(self, base_bias: Float[Tensor, " V"] | None) -> HarmoniumPath:
        """Path over h₁ from visible units with these log odds and fair coins else; None takes fair coins for all units."""
        even = self.bipartite.path(None)
        if base_bias is None:
            return even
        return even._replace(hidden_base=torch.cat([base_bias, torch.zeros_like(self.second_bias)]))

    def natural_parameters(self, visible: Float[Tensor, "N V"]) -> Float[Tensor, " V"]:
        """Log odds of the rows' means, smoothed by one added row of zeros and one of ones."""
        UNITS.check(visible)
        return UNITS.natural_parameters(visible.to(self.visible_bias))

    def bounds(self, visible: Float[Tensor, "N V"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Lower and upper bound of log f of each row, in nats.

        They are equal where the smaller hidden layer can be enumerated, and otherwise the mean-field bound and infinity.
        """
        check_width(visible, len(self.visible_bias))
        UNITS.check(visible)
        v = visible.to(self.visible_bias)
        if min(self.second.shape) <= MAX_ENUMERATED_HIDDEN:
            log_f = self.log_unnormalized(v)
            return log_f, log_f
        low = self.mean_field_bound(v, self.mean_field(v))
        return low, torch.full_like(low, math.inf)

    def log_unnormalized(self, v: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Log f(v) = log Σ_{h₁, h₂} f(v, h₁, h₂) in nats per row, over all states of the smaller hidden layer.

        Raises:
            ValueError: where that layer has more than 14 units.
        """
        inputs, units = self.first_bias + v @ self.first, min(self.second.shape)
        if units > MAX_ENUMERATED_HIDDEN:
            raise ValueError(
                f"expected a hidden layer of at most {MAX_ENUMERATED_HIDDEN} units to sum over, got "
                f"{tuple(self.second.shape)}; use the mean-field bound"
            )
        states = states_from_integers(torch.arange(2**units, device=v.device), units).to(v)
        rows = max(1, MAX_VALUES_AT_ONCE // (len(states) * max(self.second.shape)))
        sums = [torch.logsumexp(self._log_joint(part[:, None], states), 1) for part in inputs.split(rows)]
        return v @ self.visible_bias + torch.cat(sums)

    def mean_field(self, v: Float[Tensor, "*S V"]) -> HiddenMeanField:
        """Mean-field probabilities of the hidden units, by alternating updates after an upward pass with doubled weights."""
        inputs = self.first_bias + v @ self.first
        first = torch.sigmoid(self.first_bias + 2 * v @ self.first)
        for _ in range(MEAN_FIELD_STEPS):
            second = torch.sigmoid(self.second_bias + first @ self.second)
            first = torch.sigmoid(inputs + second @ self.second.T)
        return HiddenMeanField(first, second)

    def mean_field_bound(self, v: Float[Tensor, "*S V"], q: HiddenMeanField) -> Float[Tensor, "*S"]:
        """Lower bound E_q log f(v, h₁, h₂) + entropy of q of log f(v), in nats per row."""
        first, second = q
        pairs = (v @ self.first * first).sum(-1) + (first @ self.second * second).sum(-1)
        biases = v @ self.visible_bias + first @ self.first_bias + second @ self.second_bias
        return pairs + biases + _entropy(first).sum(-1) + _entropy(second).sum(-1)

    def _log_joint(self, inputs: Float[Tensor, "N 1 H"], states: Float[Tensor, "M U"]) -> Float[Tensor, "N M"]:
        """Log of the sum over the larger hidden layer, given states of the smaller one."""
        if self.second.shape[1] <= self.second.shape[0]:
            open_layer = softplus(inputs + states @ self.second.T, threshold=SOFTPLUS_THRESHOLD).sum(-1)
            return states @ self.second_bias + open_layer
        upper = softplus(self.second_bias + states @ self.second, threshold=SOFTPLUS_THRESHOLD).sum(-1)
        return (inputs * states).sum(-1) + upper


def _entropy(probability: Tensor) -> Tensor:
    """Entropy of {0, 1} units, in nats."""
    return -(torch.xlogy(probability, probability) + torch.xlogy(1 - probability, 1 - probability))
