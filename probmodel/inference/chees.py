"""Hamiltonian Monte Carlo of many chains that set their step and trajectory together (Hoffman, Radul & Sountsov, 2021)."""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from probmodel.compiling import Tensors, repeat
from probmodel.inference.adaptation import DELAY, FORGETTING, SHRINKAGE, reasonable_step
from probmodel.inference.chains import by_site, starting, warn_if_untrusted
from probmodel.inference.recording import ChainGradient, Prelude, Recording, chain_gradient
from probmodel.inference.settling import STEPS, Climb, Slope, foot, higher, scattered
from probmodel.protocols import Dataset, Model, Posterior, Target
from probmodel.tracing import isolated, spawn

DIVERGENT = 1000.0
"""Nats of energy error that mark a divergence (Stan's)."""
LEARNING_RATE, SQUARE_DECAY, LARGEST_CHANGE = 0.025, 0.95, 0.35
"""Of Adam on the logarithm of the trajectory's length: the paper's rate and decay, a bound on one update."""
MEMORY_SHARE = 5.0
"""Variances average over about a fifth of the draws so far, so that the way to the typical set is forgotten."""
LEAST_ACCEPTED = 0.01
"""A chain that is stuck shortens the step for all, but not without end."""
SHORTEST, LONGEST = 0.1, 100.0
"""Standard deviations that a trajectory may cover."""
HALTON_BITS = 24


@dataclass(frozen=True)
class ChEES:
    """Many short chains that adapt together by the Change in the Estimator of the Expected Square criterion.

    All chains share a step size, a diagonal mass matrix and a trajectory length, learnt from all of them at once, so the
    warm-up is short; nothing is shared afterwards.  Trajectories are jittered by a Halton sequence.

    Args:
        num_samples: draws kept a chain.
        num_warmup: draws that adapt the sampler and are dropped.
        num_chains: chains; the criterion is an average over them and wants some tens.
        target_accept: harmonic mean of the chains' acceptance probabilities (0.651, optimal for HMC; Beskos et al., 2013).
        max_leapfrogs: steps of a trajectory at most.
        compile: compile the loop; None compiles where the first steps say that it pays.
        progress: show a progress bar.

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

    def __call__(self, model: Model, data: Dataset, *, seed: int) -> Posterior:
        """Sample the model's latents.

        Raises:
            ValueError: for a model without latents, or for which too few prior draws have a finite density and gradient.
        """
        _check_settings(self)
        begin = time.perf_counter()
        model, target, theta = starting(model, data, self.num_chains, seed)
        with isolated(spawn(seed, 0)), torch.no_grad():
            found = _sample(self, target, theta)
        draws = by_site(target, found.theta)
        divergences = int(found.numbers[..., 0].sum())
        warn_if_untrusted("ChEES", draws, divergences)
        info = {
            "method": "ChEES",
            "seed": seed,
            "divergences": divergences,
            "sample_stats": {
                "diverging": (found.numbers[..., 0] > 0).tolist(),
                "acceptance_rate": found.numbers[..., 1].tolist(),
                "n_steps": found.numbers[..., 2].long().tolist(),
                "lp": found.numbers[..., 3].tolist(),
            },
            "acceptance": found.numbers[..., 1].mean(1).tolist(),
            "step_size": found.step_size,
            "trajectory_length": found.length,
            "fallback": target.fallback,
            "compiled": found.compiled,
            "seconds": time.perf_counter() - begin,
            "seconds_sampling": found.seconds,
        }
        return Posterior(model, data, draws, info, None)


class Sampled(NamedTuple):
    """What the chains found."""

    theta: Float[Tensor, "C N D"]
    numbers: Float[Tensor, "C N 4"]
    """Whether divergent, acceptance probability, leapfrog steps, log density."""
    step_size: float
    length: float
    """Of a trajectory, in standard deviations."""
    compiled: bool
    seconds: float
    """From the first step to the last, compiling left out."""


class State(NamedTuple):
    """C chains and what they have learnt together."""

    theta: Float[Tensor, "C D"]
    log_prob: Float[Tensor, " C"]
    slope: Float[Tensor, "C D"]
    draw: Int[Tensor, ""]
    log_step: Float[Tensor, ""]
    log_step_mean: Float[Tensor, ""]
    shrunk_to: Float[Tensor, ""]
    error: Float[Tensor, ""]
    log_length: Float[Tensor, ""]
    log_length_mean: Float[Tensor, ""]
    square: Float[Tensor, ""]
    """Adam's running mean square of the criterion's slope."""
    variance: Float[Tensor, " D"]


class Trajectory(NamedTuple):
    """A proposal of each chain."""

    theta: Float[Tensor, "C D"]
    momentum: Float[Tensor, "C D"]
    log_prob: Float[Tensor, " C"]
    slope: Float[Tensor, "C D"]
    accept: Float[Tensor, " C"]
    """Its acceptance probability."""


def _sample(settings: ChEES, target: Target, theta: Float[Tensor, "C D"]) -> Sampled:
    slope = chain_gradient(target, theta)
    begin = time.perf_counter()

    def one(state: Tensors, constants: Tensors) -> tuple[Tensors, Tensors]:
        after, numbers = _transition(settings, slope, State(*state), constants)
        return tuple(after), (after.theta, numbers)

    def climb(i: Tensor, *tensors: Tensor) -> Tensors:
        fields, constants = tensors[: len(Climb._fields)], tensors[len(Climb._fields) :]
        return tuple(higher(Climb(*fields), lambda at: slope.at(constants, at)))

    def here(at: Tensor) -> tuple[Tensor, Tensor]:
        return slope.at(slope.constants, at)

    example = tuple(_first(theta, torch.ones_like(theta[0]), here))
    recording = Recording(
        one, example, slope.constants, slope.reason, Prelude(climb, tuple(foot(theta))), slope.threads
    )
    if settings.compile:
        recording.compile_where_it_pays(1, settings.compile)
    state: Tensors = tuple(_first(*scattered(Climb(*recording.prelude(STEPS)), here), here))
    kept, told, total = [], [], settings.num_warmup + settings.num_samples
    with tqdm(total=total, desc="ChEES", disable=not settings.progress, mininterval=0.5) as bar:
        while recording.steps < total:
            if recording.steps:
                recording.compile_where_it_pays(total - recording.steps, settings.compile)
            state, (where, numbers) = recording(state)
            first = max(0, settings.num_warmup - (recording.steps - recording.window))
            kept.append(where[first:])
            told.append(numbers[first:])
            bar.update(min(recording.window, total - bar.n))
    last = State(*state)
    draws, numbers = (torch.cat(parts)[: settings.num_samples].transpose(0, 1) for parts in (kept, told))
    seconds = time.perf_counter() - begin - recording.compiling
    length = float(last.log_length_mean.exp())
    return Sampled(draws, numbers, float(last.log_step.exp()), length, recording.compiled, seconds)


def _first(theta: Float[Tensor, "C D"], variance: Float[Tensor, " D"], gradient: Slope) -> State:
    log_prob, slope = gradient(theta)
    step = reasonable_step(theta, gradient, variance.sqrt()).log().mean()
    zero, count = torch.zeros_like(step), torch.zeros((), dtype=torch.long, device=theta.device)
    return State(
        theta,
        log_prob,
        slope,
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
    settings: ChEES, gradient: ChainGradient, state: State, constants: Tensors
) -> tuple[State, Float[Tensor, "C 4"]]:
    warm = state.draw < settings.num_warmup
    step = state.log_step.exp()
    jitter = _halton(state.draw, step)
    length = torch.where(warm, state.log_length, state.log_length_mean).exp()
    leapfrogs = (2 * jitter * length / step).ceil().clamp(1, settings.max_leapfrogs)
    kind: dict[str, Any] = {"dtype": state.theta.dtype, "device": state.theta.device}
    noise = torch.randn(state.theta.shape, **kind)
    moved = _integrated(gradient, state, constants, noise, leapfrogs, step)
    # `rand` before the comparison: the numbers drawn depend on nothing that adaptation changes.
    taken = torch.rand(len(state.theta), **kind) < moved.accept
    chosen = [
        torch.where(taken[:, None] if a.dim() == 2 else taken, a, b)
        for a, b in ((moved.theta, state.theta), (moved.log_prob, state.log_prob), (moved.slope, state.slope))
    ]
    after = state._replace(theta=chosen[0], log_prob=chosen[1], slope=chosen[2], draw=state.draw + 1)
    learnt = _learnt(settings, state, after, moved, jitter)
    after = State(*(b if a is b else torch.where(warm, a, b) for a, b in zip(learnt, after, strict=True)))
    start = state.log_prob - 0.5 * noise.square().sum(-1)
    gain = moved.log_prob - 0.5 * moved.momentum.square().sum(-1) - start
    steps = leapfrogs.expand(len(gain)).to(gain.dtype)
    diverged = (~(gain > -DIVERGENT)).to(gain.dtype)
    return after, torch.stack([diverged, moved.accept, steps, after.log_prob], -1)


def _integrated(
    gradient: ChainGradient,
    state: State,
    constants: Tensors,
    noise: Float[Tensor, "C D"],
    leapfrogs: Float[Tensor, ""],
    step: Float[Tensor, ""],
) -> Trajectory:
    """Leapfrog steps in units of the mass matrix, where momenta are standard normal."""
    scale = state.variance.sqrt()

    def leapfrog(i: Tensor, *tensors: Tensor) -> Tensors:
        theta, momentum, _, slope, scale, step, *rest = tensors
        half = momentum + 0.5 * step * scale * slope
        theta = theta + step * scale * half
        log_prob, slope = gradient.at(tuple(rest), theta)
        return theta, half + 0.5 * step * scale * slope, log_prob, slope

    begin = (state.theta, noise, state.log_prob, state.slope)
    theta, momentum, log_prob, slope = repeat(leapfrogs.long(), leapfrog, begin, (scale, step, *constants))
    gain = log_prob - state.log_prob - 0.5 * (momentum.square() - noise.square()).sum(-1)
    accept = torch.nan_to_num(gain, -torch.inf, torch.inf, -torch.inf).clamp(max=0).exp()
    return Trajectory(theta, momentum, log_prob, slope, accept)


def _learnt(settings: ChEES, before: State, after: State, moved: Trajectory, jitter: Float[Tensor, ""]) -> State:
    """Step by dual averaging on the harmonic mean acceptance, length by Adam on the criterion, variances over chains."""
    number = after.draw.to(before.log_step.dtype)
    accept = moved.accept.clamp(min=LEAST_ACCEPTED)
    harmonic = len(accept) / (1 / accept).sum()
    share = 1 / (number + DELAY)
    error = (1 - share) * before.error + share * (settings.target_accept - harmonic)
    log_step = before.shrunk_to - number.sqrt() / SHRINKAGE * error
    forget = number**-FORGETTING
    log_step_mean = forget * log_step + (1 - forget) * before.log_step_mean
    slope = _criterion_slope(before, moved, jitter)
    square = SQUARE_DECAY * before.square + (1 - SQUARE_DECAY) * slope * slope
    rate = LEARNING_RATE * slope / ((square / (1 - SQUARE_DECAY**number)).sqrt() + 1e-20)
    log_length = before.log_length + rate.clamp(-LARGEST_CHANGE, LARGEST_CHANGE)
    log_length = log_length.clamp(math.log(SHORTEST), math.log(LONGEST))
    weight = MEMORY_SHARE / (number + MEMORY_SHARE)
    spread = after.theta.var(0)
    last = after.draw == settings.num_warmup
    return after._replace(
        log_step=torch.where(last, log_step_mean, log_step),
        log_step_mean=log_step_mean,
        error=error,
        log_length=log_length,
        log_length_mean=forget * log_length + (1 - forget) * before.log_length_mean,
        square=square,
        variance=torch.where(spread > 0, (1 - weight) * before.variance + weight * spread, before.variance),
    )


def _criterion_slope(before: State, moved: Trajectory, jitter: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Derivative by log T of E[(|x' − E x'|² − |x − E x|²)²] / 4, in units of the mass matrix: eq. (9)–(11)."""
    scale = before.variance.sqrt()
    accept = torch.where(moved.theta.isfinite().all(-1), moved.accept, 0.0)
    end = torch.nan_to_num(moved.theta / scale, 0.0, 0.0, 0.0)
    centre = (accept[:, None] * end).sum(0) / accept.sum().clamp(min=1e-20)
    start = before.theta / scale
    gained = (end - centre).square().sum(-1) - (start - start.mean(0)).square().sum(-1)
    along = ((end - centre) * torch.nan_to_num(moved.momentum, 0.0, 0.0, 0.0)).sum(-1)
    slope = (accept * gained * along).sum() / accept.sum().clamp(min=1e-20)
    return torch.nan_to_num(jitter * before.log_length.exp() * slope, 0.0, 0.0, 0.0)


def _halton(number: Int[Tensor, ""], like: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Van der Corput's sequence in base 2 at number + 1: even cover of (0, 1) whatever its length."""
    bits = torch.arange(HALTON_BITS, device=number.device)
    digits = ((number + 1) >> bits) & 1
    return (digits * 0.5 ** (bits + 1).to(like.dtype)).sum()


def _check_settings(settings: ChEES) -> None:
    if min(settings.num_samples, settings.num_warmup, settings.max_leapfrogs) < 1 or settings.num_chains < 2:
        raise ValueError(
            f"num_samples, num_warmup and max_leapfrogs need 1 or more and num_chains 2 or more, got {settings}; raise them"
        )
    if not 0 < settings.target_accept < 1:
        raise ValueError(
            f"target_accept needs to lie between 0 and 1, got {settings.target_accept}; 0.651 is the paper's"
        )
