"""Steps of many chains at once, a window of them in one compiled call, and what each step puts out."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
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


class Prelude(NamedTuple):
    """What is repeated before the first step, on a state of its own: `body(i, *state, *constants) → state`."""

    body: Callable[..., Tensors] = lambda i, *tensors: ()
    state: Tensors = ()


class Recording:
    """`step(state, constants) → (state, outputs)`, a window of steps a call; prelude and steps are compiled together.

    Args:
        step: pure function of flat tuples of tensors.
        state: a state to compile for.
        constants: what it reads and never changes.
        reason: why it cannot be compiled; None where it can.
        prelude: what comes before the first step.
    """

    def __init__(
        self,
        step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
        state: Tensors,
        constants: Tensors,
        reason: str | None,
        prelude: Prelude = Prelude(),  # noqa: B008 - a value that nothing changes
    ) -> None:
        self.constants, self.reason, self.state, self.first = constants, reason, state, prelude.state
        self.device = state[0].device
        with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
            _, outputs = step(state, constants)
        room = WINDOW_NUMBERS // max(1, sum(output.numel() for output in outputs))
        self.window = min(64, max(8, room))
        self.blank = tuple(output.new_zeros(self.window, *output.shape) for output in outputs)
        sizes = (len(prelude.state), len(state), len(outputs), len(constants))

        def once(i: Tensor, *tensors: Tensor) -> Tensors:
            now, rows, fixed = _cut(tensors, sizes[1:])
            changed, outputs = step(now, fixed)
            here = torch.arange(self.window, device=self.device) == i
            pairs = zip(outputs, rows, strict=True)
            return (*changed, *(torch.where(here.reshape(-1, *[1] * out.dim()), out, row) for out, row in pairs))

        def run(climbs: Tensor, count: Tensor, *tensors: Tensor) -> Tensors:
            before, now, rows, fixed = _cut(tensors, sizes)
            ready = repeat(climbs, prelude.body, before, fixed) if before else ()
            return (*ready, *repeat(count, once, (*now, *rows), fixed))

        one = self._count(1)
        self.native = Native(run, (one, one, *prelude.state, *state, *self.blank, *constants))
        self.seconds, self.steps, self.compiling = 0.0, 0, 0.0

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
        begin = time.perf_counter()
        saving = SAVED * remaining * self.seconds / max(1, self.steps)
        if wish or saving > BUILD_SECONDS or (saving > LOAD_SECONDS and self.native.on_disk()):
            self.native.compile()
        self.compiling += time.perf_counter() - begin

    def prelude(self, count: int) -> Tensors:
        """The prelude's state after `count` repetitions."""
        found = self.native(self._count(count), self._count(0), *self.first, *self.state, *self.blank, *self.constants)
        return found[: len(self.first)]

    def __call__(self, state: Tensors) -> tuple[Tensors, Tensors]:
        """A window of steps: the state after it, and the outputs (window, …) of each."""
        begin = time.perf_counter()
        none, window = self._count(0), self._count(self.window)
        found = self.native(none, window, *self.first, *state, *self.blank, *self.constants)
        self.seconds += time.perf_counter() - begin
        self.steps += self.window
        _, state, outputs = _cut(found, (len(self.first), len(state), len(self.blank)))
        return state, outputs


def _cut(tensors: Tensors, sizes: Sequence[int]) -> list[Tensors]:
    """Consecutive pieces of these sizes."""
    ends = list(accumulate(sizes, initial=0))
    return [tensors[begin:end] for begin, end in pairwise(ends)]
