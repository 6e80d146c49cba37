"""Timing of contenders that take turns (A B A B …): a ratio is the median over neighboring turns, so that load affects both."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from benchmarks.rows import Row, row
from benchmarks.speed.models import Contender, Run

TURN_SECONDS = 0.4
"""Approximate seconds that a contender runs before the turn of the next."""


def built(name: str, threads: int, build: Callable[[], Run]) -> Contender:
    """Build a contender under the number of threads it will run with, which Inductor writes into its code."""
    torch.set_num_threads(threads)
    return Contender(f"{name}, {threads} thread{'s' if threads > 1 else ''}", build(), threads)


def turns(contenders: Sequence[Contender], rounds: int, seconds: float = TURN_SECONDS) -> dict[str, list[float]]:
    """Seconds per step of each contender in each round, all taking turns; the first run of each, which compiles, is left out."""
    steps = {}
    for each in contenders:
        torch.set_num_threads(each.threads)
        each.run(each.chunk)
        begin = time.perf_counter()
        each.run(each.chunk)
        steps[each.name] = each.chunk * max(1, round(seconds / (time.perf_counter() - begin)))
    found: dict[str, list[float]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            torch.set_num_threads(each.threads)
            begin = time.perf_counter()
            each.run(steps[each.name])
            found[each.name].append((time.perf_counter() - begin) / steps[each.name])
    return found


def fastest(contenders: Sequence[Contender], rounds: int = 3) -> Contender:
    """Contender with the smallest median time per step in a short run."""
    if len(contenders) == 1:
        return contenders[0]
    seconds = turns(contenders, rounds, 0.2)
    return min(contenders, key=lambda each: float(np.median(seconds[each.name])))


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of the ratios of neighboring turns."""
    return float(np.median(np.asarray(a) / np.asarray(b)))


def slower(task: str, mine: str, other: str, seconds: Mapping[str, list[float]], at_most: float) -> Row:
    """Row with our seconds per step over those of another contender."""
    return _beside(
        task, mine, other, seconds, ratio(seconds[mine], seconds[other]), "times their time", at_most=at_most
    )


def faster(task: str, mine: str, other: str, seconds: Mapping[str, list[float]], at_least: float) -> Row:
    """Row with the seconds per step of another contender over ours."""
    return _beside(task, mine, other, seconds, ratio(seconds[other], seconds[mine]), "times faster", at_least=at_least)


def _beside(
    task: str, mine: str, other: str, seconds: Mapping[str, list[float]], value: float, unit: str, **bound: float
) -> Row:
    return row(
        f"{task}: {mine} against {other}",
        value,
        unit,
        reference=float(np.median(seconds[other])),
        seconds=float(np.median(seconds[mine])),
        source=f"{other}, seconds per step; median of {len(seconds[mine])} ratios of neighboring turns",
        **bound,
    )
