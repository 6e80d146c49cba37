"""Surgery on traced graphs: tensors taken out, all that depends on nothing else computed once, dead draws removed."""

from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx import GraphModule, Node


class Lifted(NamedTuple):
    """A graph that reads no tensor but its arguments, `graph(*constants, *inputs)`."""

    graph: GraphModule
    constants: tuple[Tensor, ...]


def lifted(graph: GraphModule) -> Lifted:
    """Take the tensors out of a graph, and with them all that depends on nothing else: it is computed once, here.

    Draws that nobody reads go too, and checks that can only fail for NaN (a point mass at its own point).
    """
    graph = GraphModule(graph, fx_graph_cse(graph.graph))
    known: dict[Node, Tensor] = {}
    views: set[Node] = set()
    drawn: set[Node] = set()
    for node in graph.graph.nodes:
        if _draws(node) or drawn.intersection(node.all_input_nodes):
            drawn.add(node)
        value = _known_value(graph, node, known, drawn)
        if value is None:
            continue
        known[node] = value.detach()
        if node.op == "call_function" and any(r.alias_info for r in node.target._schema.returns):
            views.add(node)
    return _replaced(graph, known, views)


def _draws(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _known_value(graph: GraphModule, node: Node, known: dict[Node, Tensor], drawn: set[Node]) -> Tensor | None:
    if node.op == "get_attr":
        return attrgetter(str(node.target))(graph)
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return None
    # Of a draw only: data compared with themselves are a mask of what is missing.
    if node.target is torch.ops.aten.eq.Tensor and node.args[0] is node.args[1] and node.args[0] in drawn:
        like = node.meta["val"]
        return torch.ones(like.shape, dtype=like.dtype, device=like.device)
    schema = node.target._schema
    if _draws(node) or schema.is_mutable or len(schema.returns) != 1:
        return None
    if node.target in _FACTORIES or not all(n in known for n in node.all_input_nodes):
        return None
    value = node.target(*_filled(node.args, known), **_filled(node.kwargs, known))
    return value if isinstance(value, Tensor) else None


_FACTORIES = (torch.ops.aten.empty.memory_format, torch.ops.aten.empty_like.default, torch.ops.aten.new_empty.default)
"""Memory without values."""


def _filled(arguments: Any, known: dict[Node, Tensor]) -> Any:
    return torch.fx.node.map_arg(arguments, lambda node: known[node])


def _replaced(graph: GraphModule, known: dict[Node, Tensor], views: set[Node]) -> Lifted:
    """Known values that unknown nodes read become leading inputs; a view of one stays an operation on it."""
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
                # One number for all elements is no memory to read.
                kind: dict[str, Any] = {"dtype": value.dtype, "device": value.device}
                arguments = (list(value.shape), value.flatten()[0].item())
                new = graph.graph.call_function(torch.ops.aten.full.default, arguments, kind)
                new.meta["val"] = value
            else:
                new = graph.graph.placeholder(f"constant_{len(constants)}")
                constants.append(value.contiguous())
        node.replace_all_uses_with(new)
    drop_dead(graph)
    _placeholders_first(graph)
    graph.recompile()
    return Lifted(graph, tuple(constants))


def drop_dead(graph: GraphModule) -> None:
    """Erase what nobody reads, draws of random numbers too."""
    graph.graph.eliminate_dead_code()
    for node in reversed(graph.graph.nodes):
        pure = isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable
        if node.op == "call_function" and not node.users and pure:
            graph.graph.erase_node(node)


def _placeholders_first(graph: GraphModule) -> None:
    nodes = list(graph.graph.nodes)
    anchor = next(node for node in nodes if node.op != "placeholder")
    for node in nodes[nodes.index(anchor) :]:
        if node.op == "placeholder":
            anchor.prepend(node)
