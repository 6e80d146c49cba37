"""Adam as a pure function of one flat vector, so that a whole step can be compiled (Kingma & Ba, 2015)."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer


class Moments(NamedTuple):
    """What Adam remembers: parameters, mean and mean square of the gradient, steps taken."""

    parameters: Float[Tensor, " P"]
    mean: Float[Tensor, " P"]
    square: Float[Tensor, " P"]
    steps: Float[Tensor, ""]


def start(parameters: Float[Tensor, " P"]) -> Moments:
    """Before the first step."""
    nothing = torch.zeros_like(parameters)
    return Moments(parameters, nothing, nothing.clone(), parameters.new_zeros(()))


def settings_of(optimizer: Optimizer) -> list[float] | None:
    """Rate, two decays, epsilon, coupled and decoupled weight decay of an Adam with one rate for all; None for others."""
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1:
        return None
    group: dict[str, Any] = optimizer.param_groups[0]
    # A hook may change the rate from step to step (a schedule), which a compiled loop would not see.
    hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    if hooked or group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor):
        return None
    decay, decoupled = float(group["weight_decay"]), group["decoupled_weight_decay"]
    numbers = (group["lr"], *group["betas"], group["eps"], *((0.0, decay) if decoupled else (decay, 0.0)))
    return [float(number) for number in numbers]


def step(state: Moments, slope: Float[Tensor, " P"], settings: Float[Tensor, "6"]) -> Moments:
    """One step down the slope."""
    rate, first, second, epsilon, coupled, decoupled = settings.unbind()
    slope = slope + coupled * state.parameters
    steps = state.steps + 1
    mean = state.mean + (1 - first) * (slope - state.mean)
    square = second * state.square + (1 - second) * slope * slope
    # In the order of PyTorch's own Adam, so that both give the same numbers up to rounding.
    size = rate / (1 - first**steps)
    scale = square.sqrt() / (1 - second**steps).sqrt() + epsilon
    moved = state.parameters * (1 - rate * decoupled) - size * mean / scale
    return Moments(moved, mean, square, steps)
