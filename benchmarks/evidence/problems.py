"""The evidence of problems whose value is known: estimate, error, bounds and seconds; honesty over seeds; two other packages.

    python benchmarks/evidence.py [--quick] [--seeds 200] [--peers] [--out FILE.json]

The table is of `sandwich`, straight from the model. `--seeds` adds how often nominal 95 % intervals and the bounds hold,
`--peers` the time to an error of .05 nat beside dynesty and PyMC's SMC (extra `peers`) in the same run.
"""

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import joblib
import numpy as np
import torch
from benchmarks.rows import Row, near, options, status, tabulate, verdict, write

import probmodel as pb
from probmodel.data.problems import (
    BoltzmannProblem,
    Problem,
    boltzmann_16x10,
    boltzmann_64x16,
    boltzmann_digits,
    diabetes_regression,
    eggbox,
    eight_schools,
    galaxy,
    gaussian_shells,
    hierarchical_normal_h0,
    hierarchical_normal_h1,
    linear_cnn,
    pima_m1,
    pima_m2,
    radiata_pine_m1,
    radiata_pine_m2,
    sonar,
)

CLOSE = 0.05
"""Nats of true error that the race with the other packages is run to."""
MAX_LIVE = 2_500
"""Live points of dynesty at most; Pima would want 8,000 for that error, and three times the time it is given here."""


class Task(NamedTuple):
    """A problem, the error allowed, and how to estimate it."""

    build: Callable[[], Problem]
    tolerance: float
    settings: Mapping[str, Any] = MappingProxyType({})


TASKS = (
    Task(radiata_pine_m1, 0.01),
    Task(radiata_pine_m2, 0.01),
    Task(pima_m1, 0.01),
    Task(pima_m2, 0.01),
    Task(hierarchical_normal_h0, 0.002, {"precision": 0.0006, "max_chains": 20_000_000}),
    Task(hierarchical_normal_h1, 0.002, {"precision": 0.0006, "max_chains": 20_000_000}),
    Task(eight_schools, 0.01),
    Task(sonar, 0.05),
    Task(galaxy, 0.03),
    Task(partial(gaussian_shells, 2), 0.05),
    Task(partial(gaussian_shells, 5), 0.05),
    Task(eggbox, 0.05),
    Task(diabetes_regression, 1e-6),
    Task(linear_cnn, 1e-6),
)
QUICK = (0, 6, 12)
CALIBRATED = (0, 6, 9, 8)
"""Tasks whose honesty is measured over seeds: two with exact values in closed form, one with two modes, one mixture."""


def measured(task: Task, seed: int = 0) -> Row:
    """One row of the table."""
    problem = task.build()
    begin = time.perf_counter()
    target = pb.target(problem.model, problem.data)
    found = pb.evidence.sandwich(target, seed=seed, **task.settings)
    seconds = time.perf_counter() - begin
    return near(
        problem.name,
        found.log_z,
        "nat",
        reference=problem.log_z,
        tolerance=task.tolerance,
        seconds=seconds,
        source=problem.source,
        stderr=found.stderr,
        lower=found.lower,
        upper=found.upper,
        p_value=found.agreement.p_value,
        laplace=next((each.log_z for each in found.agreement if each.method == "laplace"), math.nan),
        caveats={each.method: each.caveat for each in found.agreement if each.caveat},
        stochastic={each.method: (each.log_z, each.stderr) for each in found.agreement},
        failed=list(found.info["failed"]),
    )


def annealed(found: Row) -> Row:
    """The stochastic estimate beside a closed form."""
    log_z, stderr = found["stochastic"]["ais"]
    kept = {key: found[key] for key in ("reference", "seconds", "source")}
    more = {"stderr": stderr, "lower": -math.inf, "upper": math.inf}
    return found | near(f"{found['task']}, annealed", log_z, "nat", tolerance=0.02, **kept, **more)


def measured_machine(build: Callable[[], BoltzmannProblem]) -> Iterator[Row]:
    """Rows of a Boltzmann machine: enumerated, annealed, and between bounds."""
    machine = build()
    rbm = pb.boltzmann.BinaryRBM(machine.weight, machine.visible_bias, machine.hidden_bias)
    estimators = {
        "enumerated": (pb.evidence.log_partition, 1e-5),
        "AIS": (pb.evidence.log_partition_ais, 0.02),
        "sandwich": (pb.evidence.log_partition_sandwich, 0.02),
    }
    for label, (estimator, tolerance) in estimators.items():
        begin = time.perf_counter()
        found = estimator(rbm)
        yield near(
            f"{build.__name__.replace('_', ' ')}, {label}",
            found.log_z,
            "nat",
            reference=machine.log_z,
            tolerance=tolerance,
            seconds=time.perf_counter() - begin,
            source=machine.source,
            stderr=found.stderr,
            lower=found.lower,
            upper=found.upper,
            failed=list(found.info.get("failed", ())),
        )


def rows(*, quick: bool) -> Iterator[Row]:
    """The table of problems, then of machines; beside a closed form its stochastic estimate."""
    for task in [TASKS[i] for i in QUICK] if quick else TASKS:
        found = measured(task)
        yield found
        if found["stderr"] == 0:
            yield annealed(found)
    for build in (boltzmann_16x10,) if quick else (boltzmann_16x10, boltzmann_64x16, boltzmann_digits):
        yield from measured_machine(build)


def line(found: Row) -> str:
    """One row of the table."""
    return (
        f"{found['task']:<40}{found['value']:>13.5f} ± {found['stderr']:.4f}  [{found['lower']:.4f}, {found['upper']:.4f}]  "
        f"reference {found['reference']:.5f} ± {found['tolerance']:g} {verdict(found)}  {found['seconds']:.1f} s"
        f"{'  REFUSED' if found['failed'] else ''}"
    )


def honesty(task: Task, seeds: int, folder: Path | None) -> list[dict[str, Any]]:
    """Coverage of log_z ± 1.96 stderr, rms of error / stderr and violated bounds over seeds, of each estimator."""
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


def quickest() -> dict[str, tuple[Callable[[], Problem], Callable[..., pb.Evidence]]]:
    """Our estimator for each problem of the race, as one would choose it: the mode where there is one, else particles."""
    by_mode = partial(pb.evidence.importance, proposal=pb.evidence.from_mode, num_samples=3_000)
    by_particles = partial(pb.evidence.ais, num_chains=4_000)
    return {
        "pima_m1": (pima_m1, by_mode),
        "radiata_m1": (radiata_pine_m1, by_mode),
        "shells_5": (partial(gaussian_shells, 5), partial(pb.evidence.ais, num_chains=12_000)),
        "eight_schools": (eight_schools, by_particles),
    }


def race(seeds: int) -> list[dict[str, Any]]:
    """Seconds and errors of all packages on the same problems, tracing and compiling included."""
    from benchmarks.evidence.peers import SETTINGS, run_dynesty, run_pymc_smc  # noqa: PLC0415 - an extra that the table needs not

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


def main() -> None:
    """Print the tables; write them where asked."""
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="seeds of the honesty table")
    parser.add_argument("--folder", type=Path, help="where finished seeds are kept and found again")
    parser.add_argument("--peers", action="store_true", help="race with dynesty and PyMC")
    parser.add_argument("--no-table", action="store_true", help="leave the table of problems out")
    arguments = parser.parse_args()
    more: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pb.errors.EvidenceWarning)  # The tables say it.
        table = tabulate([] if arguments.no_table else rows(quick=arguments.quick), arguments.out, line)
        if arguments.seeds:
            jobs = (joblib.delayed(_alone)(TASKS[i], arguments.seeds, arguments.folder) for i in CALIBRATED)
            more["honesty"] = [each for found in joblib.Parallel(n_jobs=2)(jobs) for each in found]
            for each in more["honesty"]:
                print(json.dumps(each))
        if arguments.peers:
            more["race"] = race(seeds=3)
    write(table, arguments.out, **more)
    sys.exit(status(table))


def _alone(task: Task, seeds: int, folder: Path | None) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return honesty(task, seeds, folder)


if __name__ == "__main__":
    main()
