"""Hamiltonian Monte Carlo with step and trajectory adapted over many chains (Hoffman, Radul & Sountsov, 2021)."""

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.inference.chains.adaptation import Gradient, averaged, dual_averaged, reasonable_step, select_per_chain
from probmodel.inference.chains.chains import MAX_ENERGY_ERROR, SMALLEST_STEP, Sampled, check_acceptance, posterior
from probmodel.inference.chains.nuts_tree import Proposal
from probmodel.inference.chains.recording import ChainGradient, Prelude, StepWindows, chain_gradient
from probmodel.inference.chains.warm_start import (
    WARM_START_STEPS,
    Ascent,
    ascent_step,
    initial_state,
    sample_approximation,
)
from probmodel.inference.interrupts import Reached, until_interrupted
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import check_counts, checked_seed, integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target
from probmodel.protocols.session.progress import progress_bar
from probmodel.tracing.programs.compiling import Tensors, repeat

LEARNING_RATE, SQUARE_DECAY, LARGEST_CHANGE = 0.025, 0.95, 0.35
"""Settings of Adam on the log trajectory length: the paper's rate and decay, and a bound on one update."""
MEMORY_FRACTION = 5.0
"""Inverse fraction of the draws so far that variances average over, so that the transient phase is forgotten."""
LEAST_ACCEPTED, MOST_ACCEPTED = 0.01, 0.9999
"""Lower bound on a chain's acceptance, and median acceptance above which the step is not shortened further.

Chains that are stuck shorten the step for all; at this median the step is about a sixtieth of what suits the median
chain, since rejections grow as the square of the step.
"""
SHORTEST, LONGEST = 0.1, 100.0
"""Range of the trajectory length, in standard deviations."""
HALTON_BITS = 24
SMALL_STEP = 1e-3
"""Step size of the example that the loop is compiled for: chains that hardly move are finite whatever the model."""


@checks_fields
@dataclass(frozen=True)
class ChEES:
    """Many short chains that adapt together by the Change in the Estimator of the Expected Square criterion.

    All chains share a step size, a diagonal mass matrix and a trajectory length, adapted to all of them at once, so the
    warm-up is short; afterwards the chains are independent.  Trajectories are jittered by a Halton sequence.

    Args:
        num_samples: number of draws to keep per chain.
        num_warmup: number of draws per chain that adapt the sampler and are dropped.
        num_chains: number of chains; the criterion is an average over them and needs some tens.
        target_accept: harmonic mean of the chains' acceptance probabilities (0.651, optimal for HMC; Beskos et al., 2013).
        max_leapfrogs: number of leapfrog steps per trajectory, at most.
        compile: whether to compile the loop; None compiles where the time of the first steps shows that it pays.
        progress: whether to show a progress bar.

    Reference:
        Hoffman, Radul & Sountsov (2021), "An adaptive MCMC scheme for setting trajectory lengths in HMC".
    """

    num_samples: int = 250
    num_warmup: int = 500
    num_chains: int = 64
    target_accept: float = 0.651
    max_leapfrogs: int = 1_000
    compile: bool | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "num_samples", "num_warmup", "num_chains", "max_leapfrogs")
        check_acceptance(self.target_accept)

    @checks_arguments
    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Sample the model's continuous latents; discrete ones are summed out.

        Returns:
            Posterior with draws (chain, draw, *event); `info` has the sampler's diagnostics.  After a KeyboardInterrupt
            (Ctrl-C) it has the draws made by then, as many of each chain, and an `InterruptedWarning` says so.

        Raises:
            KeyboardInterrupt: where it comes before every chain has a draw after its warm-up.
            ValueError: for settings out of range, a model without latents, or one for which too few prior draws have
                a finite density and gradient.
        """
        settings = replace(
            self,
            num_samples=integer("num_samples", self.num_samples),
            num_warmup=integer("num_warmup", self.num_warmup),
            num_chains=integer("num_chains", self.num_chains),
            max_leapfrogs=integer("max_leapfrogs", self.max_leapfrogs),
        )
        check_acceptance(self.target_accept)
        if settings.num_chains < 2:
            raise ValueError(
                "expected num_chains 2 or more, got 1; pass some tens, over which the criterion is averaged"
            )
        return posterior("ChEES", partial(_sample, settings), model, data, settings.num_chains, checked_seed(seed))


class ChEESState(NamedTuple):
    """State of C chains and of their joint adaptation."""

    theta: Float[Tensor, "C D"]
    log_prob: Float[Tensor, " C"]
    grad: Float[Tensor, "C D"]
    draw: Int[Tensor, ""]
    log_step: Float[Tensor, ""]
    log_step_mean: Float[Tensor, ""]
    shrunk_to: Float[Tensor, ""]
    error: Float[Tensor, ""]
    log_length: Float[Tensor, ""]
    log_length_mean: Float[Tensor, ""]
    square: Float[Tensor, ""]
    """Adam's running mean square of the criterion's gradient."""
    variance: Float[Tensor, " D"]


class Trajectory(NamedTuple):
    """Proposals, one per chain, with the momentum at the end of the trajectory."""

    theta: Float[Tensor, "C D"]
    momentum: Float[Tensor, "C D"]
    log_prob: Float[Tensor, " C"]
    grad: Float[Tensor, "C D"]
    gain: Float[Tensor, " C"]
    """Log density of position and momentum at the end minus that at the start, in nats; NaN where it is undefined."""

    @property
    def accept(self) -> Float[Tensor, " C"]:
        """Acceptance probability of the proposal."""
        return torch.nan_to_num(self.gain, -torch.inf, torch.inf, -torch.inf).clamp(max=0).exp()


def _sample(settings: ChEES, target: Target, theta: Float[Tensor, "C D"]) -> Sampled:
    gradient = chain_gradient(target, theta)
    begin = time.perf_counter()

    def one(state: Tensors, constants: Tensors) -> tuple[Tensors, Tensors]:
        after, numbers = _transition(settings, gradient, ChEESState(*state), constants)
        return tuple(after), (after.theta, numbers)

    def ascent(i: Tensor, *tensors: Tensor) -> Tensors:
        fields, constants = tensors[: len(Ascent._fields)], tensors[len(Ascent._fields) :]
        return tuple(ascent_step(Ascent(*fields), partial(gradient.at, constants)))

    # Compiled code is checked by its numbers on this example, so that its step must not diverge.
    small = torch.full_like(theta[0, 0], math.log(SMALL_STEP))
    example = tuple(_first(theta, torch.ones_like(theta[0]), small, gradient.here)._replace(log_length=small))
    outputs, prelude = (theta, theta.new_zeros(len(theta), 4)), Prelude(ascent, tuple(initial_state(theta)))
    windows = StepWindows(one, example, outputs, gradient.constants, gradient.reason, prelude, gradient.threads)
    kept, told, total = [], [], settings.num_warmup + settings.num_samples
    reached = Reached(())
    bar = progress_bar("ChEES", total, shown=settings.progress)
    with bar, until_interrupted(reached):
        windows.compile_where_it_pays(total, settings.compile, bar)
        around, variance = sample_approximation(Ascent(*windows.prelude(WARM_START_STEPS)), gradient.here)
        log_step = reasonable_step(around, gradient.here, variance.sqrt()).log().mean()
        state: Tensors = tuple(_first(around, variance, log_step, gradient.here))
        while windows.steps < total:
            if windows.steps:
                windows.compile_where_it_pays(total - windows.steps, settings.compile, bar)
            state, (where, numbers) = windows(state)
            first = max(0, settings.num_warmup - (windows.steps - windows.window))
            kept.append(where[first:])
            told.append(numbers[first:])
            reached.keep(max(0, min(windows.steps, total) - settings.num_warmup))
            bar.update(min(windows.window, total - bar.n))
    last = ChEESState(*state)
    draws, numbers = (torch.cat(parts)[: reached.num_steps].transpose(0, 1) for parts in (kept, told))
    seconds = time.perf_counter() - begin - windows.compiling
    stats = {
        "diverging": numbers[..., 0] > 0,
        "acceptance_rate": numbers[..., 1],
        "n_steps": numbers[..., 2].long(),
        "lp": numbers[..., 3],
    }
    adapted_values = {"step_size": float(last.log_step.exp()), "trajectory_length": float(last.log_length_mean.exp())}
    wanted = settings.num_samples if reached.interrupted else None
    return Sampled(draws, stats, adapted_values, windows.compiled, windows.execution, seconds, wanted)


def _first(
    theta: Float[Tensor, "C D"], variance: Float[Tensor, " D"], step: Float[Tensor, ""], gradient: Gradient
) -> ChEESState:
    log_prob, grad = gradient(theta)
    zero, count = torch.zeros_like(step), torch.zeros((), dtype=torch.long, device=theta.device)
    return ChEESState(
        theta,
        log_prob,
        grad,
        count,
        log_step=step,
        log_step_mean=step.clone(),
        shrunk_to=step + math.log(10),
        error=zero,
        log_length=zero.clone(),
        log_length_mean=zero.clone(),
        square=zero.clone(),
        variance=variance,
    )


def _transition(
    settings: ChEES, gradient: ChainGradient, state: ChEESState, constants: Tensors
) -> tuple[ChEESState, Float[Tensor, "C 4"]]:
    warm = state.draw < settings.num_warmup
    step = state.log_step.exp()
    jitter = _halton(state.draw, step)
    length = torch.where(warm, state.log_length, state.log_length_mean).exp()
    leapfrogs = (2 * jitter * length / step).ceil().clamp(1, settings.max_leapfrogs)
    # Many steps too small to move the chains would only take time until the step has grown again.
    leapfrogs = torch.where(step < SMALLEST_STEP, 1.0, leapfrogs)
    kind: dict[str, Any] = {"dtype": state.theta.dtype, "device": state.theta.device}
    noise = torch.randn(state.theta.shape, **kind)
    moved = _integrated(gradient, state, constants, noise, leapfrogs, step)
    # `rand` before the comparison: the numbers drawn depend on nothing that adaptation changes.
    taken = torch.rand(len(state.theta), **kind) < moved.accept
    proposed = Proposal(moved.theta, moved.log_prob, moved.grad)
    chosen = select_per_chain(taken, proposed, Proposal(state.theta, state.log_prob, state.grad))
    after = state._replace(**chosen._asdict(), draw=state.draw + 1)
    after = select_per_chain(warm, _adapted(settings, state, after, moved, jitter), after)
    steps = leapfrogs.expand_as(moved.gain).to(moved.gain.dtype)
    diverged = (~(moved.gain > -MAX_ENERGY_ERROR)).to(moved.gain.dtype)  # NaN counts as divergent.
    return after, torch.stack([diverged, moved.accept, steps, after.log_prob], -1)


def _integrated(
    gradient: ChainGradient,
    state: ChEESState,
    constants: Tensors,
    noise: Float[Tensor, "C D"],
    leapfrogs: Float[Tensor, ""],
    step: Float[Tensor, ""],
) -> Trajectory:
    """Trajectory by leapfrog steps in units of the mass matrix, where momenta are standard normal."""
    scale = state.variance.sqrt()

    def leapfrog(i: Tensor, *tensors: Tensor) -> Tensors:
        theta, momentum, _, grad, scale, step, *rest = tensors
        half = momentum + 0.5 * step * scale * grad
        theta = theta + step * scale * half
        log_prob, grad = gradient.at(tuple(rest), theta)
        return theta, half + 0.5 * step * scale * grad, log_prob, grad

    begin = (state.theta, noise, state.log_prob, state.grad)
    theta, momentum, log_prob, grad = repeat(leapfrogs.long(), leapfrog, begin, (scale, step, *constants))
    gain = log_prob - state.log_prob - 0.5 * (momentum.square() - noise.square()).sum(-1)
    return Trajectory(theta, momentum, log_prob, grad, gain)


def _adapted(
    settings: ChEES, before: ChEESState, after: ChEESState, moved: Trajectory, jitter: Float[Tensor, ""]
) -> ChEESState:
    """Adapt the step by dual averaging of the harmonic mean acceptance, length by Adam, and variances over chains."""
    number = after.draw.to(before.log_step.dtype)
    shortfall = settings.target_accept - _harmonic_mean(moved.accept.clamp(min=LEAST_ACCEPTED))
    short_enough = moved.accept.median() > MOST_ACCEPTED
    shortfall = torch.where(short_enough, shortfall.clamp(max=0), shortfall)
    log_step, error = dual_averaged(before.error, shortfall, before.shrunk_to, number)
    log_step_mean = averaged(before.log_step_mean, log_step, number)
    grad = _criterion_gradient(before, moved, jitter)
    square = SQUARE_DECAY * before.square + (1 - SQUARE_DECAY) * grad * grad
    rate = LEARNING_RATE * grad / ((square / (1 - SQUARE_DECAY**number)).sqrt() + 1e-20)
    log_length = before.log_length + rate.clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
    log_length = log_length.clamp(math.log(SHORTEST), math.log(LONGEST))
    weight = MEMORY_FRACTION / (number + MEMORY_FRACTION)
    spread = after.theta.var(0)
    last = after.draw == settings.num_warmup
    return after._replace(
        log_step=torch.where(last, log_step_mean, log_step),
        log_step_mean=log_step_mean,
        error=error,
        log_length=log_length,
        log_length_mean=averaged(before.log_length_mean, log_length, number),
        square=square,
        variance=torch.where(spread > 0, (1 - weight) * before.variance + weight * spread, before.variance),
    )


def _harmonic_mean(values: Float[Tensor, " C"]) -> Float[Tensor, ""]:
    return len(values) / (1 / values).sum()


def _criterion_gradient(before: ChEESState, moved: Trajectory, jitter: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Derivative by log T of E[(|x' − E x'|² − |x − E x|²)²] / 4, in units of the mass matrix: eq. (9)–(11)."""
    scale = before.variance.sqrt()
    accept = torch.where(moved.theta.isfinite().all(-1), moved.accept, 0.0)
    end = torch.nan_to_num(moved.theta / scale, 0.0, 0.0, 0.0)
    center = (accept[:, None] * end).sum(0) / accept.sum().clamp(min=1e-20)
    start = before.theta / scale
    gained = (end - center).square().sum(-1) - (start - start.mean(0)).square().sum(-1)
    along = ((end - center) * torch.nan_to_num(moved.momentum, 0.0, 0.0, 0.0)).sum(-1)
    grad = (accept * gained * along).sum() / accept.sum().clamp(min=1e-20)
    return torch.nan_to_num(jitter * before.log_length.exp() * grad, 0.0, 0.0, 0.0)


def _halton(number: Int[Tensor, ""], like: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Van der Corput sequence in base 2 at number + 1, which covers (0, 1) evenly whatever its length."""
    bits = torch.arange(HALTON_BITS, device=number.device)
    digits = ((number + 1) >> bits) & 1
    return (digits * 0.5 ** (bits + 1).to(like.dtype)).sum()
