"""Measurements that need a new process: seconds to the first steps of a compiled fit, and the peak memory of a step."""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import probmodel as pb
from benchmarks.rows import ROOT, Row, row
from benchmarks.speed.hand_written import vae_step_in_graph
from benchmarks.speed.models import SVI_PROBLEMS, Run, SVIProblem
from benchmarks.speed.svi import ours

FIRST_STEP, WARM_STEP = 20.0, 3.0
"""Largest seconds allowed without and with compiled code kept by an earlier process."""
MEMORY = 1.2
"""Largest ratio allowed of our bytes to those of the hand-written step."""
IMPORT = 2.0
"""Most seconds of the processor allowed for `import probmodel` beyond those of PyTorch and Pyro."""
STEPS = 3
"""Steps whose memory is measured."""
HIGH_WATER = Path("/proc/self/clear_refs")
"""File of Linux that resets the high-water mark of memory."""


def first_step_rows(names: Sequence[str]) -> Iterator[Row]:
    """Seconds to the first steps of a compiled fit in a new process, without and then with compiled code of an earlier one."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for label, bound in (("first process", FIRST_STEP), ("second process", WARM_STEP)):
                seconds = _in_new_process("compile", name, TORCHINDUCTOR_CACHE_DIR=folder)["seconds"]
                source = "required; imports not counted"
                task = f"first step {name}, {label}"
                yield row(task, seconds, "s", reference=bound, at_most=bound, seconds=seconds, source=source)


def import_rows(*, rounds: int) -> Iterator[Row]:
    """Processor seconds of `import probmodel` in a new process, after PyTorch and Pyro are imported: median over rounds."""
    code = "import time, torch, pyro; begin = time.process_time(); import probmodel; print(time.process_time() - begin)"
    spent = [float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)) for _ in range(rounds)]
    yield row(
        "import",
        float(np.median(spent)),
        "s",
        reference=IMPORT,
        at_most=IMPORT,
        source="required; PyTorch and Pyro not counted",
    )


def memory_rows(names: Sequence[str]) -> Iterator[Row]:
    """Peak memory of our step over that of the hand-written step, each in its own process."""
    for name in names:
        mine, other = _in_new_process("memory ours", name), _in_new_process("memory hand-written", name)
        for label, size in mine.items():
            source = f"hand-written, Adam in graph, bytes; ours {size}"
            value = size / max(other[label], 1)
            task = f"memory {name}, {label}"
            yield row(task, value, "times theirs", reference=other[label], at_most=MEMORY, source=source)


def probe(what: str, name: str) -> dict[str, float]:
    """Measure once in this process, which has to be a new one.

    Args:
        what: "compile", "memory ours" or "memory hand-written".
        name: key of `SVI_PROBLEMS`.
    """
    problem = SVI_PROBLEMS[name]()
    torch.set_num_threads(problem.threads)
    if what == "compile":
        return {"seconds": _first_step(problem)}
    run = ours(problem) if what == "memory ours" else vae_step_in_graph(problem)
    run(STEPS)
    resident = {"process": _resident_growth(run, STEPS)} if HIGH_WATER.exists() else {}
    return {"tensors": _allocated_peak(run, STEPS)} | resident


def _first_step(problem: SVIProblem) -> float:
    """Seconds that a user waits for ten steps of a compiled fit."""
    begin = time.perf_counter()
    settings = pb.SVI(
        num_steps=10, batch_size=problem.batch_size, guide=problem.guide, compile=True, num_samples=1, progress=False
    )
    settings(problem.model, problem.data, seed=0)
    return time.perf_counter() - begin


def _allocated_peak(run: Run, steps: int) -> float:
    """Peak bytes of the tensors allocated within the steps."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run(steps)
    kineto = profile.profiler.kineto_results.events()
    sizes = [(event.start_ns(), event.nbytes()) for event in kineto if event.name() == "[memory]"]
    return float(np.cumsum([size for _, size in sorted(sizes)]).max(initial=0.0))


def _resident_growth(run: Run, steps: int) -> float:
    """Peak growth of the process in bytes within the steps."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    HIGH_WATER.write_text("5")
    before = _status("VmRSS")
    run(steps)
    return float(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _in_new_process(what: str, name: str, **environment: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.speed", "--probe", what, name]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"expected a measurement of {what!r} on {name!r}, got:\n{done.stderr[-2_000:]}")
    return json.loads(done.stdout.splitlines()[-1])
