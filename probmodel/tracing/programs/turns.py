"""Turns of threads: those that run models follow one another, since handlers and random states belong to the process."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

CHECK_SECONDS = 1.0
"""Time between two looks at the thread whose turn it is, in seconds."""
IDLE_SECONDS = 120.0
"""Time without work of the thread whose turn it is after which another one no longer waits for it, in seconds.

A compiler that runs in a process of its own takes a quarter of this.
"""
BUSY = 0.01
"""Fraction of its time above which a thread is at work, which one that only looks for the end of others is not."""


class Turns:
    """A reentrant lock whose waiting threads can be interrupted and never wait for a thread that has ended or is idle.

    A turn is held by tokens: whoever holds one may give it back from any thread, so that a generator that is closed
    elsewhere ends its turn.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.tokens: list[object] = []
        self.owner = _this_thread()

    def renew(self) -> None:
        """Forget the turns of other threads, which do not exist in a process that was forked meanwhile."""
        self.changed = threading.Condition(threading.Lock())
        here = self.owner.identity == threading.get_ident()
        self.tokens = self.tokens if here else []
        self.owner = _this_thread()

    def take(self, token: object) -> None:
        """Wait for this thread's turn and hold it with a token.

        Raises:
            RuntimeError: where the thread whose turn it is waits for something else without end.
        """
        mine = _this_thread()
        with self.changed:
            watch = _Watch(self.owner)
            while self.tokens and self.owner != mine:
                if watch.ended(self.owner):
                    self.tokens = []
                else:
                    self.changed.wait(CHECK_SECONDS)
            self.owner = mine
            self.tokens.append(token)

    def give_back(self, token: object) -> None:
        """End the turn that a token holds, if it holds one."""
        with self.changed:
            self.tokens = [each for each in self.tokens if each is not token]
            self.changed.notify_all()


class _Thread(NamedTuple):
    identity: int
    number: int
    """Number that the operating system has given it."""


def _this_thread() -> _Thread:
    return _Thread(threading.get_ident(), threading.get_native_id())


class _Watch:
    """What a waiting thread has seen of the one whose turn it is."""

    def __init__(self, owner: _Thread) -> None:
        self._start(owner)

    def _start(self, owner: _Thread) -> None:
        self.owner, self.since, self.spent = owner, time.monotonic(), _processor_seconds(owner.number)

    def ended(self, owner: _Thread) -> bool:
        """Return whether the thread whose turn it is has ended.

        Raises:
            RuntimeError: where it has long been idle.
        """
        if owner.identity not in sys._current_frames():
            return True
        seconds = time.monotonic() - self.since
        worked = _processor_seconds(owner.number) - self.spent
        if owner != self.owner or worked > BUSY * seconds:
            self._start(owner)
        elif seconds > IDLE_SECONDS:
            raise RuntimeError(
                f"expected the thread that runs a model to go on, got none of its work for {IDLE_SECONDS:.0f} seconds; do "
                "not wait for other threads inside pb.isolated, or fit in processes in place of threads"
            )
        return False


def _processor_seconds(thread: int) -> float:
    """Processor time of a thread; where the system does not tell it, the clock's, so that it never counts as idle."""
    file = Path(f"/proc/self/task/{thread}/stat")
    try:
        user, system = file.read_text().rpartition(")")[2].split()[11:13]
    except (OSError, ValueError):  # No such file: another system, or a thread that has just ended.
        return time.monotonic()
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


_TURNS = Turns()
os.register_at_fork(after_in_child=_TURNS.renew)


@contextmanager
def one_thread_at_a_time() -> Iterator[None]:
    """Context that one thread is in at a time; a thread that is inside may enter it again."""
    token = object()
    try:
        _TURNS.take(token)
        yield
    finally:
        _TURNS.give_back(token)
