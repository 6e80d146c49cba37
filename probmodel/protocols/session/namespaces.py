"""Names that a namespace imports when they are first used, so that `import probmodel` takes no longer than Pyro's import.

>>> import probmodel as pb
>>> "sandwich" in dir(pb.evidence)
True
"""

import ast
import inspect
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Deferred:
    """A name that a namespace has from a module, which is not imported yet."""

    module: str
    name: str


class Namespace(ModuleType):
    """A module some names of which are imported when they are first read (`__getattr__` of modules: PEP 562)."""

    deferred: dict[str, Deferred]

    def __getattr__(self, name: str) -> Any:
        if name not in vars(self).get("deferred", {}):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _same_random_states():
            value = vars(self)[name] = _imported(self.__name__, self.deferred[name])
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds each imported submodule to its parent; here that must not hide the function of the same name.
        submodule = sys.modules.get(f"{self.__name__}.{name}")
        if name not in self.deferred or value is not submodule:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        hidden = {"TYPE_CHECKING", "deferred", "on_first_use"}
        own = {name for name in super().__dir__() if not name.startswith("_") or name.startswith("__")}
        return sorted({*own, *self.deferred} - hidden)


def on_first_use(namespace: str) -> None:
    """Import the names under `if TYPE_CHECKING:` of a package's `__init__` when they are first read.

    Type checkers, linters and readers see plain imports.  The random states of Python, NumPy and PyTorch are the same after
    a module was imported on first use as before, so results do not depend on when that was.

    Args:
        namespace: `__name__` of the package.
    """
    module = sys.modules[namespace]
    block = next(each for each in ast.parse(inspect.getsource(module)).body if ast.unparse(each).startswith(DEFERRED))
    found = [each for each in ast.walk(block) if type(each) is ast.ImportFrom]
    vars(module)["deferred"] = {
        alias.asname or alias.name: Deferred(str(each.module), alias.name) for each in found for alias in each.names
    }
    module.__class__ = Namespace


DEFERRED = "if TYPE_CHECKING:"


def _imported(namespace: str, deferred: Deferred) -> Any:
    """The value of a deferred name; a name of the namespace itself is one of its submodules."""
    if deferred.module != namespace:
        module = import_module(deferred.module)
        if hasattr(module, deferred.name):
            return getattr(module, deferred.name)
    return import_module(f"{deferred.module}.{deferred.name}")


@contextmanager
def _same_random_states() -> Iterator[None]:
    """Some packages draw random numbers when they are imported."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
