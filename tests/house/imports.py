"""Draws the imports of the package: `python tests/house/imports.py` prints its rooms by floor, and the arrows between them.

A room is a folder or a file at the top of the package; an arrow is a pair of rooms of which one imports the other; a room
stands one floor above the highest one that it imports.
"""

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2] / "probmodel"


def files(root: Path = ROOT) -> list[Path]:
    return sorted(root.rglob("*.py"))


def room(file: Path, root: Path = ROOT) -> str:
    return file.relative_to(root).parts[0].removesuffix(".py")


def module_name(file: Path, root: Path = ROOT) -> str:
    parts = ("probmodel", *file.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(file: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(module, names) of each import of the package."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.append(("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
    return tuple(
        (module, names) for module, names in found if module.split(".")[0] == "probmodel" or module.startswith(".")
    )


def modules_used(file: Path, root: Path = ROOT) -> set[str]:
    """Dotted modules of the package that a file imports, submodules named in a `from` included."""
    known = {module_name(other, root) for other in files(root)}
    used = set()
    for module, names in imports(file):
        inner = {f"{module}.{name}" for name in names} & known
        used |= inner or {module}
    return used


def arrows(root: Path = ROOT) -> dict[str, set[str]]:
    """Room → the other rooms that it imports."""
    found: dict[str, set[str]] = {}
    for file in files(root):
        rooms = {module.split(".")[1] for module in modules_used(file, root) if "." in module}
        found.setdefault(room(file, root), set()).update(rooms - {room(file, root)})
    return found


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Room → its floor; raises CycleError where imports run in a circle."""
    height: dict[str, int] = {}
    for each in TopologicalSorter(graph).static_order():
        height[each] = 1 + max((height[below] for below in graph.get(each, ())), default=0)
    return height


def drawing(root: Path = ROOT) -> str:
    """Rooms by floor from the top down, each with what it imports; then the counts."""
    graph, names = arrows(root), files(root)
    height = floors(graph)
    lines = {
        each: sum(len(file.read_text().splitlines()) for file in names if room(file, root) == each) for each in graph
    }
    rows = [
        f"floor {height[each]:>2}  {each:<12} {lines[each]:>6} lines  → {', '.join(sorted(graph[each])) or '–'}"
        for each in sorted(graph, key=lambda each: (-height[each], each))
    ]
    loose = sum(file.parent == root for file in names)
    count = sum(map(len, graph.values()))
    total = f"{len(graph)} rooms, {loose} of them loose files, {max(height.values())} floors, {count} arrows"
    return "\n".join([*rows, total])


if __name__ == "__main__":
    print(drawing(*map(Path, sys.argv[1:])))
