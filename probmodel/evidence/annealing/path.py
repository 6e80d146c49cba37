"""Geometric path from a base to the target (Neal, 2001), evaluated with its gradient for a whole population at once."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.reference import Base
from probmodel.protocols.memory import budget
from probmodel.protocols.posterior import Target
from probmodel.tracing.curvature import log_joint_by_block
from probmodel.tracing.density import evaluates_one_by_one
from probmodel.tracing.programs.gradients import Batched

GRADIENT_MEMORY = 4
"""Memory of a gradient in evaluations of the density: its graph keeps what the backward pass needs."""


class PopulationState(NamedTuple):
    """Positions of S chains, with the log densities of both ends of the path there in each of R blocks, in nats."""

    theta: Float[Tensor, "S D"]
    log_base: Float[Tensor, "S R"]
    log_joint: Float[Tensor, "S R"]
    grad: Float[Tensor, "S D"]
    """Gradient of the tempered log density at the inverse temperature it was evaluated for."""

    @property
    def log_ratio(self) -> Float[Tensor, "S R"]:
        """Log ratio log joint − log base, in nats; −inf outside the support of the joint."""
        return self.log_joint - self.log_base

    def log_prob(self, beta: float) -> Float[Tensor, "S R"]:
        """Unnormalized log p_β, in nats; an end of density 0 counts only if its exponent is not 0."""
        if beta == 0:
            return self.log_base
        return self.log_joint if beta == 1 else (1 - beta) * self.log_base + beta * self.log_joint


class AnnealingPath:
    """Geometric path log p_β = (1 − β) log base + β log joint, for β from 0 to 1.

    Args:
        base: normalized distribution at β = 0, from which chains start.
        target: density at β = 1.
        memory: bytes that one evaluation may need; larger populations are evaluated in chunks.  None for the budget of
            `protocols.memory`.
    """

    def __init__(self, base: Base, target: Target, *, memory: int | None = None) -> None:
        self.base, self.target = base, target
        self.chunk = max(
            1, (budget(target.device) if memory is None else memory) // max(1, GRADIENT_MEMORY * target.bytes_per_draw)
        )
        eager = target.fallback is not None or evaluates_one_by_one(target.bytes_per_draw, target.device)
        self.batched = Batched(self._tempered, eager=eager)

    def log_ratio(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
        """Log ratio log joint − log base at each chain, in nats, without a gradient."""
        with torch.no_grad():
            log_base, log_joint = self._ends(theta)
        return (_density(log_joint) - _density(log_base)).double()

    def _ends(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.log_prob(theta), log_joint_by_block(self.target, theta)

    def _tempered(self, theta: Tensor, beta: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        log_base, log_joint = self._ends(theta)
        return ((1 - beta) * log_base + beta * log_joint).sum(), (log_base, log_joint)

    def at(self, theta: Float[Tensor, "S D"], beta: float) -> PopulationState:
        """Evaluate densities and gradient at each chain's position; a gradient that is not finite counts as 0."""
        parts = [self._at(piece, beta) for piece in theta.split(self.chunk)]
        return (
            parts[0]
            if len(parts) == 1
            else PopulationState(*(torch.cat(column) for column in zip(*parts, strict=True)))
        )

    def _at(self, theta: Float[Tensor, "S D"], beta: float) -> PopulationState:
        grad, log_base, log_joint = self.batched(theta, theta.new_tensor(beta))
        return PopulationState(theta, _density(log_base), _density(log_joint), torch.nan_to_num(grad, 0.0, 0.0, 0.0))


def _density(log_prob: Float[Tensor, "S R"]) -> Float[Tensor, "S R"]:
    """Log density in which overflow and NaN, as in the far tails of a scale parameter, count as density 0."""
    return torch.where(log_prob.isnan() | log_prob.isposinf(), -torch.inf, log_prob)
