"""Exact sums over states of small Boltzmann machines: log partition function, its gradient, and density of rows."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from probmodel.families.boltzmann_machines.machine import Machine
from probmodel.families.boltzmann_machines.states import states_from_integers

MAX_ENUMERATED_DENSITY = 14
"""Largest number of units whose states are all summed at each evaluation of a density."""


def log_unnormalized_of_enumerated(machine: Machine) -> Float[Tensor, " M"]:
    """Log f of all states of the enumerated units in nats, differentiable in the machine's parameters.

    Raises:
        ValueError: for a machine with more than 14 enumerated units.
    """
    units = machine.num_enumerated
    if units > MAX_ENUMERATED_DENSITY:
        raise ValueError(
            f"expected a Boltzmann machine with at most {MAX_ENUMERATED_DENSITY} units to sum over for its normalized "
            f"density, got {units} (layers {machine.sizes}); fit it by BoltzmannLearning, and score it by "
            "evidence.log_partition_sandwich and evidence.log_likelihood"
        )
    states = states_from_integers(torch.arange(2**units, device=machine.visible_bias.device), units)
    return machine.log_unnormalized_of_enumerated(states.to(machine.visible_bias))


class BoltzmannRows(dist.TorchDistribution):
    """Independent rows of a machine's visible units, p(v) = f(v) / Z; batch shape (N,), event shape (V,).

    Args:
        machine: parameters of a machine with at most 14 enumerated units.
        log_f: rows → log f in nats, with all but the visible units summed out.
        visible: states of the enumerated units → a draw of the rows given them.
        num_rows: number of rows N.

    Raises:
        ValueError: for a machine with more than 14 enumerated units.
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
        self.log_f_of_states = log_unnormalized_of_enumerated(machine)

    def log_prob(self, value: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
        """Log density log f − log Z of each row, in nats."""
        return self.log_f(value) - torch.logsumexp(self.log_f_of_states, 0)

    def sample(self, sample_shape: Any = ()) -> Float[Tensor, "*S N V"]:
        """Exact independent draws, from the global random state."""
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        with torch.no_grad():
            index = torch.distributions.Categorical(logits=self.log_f_of_states).sample((shape[:-1].numel(),))
            states = states_from_integers(index, self.machine.num_enumerated).to(self.machine.visible_bias)
            return self.visible(states).reshape(shape)
