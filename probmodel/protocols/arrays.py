"""NumPy arrays and data frames as tensors."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from probmodel.protocols.structural import Structural

SINGLE = 4
"""Bytes of a number in single precision."""


@runtime_checkable
class ArrayLike(Protocol, metaclass=Structural):
    """A NumPy array, a data frame or one of its columns, or a tensor."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Frame(Protocol, metaclass=Structural):
    """A data frame: named columns, which are selected by position."""

    columns: Any
    iloc: Any


def as_tensor(name: str, value: Any) -> Any:
    """The tensor of an array or data frame, copied, in its own dtype; every other value as it is.

    >>> as_tensor("x", np.arange(3.0))
    tensor([0., 1., 2.], dtype=torch.float64)

    Args:
        name: name of the argument, for error messages.
        value: what the caller passed.

    Raises:
        TypeError: for an array of anything but numbers, and for a list, whose rows could not be selected.
    """
    if torch.is_tensor(value):
        return value
    refuse_lists(name, value)
    if not isinstance(value, ArrayLike):
        return value
    if np.ma.isMaskedArray(value):
        raise TypeError(f"expected every number of {name}, got a masked array; drop or impute the masked entries")
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"expected numbers of up to 64 bits in {name}, got an array of {array.dtype}; convert all columns to one type of "
            "numbers, encode text as class numbers (pandas.factorize), and drop or impute missing entries"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise TypeError(f"expected integers below 2⁶³ in {name}, got {array.max()}; subtract an offset")
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def refuse_lists(name: str, value: Any) -> None:
    """Raise TypeError for a list or tuple in place of an array, data frame or tensor."""
    if type(value) in (list, tuple):
        raise TypeError(
            f"expected an array, data frame or tensor as {name}, got a {type(value).__name__}; pass torch.as_tensor({name}), "
            "text as class numbers (pandas.factorize)"
        )


def refuse_other_rows(named: Mapping[str, Any]) -> None:
    """Raise ValueError for frames and series of as many rows whose labels differ, which would be paired by position."""
    labelled = {name: value.index for name, value in named.items() if hasattr(value, "iloc")}
    first = next(iter(labelled), None)
    for name, index in labelled.items():
        known = labelled[first or name]
        if len(index) == len(known) and not index.equals(known):
            raise ValueError(
                f"expected {name} with the row labels of {first}, got others or another order; align it by "
                f"{name}.loc[{first}.index], or pass {name}.to_numpy() where the order is meant"
            )


def converted(name: str, value: Any) -> Any:
    """The tensor of an array or data frame, as by `as_tensor`; single numbers, lists and all others as they are."""
    if torch.is_tensor(value) or type(value) in (list, tuple) or not isinstance(value, ArrayLike) or not np.ndim(value):
        return value
    return as_tensor(name, value)


def column_names(value: Any) -> tuple[str, ...]:
    """Names of the columns of a data frame, as text; none for anything else."""
    return tuple(map(str, value.columns)) if isinstance(value, Frame) else ()


def different_names(argument: str, value: Any) -> tuple[str, ...]:
    """Names of the columns of a data frame; raises ValueError for those that occur twice."""
    names = column_names(value)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"expected each column of {argument} once, got {twice} more than once; rename or drop them, as by "
            "frame.loc[:, ~frame.columns.duplicated()]"
        )
    return names


def names_in(argument: str, wanted: Sequence[str], own: Sequence[str]) -> Sequence[str]:
    """The wanted names of columns; raises ValueError for those that are missing, or occur twice."""
    missing = [name for name in wanted if own.count(name) != 1]
    if missing:
        raise ValueError(
            f"expected the columns {list(wanted)} of {argument} as in training, each once, got {list(own)} without {missing}; "
            "name the columns as in training, or pass an array whose columns are in that order"
        )
    return wanted


def in_known_columns(argument: str, value: Any, wanted: Sequence[str]) -> Any:
    """A data frame with the wanted columns alone, in their order; anything else, and where none are wanted, as it is.

    Raises:
        ValueError: naming the columns that are missing.
    """
    own = column_names(value)
    return value.iloc[:, [own.index(name) for name in names_in(argument, wanted, own)]] if own and wanted else value


def refuse_unusual(name: str, value: torch.Tensor) -> None:
    """Raise TypeError for a tensor whose numbers a density cannot be computed of with the usual rounding.

    Raises:
        TypeError: for a sparse, nested or quantized tensor, one without values (meta), complex numbers, and
            floating-point numbers of fewer than 32 bits.
    """
    kind, remedy = "", ""
    if value.is_meta:
        kind, remedy = "a meta tensor without values", "pass a tensor on a device"
    elif value.layout is not torch.strided or value.is_nested:
        kind, remedy = f"layout {value.layout}", f"pass {name}.to_dense()"
    elif value.is_complex():
        kind, remedy = f"{value.dtype}", f"pass torch.view_as_real({name}), or its modulus"
    elif value.is_quantized:
        kind, remedy = f"{value.dtype}", f"pass {name}.dequantize()"
    elif value.is_floating_point() and value.dtype.itemsize < SINGLE:
        kind, remedy = f"{value.dtype}", f"pass {name}.float(); models round too much in half precision"
    if kind:
        raise TypeError(f"expected a dense tensor of numbers in 32 or 64 bits as {name}, got {kind}; {remedy}")


def available_device(target: Any) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: for a device that this machine does not have.
    """
    try:
        device = torch.device(target)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError):
        known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        raise ValueError(f"expected a device of this machine, among {known}, got {target!r}; pass 'cpu'") from None
    return device
