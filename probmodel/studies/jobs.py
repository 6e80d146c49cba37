"""Runs of an estimator on a problem, in this process or another one, with their records on disk."""

import hashlib
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial, singledispatch
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple
from uuid import uuid4

import cloudpickle
import joblib
import torch

from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.dataset import digest
from probmodel.protocols.errors import EvidenceWarning, SlowRunWarning
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Subject
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

_ONE_AT_A_TIME = threading.Lock()
"""Lock: random states and Pyro's parameter store belong to the process, so its threads run one estimator at a time."""


class Job(NamedTuple):
    """One run to do: an estimator on a problem with a seed, and the file of its record."""

    problem: str
    label: str
    estimator: Estimator
    seed: int
    path: Path | None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.problem, self.label, self.seed


class Run(NamedTuple):
    """Result of one call of an estimator, in nats; `failure` is empty if it succeeded."""

    log_z: float = math.nan
    stderr: float = math.nan
    lower: float = -math.inf
    upper: float = math.inf
    level: float = math.nan
    seconds: float = math.nan
    failure: str = ""
    warnings: str = ""


def run_jobs(jobs: list[Job], subjects: Mapping[str, Subject], num_jobs: int) -> Iterator[tuple[Job, Run]]:
    """Yield each job with its run: first those of worker processes, in order, then those that must stay in this one."""
    if num_jobs == 1:
        yield from ((job, _run(partial(subjects.__getitem__, job.problem), job)) for job in jobs)
        return
    packed = {problem: _packed(problem, subjects[problem]) for problem in dict.fromkeys(job.problem for job in jobs)}
    away = [job for job in jobs if packed[job.problem] is not None]
    tasks = (joblib.delayed(_run)(partial(_unpacked, packed[job.problem]), job) for job in away)
    yield from zip(away, joblib.Parallel(n_jobs=num_jobs, return_as="generator")(tasks), strict=True)
    here = [job for job in jobs if packed[job.problem] is None]
    yield from run_jobs(here, subjects, num_jobs=1)


def _packed(problem: str, subject: Subject) -> bytes | None:
    """Subject as bytes for another process; None, with a warning, if it cannot be serialized."""
    try:
        return cloudpickle.dumps(subject)
    except Exception as error:  # noqa: BLE001 - whatever a user's model holds may refuse in its own way
        warnings.warn(
            f"benchmark: expected a problem that can be sent to another process, got {type(error).__name__} from {problem!r}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}; it runs in this process, one run at a "
            "time; make its model picklable",
            SlowRunWarning,
            stacklevel=2,
        )
        return None


@lru_cache(maxsize=8)
def _unpacked(packed: bytes) -> Subject:
    """Subject from its bytes, cached so that a worker traces each problem's model once."""
    return cloudpickle.loads(packed)


def _run(subject: Callable[[], Subject], job: Job) -> Run:
    with _ONE_AT_A_TIME, _one_thread(), isolated(job.seed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvidenceWarning)
        start = time.perf_counter()
        try:
            run = _evidence(subject(), job)
        except Exception as error:  # noqa: BLE001 - one estimator's failure, whatever it is, is a result of the benchmark
            run = Run(failure=f"{type(error).__name__}: {error}")
        run = run._replace(seconds=time.perf_counter() - start)
    said = [str(each.message) for each in caught if issubclass(each.category, EvidenceWarning)]
    run = run._replace(warnings="; ".join(dict.fromkeys(said)))
    for other in caught:
        if not issubclass(other.category, EvidenceWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if job.path is not None:
        _keep(job.path, job, run)
    return run


def _evidence(subject: Subject, job: Job) -> Run:
    found = job.estimator(subject, seed=job.seed)
    if not math.isfinite(found.log_z):
        return Run(failure=f"expected a finite log Z, got {found.log_z}")
    return Run(found.log_z, found.stderr, found.lower, found.upper, found.level)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@singledispatch
def label(estimator: Callable[..., Any]) -> str:
    """Name and settings of an estimator, as `importance(num_samples=1000)`; the repr of a callable object.

    Example:
        >>> label(partial(record_path, problem="coins", seed=1))
        "record_path(problem='coins', seed=1)"
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
    """Return whether the label determines what the estimator does, as those of lambdas and closures do not."""
    return " at 0x" not in label(estimator)


@label_is_complete.register
def _(estimator: partial) -> bool:
    parts = (estimator.func, *estimator.args, *estimator.keywords.values())
    return all(label_is_complete(each) for each in parts if callable(each))


@label_is_complete.register
def _(estimator: FunctionType) -> bool:
    return estimator.__name__ != "<lambda>" and not estimator.__closure__


def subject_fingerprint(subject: Subject) -> str:
    """Fingerprint of the data, of the density at three points (up to rounding errors), and of a posterior's draws."""
    target = target_of(subject)
    points = torch.linspace(-0.5, 0.5, 3, dtype=target.dtype, device=target.device)[:, None].expand(3, target.dim)
    density = [f"{float(value):.5e}" for value in target.log_joint(points.contiguous())]
    draws = starting_point(subject).draws
    return f"{target.digest} {target.dim} {' '.join(density)} {digest(list(draws.values())) if draws else ''}"


def record_path(folder: str | Path | None, fingerprint: str, problem: str, name: str, seed: int) -> Path | None:
    """File of a run's record in `folder`; None without a folder."""
    if folder is None:
        return None
    key = hashlib.sha256(json.dumps([fingerprint, problem, name, seed]).encode()).hexdigest()[:24]
    return Path(folder) / f"{key}.json"


def read_record(path: Path | None) -> Run | None:
    """Finished run from its file; None if there is none, the run failed, or the file holds no run."""
    if path is None or not path.is_file():
        return None
    try:
        run = Run(**json.loads(path.read_text())["run"])
    except (ValueError, TypeError, KeyError):
        return None
    return None if run.failure else run


def _keep(path: Path, job: Job, run: Run) -> None:
    """Write the record atomically: all of the file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{uuid4().hex}.part")
    record = {"problem": job.problem, "estimator": job.label, "seed": job.seed, "run": run._asdict()}
    part.write_text(json.dumps(record, indent=1))
    os.replace(part, path)
