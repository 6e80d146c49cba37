"""Steps of stochastic gradient ascent and their learning schedule (Robbins & Monro, 1951)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from probmodel.protocols.arguments.checks import checks_fields
from probmodel.protocols.integers import integer


def linear(fraction: float) -> float:
    """Learning schedule whose factor falls linearly from 1 at the start of training to 0 at its end."""
    return 1 - fraction


@checks_fields
@dataclass(frozen=True)
class GradientAscent:
    """Number, size and averaging of stochastic gradient ascent steps.

    Args:
        num_steps: number of steps.
        learning_rate: learning rate of the first step; the gradient is that of the mean log likelihood, in nats per
            row.
        schedule: fraction of training done → factor of the learning rate.  It should end at 0, where chains follow the
            model best (Younes, 1999).
        averaged_fraction: fraction of the steps, the last ones, over which the returned parameters are averaged; 0
            returns those of the last step.

    Raises:
        ValueError: for settings out of range.

    Reference:
        Robbins & Monro (1951); Polyak & Juditsky (1992), "Acceleration of stochastic approximation by averaging".
    """

    num_steps: int = 10_000
    learning_rate: float = 0.1
    schedule: Callable[[float], float] = linear
    averaged_fraction: float = 0.2

    def __post_init__(self) -> None:
        integer("num_steps", self.num_steps)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                f"expected a finite learning_rate above 0, got {self.learning_rate}; pass 0.1 for units of {{0, 1}}"
            )
        if not 0 <= self.averaged_fraction <= 1:
            raise ValueError(
                f"expected averaged_fraction to be a fraction of the steps, 0 to 1, got {self.averaged_fraction}; pass 0.2"
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of one step."""
        return self.learning_rate * self.schedule(step / self.num_steps)
