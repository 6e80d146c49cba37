"""Bayesian networks and Boltzmann machines: scores, exact search, edges, queries, classes, partition functions, learning.

    PROBMODEL_DATA=FOLDER python -m benchmarks.graphs [--quick] [--long] [--only TEXT] [--out FILE.json]

Published scores and optima are those of bnlearn (Scutari, 2010) and sums over all graphs; seconds are those of one process.
`--only` selects groups by a part of their name, for example "queries", "classes", "structure" or "learning"; `--long` adds an
hour of learning on MNIST.
"""

from collections.abc import Callable, Iterator

from benchmarks.graphs import boltzmann_learning, small_networks, structure
from benchmarks.graphs.classes import class_rows
from benchmarks.graphs.partition_functions import partition_rows
from benchmarks.graphs.queries import query_rows
from benchmarks.rows import Row, add_only, options, status, tabulate, verdict

NOT_QUICK = ("edges of 20", "partition functions")


def rows(*, quick: bool, long: bool, only: str) -> Iterator[Row]:
    """Rows of all groups whose name contains the text; a quick run leaves out the largest."""
    groups: dict[str, Callable[[], Iterator[Row]]] = {
        **small_networks.groups(),
        "partition functions": partition_rows,
        "queries": lambda: query_rows(quick=quick),
        "classes": lambda: class_rows(quick=quick),
        **structure.groups(quick=quick),
        **boltzmann_learning.groups(quick=quick, long=long),
    }
    for name, group in groups.items():
        if only in name and not (quick and name in NOT_QUICK):
            yield from group()


def line(found: Row) -> str:
    """Text of a row, scores with all their digits."""
    low, high = found.get("at_least"), found.get("at_most")
    bound = ("" if low is None else f" ≥ {low:.9g}") + ("" if high is None else f" ≤ {high:.9g}")
    return f"{found['task']:<84}{found['value']:>14.9g} {found['unit']:<6}{bound} {verdict(found)}"


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = options(__doc__)
    add_only(parser)
    parser.add_argument("--long", action="store_true", help="add the long run on MNIST")
    arguments = parser.parse_args()
    found = rows(quick=arguments.quick, long=arguments.long, only=arguments.only)
    raise SystemExit(status(tabulate(found, arguments.out, line)))


if __name__ == "__main__":
    main()
