"""Finished runs on disk: each under the key that determines it, and read again only where key and checksum agree."""

import hashlib
import json
import os
import platform
from collections.abc import Callable
from functools import partial, singledispatch
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple
from uuid import uuid4

import torch

from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.dataset import digest
from probmodel.protocols.posterior import Subject
from probmodel.tracing.target import target_of

PACKAGES = ("probmodel", "torch", "pyro-ppl", "numpy")
"""Packages whose release may change a result."""


class Key(NamedTuple):
    """All that determines a run: a record of any other key is another run's."""

    problem: str
    estimator: str
    seed: int
    subject: str
    """Fingerprint of the data and the density, of `subject_fingerprint`."""
    code: str
    """Fingerprint of the estimator's own code."""
    versions: str

    def path(self, folder: Path) -> Path:
        """File of the record."""
        return folder / f"{_sha256(list(self))[:24]}.json"


def key(problem: str, name: str, estimator: Callable[..., Any], seed: int, subject: str) -> Key:
    """The key of a run in this process."""
    return Key(problem, name, int(seed), subject, _sha256(code(estimator)), versions())


def versions() -> str:
    """Releases of Python and of the packages that a result depends on."""
    return " ".join(["python " + platform.python_version(), *(f"{name} {version(name)}" for name in PACKAGES)])


def read_record(key: Key, folder: Path) -> dict[str, Any] | None:
    """Fields of a finished run; None where there is no file, or one that is not as it was written under this key."""
    path = key.path(folder)
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        given = record["key"] == key._asdict() and record["sha256"] == _sha256([record["key"], record["run"]])
    except (ValueError, TypeError, KeyError):
        return None
    return record["run"] if given else None


def keep_record(key: Key, folder: Path, run: dict[str, Any]) -> None:
    """Write the fields of a run: all of the file or nothing of it."""
    path = key.path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{uuid4().hex}.part")
    described = key._asdict()
    try:
        part.write_text(json.dumps({"key": described, "run": run, "sha256": _sha256([described, run])}, indent=1))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@singledispatch
def label(estimator: Callable[..., Any]) -> str:
    """Name and settings of an estimator, as `importance(num_samples=1000)`; the repr of a callable object.

    Example:
        >>> label(partial(read_record, problem="coins", seed=1))
        "read_record(problem='coins', seed=1)"
    """
    return repr(estimator)


@label.register
def _(estimator: FunctionType) -> str:
    return estimator.__name__


@label.register
def _(estimator: partial) -> str:
    settings = [_setting(value) for value in estimator.args]
    settings += [f"{name}={_setting(value)}" for name, value in sorted(estimator.keywords.items())]
    return f"{label(estimator.func)}({', '.join(settings)})"


def _setting(value: Any) -> str:
    return label(value) if callable(value) else repr(value)


@singledispatch
def label_is_complete(estimator: Callable[..., Any]) -> bool:
    """Return whether the label determines what the estimator does, as those of lambdas, closures and long arrays do not."""
    return " at 0x" not in label(estimator) and "..." not in label(estimator)


@label_is_complete.register
def _(estimator: partial) -> bool:
    parts = (estimator.func, *estimator.args, *estimator.keywords.values())
    return "..." not in label(estimator) and all(label_is_complete(each) for each in parts if callable(each))


@label_is_complete.register
def _(estimator: FunctionType) -> bool:
    return estimator.__name__ != "<lambda>" and not estimator.__closure__


@singledispatch
def code(estimator: Any) -> Any:
    """Code of an estimator and of the functions in its settings, so that a function that was edited is another one."""
    call = type(estimator).__call__ if callable(estimator) else None
    return code(call) if type(call) is FunctionType else repr(estimator)


@code.register
def _(estimator: FunctionType) -> Any:
    kept = {name: code(value) for name, value in (estimator.__kwdefaults__ or {}).items()}
    return [code(estimator.__code__), [code(value) for value in estimator.__defaults__ or ()], kept]


@code.register
def _(estimator: MethodType) -> Any:
    return [code(estimator.__func__), repr(estimator.__self__)]


@code.register
def _(estimator: partial) -> Any:
    return [
        code(estimator.func),
        [code(value) for value in estimator.args],
        {k: code(v) for k, v in estimator.keywords.items()},
    ]


@code.register
def _(estimator: CodeType) -> Any:
    constants = [code(value) for value in estimator.co_consts]
    return [estimator.co_code.hex(), list(estimator.co_names), list(estimator.co_varnames), constants]


@code.register
def _(estimator: frozenset) -> Any:
    return sorted(map(repr, estimator))  # Their own order differs between processes.


def subject_fingerprint(subject: Subject) -> str:
    """Fingerprint of the data, of the density at three points (up to rounding errors), and of a posterior's draws."""
    target = target_of(subject)
    points = torch.linspace(-0.5, 0.5, 3, dtype=target.dtype, device=target.device)[:, None].expand(3, target.dim)
    density = [f"{float(value):.5e}" for value in target.log_joint(points.contiguous())]
    draws = starting_point(subject).draws
    return f"{target.digest} {target.dim} {' '.join(density)} {digest(list(draws.values())) if draws else ''}"
