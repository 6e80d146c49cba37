"""How long the tests take: which are left to `make verify`, the order of the files, and the budget of each room.

Seconds are those of the processor, children included, so that they do not depend on what else the machine does.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

VERIFY = Path(__file__).parent / "verify.txt"
BUDGET = {
    "comparison": 30,
    "contracts": 260,
    "data": 20,
    "diagnosis": 100,
    "documentation": 90,
    "draws": 5,
    "evidence": 120,
    "families": 55,
    "house": 80,
    "inference": 80,
    "layers": 100,
    "prediction": 20,
    "probmodel": 10,
    "protocols": 25,
    "storage": 60,
    "studies": 15,
    "tests": 10,
    "tracing": 75,
}
"""Seconds per room of the tests that `make test` runs."""
SLACK = 3.0
"""How many times its budget a room may take before the run fails: the same tests took 1.5 times as long on another day, and
compile as much again where nothing is kept from an earlier run."""
LONGEST_FIRST = (
    "contracts/test_evidence.py",
    "house/test_documentation.py",
    "contracts/test_representations.py",
    "diagnosis/test_diagnosis.py",
    "contracts/test_inference.py",
    "storage/test_storage.py",
    "diagnosis/test_diagnosis_evidence.py",
)
"""Files that start before all others, so that no worker is left with one of them at the end."""


def left_to_verify() -> frozenset[str]:
    """Ids of tests, and of functions with all of their parameters."""
    return frozenset(line for line in VERIFY.read_text().splitlines() if line and not line.startswith("#"))


def is_left_to_verify(nodeid: str, listed: frozenset[str]) -> bool:
    return nodeid in listed or nodeid.split("[")[0] in listed


def room(nodeid: str) -> str:
    """The folder of tests, "probmodel" for doctests, "documentation" for the README and the guides."""
    file = nodeid.split("::")[0]
    if file.endswith("test_documentation.py"):
        return "documentation"
    parts = Path(file).parts
    return parts[1] if parts[0] == "tests" and len(parts) > 2 else parts[0]


def longest_first(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    order = {f"tests/{file}": number for number, file in enumerate(LONGEST_FIRST)}
    return sorted(items, key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))


def processor_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    return sum(os.times()[:4])


class Minutes:
    """Plugin that adds up the seconds of each room, prints them, and fails the run where a room exceeds its budget."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def exceeded(self) -> list[str]:
        return [room for room, spent in self.seconds.items() if spent > SLACK * BUDGET.get(room, 0)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        spent = dict(report.user_properties).get(f"seconds of {report.when}", 0.0)
        self.seconds[room(report.nodeid)] += float(spent)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("processor seconds of each room")
        for each, spent in sorted(self.seconds.items(), key=lambda pair: -pair[1]):
            terminalreporter.line(f"{each:<16}{spent:8.1f} of {BUDGET.get(each, 0):4d}")
        terminalreporter.line(f"{'all':<16}{sum(self.seconds.values()):8.1f} of {sum(BUDGET.values()):4d}")
        for each in self.exceeded:
            terminalreporter.line(
                f"expected {each} to take {BUDGET.get(each, 0)} seconds, got {self.seconds[each]:.0f}: leave its long tests "
                "to `make verify` by a line in tests/verify.txt"
            )

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self.exceeded:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
