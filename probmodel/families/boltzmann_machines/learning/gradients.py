"""Centered gradient of a Boltzmann machine's log likelihood (Melchior et al., 2016), and averages of parameters."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.structural import Structural

OFFSET_WEIGHT = 0.01
"""Weight of each step in the running mean of the offsets (Melchior et al., 2016)."""


@runtime_checkable
class NamesLayerCouplings(Protocol, metaclass=Structural):
    """A machine whose log f contains x W y + b x + c y for every pair of coupled layers."""

    @property
    def layer_couplings(self) -> Mapping[str, tuple[str, str]]:
        """Names of the biases b and c by name of their couplings W."""
        ...


def trainable_couplings(machine: object, leaves: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Layer couplings whose weights and biases are all trainable, since centering mixes their gradients.

    Args:
        machine: machine that may name its `layer_couplings`.
        leaves: trainable parameters by name.
    """
    layer_couplings = machine.layer_couplings if isinstance(machine, NamesLayerCouplings) else {}
    return {name: pair for name, pair in layer_couplings.items() if {name, *pair} <= leaves.keys()}


@runtime_checkable
class SuppliesGradients(Protocol, metaclass=Structural):
    """A machine that supplies the gradient of the mean of −free_energy over rows in closed form."""

    def gradients(self, v: Float[Tensor, "N V"]) -> dict[str, Tensor]:
        """Gradient in each parameter by name, in nats per row."""
        ...


class PhaseGradients(NamedTuple):
    """Gradients of the mean log f over data (positive phase) and over states of the model (negative phase)."""

    data: Mapping[str, Tensor]
    model: Mapping[str, Tensor]

    @property
    def plain(self) -> dict[str, Tensor]:
        """Gradient of the mean log likelihood, positive minus negative phase."""
        return {name: gradient - self.model[name] for name, gradient in self.data.items()}


class Offsets(NamedTuple):
    """Offsets of the centered gradient: means of each layer's statistics, halfway between data and model.

    They are named by the bias of the layer.
    """

    means: Mapping[str, Tensor]
    layer_couplings: Mapping[str, tuple[str, str]]

    @staticmethod
    def of(gradient: PhaseGradients, layer_couplings: Mapping[str, tuple[str, str]]) -> "Offsets":
        """Offsets of one step, since the gradients of log f in the biases are the means."""
        layers = {bias for pair in layer_couplings.values() for bias in pair}
        return Offsets({name: (gradient.data[name] + gradient.model[name]) / 2 for name in layers}, layer_couplings)

    def updated(self, gradient: PhaseGradients) -> "Offsets":
        """Offsets updated as a running mean over steps."""
        new = Offsets.of(gradient, self.layer_couplings).means
        return self._replace(means={name: old.lerp(new[name], OFFSET_WEIGHT) for name, old in self.means.items()})

    def centered(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradient in weights and biases whose ascent is that of the centered machine, (x − μ) W (y − λ) + …."""
        found = dict(gradient)
        for name, (low, high) in self.layer_couplings.items():
            weight = gradient[name].addr(self.means[low], gradient[high], alpha=-1)
            found[name] = weight.addr_(gradient[low], self.means[high], alpha=-1)
            found[low] = found[low] - found[name] @ self.means[high]
            found[high] = found[high] - self.means[low] @ found[name]
        return found


class Average:
    """Running mean of parameters."""

    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self.number, self.means = 0, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}

    def add(self, leaves: Mapping[str, Tensor]) -> None:
        """Add the parameters of one step."""
        self.number += 1
        for name, leaf in leaves.items():
            self.means[name].lerp_(leaf.detach(), 1 / self.number)

    def copy_into(self, leaves: Mapping[str, Tensor]) -> None:
        """Copy the means into the parameters; they stay unchanged where no step was added."""
        if self.number:
            copy_into(self.means, leaves)


def copy_into(values: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> None:
    """Copy values into the parameters of the same names."""
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(values[name])
