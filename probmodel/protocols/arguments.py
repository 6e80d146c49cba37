"""Checks of what a caller passes to a public function or settings, by its annotations, before anything runs.

Annotations say which kind of value is meant, and the name of a number what it may be: `num_…`, `…_features`, `…_channels`
and `…_size` count, `seed` and `level` mean the same everywhere.  Other ranges are checked by the function itself, the contents
of values that many functions take by `check_contents`.
"""

import collections.abc
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable
from functools import cache, partial, singledispatch, wraps
from operator import index
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import AbstractArray

from probmodel.protocols.integers import checked_seed, integer

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

SHOWN = 60
"""Largest number of characters of a wrong argument that a message shows."""

TEXT = (str, bytes)


class Kind(NamedTuple):
    """What an annotation admits.

    Args:
        admits: function that tells whether a value is of this kind.
        noun: name of the kind, for the message.
        remedy: what to pass instead, for the message.
        axes: names of the axes of an array, which have the same length in all arguments of a call.
    """

    admits: Callable[[Any], bool]
    noun: str
    remedy: str
    axes: tuple[str, ...] = ()


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


def check_call(function: Callable, args: tuple[Any, ...], kwargs: typing.Mapping[str, Any]) -> None:
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
            _check_range(name, each)
        if kinds[name].axes and value is not None:
            _check_lengths(name, value, kinds[name].axes, lengths)


def check_kind(name: str, value: Any, kind: Kind) -> None:
    """Raise TypeError for a value that is not of a kind; ValueError for what is nearly an integer, or has bad contents."""
    if not kind.admits(value):
        if kind.noun in ("an integer", "an integer or None"):
            integer(name, value, least=LEAST.get(name, 1 if COUNTED.fullmatch(name) else -sys.maxsize))
        raise TypeError(f"expected {name} as {kind.noun}, got {shown(value)}; {kind.remedy}")
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


COUNTED = re.compile(r"num_\w+|\w+_(features|channels|size)")
"""Names of integers that count something, and so are 1 or more."""

LEAST = {"max_parents": 0}
"""Least value of integers by other names."""


def _check_range(name: str, value: Any) -> None:
    """Raise ValueError for a number that its name forbids."""
    if not _is_number(value):
        return
    if name == "seed":
        checked_seed(value)
    elif COUNTED.fullmatch(name) and _is_integer(value):
        integer(name, value, least=LEAST.get(name, 1))
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


# ------------------------------------------------------------------------------------------ annotations


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


def kind_of(annotation: Any) -> Kind:
    """The kind of values that an annotation admits; `ANYTHING` where it is not known.

    Args:
        annotation: class, union, container, callable, or array annotation of jaxtyping.
    """
    if annotation in SCALARS:
        return SCALARS[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _any_of([kind_of(each) for each in inner])
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return Kind(callable, "a function", "pass a function, or an object that can be called")
    if origin is not None and issubclass(origin, collections.abc.Mapping):
        return _mapping([kind_of(each) for each in inner])
    if origin is not None and issubclass(origin, collections.abc.Iterable):
        return _several(origin, [kind_of(each) for each in inner if each is not ...])
    if origin is None and inspect.isclass(annotation):
        return _array(annotation) if issubclass(annotation, AbstractArray) else _instance(annotation)
    return ANYTHING


def _is_integer(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return type(value) not in (bool, np.bool_) and np.ndim(value) == 0


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float | np.floating)


def _is_text(value: Any) -> bool:
    return type(value) in (str, np.str_)


ANYTHING = Kind(lambda value: True, "anything", "")
SCALARS: dict[Any, Kind] = {
    int: Kind(_is_integer, "an integer", "pass an integer such as 1"),
    float: Kind(_is_number, "a number", "pass a number such as 0.5"),
    bool: Kind(lambda value: type(value) in (bool, np.bool_), "True or False", "pass True or False"),
    str: Kind(_is_text, "text", "pass text in quotes"),
    None: Kind(lambda value: value is None, "None", "pass None"),
    type(None): Kind(lambda value: value is None, "None", "pass None"),
    Any: ANYTHING,
    object: ANYTHING,
}
"""Kinds of single values."""

ADVICE: dict[str, str] = {
    "Dataset": "pass Dataset.of_rows(x, y=y)",
    "Posterior": "pass a fit, the result of an inference method such as SVI()(model, data, seed=0)",
    "Target": "pass target(model, data)",
    "Model": "pass a function or module that runs pyro.sample statements",
    "CategoricalData": "pass CategoricalData.of(frame)",
    "DAG": "pass a graph such as DAG.from_string('[a][b|a]')",
    "DiscreteNetwork": "pass a network, such as one of read_bif or posterior_mean",
    "Evidence": "pass the result of an estimator, such as evidence.best(fit)",
    "Tensor": "pass torch.as_tensor(array)",
    "ndarray": "pass numpy.array(values)",
    "dtype": "pass a dtype such as torch.float64",
    "Kernel": "pass a kernel of GPyTorch, such as gpytorch.kernels.RBFKernel()",
    "Path": "pass a path",
}
"""What to pass where a value of a class is wanted, by the name of the class."""


def _instance(cls: type) -> Kind:
    if cls is torch.Tensor:
        return Kind(_is_real, "a dense Tensor of real numbers", ADVICE["Tensor"])
    name = cls.__name__
    remedy = ADVICE.get(name, f"pass a value of {name}")
    article = "an" if name[0] in "AEIOU" else "a"
    return Kind(lambda value: isinstance(value, cls), f"{article} {name}", remedy)


def _is_real(value: Any) -> bool:
    return torch.is_tensor(value) and value.layout is torch.strided and not (value.is_complex() or value.is_meta)


def _array(annotation: Any) -> Kind:
    whole = _instance(annotation.array_type)
    axes = None if annotation.index_variadic is not None else len(annotation.dims)
    shape = f"({annotation.dim_str.replace(' ', ', ')})"
    noun = whole.noun.removesuffix(" of real numbers") + " of real numbers" + (f", {shape}" if axes is not None else "")

    def admits(value: Any) -> bool:
        if not whole.admits(value) or (axes is not None and value.ndim != axes):
            return False
        return type(value) is not np.ndarray or value.dtype.kind in "biuf"

    return Kind(admits, noun, whole.remedy, () if axes is None else tuple(annotation.dim_str.split()))


def _any_of(kinds: list[Kind]) -> Kind:
    if ANYTHING in kinds:
        return ANYTHING
    needed = [kind for kind in kinds if kind is not SCALARS[None]]
    nouns = [*(kind.noun for kind in needed), *(["None"] if len(needed) < len(kinds) else [])]
    remedies = [kind.remedy.removeprefix("pass ") for kind in needed]
    return Kind(
        lambda value: any(kind.admits(value) for kind in kinds),
        " or ".join(nouns),
        f"pass {', or '.join(remedies)}",
        needed[0].axes if len(needed) == 1 else (),
    )


def _mapping(kinds: list[Kind]) -> Kind:
    key, value = kinds or (ANYTHING, ANYTHING)
    nouns = f" from {_plural(key)} to {_plural(value)}" if kinds else ""

    def admits(found: Any) -> bool:
        if not isinstance(found, collections.abc.Mapping):
            return False
        # Other mappings may compute their values when asked.
        return all(map(key.admits, found)) and (type(found) is not dict or all(map(value.admits, found.values())))

    return Kind(admits, f"a dict{nouns}", "pass a dict such as {'name': value}")


def _several(origin: type, kinds: list[Kind]) -> Kind:
    fixed = origin is tuple and len(kinds) > 1
    element = ANYTHING if fixed or not kinds else kinds[0]
    wanted = collections.abc.Sequence if issubclass(origin, collections.abc.Sequence) else collections.abc.Iterable

    def admits(found: Any) -> bool:
        if type(found) in TEXT or not isinstance(found, wanted) or not np.iterable(found):
            return False
        if fixed:
            return len(found) == len(kinds) and all(map(lambda kind, each: kind.admits(each), kinds, found))
        # What can be read only once is left to the function.
        return element is ANYTHING or iter(found) is found or all(map(element.admits, found))

    noun = f"a tuple of {len(kinds)} values" if fixed else f"a list of {_plural(element)}"
    return Kind(admits, noun, f"pass {noun}")


def _plural(kind: Kind) -> str:
    if kind is ANYTHING:
        return "values"
    words = kind.noun.split(" or ")[0].split()
    noun = words[1] if words[0] in ("a", "an") else words[0]
    return {"text": "names", "True": "truth values"}.get(noun, noun if noun.endswith("s") else f"{noun}s")


def _name(function: Callable) -> str:
    return function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")


def _remedy_of_call(args: tuple[Any, ...], kinds: dict[str, Kind]) -> str:
    subject = next(iter(kinds.values()), ANYTHING).remedy
    if "target(model, data)" in subject and len(args) > 1:
        return subject
    return "pass each argument once, those after an asterisk by name"
