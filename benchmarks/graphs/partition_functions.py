"""Partition functions of Boltzmann machines: exact sums, and annealing in both directions, against published and exact values.

Machines given by a formula and lattices need no file; the machine of digits is read from PROBMODEL_DATA.
"""

from collections.abc import Iterator

import probmodel as pb
from benchmarks.rows import Row, near, row
from probmodel.data import problems
from probmodel.families.boltzmann_machines.coupled import CoupledMachine
from probmodel.families.boltzmann_machines.machine import SuppliesMachine
from probmodel.protocols.evidence import Evidence

DIGITS = {"training": -18.7881, "test": -19.0051}
"""Exact log likelihood per image under the machine of digits, in nats."""
LATTICES = {8: (0.02, 10_000, 400), 16: (0.02, 6_000, 1_000), 32: (0.1, 1_000, 4_000)}
"""Side of the lattice → tolerance in nats, number of chains, number of temperatures."""


def partition_rows() -> Iterator[Row]:
    """Rows of log partition functions, and of the likelihood that one of them gives."""
    yield from restricted_rows()
    yield from coupled_rows()


def restricted_rows() -> Iterator[Row]:
    """Rows of restricted machines: by enumeration, by annealing alone, and between bounds."""
    found = {"RBM 16×10": problems.boltzmann_16x10(), "RBM 64×16": problems.boltzmann_64x16()}
    for name, problem in (found | {"digits RBM": problems.boltzmann_digits()}).items():
        machine = pb.boltzmann.BinaryRBM(problem.weight, problem.visible_bias, problem.hidden_bias)
        exact = pb.evidence.log_partition(machine)
        yield _near(f"{name}, enumerated", exact, exact.log_z, problem.log_z, 1e-6)
        yield from _annealed(name, machine, problem.log_z, 0.0, 0.02, 10_000, None)
    train, test = problems.binary_digits()
    for name, rows in {"training": train, "test": test}.items():
        value = pb.evidence.log_likelihood(machine, rows, exact).log_z / len(rows)
        task = f"digits RBM, exact log likelihood of a {name} image"
        yield near(task, value, "nats", reference=DIGITS[name], tolerance=1e-4)


def coupled_rows() -> Iterator[Row]:
    """Rows of fully visible machines: twelve units, and Ising lattices at the critical point against Kaufman's closed form."""
    known = problems.boltzmann_12()
    exact = pb.evidence.log_partition(_fully_visible(known))
    yield _near("12 coupled units, enumerated", exact, exact.log_z, known.log_z, 1e-6)
    yield from _annealed("12 coupled units", _fully_visible(known), known.log_z, 0.0, 0.02, 10_000, None)
    for side, (tolerance, num_chains, num_steps) in LATTICES.items():
        ising, name = problems.ising_torus(side), f"Ising torus {side}×{side}"
        yield from _annealed(name, _fully_visible(ising), ising.log_z, ising.shift, tolerance, num_chains, num_steps)


def _fully_visible(known: problems.CoupledProblem) -> CoupledMachine:
    return CoupledMachine(
        known.couplings, known.bias.new_zeros(len(known.bias), 0), known.bias, known.bias.new_zeros(0)
    )


def _annealed(
    name: str,
    model: SuppliesMachine,
    log_z: float,
    shift: float,
    tolerance: float,
    num_chains: int,
    num_steps: int | None,
) -> Iterator[Row]:
    """Rows of annealing in both directions without an exact sum, and of whether the truth lies between the bounds."""
    found = pb.evidence.log_partition_sandwich(model, num_chains=num_chains, num_steps=num_steps, max_side=0)
    yield _near(f"{name}, annealed both ways", found, found.log_z + shift, log_z + shift, tolerance)
    inside = float(found.lower < log_z < found.upper)
    bounds = {"lower": found.lower + shift, "upper": found.upper + shift}
    yield row(f"{name}, truth between the bounds", inside, "", at_least=1.0, **bounds)


def _near(task: str, found: Evidence, value: float, reference: float, tolerance: float) -> Row:
    seconds = float(found.info["seconds"])
    return near(task, value, "nats", reference=reference, tolerance=tolerance, seconds=seconds, stderr=found.stderr)
