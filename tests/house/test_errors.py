"""Every error says what was expected, what came, and what to do; every one of the package's own has one base."""

import ast
import inspect
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from house.imports import ROOT, files

import probmodel as pb

ERRORS = (
    "ValueError",
    "TypeError",
    "KeyError",
    "ArithmeticError",
    "MemoryError",
    "FileExistsError",
    "FileNotFoundError",
)
FILES = files()
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]
INTERNAL = {
    "expected JSON, got the constant ": "wrapped by the error that names the corrupt file",
    "…; OpenML failed too: ": "begins with a text that says expected and got",
    "expected strides of a dense tensor of shape ": "wrapped by the error that names the corrupt file",
}
"""Beginnings of messages that no user reads as they stand, and why."""


def text_of(node: ast.expr) -> str | None:
    """The literal parts of a message; None for one that is built elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def messages(file) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            text = text_of(node.exc.args[0])
            if ast.unparse(node.exc.func) in ERRORS and text is not None:
                found.append((node.lineno, text))
    return found


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_message_says_expected_got_and_a_remedy(file):
    lacking = [
        (line, text)
        for line, text in messages(file)
        if not text.startswith(tuple(INTERNAL)) and ("; " not in text or "got" not in text)
    ]
    assert lacking == []


def test_there_are_messages_to_check():
    assert sum(len(messages(file)) for file in FILES) > 300


def test_the_packages_own_errors_and_warnings_have_one_base_each():
    own = [each for _, each in inspect.getmembers(pb.errors, inspect.isclass) if each.__module__ == pb.errors.__name__]
    assert len(own) > 10
    for each in own:
        base = pb.errors.ProbmodelWarning if issubclass(each, Warning) else pb.errors.ProbmodelError
        assert issubclass(each, base) and each.__doc__


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_errors_and_warnings_are_defined_in_one_file(file):
    if file.name == "errors.py":
        return
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            bases = " ".join(map(ast.unparse, node.bases))
            assert not bases.endswith(("Error", "Warning")), f"{node.name} belongs into protocols/errors.py"


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_warning_has_a_class_of_its_own(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("warn", "warnings.warn")
            and file.name != "errors.py"
        ):
            named = [ast.unparse(each) for each in node.args[1:]]
            own = named and (hasattr(pb.errors, named[0]) or named[0] == "NumericalWarning")
            assert own, f"line {node.lineno}: name a warning of pb.errors"


def eager(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        pyro.sample("y", dist.Normal(loc, 1.0 if float(loc) > 0 else 2.0), obs=y)


def test_a_warning_names_the_line_of_the_call_into_the_package(monkeypatch):
    monkeypatch.setattr(pb.errors, "_INSIDE", (*pb.errors._INSIDE, str(ROOT.parent / "tests" / "conftest.py")))
    data = pb.Dataset.of_rows(y=torch.tensor([0.0, 1.0, 2.0]))
    calls = [lambda: pb.data.standardize(torch.ones(5, 1)), lambda: pb.target(eager, data)]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pb.errors.ProbmodelWarning)
            call()
        own = [each for each in caught if issubclass(each.category, pb.errors.ProbmodelWarning)]
        assert own
        for each in own:
            assert each.filename == __file__
