"""Memory budget of vectorized calls: a quarter of the free memory unless the caller states another."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import psutil
import torch

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import integer

MEMORY_FRACTION = 0.25
"""Fraction of the free memory that the intermediate tensors of one vectorized call may take."""

_STATED: ContextVar[int | None] = ContextVar("memory_budget", default=None)
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
_DETAILS = Path("/sys/fs/cgroup/memory.stat")


@checks_arguments
@contextmanager
def memory_budget(num_bytes: int) -> Iterator[None]:
    """Context in which draws are split so that a vectorized call needs about `num_bytes`; larger results are refused.

    With a seed, results are the same for every budget up to rounding errors: random numbers are drawn in blocks of a
    fixed size, at most 64 MiB on a CPU and 512 MiB elsewhere, which a smaller budget does not shrink.  Where a draw
    depends on another one (a gamma whose shape is drawn) such a block is evaluated at once; a single draw always is.
    Rounding errors may decide whether a Markov chain accepts a proposal.

    Args:
        num_bytes: memory of the intermediate tensors of one vectorized call, in bytes.

    >>> with memory_budget(2**20):
    ...     budget(torch.device("cpu"))
    1048576

    Raises:
        ValueError: for a budget below one byte, or one that is not an integer.
    """
    token = _STATED.set(integer("num_bytes", num_bytes))
    try:
        yield
    finally:
        _STATED.reset(token)


def budget(device: torch.device) -> int:
    """Bytes that the intermediate tensors of one vectorized call may need: as stated, else a quarter of the free memory."""
    stated = _STATED.get()
    return max(1, int(MEMORY_FRACTION * free_bytes(device)) if stated is None else stated)


def free_bytes(device: torch.device) -> int:
    """Free memory of the device, or of this process's container, in bytes."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    available = psutil.virtual_memory().available
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() and _USED.is_file() else "max"
    if limit == "max":
        return available
    # The container's page cache counts as used although it is released on demand.
    lines = (line.split() for line in _DETAILS.read_text().splitlines()) if _DETAILS.is_file() else ()
    cached = next((int(number) for name, number in lines if name == "inactive_file"), 0)
    return max(0, min(available, int(limit) - int(_USED.read_text()) + cached))


def refuse_above_memory(needed: int, device: torch.device, description: str, remedy: str) -> None:
    """Raise a MemoryError before a tensor that does not fit is allocated.

    Args:
        needed: memory that it needs, in bytes.
        device: device that would hold it.
        description: what needs it, for the message.
        remedy: what to do instead, for the message.

    Raises:
        MemoryError: where more is needed than is free, or than the stated budget.
    """
    stated = _STATED.get()
    free = free_bytes(device) if stated is None else stated
    if needed > free:
        kind = "free" if stated is None else "in the stated budget"
        raise MemoryError(
            f"expected at most {free:,} bytes {kind}, got {description}, which needs {needed:,}; {remedy}"
        )
