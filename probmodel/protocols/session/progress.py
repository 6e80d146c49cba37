"""Progress of long computations: a bar on a terminal or in a notebook, a few lines in a file, nothing below a second."""

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tqdm.auto import tqdm

P = ParamSpec("P")
R = TypeVar("R")

DELAY, INTERVAL = 1.0, 10.0
"""Seconds before anything is shown, and between the lines of a file."""


Bar = Any
"""A bar of tqdm, or `Lines`."""


class Lines:
    """Progress as lines of a file: one every ten seconds, and one at the end.

    Args:
        name: name of the computation.
        total: number of its steps, if known.
        file: open file, to which they are printed.
        clock: function that returns the time in seconds.
    """

    def __init__(self, name: str, total: int | None, file: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.total, self.file, self.clock = name, total, file, clock
        self.n, self.text, self.begin = 0, "", clock()
        self.last = self.begin

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        if self.clock() - self.begin > DELAY:
            self._write("stopped" if error[0] is not None else "done")

    def update(self, n: int = 1) -> None:
        """Count steps that are done, and write a line where the last one is ten seconds old."""
        self.n += n
        if self.clock() - self.last > INTERVAL:
            self._write(self.text)

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Say what is being computed."""
        self.text = s
        self.update(0)

    def refresh(self) -> None:
        """Nothing: lines are not rewritten."""

    def _write(self, text: str) -> None:
        self.last = self.clock()
        steps = f"{self.n:,}" if self.total is None else f"{self.n:,} of {self.total:,}"
        seconds = f"{self.last - self.begin:.0f} s"
        counted = f"{steps} steps" if self.n else ""
        # A file that cannot be written must not end the computation.
        with suppress(OSError, ValueError):
            print(f"{self.name}: " + ", ".join(filter(None, (counted, seconds, text))), file=self.file, flush=True)


def progress_bar(name: str, total: int | None, *, shown: bool) -> Bar:
    """A bar on a terminal or in a notebook, lines in a file, or nothing.

    Args:
        name: name of the computation.
        total: number of its steps, if known.
        shown: whether to show anything.
    """
    file = sys.stderr
    usable = file is not None and not file.closed
    if shown and usable and not file.isatty() and "ipykernel" not in sys.modules:
        return Lines(name, total, file)
    return tqdm(total=total, desc=name, disable=not (shown and usable), mininterval=0.5, delay=DELAY)


_current: ContextVar[Bar | None] = ContextVar("progress", default=None)


@contextmanager
def shown_progress(name: str, *, shown: bool) -> Iterator[None]:
    """Context in which `tick` and `stage` report to a bar; inside another such context they report to that one."""
    if _current.get() is not None:
        stage(name)
        yield
        return
    with progress_bar(name, None, shown=shown) as bar:
        token = _current.set(bar)
        try:
            yield
        finally:
            _current.reset(token)


def tick() -> None:
    """Count one step of the computation that is shown, if any."""
    bar = _current.get()
    if bar is not None:
        bar.update()


def stage(text: str) -> None:
    """Say what is being computed."""
    bar = _current.get()
    if bar is not None:
        bar.set_postfix_str(text, refresh=False)


def shows_progress(function: Callable[P, R]) -> Callable[P, R]:
    """The function, which shows its progress where its argument `progress` is true.

    >>> @shows_progress
    ... def count(number: int, *, progress: bool = True) -> int:
    ...     for _ in range(number):
    ...         tick()
    ...     return number
    >>> count(3, progress=False)
    3
    """
    default = inspect.signature(function).parameters["progress"].default

    @wraps(function)
    def showing(*args: P.args, **kwargs: P.kwargs) -> R:
        with shown_progress(function.__name__, shown=bool(kwargs.get("progress", default))):
            return function(*args, **kwargs)

    return showing
