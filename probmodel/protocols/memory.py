"""How much memory a computation may take: a quarter of what is free, unless the caller says otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import psutil
import torch

from probmodel.protocols.integers import integer

MEMORY_FRACTION = 0.25
"""Of the free memory, for the intermediate tensors of one vectorized call."""

_STATED: ContextVar[int | None] = ContextVar("memory_budget", default=None)
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_DETAILS = Path("/sys/fs/cgroup/memory.stat")


@contextmanager
def memory_budget(num_bytes: int) -> Iterator[None]:
    """Within it, draws are split so that a vectorized call needs about `num_bytes`, and larger results are refused.

    With a seed, numbers are the same for every budget up to rounding: random numbers are drawn in blocks of a fixed size,
    at most 64 MiB on a CPU and 512 MiB elsewhere, which a smaller budget does not shrink.  Where a draw depends on
    another one (a gamma whose shape is drawn) such a block is evaluated at once; one draw always is.  Rounding may decide
    whether a Markov chain accepts a proposal.

    Args:
        num_bytes: of the intermediate tensors of one vectorized call.

    >>> with memory_budget(2**20):
    ...     budget(torch.device("cpu"))
    1048576

    Raises:
        ValueError: for a budget below one byte, or one that is no integer.
    """
    token = _STATED.set(integer("num_bytes", num_bytes))
    try:
        yield
    finally:
        _STATED.reset(token)


def budget(device: torch.device) -> int:
    """Bytes of intermediate tensors that one vectorized call may need: as stated, else a quarter of the free memory."""
    stated = _STATED.get()
    return max(1, int(MEMORY_FRACTION * free_bytes(device)) if stated is None else stated)


def free_bytes(device: torch.device) -> int:
    """What the device, or this process's container, has left."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    available = psutil.virtual_memory().available
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() and _USED.is_file() else "max"
    if limit == "max":
        return available
    # The container's page cache counts as used, and is given up on demand.
    lines = (line.split() for line in _DETAILS.read_text().splitlines()) if _DETAILS.is_file() else ()
    cached = next((int(number) for name, number in lines if name == "inactive_file"), 0)
    return max(0, min(available, int(limit) - int(_USED.read_text()) + cached))


def refuse_above_memory(needed: int, device: torch.device, what: str, instead: str) -> None:
    """Raise a MemoryError before anything is allocated that does not fit.

    Args:
        needed: bytes.
        device: where.
        what: the thing that needs them.
        instead: what to do.
    """
    stated = _STATED.get()
    free = free_bytes(device) if stated is None else stated
    if needed > free:
        kind = "free" if stated is None else "in the stated budget"
        raise MemoryError(f"expected at most {free:,} bytes {kind}, got {what}, which needs {needed:,}; {instead}")
