"""Runs of the tests on copies of the package, each with one mutation."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.mutations.changes import MUTATIONS, Mutation
from benchmarks.rows import ROOT, Row, row

TIMEOUT = 900
"""Seconds after which tests that hang on a mutation count as having noticed it."""


class Outcome(NamedTuple):
    """Result of the tests."""

    caught: bool
    seconds: float
    tail: str
    """End of the output of pytest."""


def mutate(package: Path, mutation: Mutation) -> None:
    """Apply a mutation to a copy of the package.

    Raises:
        ValueError: if the text does not occur exactly once.
    """
    file = package / mutation.file
    text = file.read_text()
    count = text.count(mutation.before)
    if count != 1:
        raise ValueError(
            f"{mutation.name}: expected the text once in {mutation.file}, got it {count} times; adapt the mutation to "
            "the code"
        )
    file.write_text(text.replace(mutation.before, mutation.after))


def run(mutation: Mutation | None, tests: tuple[str, ...], select: str) -> Outcome:
    """Run tests on a copy of the package; without a mutation they have to pass.

    Args:
        mutation: change of the copy, or None.
        tests: test files.
        select: expression for the option -k of pytest; empty for all tests.

    Raises:
        RuntimeError: if another copy of the package would be imported, or pytest finds no test.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__")
        for part in ("probmodel", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        if mutation is not None:
            mutate(copy / "probmodel", mutation)
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        place = [sys.executable, "-c", "import probmodel; print(probmodel.__file__)"]
        imported = subprocess.run(place, capture_output=True, text=True, cwd=copy, env=environment, check=True).stdout
        if not Path(imported.strip()).is_relative_to(copy):
            raise RuntimeError(f"expected the copy in {copy} to be imported, got {imported.strip()}")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--verify", *tests, *(("-k", select) if select else ())]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=copy, env=environment, timeout=TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            return Outcome(True, time.perf_counter() - begin, "timed out")
    if done.returncode not in (0, 1):
        raise RuntimeError(f"expected pytest to run tests, got exit status {done.returncode}: {done.stdout[-2_000:]}")
    return Outcome(done.returncode == 1, time.perf_counter() - begin, done.stdout[-2_000:])


def check_texts() -> None:
    """Raise ValueError for any mutation whose text does not occur exactly once, before tests run."""
    with tempfile.TemporaryDirectory() as folder:
        for number, mutation in enumerate(MUTATIONS):
            copy = Path(folder) / str(number) / "probmodel"
            (copy / mutation.file).parent.mkdir(parents=True)
            shutil.copy(ROOT / "probmodel" / mutation.file, copy / mutation.file)
            mutate(copy, mutation)


def rows(mutations: Iterable[Mutation]) -> Iterator[Row]:
    """Rows of all mutations.

    Raises:
        RuntimeError: if tests fail without their mutation.
    """
    sound: dict[tuple[tuple[str, ...], str], Outcome] = {}
    for mutation in mutations:
        key = (mutation.tests, mutation.select)
        if key not in sound:
            sound[key] = run(None, *key)
        if sound[key].caught:
            raise RuntimeError(
                f"{mutation.name}: expected its tests to pass without it, got failures; mend them first\n"
                f"{sound[key].tail}"
            )
        outcome = run(mutation, *key)
        yield row(
            f"mutation: {mutation.name}",
            float(outcome.caught),
            "caught",
            reference=1.0,
            at_least=1.0,
            seconds=outcome.seconds,
            source=f"{mutation.file}, seen by {', '.join(mutation.tests)}",
        )
