"""Coverage of intervals and bounds of the log evidence over seeds."""

import json
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

import probmodel as pb
from benchmarks.evidence.problems import TASKS, Task

CALIBRATED = (0, 6, 9, 8)
"""Indices of the tasks: two with exact values in closed form, one with two modes, one mixture."""


def over_problems(seeds: int, folder: Path | None) -> list[dict[str, Any]]:
    """Measure and print the coverage of each estimator on each task; two processes with one thread each."""
    jobs = (joblib.delayed(_on_one_thread)(TASKS[i], seeds, folder) for i in CALIBRATED)
    table = [each for found in joblib.Parallel(n_jobs=2)(jobs) for each in found]
    for each in table:
        print(json.dumps(each))
    return table


def coverage(task: Task, seeds: int, folder: Path | None) -> list[dict[str, Any]]:
    """Coverage of log_z ± 1.96 stderr, root mean square of error / stderr and violated bounds over seeds, for each estimator.

    Args:
        task: problem and estimator.
        seeds: number of seeds.
        folder: folder in which finished seeds are kept and found again; None keeps nothing.
    """
    problem = task.build()
    target = pb.target(problem.model, problem.data)
    runs = []
    for seed in range(seeds):
        kept = None if folder is None else folder / f"{problem.name.replace(' ', '_')}-{seed}.json"
        if kept is not None and kept.is_file():
            runs.append(json.loads(kept.read_text()))
            continue
        found = pb.evidence.sandwich(target, seed=seed)
        run = {each.method: [each.log_z, each.stderr, each.caveat] for each in found.agreement}
        run["sandwich"] = [found.log_z, found.stderr, "; ".join(found.info["failed"])]
        run["bounds"] = [found.lower, found.upper, ""]
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(run))
        runs.append(run)
    rows = []
    for method in ("sandwich", "ais", "reverse ais", "smc", "bridge", "importance"):
        trusted = [run[method] for run in runs if method in run and not run[method][2]]
        z = np.array([(log_z - problem.log_z) / stderr for log_z, stderr, _ in trusted if stderr > 0])
        if z.size == 0:
            continue
        row = {"problem": problem.name, "method": method, "runs": int(z.size), "refused": len(runs) - int(z.size)}
        row |= {"coverage": float(np.mean(np.abs(z) < 1.96)), "rms_z": float(np.sqrt(np.mean(z**2)))}
        if method == "sandwich":
            row["below"] = sum(run["bounds"][0] > problem.log_z for run in runs) / len(runs)
            row["above"] = sum(run["bounds"][1] < problem.log_z for run in runs) / len(runs)
        rows.append(row)
    return rows


def _on_one_thread(task: Task, seeds: int, folder: Path | None) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return coverage(task, seeds, folder)
