"""Gaussian processes: evidence, UCI's regressions, the motorcycle data, crossing functions, deep kernels, hard inputs.

    PROBMODEL_DATA=FOLDER python benchmarks/gp.py [--quick] [--only TEXT] [--out FILE.json] [--pictures FOLDER]

Each row is a number with its bound; sections are in the files gp_*.py beside this one.
"""

from collections.abc import Iterator
from pathlib import Path

import gp_hard_inputs
import gp_images
import gp_mixtures
import gp_pictures
from benchmarks.gaussian_processes import regressions
from benchmarks.rows import Row, options, status, tabulate, verdict

SECTIONS = (gp_mixtures, gp_hard_inputs, gp_regressions, gp_images)
METHODS = ("dropout", "ensembles")


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """All sections' rows."""
    for section in SECTIONS:
        yield from section.rows(quick=quick, only=only)


def line(found: Row) -> str:
    """Ours with its standard error, its bound, and the published ones."""
    error = f" ± {found['stderr']:.3g}" if "stderr" in found else ""
    others = "".join(f"   {name} {found[name][0]:g} ± {found[name][1]:.2g}" for name in METHODS if name in found)
    low, high = found.get("at_least"), found.get("at_most")
    bound = "" if low is None else f" ≥ {low:.6g}"
    bound += "" if high is None else f" ≤ {high:.6g}"
    return f"{found['task']:<84}{found['value']:>12.6g}{error:<10} {found['unit']}{others}{bound} {verdict(found)}"


def main() -> None:
    """Print the table; write it, and the pictures, where asked."""
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="groups whose name contains the text")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures")
    arguments = parser.parse_args()
    table = tabulate(rows(quick=arguments.quick, only=arguments.only), arguments.out, line)
    if arguments.pictures is not None:
        gp_pictures.draw(arguments.pictures)
    raise SystemExit(status(table))


if __name__ == "__main__":
    main()
