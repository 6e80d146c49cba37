"""Contexts that seed the random states, fix the order of sums, isolate what belongs to the process, and restore it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import checked_seed
from probmodel.tracing.internals import set_validation, validation
from probmodel.tracing.programs.turns import one_thread_at_a_time


@checks_arguments
@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Context with all random states seeded and an empty parameter store of Pyro; all are restored on exit.

    So are the switches of Pyro and PyTorch that turn the checks of distributions on and off.  All of these, and Pyro's
    handlers, belong to the process, so that the context is entered by one thread at a time and others wait for it; a
    thread that is inside may enter it again.  To fit side by side, use processes.

    Raises:
        RuntimeError: in a thread that waits for one that has not worked for two minutes, as where that one waits for the
            threads it has started.

    >>> before = torch.get_rng_state()
    >>> with isolated(seed=1):
    ...     _ = torch.randn(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    seed = checked_seed(seed)
    with one_thread_at_a_time(), preserving_validation():
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - saved and restored
        devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        with (
            torch.random.fork_rng(devices),
            pyro.get_param_store().scope(),
            pyro.settings.context(module_local_params=True),
        ):
            try:
                pyro.set_rng_seed(seed)
                yield
            finally:
                random.setstate(python_state)
                np.random.set_state(numpy_state)  # noqa: NPY002


@contextmanager
def preserving_validation() -> Iterator[None]:
    """Context that restores whether Pyro and PyTorch check the arguments of distributions.

    Pyro's own context sets PyTorch's switch to what Pyro believes it to be, and some packages clear it when imported.
    """
    before = validation()
    try:
        yield
    finally:
        set_validation(before)


@contextmanager
def preserving_random_state() -> Iterator[None]:
    """Context that leaves PyTorch's random state unchanged, for runs that inspect a model without affecting its fit."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield


@contextmanager
def single_thread() -> Iterator[None]:
    """Context in which PyTorch's operators run in one thread.

    The order in which threads add partial sums changes rounding errors, which a long descent amplifies: what runs here gives
    the same bits whatever the number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spawn(seed: int, branch: int) -> int:
    """A seed for one branch of a computation, independent of those of other branches and other seeds."""
    return int(np.random.SeedSequence([checked_seed(seed), branch]).generate_state(1)[0])
