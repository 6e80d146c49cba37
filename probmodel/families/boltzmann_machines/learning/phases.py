"""Negative phase of a Boltzmann machine's gradient: contrastive divergence, persistent chains, parallel tempering.

References: Hinton (2002); Tieleman (2008); Desjardins et al. (2010).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeIs

from probmodel.protocols.arguments.checks import checks_fields
from probmodel.protocols.integers import integer
from probmodel.protocols.structural import Structural


@runtime_checkable
class LearnableMachine(Protocol, metaclass=Structural):
    """A machine that can be learned: p(v) = exp(−free_energy(v)) / Z, and a Gibbs step that leaves it invariant."""

    def parameters(self, recurse: bool = True) -> Any: ...

    def free_energy(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Free energy F(v) in nats per row."""
        ...

    def gibbs(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S V"]:
        """Gibbs step from v."""
        ...


@runtime_checkable
class LearnableDeepMachine(Protocol, metaclass=Structural):
    """A machine that can be learned by chains over a hidden layer, with a bound on the free energy of rows."""

    def parameters(self, recurse: bool = True) -> Any: ...

    def free_energy_bound(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
        """Upper bound of the free energy of rows, in nats per row."""
        ...

    def hidden_free_energy(self, first: Float[Tensor, "*S H"]) -> Float[Tensor, "*S"]:
        """Free energy of states of the hidden layer, in nats per state."""
        ...

    def upward(self, v: Float[Tensor, "*S V"]) -> Float[Tensor, "*S H"]:
        """Draw of the hidden layer from its approximate posterior given rows, without gradients."""
        ...

    def gibbs(self, first: Float[Tensor, "*S H"]) -> Float[Tensor, "*S H"]:
        """Gibbs step over states of the hidden layer."""
        ...


class Energies(NamedTuple):
    """Free energies whose gradients form the positive phase (rows) and the negative phase (states)."""

    of_rows: Callable[[Tensor], Tensor]
    of_states: Callable[[Tensor], Tensor]


def has_hidden_chains(machine: object) -> TypeIs[LearnableDeepMachine]:
    """Return whether the chains of a machine run over a hidden layer."""
    return isinstance(machine, LearnableDeepMachine)


def energies(machine: LearnableMachine | LearnableDeepMachine) -> Energies:
    """Free energy for both phases; for a deep machine its bound for rows, and that of the hidden layer for states."""
    if has_hidden_chains(machine):
        return Energies(machine.free_energy_bound, machine.hidden_free_energy)
    return Energies(machine.free_energy, machine.free_energy)


@runtime_checkable
class Phase(Protocol, metaclass=Structural):
    """Sampler of the negative phase; `chains` are its state between steps."""

    def start(self, machine: Any, rows: Float[Tensor, "N V"]) -> Tensor:
        """Initial states of the chains."""
        ...

    def advance(self, machine: Any, chains: Tensor, batch: Float[Tensor, "B V"]) -> Tensor:
        """Chains after the sweeps of one learning step."""
        ...

    def states(self, chains: Tensor) -> Float[Tensor, "S U"]:
        """States of the chains that are draws of the model."""
        ...


@checks_fields
@dataclass(frozen=True)
class Contrastive:
    """Contrastive divergence (CD-k): chains restart at each minibatch and stop after k steps, short of the model.

    The gradient is biased; once the chains mix too slowly the likelihood may fall (Fischer & Igel, 2010).

    Args:
        num_sweeps: number k of block Gibbs steps.

    Reference:
        Hinton (2002), "Training products of experts by minimizing contrastive divergence".
    """

    num_sweeps: int = 1

    def __post_init__(self) -> None:
        integer("num_sweeps", self.num_sweeps)

    def start(self, machine: Any, rows: Float[Tensor, "N V"]) -> Float[Tensor, "S U"]:
        return _states(machine, rows[:1])

    def advance(self, machine: Any, chains: Float[Tensor, "S U"], batch: Float[Tensor, "B V"]) -> Float[Tensor, "B W"]:
        return _swept(machine, _states(machine, batch), self.num_sweeps)

    def states(self, chains: Float[Tensor, "S U"]) -> Float[Tensor, "S U"]:
        return chains


@checks_fields
@dataclass(frozen=True)
class Persistent:
    """Persistent contrastive divergence (PCD): chains continue from the last step, and follow a slowly changing model.

    Args:
        num_chains: number of chains, which start at rows of the data.
        num_sweeps: number of block Gibbs steps per learning step.

    Reference:
        Younes (1989), "Parametric inference for imperfectly observed Gibbsian fields"; Tieleman (2008), "Training
        restricted Boltzmann machines using approximations to the likelihood gradient".
    """

    num_chains: int = 100
    num_sweeps: int = 1

    def __post_init__(self) -> None:
        integer("num_chains", self.num_chains)
        integer("num_sweeps", self.num_sweeps)

    def start(self, machine: Any, rows: Float[Tensor, "N V"]) -> Float[Tensor, "C U"]:
        return _states(machine, _some(rows, self.num_chains))

    def advance(self, machine: Any, chains: Float[Tensor, "C U"], batch: Float[Tensor, "B V"]) -> Float[Tensor, "C U"]:
        return _swept(machine, chains, self.num_sweeps)

    def states(self, chains: Float[Tensor, "C U"]) -> Float[Tensor, "C U"]:
        return chains


@checks_fields
@dataclass(frozen=True)
class Tempered:
    """Persistent chains at several temperatures that exchange states, for machines whose own chains stay in one mode.

    Args:
        num_chains: number of chains at each temperature, which start at rows of the data.
        num_temperatures: number of temperatures, with β evenly spaced from independent units (0) to the machine (1).
        num_sweeps: number of block Gibbs steps at each temperature, each followed by exchanges between neighbors.

    Reference:
        Desjardins, Courville, Bengio, Vincent & Delalleau (2010), "Tempered Markov chain Monte Carlo for training of
        restricted Boltzmann machines"; Cho, Raiko & Ilin (2010), "Parallel tempering is efficient for learning
        restricted Boltzmann machines".
    """

    num_chains: int = 100
    num_temperatures: int = 10
    num_sweeps: int = 1

    def __post_init__(self) -> None:
        integer("num_chains", self.num_chains)
        integer("num_temperatures", self.num_temperatures, least=2)
        integer("num_sweeps", self.num_sweeps)

    def start(self, machine: Any, rows: Float[Tensor, "N V"]) -> Float[Tensor, "C T U"]:
        chosen = _some(rows, self.num_chains * self.num_temperatures)
        return _states(machine, chosen).unflatten(0, (self.num_chains, -1))

    def advance(
        self, machine: Any, chains: Float[Tensor, "C T U"], batch: Float[Tensor, "B V"]
    ) -> Float[Tensor, "C T U"]:
        betas = torch.linspace(0, 1, self.num_temperatures, dtype=batch.dtype, device=batch.device)
        tempered = machine.tempered(betas)
        for sweep in range(self.num_sweeps):
            chains = _swept(tempered, chains, 1)
            for first in (sweep % 2, 1 - sweep % 2):
                chains = exchanged(tempered, chains, first)
        return chains

    def states(self, chains: Float[Tensor, "C T U"]) -> Float[Tensor, "C U"]:
        return chains[:, -1]


def exchanged(tempered: Any, v: Float[Tensor, "C T U"], first: int) -> Float[Tensor, "C T U"]:
    """States after Metropolis exchanges between temperatures `first` and `first` + 1, and every second pair thereafter."""
    swapped = _swapped(v.shape[1], first).to(v.device)
    own = torch.arange(v.shape[1], device=v.device)
    gain = tempered.free_energy(v) - tempered.free_energy(v[:, swapped])
    # Both of a pair use the same uniform number and ratio, so that they exchange together or not at all.
    uniform = torch.rand_like(gain)[:, torch.minimum(own, swapped)]
    accepted = (torch.log(uniform) < gain + gain[:, swapped]) & (swapped != own)
    return torch.where(accepted[..., None], v[:, swapped], v)


def _swapped(num_temperatures: int, first: int) -> Int[Tensor, " T"]:
    """Index of the temperature that each one would exchange with."""
    order = torch.arange(num_temperatures)
    low = torch.arange(first, num_temperatures - 1, 2)
    return order.index_copy(0, low, low + 1).index_copy(0, low + 1, low)


def _states(machine: Any, rows: Float[Tensor, "N V"]) -> Float[Tensor, "N U"]:
    """Initial states of chains: the rows, or states of the hidden layer given them."""
    return machine.upward(rows) if has_hidden_chains(machine) else rows


def _swept(machine: Any, v: Tensor, num_sweeps: int) -> Tensor:
    for _ in range(num_sweeps):
        v = machine.gibbs(v)
    return v


def _some(rows: Float[Tensor, "N V"], count: int) -> Float[Tensor, "C V"]:
    """Random rows, with replacement."""
    return rows[torch.randint(len(rows), (count,), device=rows.device)]
