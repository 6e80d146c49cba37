"""The no-U-turn sampler: Pyro's kernel on the traced potential (Hoffman & Gelman, 2014)."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pyro.infer import mcmc
from pyro.infer.mcmc.api import MCMC
from torch import Tensor
from tqdm.auto import tqdm

from probmodel.arviz_data import rhat
from probmodel.inference.potential import Potential
from probmodel.protocols import Dataset, Model, Posterior, Target
from probmodel.target import check_training
from probmodel.target import target as make_target
from probmodel.tracing import isolated, placed, spawn

MAX_STARTS = 100
R_HAT_LIMIT = 1.05
"""Above it even short runs are to be doubted; `diagnose` holds finished ones to 1.01 (Vehtari et al., 2021)."""
LEAPFROGS = 10
"""Gradient calls a draw, a cautious guess for deciding whether to compile."""


@dataclass(frozen=True)
class NUTS:
    """No-U-turn sampling with Stan's adaptation of step size and diagonal mass matrix.

    Args:
        num_samples: draws kept a chain.
        num_warmup: draws that adapt the sampler and are dropped.
        num_chains: independent chains, each from its own prior draw; convergence shows only between several.
        target_accept: acceptance probability the step size aims at (Stan's default 0.8).
        max_tree_depth: doublings of a trajectory at most.
        progress: show a progress bar.
    """

    num_samples: int = 1_000
    num_warmup: int = 1_000
    num_chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    progress: bool = True

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Sample the model's latents.

        Raises:
            ValueError: for a model without latents, or for which no prior draw has a finite density and gradient.
        """
        if min(self.num_samples, self.num_warmup, self.num_chains) < 1:
            raise ValueError(f"num_samples, num_warmup and num_chains need 1 or more, got {self}; raise them")
        if not 0 < self.target_accept < 1 or self.max_tree_depth < 1:
            raise ValueError(
                f"target_accept needs to lie between 0 and 1 and max_tree_depth to be 1 or more, got {self.target_accept} "
                f"and {self.max_tree_depth}; 0.8 and 10 are Stan's"
            )
        check_training(model, data)
        begin = time.perf_counter()
        model = placed(model, data)
        target = make_target(model, data)
        if target.dim == 0:
            raise ValueError("expected latents to sample, got a model with none; add pyro.sample or use lift")
        starts = _starts(target, self.num_chains, seed)
        total = self.num_chains * (self.num_samples + self.num_warmup)
        potential = Potential(target, starts[0], total * LEAPFROGS)
        with tqdm(total=total, desc="NUTS", disable=not self.progress, mininterval=0.5) as bar:
            chains = [_chain(self, potential, start, spawn(seed, chain), bar) for chain, start in enumerate(starts)]
        theta = torch.stack([chain.draws for chain in chains])
        divergent = [chain.divergent for chain in chains]
        flat = target.constrain(theta.reshape(-1, target.dim))
        draws = {name: value.reshape(*theta.shape[:2], *value.shape[1:]) for name, value in flat.items()}
        _warn_if_untrusted(draws, sum(len(found) for found in divergent))
        info = {
            "method": "NUTS",
            "seed": seed,
            "divergences": sum(len(draws) for draws in divergent),
            "sample_stats": {"diverging": _indicator(divergent, self.num_samples)},
            "acceptance": [chain.acceptance for chain in chains],
            "fallback": target.fallback,
            "compiled": potential.compiled,
            "seconds": time.perf_counter() - begin,
        }
        return Posterior(model, data, draws, info, None)


class ConvergenceWarning(UserWarning):
    """Chains whose draws should not be trusted as they stand."""


def _warn_if_untrusted(draws: Mapping[str, Tensor], divergences: int) -> None:
    arrays = {name: value.numpy(force=True) for name, value in draws.items()}
    worst = float(np.fmax.reduce(np.concatenate([value.ravel() for value in rhat(arrays).values()])))
    if worst > R_HAT_LIMIT or divergences:
        warnings.warn(
            f"NUTS: largest R-hat {worst:.3f} (limit {R_HAT_LIMIT}), {divergences} divergences; take more warm-up, raise "
            "target_accept, or reparametrise",
            ConvergenceWarning,
            stacklevel=3,
        )


class Chain(NamedTuple):
    """Draws of theta, which of them ended a divergent trajectory, and the mean acceptance probability."""

    draws: Float[Tensor, "draw D"]
    divergent: list[int]
    acceptance: float


def _starts(target: Target, num_chains: int, seed: int) -> list[Float[Tensor, " D"]]:
    """Overdispersed starting points: prior draws with a finite density and gradient."""
    found = []
    for theta in target.sample_prior(MAX_STARTS + num_chains, seed):
        theta = theta.clamp(-10, 10).requires_grad_()
        value = target.log_joint_at(theta)
        (slope,) = torch.autograd.grad(value, theta)
        if torch.isfinite(value) and torch.isfinite(slope).all():
            found.append(theta.detach())
        if len(found) == num_chains:
            return found
    raise ValueError(
        f"expected prior draws with a finite log joint and gradient, got {len(found)} of {MAX_STARTS + num_chains}; "
        "check the likelihood's domain"
    )


def _chain(settings: NUTS, potential: Potential, start: Float[Tensor, " D"], seed: int, bar: tqdm) -> Chain:
    kernel = mcmc.NUTS(
        potential_fn=potential,
        target_accept_prob=settings.target_accept,
        max_tree_depth=settings.max_tree_depth,
    )
    with isolated(seed):
        sampler = MCMC(
            kernel,
            num_samples=settings.num_samples,
            warmup_steps=settings.num_warmup,
            initial_params={"theta": start},
            disable_progbar=True,
            hook_fn=lambda *_: bar.update(),
        )
        sampler.run()
        draws = sampler.get_samples()["theta"]
        diagnostics = sampler.diagnostics()
    return Chain(draws, diagnostics["divergences"]["chain 0"], diagnostics["acceptance rate"]["chain 0"])


def _indicator(divergent: list[list[int]], num_samples: int) -> list[list[bool]]:
    return [[draw in set(found) for draw in range(num_samples)] for found in divergent]
