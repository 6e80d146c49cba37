"""Maximum likelihood by L-BFGS, which is of type II where the model integrates its latents out."""

import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
from torch import Tensor

from probmodel.inference.descent.quasi_newton import maximize
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import ConvergenceWarning
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.checks import check_training
from probmodel.tracing.devices import traced_run
from probmodel.tracing.ownership import owned_copies
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites


@dataclass(frozen=True)
class MaximumLikelihood:
    """Fit a model without latents, such as a Gaussian process with its function integrated out, on all rows at once.

    An evidence of the fit is conditional on the parameters found.

    Args:
        max_steps: number of L-BFGS steps, at most.
        tolerance: nats; a step that gains less is the last one.

    Reference:
        Nocedal & Wright (2006), Numerical Optimization, sec. 7.2; Rasmussen & Williams (2006), sec. 5.4.1.
    """

    max_steps: int = 200
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        check_counts(self, "max_steps")

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Maximize the log likelihood, starting at the model's own parameters.

        Returns:
            Posterior without latents; `info["log_likelihood"]` is the maximum in nats over the whole data set.

        Raises:
            ValueError: for a model with latents or without trainable parameters.
            ArithmeticError: where the likelihood cannot be computed at the start.
        """
        check_training(model, data)
        max_steps, seed = integer("max_steps", self.max_steps), checked_seed(seed)
        begin = time.perf_counter()
        with isolated(seed), pyro.validation_enabled(False):
            fitted, _, leaves = owned_copies(model, _nothing, _no_guide, data)
            latents = [latent.name for latent in sites(fitted, data).latents]
            if latents or not leaves:
                raise ValueError(
                    f"expected a model with parameters and no latents, got latents {latents} and {len(leaves)} parameters; "
                    "fit latents by SVI, NUTS or Laplace, and free fixed parameters by requires_grad_(True)"
                )
            found = maximize(
                partial(_log_likelihood, fitted, data),
                list(leaves.values()),
                max_steps=max_steps,
                tolerance=self.tolerance,
            )
        if not found.converged:
            warnings.warn(
                f"MaximumLikelihood: stopped after {found.num_steps} steps ({found.message}); raise max_steps, or scale the data",
                ConvergenceWarning,
                stacklevel=2,
            )
        info = {
            "method": "MaximumLikelihood",
            "seed": seed,
            "log_likelihood": found.value,
            "converged": found.converged,
            "num_steps": found.num_steps,
            "num_evaluations": found.num_evaluations,
            "num_parameters": sum(leaf.numel() for leaf in leaves.values()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(fitted, data, {}, info)


def _nothing(*args: object, **kwargs: object) -> None:
    """Guide of a model without latents, which samples nothing."""


def _no_guide(model: Model) -> Model:
    return _nothing


def _log_likelihood(model: Model, data: Dataset) -> Tensor:
    run = traced_run(model, data)
    total: Any = run.log_prob_sum()
    return total
