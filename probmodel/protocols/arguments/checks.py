"""Checks of what a caller passes to a public function or settings, by its annotations, before anything runs.

Annotations say which kind of value is meant, and the name of a number what it may be: `num_…`, `…_features`, `…_channels`
and `…_size` count, `seed` and `level` mean the same everywhere.  Other ranges are checked by the function itself, the contents
of values that many functions take by `check_contents`.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial, singledispatch, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch

from probmodel.protocols.arguments.kinds import ANYTHING, Kind, is_number, kind_of
from probmodel.protocols.integers import checked_seed, integer

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

SHOWN = 60
"""Largest number of characters of a wrong argument that a message shows."""


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which refuses arguments that are not of the kind that its annotations state.

    >>> @checks_arguments
    ... def tail(level: float) -> float:
    ...     return 1 - level
    >>> tail("a")
    Traceback (most recent call last):
    TypeError: expected level as a number, got 'a' (str); pass a number such as 0.5

    Raises:
        TypeError: for arguments of another kind, too many, too few, or of unknown names.
        ValueError: for a number that is not an integer where one is needed, and for invalid contents of a value.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_call(function, args, kwargs)
        return function(*args, **kwargs)

    checked.__wrapped__ = inspect.unwrap(function)
    return checked


def checks_fields(settings: C) -> C:
    """The class of settings, whose constructor refuses arguments that are not of the kind that its fields state.

    Raises:
        TypeError, ValueError: as from `checks_arguments`, on construction.
    """
    settings.__init__ = checks_arguments(settings.__init__)  # type: ignore[misc]
    return settings


def unchecked(function: Callable[..., R]) -> Callable[..., R]:
    """A function without its checks of arguments, for loops whose arguments are known to be good; others as they are."""
    call = function if inspect.isroutine(function) else type(function).__call__
    inner = vars(call).get("__wrapped__", call)
    return inner if call is function else partial(inner, function)


def check_call(function: Callable, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise for arguments of a call that are not of the kind that the function's annotations state."""
    signature, kinds = _form(inspect.unwrap(function))
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        shown = [name for name in signature.parameters if name != "self"]
        count = len(args) - ("self" in signature.parameters)
        raise TypeError(
            f"expected the arguments {', '.join(shown)} of {_name(function)}, got {count} by position and {list(kwargs)} "
            f"by name ({error}); {_remedy_of_call(args, kinds)}"
        ) from None
    lengths: dict[str, tuple[int, str]] = {}
    for name, value in bound.items():
        if name not in kinds:
            continue
        parameter = signature.parameters[name]
        for each in value if parameter.kind is inspect.Parameter.VAR_POSITIONAL else (value,):
            check_kind(name, each, kinds[name])
            _check_range(name, each, parameter.default, is_count=kinds[name].noun.startswith("an integer"))
        if kinds[name].axes and value is not None:
            _check_lengths(name, value, kinds[name].axes, lengths)


def check_kind(name: str, value: Any, kind: Kind) -> None:
    """Raise TypeError for a value that is not of a kind; ValueError for what is nearly an integer, or has bad contents."""
    if not kind.admits(value):
        if kind.noun in ("an integer", "an integer or None"):
            integer(name, value, least=1 if COUNTED.fullmatch(name) or WIDTHS.fullmatch(name) else -sys.maxsize)
        raise TypeError(f"expected {name} as {kind.noun}, got {shown(value)}; {kind.remedy}")
    if kind.num_axes is not None and value is not None and np.ndim(value) != kind.num_axes:
        raise ValueError(
            f"expected {name} as {kind.noun}, got shape {tuple(np.shape(value))}; reshape it to {kind.num_axes} axes"
        )
    check_contents(value)


def _check_lengths(name: str, value: Any, axes: tuple[str, ...], lengths: dict[str, tuple[int, str]]) -> None:
    """Raise ValueError where an axis has another length than the axis of the same name of an argument before."""
    for axis, length in zip(axes, np.shape(value), strict=False):
        known, other = lengths.setdefault(axis, (length, name)) if axis.isidentifier() else (length, name)
        if axis != "_" and known != length:
            raise ValueError(
                f"expected {name} of shape ({', '.join(axes)}) with {axis} = {known} as in {other}, got shape "
                f"{tuple(np.shape(value))}; pass arrays of the same {axis}"
            )


COUNTED = re.compile(r"(num|max)_\w+")
"""Names of integers that count something; whether there may be none is up to the function."""

WIDTHS = re.compile(r"(\w+_)?(features|channels|size)|num_(samples|chains|groups|proposals|live)|max_chains")
"""Names of integers that are 1 or more."""

OWN_RANGE = ("num_rows",)
"""Names of integers whose range depends on the other arguments, and is checked by the function."""


def _check_range(name: str, value: Any, default: Any, *, is_count: bool) -> None:
    """Raise ValueError for a number that its name forbids; a default below 1 shows that fewer are meant to be allowed."""
    if not is_number(value):
        return
    if name == "seed":
        checked_seed(value)
    elif is_count and name not in OWN_RANGE:
        is_positive = WIDTHS.fullmatch(name) or (default is None and name.startswith("num_"))
        lacks = value < 1 if is_positive else value < 0 and COUNTED.fullmatch(name)
        if lacks and not (type(default) is int and default <= value):
            integer(name, value)
    elif name == "level" and not 0 < value < 1:
        raise ValueError(f"expected a level between 0 and 1, got {value}; 0.95 is usual")
    elif name in ("tolerance", "precision") and not 0 <= value < np.inf:
        raise ValueError(f"expected {name} as a finite number, 0 or more, got {value}; leave it out for the default")


@singledispatch
def check_contents(value: object) -> None:
    """Raise for invalid contents of a value that many functions take; rooms register their own types."""


def shown(value: Any) -> str:
    """A value in a message: its shape where it is an array, its type beside it where that may be in doubt."""
    if type(value) in (np.ndarray, torch.Tensor):
        return (
            f"{'an array' if type(value) is np.ndarray else 'a tensor'} of {value.dtype} and shape {tuple(value.shape)}"
        )
    if value is None:
        return "None"
    text = " ".join(repr(value).split()) if type(value) in PLAIN else ""
    return f"{text[:SHOWN]} ({type(value).__name__})" if text else type(value).__name__


PLAIN = (int, float, bool, str, bytes, list, tuple, dict, complex)
"""Types whose text is worth showing."""


# ------------------------------------------------------------------------------------------ signatures


class _Form(NamedTuple):
    """Parameters of a function, and the kind of each that is annotated."""

    signature: inspect.Signature
    kinds: dict[str, Kind]


@cache
def _form(function: Callable) -> _Form:
    signature = inspect.signature(function)
    hints = {name: each.annotation for name, each in signature.parameters.items()}
    kinds = {name: kind_of(hint) for name, hint in hints.items() if hint is not inspect.Parameter.empty}
    return _Form(signature, {name: kind for name, kind in kinds.items() if kind is not ANYTHING})


def _name(function: Callable) -> str:
    return function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")


def _remedy_of_call(args: tuple[Any, ...], kinds: dict[str, Kind]) -> str:
    subject = next(iter(kinds.values()), ANYTHING).remedy
    if "target(model, data)" in subject and len(args) > 1:
        return subject
    return "pass each argument once, those after an asterisk by name"
