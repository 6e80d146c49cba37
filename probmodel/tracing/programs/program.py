"""A Pyro function traced once into a pure tensor program: after that no Pyro handler runs.

`make_fx` records the tensor operations of a Pyro log joint or ELBO as an ATen graph; `vmap`, `grad` and `compile` work on
that graph where they fail on Pyro's handlers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import pyro
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.func import functionalize
from torch.fx import GraphModule

from probmodel.protocols.errors import TracingWarning, warn
from probmodel.tracing.error_messages import MACHINERY, raise_time_out
from probmodel.tracing.internals import plates_counted_by_integers, values_unchecked
from probmodel.tracing.programs.graphs import drop_unused, half_precision, is_random, is_recorded, recorded
from probmodel.tracing.programs.pure_operators import PURE_OPERATORS, pure_noise, refuse_shared_draws
from probmodel.tracing.programs.rounding_errors import distance, perturbed, relative_error, tolerance
from probmodel.tracing.randomness import isolated


class Program(NamedTuple):
    """A pure tensor function `run(*leaves, *inputs)`; `leaves` are the parameters it reads, by identity.

    `reason` states why the function could not be traced; `run` is None then and the caller evaluates it eagerly.
    """

    run: Callable[..., Tensor] | None
    leaves: tuple[Tensor, ...]
    reason: str | None
    detached: tuple[Tensor, ...] = ()
    """The leaves without a gradient, sharing their storage; created here, since an outer trace would record `detach`."""


def trace(function: Callable[..., Tensor], *inputs: Tensor) -> Program:
    """Trace `function` at `inputs`; tensors that require a gradient and are read from outside become `leaves`.

    The graph is accepted only if its value and its gradient equal those of the eager function under another seed, so that
    a random draw or a branch frozen into the graph is detected.

    Warns:
        TracingWarning: naming the cause, where the function cannot be traced.
    """
    with temporarily_clear_interpreter_stack():  # A first use may come from inside grad or vmap.
        return _trace(function, inputs)


def _trace(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Program:
    try:
        with isolated(seed=0), _recordable():
            graph = recorded(function, *inputs)
            constants = _lift(graph, "constant", lambda captured: not captured.requires_grad)
            leaves = _lift(graph, "leaf", lambda captured: captured.requires_grad)
            graph = _pure(graph, leaves, constants, inputs)
            drop_unused(graph)
            refuse_shared_draws(graph)
            graph.recompile()
        agrees = _agrees(graph, function, leaves, inputs)
    except MACHINERY as error:  # Any failure of user code under tracing has the same remedy: run it eagerly.
        raise_time_out(error)
        return _eager(function, inputs, str(error).strip().split("\n")[0])
    if not agrees:
        return _eager(
            function, inputs, "the traced graph differs from the eager model (NumPy randomness or no_grad inside it?)"
        )
    return Program(graph, leaves, None, tuple(leaf.detach() for leaf in leaves))


@contextmanager
def _recordable() -> Iterator[None]:
    """Context in which Pyro's handlers and distributions read no values."""
    with pure_noise(), plates_counted_by_integers(), values_unchecked(), pyro.validation_enabled(False):
        yield


def _pure(
    graph: GraphModule, leaves: Sequence[Tensor], constants: tuple[Tensor, ...], inputs: Sequence[Tensor]
) -> GraphModule:
    """The graph with in-place operations replaced by pure ones, which vmap can batch; constants become part of it again."""
    count = len(leaves)

    def whole(captured: tuple[Tensor, ...], *tensors: Tensor) -> Tensor:
        return graph(*tensors[:count], *captured, *tensors[count:])

    # Only operations on arguments are made pure; a draw from constants alone would keep its in-place operations.
    pure = partial(functionalize(whole), constants)
    return recorded(pure, *(leaf.detach() for leaf in leaves), *inputs, instead=PURE_OPERATORS)


def _eager(function: Callable[..., Tensor], inputs: Sequence[Tensor], reason: str) -> Program:
    with isolated(seed=0):
        function(*inputs)  # An error of the model itself has to be raised instead of becoming a warning.
    warn(f"the model runs eagerly, it cannot be traced: {reason}", TracingWarning)
    return Program(None, (), reason)


def _lift(graph: GraphModule, kind: str, wanted: Callable[[Tensor], bool]) -> tuple[Tensor, ...]:
    """Turn the captured tensors for which `wanted` is true into leading inputs of the graph."""
    captured = {node: attrgetter(node.target)(graph) for node in graph.graph.nodes if node.op == "get_attr"}
    captured = {node: value for node, value in captured.items() if torch.is_tensor(value) and wanted(value)}
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
    """Return whether graph and eager function agree in value and gradient under a seed not used for tracing."""

    def traced_at(leaves: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
        with isolated(seed=1):
            return _value_and_gradients(graph, leaves, inputs, leaves)

    def perturbed_results(seed: int) -> list[Tensor]:
        moved = [leaf.detach().requires_grad_() for leaf in perturbed(leaves, seed)]
        return traced_at(moved, perturbed(inputs, seed))

    with isolated(seed=1), pure_noise(), pyro.validation_enabled(False):
        value, *grads = _value_and_gradients(function, leaves, inputs, ())
    traced_value, *traced_grads = traced_at(leaves, inputs)
    within = tolerance(half_precision(graph), of_largest=1.0)
    # A gradient of rounding errors alone, as that of a bias before a stationary kernel, is as large as perturbations of it.
    return (
        distance(value, traced_value, within) <= 1
        and relative_error(traced_grads, grads, lambda seed: perturbed_results(seed)[1:], within) <= 1
    )


def _value_and_gradients(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], inputs: Sequence[Tensor], leading: Sequence[Tensor]
) -> list[Tensor]:
    """The value and its gradient with respect to each leaf and input, zeros where it does not depend on them."""
    inputs = [i.detach().requires_grad_() if i.is_floating_point() else i for i in inputs]
    wanted = [*leaves, *(i for i in inputs if i.requires_grad)]
    with torch.enable_grad():
        value = function(*leading, *inputs)
        if not wanted or not value.requires_grad:
            return [value.detach(), *(torch.zeros_like(each) for each in wanted)]
        gradients = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
    return [value.detach(), *gradients]


def bytes_per_call(program: Program) -> int:
    """Memory of the intermediate tensors that a vectorized call needs per draw, in bytes: those that differ between calls."""
    if not is_recorded(program.run):
        return 0
    changing: set[torch.fx.Node] = set()
    total, leaves = 0, len(program.leaves)
    for position, node in enumerate(program.run.graph.nodes):
        given = node.op == "placeholder" and position >= leaves
        if not (is_random(node) or given or changing.intersection(node.all_input_nodes)):
            continue
        changing.add(node)
        value = node.meta.get("val")
        if node.op == "call_function" and torch.is_tensor(value):
            total += value.numel() * value.element_size()
    return total


def bytes_of_result(program: Program) -> int:
    """Memory of the result of one call, in bytes."""
    if not is_recorded(program.run):
        return 0
    results = next(node for node in program.run.graph.nodes if node.op == "output").all_input_nodes
    values = [node.meta.get("val") for node in results]
    return sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value))
