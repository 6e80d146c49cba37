"""Recording and rewriting of graphs: constants are folded, unused random draws dropped, random draws split off."""

from collections.abc import Callable, Mapping
from operator import attrgetter, getitem
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch._guards import TracingContext, detect_fake_mode, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv


def recorded(
    function: Callable[..., Any], *inputs: Tensor, instead: Mapping[Any, Callable[..., Any]] | None = None
) -> GraphModule:
    """Graph of the tensor operations of a function at example inputs.

    `make_fx` stores the shape of each result as a fake tensor.  Where no fake tensor mode is set it creates one per
    operation, which reads the whole call stack and takes longer than the operation.

    Args:
        function: function of tensors.
        inputs: example tensors.
        instead: decompositions of operators, operator → function.

    Returns:
        The graph; a recording within another one shares its mode.
    """
    mode = detect_fake_mode() or FakeTensorMode(shape_env=ShapeEnv())

    def called(*tensors: Tensor) -> Any:  # Of a bound method `make_fx` would count `self` among the tensors.
        return function(*tensors)

    with tracing(TracingContext(mode)):
        return make_fx(called, decomposition_table=None if instead is None else dict(instead))(*inputs)


class ClosedGraph(NamedTuple):
    """A graph that reads no tensors but its arguments, called as `graph(*constants, *inputs)`."""

    graph: GraphModule
    constants: tuple[Tensor, ...]


def closed_graph(graph: GraphModule) -> ClosedGraph:
    """The graph with its captured tensors, and all results that depend on them alone, as arguments.

    These results are computed once, here.  Unused random draws are removed, and so are checks that can only fail for NaN
    (a point mass at its own point).
    """
    graph = _merged(GraphModule(graph, _copied(graph.graph)))
    known: dict[Node, Tensor] = {}
    views: set[Node] = set()
    drawn: set[Node] = set()
    for node in graph.graph.nodes:
        if is_random(node) or drawn.intersection(node.all_input_nodes):
            drawn.add(node)
        value = _known_value(graph, node, known, drawn)
        if value is None:
            continue
        known[node] = value.detach()
        if node.op == "call_function" and any(r.alias_info for r in node.target._schema.returns):
            views.add(node)
    return _replaced(graph, known, views)


def _copied(graph: Graph) -> Graph:
    copied = Graph()
    copied.output(copied.graph_copy(graph, {}))
    return copied


def operator_of(node: Node) -> Any:
    """The ATen operator that a node calls; None for every other node."""
    return node.target if isinstance(node.target, torch._ops.OpOverload) else None


def graph_modules(graph: Any) -> list[GraphModule]:
    """The graph and the graphs inside it, such as the bodies of loops; none of a function that was not recorded."""
    return [module for module in graph.modules() if isinstance(module, GraphModule)] if is_recorded(graph) else []


def is_recorded(run: Any) -> TypeGuard[GraphModule]:
    """Return whether a function is a recorded graph."""
    return isinstance(run, GraphModule)


def is_random(node: Node) -> bool:
    """Return whether an operation draws random numbers."""
    operator = operator_of(node)
    return operator is not None and torch.Tag.nondeterministic_seeded in operator.tags


def _merged(graph: GraphModule) -> GraphModule:
    """The graph with equal operations merged, unless that would merge random draws, which are never equal."""
    graph.graph.eliminate_dead_code()
    merged = fx_graph_cse(graph.graph)
    lost = sum(map(is_random, merged.nodes)) < sum(map(is_random, graph.graph.nodes))
    return graph if lost else GraphModule(graph, merged)


def _known_value(graph: GraphModule, node: Node, known: dict[Node, Tensor], drawn: set[Node]) -> Tensor | None:
    if node.op == "get_attr":
        return attrgetter(str(node.target))(graph)
    operator = operator_of(node)
    if node.op != "call_function" or operator is None:
        return None
    # For random draws only: data compared with themselves are a mask of missing values.
    if node.target is torch.ops.aten.eq.Tensor and node.args[0] is node.args[1] and node.args[0] in drawn:
        like = node.meta["val"]
        return torch.ones(like.shape, dtype=like.dtype, device=like.device)
    schema = operator._schema
    if is_random(node) or schema.is_mutable or len(schema.returns) != 1:
        return None
    if node.target in _FACTORIES or not all(n in known for n in node.all_input_nodes):
        return None
    value = operator(*_filled(node.args, known), **_filled(node.kwargs, known))
    return value if torch.is_tensor(value) else None


_FACTORIES = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default, torch.ops.aten.new_empty.default)
"""Operators that allocate memory without setting values."""


def _filled(arguments: Any, known: dict[Node, Tensor]) -> Any:
    return torch.fx.node.map_arg(arguments, lambda node: known[node])


def _replaced(graph: GraphModule, known: dict[Node, Tensor], views: set[Node]) -> ClosedGraph:
    """The graph with known values that unknown nodes read as leading inputs; views of them remain operations."""
    wanted: dict[Node, Tensor] = {}
    stack = [n for node in graph.graph.nodes if node not in known for n in node.all_input_nodes if n in known]
    while stack:
        node = stack.pop()
        if node in views and node.all_input_nodes:
            stack.extend(node.all_input_nodes)
        else:
            wanted[node] = known[node]
    first = next(iter(graph.graph.nodes))
    constants: list[Tensor] = []
    for node, value in wanted.items():
        with graph.graph.inserting_before(first):
            if value.numel() and bool((value == value.flatten()[0]).all()):
                # One number for all elements saves reading memory.
                kind: dict[str, Any] = {"dtype": value.dtype, "device": value.device}
                arguments = (list(value.shape), value.flatten()[0].item())
                new = graph.graph.call_function(torch.ops.aten.full.default, arguments, kind)
                new.meta["val"] = value
            else:
                new = graph.graph.placeholder(f"constant_{len(constants)}")
                constants.append(value.contiguous())
        node.replace_all_uses_with(new)
    drop_unused(graph)
    _draw_at_once(graph)
    _placeholders_first(graph)
    graph.recompile()
    return ClosedGraph(graph, tuple(constants))


def drop_unused(graph: GraphModule) -> None:
    """Erase operations whose results are unused, random draws included."""
    graph.graph.eliminate_dead_code()
    for node in reversed(graph.graph.nodes):
        operator = operator_of(node)
        pure = operator is not None and not operator._schema.is_mutable
        if node.op == "call_function" and not node.users and pure:
            graph.graph.erase_node(node)


SMALL_DRAW = 1_000
"""Number of normal draws up to which drawing takes no longer than calling the generator."""


def _draw_at_once(graph: GraphModule) -> None:
    """Join small draws of normal noise of one dtype and device into one draw."""
    kinds: dict[tuple[Any, Any], list[Node]] = {}
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.randn.default and node.meta["val"].numel() <= SMALL_DRAW:
            kinds.setdefault((node.meta["val"].dtype, node.meta["val"].device), []).append(node)
    for nodes in kinds.values():
        if len(nodes) > 1:
            _join(graph, nodes)


def _join(graph: GraphModule, nodes: list[Node]) -> None:
    sizes = [node.meta["val"].numel() for node in nodes]
    with graph.graph.inserting_before(nodes[0]):
        whole = graph.graph.call_function(torch.ops.aten.randn.default, ([sum(sizes)],), nodes[0].kwargs)
        parts = graph.graph.call_function(torch.ops.aten.split_with_sizes.default, (whole, sizes))
        for i, node in enumerate(nodes):
            part = graph.graph.call_function(getitem, (parts, i))
            shaped = graph.graph.call_function(torch.ops.aten.view.default, (part, list(node.meta["val"].shape)))
            node.replace_all_uses_with(shaped)
    for node in nodes:
        graph.graph.erase_node(node)


def _placeholders_first(graph: GraphModule) -> None:
    nodes = list(graph.graph.nodes)
    anchor = next(node for node in nodes if node.op != "placeholder")
    for node in nodes[nodes.index(anchor) :]:
        if node.op == "placeholder":
            anchor.prepend(node)


class SplitGraph(NamedTuple):
    """A traced function split in two: `run(*tensors)` is `rest(*tensors, *draw(*tensors))`, where only `draw` is random."""

    draw: Callable[..., tuple[Tensor, ...]]
    rest: Callable[..., Tensor]
    num_bytes: int
    """Memory of the random numbers of one call, in bytes."""


def draws_numbers(run: Callable[..., Tensor] | None) -> bool:
    """Return whether a traced function draws random numbers."""
    return is_recorded(run) and any(map(is_random, run.graph.nodes))


def split_at_draws(run: Callable[..., Tensor] | None, num_leaves: int) -> SplitGraph | None:
    """Split a traced function into its random draws and the rest.

    Args:
        run: traced function.
        num_leaves: number of its leading tensors, which are the same for all draws.

    Returns:
        The two parts; None where a draw depends on another one, as of a gamma whose shape is drawn, or on an input.
    """
    if not is_recorded(run):
        return None
    nodes = list(run.graph.nodes)
    arguments = [node for node in nodes if node.op == "placeholder"]
    drawn = [node for node in nodes if is_random(node)]
    changing = {*arguments[num_leaves:], *drawn}
    for node in nodes:
        if changing.intersection(node.all_input_nodes):
            if node in drawn:
                return None
            changing.add(node)
    values = (node.meta.get("val") for node in drawn)
    return SplitGraph(
        _extracted(run, arguments, [node for node in nodes if node not in changing or node in drawn], drawn),
        _extracted(run, [*arguments, *drawn], nodes, None),
        sum(value.numel() * value.element_size() for value in values if torch.is_tensor(value)),
    )


def _extracted(
    module: GraphModule, arguments: list[Node], nodes: list[Node], results: list[Node] | None
) -> GraphModule:
    """Graph with these arguments, made of the further `nodes`; None for `results` keeps those of the module."""
    graph = Graph()
    known: dict[Node, Any] = {node: graph.placeholder(node.name) for node in arguments}
    for node in nodes:
        if node not in known and not (results is not None and node.op == "output"):
            known[node] = graph.node_copy(node, known.__getitem__)
    if results is not None:
        graph.output(tuple(known[node] for node in results))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def half_precision(graph: GraphModule) -> torch.dtype | None:
    """Half-precision dtype to which a graph casts values that its results depend on, as under autocast; else None."""
    for module in graph_modules(graph):
        read = _ancestors(module)
        for node in module.graph.nodes:
            if node in read and node.all_input_nodes and node.kwargs.get("dtype") in (torch.bfloat16, torch.float16):
                return node.kwargs["dtype"]
    return None


def _ancestors(graph: GraphModule) -> set[Node]:
    """The nodes that the results depend on."""
    found: set[Node] = set()
    left = [node for node in graph.graph.nodes if node.op == "output"]
    while left:
        new = [each for each in left.pop().all_input_nodes if each not in found]
        found.update(new)
        left += new
    return found


def recording() -> bool:
    """Return whether a graph is being recorded, so that no decision may depend on values."""
    return get_proxy_mode() is not None


def transformed() -> bool:
    """Return whether a transform of `torch.func` runs, which refuses an `autograd.Function` without rules for it."""
    return bool(torch._C._are_functorch_transforms_active())


def functional() -> bool:
    """Return whether operations have to be differentiable and may not read values."""
    return recording() or transformed()
