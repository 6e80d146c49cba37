"""Adaptation of step size and diagonal mass matrix per chain, as pure functions (Hoffman & Gelman, 2014; Stan)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_BUFFER, LAST_BUFFER, FIRST_WINDOW = 75, 50, 25
"""Stan's warm-up, in draws: step size alone first and last, and the first of the doubling windows for variances."""
DELAY, SHRINKAGE, FORGETTING = 10.0, 0.05, 0.75
"""Stan's t0, gamma and kappa of dual averaging."""
MAX_DOUBLINGS = 30
PRIOR_DRAWS, PRIOR_VARIANCE = 5.0, 1e-3
"""Weight, in draws, of the variance that a window's variance is shrunk towards, and its value."""

Gradient = Callable[[Float[Tensor, "C D"]], tuple[Float[Tensor, " C"], Float[Tensor, "C D"]]]
"""Function theta → log density in nats, and its gradient."""


class Adaptation(NamedTuple):
    """State of the warm-up of C chains."""

    log_step: Float[Tensor, " C"]
    log_step_mean: Float[Tensor, " C"]
    shrunk_to: Float[Tensor, " C"]
    """Log step size towards which dual averaging shrinks."""
    error: Float[Tensor, " C"]
    """Running mean of how far the acceptance falls short of its target."""
    updates: Float[Tensor, " C"]
    scale: Float[Tensor, "C D"]
    """Standard deviations: square roots of the inverse mass matrix's diagonal."""
    num_draws: Float[Tensor, " C"]
    """Number of draws in the present window; their mean and sum of squared deviations follow."""
    mean: Float[Tensor, "C D"]
    squares: Float[Tensor, "C D"]


class Schedule(NamedTuple):
    """Masks of the warm-up's draws that estimate variances, and of those that end a window."""

    estimates: Bool[Tensor, " W"]
    ends: Bool[Tensor, " W"]


def schedule(num_warmup: int, device: torch.device) -> Schedule:
    """Schedule of Stan's warm-up windows; a warm-up too short for them keeps their proportions."""
    first, last, window = FIRST_BUFFER, LAST_BUFFER, FIRST_WINDOW
    if first + window + last > num_warmup:
        first, last = int(0.15 * num_warmup), int(0.1 * num_warmup)
        window = num_warmup - first - last
    estimates, ends = torch.zeros(2, num_warmup, dtype=torch.bool, device=device)
    begin, stop = first, num_warmup - last
    while begin < stop:
        # A window that would leave less than its double after it takes the rest.
        end = begin + window if begin + 3 * window <= stop else stop
        estimates[begin:end] = True
        ends[end - 1] = True
        begin, window = end, 2 * window
    return Schedule(estimates, ends)


def reasonable_step(theta: Float[Tensor, "C D"], gradient: Gradient, scale: Float[Tensor, " D"]) -> Float[Tensor, " C"]:
    """Initial step size in units of the scale: doubled or halved until the acceptance probability crosses 0.8."""
    log_prob, grad = gradient(theta)
    momentum = torch.randn(theta.shape, dtype=theta.dtype, device=theta.device)
    start = log_prob - 0.5 * momentum.square().sum(-1)
    exponent = torch.zeros_like(log_prob)
    direction, open_ = torch.zeros_like(log_prob), torch.ones_like(log_prob, dtype=torch.bool)
    for _ in range(MAX_DOUBLINGS):
        step = (2**exponent)[:, None]
        half = momentum + 0.5 * step * scale * grad
        moved_log_prob, moved_grad = gradient(theta + step * scale * half)
        moved = half + 0.5 * step * scale * moved_grad
        gain = moved_log_prob - 0.5 * moved.square().sum(-1) - start
        wanted = torch.where(gain > math.log(0.8), 1.0, -1.0).to(gain.dtype)
        open_ = open_ & ((direction == 0) | (wanted == direction))
        direction = wanted
        if not open_.any():
            break
        exponent = torch.where(open_, exponent + wanted, exponent)
    return 2**exponent


def initial_adaptation(step: Float[Tensor, " C"], dim: int) -> Adaptation:
    """State before the first draw, with unit variances and a first step size."""
    zeros = step.new_zeros(len(step), dim)
    zero = torch.zeros_like(step)
    log_step = step.log()
    return Adaptation(
        log_step,
        log_step.clone(),
        log_step + math.log(10),  # Ten times the first step, so that large steps are tried first.
        zero,
        zero.clone(),
        zeros + 1,
        zero.clone(),
        zeros,
        zeros.clone(),
    )


def adapt(
    before: Adaptation,
    theta: Float[Tensor, "C D"],
    accepted: Float[Tensor, " C"],
    number: Int[Tensor, " C"],
    plan: Schedule,
    target_accept: float,
) -> Adaptation:
    """State after one draw of each chain; it holds only for chains that are still in the warm-up.

    Args:
        before: state before the draw.
        theta: draw of each chain.
        accepted: mean acceptance probability of each draw's trajectory.
        number: number of each chain's draw, from 0.
        plan: windows of the warm-up.
        target_accept: acceptance probability that the step size aims at.
    """
    length = len(plan.ends)
    here = number.clamp(0, length - 1)
    estimates, ends, last = plan.estimates[here], plan.ends[here], number == length - 1
    after = _estimated(_stepped(before, accepted, target_accept), theta, estimates)
    variance = after.squares / (after.num_draws - 1).clamp(min=1)[:, None]
    weight = (after.num_draws / (after.num_draws + PRIOR_DRAWS))[:, None]
    scale = (weight * variance + (1 - weight) * PRIOR_VARIANCE).sqrt()
    restarted = initial_adaptation(after.log_step_mean.exp(), theta.shape[1])._replace(scale=scale)
    after = select_per_chain(ends, restarted, after)
    return after._replace(log_step=torch.where(last, after.log_step_mean, after.log_step))


def dual_averaged(
    error: Float[Tensor, "*C"],
    shortfall: Float[Tensor, "*C"],
    shrunk_to: Float[Tensor, "*C"],
    updates: Float[Tensor, "*C"],
) -> tuple[Float[Tensor, "*C"], Float[Tensor, "*C"]]:
    """Next log step size and mean error, after an acceptance that falls short of its target by `shortfall`: eq. (6)."""
    weight = 1 / (updates + DELAY)
    error = (1 - weight) * error + weight * shortfall
    return shrunk_to - updates.sqrt() / SHRINKAGE * error, error


def averaged(mean: Float[Tensor, "*C"], new: Float[Tensor, "*C"], updates: Float[Tensor, "*C"]) -> Float[Tensor, "*C"]:
    """Running mean that forgets its first values."""
    weight = updates**-FORGETTING
    return weight * new + (1 - weight) * mean


def _stepped(before: Adaptation, accepted: Float[Tensor, " C"], target_accept: float) -> Adaptation:
    updates = before.updates + 1
    log_step, error = dual_averaged(before.error, target_accept - accepted, before.shrunk_to, updates)
    mean = averaged(before.log_step_mean, log_step, updates)
    return before._replace(log_step=log_step, log_step_mean=mean, error=error, updates=updates)


def _estimated(before: Adaptation, theta: Float[Tensor, "C D"], estimates: Bool[Tensor, " C"]) -> Adaptation:
    """Update of Welford's running mean and sum of squared deviations."""
    num_draws = before.num_draws + 1
    gap = theta - before.mean
    mean = before.mean + gap / num_draws[:, None]
    counted = before._replace(num_draws=num_draws, mean=mean, squares=before.squares + gap * (theta - mean))
    return select_per_chain(estimates, counted, before)


Fields = TypeVar("Fields", bound=tuple)


def select_per_chain(where: Bool[Tensor, "*C"], one: Fields, other: Fields) -> Fields:
    """Choose per chain between two tuples, field by field and in nested ones; identical fields cost nothing."""

    def either(a: Any, b: Any) -> Any:
        if a is b:
            return a
        if isinstance(a, tuple):
            return select_per_chain(where, a, b)
        return torch.where(where.reshape(where.shape + (1,) * (a.dim() - where.dim())), a, b)

    return type(one)(*(either(a, b) for a, b in zip(one, other, strict=True)))
