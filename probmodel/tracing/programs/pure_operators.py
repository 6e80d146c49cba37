"""Replacement of random and in-place operators by pure ones that `vmap` can batch and autograd can differentiate."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.fx import GraphModule

from probmodel.tracing.programs.graphs import operator_of

_NORMAL_SAMPLERS = ("normal", "multivariate_normal", "lowrank_multivariate_normal")


@contextmanager
def pure_noise() -> Iterator[None]:
    """Context that draws normal noise by `randn`, which vmap can batch, instead of `empty().normal_()`, which it cannot."""

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


def _masked_write(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """x[mask] = number by `where`, since vmap cannot batch a boolean index."""
    mask = indices[0]
    masked = mask is not None and mask.dtype == torch.bool and mask.shape == x.shape and len(indices) == 1
    if mask is None or not masked or accumulate or values.dim():
        return NotImplemented  # The operator stays as it is.
    return torch.where(mask, values, x)


def _copy_of(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """x[...] = source as a pure operator that has a derivative."""
    return source.to(x).expand_as(x)


def _write_slice(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """x[start:end] = source with ends counted from the left, since vmap takes no open or negative ones."""
    first, last, _ = slice(start, end, step).indices(x.shape[dim])
    if first >= last:
        return x.clone()
    if (first, last) == (start, end):
        return NotImplemented
    return torch.ops.aten.slice_scatter.default(x, source, dim, first, last, step)


def _cauchy(x: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: None = None) -> Tensor:
    """x.cauchy_() by inversion, since under vmap the operator gives every draw the same number."""
    return median + sigma * torch.tan(torch.pi * (torch.rand(x.shape, dtype=x.dtype, device=x.device) - 0.5))


def _exponential(x: Tensor, lambd: float = 1.0, *, generator: None = None) -> Tensor:
    """x.exponential_() by inversion."""
    return -torch.log1p(-torch.rand(x.shape, dtype=x.dtype, device=x.device)) / lambd


def _uniform(x: Tensor, start: float = 0.0, to: float = 1.0, *, generator: None = None) -> Tensor:
    """x.uniform_() by `rand`."""
    return start + (to - start) * torch.rand(x.shape, dtype=x.dtype, device=x.device)


def _normal(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: None = None) -> Tensor:
    """x.normal_() by `randn`."""
    return mean + std * torch.randn(x.shape, dtype=x.dtype, device=x.device)


def _normal_like(x: Tensor, *, dtype: torch.dtype | None = None, device: Any = None, **memory: Any) -> Tensor:
    """`randn_like` by `randn`, whose draws no graph pass merges."""
    return torch.randn(x.shape, dtype=dtype or x.dtype, device=device or x.device)


PURE_OPERATORS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.cauchy.default: _cauchy,
    torch.ops.aten.exponential.default: _exponential,
    torch.ops.aten.uniform.default: _uniform,
    torch.ops.aten.normal_functional.default: _normal,
    torch.ops.aten.randn_like.default: _normal_like,
    torch.ops.aten.index_put.default: _masked_write,
    torch.ops.aten.copy.default: _copy_of,
    torch.ops.aten.slice_scatter.default: _write_slice,
}
"""Operators without a batching rule (Multinomial's log-probability needs one) or a derivative → pure replacements."""

_ONE_DRAW_FOR_ALL = (
    "aten::cauchy",
    "aten::exponential",
    "aten::uniform",
    "aten::normal_functional",
    "aten::geometric",
    "aten::log_normal",
    "aten::random",
)
"""Functional forms of in-place samplers, which vmap runs once so that every draw of a batch has the same number."""


def refuse_shared_draws(graph: GraphModule) -> None:
    """Raise NotImplementedError for a sampler that vmap would run once for all draws of a batch."""
    for node in graph.graph.nodes:
        operator = operator_of(node)
        if operator is not None and operator._schema.name in _ONE_DRAW_FOR_ALL:
            raise NotImplementedError(f"{node.target} would give every draw of a batch the same number")
