"""The slope of a Boltzmann machine's log likelihood, centred (Melchior, Fischer & Wiskott, 2016), and averages of parameters."""

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
    def bonds(self) -> Mapping[str, tuple[str, str]]:
        """Name of W → names of b and c."""
        ...


def free_bonds(machine: object, leaves: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Those bonds whose weights and biases all move: centring shifts each by the others' slopes."""
    bonds = machine.bonds if isinstance(machine, Layered) else {}
    return {name: pair for name, pair in bonds.items() if {name, *pair} <= leaves.keys()}


@runtime_checkable
class Sloped(Protocol, metaclass=Structural):
    """A machine that knows the slope of the mean of −free_energy over rows by each of its parameters."""

    def slopes(self, v: Float[Tensor, "N V"]) -> dict[str, Tensor]: ...


class Slope(NamedTuple):
    """Of the mean log likelihood: what the data ask for, and what the model already has."""

    data: Mapping[str, Tensor]
    model: Mapping[str, Tensor]

    @property
    def plain(self) -> dict[str, Tensor]:
        """Their difference."""
        return {name: slope - self.model[name] for name, slope in self.data.items()}


class Offsets(NamedTuple):
    """Means of each layer's statistics, by the name of its bias, halfway between data and model; and which W joins which."""

    means: Mapping[str, Tensor]
    bonds: Mapping[str, tuple[str, str]]

    @staticmethod
    def of(slope: Slope, bonds: Mapping[str, tuple[str, str]]) -> "Offsets":
        """At one step: the slopes of log f by the biases are the means."""
        layers = {bias for pair in bonds.values() for bias in pair}
        return Offsets({name: (slope.data[name] + slope.model[name]) / 2 for name in layers}, bonds)

    def moved(self, slope: Slope) -> "Offsets":
        """A running mean of those of the steps."""
        new = Offsets.of(slope, self.bonds).means
        return self._replace(means={name: old.lerp(new[name], MEMORY) for name, old in self.means.items()})

    def centred(self, slope: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The slope in weights and biases that climbs as the centred machine does, (x − μ) W (y − λ) + …."""
        found = dict(slope)
        for name, (low, high) in self.bonds.items():
            weight = slope[name].addr(self.means[low], slope[high], alpha=-1)
            found[name] = weight.addr_(slope[low], self.means[high], alpha=-1)
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
