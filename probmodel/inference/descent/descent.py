"""Gradient descent on a traced loss: a hundred steps in one compiled call, or one step per call for many parameters.

Compiled or not, a descent draws the same noise from the same seed and gives the same numbers up to rounding.
"""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from probmodel.inference.descent import adam
from probmodel.inference.descent.minibatches import Batches, Order, Rows
from probmodel.inference.descent.whole_step import WholeStep, nan_unless_finite
from probmodel.protocols.structural import Structural
from probmodel.tracing.internals import has_step_hooks
from probmodel.tracing.programs.compiling import Native, Tensors, repeat
from probmodel.tracing.programs.gradients import Gradient
from probmodel.tracing.programs.graphs import ClosedGraph
from probmodel.tracing.programs.rounding_errors import ROUNDING_ERROR
from probmodel.tracing.randomness import single_thread

WINDOW = 100
"""Number of steps per call; between calls the losses are checked, the plateau is tested, and progress is shown."""
FEW_PARAMETERS = 50_000
"""Number of parameters up to which calling a step costs more than its arithmetic, so that the loop is compiled too."""


class Advance(NamedTuple):
    """Losses of consecutive steps, in nats, up to the first step with a loss or gradient that is not finite."""

    losses: list[float]
    bad: bool
    """True if such a step followed; the random state, and the parameters whose gradient is not finite, are then those
    before it.
    """
    rows: Rows
    """Row numbers of the minibatch of that step."""


@runtime_checkable
class Descent(Protocol, metaclass=Structural):
    """Procedure that runs descent steps; it changes the gradient's leaves, and nothing else that the caller holds."""

    mode: str
    compiled: bool
    saved_fraction: float
    """Fraction of an uncompiled step's time that compilation saves on models of this package's size."""

    def compile(self) -> None: ...

    def on_disk(self) -> bool: ...

    def advance(self, count: int) -> Advance: ...


def descent(gradient: Gradient, batches: Batches, order: Order, optimizer: Optimizer) -> Descent:
    """Descent that suits the model: a compiled loop for few parameters on a CPU, else one step per call."""
    if gradient.graph is None or reason_against_loop(gradient, optimizer) is not None:
        return ByStep(gradient, batches, order, optimizer)
    return ByLoop(gradient.graph, gradient.program.leaves, batches, order, adam.adam_settings(optimizer))


def reason_against_loop(gradient: Gradient, optimizer: Optimizer) -> str | None:
    """Reason why the steps of a traced loss cannot run as one loop; None where they do."""
    size = sum(leaf.numel() for leaf in gradient.leaves)
    return _reason_against_whole_step(gradient, optimizer) or (
        f"{size:,} parameters" if size > FEW_PARAMETERS else None
    )


def _reason_against_whole_step(gradient: Gradient, optimizer: Optimizer) -> str | None:
    """Reason why a step cannot be compiled together with its gradient; None for an Adam of all leaves on one CPU."""
    unsupported = adam.unsupported_reason(optimizer)
    if unsupported is not None:
        return unsupported
    held = {id(leaf) for group in optimizer.param_groups for leaf in group["params"]}
    devices = {leaf.device.type for leaf in gradient.leaves} - {"cpu"}
    kinds = {leaf.dtype for leaf in gradient.leaves}
    decays = any(adam.adam_settings(optimizer)[-2:])
    reasons = {
        f"on {', '.join(devices)}": bool(devices),
        f"parameters of {len(kinds)} dtypes": len(kinds) > 1,
        # PyTorch's Adam keeps its numbers in double precision; half precision cannot represent 1 - 0.999.
        "half precision": not kinds <= ROUNDING_ERROR.keys(),
        "parameters that the optimizer does not hold": held != {id(leaf) for leaf in gradient.leaves},
        "weight decay of parameters that the loss does not read": decays and len(gradient.program.leaves) < len(held),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


class ByLoop:
    """Minibatch, loss, gradient and Adam update of many steps in one call, over one flat vector of parameters."""

    saved_fraction = 0.9
    mode = "loop"

    def __init__(
        self, pure: ClosedGraph, leaves: Tensors, batches: Batches, order: Order, settings: list[float]
    ) -> None:
        self.batched, self.order = order.first is not None, order
        self.leaves = leaves
        self.state = adam.start(torch.cat([leaf.detach().reshape(-1) for leaf in self.leaves]))
        phi = self.state.parameters
        self.losses = phi.new_zeros(WINDOW)
        self.rows = torch.zeros(WINDOW, 0 if order.first is None else len(order.first), dtype=torch.long)
        self.constants = (phi.new_tensor(settings), *pure.constants, *batches.tensors)
        self.native = Native(
            _steps(pure, batches, self.leaves, batched=self.batched),
            (torch.tensor(2), *self.state, self.losses, self.rows, *self.constants),
            threads=1,
            parts=self._parts,
        )
        self.compiled = False

    def _parts(self, results: Tensors) -> Tensors:
        *moments, steps, losses = results
        sizes = [leaf.numel() for leaf in self.leaves]
        return (*(part for moment in moments for part in moment.split(sizes)), steps, losses)

    def on_disk(self) -> bool:
        return self.native.on_disk()

    def compile(self) -> None:
        self.native.compile()
        self.compiled = self.native.compiled

    def advance(self, count: int) -> Advance:
        rows = list(islice(self.order, count))
        table = self.rows.clone()
        if self.batched:
            table[:count] = torch.stack([index for index in rows if index is not None])
        begin, noise = self.state, torch.get_rng_state()
        losses = self._run(begin, count, table)
        if bool(torch.isfinite(losses).all()):
            return Advance(losses.tolist(), False, None)
        good = int((~torch.isfinite(losses)).nonzero()[0])
        torch.set_rng_state(noise)  # The same noise leads to the state before the bad step.
        return Advance(self._run(begin, good, table).tolist(), True, rows[good])

    def _run(self, begin: adam.AdamState, count: int, rows: Int[Tensor, "W B"]) -> Float[Tensor, " count"]:
        with single_thread():  # Steps this small gain nothing from threads, whose number would change the fit.
            *state, losses = self.native(torch.tensor(count), *begin, self.losses, rows, *self.constants)
        self.state = adam.AdamState(*state)
        parts = self.state.parameters.split([leaf.numel() for leaf in self.leaves])
        with torch.no_grad():
            for leaf, part in zip(self.leaves, parts, strict=True):
                leaf.copy_(part.view(leaf.shape))
        return losses[:count]


def _steps(pure: ClosedGraph, batches: Batches, leaves: Sequence[Tensor], *, batched: bool) -> Callable[..., Tensors]:
    """Function (count, *moments, losses, rows, settings, *constants of the graph, *data) → (*moments, losses)."""
    sizes, shapes, ends = [leaf.numel() for leaf in leaves], [leaf.shape for leaf in leaves], 2 + len(pure.constants)

    def step(i: Tensor, *tensors: Tensor) -> Tensors:
        moments, losses, (rows, settings, *rest) = adam.AdamState(*tensors[:4]), tensors[4], tensors[5:]
        constants, data = rest[: ends - 2], rest[ends - 2 :]
        parameters = [part.view(shape) for part, shape in zip(moments.parameters.split(sizes), shapes, strict=True)]
        index = rows.index_select(0, i.reshape(1)).reshape(-1) if batched else None
        grads, value = pure.graph(*constants, *parameters, *batches.among(data, index))
        grad = torch.cat([part.reshape(-1) for part in grads])
        here = torch.arange(WINDOW, device=losses.device) == i
        return (*adam.step(moments, grad, settings), torch.where(here, nan_unless_finite(value, grad.sum()), losses))

    return lambda count, *tensors: repeat(count, step, tensors[:5], tensors[5:])


class ByStep:
    """One step per call: loss, gradient and Adam update in one graph once compiled, else PyTorch's optimizer."""

    saved_fraction = 0.4
    mode = "step"

    def __init__(self, gradient: Gradient, batches: Batches, order: Order, optimizer: Optimizer) -> None:
        self.gradient, self.batches, self.order, self.optimizer = gradient, batches, order, optimizer
        self.leaves = gradient.leaves
        self.compiled = False
        self.running: WholeStep | None = None
        # Reading each step's loss makes a CUDA device wait for the host; but the effects of a hook cannot be undone.
        self.checks_every_step = has_step_hooks(optimizer) or all(leaf.device.type == "cpu" for leaf in self.leaves)

    def on_disk(self) -> bool:
        return self.gradient.on_disk() if self.whole is None else self.whole.native.on_disk()

    def compile(self) -> None:
        if self.whole is not None:
            self.whole.native.compile()
            if self.whole.native.compiled:
                self.compiled = True
                return self.continue_with(self.whole)
            self.whole = None
        self.gradient.compile()
        self.compiled = self.gradient.native is not None and self.gradient.native.compiled
        return None

    def continue_with(self, whole: WholeStep) -> None:
        """Take whole steps from here on, in place of PyTorch's optimizer."""
        whole.continue_from(self.optimizer)
        self.running = whole

    @cached_property
    def whole(self) -> WholeStep | None:
        """Step that is compiled as a whole, where the optimizer is an Adam; None where it cannot be."""
        graph, leaves = self.gradient.graph, self.gradient.program.leaves
        if graph is None or _reason_against_whole_step(self.gradient, self.optimizer) is not None:
            return None
        return WholeStep(graph, leaves, self.batches, self.order.first, self.optimizer)

    def advance(self, count: int) -> Advance:
        rows = list(islice(self.order, count))
        if self.checks_every_step:
            return self._checked(rows)
        begin = self._snapshot()
        losses = [self._step(index) for index in rows]
        found = torch.stack(losses)
        if bool(torch.isfinite(found).all()):
            return Advance(found.tolist(), False, None)
        self._restore(begin)
        return self._checked(rows)

    def _checked(self, rows: Sequence[Rows]) -> Advance:
        losses: list[float] = []
        for index in rows:
            noise = _noise()
            found = self._tried(index) if self.running is None else self.running(index)
            if not math.isfinite(found):
                _set_noise(noise)
                return Advance(losses, True, index)
            losses.append(found)
        return Advance(losses, False, None)

    def _tried(self, index: Rows) -> float:
        value, grads = self.gradient(*self.batches.at(index))
        found = float(_marked(value, grads))
        if math.isfinite(found):
            self._move(grads)
        return found

    def _step(self, index: Rows) -> Tensor:
        value, grads = self.gradient(*self.batches.at(index))
        self._move(grads)
        return _marked(value, grads)

    def _move(self, grads: Sequence[Tensor]) -> None:
        for leaf, grad in zip(self.leaves, grads, strict=True):
            leaf.grad = grad
        self.optimizer.step()

    def _snapshot(self) -> Any:
        leaves = [leaf.detach().clone() for leaf in self.leaves]
        return leaves, deepcopy(self.optimizer.state_dict()), _noise()

    def _restore(self, snapshot: Any) -> None:
        leaves, optimizer, noise = snapshot
        with torch.no_grad():
            for leaf, value in zip(self.leaves, leaves, strict=True):
                leaf.copy_(value)
        self.optimizer.load_state_dict(optimizer)
        _set_noise(noise)


def _noise() -> tuple[Tensor, list[Tensor]]:
    """Random states of the CPU and of every CUDA device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def _set_noise(noise: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(noise[0])
    torch.cuda.set_rng_state_all(noise[1])


def _marked(value: Tensor, grads: Sequence[Tensor]) -> Tensor:
    return nan_unless_finite(value, torch.stack([grad.sum() for grad in grads]).sum())
