"""Parameters at the maximum of the likelihood, by quasi-Newton steps; type II where latents are integrated out (L-BFGS)."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from probmodel.inference.chains import ConvergenceWarning
from probmodel.integers import checked_seed, integer
from probmodel.ownership import own
from probmodel.protocols import Dataset, Model, Posterior
from probmodel.sites import sites
from probmodel.target import check_training
from probmodel.tracing import isolated

WORST = 1e25
"""Stands for a loss that cannot be computed: the line search comes back from there."""


@dataclass(frozen=True)
class MaximumLikelihood:
    """Fit a model without latents, such as a Gaussian process with its function integrated out, on all rows at once.

    The evidence is conditional on the parameters found.

    Args:
        max_steps: of L-BFGS.
        tolerance: nats; a step that gains less is the last.

    Reference:
        Nocedal & Wright (2006), Numerical Optimization, sec. 7.2; Rasmussen & Williams (2006), sec. 5.4.1.
    """

    max_steps: int = 200
    tolerance: float = 1e-3

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Climb the log likelihood from where the parameters stand.

        Raises:
            ValueError: for a model with latents, or without parameters that a gradient could move.
            ArithmeticError: where the likelihood cannot be computed at the start.
        """
        check_training(model, data)
        max_steps, seed = integer("max_steps", self.max_steps), checked_seed(seed)
        begin = time.perf_counter()
        with isolated(seed), pyro.validation_enabled(False):
            fitted, _, leaves = own(model, _nothing, _no_guide, data)
            latents = [latent.name for latent in sites(fitted, data).latents]
            if latents or not leaves:
                raise ValueError(
                    f"expected a model with parameters and no latents, got latents {latents} and {len(leaves)} parameters; "
                    "fit latents by SVI, NUTS or Laplace"
                )
            found = _climbed(fitted, leaves, data, max_steps, self.tolerance)
        if not found.success:
            warnings.warn(
                f"MaximumLikelihood: stopped after {found.nit} steps ({found.message}); raise max_steps, or scale the data",
                ConvergenceWarning,
                stacklevel=2,
            )
        info = {
            "method": "MaximumLikelihood",
            "seed": seed,
            "log_likelihood": -float(found.fun),
            "num_steps": int(found.nit),
            "num_evaluations": int(found.nfev),
            "num_parameters": sum(leaf.numel() for leaf in leaves.values()),
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(fitted, data, {}, info)


def _nothing(*args: object, **kwargs: object) -> None:
    """The guide of a model without latents."""


def _no_guide(model: Model) -> Model:
    return _nothing


def _climbed(
    model: Model, leaves: Mapping[str, Tensor], data: Dataset, max_steps: int, tolerance: float
) -> OptimizeResult:
    values = list(leaves.values())
    sizes = [leaf.numel() for leaf in values]

    def loss() -> Tensor:
        run = poutine.trace(model).get_trace(*data.args, **data.kwargs)
        total: Any = run.log_prob_sum()
        return -total

    def placed(theta: np.ndarray) -> None:
        with torch.no_grad():
            for leaf, part in zip(values, torch.as_tensor(theta).split(sizes), strict=True):
                leaf.copy_(part.view_as(leaf))

    def at(theta: np.ndarray) -> tuple[float, np.ndarray]:
        placed(theta)
        try:
            value = loss()
        except ValueError:  # A line search may step to where a covariance has no Cholesky factor.
            return WORST, np.zeros_like(theta)
        slopes = torch.autograd.grad(value, values, allow_unused=True, materialize_grads=True)
        slope = torch.cat([each.reshape(-1) for each in slopes]).double().numpy(force=True)
        number = float(value.detach())
        return (number, slope) if np.isfinite(number) and np.isfinite(slope).all() else (WORST, np.zeros_like(theta))

    start = torch.cat([leaf.detach().reshape(-1) for leaf in values]).double().numpy(force=True)
    first, _ = at(start)
    if first == WORST:
        raise ArithmeticError(
            "expected a finite log likelihood and gradient at the start, got none; scale the data, or start parameters "
            "elsewhere"
        )
    found = minimize(
        at,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": max_steps, "ftol": tolerance / max(1.0, abs(first)), "gtol": 0.0},
    )
    placed(found.x)
    return found
