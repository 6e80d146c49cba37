"""Adam as a pure function, so that a whole step can be compiled (Kingma & Ba, 2015)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from probmodel.tracing.internals import has_step_hooks
from probmodel.tracing.programs.compiling import Tensors


class AdamState(NamedTuple):
    """State of Adam: parameters, running mean and mean square of the gradient, and number of steps taken."""

    parameters: Float[Tensor, " P"]
    mean: Float[Tensor, " P"]
    square: Float[Tensor, " P"]
    steps: Float[Tensor, ""]


def start(parameters: Float[Tensor, " P"]) -> AdamState:
    """State before the first step."""
    zeros = torch.zeros_like(parameters)
    return AdamState(parameters, zeros, zeros.clone(), parameters.new_zeros(()))


def unsupported_reason(optimizer: Optimizer) -> str | None:
    """Reason why the optimizer's step differs from the one written here; None for an Adam with one rate for all."""
    if type(optimizer) not in (Adam, AdamW):
        return type(optimizer).__name__
    # A hook may change the rate from step to step (a schedule), which a compiled loop would not see.
    if has_step_hooks(optimizer):
        return "a hook on the optimizer"
    if len(optimizer.param_groups) != 1:
        return "several parameter groups"
    group: dict[str, Any] = optimizer.param_groups[0]
    varied = group["amsgrad"] or group["maximize"] or torch.is_tensor(group["lr"])
    return "amsgrad, maximize or a tensor as rate" if varied else None


def adam_settings(optimizer: Optimizer) -> list[float]:
    """Learning rate, two decay factors, epsilon, coupled and decoupled weight decay of an Adam that is supported."""
    group: dict[str, Any] = optimizer.param_groups[0]
    decay, decoupled = float(group["weight_decay"]), group["decoupled_weight_decay"]
    numbers = (group["lr"], *group["betas"], group["eps"], *((0.0, decay) if decoupled else (decay, 0.0)))
    return [float(number) for number in numbers]


def rates(settings: Sequence[Any], steps: Any) -> tuple[Any, ...]:
    """Quantities that one step needs, where the first step has number 1.

    These are the shrinkage of the parameters, the step size and the root of the second bias correction, two decay
    factors, epsilon and the coupled weight decay; operations follow the order of PyTorch's own Adam, so that both give
    the same parameters up to rounding.
    """
    rate, first, second, epsilon, coupled, decoupled = settings
    size, root = rate / (1 - first**steps), (1 - second**steps) ** 0.5
    return 1 - rate * decoupled, size, root, first, second, epsilon, coupled


AdamUpdate = tuple[Tensor, Tensor, Tensor]
"""Parameters, running mean and running mean square of the gradient."""


def adam_update(
    parameters: Tensor, mean: Tensor, square: Tensor, grad: Tensor, numbers: Sequence[Tensor]
) -> AdamUpdate:
    """Result of one descent step with the quantities that `rates` returns; all tensors have the same shape."""
    shrink, size, root, first, second, epsilon, coupled = numbers
    grad = grad + coupled * parameters
    mean = mean + (1 - first) * (grad - mean)
    square = second * square + (1 - second) * grad * grad
    return parameters * shrink - size * mean / (square.sqrt() / root + epsilon), mean, square


def step(state: AdamState, grad: Float[Tensor, " P"], settings: Float[Tensor, "6"]) -> AdamState:
    """State after one descent step."""
    steps = state.steps + 1
    parameters, mean, square = adam_update(*state[:3], grad, rates(settings.unbind(), steps))
    return AdamState(parameters, mean, square, steps)


def optimizer_moments(optimizer: Optimizer, leaves: Sequence[Tensor]) -> tuple[Tensors, Tensors, int]:
    """Running means, running mean squares and step count of PyTorch's own Adam; zeros before its first step."""
    states = [optimizer.state.get(leaf, {}) for leaf in leaves]
    means = tuple(s.get("exp_avg", torch.zeros_like(leaf)) for s, leaf in zip(states, leaves, strict=True))
    squares = tuple(s.get("exp_avg_sq", torch.zeros_like(leaf)) for s, leaf in zip(states, leaves, strict=True))
    return means, squares, max(int(s.get("step", 0)) for s in states)
