"""Validation of integer settings: Python's and NumPy's integers pass; floats, booleans and strings fail (PEP 357)."""

from operator import attrgetter, index
from typing import Any

import numpy as np

LARGEST_SEED = 2**32 - 1
"""Largest seed that NumPy accepts."""


def integer(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """The value as a Python int within a range.

    >>> import numpy
    >>> integer("num_steps", numpy.int64(100))
    100
    >>> integer("num_steps", 100.0)
    Traceback (most recent call last):
    ValueError: expected num_steps to be an integer, 1 or more, got 100.0; pass num_steps=100

    Args:
        name: name of the setting, for the message.
        value: value that the caller passed.
        least, most: smallest and largest valid value; None for no upper limit.

    Raises:
        ValueError: for a value that is not an integer or lies outside the range.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is not None and number >= least and (most is None or number <= most):
        return number
    span = f"{least} or more" if most is None else f"{least} to {most}"
    nearest = _nearest(value, least, most)
    remedy = "pass an integer" if nearest is None else f"pass {name}={nearest}"
    raise ValueError(f"expected {name} to be an integer, {span}, got {value!r}; {remedy}")


def integers(name: str, values: Any, *, least: int = 1) -> tuple[int, ...]:
    """Several integers, such as widths of layers, as a tuple of Python ints.

    >>> integers("hidden", [64, 32])
    (64, 32)
    >>> integers("hidden", 64)
    Traceback (most recent call last):
    TypeError: expected hidden as a tuple of integers, got 64; pass hidden=(64,)

    Args:
        name: name of the setting, for the message.
        values: values that the caller passed.
        least: smallest valid value of each.

    Raises:
        TypeError: for one value in place of several.
        ValueError: for a value that is not an integer or too small.
    """
    if type(values) in (str, bytes) or not np.iterable(values):
        single = f"{name}=({values!r},)" if type(values) is int else f"a tuple such as {name}=(32,)"
        raise TypeError(f"expected {name} as a tuple of integers, got {values!r}; pass {single}")
    return tuple(integer(f"{name}[{at}]", value, least=least) for at, value in enumerate(values))


def check_counts(settings: object, *names: str, optional: tuple[str, ...] = ()) -> None:
    """Raise ValueError where a setting that counts is no integer of 1 or more; an optional one may be None.

    Args:
        settings: value whose attributes are checked.
        names: attributes that hold counts.
        optional: attributes that hold counts or None.
    """
    for name in (*names, *optional):
        value = attrgetter(name)(settings)
        if value is not None or name in names:
            integer(name, value)


def checked_seed(value: Any) -> int:
    """A seed in the range that all random number generators accept.

    >>> checked_seed(7)
    7

    Raises:
        ValueError: for a value that is not an integer or lies outside 0 … 2³² − 1.
    """
    return integer("seed", value, least=0, most=LARGEST_SEED)


def _nearest(value: Any, least: int, most: int | None) -> int | None:
    """The valid integer nearest to the caller's value; None where the value cannot be read as a number."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(number, least) if most is None else min(max(number, least), most)
