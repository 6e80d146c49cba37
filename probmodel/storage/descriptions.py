"""Plain values, tensors and the package's own components ↔ JSON, by a closed list of names: nothing else can be built.

A component is described by its name in `COMPONENTS` and its constructor arguments.  Numbers, strings, None, lists and
dictionaries are stored as they are; everything that JSON lacks is an object with one key that starts with "$".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probmodel.protocols.errors import NotSerializableError
from probmodel.storage.components.table import COMPONENT_NAMES, COMPONENTS, FUNCTION_NAMES, FUNCTIONS

Json = Any
"""A value that the json module reads and writes."""

Fetch = Callable[[str], Tensor]
"""Name of a stored tensor → the tensor."""

DTYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
    }
)
"""Dtypes of PyTorch that safetensors can store."""


RENAMED = {
    "Standardise": "Standardize",
    "Discretise": "Discretize",
    "generalised_product_of_experts": "generalized_product_of_experts",
    "generalised_robust_bayesian_committee": "generalized_robust_bayesian_committee",
    "separate": "own_shards",
    "communicating": "with_communication_shard",
}
"""Name of a component or function in folders saved by release 0.1 → its current name."""

RENAMED_ARGUMENTS = {"centre": "center"}
"""Name of a constructor argument in folders saved by release 0.1 → its current name."""

NUM_HIDDEN = {"hidden": "num_hidden"}

OF_ONE_HIDDEN_LAYER = ("NonlinearNetwork", "ClassRBM", "DeepBoltzmannMachine")
"""Components whose number of hidden units release 0.1 called `hidden`, which is a sequence of widths elsewhere."""

_FLOATS: Mapping[str, float] = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class TensorCollection:
    """Tensors collected while describing values: each once, on the CPU, under the path where it was first found."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.strides: dict[str, list[int]] = {}
        # The tensors are kept alive so that no other tensor can have their id.
        self._seen: dict[int, tuple[Tensor, str]] = {}

    def __call__(self, path: str, tensor: Tensor) -> str:
        """Keep a tensor and return its name.

        Raises:
            NotSerializableError: for a sparse tensor, or a dtype that safetensors cannot store.
        """
        if id(tensor) in self._seen:
            return self._seen[id(tensor)][1]
        if tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
            raise NotSerializableError(
                f"expected a dense tensor of numbers at {path}, got {tensor.layout} of {tensor.dtype}; convert it or leave it out"
            )
        name = path
        while name in self.tensors:
            name += "'"
        self._seen[id(tensor)] = (tensor, name)
        self.tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        if not tensor.is_contiguous() and _is_dense(tensor.shape, tensor.stride()):
            self.strides[name] = list(tensor.stride())
        return name


def with_strides(values: Tensor, stride: Sequence[int] | None) -> Tensor:
    """A copy with the given strides: sums run in the order of memory, so rounding errors depend on them.

    Raises:
        ValueError: for strides that leave gaps or overlap.
    """
    if stride is None:
        return values.clone()
    if len(stride) != values.dim() or not _is_dense(values.shape, stride):
        raise ValueError(f"expected strides of a dense tensor of shape {tuple(values.shape)}, got {stride}")
    return torch.empty_strided(values.shape, tuple(stride), dtype=values.dtype).copy_(values)


def _is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for step, size in sorted((step, size) for size, step in zip(shape, stride, strict=True) if size > 1):
        if step != expected:
            return False
        expected *= size
    return min(stride, default=0) >= 0


@singledispatch
def describe(value: object, path: str, kept: TensorCollection) -> Json:
    """JSON description of a value, whose tensors are added to `kept`.

    Args:
        value: value to describe.
        path: where it was found, for errors and the names of tensors.
        kept: collection of tensors.

    Raises:
        NotSerializableError: naming the path of the first value that is neither plain, a tensor, nor in `COMPONENTS`.
    """
    name = COMPONENT_NAMES.get(type(value))
    if name is None:
        raise _undescribable(value, path)
    return {"$piece": [name, describe(dict(COMPONENTS[name].arguments(value)), path, kept)]}


def _undescribable(value: object, path: str) -> NotSerializableError:
    got = type(value)
    return NotSerializableError(
        f"expected a number, string, None, tensor, or a list or dictionary of them at {path}, got {got.__module__}."
        f"{got.__qualname__}; convert it to one of these or leave it out"
    )


@describe.register(type(None))
@describe.register(bool)
@describe.register(int)
@describe.register(str)
def _(value: Any, path: str, kept: TensorCollection) -> Json:
    return value


@describe.register
def _(value: float, path: str, kept: TensorCollection) -> Json:
    return float(value) if math.isfinite(value) else {"$float": str(float(value))}


@describe.register
def _(value: np.generic, path: str, kept: TensorCollection) -> Json:
    return describe(value.item(), path, kept)


@describe.register
def _(value: list, path: str, kept: TensorCollection) -> Json:
    return [describe(item, f"{path}[{i}]", kept) for i, item in enumerate(value)]


@describe.register
def _(value: tuple, path: str, kept: TensorCollection) -> Json:
    return {"$tuple": describe(list(value), path, kept)}


@describe.register(Mapping)
def _(value: Mapping[Any, Any], path: str, kept: TensorCollection) -> Json:
    unexpected = [key for key in value if not isinstance(key, str)]
    if unexpected:
        raise NotSerializableError(f"expected strings as keys of {path}, got {unexpected[0]!r}; convert the keys")
    items = {str(key): describe(item, f"{path}.{key}".removeprefix("."), kept) for key, item in value.items()}
    return {"$dict": items} if any(key.startswith("$") for key in items) else items


@describe.register
def _(value: Tensor, path: str, kept: TensorCollection) -> Json:
    return {"$tensor": kept(path, value)}


@describe.register
def _(value: nn.Parameter, path: str, kept: TensorCollection) -> Json:
    return {"$parameter": kept(path, value)}


@describe.register
def _(value: np.ndarray, path: str, kept: TensorCollection) -> Json:
    if value.dtype.kind not in "biuf":
        raise _undescribable(value, path)
    return {"$array": kept(path, torch.from_numpy(np.array(value)))}


@describe.register
def _(value: FunctionType, path: str, kept: TensorCollection) -> Json:
    if value not in FUNCTION_NAMES:
        raise _undescribable(value, path)
    return {"$function": FUNCTION_NAMES[value]}


@singledispatch
def rebuild(node: Json, fetch: Fetch) -> Any:
    """The value that `describe` described.

    Raises:
        LookupError, TypeError, ValueError: for anything `describe` does not write.
    """
    return node


@rebuild.register
def _(node: list, fetch: Fetch) -> Any:
    return [rebuild(item, fetch) for item in node]


@rebuild.register
def _(node: dict, fetch: Fetch) -> Any:
    tag = next(iter(node), "")
    if len(node) == 1 and tag.startswith("$"):
        return _TAGS[tag](node[tag], fetch)
    return _entries(node, fetch)


def _entries(node: dict, fetch: Fetch) -> dict[str, Any]:
    return {key: rebuild(item, fetch) for key, item in node.items()}


def _component(node: list, fetch: Fetch) -> Any:
    name, arguments = node
    renamed = RENAMED_ARGUMENTS | (NUM_HIDDEN if name in OF_ONE_HIDDEN_LAYER else {})
    values = {renamed.get(key, key): value for key, value in rebuild(arguments, fetch).items()}
    return COMPONENTS[RENAMED.get(name, name)].build(**values)


_TAGS: Mapping[str, Callable[[Json, Fetch], Any]] = {
    "$float": lambda node, fetch: _FLOATS[node],
    "$tuple": lambda node, fetch: tuple(rebuild(node, fetch)),
    "$dict": _entries,
    "$tensor": lambda node, fetch: fetch(node),
    "$parameter": lambda node, fetch: nn.Parameter(fetch(node)),
    "$array": lambda node, fetch: fetch(node).numpy(),
    "$function": lambda node, fetch: FUNCTIONS[RENAMED.get(str(node), str(node))],
    "$piece": _component,
}
