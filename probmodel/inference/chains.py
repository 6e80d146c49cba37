"""What every Markov chain sampler begins and ends with: starting points, draws by site, and a warning."""

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.arviz_data import rhat
from probmodel.protocols import Dataset, Model, Target
from probmodel.target import check_training
from probmodel.target import target as make_target
from probmodel.tracing import isolated, placed

MAX_STARTS = 100
"""Prior draws beyond the number of chains that are tried."""
REACH = 10.0
"""Largest coordinate of a start: a heavy-tailed prior draws where no step size is right."""
R_HAT_LIMIT = 1.05
"""Above it even short runs are to be doubted; `diagnose` holds finished ones to 1.01 (Vehtari et al., 2021)."""


class ConvergenceWarning(UserWarning):
    """Chains whose draws should not be trusted as they stand."""


def starting(model: Model, data: Dataset, num_chains: int, seed: int) -> tuple[Model, Target, Float[Tensor, "C D"]]:
    """The model where the data are, its density, and overdispersed starts with a finite density and slope.

    Starts are prior draws, or uniform on (−2, 2)^D where the prior is improper.

    Raises:
        ValueError: for data no model can use, a model without latents, or one for which too few prior draws will do.
    """
    check_training(model, data)
    model = placed(model, data)
    target = make_target(model, data)
    if target.dim == 0:
        raise ValueError(
            "expected continuous latents to sample, got a model with none (discrete ones are summed out); add pyro.sample "
            "or use lift"
        )
    theta = _candidates(target, MAX_STARTS + num_chains, seed)
    good = torch.cat([_is_finite(target, piece) for piece in theta.split(num_chains)])
    if int(good.sum()) < num_chains:
        raise ValueError(
            f"expected prior draws with a finite log joint and gradient, got {int(good.sum())} of {len(theta)}; "
            "check the likelihood's domain"
        )
    return model, target, theta[good][:num_chains]


def _candidates(target: Target, count: int, seed: int) -> Float[Tensor, "S D"]:
    if not target.improper:
        return target.sample_prior(count, seed).clamp(-REACH, REACH)
    # Nothing can be drawn from a prior that does not integrate; Stan's starts, uniform on (−2, 2), take its place.
    with isolated(seed):
        return 4 * torch.rand(count, target.dim, dtype=target.dtype, device=target.device) - 2


def _is_finite(target: Target, theta: Float[Tensor, "C D"]) -> Tensor:
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = target.log_joint(theta)
        (slope,) = torch.autograd.grad(value.sum(), theta)
    return value.isfinite() & slope.isfinite().all(-1)


def by_site(target: Target, theta: Float[Tensor, "C N D"]) -> dict[str, Tensor]:
    """Constrained draws (chain, draw, *shape) by site."""
    flat = target.constrain(theta.reshape(-1, target.dim))
    return {name: value.reshape(*theta.shape[:2], *value.shape[1:]) for name, value in flat.items()}


def warn_if_untrusted(method: str, draws: Mapping[str, Tensor], divergences: int) -> None:
    """Warn where chains disagree or trajectories have diverged."""
    arrays = {name: value.numpy(force=True) for name, value in draws.items()}
    worst = float(np.fmax.reduce(np.concatenate([value.ravel() for value in rhat(arrays).values()])))
    if worst > R_HAT_LIMIT or divergences:
        warnings.warn(
            f"{method}: largest R-hat {worst:.3f} (limit {R_HAT_LIMIT}), {divergences} divergences; take more warm-up, "
            "raise target_accept, or reparametrise",
            ConvergenceWarning,
            stacklevel=3,
        )
