"""Variational EM for the assignments of rows to Gaussian-process experts, and their hyperparameters (Tresp, 2001)."""

import time
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.mixtures.assignments import Assigned, ProcessMixture
from probmodel.families.gaussian_processes.mixtures.assignments_smc import order_along_direction, smc_over_rows
from probmodel.families.gaussian_processes.mixtures.soft_assignments import evidence_bound, updated_responsibilities
from probmodel.inference.descent.quasi_newton import maximize
from probmodel.inference.descent.starting_points import start_at_data
from probmodel.inference.interrupts import Reached, until_interrupted, warn_interrupted
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import inputs_and_observations
from probmodel.protocols.errors import ConvergenceWarning, warn
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.checks import check_training
from probmodel.tracing.ownership import copied_to_data
from probmodel.tracing.randomness import isolated, spawn

PARTICLES = 20
"""Number of particles of the filter over rows that a start is drawn from."""

SOFTENING = 0.1
"""Fraction of a start's responsibilities spread over all experts, so that no row is fixed before the first step."""

MIN_RESPONSIBILITY = 1e-12
"""Responsibility below which a row counts as not belonging to the expert."""

OCCUPIED = 0.5
"""Sum of responsibilities above which an expert counts as occupied."""


@checks_fields
@dataclass(frozen=True)
class VariationalEM:
    """Maximize the variational bound of a mixture of Gaussian processes from several starts, and keep the best.

    Starts are assignments of two kinds in turn: drawn by sequential Monte Carlo over the rows in the order of the
    inputs, which follows functions that cross, or by regions of the inputs, which suits experts that follow each other.
    Each start gets some rounds of E-steps in closed form and M-steps by L-BFGS; the best are then maximized to convergence
    by L-BFGS over responsibilities and parameters jointly, where EM alone would converge slowly.

    Args:
        num_restarts: number of starts.
        num_finalists: number of starts that are maximized to convergence.
        num_rounds: number of rounds of E- and M-steps per start.
        num_steps: number of L-BFGS steps per M-step, and of E-steps after it.
        max_steps: number of steps of the final maximization, at most.
        tolerance: nats; a step of the final maximization that gains less is its last.

    Reference:
        Lázaro-Gredilla, Van Vaerenbergh & Lawrence (2012), sec. 3; Tresp (2001).
    """

    num_restarts: int = 16
    num_finalists: int = 4
    num_rounds: int = 6
    num_steps: int = 6
    max_steps: int = 500
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_counts(self, "num_restarts", "num_finalists", "num_rounds", "num_steps", "max_steps")

    @checks_arguments
    def __call__(self, model: Any, data: Dataset, *, seed: int) -> Posterior:
        """Fit a copy of the mixture.

        Returns:
            Posterior without latents, whose model has q(c) as its `responsibilities`; `info["bound"]` is the bound in
            nats.  After a KeyboardInterrupt (Ctrl-C) it is the best of the starts done by then, and
            `info["interrupted"]` and an `InterruptedWarning` say so.

        Raises:
            ValueError: for a model that is not a mixture of experts, data that it does not accept, or settings out of
                range.
        """
        mixture, x, y = checked_mixture(model, data)
        seed, begin = checked_seed(seed), time.perf_counter()
        starts = range(integer("num_restarts", self.num_restarts))
        mixture = deepcopy(mixture)
        start_at_data(mixture, {f"model.{name}": value for name, value in mixture.named_parameters()}, data)
        found, finished, reached = list[_FittedStart](), list[_FittedStart](), Reached(())
        with until_interrupted(reached):
            for start in starts:
                found.append(self._started(deepcopy(mixture), x, y, start, spawn(seed, start)))
                reached.keep(len(found))
            found.sort(key=lambda each: each.bound, reverse=True)
            for finalist in found[: integer("num_finalists", self.num_finalists)]:
                finished.append(self._finished(finalist, x, y))
        best = max(finished or found, key=lambda each: each.bound)
        if reached.interrupted:
            warn_interrupted("VariationalEM", len(found), len(starts), f"starts, {len(finished)} of them to the end")
        elif not best.converged:
            warn(
                f"VariationalEM: the bound still rose after {self.max_steps} steps; raise max_steps", ConvergenceWarning
            )
        counts = best.r.sum(0)
        info = {
            "method": "VariationalEM",
            "seed": seed,
            "interrupted": reached.interrupted,
            "converged": best.converged,
            "bound": best.bound - float(best.mixture.gate.log_prior().detach()),
            "starts": [each.bound for each in found],
            "rows_by_expert": counts.tolist(),
            "num_experts": int((counts > OCCUPIED).sum()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(best.mixture.with_responsibilities(best.r[None]), data, {}, info)

    def _started(self, mixture: Any, x: Tensor, y: Tensor, start: int, seed: int) -> "_FittedStart":
        with isolated(seed), torch.no_grad():
            evaluated = mixture.assigned(x, y)
            r = (_by_particles if start % 2 == 0 else _by_region)(evaluated, x)
        leaves, value = _leaves(mixture), -np.inf
        for _ in range(integer("num_rounds", self.num_rounds)):
            found = maximize(partial(_bound, mixture, x, y, r), leaves, max_steps=self.num_steps, tolerance=0.0)
            if found.interrupted:
                raise KeyboardInterrupt
            with torch.no_grad():
                evaluated = mixture.assigned(x, y)
                for _ in range(self.num_steps):
                    r = updated_responsibilities(evaluated, r[None])[0]
                value = float(_bound(mixture, x, y, r))
        return _FittedStart(mixture, r, value, False)

    def _finished(self, start: "_FittedStart", x: Tensor, y: Tensor) -> "_FittedStart":
        mixture = deepcopy(start.mixture)
        logits = start.r.clamp(min=MIN_RESPONSIBILITY).log().requires_grad_(True)

        def value() -> Tensor:
            return _bound(mixture, x, y, logits.softmax(-1))

        leaves = [*_leaves(mixture), logits]
        found = maximize(value, leaves, max_steps=self.max_steps, tolerance=self.tolerance)
        if found.interrupted:
            raise KeyboardInterrupt
        with torch.no_grad():
            evaluated, r = mixture.assigned(x, y), logits.softmax(-1)
            for _ in range(self.num_steps):
                r = updated_responsibilities(evaluated, r[None])[0]
            return _FittedStart(mixture, r, float(_bound(mixture, x, y, r)), found.converged)


class _FittedStart(NamedTuple):
    mixture: Any
    r: Float[Tensor, "n K"]
    bound: float
    """Variational bound in nats, with the log prior of the gate's parameters."""
    converged: bool


def checked_mixture(model: Any, data: Dataset) -> tuple[Any, Tensor, Tensor]:
    """Copy of the mixture on the device of the data, its inputs and its observations.

    Raises:
        ValueError: for a model that is not a mixture of experts, or data that it does not accept.
    """
    if not isinstance(model, ProcessMixture):
        raise ValueError(f"expected a GPMixture, got {type(model).__name__}; fit a single process by MaximumLikelihood")
    check_training(model, data)
    return copied_to_data(model, data), *inputs_and_observations(data)


def _bound(mixture: Any, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    return evidence_bound(mixture.assigned(x, y), r[None])[0] + mixture.gate.log_prior().to(r)


def _leaves(mixture: Any) -> list[Tensor]:
    return [each for each in mixture.parameters() if each.requires_grad]


def _by_particles(model: Assigned, x: Tensor) -> Float[Tensor, "n K"]:
    """Start at an assignment drawn by a particle filter over the rows along a random direction of the inputs."""
    particles = smc_over_rows(model, PARTICLES, order_along_direction(x))
    c = particles.c[torch.distributions.Categorical(logits=particles.log_weights).sample()]
    return _softened(c, len(model.residual), x)


def _by_region(model: Assigned, x: Tensor) -> Float[Tensor, "n K"]:
    """Start that assigns each row to the nearest of K rows drawn at random."""
    centers = x[torch.randperm(len(x))[: len(model.residual)]]
    return _softened(torch.cdist(x, centers).argmin(1), len(model.residual), x)


def _softened(c: Tensor, num_experts: int, x: Tensor) -> Float[Tensor, "n K"]:
    hard = torch.nn.functional.one_hot(c, num_experts).to(x)
    return (1 - SOFTENING) * hard + SOFTENING / num_experts
