"""Rows of categorical variables as integer codes, and counts of their combinations."""

from collections.abc import Mapping, Sequence
from reprlib import repr
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.dag import refuse_duplicates
from probmodel.families.bayesian_networks.levels import (
    Distinct,
    check_known_names,
    distinct,
    label,
    named_columns,
    own_levels,
    refuse_continuous,
)
from probmodel.protocols.arguments.checks import check_contents
from probmodel.protocols.arguments.kinds import is_mapping


class CategoricalData(NamedTuple):
    """Rows of categorical variables.

    Args:
        levels: variable → the values it may have, in order.
        codes: (N, n) positions among those values; −1 for a missing one, which only some functions accept.
    """

    levels: Mapping[str, tuple[str, ...]]
    codes: Int[np.ndarray, "N n"]

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        levels: Mapping[str, Sequence[str]] | None = None,
        *,
        every_value: Sequence[str] = (),
    ) -> "CategoricalData":
        """Read the columns of a data frame; values are distinguished by their text, in which 1 and 1.0 are the same.

        >>> CategoricalData.of(pd.DataFrame({"dose": [10.0, 0.5, 2.0], "sex": ["m", "f", "f"]})).levels
        {'dose': ('0.5', '2', '10'), 'sex': ('f', 'm')}

        Args:
            frame: one row per observation, one named column per variable; or a mapping from names to columns.
            levels: variable → all its values; for None, or a variable that is not named, the categories of a
                categorical column, else the values that occur: numbers in numeric order, dates in order of time, text
                in alphabetic order.
            every_value: names of columns whose distinct values are all meant as levels, however many they are.

        Raises:
            TypeError: for rows without names of their columns, such as arrays and lists.
            ValueError: if values are missing, a value is not among the levels, a variable has fewer than two values, or
                so many that it is continuous or identifies the rows.
        """
        frame = named_columns(frame)
        missing = [str(name) for at, name in enumerate(frame) if frame.iloc[:, at].isna().any()]
        if missing:
            raise ValueError(
                f"expected no missing values, got some in {missing}; drop those rows, or read them by"
                " CategoricalData.with_missing, which queries, log_prob and EM accept and scores do not"
            )
        return cls.with_missing(frame, levels, every_value=every_value)

    @classmethod
    def with_missing(
        cls,
        frame: pd.DataFrame,
        levels: Mapping[str, Sequence[str]] | None = None,
        *,
        every_value: Sequence[str] = (),
    ) -> "CategoricalData":
        """Read the columns of a data frame with missing values: None, NaN or pandas' NA become −1.

        A variable that is never observed needs its levels named.

        Args:
            frame, levels, every_value: as in `of`.

        Raises:
            TypeError: for rows without names of their columns, such as arrays and lists.
            ValueError: if a value is not among the levels, a variable has fewer than two values or too many, names occur
                twice, or levels are of other names than the columns'.
        """
        frame, levels = named_columns(frame), _named_levels(levels)
        names = [str(name) for name in frame]
        _refuse_names(names, levels)
        check_known_names("every_value", every_value, names)
        columns = {name: frame.iloc[:, at] for at, name in enumerate(names)}
        values = {name: distinct(name, column) for name, column in columns.items()}
        for name in set(names) - set(levels) - set(every_value):
            refuse_continuous(name, columns[name], values[name])
        found = {name: levels.get(name) or own_levels(column, values[name]) for name, column in columns.items()}
        codes = np.full(frame.shape, -1, dtype=np.int64)
        for at, (name, column) in enumerate(columns.items()):
            codes[column.notna().to_numpy(), at] = _coded(name, values[name], found[name])
        return cls(found, codes)

    @property
    def num_missing(self) -> int:
        """Number of missing values."""
        return int((self.codes < 0).sum())

    @property
    def names(self) -> tuple[str, ...]:
        """The variables, in the order of the columns."""
        return tuple(self.levels)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of values of each variable."""
        return tuple(len(values) for values in self.levels.values())

    def ordered(self, names: Sequence[str]) -> "CategoricalData":
        """The data with some or all variables in another order, such as that of a graph's nodes.

        Raises:
            ValueError: if a variable is unknown or occurs twice.
        """
        _refuse_names(list(names), {})
        columns = [self.column(name) for name in names]
        return CategoricalData({name: self.levels[name] for name in names}, self.codes[:, columns])

    def frame(self) -> pd.DataFrame:
        """The rows as a data frame of categorical columns, whose categories are the levels; missing values are NaN.

        `of` and `with_missing` read it back with the same order of levels.

        Raises:
            ValueError: if codes are out of range.
        """
        check_codes(self)
        kinds = {name: pd.CategoricalDtype(list(values)) for name, values in self.levels.items()}
        columns = zip(kinds.items(), self.codes.T, strict=True)
        found = {name: pd.Categorical.from_codes(codes, dtype=kind) for (name, kind), codes in columns}
        return pd.DataFrame(found, index=range(len(self.codes)))

    def column(self, name: str) -> int:
        """Column of a variable.

        Raises:
            ValueError: if the variable is unknown.
        """
        if name not in self.levels:
            raise ValueError(
                f"expected one of the variables {sorted(self.levels)}, got {name!r}; pass one of these names"
            )
        return self.names.index(name)


def _named_levels(levels: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    if not (levels is None or is_mapping(levels)):
        raise TypeError(
            f"expected levels as a dict from names to values, got {type(levels).__name__}; pass {{'a': ['low', 'high']}}"
        )
    for name, values in (levels or {}).items():
        if type(values) is str or values is None:
            raise TypeError(
                f"expected all values of {name!r} as a list, got {values!r}; pass a list such as ['low', 'high']"
            )
    return {name: tuple(map(label, values)) for name, values in (levels or {}).items()}


def _refuse_names(names: Sequence[str], levels: Mapping[str, Sequence[str]]) -> None:
    refuse_duplicates(names)
    unknown, unnamed = sorted(set(levels) - set(names)), sorted(set(names) - set(levels))
    # Levels of more variables than there are columns are allowed, a misspelled name is not.
    if unknown and unnamed:
        raise ValueError(f"expected levels of the columns {unnamed}, got levels of {unknown}; correct their names")


def _coded(name: str, values: Distinct, levels: tuple[str, ...]) -> Int[np.ndarray, " N"]:
    unseen = sorted(set(values.values) - set(levels))
    if unseen:
        raise ValueError(
            f"expected values of {name!r} among {repr(list(levels))}, got {repr(unseen)}; add them to its levels"
        )
    if len(set(levels)) < len(levels):
        raise ValueError(f"expected different levels of {name!r}, got {list(levels)}; name each once")
    if len(levels) < 2:
        raise ValueError(f"expected two values of {name!r} or more, got {list(levels)}; drop it, or name its levels")
    return pd.Categorical(values.labels, categories=list(levels)).codes


def check_codes(data: CategoricalData) -> None:
    """Raise for codes that are no positions among the levels, −1 where missing, with one column per variable.

    Raises:
        TypeError: for codes that are no array, or levels that are no mapping.
        ValueError: for codes of a wrong shape, dtype or range, and for a value that occurs twice among the levels.
    """
    codes = data.codes
    if data.levels is None:
        raise TypeError("expected levels as a dict from names to values, got None; read a frame by CategoricalData.of")
    for name, values in _named_levels(data.levels).items():
        if len(set(values)) < len(values):
            raise ValueError(
                f"expected different values of {name!r}, got {list(values)}; give each value once, codes are their positions"
            )
    if type(codes) is not np.ndarray:
        raise TypeError(
            f"expected codes as a NumPy array of integers, got {type(codes).__name__}; pass np.array(codes), or read a "
            "frame by CategoricalData.of"
        )
    sizes = np.array(data.cardinalities, dtype=np.int64)
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"expected codes (N, {len(sizes)}) of integers, one column per variable, got {codes.shape} of {codes.dtype}; "
            "read the rows by CategoricalData.of"
        )
    bad = (codes < -1) | (codes >= sizes)
    outside = [name for name, column in zip(data.names, bad.T, strict=True) if column.any()]
    if outside:
        raise ValueError(
            f"expected codes from 0 to the number of levels − 1, or −1 where missing, got others in {outside}; read the "
            "rows by CategoricalData.of"
        )


@check_contents.register
def _(data: CategoricalData) -> None:
    check_codes(data)


def refuse_missing(data: CategoricalData) -> None:
    """Raise ValueError if values are missing or codes are out of range."""
    check_codes(data)
    missing = [name for name, column in zip(data.names, data.codes.T, strict=True) if (column < 0).any()]
    if missing:
        raise ValueError(
            f"expected no missing values, got some in {missing}; drop those rows, draw the values by `impute`, or fit a"
            " graph's tables by EM"
        )


class Counts(NamedTuple):
    """Counts of the values of a child and its parents; combinations of parents that never occur are left out.

    Args:
        table: (J, r) counts by combination of parents' values and value of the child.
        num_parent_states: q, the number of all combinations of parents' values, including those that never occur.
    """

    table: Float[np.ndarray, "J r"]
    num_parent_states: float


def counts(
    data: CategoricalData, child: int, parents: Sequence[int], rows: Int[np.ndarray, " M"] | None = None
) -> Counts:
    """Counts of the values of a child and its parents.

    Args:
        data: rows without missing values.
        child: column of the child.
        parents: columns of the parents.
        rows: positions of the rows to count; None for all.
    """
    codes = data.codes if rows is None else data.codes[rows]
    sizes = data.cardinalities
    label, used = np.zeros(len(codes), dtype=np.int64), 1
    for parent in parents:
        label, used = compact_labels(label * sizes[parent] + codes[:, parent], used * sizes[parent])
    table = np.bincount(label * sizes[child] + codes[:, child], minlength=used * sizes[child])
    return Counts(table.reshape(used, sizes[child]).astype(float), float(np.prod([float(sizes[p]) for p in parents])))


def compact_labels(label: Int[np.ndarray, " N"], size: int) -> tuple[Int[np.ndarray, " N"], int]:
    """Labels without gaps, so that combinations that never occur take no memory, and the number of distinct labels."""
    occurs = np.bincount(label, minlength=size) > 0
    return (np.cumsum(occurs) - 1)[label], int(occurs.sum())
