"""Steps of many chains at once, a window of them in one compiled call, and what each step puts out."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from probmodel.compiling import BUILD_SECONDS, LOAD_SECONDS, Native, Tensors, repeat
from probmodel.protocols import Target
from probmodel.tracing import batched_graph, slope_and_outputs

SAVED = 0.95
"""Share of an uncompiled step's time that compilation saves: most of it is calling small operations."""
WINDOW_NUMBERS = 4_096
"""Numbers that a window's outputs may hold: a compiled step copies them."""

Slope = Callable[..., tuple[Tensor, Tensor]]


class ChainGradient(NamedTuple):
    """Log density of C chains, in nats, with its slope: `at(constants, theta (C, D)) → (C,), (C, D)`."""

    at: Slope
    constants: Tensors
    reason: str | None
    """Why the model runs eagerly and cannot be compiled; None for a traced one."""


def chain_gradient(target: Target, theta: Float[Tensor, "C D"]) -> ChainGradient:
    """For as many chains as theta has; a slope that is not finite counts as none, and NaN as no density."""

    def density(theta: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        # Pyro's handlers run one draw at a time where the model could not be traced.
        value = vmap(target.log_joint_at)(theta) if target.fallback is None else target.log_joint(theta)
        return value.sum(), (value,)

    if target.fallback is not None:
        return ChainGradient(lambda _, theta: _tamed(*slope_and_outputs(density, theta)), (), target.fallback)
    pure = batched_graph(density, theta)
    return ChainGradient(lambda constants, theta: _tamed(*pure.graph(*constants, theta)), pure.constants, None)


def _tamed(slope: Float[Tensor, "C D"], value: Float[Tensor, " C"]) -> tuple[Tensor, Tensor]:
    return torch.where(value.isnan(), -torch.inf, value), torch.nan_to_num(slope, 0.0, 0.0, 0.0)


class Recording:
    """`step(state, constants) → (state, outputs)`, a window of steps a call.

    Args:
        step: pure function of flat tuples of tensors.
        state: where it begins.
        constants: what it reads and never changes.
        reason: why it cannot be compiled; None where it can.
    """

    def __init__(
        self,
        step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
        state: Tensors,
        constants: Tensors,
        reason: str | None,
    ) -> None:
        self.constants, self.reason = constants, reason
        self.device = state[0].device
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
            _, outputs = step(state, constants)
        room = WINDOW_NUMBERS // max(1, sum(output.numel() for output in outputs))
        self.window = min(64, max(8, room))
        self.blank = tuple(output.new_zeros(self.window, *output.shape) for output in outputs)
        ends = len(state), len(state) + len(outputs)

        def once(i: Tensor, *tensors: Tensor) -> Tensors:
            changed, outputs = step(tensors[: ends[0]], tensors[ends[1] :])
            here = torch.arange(self.window, device=self.device) == i
            written = (
                torch.where(here.reshape(-1, *[1] * output.dim()), output, row)
                for output, row in zip(outputs, tensors[ends[0] : ends[1]], strict=True)
            )
            return (*changed, *written)

        def run(count: Tensor, *tensors: Tensor) -> Tensors:
            return repeat(count, once, tensors[: ends[1]], tensors[ends[1] :])

        self.size = len(state)
        self.native = Native(run, (self._count(1), *state, *self.blank, *constants))
        self.seconds, self.steps = 0.0, 0

    def _count(self, count: int) -> Tensor:
        return torch.tensor(count, device=self.device)

    @property
    def compiled(self) -> bool:
        """Whether windows run as machine code."""
        return self.native.compiled

    def compile_where_it_pays(self, remaining: int, wish: bool | None) -> None:
        """Compile for `remaining` further steps, by the time the uncompiled ones have taken so far.

        Args:
            remaining: steps still to come.
            wish: True compiles at once, False never, None decides.
        """
        if self.compiled or self.reason is not None or wish is False:
            return
        saving = SAVED * remaining * self.seconds / max(1, self.steps)
        if wish or saving > BUILD_SECONDS or (saving > LOAD_SECONDS and self.native.on_disk()):
            self.native.compile()

    def __call__(self, state: Tensors) -> tuple[Tensors, Tensors]:
        """A window of steps: the state after it, and the outputs (window, …) of each."""
        begin = time.perf_counter()
        found = self.native(self._count(self.window), *state, *self.blank, *self.constants)
        self.seconds += time.perf_counter() - begin
        self.steps += self.window
        return found[: self.size], found[self.size :]
