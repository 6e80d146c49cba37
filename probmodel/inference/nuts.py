"""The no-U-turn sampler, all chains in one compiled loop (Hoffman & Gelman, 2014; Betancourt, 2017)."""

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from probmodel.compiling import Tensors
from probmodel.inference import adaptation, tree
from probmodel.inference.adaptation import Adaptation, Schedule
from probmodel.inference.chains import by_site, starting, warn_if_untrusted
from probmodel.inference.recording import Recording, chain_gradient
from probmodel.protocols import Dataset, Model, Posterior, Target
from probmodel.tracing import isolated, spawn

LEAPFROGS = 10
"""Gradient calls a draw, a cautious guess for deciding whether to compile."""


@dataclass(frozen=True)
class NUTS:
    """No-U-turn sampling with Stan's adaptation of step size and diagonal mass matrix.

    Every chain makes a leapfrog step at each turn of one loop, wherever its tree stands, so that a batched gradient
    serves all chains and none waits for another.

    Args:
        num_samples: draws kept a chain.
        num_warmup: draws that adapt the sampler and are dropped.
        num_chains: independent chains, each from its own prior draw; convergence shows only between several.
        target_accept: acceptance probability the step size aims at (Stan's default 0.8).
        max_tree_depth: doublings of a trajectory at most (Stan's default 10).
        compile: compile the loop; None compiles where the first steps say that it pays.
        progress: show a progress bar.
    """

    num_samples: int = 1_000
    num_warmup: int = 1_000
    num_chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    compile: bool | None = None
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
        begin = time.perf_counter()
        model, target, theta = starting(model, data, self.num_chains, seed)
        with isolated(spawn(seed, 0)), torch.no_grad():
            found = _sample(self, target, theta)
        draws = by_site(target, found.theta)
        divergences = int(found.numbers[..., 1].sum())
        warn_if_untrusted("NUTS", draws, divergences)
        info = {
            "method": "NUTS",
            "seed": seed,
            "divergences": divergences,
            "sample_stats": _stats(found.numbers),
            "acceptance": found.numbers[..., 2].mean(1).tolist(),
            "step_size": found.step_size.tolist(),
            "fallback": target.fallback,
            "compiled": found.compiled,
            "seconds": time.perf_counter() - begin,
            "seconds_sampling": found.seconds,
        }
        return Posterior(model, data, draws, info, None)


class Sampled(NamedTuple):
    """What the chains found."""

    theta: Float[Tensor, "C N D"]
    numbers: Float[Tensor, "C N 6"]
    """As `Finished.numbers`."""
    step_size: Float[Tensor, " C"]
    compiled: bool
    seconds: float
    """From the first step to the last, compiling left out."""


def _stats(numbers: Float[Tensor, "C N 6"]) -> dict[str, list]:
    """By ArviZ's names."""
    return {
        "diverging": (numbers[..., 1] > 0).tolist(),
        "acceptance_rate": numbers[..., 2].tolist(),
        "tree_depth": numbers[..., 3].long().tolist(),
        "n_steps": numbers[..., 4].long().tolist(),
        "lp": numbers[..., 5].tolist(),
    }


def _sample(settings: NUTS, target: Target, theta: Float[Tensor, "C D"]) -> Sampled:
    slope = chain_gradient(target, theta)
    begin = time.perf_counter()
    plan = adaptation.schedule(settings.num_warmup, theta.device)
    fields = len(Adaptation._fields)

    def step(state: Tensors, constants: Tensors) -> tuple[Tensors, Tensors]:
        chains, adapted, finished = tree.advance(
            tree.unflatten(state[:-fields]),
            Adaptation(*state[-fields:]),
            lambda at: slope.at(constants[len(plan) :], at),
            Schedule(*constants[: len(plan)]),
            settings.target_accept,
        )
        return (*tree.flatten(chains), *adapted), tuple(finished)

    def here(at: Tensor) -> tuple[Tensor, Tensor]:
        return slope.at(slope.constants, at)

    first = adaptation.begin(adaptation.reasonable_step(theta, here, torch.ones_like(theta[0])), theta.shape[1])
    none = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    state = (*tree.flatten(tree.begin(theta, here, settings.max_tree_depth, none)), *first)
    recording = Recording(step, state, (*plan, *slope.constants), slope.reason, threads=slope.threads)
    found = _collect(settings, recording, state, theta)
    return found._replace(seconds=time.perf_counter() - begin - recording.compiling)


def _collect(settings: NUTS, recording: Recording, state: Tensors, theta: Float[Tensor, "C D"]) -> Sampled:
    """Windows until every chain has its draws; which ends when depends on the trees, so each draw says its number."""
    warmup, total = settings.num_warmup, settings.num_warmup + settings.num_samples
    kept = theta.new_zeros(len(theta), settings.num_samples, theta.shape[1])
    numbers = theta.new_zeros(len(theta), settings.num_samples, 6)
    done = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    with tqdm(total=total * len(theta), desc="NUTS", disable=not settings.progress, mininterval=0.5) as bar:
        while (slowest := int(done.min())) < total:
            if recording.steps or settings.compile:
                recording.compile_where_it_pays((total - slowest) * LEAPFROGS, settings.compile)
            state, (where, told) = recording(state)
            new = told[..., 0] > 0
            number = done + new.cumsum(0) - 1
            step, chain = (new & (number >= warmup) & (number < total)).nonzero(as_tuple=True)
            place = number[step, chain] - warmup
            kept[chain, place], numbers[chain, place] = where[step, chain], told[step, chain]
            before, done = done, done + new.sum(0)
            bar.update(int((done.clamp(max=total) - before.clamp(max=total)).sum()))
    log_step = state[-len(Adaptation._fields)]
    return Sampled(kept, numbers, log_step.exp(), recording.compiled, recording.seconds)
