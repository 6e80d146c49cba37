"""The no-U-turn sampler, all chains in one compiled loop (Hoffman & Gelman, 2014; Betancourt, 2017)."""

import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.inference.chains import adaptation
from probmodel.inference.chains import nuts_tree as tree
from probmodel.inference.chains.adaptation import Adaptation, Schedule
from probmodel.inference.chains.chains import Sampled, check_acceptance, posterior
from probmodel.inference.chains.recording import StepWindows, chain_gradient
from probmodel.inference.interrupts import Reached, until_interrupted
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target
from probmodel.protocols.session.progress import progress_bar
from probmodel.tracing.programs.compiling import Tensors

LEAPFROGS = 10
"""Number of gradients per draw: a cautious guess for the decision whether to compile."""


@checks_fields
@dataclass(frozen=True)
class NUTS:
    """No-U-turn sampling with Stan's adaptation of step size and diagonal mass matrix.

    Every chain makes a leapfrog step at each iteration of one loop, whatever the state of its tree, so that a batched
    gradient serves all chains and none waits for another.

    Args:
        num_samples: number of draws to keep per chain.
        num_warmup: number of draws per chain that adapt the sampler and are dropped.
        num_chains: number of independent chains, each from its own prior draw; convergence shows only between several.
        target_accept: acceptance probability that the step size aims at (Stan's default 0.8).
        max_tree_depth: number of doublings of a trajectory, at most (Stan's default 10).
        compile: whether to compile the loop; None compiles where the time of the first steps shows that it pays.
        progress: whether to show a progress bar.
    """

    num_samples: int = 1_000
    num_warmup: int = 1_000
    num_chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    compile: bool | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "num_samples", "num_warmup", "num_chains", "max_tree_depth")
        check_acceptance(self.target_accept)

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Sample the model's continuous latents; discrete ones are summed out.

        Returns:
            Posterior with draws (chain, draw, *event); `info` has the sampler's diagnostics.  After a KeyboardInterrupt
            (Ctrl-C) it has the draws made by then, as many of each chain, and an `InterruptedWarning` says so.

        Raises:
            KeyboardInterrupt: where it comes before every chain has a draw after its warm-up.
            ValueError: for settings out of range, a model without latents, or one for which too few prior draws have a
                finite density and gradient.
        """
        settings = replace(
            self,
            num_samples=integer("num_samples", self.num_samples),
            num_warmup=integer("num_warmup", self.num_warmup),
            num_chains=integer("num_chains", self.num_chains),
            max_tree_depth=integer("max_tree_depth", self.max_tree_depth),
        )
        check_acceptance(self.target_accept)
        return posterior("NUTS", partial(_sample, settings), model, data, settings.num_chains, checked_seed(seed))


def _sample(settings: NUTS, target: Target, theta: Float[Tensor, "C D"]) -> Sampled:
    gradient = chain_gradient(target, theta)
    begin = time.perf_counter()
    plan = adaptation.schedule(settings.num_warmup, theta.device)
    fields = len(Adaptation._fields)

    def step(state: Tensors, constants: Tensors) -> tuple[Tensors, Tensors]:
        chains, adapted, finished = tree.advance(
            tree.unflatten(state[:-fields]),
            Adaptation(*state[-fields:]),
            partial(gradient.at, constants[len(plan) :]),
            Schedule(*constants[: len(plan)]),
            settings.target_accept,
        )
        return (*tree.flatten(chains), *adapted), tuple(finished)

    size = adaptation.reasonable_step(theta, gradient.here, torch.ones_like(theta[0]))
    first = adaptation.initial_adaptation(size, theta.shape[1])
    state = (*tree.flatten(tree.begin(theta, gradient.here, settings.max_tree_depth)), *first)
    outputs, constants = (theta, theta.new_zeros(len(theta), 6)), (*plan, *gradient.constants)
    windows = StepWindows(step, state, outputs, constants, gradient.reason, threads=gradient.threads)
    draws, numbers, state = _collected(settings, windows, state, theta)
    wanted = settings.num_samples if draws.shape[1] < settings.num_samples else None
    seconds = time.perf_counter() - begin - windows.compiling
    stats = {
        "diverging": numbers[..., 1] > 0,
        "acceptance_rate": numbers[..., 2],
        "tree_depth": numbers[..., 3].long(),
        "n_steps": numbers[..., 4].long(),
        "lp": numbers[..., 5],
    }
    adapted_values = {"step_size": Adaptation(*state[-fields:]).log_step.exp().tolist()}
    return Sampled(draws, stats, adapted_values, windows.compiled, windows.execution, seconds, wanted)


def _collected(
    settings: NUTS, windows: StepWindows, state: Tensors, theta: Float[Tensor, "C D"]
) -> tuple[Float[Tensor, "C N D"], Float[Tensor, "C N 6"], Tensors]:
    """Draws, statistics and last state, from windows of steps until every chain has its draws, or an interrupt.

    Chains end at different times, depending on their trees, so that draws are stored by the number that they have in
    their chain.
    """
    warmup, total = settings.num_warmup, settings.num_warmup + settings.num_samples
    kept = theta.new_zeros(len(theta), settings.num_samples, theta.shape[1])
    numbers = theta.new_zeros(len(theta), settings.num_samples, 6)
    done = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    reached = Reached(())
    bar = progress_bar("NUTS", total * len(theta), shown=settings.progress)
    with bar, until_interrupted(reached):
        while (slowest := int(done.min())) < total:
            windows.compile_where_it_pays((total - slowest) * LEAPFROGS, settings.compile, bar)
            state, (where, told) = windows(state)
            new = told[..., 0] > 0
            number = done + new.cumsum(0) - 1
            step, chain = (new & (number >= warmup) & (number < total)).nonzero(as_tuple=True)
            place = number[step, chain] - warmup
            kept[chain, place], numbers[chain, place] = where[step, chain], told[step, chain]
            before, done = done, done + new.sum(0)
            reached.keep(max(0, min(int(done.min()), total) - warmup))
            bar.update(int((done.clamp(max=total) - before.clamp(max=total)).sum()))
    return kept[:, : reached.num_steps], numbers[:, : reached.num_steps], state
