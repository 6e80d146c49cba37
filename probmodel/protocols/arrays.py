"""NumPy arrays and data frames as tensors."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from probmodel.protocols.structural import Structural


@runtime_checkable
class ArrayLike(Protocol, metaclass=Structural):
    """A NumPy array, a data frame or one of its columns, or a tensor."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any: ...


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
    if type(value) in (list, tuple):
        raise TypeError(
            f"expected an array, data frame or tensor as {name}, got a {type(value).__name__}; pass torch.as_tensor({name})"
        )
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
