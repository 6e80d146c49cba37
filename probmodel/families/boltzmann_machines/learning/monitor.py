"""Monitor of a Boltzmann machine's log likelihood in training, with early stopping (Fischer & Igel, 2010)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.boltzmann_machines.annealing import TemperatureSchedule, forward
from probmodel.families.boltzmann_machines.machine import Machine, SuppliesMachine
from probmodel.families.boltzmann_machines.model_draws import enumerated
from probmodel.protocols.arguments.checks import checks_fields
from probmodel.protocols.errors import ConvergenceWarning, NonFiniteError, warn
from probmodel.protocols.integers import integer
from probmodel.tracing.randomness import spawn

MAX_ENUMERATED_MONITOR = 12
"""Largest number of units whose states, at most 4,096, are summed at an evaluation."""
ANNEALED_CHAINS = 100
ANNEALED_STEPS = 300
ROWS = 1_000
"""Largest number of rows on which the log likelihood is evaluated by default."""


def log_partition(machine: Machine, rows: Float[Tensor, "N V"], seed: int) -> float:
    """Log Z in nats: exact with few enumerated units, else by a short annealed run from the rows' base rates.

    Too short a run underestimates log Z: rely on the trend, but do not report the value.

    Args:
        machine: parameters of the machine.
        rows: rows of data (N, V).
        seed: seed of the annealed run.

    Reference:
        Salakhutdinov & Murray (2008), "On the quantitative analysis of deep belief networks".
    """
    # Double precision, as that of the enumerated states: thousands of terms are summed.
    known = enumerated(machine.double, MAX_ENUMERATED_MONITOR)
    if known is not None:
        return known.log_z
    betas = torch.linspace(0, 1, ANNEALED_STEPS + 1, dtype=rows.dtype, device=rows.device)
    log_w = forward(
        TemperatureSchedule(machine.path(machine.natural_parameters(rows)), betas, betas), ANNEALED_CHAINS, seed
    )
    return float(torch.logsumexp(log_w, 0)) - math.log(ANNEALED_CHAINS)


@checks_fields
@dataclass(frozen=True, eq=False)
class Monitor:
    """Evaluations of the log likelihood during training, and the divergence criterion for early stopping.

    Training has diverged where `patience` successive evaluations lie below the best one by more than `fraction` of the
    gain from the first evaluation to the best, and by more than `least`.

    Args:
        every: number of steps between two evaluations.
        fraction: tolerated loss as a fraction of the gain.
        least: tolerated loss in nats per row, so that noise is no divergence where there is little to gain.
        patience: number of successive evaluations.
        rows: rows (N, V) to evaluate on; None takes up to 1,000 training rows at equal distances.
        log_partition: (machine, rows, seed) → log Z in nats.

    Raises:
        ValueError: for settings out of range.
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
            raise ValueError(
                f"expected fraction to be a finite number above 0, got {self.fraction}; pass 0.2 for a fifth of the gain"
            )
        if not 0 <= self.least < math.inf:
            raise ValueError(
                f"expected least to be finite nats per row, 0 or more, got {self.least}; pass 0.05, which is above most noise"
            )

    def log_likelihood(self, model: SuppliesMachine, rows: Float[Tensor, "N V"], seed: int) -> float:
        """Mean log likelihood in nats per row, by a lower bound of log f if it is not exact; −∞ if not finite."""
        with torch.no_grad():
            machine = model.machine
            below, _ = machine.bounds(rows)
            value = float(below.double().mean()) - self.log_partition(machine, rows, seed)
        return value if math.isfinite(value) else -math.inf

    def evaluation_rows(self, rows: Float[Tensor, "N V"]) -> Float[Tensor, "n V"]:
        """Rows to evaluate on."""
        if self.rows is not None:
            return self.rows.to(rows)
        return rows[:: math.ceil(len(rows) / ROWS)]

    def has_diverged(self, values: Sequence[float]) -> bool:
        """Return whether the last `patience` evaluations lie too far below the best one."""
        highest = max(values)
        floor = highest - max(self.fraction * (highest - values[0]), self.least)
        last = values[-self.patience :]
        return len(last) == self.patience and all(value < floor for value in last)


class Evaluations:
    """Record of the log likelihood of a machine in training.

    Args:
        monitor: interval of the evaluations and divergence criterion; None evaluates nothing.
        model: the machine that is trained.
        leaves: trainable parameters of the machine by name.
        rows: training rows (N, V).
        seed: seed of the estimates.
    """

    def __init__(
        self, monitor: Monitor | None, model: Any, leaves: Mapping[str, Tensor], rows: Float[Tensor, "N V"], seed: int
    ) -> None:
        self.monitor, self.model, self.leaves, self.seed = monitor, model, leaves, seed
        self.rows = rows if monitor is None else monitor.evaluation_rows(rows)
        self.steps: list[int] = []
        self.values: list[float] = []
        self.best: Mapping[str, Tensor] = {}
        """Parameters at the highest log likelihood."""

    @property
    def diverged(self) -> bool:
        """True if the monitor's divergence criterion is met."""
        return self.monitor is not None and self.monitor.has_diverged(self.values)

    def evaluates_at(self, step: int) -> bool:
        """Return whether the likelihood is evaluated before this step."""
        return self.monitor is not None and step % self.monitor.every == 0

    def evaluate(self, step: int) -> str:
        """Evaluate the log likelihood at a step, and return it as a progress text.

        Raises:
            NonFiniteError: where the log likelihood is not finite at the first evaluation.
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
        return f"log likelihood {value:.2f} nats per row"

    def warn(self) -> None:
        """Warn of a divergence, and name remedies."""
        highest = max(self.values)
        warn(
            f"BoltzmannLearning: expected a log likelihood near its best, got {self.values[-1]:.3f} nats per row at step "
            f"{self.steps[-1]:,} after {highest:.3f} at step {self.steps[self.values.index(highest)]:,}, whose parameters are "
            "kept; lower learning_rate, raise num_sweeps, or draw by Persistent or Tempered chains",
            ConvergenceWarning,
        )
