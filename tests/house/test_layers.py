"""Imports run in one direction, without cycles, at the top of a file."""

import ast
import sys
from graphlib import TopologicalSorter

import pytest
from house.imports import ROOT, arrows, drawing, files, floors, imports, module_name, modules_used, room

FILES = files()
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]

BASE = {"protocols", "draws"}
REASONING_BASE = BASE | {"tracing", "families"}
MAY_IMPORT: dict[str, set[str]] = {
    "protocols": set(),
    "draws": set(),
    "data": {"protocols"},
    "tracing": {"protocols"},
    "families": {"protocols", "tracing"},
    "layers": {"protocols", "families"},
    "inference": REASONING_BASE,
    "prediction": REASONING_BASE,
    "evidence": REASONING_BASE,
    # A saved fit names the layers it is made of and rebuilds them, so storage sees both halves; neither half sees it.
    "storage": REASONING_BASE | {"layers", "inference"},
    # What follows the rows shows in a refit.
    "diagnosis": REASONING_BASE | {"inference", "prediction", "evidence"},
    "comparison": REASONING_BASE | {"prediction", "evidence", "diagnosis", "storage"},
    "studies": {"protocols", "tracing", "evidence"},
}
MAY_IMPORT["demo"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = {*MAY_IMPORT}
MAY_IMPORT["__init__"] = set(MAY_IMPORT)

MODELING = {"data", "layers"}
REASONING = {"tracing", "inference", "prediction", "evidence", "diagnosis", "comparison", "studies"}
NAMESPACES = ROOT / "protocols" / "session" / "namespaces.py"
"""The one module that imports others when their names are first used."""
INTERNAL = ("torch.fx", "torch._", "pyro.params.param_store", "unittest.mock")
"""Modules that only tracing may import."""


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_run_in_one_direction(file):
    assert room(file) in MAY_IMPORT, f"{room(file)} is a new room: say in MAY_IMPORT what it may import"
    allowed = MAY_IMPORT[room(file)] | {room(file)}
    for module in modules_used(file):
        assert module != "probmodel" or room(file) == "__init__", f"{file.name} imports the whole package"
        imported = module.split(".")[1] if "." in module else "__init__"
        assert imported in allowed, f"{room(file)} may not import {imported}"


def test_modeling_and_reasoning_never_import_each_other():
    for each, below in arrows().items():
        if each in MODELING:
            assert not below & REASONING, each
        if each in REASONING:
            assert not below & MODELING, each


def test_rooms_floors_and_arrows_stay_few():
    graph = arrows()
    assert len(graph) <= 16 and sum(file.parent == ROOT for file in FILES) == 3
    assert max(floors(graph).values()) <= 8
    assert sum(map(len, graph.values())) <= 65
    assert drawing().splitlines()[-1].startswith(f"{len(graph)} rooms, 3 of them loose files")


def test_no_folder_holds_more_than_fifteen_files():
    for folder in {file.parent for file in FILES}:
        modules = [file for file in FILES if file.parent == folder and file.name != "__init__.py"]
        assert len(modules) <= 15, f"{folder.name} holds {len(modules)} files: which two rooms are in it?"


def test_no_two_modules_import_each_other():
    graph = {module_name(file): modules_used(file) - {module_name(file)} for file in FILES}
    # static_order raises CycleError with the modules of the cycle.
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("probmodel.protocols.model") < order.index("probmodel.tracing.target")


def is_deferred(node: ast.stmt) -> bool:
    """Return whether a statement holds the imports of a namespace, which run when their names are first read."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def at_the_top(body: list[ast.stmt]) -> list[ast.stmt]:
    inner = [
        node
        for each in body
        if isinstance(each, ast.Try | ast.With) or is_deferred(each)
        for node in at_the_top(each.body)
    ]
    return [*body, *inner]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_import_is_absolute_explicit_and_at_the_top(file):
    tree = ast.parse(file.read_text())
    assert "TYPE_CHECKING" not in file.read_text() or file.name in ("__init__.py", "namespaces.py")
    # A package that is an extra is imported in a `try` at the top, so that its absence is reported on use; one that warns
    # of itself in a `with` around that.
    top = {id(node) for node in at_the_top(tree.body)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert id(node) in top, f"line {node.lineno}: import below the top level"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: wildcard import"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            dynamic = called in {"__import__", "importlib.import_module", "import_module"}
            assert not dynamic or file == NAMESPACES, f"line {node.lineno}"


@pytest.mark.parametrize("file", [file for file in FILES if file.name == "__init__.py"], ids=str)
def test_namespaces_import_on_first_use(file):
    eager = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
    own = {node.module for node in eager if (node.module or "").split(".")[0] == "probmodel"}
    assert room(file) == "protocols" or own <= {"probmodel.protocols.session.namespaces"}, (
        f"{file.parent.name}/__init__.py: put its imports under `if TYPE_CHECKING:` and call on_first_use(__name__)"
    )


def private_of_others(file) -> list[str]:
    """Private attributes of Pyro's, PyTorch's or GPyTorch's objects that a file reads, and private names it imports."""
    tree = ast.parse(file.read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            package = (node.module or "").split(".")[0]
            if package != "probmodel" and (node.module or "").startswith(INTERNAL):
                found.append(f"line {node.lineno}: {node.module}")
            elif package in {"pyro", "torch", "gpytorch", "linear_operator"}:
                found += [f"line {node.lineno}: {alias.name}" for alias in node.names if alias.name.startswith("_")]
        elif isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            named_tuple = node.attr in {"_replace", "_asdict", "_make", "_fields", "_field_defaults"}
            if private and not named_tuple and node.attr not in own and node.attr != "_repr_html_":
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr", "attrgetter"}:
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            found += [f"line {node.lineno}: {name}" for name in names if name.startswith("_") and name[1:2] != "_"]
    return found


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_only_tracing_touches_what_torch_and_pyro_keep_private(file):
    if room(file) != "tracing":
        assert private_of_others(file) == []


def test_no_module_shadows_the_standard_library():
    assert not [name for file in FILES if (name := file.stem) in sys.stdlib_module_names and not name.startswith("__")]


def test_the_guard_sees_a_private_name(tmp_path):
    file = tmp_path / "draws.py"
    file.write_text("from torch import _assert\nfrom torch._guards import tracing\nmask = fn._mask\nsubject.run()\n")
    assert len(private_of_others(file)) == 3
    assert imports(file) == ()


def test_class_names_are_unique_in_the_package():
    classes: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in classes.items() if len(files) > 1} == {}


def test_types_are_asked_for_in_few_places():
    texts = [file.read_text() for file in FILES]
    lines = sum(len(text.splitlines()) for text in texts)
    asked = sum(text.count("isinstance(") for text in texts)
    assert 1000 * asked / lines < 3, "write a protocol's method, or a function with functools.singledispatch"


def test_every_folder_says_what_it_is():
    for file in FILES:
        if file.name == "__init__.py":
            assert ast.get_docstring(ast.parse(file.read_text())), file.parent.name
