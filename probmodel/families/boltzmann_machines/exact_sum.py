"""Small Boltzmann machines by the sum over all states: log partition function with its gradient, and the density of rows."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from probmodel.families.boltzmann_machines.machine import Machine
from probmodel.families.boltzmann_machines.states import bits

MAX_SIDE = 14
"""Units up to which all their states are summed at each evaluation of a density."""


def log_masses(machine: Machine) -> Float[Tensor, " M"]:
    """Log f of all states of the units to sum over, nats, differentiable in the machine's parameters.

    Raises:
        ValueError: for a machine with more than 14 of them.
    """
    units = machine.num_enumerated
    if units > MAX_SIDE:
        raise ValueError(
            f"expected a Boltzmann machine with at most {MAX_SIDE} units to sum over where its normalized density is asked "
            f"for, got {units} (layers {machine.sizes}); fit it by BoltzmannLearning, and score it by "
            "evidence.log_partition_sandwich and evidence.log_likelihood"
        )
    states = bits(torch.arange(2**units, device=machine.visible_bias.device), units)
    return machine.log_masses(states.to(machine.visible_bias))


class BoltzmannRows(dist.TorchDistribution):
    """Independent rows of a machine's visible units, p(v) = f(v) / Z; batch shape (N,), event shape (V,).

    Args:
        machine: as numbers, with at most 14 units to sum over.
        log_f: rows → log f, nats, everything but the visible units summed out.
        visible: states of the units summed over → a draw of the rows given them.
        num_rows: N.

    Raises:
        ValueError: for a machine with more units.
    """

    arg_constraints: ClassVar = {}
    support = constraints.independent(constraints.real, 1)

    def __init__(
        self,
        machine: Machine,
        log_f: Callable[[Tensor], Tensor],
        visible: Callable[[Tensor], Tensor],
        num_rows: int,
    ) -> None:
        super().__init__(torch.Size((num_rows,)), machine.visible_bias.shape, validate_args=False)
        self.machine, self.log_f, self.visible = machine, log_f, visible
        self.log_masses = log_masses(machine)

    def log_prob(self, value: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Log f − log Z of each row, nats."""
        return self.log_f(value) - torch.logsumexp(self.log_masses, 0)

    def sample(self, sample_shape: Any = ()) -> Float[Tensor, "*S N V"]:
        """Exact and independent; draws from the global random state."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        with torch.no_grad():
            index = torch.distributions.Categorical(logits=self.log_masses).sample((shape[:-1].numel(),))
            states = bits(index, self.machine.num_enumerated).to(self.machine.visible_bias)
            return self.visible(states).reshape(shape)
