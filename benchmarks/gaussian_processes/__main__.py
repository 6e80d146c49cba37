"""Gaussian processes: evidence, UCI regressions, the motorcycle data, crossing functions, deep kernels, hard inputs.

PROBMODEL_DATA=FOLDER python -m benchmarks.gaussian_processes [--quick] [--only TEXT] [--out FILE.json] [--pictures FOLDER]
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.gaussian_processes import crossing, evidence, hard_inputs, images, motorcycle, pictures, regressions
from benchmarks.rows import Row, add_only, options, status, tabulate, verdict

SECTIONS = (evidence, motorcycle, crossing, hard_inputs, regressions, images)
METHODS = ("dropout", "ensembles")


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of all sections."""
    for section in SECTIONS:
        yield from section.rows(quick=quick, only=only)


def line(found: Row) -> str:
    """Text of a row: our value with its standard error, the published ones, and the bounds."""
    error = f" ± {found['stderr']:.3g}" if "stderr" in found else ""
    others = "".join(f"   {name} {found[name][0]:g} ± {found[name][1]:.2g}" for name in METHODS if name in found)
    low, high = found.get("at_least"), found.get("at_most")
    bound = "" if low is None else f" ≥ {low:.6g}"
    bound += "" if high is None else f" ≤ {high:.6g}"
    return f"{found['task']:<84}{found['value']:>12.6g}{error:<10} {found['unit']}{others}{bound} {verdict(found)}"


def main() -> None:
    """Print the table; write it, and the pictures, if asked to."""
    parser = options(__doc__)
    add_only(parser)
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    arguments = parser.parse_args()
    table = tabulate(rows(quick=arguments.quick, only=arguments.only), arguments.out, line)
    if arguments.pictures is not None:
        pictures.draw(arguments.pictures)
    raise SystemExit(status(table))


if __name__ == "__main__":
    main()
