"""Log evidence of problems whose value is known: estimate, error, bounds and seconds; coverage over seeds; two other packages.

    python -m benchmarks.evidence [--quick] [--coverage] [--seeds 200] [--problems outlier rosenbrock_2] [--peers]
        [--peer-estimates] [--out FILE.json]

The table has the estimates of `sandwich`, made from the model alone.  `--coverage` prints instead how often nominal 95 %
intervals and the bounds hold over `--seeds` seeds and how many runs were refused, on `--problems` or on all; `--folder`
keeps finished seeds.  `--peers` adds the seconds to an error of 0.05 nats of dynesty and PyMC's SMC (extra `peers`) in the
same run, and `--peer-estimates` the estimates of those two packages next to the known values.  `--no-table` leaves the first
table out.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import probmodel as pb
from benchmarks.evidence import coverage, problems
from benchmarks.rows import options, status, tabulate, write


def main() -> None:
    """Print the tables, and write them if asked to."""
    parser = options(__doc__)
    parser.add_argument("--coverage", action="store_true", help="coverage over seeds in place of the table of problems")
    parser.add_argument("--seeds", type=int, default=200, help="number of seeds of the table of coverage")
    parser.add_argument(
        "--problems", nargs="*", default=(), choices=tuple(coverage.PROBLEMS), help="problems of the table of coverage"
    )
    parser.add_argument("--folder", type=Path, help="folder in which finished seeds are kept and found again")
    parser.add_argument("--peers", action="store_true", help="seconds of dynesty and PyMC on the same problems")
    parser.add_argument(
        "--peer-estimates", action="store_true", help="estimates of dynesty and PyMC and the known values"
    )
    parser.add_argument("--no-table", action="store_true", help="leave out the table of problems")
    arguments = parser.parse_args()
    more: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pb.errors.EvidenceWarning)  # The tables show what it warns of.
        found = [] if arguments.no_table or arguments.coverage else problems.rows(quick=arguments.quick)
        table = tabulate(found, arguments.out, problems.line)
        if arguments.coverage:
            names = arguments.problems or (coverage.SMALL if arguments.quick else ())
            more["coverage"] = coverage.over_problems(arguments.seeds, arguments.folder, names)
        if arguments.peers or arguments.peer_estimates:
            from benchmarks.evidence import peers, race  # noqa: PLC0415 - an extra that the other tables do not need

            if arguments.peers:
                more["race"] = race.race(seeds=3)
            if arguments.peer_estimates:
                more["peer_estimates"] = tabulate(peers.rows(quick=arguments.quick), None, peers.line)
    write(table, arguments.out, **more)
    failed = [row["problem"] for row in more.get("coverage", []) if row.get("within") is False]
    if failed:
        print(f"expected coverage of {coverage.LEAST:.0%} or more and bounds that hold, got less on {failed}")
    sys.exit(status(table) or bool(failed))


if __name__ == "__main__":
    main()
