"""Seconds to a given error of the log evidence: ours, dynesty's and PyMC's."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import probmodel as pb
from benchmarks.evidence.peers import SETTINGS, run_dynesty, run_pymc_smc
from probmodel.data.problems import Problem, eight_schools, gaussian_shells, pima_m1, radiata_pine_m1

MAX_LIVE = 2_500
"""Largest number of live points of dynesty; an error of 0.05 nats on Pima would take 8,000 and three times the seconds."""


def quickest() -> dict[str, tuple[Callable[[], Problem], Callable[..., pb.Evidence]]]:
    """Our estimator for each problem, as a user would choose it: from the mode if there is a single one, else by particles."""
    by_mode = partial(pb.evidence.importance, proposal=pb.evidence.from_mode, num_samples=3_000)
    by_particles = partial(pb.evidence.ais, num_chains=4_000)
    return {
        "pima_m1": (pima_m1, by_mode),
        "radiata_m1": (radiata_pine_m1, by_mode),
        "shells_5": (partial(gaussian_shells, 5), partial(pb.evidence.ais, num_chains=12_000)),
        "eight_schools": (eight_schools, by_particles),
    }


def race(seeds: int) -> list[dict[str, Any]]:
    """Measure and print seconds and errors of all packages on the same problems, tracing and compiling included.

    Args:
        seeds: number of seeds of our estimator; PyMC takes two, dynesty one.
    """
    rows = []
    for name, (build, estimator) in quickest().items():
        problem = build()
        settings = SETTINGS[name]

        def ours(seed: int, problem: Problem = problem, estimator: Callable[..., pb.Evidence] = estimator) -> Any:
            begin = time.perf_counter()
            found = estimator(pb.target(problem.model, problem.data), seed=seed)
            return found.log_z, time.perf_counter() - begin

        def nested(seed: int, name: str = name, settings: Any = settings) -> Any:
            found = run_dynesty(name, seed, nlive=min(settings.nlive, MAX_LIVE), sample=settings.sample)
            return found.log_z, found.seconds

        def tempered(seed: int, name: str = name, settings: Any = settings) -> Any:
            found = run_pymc_smc(name, seed, draws=settings.draws)
            return found.log_z, found.seconds

        for package, run, count in (("probmodel", ours, seeds), ("pymc", tempered, 2), ("dynesty", nested, 1)):
            runs = [run(seed) for seed in range(count)]
            errors = np.array([log_z - problem.log_z for log_z, _ in runs])
            row = {"problem": name, "package": package, "runs": count, "rms_error": float(np.sqrt(np.mean(errors**2)))}
            row["seconds"] = float(np.median([seconds for _, seconds in runs]))
            rows.append(row)
            print(f"  {name:<14}{package:<11}{row['seconds']:>9.2f} s   rms error {row['rms_error']:.4f}", flush=True)
    return rows
