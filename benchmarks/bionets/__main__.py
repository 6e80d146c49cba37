"""Biological networks: protein signaling with and without interventions, and gene regulation (DREAM4, ten genes).

    PROBMODEL_DATA=FOLDER python -m benchmarks.bionets [--quick] [--only TEXT] [--out FILE.json]

Areas are over all ordered pairs of variables: AUROC is the area under the receiver operating characteristic, AUPR the average
precision.  The random forests (GENIE3; Huynh-Thu et al., 2010) use the same rows in the same run.
"""

from collections.abc import Callable, Iterator

from benchmarks.bionets.regulation import regulation_rows
from benchmarks.bionets.signaling import signaling_rows
from benchmarks.rows import Row, add_only, line, options, status, tabulate


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of all groups whose name contains the text."""
    groups: dict[str, Callable[[], Iterator[Row]]] = {
        "signaling": signaling_rows,
        "regulation": lambda: regulation_rows(quick=quick),
    }
    for name, group in groups.items():
        if only in name:
            yield from group()


def main() -> None:
    """Print the table, and write it if asked to."""
    parser = options(__doc__)
    add_only(parser)
    arguments = parser.parse_args()
    raise SystemExit(status(tabulate(rows(quick=arguments.quick, only=arguments.only), arguments.out, line)))


if __name__ == "__main__":
    main()
