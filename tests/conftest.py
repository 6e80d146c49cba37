"""Every test leaves Pyro's parameter store empty and the global random states alone; annotations are checked."""

import hashlib
import importlib
import pkgutil
import random
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from functools import partial, wraps
from types import CodeType, FunctionType
from typing import Any
from unittest.mock import patch

import jaxtyping
import numpy as np
import pyro
import pytest
import torch
from minutes import Minutes, is_left_to_verify, left_to_verify, longest_first, processor_seconds

# Beartype looks at one random item of each container; it must not draw it from the state that the tests watch.
with patch("random.getrandbits", random.Random(0).getrandbits):
    importlib.import_module("beartype")

CHECKED, EVERY = 10, 100
"""Calls of a function in a test whose annotations are checked: so many first ones, then one of so many."""
calls = Counter[CodeType]()
check_all = jaxtyping.jaxtyped


def check_some(checked: Any = None, *, typechecker: Any) -> Any:
    """Check the annotations of most calls but those of inner loops, where checks would take most of the time."""
    if checked is None:
        return partial(check_some, typechecker=typechecker)
    if not isinstance(checked, FunctionType):
        return check_all(checked, typechecker=typechecker)
    # Functions inside of functions are new each time, and to add checks to one costs more than to call it.
    code, with_checks = checked.__code__, list[Callable]()

    @wraps(checked)
    def called(*args: Any, **kwargs: Any) -> Any:
        calls[code] += 1
        if calls[code] > CHECKED and calls[code] % EVERY:
            return checked(*args, **kwargs)
        if not with_checks:
            with_checks.append(check_all(checked, typechecker=typechecker))
        return with_checks[0](*args, **kwargs)

    return called


# Before anything imports probmodel: shapes and types in its annotations are checked in tests only.
jaxtyping.jaxtyped = check_some
jaxtyping.install_import_hook("probmodel", "beartype.beartype")
# All of it at once: warnings and seconds of the imports are no test's doing.
package = importlib.import_module("probmodel")
for each in pkgutil.walk_packages(package.__path__, "probmodel."):
    importlib.import_module(each.name)


spent = processor_seconds()
"""Processor time of this process when the last phase of a test ended."""


def fingerprints() -> dict[str, str]:
    """A digest of each global state that a fit could disturb."""
    states = {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's random state": repr(np.random.get_state()).encode(),  # noqa: NPY002 - read only
        "Python's random state": repr(random.getstate()).encode(),
        "torch's default dtype": repr(torch.get_default_dtype()).encode(),
    }
    return {name: hashlib.sha256(state).hexdigest() for name, state in states.items()}


@pytest.fixture(autouse=True)
def _no_globals() -> Iterator[None]:
    calls.clear()
    before = fingerprints()
    yield
    left = sorted(pyro.get_param_store().keys())
    after = fingerprints()
    pyro.clear_param_store()
    changed = [name for name in before if before[name] != after[name]]
    assert not left, f"the parameter store holds {left}"
    assert not changed, f"{' and '.join(changed)} changed"


@pytest.fixture
def annotations_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments meet the package's own checks alone, as they do outside of tests."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C arrives, as it does not in a process that a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--verify", action="store_true", help="run the tests of tests/verify.txt as well")
    parser.addoption("--hold-budget", action="store_true", help="fail where a room of tests exceeds its seconds")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compiles: runs torch.compile, which costs seconds")
    if config.getoption("--hold-budget") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Minutes(), "minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests to `make verify`, but run what is asked for by name; begin with the longest files."""
    items[:] = longest_first(items)
    named = any("::" in argument for argument in config.args)
    if config.getoption("--verify") or named:
        return
    listed = left_to_verify()
    left = [item for item in items if is_left_to_verify(item.nodeid, listed)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if not is_left_to_verify(item.nodeid, listed)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """The processor's seconds since the last phase ended, which a report carries to where they are added up."""
    report = yield
    global spent
    now = processor_seconds()
    report.user_properties.append((f"seconds of {call.when}", now - spent))
    spent = now
    return report
