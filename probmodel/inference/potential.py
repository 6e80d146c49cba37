"""The potential energy of a target as one value-and-gradient graph, for samplers that differentiate by autograd."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols import Target
from probmodel.tracing import COMPILE_SECONDS, Gradient

TRIAL_CALLS = 50
COMPILED_SHARE = 0.2
"""Share of a call's time that compilation leaves on a small model."""


class Potential:
    """−log joint of `values["theta"]`; autograd gets the gradient that the graph has computed with the value.

    Args:
        target: the density.
        start: a point of finite density.
        expected_calls: how often it will be called; the graph is compiled where that pays.
    """

    def __init__(self, target: Target, start: Float[Tensor, " D"], expected_calls: int) -> None:
        self.theta = start.detach().clone().requires_grad_()
        self.gradient = Gradient(lambda: -target.log_joint_at(self.theta), [self.theta], fallback=target.fallback)
        seconds = median(self._seconds() for _ in range(TRIAL_CALLS)) * expected_calls
        self.compiled = self.gradient.graph is not None and seconds * (1 - COMPILED_SHARE) > COMPILE_SECONDS
        if self.compiled:
            self.gradient.compile()

    def _seconds(self) -> float:
        begin = time.perf_counter()
        self.gradient()
        return time.perf_counter() - begin

    def __call__(self, values: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        return _WithGradient.apply(values["theta"], self)

    def value_and_gradient(self, theta: Float[Tensor, " D"]) -> tuple[Tensor, Tensor]:
        """Potential energy and its gradient at theta."""
        with torch.no_grad():
            self.theta.copy_(theta)
        with torch.enable_grad():
            value, (slope,) = self.gradient()
        return value, slope


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor, potential: Potential) -> Tensor:
        value, slope = potential.value_and_gradient(theta.detach())
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return upstream * slope, None
