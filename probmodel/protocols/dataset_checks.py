"""What a Dataset has to look like before anything reads it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer


def check_form(data: Any) -> None:
    """Raise for anything but a Dataset whose rows can be found.

    >>> check_form(Dataset((np.zeros(3),), size=3))
    Traceback (most recent call last):
    TypeError: expected PyTorch tensors, got a NumPy array of shape (3,) as args[0]; give torch.as_tensor(array)

    Raises:
        TypeError: for another class, positional arguments that are no tuple, named ones that are no dict, and arrays that
            are no tensors.
        ValueError: for a size that is no integer.
    """
    if not isinstance(data, Dataset):
        raise TypeError(
            f"expected a Dataset, got {type(data).__name__}; pass Dataset(args, kwargs, size=number of rows)"
        )
    if not isinstance(data.args, tuple | list):
        raise TypeError(f"expected args as a tuple, got {_kind(data.args)}; pass Dataset((x,), ...) with a comma")
    if not isinstance(data.kwargs, Mapping):
        raise TypeError(f"expected kwargs as a dict, got {_kind(data.kwargs)}; pass Dataset(args, {{'y': y}}, ...)")
    if data.size is not None:
        integer("size", data.size, least=0)
    for name, value in _named(data).items():
        if isinstance(value, np.ndarray):
            raise TypeError(
                f"expected PyTorch tensors, got a NumPy array of shape {value.shape} as {name}; give torch.as_tensor(array)"
            )


def inputs_and_observations(data: Dataset) -> tuple[Tensor, Tensor]:
    """Of a call `model(x, y)` with both.

    Raises:
        ValueError: for any other call.
    """
    values = data.named("x", "y")
    if set(values) != {"x", "y"} or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(f"expected a call with x and y, got {sorted(values)}; pass Dataset((x,), {{'y': y}})")
    return values["x"], values["y"]


def check_rows_can_be_taken(data: Dataset) -> None:
    """Raise TypeError for tensors inside a dict or list that are as long as the rows: a minibatch would keep them whole."""
    rows = data.num_rows
    for name, value in _named(data).items():
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
        hidden = [tensor for tensor in inner if isinstance(tensor, Tensor) and tensor.dim() and len(tensor) == rows]
        if hidden:
            raise TypeError(
                f"expected rows in tensors, got {len(hidden)} of {rows} rows in a {type(value).__name__} as {name}, which no "
                "rows are taken of; give each tensor as an argument of its own"
            )


def _named(data: Dataset) -> dict[str, Any]:
    named = {f"args[{i}]": value for i, value in enumerate(data.args)}
    return named | {f"kwargs[{name!r}]": value for name, value in data.kwargs.items()}


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
