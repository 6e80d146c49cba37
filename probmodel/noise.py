"""A traced program taken apart: the random numbers it draws, and what it makes of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from probmodel.graphs import draws


class Parts(NamedTuple):
    """`run(*tensors)` is `rest(*tensors, *draw(*tensors))`, of which `draw` alone is random."""

    draw: Callable[..., tuple[Tensor, ...]]
    rest: Callable[..., Tensor]
    num_bytes: int
    """Memory of the random numbers of one call."""


def draws_numbers(run: Callable[..., Tensor] | None) -> bool:
    """Whether a traced function draws random numbers."""
    return isinstance(run, GraphModule) and any(map(draws, run.graph.nodes))


def parts(run: Callable[..., Tensor] | None, num_leaves: int) -> Parts | None:
    """The two halves; None where a draw depends on another one, as of a gamma whose shape is drawn, or on an input.

    Args:
        run: a traced function.
        num_leaves: of its leading tensors, which are the same for all draws.
    """
    if not isinstance(run, GraphModule):
        return None
    nodes = list(run.graph.nodes)
    arguments = [node for node in nodes if node.op == "placeholder"]
    drawn = [node for node in nodes if draws(node)]
    changing = {*arguments[num_leaves:], *drawn}
    for node in nodes:
        if changing.intersection(node.all_input_nodes):
            if node in drawn:
                return None
            changing.add(node)
    values = (node.meta.get("val") for node in drawn)
    return Parts(
        _copied(run, arguments, [node for node in nodes if node not in changing or node in drawn], drawn),
        _copied(run, [*arguments, *drawn], nodes, None),
        sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor)),
    )


def _copied(module: GraphModule, arguments: list[Node], nodes: list[Node], results: list[Node] | None) -> GraphModule:
    """A function of `arguments` made of the further `nodes`; None for `results` keeps those of the module."""
    graph = Graph()
    known: dict[Node, Any] = {node: graph.placeholder(node.name) for node in arguments}
    for node in nodes:
        if node not in known and not (results is not None and node.op == "output"):
            known[node] = graph.node_copy(node, known.__getitem__)
    if results is not None:
        graph.output(tuple(known[node] for node in results))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)
