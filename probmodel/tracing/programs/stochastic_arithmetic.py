"""Evaluation of a graph each of whose operations is off by rounding: Monte Carlo arithmetic (Parker, 1997)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from probmodel.tracing.programs.graphs import is_random, is_recorded

ROUNDING = 4.0
"""Size of the random relative error of each operation, in machine epsilons: libraries differ by some units in the last place."""


def with_rounding_errors(graph: GraphModule, seed: int) -> Callable[..., Sequence[Tensor]]:
    """The function of a graph with a random relative error of `ROUNDING` machine epsilons after each of its operations.

    Perturbed inputs do not show what an operation inside the graph loses: 1 − Φ(5) in single precision keeps one digit,
    however exactly 5 is known.  Integers are exact and stay, as do views and random draws.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def moved(value: Any) -> Any:
        if not torch.is_tensor(value) or not value.is_floating_point():
            return value
        generator = generators.setdefault(value.device, torch.Generator(value.device).manual_seed(seed))
        noise = torch.rand(value.shape, generator=generator, dtype=value.dtype, device=value.device)
        away = value * (1 + ROUNDING * torch.finfo(value.dtype).eps * (2 * noise - 1))
        return torch.where(value == value.round(), value, away)

    return _Rounded(graph, moved).run


class _Rounded(Interpreter):
    """Interpreter of a graph, and of the graphs inside it, that changes the results of arithmetic by `moved`."""

    def __init__(self, graph: GraphModule, moved: Callable[[Any], Any]) -> None:
        super().__init__(graph)
        self.moved = moved

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return _Rounded(value, self.moved).run if is_recorded(value) else value

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        return self.moved(result) if _is_arithmetic(n) else result


def _is_arithmetic(node: Node) -> bool:
    """Return whether an operation computes new numbers: no view, no draw, and nothing in place."""
    operator = node.target
    if type(operator) is not torch._ops.OpOverload or is_random(node):
        return False
    schema = operator._schema
    return bool(node.all_input_nodes) and not schema.is_mutable and not any(each.alias_info for each in schema.returns)
