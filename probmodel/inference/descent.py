"""Descent of a traced loss: a hundred steps in one compiled call, or step by step where the parameters are many.

Compiled or not, a descent draws the same noise from the same seed and gives the same numbers up to rounding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from probmodel.compiling import Lifted, Native, Tensors, repeat
from probmodel.inference import adam
from probmodel.protocols import Dataset
from probmodel.tracing import Gradient

WINDOW = 100
"""Steps of one call; between calls the plateau is tested, progress shown, and the losses are checked."""
FEW_PARAMETERS = 50_000
"""Below it the call of a step costs more than its arithmetic, and the loop over steps is compiled too."""

Order = Iterator[Int[Tensor, " B"] | None]
"""Endless minibatches of row numbers; None stands for all rows."""


class Advance(NamedTuple):
    """Losses of some steps, in nats, up to the first step with a loss or gradient that is not finite."""

    losses: list[float]
    bad: bool
    """Whether such a step followed; the parameters and the random state are then those it began with."""
    rows: Int[Tensor, " B"] | None
    """Its rows."""


@runtime_checkable
class Descent(Protocol):
    """A way to run steps; it changes the gradient's leaves, and nothing else that the caller holds."""

    way: str
    compiled: bool
    saved: float
    """Share of an uncompiled step's time that compilation saves on models of this package's size."""

    def compile(self) -> None: ...

    def on_disk(self) -> bool: ...

    def advance(self, count: int) -> Advance: ...


class Batches:
    """Which tensors of the data a step reads: rows of some, all of the others."""

    def __init__(self, tensors: Sequence[Tensor], num_rows: int | None) -> None:
        self.tensors = tuple(tensors)
        self.by_row = [bool(t.dim()) and len(t) == num_rows for t in self.tensors]

    def at(self, rows: Int[Tensor, " B"] | None, tensors: Sequence[Tensor] | None = None) -> Tensors:
        """The tensors of one step."""
        pairs = zip(self.by_row, tensors or self.tensors, strict=True)
        return tuple(t if rows is None or not by_row else t.index_select(0, rows) for by_row, t in pairs)


def minibatches(data: Dataset, batch_size: int | None) -> Order:
    """Endless row numbers: each epoch a fresh permutation, the incomplete last batch left out so that all are unbiased."""
    rows = data.num_rows
    if batch_size is None or rows is None or batch_size >= rows:
        while True:
            yield None
    # A stream of its own: which rows come next must not depend on how many steps run at a time.
    device = data.tensors()[0].device
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    while True:
        order = torch.randperm(rows, device=device, generator=generator)
        for index in order.split(batch_size):
            if len(index) == batch_size:
                yield index


def descent(gradient: Gradient, batches: Batches, order: Order, optimizer: Optimizer) -> Descent:
    """The way that suits the model: a compiled loop for few parameters on a CPU, else step by step."""
    settings = adam.settings_of(optimizer)
    size = sum(leaf.numel() for leaf in gradient.leaves)
    kinds = {(leaf.dtype, leaf.device.type) for leaf in gradient.leaves}
    on_one_processor = len(kinds) == 1 and next(iter(kinds))[1] == "cpu"
    held = {id(leaf) for group in optimizer.param_groups for leaf in group["params"]}
    moves_all = held == {id(leaf) for leaf in gradient.leaves}
    if gradient.graph is None or settings is None or not moves_all or size > FEW_PARAMETERS or not on_one_processor:
        return ByStep(gradient, batches, order, optimizer)
    return ByLoop(gradient.graph, gradient.program.leaves, batches, order, settings)


class ByLoop:
    """Loss, gradient, minibatch and Adam of many steps in one call, over one flat vector of parameters."""

    saved = 0.9
    way = "loop"

    def __init__(self, pure: Lifted, leaves: Tensors, batches: Batches, order: Order, settings: list[float]) -> None:
        first = next(order)
        self.batched, self.order = first is not None, chain([first], order)
        self.leaves = leaves
        self.state = adam.start(torch.cat([leaf.detach().reshape(-1) for leaf in self.leaves]))
        phi = self.state.parameters
        self.losses = phi.new_zeros(WINDOW)
        self.rows = torch.zeros(WINDOW, 0 if first is None else len(first), dtype=torch.long)
        self.constants = (phi.new_tensor(settings), *pure.constants, *batches.tensors)
        self.native = Native(
            _steps(pure, batches, self.leaves, self.batched),
            (torch.tensor(2), *self.state, self.losses, self.rows, *self.constants),
            threads=1,
        )
        self.compiled = False

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
        torch.set_rng_state(noise)  # The same noise again leads to the step before the bad one.
        return Advance(self._run(begin, good, table).tolist(), True, rows[good])

    def _run(self, begin: adam.Moments, count: int, rows: Int[Tensor, "W B"]) -> Float[Tensor, " count"]:
        *state, losses = self.native(torch.tensor(count), *begin, self.losses, rows, *self.constants)
        self.state = adam.Moments(*state)
        parts = self.state.parameters.split([leaf.numel() for leaf in self.leaves])
        with torch.no_grad():
            for leaf, part in zip(self.leaves, parts, strict=True):
                leaf.copy_(part.view(leaf.shape))
        return losses[:count]


def _steps(pure: Lifted, batches: Batches, leaves: Sequence[Tensor], batched: bool) -> Callable[..., Tensors]:
    """(count, *moments, losses, rows, settings, *constants of the graph, *data) → (*moments, losses)."""
    sizes, shapes, ends = [leaf.numel() for leaf in leaves], [leaf.shape for leaf in leaves], 2 + len(pure.constants)

    def step(i: Tensor, *tensors: Tensor) -> Tensors:
        moments, losses, (rows, settings, *rest) = adam.Moments(*tensors[:4]), tensors[4], tensors[5:]
        constants, data = rest[: ends - 2], rest[ends - 2 :]
        parameters = [part.view(shape) for part, shape in zip(moments.parameters.split(sizes), shapes, strict=True)]
        index = rows.index_select(0, i.reshape(1)).reshape(-1) if batched else None
        slopes, value = pure.graph(*constants, *parameters, *batches.at(index, data))
        slope = torch.cat([part.reshape(-1) for part in slopes])
        here = torch.arange(WINDOW, device=losses.device) == i
        # A gradient that is not finite shows in the loss: 0 · ∞ is NaN.
        return (*adam.step(moments, slope, settings), torch.where(here, value + 0 * slope.sum(), losses))

    return lambda count, *tensors: repeat(count, step, tensors[:5], tensors[5:])


class ByStep:
    """One step a call: loss and gradient as one graph, then PyTorch's optimiser."""

    saved = 0.4
    way = "step"

    def __init__(self, gradient: Gradient, batches: Batches, order: Order, optimizer: Optimizer) -> None:
        self.gradient, self.batches, self.order, self.optimizer = gradient, batches, order, optimizer
        self.leaves = gradient.leaves
        self.compiled = False
        # Asking for each step's loss would make a CUDA device wait for the host.
        self.waits = all(leaf.device.type == "cpu" for leaf in self.leaves)

    def on_disk(self) -> bool:
        return self.gradient.on_disk()

    def compile(self) -> None:
        self.gradient.compile()
        self.compiled = self.gradient.native is not None and self.gradient.native.compiled

    def advance(self, count: int) -> Advance:
        rows = list(islice(self.order, count))
        if self.waits:
            return self._checked(rows)
        begin = self._kept()
        losses = [self._step(index) for index in rows]
        found = torch.stack(losses)
        if bool(torch.isfinite(found).all()):
            return Advance(found.tolist(), False, None)
        self._restore(begin)
        return self._checked(rows)

    def _checked(self, rows: Sequence[Tensor | None]) -> Advance:
        losses: list[float] = []
        for index in rows:
            noise = _noise()
            value, slopes = self.gradient(*self.batches.at(index))
            found = float(_marked(value, slopes))
            if not math.isfinite(found):
                _set_noise(noise)
                return Advance(losses, True, index)
            losses.append(found)
            self._move(slopes)
        return Advance(losses, False, None)

    def _step(self, index: Tensor | None) -> Tensor:
        value, slopes = self.gradient(*self.batches.at(index))
        self._move(slopes)
        return _marked(value, slopes)

    def _move(self, slopes: Sequence[Tensor]) -> None:
        for leaf, slope in zip(self.leaves, slopes, strict=True):
            leaf.grad = slope
        self.optimizer.step()

    def _kept(self) -> Any:
        leaves = [leaf.detach().clone() for leaf in self.leaves]
        return leaves, deepcopy(self.optimizer.state_dict()), _noise()

    def _restore(self, kept: Any) -> None:
        leaves, optimizer, noise = kept
        with torch.no_grad():
            for leaf, value in zip(self.leaves, leaves, strict=True):
                leaf.copy_(value)
        self.optimizer.load_state_dict(optimizer)
        _set_noise(noise)


def _noise() -> tuple[Tensor, list[Tensor]]:
    """The random states of the processor and of every device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def _set_noise(noise: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(noise[0])
    torch.cuda.set_rng_state_all(noise[1])


def _marked(value: Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """The loss; NaN where its gradient is not finite."""
    norms = torch._foreach_norm([slope for slope in slopes if slope.numel()])
    return value + 0 * torch.stack(norms).sum()
