"""Steps of many chains at once: a window of steps in one compiled call, and the outputs of each step."""

import time
from collections.abc import Callable
from typing import NamedTuple

import pyro
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from probmodel.protocols.posterior import Target
from probmodel.protocols.session.progress import Bar
from probmodel.tracing.programs.compiling import CompilationPlan, Native, Tensors, plan, repeat
from probmodel.tracing.programs.gradients import batched_graph, gradient_and_outputs

SAVED = 0.95
"""Fraction of an uncompiled step's time that compilation saves: most of it is calling small operations."""
SMALL = 2**20
"""Bytes of a step's intermediate tensors below which one thread is faster than several."""
WINDOW_NUMBERS = 4_096
"""Largest number of elements in a window's outputs: a compiled step copies them."""


class ChainGradient(NamedTuple):
    """Log density of C chains, in nats, with its gradient: `at(constants, theta (C, D)) → (C,), (C, D)`."""

    at: Callable[[Tensors, Tensor], tuple[Tensor, Tensor]]
    constants: Tensors
    reason: str | None
    """Reason why the model runs eagerly and cannot be compiled; None for a traced model."""
    threads: int | None
    """Number of threads: 1 where the chains are so small that a second one costs more than it saves, else None."""

    def here(self, theta: Float[Tensor, "C D"]) -> tuple[Float[Tensor, " C"], Float[Tensor, "C D"]]:
        """Log density and gradient with the stored constants."""
        return self.at(self.constants, theta)


def chain_gradient(target: Target, theta: Float[Tensor, "C D"]) -> ChainGradient:
    """Log density and gradient for as many chains as theta has; NaN becomes −∞, and a gradient that is not finite 0."""

    def density(theta: Tensor) -> tuple[Tensor, tuple[Tensor]]:
        # Pyro's handlers run one draw at a time where the model could not be traced.
        value = vmap(target.log_joint_at)(theta) if target.fallback is None else target.log_joint(theta)
        return value.sum(), (value,)

    def eagerly(_: Tensors, theta: Tensor) -> tuple[Tensor, Tensor]:
        # A trajectory may leave the support by rounding, which means a density of zero and no error in the model.
        with pyro.validation_enabled(False):
            return _with_finite_gradient(*gradient_and_outputs(density, theta))

    if target.fallback is not None:
        return ChainGradient(eagerly, (), target.fallback, None)
    pure = batched_graph(density, theta)
    threads = 1 if len(theta) * target.bytes_per_draw < SMALL else None
    return ChainGradient(
        lambda constants, theta: _with_finite_gradient(*pure.graph(*constants, theta)), pure.constants, None, threads
    )


def _with_finite_gradient(grad: Float[Tensor, "C D"], value: Float[Tensor, " C"]) -> tuple[Tensor, Tensor]:
    return torch.where(value.isnan(), -torch.inf, value), torch.nan_to_num(grad, 0.0, 0.0, 0.0)


class Prelude(NamedTuple):
    """Function that is repeated before the first step, on a state of its own: `body(i, *state, *constants) → state`."""

    body: Callable[..., Tensors] = lambda i, *tensors: ()
    state: Tensors = ()


class StepWindows:
    """Repeated `step(state, constants) → (state, outputs)`, a window per call; prelude and steps are compiled together.

    Args:
        step: pure function of flat tuples of tensors.
        state: example of a state to compile for.
        outputs: tensors with the shapes and dtypes of a step's outputs.
        constants: tensors that the step reads and never changes.
        reason: why the step cannot be compiled; None where it can.
        prelude: function that is repeated before the first step.
        threads: number of threads of the compiled code; None uses PyTorch's.
    """

    def __init__(
        self,
        step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]],
        state: Tensors,
        outputs: Tensors,
        constants: Tensors,
        reason: str | None,
        prelude: Prelude = Prelude(),  # noqa: B008 - immutable
        threads: int | None = None,
    ) -> None:
        self.constants, self.reason, self.device = constants, reason, state[0].device
        # One vector for all that changes: a loop passes on each tensor at each iteration, which costs more than a read.
        self.layouts = tuple(Layout.of(part) for part in (prelude.state, state, outputs))
        first, now, told = self.layouts
        self.first, self.state = first.pack(prelude.state).to(self.device), now.pack(state)
        self.window = min(64, max(8, WINDOW_NUMBERS // max(1, told.size)))
        self.blank = self.state.new_zeros(self.window, told.size)

        def ascent(i: Tensor, packed: Tensor, *fixed: Tensor) -> Tensors:
            return (first.pack(prelude.body(i, *first.unpack(packed), *fixed)),)

        def once(i: Tensor, packed: Tensor, rows: Tensor, *fixed: Tensor) -> Tensors:
            changed, outputs = step(now.unpack(packed), fixed)
            # Scattered, not chosen by `where`: a fused choice would compute the outputs anew for every row.
            return now.pack(changed), rows.index_copy(0, i.reshape(1), told.pack(outputs)[None])

        def run(
            num_ascents: Tensor, count: Tensor, before: Tensor, packed: Tensor, rows: Tensor, *fixed: Tensor
        ) -> Tensors:
            ready = repeat(num_ascents, ascent, (before,), fixed) if prelude.state else (before.clone(),)
            return (*ready, *repeat(count, once, (packed, rows), fixed))

        few = self._count(2)

        def parts(results: Tensors) -> Tensors:
            ready, packed, rows = results
            return (*first.unpack(ready), *now.unpack(packed), *told.unpack(rows))

        examples = (few, few, self.first, self.state, self.blank, *constants)
        self.native = Native(run, examples, threads, parts=parts)
        self.seconds, self.steps, self.compiling, self.why = 0.0, 0, 0.0, ""

    def _count(self, count: int) -> Tensor:
        return torch.tensor(count, device=self.device)

    @property
    def compiled(self) -> bool:
        """True if windows run as machine code."""
        return self.native.compiled

    @property
    def execution(self) -> str:
        """Mode in which the steps were executed, and the reason."""
        uncompiled = "traced graph, uncompiled" if self.reason is None else "uncompiled, step by step"
        mode = f"compiled loop of {self.window} steps per call" if self.compiled else uncompiled
        return f"{mode}: {'refused by the compiler' if self.native.refused else self.why}"

    def compile_where_it_pays(self, remaining: int, requested: bool | None, bar: Bar) -> None:
        """Compile where that pays for the remaining steps, given the time that the uncompiled ones have taken.

        Args:
            remaining: number of steps still to come.
            requested: True compiles at once, False never, None where it pays.
            bar: progress bar that shows when compilation runs, which takes a while.
        """
        if self.compiled or self.native.refused:
            return
        begin = time.perf_counter()
        chosen = self._plan(remaining, requested)
        if chosen.compile or self.steps <= self.window:  # Later estimates are of the last steps only.
            self.why = chosen.reason
        if chosen.compile:
            bar.set_postfix_str("compiling")
            self.native.compile()
            bar.set_postfix_str("")
        self.compiling += time.perf_counter() - begin

    def _plan(self, remaining: int, requested: bool | None) -> CompilationPlan:
        if self.reason is not None:
            return CompilationPlan(False, self.reason)
        if requested is not None:
            return CompilationPlan(requested, "as requested")
        if not self.steps:
            return CompilationPlan(False, "too few steps to time")
        return plan(SAVED * remaining * self.seconds / self.steps, self.native.on_disk)

    def prelude(self, count: int) -> Tensors:
        """State of the prelude after `count` repetitions."""
        ready, *_ = self._run(count, 0, self.state)
        return self.layouts[0].unpack(ready)

    def __call__(self, state: Tensors) -> tuple[Tensors, Tensors]:
        """Run a window of steps, and return the state after it and the outputs (window, …) of its steps."""
        begin = time.perf_counter()
        _, packed, rows = self._run(0, self.window, self.layouts[1].pack(state))
        self.seconds += time.perf_counter() - begin
        self.steps += self.window
        return self.layouts[1].unpack(packed), self.layouts[2].unpack(rows)

    def _run(self, num_ascents: int, count: int, packed: Tensor) -> Tensors:
        return self.native(
            self._count(num_ascents), self._count(count), self.first, packed, self.blank, *self.constants
        )


class Layout(NamedTuple):
    """Layout of tensors of several shapes and dtypes in one vector; integers and truth values stay exact below 2²⁴."""

    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @staticmethod
    def of(tensors: Tensors) -> "Layout":
        """Layout of these tensors."""
        return Layout(tuple(t.shape for t in tensors), tuple(t.dtype for t in tensors))

    @property
    def size(self) -> int:
        """Number of elements in all."""
        return sum(shape.numel() for shape in self.shapes)

    def pack(self, tensors: Tensors) -> Float[Tensor, " size"]:
        """One vector that holds the tensors, in the first floating-point dtype among them."""
        kind = next((dtype for dtype in self.dtypes if dtype.is_floating_point), torch.get_default_dtype())
        return torch.cat([t.to(kind).reshape(-1) for t in tensors]) if tensors else torch.zeros(0)

    def unpack(self, packed: Float[Tensor, "*rows size"]) -> Tensors:
        """Inverse of `pack`: the tensors, each with the leading axes of `packed`."""
        parts = packed.split([shape.numel() for shape in self.shapes], -1)
        lead = packed.shape[:-1]
        return tuple(
            part.reshape((*lead, *shape)).to(dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        )
