"""Checks of the form of a `Dataset` before anything reads it."""

from typing import Any

import torch
from torch import Tensor

from probmodel.protocols.arguments.checks import check_contents
from probmodel.protocols.arguments.kinds import is_mapping
from probmodel.protocols.arrays import refuse_lists, refuse_unusual
from probmodel.protocols.dataset import Dataset, check_fields, described
from probmodel.protocols.model import ChecksData, ChecksTrainingData


@check_contents.register
def _(data: Dataset) -> None:
    check_form(data)


def check_form(data: Any) -> None:
    """Raise for anything but a `Dataset` of tensors with a valid size.

    >>> check_form((torch.zeros(3),))
    Traceback (most recent call last):
    TypeError: expected a Dataset, got tuple; pass Dataset.of_rows(x, y=y), or Dataset(args, kwargs, size=number of rows)

    Raises:
        TypeError: for another class, positional arguments that are not a tuple, keyword arguments that are not a dict,
            lists with one entry per row, and sparse, complex, half-precision or meta tensors.
        ValueError: for a size that is not an integer.
    """
    if not isinstance(data, Dataset):
        raise TypeError(
            f"expected a Dataset, got {type(data).__name__}; pass Dataset.of_rows(x, y=y), or Dataset(args, kwargs, "
            "size=number of rows)"
        )
    check_fields(*data)
    for name, value in data.by_name().items():
        if torch.is_tensor(value):
            refuse_unusual(name, value)
        elif data.size is not None and type(value) in (list, tuple) and len(value) == _rows(data) != 0:
            refuse_lists(name, value)


def _rows(data: Dataset) -> int | None:
    """Number of rows held here; None where the first tensor has none."""
    tensors = data.tensors()
    return len(tensors[0]) if tensors and tensors[0].dim() else data.size


def check_tensors(data: Dataset, *names: str, optional: tuple[str, ...] = ("y",)) -> None:
    """Raise TypeError unless the arguments of some names, those that are passed by position first, are tensors.

    Args:
        data: data set for the call of a model.
        names: names of the model's arguments, in order.
        optional: those that may be None.
    """
    for name, value in data.named(*names).items():
        if name in names and not torch.is_tensor(value) and not (value is None and name in optional):
            raise TypeError(
                f"expected {name} as a tensor, array or data frame, got {described(value)}; pass torch.as_tensor({name}), text "
                "as class numbers (pandas.factorize)"
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
    for name, value in data.by_name().items():
        inner = value.values() if is_mapping(value) else value if type(value) in (tuple, list) else ()
        hidden = [tensor for tensor in inner if torch.is_tensor(tensor) and tensor.dim() and len(tensor) == rows]
        if hidden:
            raise TypeError(
                f"expected tensors with rows as arguments of their own, so that minibatches can be taken, got {len(hidden)} "
                f"of {rows} rows inside a {type(value).__name__} as {_called(name)}; pass each tensor as an argument of its own"
            )


def _called(name: str) -> str:
    return name if name.startswith("args[") else f"kwargs[{name!r}]"
