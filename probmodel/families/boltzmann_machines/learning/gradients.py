"""The slope of a Boltzmann machine's log likelihood, centered (Melchior, Fischer & Wiskott, 2016), and averages of parameters."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.structural import Structural

MEMORY = 0.01
"""Share of the offsets that is new at each step (Melchior et al., 2016)."""


@runtime_checkable
class Layered(Protocol, metaclass=Structural):
    """A machine whose log f holds x W y + b x + c y for every two layers that are joined."""

    @property
    def layer_couplings(self) -> Mapping[str, tuple[str, str]]:
        """Name of W → names of b and c."""
        ...


def free_couplings(machine: object, leaves: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Those bonds whose weights and biases all move: centering shifts each by the others' slopes."""
    layer_couplings = machine.layer_couplings if isinstance(machine, Layered) else {}
    return {name: pair for name, pair in layer_couplings.items() if {name, *pair} <= leaves.keys()}


@runtime_checkable
class SuppliesGradients(Protocol, metaclass=Structural):
    """A machine that knows the slope of the mean of −free_energy over rows by each of its parameters."""

    def gradients(self, v: Float[Tensor, "N V"]) -> dict[str, Tensor]: ...


class PhaseGradients(NamedTuple):
    """Of the mean log likelihood: what the data ask for, and what the model already has."""

    data: Mapping[str, Tensor]
    model: Mapping[str, Tensor]

    @property
    def plain(self) -> dict[str, Tensor]:
        """Their difference."""
        return {name: gradient - self.model[name] for name, gradient in self.data.items()}


class Offsets(NamedTuple):
    """Means of each layer's statistics, by the name of its bias, halfway between data and model; and which W joins which."""

    means: Mapping[str, Tensor]
    layer_couplings: Mapping[str, tuple[str, str]]

    @staticmethod
    def of(gradient: PhaseGradients, layer_couplings: Mapping[str, tuple[str, str]]) -> "Offsets":
        """At one step: the slopes of log f by the biases are the means."""
        layers = {bias for pair in layer_couplings.values() for bias in pair}
        return Offsets({name: (gradient.data[name] + gradient.model[name]) / 2 for name in layers}, layer_couplings)

    def moved(self, gradient: PhaseGradients) -> "Offsets":
        """A running mean of those of the steps."""
        new = Offsets.of(gradient, self.layer_couplings).means
        return self._replace(means={name: old.lerp(new[name], MEMORY) for name, old in self.means.items()})

    def centered(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The slope in weights and biases that climbs as the centered machine does, (x − μ) W (y − λ) + …."""
        found = dict(gradient)
        for name, (low, high) in self.layer_couplings.items():
            weight = gradient[name].addr(self.means[low], gradient[high], alpha=-1)
            found[name] = weight.addr_(gradient[low], self.means[high], alpha=-1)
            found[low] = found[low] - found[name] @ self.means[high]
            found[high] = found[high] - self.means[low] @ found[name]
        return found


class Average:
    """The running mean of parameters; nothing where none were added."""

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self.number, self.means = 0, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}

    def add(self, leaves: Mapping[str, Tensor]) -> None:
        """One step's parameters."""
        self.number += 1
        for name, leaf in leaves.items():
            self.means[name].lerp_(leaf.detach(), 1 / self.number)

    def put(self, leaves: Mapping[str, Tensor]) -> None:
        """The means into the parameters."""
        if self.number:
            put(self.means, leaves)


def put(values: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> None:
    """Values into parameters of the same names."""
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(values[name])
