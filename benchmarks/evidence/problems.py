"""Estimates of the log evidence of problems whose value is known, and of the partition functions of Boltzmann machines."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import probmodel as pb
from benchmarks.rows import Row, near, verdict
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


class Task(NamedTuple):
    """Problem, largest error allowed in nats, and settings of the estimator."""

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
"""Indices of the tasks in a quick run."""


def measured(task: Task, seed: int = 0) -> Row:
    """Row of one task."""
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
    """Row of the stochastic estimate of a problem that also has a closed form."""
    log_z, stderr = found["stochastic"]["ais"]
    kept = {key: found[key] for key in ("reference", "seconds", "source")}
    more = {"stderr": stderr, "lower": -math.inf, "upper": math.inf}
    return found | near(f"{found['task']}, annealed", log_z, "nat", tolerance=0.02, **kept, **more)


def measured_machine(build: Callable[[], BoltzmannProblem]) -> Iterator[Row]:
    """Rows of a Boltzmann machine: by enumeration, by annealing, and between bounds."""
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
    """Rows of all problems, with the stochastic estimate after a closed form, and of all machines."""
    for task in [TASKS[i] for i in QUICK] if quick else TASKS:
        found = measured(task)
        yield found
        if found["stderr"] == 0:
            yield annealed(found)
    for build in (boltzmann_16x10,) if quick else (boltzmann_16x10, boltzmann_64x16, boltzmann_digits):
        yield from measured_machine(build)


def line(found: Row) -> str:
    """Text of a row."""
    return (
        f"{found['task']:<40}{found['value']:>13.5f} ± {found['stderr']:.4f}  [{found['lower']:.4f}, {found['upper']:.4f}]  "
        f"reference {found['reference']:.5f} ± {found['tolerance']:g} {verdict(found)}  {found['seconds']:.1f} s"
        f"{'  REFUSED' if found['failed'] else ''}"
    )
