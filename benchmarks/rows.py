"""Rows of the benchmarks: a number, its bounds and the verdict on them; the table, the JSON file and the common options."""

import argparse
import json
import math
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
"""Root of the repository: the working directory of child processes."""

Row = dict[str, Any]


def row(
    task: str,
    value: float,
    unit: str,
    *,
    reference: float = math.nan,
    seconds: float = 0.0,
    source: str = "this run",
    **more: Any,
) -> Row:
    """Make a row of one measured number.

    Args:
        task: what was measured.
        value: number measured in this run.
        unit: unit of the value, of the reference and of the bounds.
        reference: number to compare with; nan if there is none.
        seconds: duration of the measurement.
        source: origin of the reference.
        more: further entries; `at_least` and `at_most` are bounds of the value.
    """
    common = {"reference": reference, "unit": unit, "seconds": seconds, "source": source}
    return {"task": task, "value": value, **common, **more}


def near(task: str, value: float, unit: str, *, reference: float, tolerance: float, **more: Any) -> Row:
    """Make a row of a number that has to be within a tolerance of its reference."""
    low, high = reference - tolerance, reference + tolerance
    return row(task, value, unit, reference=reference, tolerance=tolerance, at_least=low, at_most=high, **more)


def verdict(found: Row) -> str:
    """Return "ok", or "OFF" for a value outside its bounds or NaN; empty for a row without bounds."""
    if not {"at_least", "at_most"} & found.keys():
        return ""
    return "ok" if found.get("at_least", -math.inf) <= found["value"] <= found.get("at_most", math.inf) else "OFF"


def line(found: Row) -> str:
    """Text of a row in the table."""
    bound = (
        f"≤ {found['at_most']:g}" if "at_most" in found else f"≥ {found['at_least']:g}" if "at_least" in found else ""
    )
    return f"{found['task']:<104}{found['value']:>12.4g} {found['unit']}  {bound} {verdict(found)}"


def tabulate(found: Iterable[Row], path: Path | None, line: Callable[[Row], str] = line, **about: Any) -> list[Row]:
    """Print and write rows as they are measured, so that an interrupted run keeps what it has.

    Args:
        found: rows.
        path: JSON file, or None.
        line: function from a row to its text.
        about: further entries of the JSON file.
    """
    table = []
    for each in found:
        table.append(each)
        print(line(each), flush=True)
        write(table, path, **about)
    return table


def write(table: Sequence[Row], path: Path | None, **about: Any) -> None:
    """Write the JSON file if there is a path."""
    if path is not None:
        result = {"machine": platform.platform(), "commit": _commit(), "rows": table, **about}
        path.write_text(json.dumps(result, indent=1))


def status(table: Iterable[Row]) -> str | int:
    """Argument of `sys.exit`: 0, or the tasks outside their bounds."""
    wrong = [each["task"] for each in table if verdict(each) == "OFF"]
    return f"outside their bounds: {wrong}" if wrong else 0


def options(doc: str | None, quick: str = "smoke size") -> argparse.ArgumentParser:
    """Command line with the options that all benchmarks share: --quick and --out.

    Args:
        doc: docstring of the benchmark, shown by --help.
        quick: help text of --quick.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


def add_only(parser: argparse.ArgumentParser, kind: str = "groups") -> None:
    """Add the option --only, which selects by a part of the name."""
    parser.add_argument("--only", default="", metavar="TEXT", help=f"{kind} whose name contains the text")


@cache
def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
