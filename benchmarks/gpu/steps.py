"""Milliseconds per SVI step on the device: ours beside Pyro's and hand-written PyTorch's."""

from collections.abc import Iterator

import numpy as np

from benchmarks.rows import Row, row
from benchmarks.speed import with_pyro
from benchmarks.speed.hand_written import vae_step_fused
from benchmarks.speed.models import Contender, SVIProblem
from benchmarks.speed.svi import ours
from benchmarks.speed.turns import faster, slower, turns

PYRO_STEPS = 10.0
"""Smallest ratio allowed of the time per step of Pyro to ours."""
HAND_WRITTEN = 1 / 0.9
"""Largest ratio allowed of our time per step to the hand-written one: 90 % of its steps per second."""


def step_rows(problem: SVIProblem, rounds: int) -> Iterator[Row]:
    """Rows of milliseconds per step, and ratios of ours to those of the others."""
    contenders = [Contender("ours", ours(problem, "cuda")), Contender("Pyro", with_pyro.svi(problem, "cuda"))]
    if not problem.small:
        contenders.append(Contender("hand-written, fused Adam", vae_step_fused(problem, device="cuda")))
    seconds = turns(contenders, rounds)
    task = f"GPU SVI {problem.name}"
    for name, each in seconds.items():
        yield row(f"{task}: {name}", 1e3 * float(np.median(each)), "ms per step")
    yield faster(task, "ours", "Pyro", seconds, PYRO_STEPS)
    for other in list(seconds)[2:]:
        yield slower(task, "ours", other, seconds, HAND_WRITTEN)
