"""Errors of a model's run: those about shapes in terms of the model and its data, and a caller's time-out as it is."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, singledispatch
from traceback import walk_tb
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch

from probmodel.protocols.dataset import Dataset

MACHINERY = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    ImportError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    subprocess.SubprocessError,
)
"""Errors that tracing and compiling raise where a model or a system does not suit them; any other one is the caller's."""


def raise_time_out(error: BaseException) -> None:
    """Raise a time-out of the caller again where it is the error, or what the error was made of.

    A time-out is a TimeoutError, and any exception that the handler of a signal has raised: it says nothing about the code
    that it stopped, so that no other code may be tried in place of that.
    """
    raise_if_raised_by(signal_handlers(), error, TimeoutError)


def raise_if_raised_by(handlers: frozenset[CodeType], error: BaseException, *kinds: type[BaseException]) -> None:
    """Raise an exception again that the handlers of signals have raised, or one of the kinds."""
    found, seen = error, set[int]()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        codes = {frame.f_code for frame, _ in walk_tb(found.__traceback__)}
        if issubclass(type(found), kinds) or codes & handlers:
            raise found
        found = found.__cause__ or found.__context__  # type: ignore[assignment]


def signal_handlers() -> frozenset[CodeType]:
    """Code of all functions that handle a signal."""
    found = (_code(signal.getsignal(number)) for number in signal.valid_signals())
    return frozenset(code for code in found if code is not None)


@singledispatch
def _code(handler: Any) -> CodeType | None:
    """Code that runs when a handler is called; None for one without Python code."""
    call = type(handler).__call__ if callable(handler) else None
    return _code(call) if type(call) is FunctionType else None


@_code.register
def _(handler: FunctionType) -> CodeType | None:
    return handler.__code__


@_code.register
def _(handler: MethodType) -> CodeType | None:
    return _code(handler.__func__)


@_code.register
def _(handler: partial) -> CodeType | None:
    return _code(handler.func)


@contextmanager
def translated_errors(data: Dataset) -> Iterator[None]:
    """Context for a call of a model: turns errors about wrong shapes or names into a ValueError that states them.

    Raises:
        ValueError: in place of an error of PyTorch or Python; errors that say what was expected pass.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError, ArithmeticError) as error:
        raise_time_out(error)
        if str(error).startswith("expected ") and ", got " in str(error):  # Stated in these terms already.
            raise
        devices = sorted({str(t.device) for t in data.tensors()})
        first = (str(error).strip() or "no message").split("\nTrace Shapes")[0]
        raise ValueError(
            f"expected a model that runs on its data, got {type(error).__name__}: {first}; check names, shapes and "
            f"dtypes of the data, {data.shapes()} on {' and '.join(devices) or 'no device'}, against the model's arguments and "
            "sites"
        ) from error
