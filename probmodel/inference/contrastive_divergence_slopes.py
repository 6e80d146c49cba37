"""The slope of a Boltzmann machine's log likelihood, centred (Melchior, Fischer & Wiskott, 2016), and averages of parameters."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.structural import Structural

MEMORY = 0.01
"""Share of the offsets that is new at each step (Melchior et al., 2016)."""


@runtime_checkable
class Bilinear(Protocol, metaclass=Structural):
    """A machine whose energy holds T(v) W h + b T(v) + c h."""

    weight: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor


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
    """Means μ of the visible statistics and λ of the hidden units, halfway between data and model."""

    visible: Float[Tensor, " V"]
    hidden: Float[Tensor, " H"]

    @staticmethod
    def of(slope: Slope) -> "Offsets":
        """At one step: the free energy's slopes by the biases are minus the means."""
        both = [(slope.data[name] + slope.model[name]) / 2 for name in ("visible_bias", "hidden_bias")]
        return Offsets(*both)

    def moved(self, slope: Slope) -> "Offsets":
        """A running mean of those of the steps."""
        new = Offsets.of(slope)
        return Offsets(*(old.lerp(now, MEMORY) for old, now in zip(self, new, strict=True)))

    def centred(self, slope: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The slope in W, b, c that climbs as the centred machine does, (T(v) − μ) W (h − λ) + …."""
        visible, hidden = slope["visible_bias"], slope["hidden_bias"]
        weight = slope["weight"].addr(self.visible, hidden, alpha=-1).addr_(visible, self.hidden, alpha=-1)
        biases = {"visible_bias": visible - weight @ self.hidden, "hidden_bias": hidden - self.visible @ weight}
        return {**slope, "weight": weight, **biases}


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
