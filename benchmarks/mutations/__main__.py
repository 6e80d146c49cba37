"""Check whether the tests notice a wrong sign, scale or Jacobian in the evidence, a sampler or a step: one change at a time.

    python -m benchmarks.mutations [--quick] [--only TEXT] [--out FILE.json]

Each mutation is one textual change of a copy of the package in a temporary folder.  The test files that should notice it run on
that copy; a mutation that no test notices has survived, and the command exits with 1.
"""

import sys

from benchmarks.mutations.changes import MUTATIONS
from benchmarks.mutations.trials import check_texts, rows
from benchmarks.rows import Row, add_only, options, tabulate

NUM_QUICK = 3


def line(found: Row) -> str:
    """Text of a row: whether the mutation was caught."""
    name = found["task"].removeprefix("mutation: ")
    return f"{name:<55}{'caught' if found['value'] else 'SURVIVED':<10}{found['seconds']:>7.1f} s"


def main() -> None:
    """Print the table, write it if asked to, and exit with 1 if any mutation survives."""
    parser = options(__doc__, f"the first {NUM_QUICK} mutations")
    add_only(parser, "mutations")
    arguments = parser.parse_args()
    check_texts()
    chosen = [each for each in MUTATIONS if arguments.only in each.name][: NUM_QUICK if arguments.quick else None]
    table = tabulate(rows(chosen), arguments.out, line)
    survived = [each["task"] for each in table if not each["value"]]
    if survived:
        sys.exit(f"{len(survived)} of {len(table)} survived: {'; '.join(survived)}")


if __name__ == "__main__":
    main()
