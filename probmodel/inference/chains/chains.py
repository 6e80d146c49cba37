"""Start and end of every Markov chain sampler: checks, initial states, draws by site, and a convergence warning."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probmodel.draws.diagnostics import R_HAT_LIMIT, rhat
from probmodel.inference.interrupts import warn_interrupted
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import ConvergenceWarning, warn
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target
from probmodel.tracing.checks import check_training
from probmodel.tracing.ownership import copied_to_data
from probmodel.tracing.randomness import isolated, spawn
from probmodel.tracing.target import density_of

MAX_STARTS = 100
"""Number of prior draws that are tried beyond the number of chains."""

MAX_ABS_START = 10.0
"""Largest absolute coordinate of an initial state: no step size suits the far tails of a heavy-tailed prior."""


MAX_ENERGY_ERROR = 1000.0
"""Energy error in nats that marks a divergence (Stan's value)."""

SMALLEST_STEP = 1e-5
"""Smallest step size, in standard deviations: a thousand leapfrog steps of it cover a hundredth of one."""

MIN_DRAWS_TO_CALL_STUCK = 10
"""Number of draws of which a chain that is not stuck accepts at least one."""

NON_CENTERED = "write a centered hierarchy as a non-centered one (pyro.infer.reparam.LocScaleReparam)"


class Sampled(NamedTuple):
    """Results of the chains."""

    theta: Float[Tensor, "C N D"]
    stats: dict[str, Tensor]
    """Arrays (chain, draw) under ArviZ's names, with "diverging" and "acceptance_rate" among them."""
    adapted: dict[str, Any]
    """Quantities that the warm-up has set, as plain numbers."""
    compiled: bool
    execution: str
    """Mode in which the steps were executed, and the reason."""
    seconds: float
    """Time from the first step to the last, without compilation."""
    wanted: int | None = None
    """Number of draws per chain that were asked for, where an interrupt has left fewer."""


def check_acceptance(target_accept: float) -> None:
    """Raise ValueError for a target outside (0, 1)."""
    if not 0 < target_accept < 1:
        raise ValueError(f"expected target_accept between 0 and 1, got {target_accept}; leave it at the default")


def posterior(
    method: str,
    sample: Callable[[Target, Float[Tensor, "C D"]], Sampled],
    model: Model,
    data: Dataset,
    num_chains: int,
    seed: int,
) -> Posterior:
    """Posterior by Markov chains, with a warning where the draws are not to be trusted.

    Args:
        method: name of the sampler.
        sample: density and initial states → results of the chains.
        model: any Pyro model.
        data: data set that the model is conditioned on.
        num_chains: number of independent chains.
        seed: seed of all random numbers.

    Raises:
        ValueError: as in `starting`.
    """
    begin = time.perf_counter()
    model, target, theta = starting(model, data, num_chains, seed)
    with isolated(spawn(seed, 0)), torch.no_grad():
        found = sample(target, theta)
    draws = by_site(target, found.theta)
    divergences = int(found.stats["diverging"].sum())
    stuck = int(is_stuck(found).sum())
    if found.wanted is not None:
        warn_interrupted(method, found.theta.shape[1], found.wanted, "draws per chain")
    warn_if_untrusted(method, draws, divergences, stuck)
    info = {
        "method": method,
        "seed": seed,
        "divergences": divergences,
        "stuck_chains": stuck,
        "sample_stats": {name: value.tolist() for name, value in found.stats.items()},
        "acceptance": found.stats["acceptance_rate"].mean(1).tolist(),
        **found.adapted,
        "fallback": target.fallback,
        "compiled": found.compiled,
        "interrupted": found.wanted is not None,
        "execution": found.execution,
        "seconds": time.perf_counter() - begin,
        "seconds_sampling": found.seconds,
    }
    return Posterior(model, data, draws, info, None)


def starting(model: Model, data: Dataset, num_chains: int, seed: int) -> tuple[Model, Target, Float[Tensor, "C D"]]:
    """Model on the device of the data, its density, and overdispersed initial states at which it is finite.

    Initial states are prior draws, or uniform on (−2, 2)^D where the prior is improper; the gradient is finite there
    too.

    Raises:
        ValueError: for unsuitable data, a model without continuous latents, or one for which too few prior draws have a
            finite density and gradient.
    """
    check_training(model, data)
    model = copied_to_data(model, data)
    target = density_of(model, data)
    if target.dim == 0:
        raise ValueError(
            "expected continuous latents to sample, got a model with none (discrete ones are summed out); add "
            "pyro.sample statements, or give parameters priors by lift"
        )
    theta = _candidates(target, MAX_STARTS + num_chains, seed)
    good = torch.cat([_is_finite(target, piece) for piece in theta.split(num_chains)])
    if int(good.sum()) < num_chains:
        raise ValueError(
            f"expected prior draws with a finite log joint and gradient, got {int(good.sum())} of {len(theta)}; "
            "keep the likelihood's parameters inside their domain, or narrow the priors"
        )
    return model, target, theta[good][:num_chains]


def _candidates(target: Target, count: int, seed: int) -> Float[Tensor, "S D"]:
    if not target.improper:
        return target.sample_prior(count, seed).clamp(-MAX_ABS_START, MAX_ABS_START)
    # An improper prior cannot be sampled; Stan's initial states, uniform on (−2, 2), take its place.
    with isolated(seed):
        return 4 * torch.rand(count, target.dim, dtype=target.dtype, device=target.device) - 2


def _is_finite(target: Target, theta: Float[Tensor, "C D"]) -> Tensor:
    theta = theta.detach().requires_grad_()
    with torch.enable_grad():
        value = target.log_joint(theta)
        (grad,) = torch.autograd.grad(value.sum(), theta)
    return value.isfinite() & grad.isfinite().all(-1)


def by_site(target: Target, theta: Float[Tensor, "C N D"]) -> dict[str, Tensor]:
    """Draws (chain, draw, *shape) by site, in the model's own (constrained) space."""
    flat = target.constrain(theta.reshape(-1, target.dim))
    return {name: value.reshape(*theta.shape[:2], *value.shape[1:]) for name, value in flat.items()}


def is_stuck(found: Sampled) -> Bool[Tensor, " C"]:
    """Mask of chains whose draws are all equal, or whose step size is too small to move them."""
    unmoved = (found.theta == found.theta[:, :1]).flatten(1).all(1)
    step = torch.as_tensor(found.adapted["step_size"], device=unmoved.device)
    return (unmoved & (found.theta.shape[1] >= MIN_DRAWS_TO_CALL_STUCK)) | (step < SMALLEST_STEP)


def warn_if_untrusted(method: str, draws: Mapping[str, Tensor], divergences: int, stuck: int) -> None:
    """Warn where chains disagree or are stuck, where there is only one, or where trajectories have diverged."""
    arrays = {name: value.numpy(force=True) for name, value in draws.items()}
    chains = min(len(value) for value in arrays.values())
    worst = float(np.fmax.reduce(np.concatenate([value.ravel() for value in rhat(arrays).values()])))
    if worst > R_HAT_LIMIT or divergences or stuck or chains == 1:
        found = "unknown (it needs two chains or more)" if chains == 1 else f"{worst:.3f} (limit {R_HAT_LIMIT})"
        unmoved = f", {stuck} of {chains} chains stuck" if stuck else ""
        warn(
            f"{method}: largest R-hat {found}, {divergences} divergences{unmoved}; {_remedy(divergences, stuck, chains)}",
            ConvergenceWarning,
        )


def _remedy(divergences: int, stuck: int, chains: int) -> str:
    if stuck:
        return (
            "the density is too narrow in places for any step size, as in the funnel of a centered hierarchy: "
            f"{NON_CENTERED}, or use pb.NUTS with a higher target_accept"
        )
    if divergences:
        return f"raise target_accept, or {NON_CENTERED}" + ("; take more chains" if chains == 1 else "")
    if chains == 1:
        return "take more chains"
    return (
        "take a longer warm-up and more draws, or reparametrize; where each chain stays in one mode, the proportions "
        "of chains are not the modes' weights, which pb.evidence.smc estimates"
    )
