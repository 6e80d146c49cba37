"""The rows of every benchmark: a number, the bounds it has to keep, one verdict, and one JSON file with machine and commit."""

import argparse
import json
import math
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

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
    """One measured number; `at_least` and `at_most` among `more` are its bounds."""
    common = {"reference": reference, "unit": unit, "seconds": seconds, "source": source}
    return {"task": task, "value": value, **common, **more}


def near(task: str, value: float, unit: str, *, reference: float, tolerance: float, **more: Any) -> Row:
    """A number that has to come within a tolerance of its reference."""
    low, high = reference - tolerance, reference + tolerance
    return row(task, value, unit, reference=reference, tolerance=tolerance, at_least=low, at_most=high, **more)


def verdict(found: Row) -> str:
    """Either "ok" or "OFF", which NaN is too; empty for a row without bounds."""
    if not {"at_least", "at_most"} & found.keys():
        return ""
    return "ok" if found.get("at_least", -math.inf) <= found["value"] <= found.get("at_most", math.inf) else "OFF"


def line(found: Row) -> str:
    """A row as it is printed."""
    bound = (
        f"≤ {found['at_most']:g}" if "at_most" in found else f"≥ {found['at_least']:g}" if "at_least" in found else ""
    )
    return f"{found['task']:<104}{found['value']:>12.4g} {found['unit']}  {bound} {verdict(found)}"


def tabulate(found: Iterable[Row], path: Path | None, line: Callable[[Row], str] = line, **about: Any) -> list[Row]:
    """Print and write rows as they come, so that a run cut short keeps what it has.

    Args:
        found: the rows.
        path: of the JSON file, or None.
        line: a row's text.
        about: what else the file says of the run.
    """
    table = []
    for each in found:
        table.append(each)
        print(line(each), flush=True)
        write(table, path, **about)
    return table


def write(table: Sequence[Row], path: Path | None, **about: Any) -> None:
    """The JSON file, where there is a path."""
    if path is not None:
        result = {"machine": platform.platform(), "commit": _commit(), "rows": table, **about}
        path.write_text(json.dumps(result, indent=1))


def status(table: Iterable[Row]) -> str | int:
    """For `sys.exit`: 0, or the tasks outside their bounds."""
    wrong = [each["task"] for each in table if verdict(each) == "OFF"]
    return f"outside their bounds: {wrong}" if wrong else 0


def options(doc: str | None, quick: str = "smoke size") -> argparse.ArgumentParser:
    """A script's command line with what all have: --quick and --out."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser


@cache
def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    ).stdout.strip()
