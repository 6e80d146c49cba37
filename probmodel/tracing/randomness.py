"""Random states and Pyro's parameter store: entered with a seed, left as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyro
import torch

from probmodel.protocols.integers import checked_seed


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Enter every random state and Pyro's parameter store with a seed, and leave all of them as they were.

    >>> before = torch.get_rng_state()
    >>> with isolated(seed=1):
    ...     _ = torch.randn(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    seed = checked_seed(seed)
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
def preserving_random_state() -> Iterator[None]:
    """Draws made within it leave PyTorch's random state as it was, for a look at a model beside its run."""
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        yield


def spawn(seed: int, branch: int) -> int:
    """A seed for one branch of a computation, unrelated to those of other branches and other seeds."""
    return int(np.random.SeedSequence([checked_seed(seed), branch]).generate_state(1)[0])
