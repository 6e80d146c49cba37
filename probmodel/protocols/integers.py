"""Whole numbers in settings: Python's and NumPy's are taken; floats, truth values and text are refused (PEP 357)."""

from operator import index
from typing import Any

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""


def integer(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """The value as Python's int.

    >>> import numpy
    >>> integer("num_steps", numpy.int64(100))
    100
    >>> integer("num_steps", 100.0)
    Traceback (most recent call last):
    ValueError: expected num_steps to be an integer, 1 or more, got 100.0; pass num_steps=100

    Args:
        name: of the setting.
        value: what the caller gave.
        least, most: the range, both ends included; None for no upper end.

    Raises:
        ValueError: for anything that is no integer, or lies outside the range.
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


def checked_seed(value: Any) -> int:
    """A seed that every generator of random numbers takes.

    >>> checked_seed(7)
    7

    Raises:
        ValueError: for anything that is no integer, or lies outside 0 … 2³² − 1.
    """
    return integer("seed", value, least=0, most=LARGEST_SEED)


def _nearest(value: Any, least: int, most: int | None) -> int | None:
    """The caller's own number as it should have been; None where there is none to be read."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(number, least) if most is None else min(max(number, least), most)
