"""Data sets as the arguments of a model, and the fingerprint of observed values."""

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from probmodel.protocols.arguments.kinds import is_mapping
from probmodel.protocols.arrays import (
    available_device,
    converted,
    different_names,
    names_in,
    refuse_lists,
    refuse_other_rows,
)
from probmodel.protocols.html_tables import html_table
from probmodel.protocols.integers import integer


def check_fields(args: Any, kwargs: Any, size: Any) -> None:
    """Raise TypeError unless the arguments are a tuple and a dict, ValueError unless the size is an integer or None."""
    if type(args) not in (tuple, list):
        raise TypeError(f"expected args as a tuple, got {described(args)}; pass Dataset((x,), ...) with a comma")
    if not is_mapping(kwargs):
        raise TypeError(f"expected kwargs as a dict, got {described(kwargs)}; pass Dataset(args, {{'y': y}}, ...)")
    if size is not None:
        integer("size", size, least=0)


def described(value: Any) -> str:
    """A value that is not what was expected, in a message: its shape or type."""
    return f"a tensor of shape {tuple(value.shape)}" if torch.is_tensor(value) else f"a {type(value).__name__}"


class _Arguments(NamedTuple):
    """The fields of a `Dataset`."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    size: int | None = None


class Dataset(_Arguments):
    """Data as the arguments of a model: `model(*args, **kwargs)`.

    When `size` is given, the first axis of the first tensor runs over the rows, as does that of every tensor of equal
    length.  NumPy arrays and data frames become tensors of their own dtype.

    Args:
        args: positional arguments of the model.
        kwargs: keyword arguments of the model; observations usually go here.
        size: number of rows of the full data set; a minibatch keeps it, so that its log-likelihood can be scaled to all
            rows. None for data without rows that could be selected.
        columns: names of the columns of the arguments that were data frames, by "args[0]", "args[1]", … or keyword; they
            are kept by themselves, and predictions find the columns of new rows by them.

    Raises:
        TypeError: for arguments that are no tuple, keyword arguments that are no dict, arrays and frames of text or objects,
            and masked arrays.
        ValueError: for frames in which the name of a column occurs twice, and a size that is not an integer, 0 or more.
    """

    columns: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __new__(
        cls,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        size: int | None = None,
        columns: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> "Dataset":
        check_fields(args, kwargs, size)
        found = {f"args[{at}]": different_names(f"args[{at}]", value) for at, value in enumerate(args)}
        args = tuple(converted(f"args[{at}]", value) for at, value in enumerate(args))
        found |= {name: different_names(name, value) for name, value in kwargs.items()}
        kwargs = {name: converted(name, value) for name, value in kwargs.items()}
        if not is_mapping(columns):
            raise TypeError(
                f"expected columns by argument, got {columns!r}; pass {{'args[0]': ('age', 'dose')}}, or leave it out"
            )
        data = super().__new__(cls, args, kwargs, size)
        data.columns = {**columns, **{name: names for name, names in found.items() if names}}
        return data

    def _replace(self, **fields: Any) -> "Dataset":
        """The data set with other fields, and the same names of columns."""
        data = super()._replace(**fields)
        data.columns = self.columns
        return data

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a data set with equal arguments, tensors of the same dtype among them, and size."""
        if not isinstance(other, Dataset):
            return NotImplemented
        own, its = self.by_name(), other.by_name()
        same_form = self.size == other.size and list(own) == list(its)
        return same_form and all(_equal(value, its[name]) for name, value in own.items())

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of_rows(cls, *args: Any, **kwargs: Any) -> "Dataset":
        """A full data set with `size` set to its number of rows, over which the first axis of the first argument runs.

        >>> import numpy as np
        >>> Dataset.of_rows(np.zeros((12, 3)), y=np.zeros(12))
        Dataset of 12 rows: args[0] (12, 3) float64, y (12,) float64

        Args:
            args: positional arguments of the model: tensors, NumPy arrays or data frames; anything else passes through.
            kwargs: keyword arguments of the model, likewise.

        Returns:
            Dataset with `size` set; arrays and frames become tensors of their own dtype.

        Raises:
            TypeError: for arrays of text or objects, and for lists.
            ValueError: where no argument is an array or tensor with rows, the first one is a single number, or another
                one has another number of rows than the first.
        """
        for name, value in _by_name(args, kwargs).items():
            refuse_lists(name, value)
        refuse_other_rows(_by_name(args, kwargs))
        data = cls(args, kwargs)
        with_rows = [tensor for tensor in data.tensors() if tensor.dim()]
        if not with_rows:
            raise ValueError(
                "expected an array, data frame or tensor with rows, got none; pass Dataset.of_rows(x, y=y)"
            )
        if not data.tensors()[0].dim():
            raise ValueError(
                "expected rows in the first argument, got a single number; pass it by name, after the rows"
            )
        size = len(with_rows[0])
        for name, value in data.by_name().items():
            shared = name != "y" and torch.is_tensor(value) and len(value.shape) > 0 and len(value) == 1
            if torch.is_tensor(value) and value.dim() and len(value) != size and not shared:
                raise ValueError(
                    f"expected {name} with {size} rows, got {len(value)}; pass one entry per row, or, for a tensor that is "
                    f"shared by the rows, Dataset(args, kwargs, size={size})"
                )
        return data._replace(size=size)

    def __repr__(self) -> str:
        rows = "without rows" if self.size is None else f"of {self.size:,} rows"
        here = None if self.size is None or not self.tensors() else len(self.tensors()[0])
        batch = "" if here in (None, self.size) else f" ({here:,} of them here)"
        return f"Dataset {rows}{batch}: {self.shapes()}"

    def shapes(self) -> str:
        """Name, shape and dtype of each argument, in one line."""
        return ", ".join(" ".join(filter(None, line)) for line in self._lines()) or "no arguments"

    def _repr_html_(self) -> str:
        head = ["argument", "shape", "dtype"]
        return html_table(head, self._lines(), "Dataset without rows" if self.size is None else f"{self.size:,} rows")

    def _lines(self) -> list[tuple[str, str, str]]:
        """Name, shape and dtype of each argument; the type of those that are not tensors."""

        def line(name: str, value: Any) -> tuple[str, str, str]:
            if not torch.is_tensor(value):
                return name, "", type(value).__name__
            return name, str(tuple(value.shape)), str(value.dtype).removeprefix("torch.")

        return [line(name, value) for name, value in self.by_name().items()]

    def by_name(self) -> dict[str, Any]:
        """All arguments, positional ones as "args[0]", "args[1]", …"""
        return _by_name(self.args, self.kwargs)

    @property
    def num_rows(self) -> int | None:
        """Number of rows held here (those of the batch), or None when `size` is None."""
        return None if self.size is None else len(self.tensors()[0])

    def named(self, *names: str) -> dict[str, Any]:
        """Arguments by name, given the names of the positional ones in the model's signature."""
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors, positional ones first."""
        values = [*self.args, *self.kwargs.values()]
        return [value for value in values if torch.is_tensor(value)]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Dataset":
        """The data set with `function` applied to each tensor; other arguments stay as they are."""

        def apply(value: Any) -> Any:
            return function(value) if torch.is_tensor(value) else value

        # In the order of `tensors`, which callers may rely on.
        args = tuple(apply(value) for value in self.args)
        return self._replace(args=args, kwargs={name: apply(value) for name, value in self.kwargs.items()})

    def rows(self, index: Int[Tensor, " B"] | slice) -> "Dataset":
        """The minibatch of the rows in `index`; `size` stays that of the full data set.

        Raises:
            ValueError: for data without rows.
        """
        count = self.num_rows
        if count is None:
            raise ValueError("expected data with rows, got size=None; pass Dataset(args, kwargs, size=number of rows)")
        return self.map(lambda t: t[index] if t.dim() and len(t) == count else t)

    def to(self, target: torch.device | torch.dtype | str) -> "Dataset":
        """The same data on another device, or its floating-point tensors in another dtype.

        Raises:
            ValueError: for a device that this machine does not have.
        """
        if isinstance(target, torch.dtype):
            return self.map(lambda t: t.to(target) if t.is_floating_point() else t)
        device = available_device(target)
        return self.map(lambda t: t.to(device))

    def in_columns_of(self, other: "Dataset") -> "Dataset":
        """The data with the columns of each argument that was a data frame in the order of another data set's.

        Raises:
            ValueError: naming the columns of the other data set that are missing.
        """
        found = self
        for name, wanted in other.columns.items():
            own = self.columns.get(name, wanted)
            if own != wanted:
                at = torch.tensor([own.index(each) for each in names_in(name, wanted, own)])
                found = found._reordered(name, at, wanted)
        return found

    def _reordered(self, name: str, at: Tensor, columns: tuple[str, ...]) -> "Dataset":
        """The data set with other columns of one argument."""

        def value(key: str, each: Any) -> Any:
            return each[:, at.to(each.device)] if key == name else each

        args = tuple(value(f"args[{position}]", each) for position, each in enumerate(self.args))
        kwargs = {key: value(key, each) for key, each in self.kwargs.items()}
        return Dataset(args, kwargs, self.size, {**self.columns, name: columns})


def _equal(a: Any, b: Any) -> bool:
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _by_name(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {f"args[{at}]": value for at, value in enumerate(args)} | dict(kwargs)


def digest(values: list[Tensor]) -> str:
    """Fingerprint of observed values: equal for the same numbers in any dtype, device or order of sites."""
    parts = sorted(value.detach().cpu().double().contiguous().numpy().tobytes() for value in values)
    return hashlib.sha256(b"|".join(parts)).hexdigest()[:16]


def joined_with_mask(value: Tensor, kept: Tensor) -> Tensor:
    """The form in which `digest` takes a masked value: joined with its mask, since the evidence depends on it.

    Args:
        value: observed values.
        kept: mask, True where a value is observed, which broadcasts to them; what it masks does not enter.
    """
    # By NumPy, since `Tensor.item` would abort a graph recording during which sites are listed.
    if kept.detach().cpu().numpy().all():
        return value
    kept = kept.to(value.device)
    seen = torch.where(kept, value, 0)
    return torch.cat([seen.double().reshape(-1), kept.double().reshape(-1)])
