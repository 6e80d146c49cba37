"""Levels of categorical variables: the text of a value, the order of levels, and columns that are not categorical."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor, is_tensor

from probmodel.families.bayesian_networks.dag import check_names
from probmodel.protocols.arguments.kinds import is_mapping
from probmodel.protocols.arrays import column_names

MANY_LEVELS = 20
"""Number of levels that a column may have whatever its rows are; as many fractional numbers are a continuous column."""

FEW_ROWS_PER_LEVEL = 2
"""A column with fewer rows per level on average measures or identifies its rows."""

FEW_FRACTIONS = 5
"""Number of fractional values up to which a column with few rows per level may be categorical."""

EXACT_INTEGERS = 2.0**53
"""Size from which on neighboring floats are further apart than integers."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"(?<![\d.])(\d+)\.0*(?!\d)")
_TRUTH = {"False": "0", "True": "1"}


@singledispatch
def label(value: Any) -> str:
    """The text that stands for a value: a number without fractional part as an integer, a midnight as a date.

    >>> label(1.0), label(0.5), label(np.True_), label(pd.Timestamp("2026-03-01"))
    ('1', '0.5', 'True', '2026-03-01')

    Args:
        value: entry of a data frame, or what a query was given.
    """
    return str(value)


@label.register(float)
@label.register(np.floating)
def _(value: Any) -> str:
    return str(int(value)) if abs(value) < EXACT_INTEGERS and value == int(value) else str(value)


@label.register(datetime)
@label.register(np.datetime64)
def _(value: Any) -> str:
    return str(pd.Timestamp(value)).removesuffix(" 00:00:00")


@label.register(timedelta)
@label.register(np.timedelta64)
def _(value: Any) -> str:
    return str(pd.Timedelta(value)).removesuffix(" 00:00:00")


@label.register(np.ndarray)
@label.register(Tensor)
def _(value: Any) -> str:
    return label(value.item()) if value.ndim == 0 else str(value)


class Distinct(NamedTuple):
    """The distinct values of a column, and which of them each row has; missing ones left out.

    Args:
        values: each value once, by its label.
        labels: label of each row.
    """

    values: Mapping[str, Any]
    labels: np.ndarray


def distinct(name: str, column: pd.Series) -> Distinct:
    """The distinct values of a column.

    Raises:
        TypeError: for values such as lists, which cannot be told apart.
        ValueError: for a number and a text that read the same, which would become one level.
    """
    seen = column.dropna()
    try:
        codes, found = pd.factorize(seen)
    except TypeError:
        kind = type(seen.iloc[0]).__name__
        raise TypeError(
            f"expected text, numbers or dates in column {name!r}, got {kind}; turn its values into text"
        ) from None
    values = np.asarray(found)  # Keeps single precision, whose numbers have a shorter text.
    labels = np.array([label(value) for value in values], dtype=object)
    texts = {value for value in values if type(value) is str}
    both = sorted(texts & {each for each, value in zip(labels, values, strict=True) if type(value) is not str})
    if both:
        raise ValueError(
            f"expected values of one type in column {name!r}, got {both} both as text and as other values; convert the "
            "column, as by astype(str)"
        )
    return Distinct(dict(zip(labels, values, strict=True)), labels[codes])


def own_levels(column: pd.Series, found: Distinct) -> tuple[str, ...]:
    """The categories of a categorical column, else the values that occur: numbers first, in numeric order.

    >>> own_levels(pd.Series([]), Distinct({"b": "b", "10": "10", "9": "9", "0.5": 0.5}, np.array([])))
    ('0.5', '9', '10', 'b')
    """
    if type(column.dtype) is pd.CategoricalDtype:
        return tuple(map(label, np.asarray(column.cat.categories)))
    values = found.values
    if all(type(value) is str or _NUMBER.fullmatch(text) for text, value in values.items()):
        return tuple(sorted(values, key=_numbers_first))
    try:
        return tuple(sorted(values, key=values.__getitem__))
    except TypeError:  # Values of several types have no order of their own.
        return tuple(sorted(values, key=_numbers_first))


def _numbers_first(text: str) -> tuple[bool, float, str]:
    is_number = _NUMBER.fullmatch(text) is not None
    return not is_number, float(text) if is_number else 0.0, text


def position(name: str, levels: Sequence[str], value: object) -> int:
    """Position of a value among the levels of a variable.

    Text has to be equal; a number matches in any type, whether it was read as 1, 1.0, True or in single precision.

    >>> position("late", ("0", "1"), 1.0), position("late", ("0", "1"), np.True_), position("x", ("False", "True"), 1)
    (1, 1, 1)

    Args:
        name: the variable, for the message.
        levels: its levels.
        value: value as it stands in a data frame.

    Raises:
        ValueError: if the value is missing, or not among the levels.
    """
    text = label(value)
    if text in levels:
        return list(levels).index(text)
    if np.ndim(value) == 0 and type(value) is not str:  # type: ignore[arg-type]
        if pd.isna(value):  # type: ignore[call-overload]
            raise ValueError(f"expected a value of {name!r}, got {value!r}, which is a missing one; leave {name!r} out")
        same = [at for at, level in enumerate(levels) if _is_same_number(level, text)]
        if len(same) == 1:
            return same[0]
    raise ValueError(f"expected a value of {name!r} among {list(levels)}, got {value!r}; pass one of these values")


def _is_same_number(level: str, text: str) -> bool:
    """Return whether two texts differ only in how they write numbers: endings .0, truth values, single precision."""
    one, other = (_WHOLE.sub(r"\1", _TRUTH.get(each, each)) for each in (level, text))
    if one == other:
        return True
    if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
        return False
    # A row of a frame with columns of several types has its single-precision numbers widened.
    widened = float(np.float32(other)) == float(other) and np.float32(one) == np.float32(other)
    return float(one) == float(other) or bool(widened)


def named_columns(frame: Any) -> pd.DataFrame:
    """A data frame as it is, or that of a mapping from names to columns or of a named column.

    Raises:
        TypeError: for rows whose columns have no names.
    """
    if type(frame) is pd.Series and frame.name is not None:
        return frame.to_frame()
    if is_mapping(frame):
        columns = {name: np.asarray(values) if is_tensor(values) else values for name, values in frame.items()}
        try:
            return pd.DataFrame(columns)
        except ValueError as error:
            raise ValueError(
                f"expected columns of one length in a dict, got {type(error).__name__}: {error}; pass a data frame"
            ) from None
    if not column_names(frame) and type(frame) is not pd.DataFrame:
        shape = f" of shape {tuple(frame.shape)}" if type(frame).__name__ in ("ndarray", "Tensor") else ""
        raise TypeError(
            f"expected a data frame with one named column per variable, got {type(frame).__name__}{shape}; pass "
            "pd.DataFrame(rows, columns=names)"
        )
    return frame


def check_known_names(argument: str, names: Iterable[str], columns: Sequence[str]) -> None:
    """Raise ValueError for names that are no columns, TypeError for what is no list of names."""
    unknown = [name for name in check_names(argument, names) if name not in columns]
    if unknown:
        raise ValueError(f"expected {argument} among the columns {list(columns)}, got {unknown}; correct their names")


def refuse_continuous(name: str, column: pd.Series, found: Distinct) -> None:
    """Raise ValueError for a column that is continuous or identifies its rows, unless its type is categorical.

    A column is continuous if it has more than 20 distinct fractional numbers, or more than five with hardly two rows for
    each; it identifies its rows if it has more than 20 distinct values of any type with hardly two rows for each.

    Raises:
        ValueError: with the number of distinct values.
    """
    if type(column.dtype) is pd.CategoricalDtype:
        return
    count, num_rows = len(found.values), len(found.labels)
    few_rows = count * FEW_ROWS_PER_LEVEL > num_rows
    fractional = any(_NUMBER.fullmatch(text) and not float(text).is_integer() for text in found.values)
    if (count > MANY_LEVELS and (fractional or few_rows)) or (fractional and few_rows and count > FEW_FRACTIONS):
        kind = "numbers" if fractional else "values"
        raise ValueError(
            f"expected a categorical column {name!r}, got {count} distinct {kind} in {num_rows} rows; cut it into intervals "
            f"with pd.cut, drop it, or, where each value is meant as a level, pass every_value=({name!r},)"
        )
