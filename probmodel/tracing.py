"""A Pyro function traced once into a pure tensor program: after that no Pyro handler runs.

Here, in `graphs`, `compiling` and `ownership` live the internals of Pyro and PyTorch.  `make_fx` records the tensor
operations of a Pyro log joint or ELBO as an ATen graph; `vmap`, `grad` and `compile` work on that graph where they fail
on Pyro's handlers.
"""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pyro
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.func import functionalize, grad, grad_and_value
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from probmodel.compiling import BUILD_SECONDS, Native
from probmodel.graphs import Lifted, drop_dead, half_precision, is_random, lifted, recorded
from probmodel.integers import checked_seed
from probmodel.protocols import Dataset
from probmodel.rounding import distance, excess, nudge, tolerance

_NORMAL_SAMPLERS = ("normal", "multivariate_normal", "lowrank_multivariate_normal")


class TracingWarning(UserWarning):
    """A model could not be traced and runs eagerly; the numbers are the same, the speed is not."""


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Enter every random state and Pyro's parameter store with a seed, and leave all of them as they were.

    >>> before = torch.get_rng_state()
    >>> with isolated(seed=1):
    ...     _ = torch.randn(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    seed = checked_seed(seed)
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - saved and restored
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with (
        torch.random.fork_rng(devices),
        pyro.get_param_store().scope(),
        pyro.settings.context(module_local_params=True),
    ):
        try:
            pyro.set_rng_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def unnoticed() -> Iterator[None]:
    """Draws made within it leave PyTorch's random state as it was, for a look at a model beside its run."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield


def spawn(seed: int, branch: int) -> int:
    """A seed for one branch of a computation, unrelated to those of other branches and other seeds."""
    return int(np.random.SeedSequence([checked_seed(seed), branch]).generate_state(1)[0])


@contextmanager
def explained(data: Dataset) -> Iterator[None]:
    """Around a call of a model: turn what PyTorch and Python raise at wrong shapes or names into a ValueError that says so."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        shapes = [tuple(t.shape) for t in data.args if isinstance(t, Tensor)]
        named = {name: tuple(t.shape) for name, t in data.kwargs.items() if isinstance(t, Tensor)}
        devices = sorted({str(t.device) for t in data.tensors()})
        first = (str(error).strip() or "no message").split("\nTrace Shapes")[0]
        raise ValueError(
            f"expected a model that runs on its data, got {type(error).__name__}: {first}; check names and shapes of the "
            f"data, positional {shapes} and named {named} on {' and '.join(devices) or 'no device'}, against the model's "
            "arguments and sites"
        ) from error


# ---------------------------------------------------------------------------------------------- programs


class Program(NamedTuple):
    """A pure tensor function `run(*leaves, *inputs)`; `leaves` are the parameters it reads, by identity.

    `reason` says why the function could not be traced; `run` is None then and the caller stays eager.
    """

    run: Callable[..., Tensor] | None
    leaves: tuple[Tensor, ...]
    reason: str | None
    detached: tuple[Tensor, ...] = ()
    """The leaves' own storage without a gradient; made here, since an outer trace would record the detaching."""


@contextmanager
def _pure_noise() -> Iterator[None]:
    """Normal noise as `randn`, which vmap batches, in place of torch's `empty().normal_()`, which it does not."""

    def standard_normal(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    patches = [patch(f"torch.distributions.{name}._standard_normal", standard_normal) for name in _NORMAL_SAMPLERS]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def trace(function: Callable[..., Tensor], *inputs: Tensor) -> Program:
    """Trace `function` at `inputs`; tensors that require a gradient and are read from outside become `leaves`.

    The graph is accepted only if its value and its gradient equal the eager function's under another seed, so a random
    draw or a branch frozen into the graph is noticed.  Warns once, naming the cause, where tracing is not possible.
    """
    with temporarily_clear_interpreter_stack():  # A first use may come from inside grad or vmap.
        return _trace(function, inputs)


def recording() -> bool:
    """Whether a graph is being recorded: what depends on values cannot be decided then."""
    return get_proxy_mode() is not None


def transformed() -> bool:
    """Whether a transform of `torch.func` runs, which takes no `autograd.Function` without rules of its own."""
    return bool(torch._C._are_functorch_transforms_active())


def functional() -> bool:
    """Whether only differentiable operations that look at no value will do."""
    return recording() or transformed()


def _trace(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Program:
    try:
        with isolated(seed=0), _pure_noise(), pyro.validation_enabled(False):
            graph = recorded(function, *inputs)
            constants = _lift(graph, "constant", lambda captured: not captured.requires_grad)
            leaves = _lift(graph, "leaf", lambda captured: captured.requires_grad)
            graph = _pure(graph, leaves, constants, inputs)
            drop_dead(graph)
            _refuse_shared_draws(graph)
            graph.recompile()
        agrees = _agrees(graph, function, leaves, inputs)
    except Exception as error:  # noqa: BLE001 - any failure of user code under tracing has the same remedy: run it eagerly
        return _eager(function, inputs, str(error).strip().split("\n")[0])
    if not agrees:
        return _eager(
            function, inputs, "the traced graph differs from the eager model (NumPy randomness or no_grad inside it?)"
        )
    return Program(graph, leaves, None, tuple(leaf.detach() for leaf in leaves))


def _pure(
    graph: GraphModule, leaves: Sequence[Tensor], constants: tuple[Tensor, ...], inputs: Sequence[Tensor]
) -> GraphModule:
    """In-place operations as pure ones, which vmap can batch; the constants become part of the graph again."""
    count = len(leaves)

    def whole(captured: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:
        return graph(*tensors[:count], *captured, *tensors[count:])

    # Only what enters as an argument is made pure; a draw from constants alone would keep its in-place operations.
    pure = partial(functionalize(whole), constants)
    return recorded(pure, *(leaf.detach() for leaf in leaves), *inputs, instead=_PURE)


def _masked_write(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """x[mask] = number as `where`: vmap cannot batch a boolean index."""
    mask = indices[0]
    masked = mask is not None and mask.dtype == torch.bool and mask.shape == x.shape and len(indices) == 1
    if mask is None or not masked or accumulate or values.dim():
        return NotImplemented  # Leaves the operator as it is.
    return torch.where(mask, values, x)


def _copy_of(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """x[...] = source, made pure, as an operator that has a derivative."""
    return source.to(x).expand_as(x)


def _write_slice(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """x[start:] = source with the end spelled out: vmap overflows on the open one."""
    if end is None or end <= x.shape[dim]:
        return NotImplemented
    return torch.ops.aten.slice_scatter.default(x, source, dim, start, x.shape[dim], step)


def _cauchy(x: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: None = None) -> Tensor:
    """x.cauchy_() by inversion: under vmap the operator itself gives every draw the same number."""
    return median + sigma * torch.tan(torch.pi * (torch.rand(x.shape, dtype=x.dtype, device=x.device) - 0.5))


def _exponential(x: Tensor, lambd: float = 1.0, *, generator: None = None) -> Tensor:
    """x.exponential_() by inversion."""
    return -torch.log1p(-torch.rand(x.shape, dtype=x.dtype, device=x.device)) / lambd


def _uniform(x: Tensor, start: float = 0.0, to: float = 1.0, *, generator: None = None) -> Tensor:
    """x.uniform_() as `rand`."""
    return start + (to - start) * torch.rand(x.shape, dtype=x.dtype, device=x.device)


def _normal(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: None = None) -> Tensor:
    """x.normal_() as `randn`."""
    return mean + std * torch.randn(x.shape, dtype=x.dtype, device=x.device)


def _normal_like(x: Tensor, *, dtype: torch.dtype | None = None, device: Any = None, **memory: Any) -> Tensor:
    """`randn_like` as `randn`, whose draws no pass takes for each other."""
    return torch.randn(x.shape, dtype=dtype or x.dtype, device=device or x.device)


_PURE: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.cauchy.default: _cauchy,
    torch.ops.aten.exponential.default: _exponential,
    torch.ops.aten.uniform.default: _uniform,
    torch.ops.aten.normal_functional.default: _normal,
    torch.ops.aten.randn_like.default: _normal_like,
    torch.ops.aten.index_put.default: _masked_write,
    torch.ops.aten.copy.default: _copy_of,
    torch.ops.aten.slice_scatter.default: _write_slice,
}
"""Operators without a batching rule (Multinomial's log-probability needs one) or a derivative, by those that have it."""

_ONE_DRAW_FOR_ALL = (
    "aten::cauchy",
    "aten::exponential",
    "aten::uniform",
    "aten::normal_functional",
    "aten::geometric",
    "aten::log_normal",
    "aten::random",
)
"""Functional forms of in-place samplers: vmap runs them once and gives every draw of a batch the same number."""


def _refuse_shared_draws(graph: GraphModule) -> None:
    for node in graph.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in _ONE_DRAW_FOR_ALL:
            raise NotImplementedError(f"{node.target} would give every draw of a batch the same number")


def _eager(function: Callable[..., Tensor], inputs: Sequence[Tensor], reason: str) -> Program:
    with isolated(seed=0):
        function(*inputs)  # An error of the model itself must reach its author, not become a warning.
    warnings.warn(f"the model runs eagerly, it cannot be traced: {reason}", TracingWarning, stacklevel=4)
    return Program(None, (), reason)


def _lift(graph: GraphModule, kind: str, wanted: Callable[[Tensor], bool]) -> tuple[Tensor, ...]:
    """Turn the captured tensors that are wanted into leading inputs of the graph."""
    captured = {node: attrgetter(node.target)(graph) for node in graph.graph.nodes if node.op == "get_attr"}
    captured = {node: value for node, value in captured.items() if isinstance(value, Tensor) and wanted(value)}
    leaves = {id(value): value for value in captured.values()}
    with graph.graph.inserting_before(next(iter(graph.graph.nodes))):
        placeholders = {key: graph.graph.placeholder(f"{kind}_{i}") for i, key in enumerate(leaves)}
    for node, value in captured.items():
        node.replace_all_uses_with(placeholders[id(value)])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return tuple(leaves.values())


def _agrees(
    graph: GraphModule, function: Callable[..., Tensor], leaves: tuple[Tensor, ...], inputs: Sequence[Tensor]
) -> bool:
    """Value and gradient of the graph against the eager function, both under a seed the graph was not traced with."""

    def traced_at(leaves: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        with isolated(seed=1):
            return _value_and_gradients(graph, leaves, inputs, leaves)

    def nudged(seed: int) -> list[Tensor]:
        moved = [leaf.detach().requires_grad_() for leaf in nudge(leaves, seed)]
        return traced_at(moved, nudge(inputs, seed))

    with isolated(seed=1), _pure_noise(), pyro.validation_enabled(False):
        value, *slopes = _value_and_gradients(function, leaves, inputs, ())
    traced_value, *traced_slopes = traced_at(leaves, inputs)
    within = tolerance(half_precision(graph), of_largest=1.0)
    # A gradient that is nothing but rounding, as a bias' before a stationary kernel, is as large as nudges make it.
    return (
        distance(value, traced_value, within) <= 1
        and excess(traced_slopes, slopes, lambda seed: nudged(seed)[1:], within) <= 1
    )


def _value_and_gradients(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], inputs: Sequence[Tensor], leading: Sequence[Tensor]
) -> list[Tensor]:
    """The value and its gradient by each leaf and input, zeros where it depends on none."""
    inputs = [i.detach().requires_grad_() if i.is_floating_point() else i for i in inputs]
    wanted = [*leaves, *(i for i in inputs if i.requires_grad)]
    with torch.enable_grad():
        value = function(*leading, *inputs)
        if not wanted or not value.requires_grad:
            return [value.detach(), *(torch.zeros_like(each) for each in wanted)]
        gradients = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
    return [value.detach(), *gradients]


class Gradient:
    """A scalar function's `inputs → value, gradients of leaves`, as one traced graph that can be compiled.

    Without a trace the function runs eagerly under autograd; the numbers are the same.

    Args:
        function: tensors → scalar; reads `leaves` from outside.
        leaves: what to differentiate by.
        inputs: one call's tensors.
        fallback: why the function is known not to be traceable; it then runs eagerly without another warning.

    Raises:
        ValueError: when the function reads parameters that are not among `leaves`.
    """

    def __init__(
        self, function: Callable[..., Tensor], leaves: Sequence[Tensor], *inputs: Tensor, fallback: str | None = None
    ) -> None:
        self.function, self.leaves = function, tuple(leaves)
        self.program = Program(None, (), fallback) if fallback is not None else trace(function, *inputs)
        captured = self.program.leaves
        strangers = {id(leaf) for leaf in captured} - {id(leaf) for leaf in leaves}
        if strangers:
            raise ValueError(
                f"expected parameters of the model or its guide, got {len(strangers)} that belong to neither (a network "
                "reached through a helper function?); make the model an nn.Module that holds the network"
            )
        order = {id(leaf): i for i, leaf in enumerate(captured)}
        self.positions = [order.get(id(leaf)) for leaf in self.leaves]
        self.graph: Lifted | None = None
        self.native: Native | None = None
        if self.program.run is not None and captured:
            self.graph = pure = lifted(_gradient_graph(self.program, inputs))
            leaves = [leaf.detach() for leaf in captured]
            self.native = Native(
                lambda *tensors: _value_first(pure.graph(*tensors)), (*pure.constants, *leaves, *inputs)
            )

    def on_disk(self) -> bool:
        """Whether an earlier process has compiled this graph."""
        return self.native is not None and self.native.on_disk()

    def compile(self) -> None:
        """Compile the graph, once for all processes; on a CUDA device as a CUDA graph, without a host in between."""
        if self.native is not None:
            self.native.compile()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.native is None or self.graph is None:
            value = self.function(*inputs)
            if not self.leaves or not value.requires_grad:
                return value.detach(), [torch.zeros_like(leaf) for leaf in self.leaves]
            found = torch.autograd.grad(value, self.leaves, allow_unused=True, materialize_grads=True)
            return value.detach(), list(found)
        leaves = [leaf.detach() for leaf in self.program.leaves]
        value, *gradients = self.native(*self.graph.constants, *leaves, *inputs)
        pairs = zip(self.positions, self.leaves, strict=True)
        return value, [torch.zeros_like(leaf) if i is None else gradients[i] for i, leaf in pairs]


def _value_first(found: tuple[tuple[Tensor, ...], Tensor]) -> tuple[Tensor, ...]:
    gradients, value = found
    return value, *gradients


def _gradient_graph(program: Program, inputs: Sequence[Tensor]) -> GraphModule:
    leaves = [leaf.detach() for leaf in program.leaves]
    value_and_grad = grad_and_value(program.run, argnums=tuple(range(len(leaves))))  # type: ignore[arg-type]
    with isolated(seed=0):
        graph = recorded(functionalize(value_and_grad), *leaves, *inputs)
    return graph


class Batched:
    """`theta (S, D), … → gradient by theta, *further outputs` of a function of a whole batch, as one flat graph a shape.

    The graphs are compiled once they have run for as long as compiling takes.

    Args:
        function: (theta, *inputs) → (scalar, further outputs); the scalar is differentiated by theta.
        eager: run it under autograd instead: for models that cannot be traced, or that loop over draws.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], *, eager: bool) -> None:
        self.function, self.eager = function, eager
        self.graphs: dict[tuple[torch.Size, torch.dtype], tuple[Native, tuple[Tensor, ...]]] = {}
        self.compiled = False
        self.seconds = 0.0

    def __call__(self, theta: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.eager:
            return slope_and_outputs(self.function, theta, *inputs)
        if self.seconds > BUILD_SECONDS and not self.compiled:
            self.compile()  # What has run so far has cost as much; never more than twice the best choice in hindsight.
        theta = theta.detach().contiguous()  # Machine code is made for one layout.
        key = theta.shape, theta.dtype
        if key not in self.graphs:
            self.graphs[key] = self._native(theta, *inputs)
        native, constants = self.graphs[key]
        begin = time.perf_counter()
        found = native(*constants, theta, *inputs)
        self.seconds += time.perf_counter() - begin
        return found

    def compile(self) -> None:
        """Compile the graphs; the first call of a new shape pays for it."""
        self.compiled = True
        for native, _ in self.graphs.values():
            native.compile()

    def _native(self, theta: Tensor, *inputs: Tensor) -> tuple[Native, tuple[Tensor, ...]]:
        pure = batched_graph(self.function, theta, *inputs)
        native = Native(pure.graph, (*pure.constants, theta.detach(), *inputs))
        if self.compiled:
            native.compile()
        return native, pure.constants


def batched_graph(function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], theta: Tensor, *inputs: Tensor) -> Lifted:
    """`(theta (S, D), *inputs) → (gradient by theta, *further outputs)` as one graph.

    Args:
        function: (theta, *inputs) → (scalar, further outputs); densities inside it are traced already or trace
            themselves on first use.
        theta: a batch of the size that the graph is for.
        inputs: examples of the further ones.
    """
    with isolated(seed=0), torch.no_grad(), pyro.validation_enabled(False):
        function(theta[:1].detach(), *inputs)  # Densities inside it trace themselves now, not within a trace.
        differentiated = functionalize(grad(function, has_aux=True))

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            slope, outputs = differentiated(*tensors)
            return (slope, *outputs)

        graph = recorded(flat, theta.detach(), *inputs)
    return lifted(graph)


def slope_and_outputs(
    function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], theta: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """What `batched_graph` computes, by autograd."""
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        value, outputs = function(theta, *inputs)
        (slope,) = torch.autograd.grad(value, theta)
    return slope, *(output.detach() for output in outputs)


def bytes_per_call(program: Program) -> int:
    """Memory of the intermediate tensors that differ from call to call: what a vectorised call needs for each draw."""
    if not isinstance(program.run, GraphModule):
        return 0
    changing: set[torch.fx.Node] = set()
    total, leaves = 0, len(program.leaves)
    for position, node in enumerate(program.run.graph.nodes):
        given = node.op == "placeholder" and position >= leaves
        if not (is_random(node) or given or changing.intersection(node.all_input_nodes)):
            continue
        changing.add(node)
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor):
            total += value.numel() * value.element_size()
    return total


def bytes_of_result(program: Program) -> int:
    """Memory of what one call returns."""
    if not isinstance(program.run, GraphModule):
        return 0
    results = next(node for node in program.run.graph.nodes if node.op == "output").all_input_nodes
    values = [node.meta.get("val") for node in results]
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
