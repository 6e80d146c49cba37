"""A Boltzmann machine's log likelihood during training, and when its fall is a divergence (Fischer & Igel, 2010)."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.boltzmann_machines.annealing import TemperatureSchedule, forward
from probmodel.families.boltzmann_machines.machine import Machine, Undirected
from probmodel.families.boltzmann_machines.model_draws import enumerated
from probmodel.protocols.errors import ConvergenceWarning, NonFiniteError
from probmodel.protocols.integers import integer
from probmodel.tracing.randomness import spawn

MAX_SIDE = 12
"""Units whose states are summed at each look: 4,096 of them."""
ANNEALED_CHAINS = 100
ANNEALED_STEPS = 300
ROWS = 1_000
"""Rows at most on which the log likelihood is taken."""


def log_partition(machine: Machine, rows: Float[Tensor, "N V"], seed: int) -> float:
    """Log Z, nats: exact for machines of few units, else by a short annealed run from the rows' base rates.

    Too short a run underestimates log Z: a trend to rely on, no figure to report.

    Args:
        machine: as numbers.
        rows: of data.
        seed: of the annealed run.

    Reference:
        Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks".
    """
    # In double precision: the states come in it, and thousands of terms are summed.
    known = enumerated(machine.double, MAX_SIDE)
    if known is not None:
        return known.log_z
    betas = torch.linspace(0, 1, ANNEALED_STEPS + 1, dtype=rows.dtype, device=rows.device)
    log_w = forward(TemperatureSchedule(machine.path(machine.natural(rows)), betas, betas), ANNEALED_CHAINS, seed)
    return float(torch.logsumexp(log_w, 0)) - math.log(ANNEALED_CHAINS)


@dataclass(frozen=True, eq=False)
class Monitor:
    """Look at the log likelihood, and stop where it has fallen for good.

    A fall is a divergence where `patience` looks in a row lie below the best by more than `fraction` of all that was gained
    from the first look to the best, and by more than `least`.

    Args:
        every: steps between two looks.
        share: of the gain.
        least: nats a row, so that noise is no divergence where there is little to gain.
        patience: looks in a row.
        rows: on which; None takes up to 1,000 of the training rows, spread over them.
        log_partition: machine, rows, seed → log Z in nats.
    """

    every: int = 500
    fraction: float = 0.2
    least: float = 0.05
    patience: int = 2
    rows: Float[Tensor, "N V"] | None = None
    log_partition: Callable[[Any, Tensor, int], float] = log_partition

    def __post_init__(self) -> None:
        integer("every", self.every)
        integer("patience", self.patience)
        if not 0 < self.fraction < math.inf:
            raise ValueError(f"expected share to be a number above 0, got {self.fraction}; .2 is a fifth of the gain")
        if not 0 <= self.least < math.inf:
            raise ValueError(f"expected least to be nats a row, 0 or more, got {self.least}; .05 is above most noise")

    def log_likelihood(self, model: Undirected, rows: Float[Tensor, "N V"], seed: int) -> float:
        """Mean over rows, nats: of the lower bound of log f where f has bounds, less log Z; −∞ where that is not finite."""
        with torch.no_grad():
            machine = model.machine
            below, _ = machine.bounds(rows)
            value = float(below.double().mean()) - self.log_partition(machine, rows, seed)
        return value if math.isfinite(value) else -math.inf

    def chosen(self, rows: Float[Tensor, "N V"]) -> Float[Tensor, "n V"]:
        """Rows to look at."""
        if self.rows is not None:
            return self.rows.to(rows)
        return rows[:: math.ceil(len(rows) / ROWS)]

    def has_diverged(self, values: Sequence[float]) -> bool:
        """Whether the last looks lie too far below the best."""
        highest = max(values)
        floor = highest - max(self.fraction * (highest - values[0]), self.least)
        last = values[-self.patience :]
        return len(last) == self.patience and all(value < floor for value in last)


class Evaluations:
    """What has been seen of a machine in training.

    Args:
        watch: when to look, and what to take for a divergence; None never looks.
        model: the machine, which learns.
        leaves: its parameters.
        rows: of training.
        seed: of the estimates.
    """

    def __init__(
        self, monitor: Monitor | None, model: Any, leaves: Mapping[str, Tensor], rows: Float[Tensor, "N V"], seed: int
    ) -> None:
        self.monitor, self.model, self.leaves, self.seed = monitor, model, leaves, seed
        self.rows = rows if monitor is None else monitor.chosen(rows)
        self.steps: list[int] = []
        self.values: list[float] = []
        self.best: Mapping[str, Tensor] = {}
        """Parameters at the highest value."""

    @property
    def diverged(self) -> bool:
        """Whether the likelihood has fallen for good."""
        return self.monitor is not None and self.monitor.has_diverged(self.values)

    def due(self, step: int) -> bool:
        """Whether to look before this step."""
        return self.monitor is not None and step % self.monitor.every == 0

    def evaluate(self, step: int) -> str:
        """Once more; what there is to say.

        Raises:
            NonFiniteError: where the log likelihood is not finite at the first look.
        """
        if self.monitor is None:
            return ""
        value = self.monitor.log_likelihood(self.model, self.rows, spawn(self.seed, step))
        if not self.values and math.isinf(value):
            raise NonFiniteError(
                "expected a machine whose log likelihood is finite at the start, got one of NaN or infinity; start from "
                "weights near 0, or scale the data"
            )
        if not self.values or value > max(self.values):
            self.best = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        self.steps.append(step)
        self.values.append(value)
        return f"log likelihood {value:.2f} nats a row"

    def warn(self) -> None:
        """Of a divergence, and what to try."""
        highest = max(self.values)
        warnings.warn(
            f"BoltzmannLearning: stopped at step {self.steps[-1]:,}, where the log likelihood had fallen to "
            f"{self.values[-1]:.3f} nats a row from {highest:.3f} at step {self.steps[self.values.index(highest)]:,}, whose "
            "parameters are kept; lower the rate, raise num_sweeps, or draw by Persistent or Tempered chains",
            ConvergenceWarning,
            stacklevel=3,
        )
