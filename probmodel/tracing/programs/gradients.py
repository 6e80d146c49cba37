"""Gradients of traced programs, as graphs that can be compiled."""

import time
from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor
from torch.func import functionalize, grad, grad_and_value
from torch.fx import GraphModule

from probmodel.tracing.programs.compiling import BUILD_SECONDS, Native
from probmodel.tracing.programs.graphs import ClosedGraph, closed_graph, recorded
from probmodel.tracing.programs.program import Program, trace
from probmodel.tracing.randomness import isolated


class Gradient:
    """Value and gradient of a scalar function with respect to its leaves, as one traced graph that can be compiled.

    A function that cannot be traced runs eagerly under autograd, with the same results.

    Args:
        function: tensors → scalar; it reads `leaves` from outside.
        leaves: tensors with respect to which to differentiate.
        inputs: example tensors of one call.
        fallback: reason why the function is known not to be traceable; it then runs eagerly without another warning.

    Raises:
        ValueError: when the function reads parameters that are not among `leaves`.
    """

    def __init__(
        self, function: Callable[..., Tensor], leaves: Sequence[Tensor], *inputs: Tensor, fallback: str | None = None
    ) -> None:
        self.function, self.leaves = function, tuple(leaves)
        self.program = Program(None, (), fallback) if fallback is not None else trace(function, *inputs)
        captured = self.program.leaves
        unexpected = {id(leaf) for leaf in captured} - {id(leaf) for leaf in leaves}
        if unexpected:
            raise ValueError(
                f"expected parameters of the model or its guide, got {len(unexpected)} that belong to neither (a network "
                "reached through a helper function?); make the model an nn.Module that holds the network"
            )
        order = {id(leaf): i for i, leaf in enumerate(captured)}
        self.positions = [order.get(id(leaf)) for leaf in self.leaves]
        self.graph: ClosedGraph | None = None
        self.native: Native | None = None
        if self.program.run is not None and captured:
            self.graph = pure = closed_graph(_gradient_graph(self.program, inputs))
            leaves = [leaf.detach() for leaf in captured]
            self.native = Native(
                lambda *tensors: _value_first(pure.graph(*tensors)), (*pure.constants, *leaves, *inputs)
            )

    def on_disk(self) -> bool:
        """Return whether this graph is compiled already, by this process or an earlier one."""
        return self.native is not None and self.native.on_disk()

    def compile(self) -> None:
        """Compile the graph, once for all processes; on a CUDA device as a CUDA graph."""
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
    """Gradient with respect to a batch theta (S, D), and further outputs, of a function, as one flat graph per shape.

    The graphs are compiled once they have run for as long as compiling takes.

    Args:
        function: (theta, *inputs) → (scalar, further outputs); the scalar is differentiated with respect to theta.
        eager: True to run it under autograd instead, for models that cannot be traced or that loop over draws.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], *, eager: bool) -> None:
        self.function, self.eager = function, eager
        self.graphs: dict[tuple[torch.Size, torch.dtype], tuple[Native, tuple[Tensor, ...]]] = {}
        self.compiled = False
        self.seconds = 0.0

    def __call__(self, theta: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.eager:
            return gradient_and_outputs(self.function, theta, *inputs)
        if self.seconds > BUILD_SECONDS and not self.compiled:
            self.compile()  # The runs so far took as long, so the total is at most twice the best choice in hindsight.
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
        """Compile the graphs, also those of new shapes at their first call."""
        self.compiled = True
        for native, _ in self.graphs.values():
            native.compile()

    def _native(self, theta: Tensor, *inputs: Tensor) -> tuple[Native, tuple[Tensor, ...]]:
        pure = batched_graph(self.function, theta, *inputs)
        native = Native(pure.graph, (*pure.constants, theta.detach(), *inputs))
        if self.compiled:
            native.compile()
        return native, pure.constants


def batched_graph(
    function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], theta: Tensor, *inputs: Tensor
) -> ClosedGraph:
    """One graph `(theta (S, D), *inputs) → (gradient with respect to theta, *further outputs)`.

    Args:
        function: (theta, *inputs) → (scalar, further outputs); densities inside it are traced already or trace
            themselves on first use.
        theta: batch of the size that the graph is for.
        inputs: examples of the further inputs.
    """
    with isolated(seed=0), torch.no_grad(), pyro.validation_enabled(False):
        function(theta[:1].detach(), *inputs)  # Densities inside it trace themselves now instead of within a trace.
        differentiated = functionalize(grad(function, has_aux=True))

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            gradient, outputs = differentiated(*tensors)
            return (gradient, *outputs)

        graph = recorded(flat, theta.detach(), *inputs)
    return closed_graph(graph)


def gradient_and_outputs(
    function: Callable[..., tuple[Tensor, tuple[Tensor, ...]]], theta: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Gradient with respect to theta and further outputs, as from `batched_graph`, by autograd."""
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        value, outputs = function(theta, *inputs)
        (gradient,) = torch.autograd.grad(value, theta)
    return gradient, *(output.detach() for output in outputs)
