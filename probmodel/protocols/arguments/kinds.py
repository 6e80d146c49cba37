"""The kind of values that an annotation admits: its test, its name in a message, and what to pass instead."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import AbstractArray

TEXT = (str, bytes)


class Kind(NamedTuple):
    """What an annotation admits.

    Args:
        admits: function that tells whether a value is of this kind.
        noun: name of the kind, for the message.
        remedy: what to pass instead, for the message.
        axes: names of the axes of an array, which have the same length in all arguments of a call.
        num_axes: number of axes of an array; None where any will do.
    """

    admits: Callable[[Any], bool]
    noun: str
    remedy: str
    axes: tuple[str, ...] = ()
    num_axes: int | None = None


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


def is_mapping(value: Any) -> bool:
    """Return whether a value is a dict or another mapping."""
    return isinstance(value, collections.abc.Mapping)


def is_integer(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return type(value) not in (bool, np.bool_) and np.ndim(value) == 0


def is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, float | np.floating)


def _is_text(value: Any) -> bool:
    return type(value) in (str, np.str_)


ANYTHING = Kind(lambda value: True, "anything", "")
SCALARS: dict[Any, Kind] = {
    int: Kind(is_integer, "an integer", "pass an integer such as 1"),
    float: Kind(is_number, "a number", "pass a number such as 0.5"),
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
    if cls is np.ndarray:
        return Kind(_is_numeric, "an array of real numbers", ADVICE["ndarray"])
    name = cls.__name__
    remedy = ADVICE.get(name, f"pass a value of {name}")
    article = "an" if name[0] in "AEIOU" else "a"
    return Kind(lambda value: isinstance(value, cls), f"{article} {name}", remedy)


def _is_numeric(value: Any) -> bool:
    return type(value) is np.ndarray and value.dtype.kind in "biuf"


def _is_real(value: Any) -> bool:
    return torch.is_tensor(value) and value.layout is torch.strided and not (value.is_complex() or value.is_meta)


def _array(annotation: Any) -> Kind:
    whole = _instance(annotation.array_type)
    axes = None if annotation.index_variadic is not None else len(annotation.dims)
    shape = f"({annotation.dim_str.replace(' ', ', ')})"
    noun = whole.noun.removesuffix(" of real numbers") + " of real numbers" + (f", {shape}" if axes is not None else "")

    return Kind(whole.admits, noun, whole.remedy, () if axes is None else tuple(annotation.dim_str.split()), axes)


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
        *(needed[0][3:] if len(needed) == 1 else ()),
    )


def _mapping(kinds: list[Kind]) -> Kind:
    key, value = kinds or (ANYTHING, ANYTHING)
    nouns = f" from {_plural(key)} to {_plural(value)}" if kinds else ""

    def admits(found: Any) -> bool:
        if not is_mapping(found):
            return False
        # Other mappings may compute their values when asked.
        return all(map(key.admits, found)) and (type(found) is not dict or all(map(value.admits, found.values())))

    example = {"a Posterior": "fit"}.get(value.noun, "value")
    return Kind(admits, f"a dict{nouns}", f"pass a dict such as {{'name': {example}}}")


def _several(origin: type, kinds: list[Kind]) -> Kind:
    fixed = origin is tuple and len(kinds) > 1
    element = ANYTHING if fixed or not kinds else kinds[0]
    wanted = _instance(
        collections.abc.Sequence if issubclass(origin, collections.abc.Sequence) else collections.abc.Iterable
    )

    def admits(found: Any) -> bool:
        if type(found) in TEXT:  # Names of one letter each may be written as one text.
            return element is SCALARS[str] and type(found) is str
        if not wanted.admits(found) or not np.iterable(found):
            return False
        if fixed:
            values = list(found)
            return len(values) == len(kinds) and all(map(lambda kind, each: kind.admits(each), kinds, values))
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
