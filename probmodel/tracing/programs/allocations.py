"""A limit on the tensors that code makes, for code whose sizes come from outside."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter, tree_map


@contextmanager
def limited_tensors(num_bytes: int) -> Iterator[None]:
    """Context in which no new tensors of more than `num_bytes` together are made.

    Raises:
        ValueError: before the first tensor that exceeds the limit is made.
    """
    with _Limited(num_bytes):
        yield


class _Limited(TorchDispatchMode):
    """Finds the size of each result without its values, and adds up those of new tensors."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self.limit, self.made = num_bytes, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {**(kwargs or {})}
        self.made += _new_bytes(func, args, given)
        if self.made > self.limit:
            raise ValueError(
                f"expected tensors of up to {self.limit:,} bytes together, got {self.made:,} by {func}; fit and save again"
            )
        return func(*args, **given)


def _new_bytes(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Bytes of the results that share no memory with an argument, from a run on tensors without values."""
    if any(each.alias_info is not None for each in func._schema.returns):  # type: ignore[attr-defined]
        return 0
    told = dict(kwargs)
    if any(each.name == "device" for each in func._schema.arguments):  # type: ignore[attr-defined]
        told["device"] = torch.device("meta")
    try:
        with _disable_current_modes():
            results = func(*tree_map(_without_values, args), **tree_map(_without_values, told))
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
    ):  # A size that depends on values is one of a tensor that exists.
        return 0
    return sum(each.numel() * each.element_size() for each in tree_iter(results) if torch.is_tensor(each))


def _without_values(value: Any) -> Any:
    return value.to("meta") if torch.is_tensor(value) else value
