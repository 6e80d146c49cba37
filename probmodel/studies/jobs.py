"""Runs of an estimator on a problem, in this process or another one, with their records on disk."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cloudpickle
import joblib
import torch

from probmodel.protocols.errors import EvidenceWarning, SlowRunWarning, warn
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Subject
from probmodel.studies.records import Key, keep_record, read_record
from probmodel.tracing.error_messages import raise_if_raised_by, raise_time_out, signal_handlers
from probmodel.tracing.randomness import isolated


class Job(NamedTuple):
    """One run to do: an estimator on a problem with a seed, and the folder and key of its record, if it is kept."""

    problem: str
    label: str
    estimator: Estimator
    seed: int
    folder: Path | None = None
    key: Key | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Row of the results."""
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
        raise_time_out(error)
        warn(
            f"benchmark: expected a problem that can be sent to another process, got {type(error).__name__} from {problem!r}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}; it runs in this process, one run at a "
            "time; make its model picklable",
            SlowRunWarning,
        )
        return None


@lru_cache(maxsize=8)
def _unpacked(packed: bytes) -> Subject:
    """Subject from its bytes, cached so that a worker traces each problem's model once."""
    return cloudpickle.loads(packed)


def _run(subject: Callable[[], Subject], job: Job) -> Run:
    outside = signal_handlers()
    with isolated(job.seed), _one_thread(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvidenceWarning)
        start = time.perf_counter()
        try:
            run = _evidence(subject(), job)
        except Exception as error:  # noqa: BLE001 - one estimator's failure, whatever it is, is a result of the benchmark
            raise_if_raised_by(outside, error)
            run = Run(failure=f"{type(error).__name__}: {error}")
        run = run._replace(seconds=time.perf_counter() - start)
    said = [str(each.message) for each in caught if issubclass(each.category, EvidenceWarning)]
    run = run._replace(warnings="; ".join(dict.fromkeys(said)))
    for other in caught:
        if not issubclass(other.category, EvidenceWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if job.folder is not None and job.key is not None:
        keep_record(job.key, job.folder, run._asdict())
    return run


def kept(job: Job) -> Run | None:
    """Finished run of an earlier benchmark; None where there is none, or it failed."""
    fields = None if job.folder is None or job.key is None else read_record(job.key, job.folder)
    if fields is None or tuple(fields) != Run._fields or fields["failure"]:
        return None
    return Run(**fields)


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
