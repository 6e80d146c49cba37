"""Speed on a CUDA device: SVI steps beside Pyro and hand-written PyTorch, annealing, Gaussian processes; agreement with the CPU.

    python -m benchmarks.gpu [--quick] [--out FILE.json]

Without a device it prints a line that says so and exits with 0.  Steps are captured as CUDA graphs, so that a step never waits
for the host; matrix products of feature extractors may use TensorFloat-32 if asked to, log densities never do.
"""

import sys
from collections.abc import Iterator

import torch

from benchmarks.gpu.agreement import agreement_rows, process_rows
from benchmarks.gpu.large_fits import annealing_rows, sparse_rows
from benchmarks.gpu.steps import step_rows
from benchmarks.rows import Row, options, status, tabulate
from benchmarks.speed.models import SVI_PROBLEMS


def rows(*, quick: bool) -> Iterator[Row]:
    """All rows."""
    yield from process_rows()
    for build in list(SVI_PROBLEMS.values())[: 2 if quick else None]:
        yield from step_rows(build(), rounds=3 if quick else 9)
    yield from agreement_rows()
    yield from annealing_rows()
    if not quick:
        yield from sparse_rows()


def main() -> None:
    """Print the table, and write it if asked to."""
    arguments = options(__doc__).parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    table = tabulate(rows(quick=arguments.quick), arguments.out, machine=torch.cuda.get_device_name())
    sys.exit(0 if arguments.quick else status(table))


if __name__ == "__main__":
    main()
