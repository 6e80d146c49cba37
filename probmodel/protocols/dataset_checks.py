"""Checks of the form of a `Dataset` before anything reads it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.integers import integer
from probmodel.protocols.model import ChecksData, ChecksTrainingData


def check_form(data: Any) -> None:
    """Raise for anything but a `Dataset` of tensors with a valid size.

    >>> check_form(Dataset((np.zeros(3),), size=3))
    Traceback (most recent call last):
    TypeError: expected PyTorch tensors, got a NumPy array of shape (3,) as args[0]; pass torch.as_tensor(array)

    Raises:
        TypeError: for another class, positional arguments that are not a tuple, keyword arguments that are not a dict,
            and NumPy arrays.
        ValueError: for a size that is not an integer.
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
                f"expected PyTorch tensors, got a NumPy array of shape {value.shape} as {name}; pass torch.as_tensor(array)"
            )


def check_by_model(model: object, data: Dataset) -> None:
    """Raise ValueError where the model itself refuses the data; a model without `check` refuses none."""
    if isinstance(model, ChecksData):
        model.check(data)


def check_training_by_model(model: object, data: Dataset) -> None:
    """Raise ValueError where the model states that nothing can be learned from the data."""
    if isinstance(model, ChecksTrainingData):
        model.check_training(data)


def inputs_and_observations(data: Dataset) -> tuple[Tensor, Tensor]:
    """Inputs x and observations y of a data set for `model(x, y)`.

    Raises:
        ValueError: for arguments other than the tensors x and y.
    """
    values = data.named("x", "y")
    if set(values) != {"x", "y"} or not all(torch.is_tensor(value) for value in values.values()):
        raise ValueError(f"expected a call with x and y, got {sorted(values)}; pass Dataset((x,), {{'y': y}})")
    return values["x"], values["y"]


def check_rows_can_be_taken(data: Dataset) -> None:
    """Raise TypeError for row-wise tensors inside a dict or list: a minibatch would keep all their rows."""
    rows = data.num_rows
    for name, value in _named(data).items():
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
        hidden = [tensor for tensor in inner if torch.is_tensor(tensor) and tensor.dim() and len(tensor) == rows]
        if hidden:
            raise TypeError(
                f"expected tensors with rows as arguments of their own, so that minibatches can be taken, got {len(hidden)} "
                f"of {rows} rows inside a {type(value).__name__} as {name}; pass each tensor as an argument of its own"
            )


def _named(data: Dataset) -> dict[str, Any]:
    named = {f"args[{i}]": value for i, value in enumerate(data.args)}
    return named | {f"kwargs[{name!r}]": value for name, value in data.kwargs.items()}


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if torch.is_tensor(value) else f"a {type(value).__name__}"
