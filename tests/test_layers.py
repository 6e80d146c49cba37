"""Imports run in one direction, without cycles, at the top of a file."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "probmodel"
FILES = sorted(ROOT.rglob("*.py"))
NAMES = [file.relative_to(ROOT).as_posix() for file in FILES]

SHARED = {"protocols", "structural", "integers", "form"}
"""What modelling and reasoning have in common."""
SPINE = SHARED | {
    "rounding",
    "trend",
    "graphs",
    "compiling",
    "memory",
    "placing",
    "tracing",
    "ownership",
    "sites",
    "target",
    "gaussian_processes",
    "bayesian_networks",
    "boltzmann_machines",
}
MODELLING = {"data", "features", "representations", "decisions"}
READERS = SPINE | {"curvature", "conjugate", "objectives", "tempering", "arviz_data"}
"""What the rooms that read a posterior may use."""

MAY_IMPORT: dict[str, set[str]] = {
    "structural": set(),
    "protocols": {"structural"},
    "integers": set(),
    "form": {"protocols", "integers"},
    "arviz_data": set(),
    # Modelling.
    **dict.fromkeys(MODELLING, SHARED),
    "representations": SHARED | {"gaussian_processes", "bayesian_networks", "boltzmann_machines"},
    "lift": {"protocols"} | MODELLING,
    "pipeline": {"protocols"} | MODELLING,
    # Reasoning.
    "graphs": set(),
    "rounding": set(),
    "trend": set(),
    "compiling": {"protocols", "rounding", "graphs"},
    "gaussian_processes": {"structural", "integers", "memory", "tracing"},
    "memory": {"integers"},
    "bayesian_networks": {"integers", "memory"},
    "boltzmann_machines": {"structural", "protocols", "integers", "tracing"},
    "placing": {"protocols"},
    "tracing": {"protocols", "integers", "rounding", "graphs", "compiling"},
    "ownership": {"protocols", "placing", "tracing"},
    "sites": {"protocols", "placing", "tracing"},
    "target": {"protocols", "form", "graphs", "memory", "placing", "tracing", "ownership", "sites"},
    "curvature": SPINE,
    "conjugate": SPINE | {"curvature"},
    "objectives": SPINE | {"curvature", "conjugate"},
    "tempering": SPINE | {"curvature"},
    "inference": SPINE | {"tempering", "curvature", "conjugate", "objectives", "arviz_data"},
    "evidence": READERS,
    "predict": READERS,
    "exports": READERS,
    # What follows the rows shows in a refit.
    "diagnosis": READERS | {"evidence", "predict", "inference"},
    "compare": READERS | {"evidence", "predict", "diagnosis", "exports"},
    "compare_posteriors": READERS | {"evidence", "predict", "diagnosis", "exports"},
    # A saved fit names the layers it is made of and rebuilds them, so storage sees both halves; neither half sees it.
    "fit_folder": {"protocols"},
    "process_pieces": set(),
    "descriptions": {"protocols", "lift", "pipeline", "gaussian_processes", "process_pieces"} | MODELLING,
    "fitted_pair": READERS | {"descriptions", "inference"},
    "storage": READERS | {"descriptions", "fit_folder", "fitted_pair"},
}
MAY_IMPORT["report"] = READERS | {
    "evidence",
    "predict",
    "diagnosis",
    "compare",
    "compare_posteriors",
    "exports",
    "storage",
}
MAY_IMPORT["demo"] = set(MAY_IMPORT) | {"inference"}
MAY_IMPORT["cli"] = set(MAY_IMPORT) | {"inference"}
MAY_IMPORT["__init__"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli"}


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file: Path) -> list[tuple[str, list[str]]]:
    """(module, names) of each import of the package."""
    found: list[tuple[str, list[str]]] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append(("." * node.level + (node.module or ""), [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
    return [(module, names) for module, names in found if module.split(".")[0] == "probmodel" or module.startswith(".")]


def modules_used(file: Path) -> set[str]:
    """Dotted modules of the package that a file imports, submodules named in a `from` included."""
    known = {module_name(other) for other in FILES}
    used = set()
    for module, names in imports(file):
        inner = {f"{module}.{name}" for name in names} & known
        used |= inner or {module}
    return used


def module_name(file: Path) -> str:
    parts = ("probmodel", *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_imports_run_in_one_direction(file):
    assert room(file) in MAY_IMPORT, f"{room(file)} is a new room: say in MAY_IMPORT what it may import"
    allowed = MAY_IMPORT[room(file)] | {room(file)}
    for module in modules_used(file):
        assert module != "probmodel" or room(file) == "__init__", f"{file.name} imports the whole package"
        imported = module.split(".")[1] if "." in module else "__init__"
        assert imported in allowed, f"{room(file)} may not import {imported}"


def test_modelling_and_reasoning_never_import_each_other():
    modelling = MODELLING | {"lift", "pipeline"}
    reasoning = READERS - SHARED - {"gaussian_processes", "bayesian_networks", "boltzmann_machines"} | {
        "inference",
        "evidence",
        "predict",
        "exports",
        "diagnosis",
        "compare",
        "compare_posteriors",
        "report",
    }
    for file in FILES:
        rooms = {module.split(".")[1] for module in modules_used(file) if "." in module}
        if room(file) in modelling:
            assert not rooms & reasoning, file.name
        if room(file) in reasoning:
            assert not rooms & modelling, file.name


def test_no_two_modules_import_each_other():
    graph = {module_name(file): modules_used(file) - {module_name(file)} for file in FILES}
    # static_order raises CycleError with the modules of the cycle.
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("probmodel.protocols") < order.index("probmodel.tracing") < order.index("probmodel.target")


def at_the_top(body: list[ast.stmt]) -> list[ast.stmt]:
    inner = [node for each in body if isinstance(each, ast.Try | ast.With) for node in at_the_top(each.body)]
    return [*body, *inner]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_import_is_absolute_explicit_and_at_the_top(file):
    tree = ast.parse(file.read_text())
    assert "TYPE_CHECKING" not in file.read_text()
    # A package that is an extra is imported in a `try` at the top, so that its absence is told on use; one that warns of
    # itself in a `with` around that.
    top = {id(node) for node in at_the_top(tree.body)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert id(node) in top, f"line {node.lineno}: import below the top level"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: wildcard import"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"__import__", "importlib.import_module", "import_module"}, f"line {node.lineno}"


def test_only_tracing_graphs_and_compiling_touch_internals_of_torch_and_pyro():
    internal = ("torch.fx", "torch._", "pyro.params.param_store", "unittest.mock")
    for file in FILES:
        if room(file) in ("tracing", "graphs", "compiling"):
            continue
        modules = [n.module or "" for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.ImportFrom)]
        assert not [module for module in modules if module.startswith(internal)], file.name


def test_no_module_shadows_the_standard_library():
    assert not [name for file in FILES if (name := file.stem) in sys.stdlib_module_names and not name.startswith("__")]


def test_the_whole_package_imports_under_checked_annotations():
    assert "probmodel.protocols" in sys.modules or __import__("probmodel.protocols")
