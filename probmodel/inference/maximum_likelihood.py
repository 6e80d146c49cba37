"""Maximum likelihood by L-BFGS, which is of type II where the model integrates its latents out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
from torch import Tensor

from probmodel.inference.descent.quasi_newton import Maximum, maximize
from probmodel.inference.descent.starting_points import check_fit, place, starting_points, units_of
from probmodel.inference.interrupts import warn_interrupted
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import ConvergenceWarning, warn
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.checks import check_training
from probmodel.tracing.devices import traced_run
from probmodel.tracing.ownership import owned_copies
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites


@checks_fields
@dataclass(frozen=True)
class MaximumLikelihood:
    """Fit a model without latents, such as a Gaussian process with its function integrated out, on all rows at once.

    An evidence of the fit is conditional on the parameters found.

    Args:
        max_steps: number of L-BFGS steps, at most.
        tolerance: nats; a step that gains less is the last one.
        num_starts: number of starts, of which the best maximum is kept.  By default one, and several where the model
            states that its likelihood has many maxima: a Gaussian process with a period at its default starts at the
            likeliest periods of the data's spectrum.  Further starts are drawn about the first.

    Reference:
        Nocedal & Wright (2006), Numerical Optimization, sec. 7.2; Rasmussen & Williams (2006), sec. 5.4.1.
    """

    max_steps: int = 200
    tolerance: float = 1e-3
    num_starts: int | None = None

    def __post_init__(self) -> None:
        check_counts(self, "max_steps", optional=("num_starts",))

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Maximize the log likelihood, starting at the model's own parameters.

        A model may take the values of parameters that are at their defaults from the data, as a Gaussian process does.

        Returns:
            Posterior without latents; `info["log_likelihood"]` is the maximum in nats over the whole data set, and
            `info["starts"]` has the maximum from each start.  After a KeyboardInterrupt (Ctrl-C) it is the largest value by
            then, and an `InterruptedWarning` says so.

        Raises:
            ValueError: for a model with latents or without trainable parameters.
            ArithmeticError: where the likelihood cannot be computed at any start.
        """
        check_training(model, data)
        seed = checked_seed(seed)
        check_counts(self, "max_steps", optional=("num_starts",))
        begin = time.perf_counter()
        with isolated(seed), pyro.validation_enabled(False):
            fitted, _, leaves = owned_copies(model, _nothing, _no_guide, data)
            latents = [latent.name for latent in sites(fitted, data).latents]
            if latents or not leaves:
                raise ValueError(
                    f"expected a model with parameters and no latents, got latents {latents} and {len(leaves)} parameters; "
                    "fit latents by SVI, NUTS or Laplace, and free fixed parameters by requires_grad_(True)"
                )
            found, starts = self._best(fitted, leaves, data)
            check_fit(fitted, data)
        if found.interrupted:
            warn_interrupted("MaximumLikelihood", found.num_steps, integer("max_steps", self.max_steps), "steps")
        elif not found.converged:
            warn(
                f"MaximumLikelihood: stopped after {found.num_steps} steps ({found.message}); raise max_steps, or scale the data",
                ConvergenceWarning,
            )
        info = {
            "method": "MaximumLikelihood",
            "seed": seed,
            "log_likelihood": found.value,
            "starts": starts,
            "interrupted": found.interrupted,
            "converged": found.converged,
            "num_steps": found.num_steps,
            "num_evaluations": found.num_evaluations,
            "num_parameters": sum(leaf.numel() for leaf in leaves.values()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(fitted, data, {}, info)

    def _best(self, fitted: Model, leaves: Mapping[str, Tensor], data: Dataset) -> tuple[Maximum, list[float]]:
        """The best of the maxima that are reached from the starts, where the leaves are left, and the value of each."""
        best, values, places, refused = None, [], [], None
        for start in starting_points(fitted, leaves, data, self.num_starts):
            place(leaves, start)
            try:
                found = maximize(
                    partial(_log_likelihood, fitted, data),
                    list(leaves.values()),
                    max_steps=integer("max_steps", self.max_steps),
                    tolerance=self.tolerance,
                    units=units_of(fitted, leaves, data),
                )
            except ArithmeticError as error:
                refused = error
                continue
            values.append(found.value)
            if best is None or found.value > best.value:
                best, places = found, [leaf.detach().clone() for leaf in leaves.values()]
            if found.interrupted:
                best = best._replace(interrupted=True)
                break
        if best is None:
            raise refused or ArithmeticError
        place(leaves, dict(zip(leaves, places, strict=True)))
        return best, values


def _nothing(*args: object, **kwargs: object) -> None:
    """Guide of a model without latents, which samples nothing."""


def _no_guide(model: Model) -> Model:
    return _nothing


def _log_likelihood(model: Model, data: Dataset) -> Tensor:
    run = traced_run(model, data)
    total: Any = run.log_prob_sum()
    return total
