"""The tests left to `make verify` are listed once and exist; the budgets of the rooms fit into ten minutes."""

import re
from pathlib import Path

import pytest
from minutes import BUDGET, LONGEST_FIRST, SLACK, VERIFY, Minutes, is_left_to_verify, left_to_verify, room

ROOT = Path(__file__).parents[2]
LISTED = sorted(left_to_verify())


@pytest.mark.parametrize("line", LISTED)
def test_every_test_left_to_verify_exists(line):
    file, function = line.split("[")[0].split("::")
    assert re.search(rf"^def {function}\(", (ROOT / file).read_text(), re.MULTILINE), f"{line}: no such test"


def test_the_files_that_start_first_exist():
    assert all((ROOT / "tests" / file).is_file() for file in LONGEST_FIRST)


def test_no_test_is_listed_twice():
    lines = [line for line in VERIFY.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(set(lines))
    functions = {line for line in lines if "[" not in line}
    assert not [line for line in lines if "[" in line and line.split("[")[0] in functions]


def test_every_room_of_tests_has_a_budget_and_all_fit_into_ten_minutes_of_two_processors():
    folders = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders <= set(BUDGET)
    assert sum(BUDGET.values()) <= 2 * 600


def test_a_function_leaves_with_all_of_its_parameters():
    listed = frozenset({"tests/a/test_b.py::test_c", "tests/a/test_b.py::test_d[1]"})
    assert is_left_to_verify("tests/a/test_b.py::test_c[2]", listed)
    assert not is_left_to_verify("tests/a/test_b.py::test_d[2]", listed)


def test_a_room_over_its_budget_fails_the_run():
    minutes = Minutes()
    minutes.seconds["tracing"] = SLACK * BUDGET["tracing"] + 1
    minutes.seconds["data"] = BUDGET["data"]
    assert minutes.exceeded == ["tracing"]


def test_doctests_and_documentation_are_rooms_of_their_own():
    assert room("probmodel/protocols/integers.py::probmodel.protocols.integers.integer") == "probmodel"
    assert room("tests/house/test_documentation.py::test_x") == "documentation"
    assert room("tests/test_cli.py::test_y") == "tests"
