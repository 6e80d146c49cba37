"""How near estimators of the evidence come on many problems and seeds, in what time, and whether their errors are honest."""

import hashlib
import html
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple
from uuid import uuid4

import cloudpickle
import joblib
import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from probmodel.evidence.benchmark_table import coverage_plot, error_plot, judged, summarised
from probmodel.evidence.weights import EvidenceWarning
from probmodel.protocols import Estimator, Posterior, Subject, digest
from probmodel.target import target_of
from probmodel.tracing import isolated

_ONE_AT_A_TIME = threading.Lock()
"""Random states and Pyro's parameter store belong to the process: its threads run one estimator after the other."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """What each run found, nats, and what that says of the estimators.

    Args:
        frame: a row a run: problem, estimator, seed, log_z, stderr, lower, upper, level, seconds, failure (message of
            the exception, empty for none), warnings, exact, error (log_z − exact), covered (exact within log_z ± 1.96
            stderr) and bounded (exact within [lower, upper]); a verdict is missing where it cannot be told.
    """

    frame: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """A row for each problem and estimator, over seeds.

        median_error (of |error|), rms_error, rms_z (of error / stderr; 1 where the error bars are honest), coverage,
        bounded, violations (number of runs whose bounds exclude the exact value), seconds (median), runs, failed, warned;
        mean, spread (standard deviation over seeds), difference (mean − precision-weighted mean of all estimators) and
        agreement (the difference in its standard error), which need no exact value.
        """
        return summarised(self.frame)

    def plot(self) -> Figure:
        """|Error| against seconds, and coverage with binomial errors; without exact values spread and agreement."""
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        summary = self.summary
        error_plot(left, summary)
        coverage_plot(right, summary)
        handles, labels = left.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
        return figure

    def __str__(self) -> str:
        return (
            f"{self._headline()}\n{self.summary.dropna(axis=1, how='all').to_string(index=False, float_format='%.4g')}"
        )

    def _repr_html_(self) -> str:
        table = self.summary.dropna(axis=1, how="all").to_html(index=False, float_format="{:.4g}".format, na_rep="–")
        return f"<p>{html.escape(self._headline())}</p>{table}"

    def _headline(self) -> str:
        failed = int((self.frame["failure"] != "").sum())
        return f"{len(self.frame)} runs, {failed} failed; all in nats"


def benchmark(
    subjects: Mapping[str, Subject],
    estimators: Sequence[Estimator],
    seeds: Iterable[int] = range(20),
    exact: Mapping[str, float] | None = None,
    *,
    folder: str | Path | None = None,
    num_jobs: int = 1,
    progress: bool = True,
) -> Benchmark:
    """Every estimator on every problem with every seed.

    A run that raises is recorded with its message and stops no other; an EvidenceWarning is recorded.  The numbers do
    not depend on `num_jobs`: each run has its own seed, and PyTorch one thread, since the number of threads decides the
    order of sums.  `joblib.parallel_config` chooses another back end, say a cluster's; in one that works by threads
    runs follow one another, for the random state belongs to the process.

    Args:
        subjects: problem → posterior, or target.
        estimators: functions, or `functools.partial`s of them, whose settings become part of the name.
        seeds: one run each.
        exact: problem → log evidence in nats, where it is known.
        folder: where each finished run is kept as a file of JSON and found again; failed ones run anew.
        num_jobs: worker processes; −1 for all cores.
        progress: whether to show a bar.

    Returns:
        Benchmark; rows in the order problem, estimator, seed, however the runs were spread.

    Raises:
        ValueError: for two estimators of one name, an exact value of no problem, or nothing to run; with a `folder`, for
            an estimator whose name does not say what it does (a lambda, or a function with variables of its surroundings).
    """
    named = _named(estimators, keeps=folder is not None)
    unknown = sorted(set(exact or {}) - set(subjects))
    if unknown:
        raise ValueError(f"expected exact values of {sorted(subjects)}, got some of {unknown}; leave them out")
    numbers = list(dict.fromkeys(seeds))
    if not (subjects and named and numbers):
        raise ValueError("expected at least one problem, estimator and seed, got none; add one")
    jobs = [
        _Job(
            problem,
            label,
            estimator,
            seed,
            _path(folder, _fingerprint(subject) if folder else "", problem, label, seed),
        )
        for problem, subject in subjects.items()
        for label, estimator in named.items()
        for seed in numbers
    ]
    found = {job.key: run for job in jobs if (run := _kept(job.path)) is not None}
    missing = [job for job in jobs if job.key not in found]
    with tqdm(total=len(jobs), initial=len(found), disable=not progress, desc="evidence") as bar:
        for job, run in _runs(missing, subjects, num_jobs):
            found[job.key] = run
            bar.update()
    rows = [
        {"problem": job.problem, "estimator": job.label, "seed": job.seed, **found[job.key]._asdict()} for job in jobs
    ]
    return Benchmark(judged(pd.DataFrame(rows), exact or {}))


class _Job(NamedTuple):
    problem: str
    label: str
    estimator: Estimator
    seed: int
    path: Path | None

    @property
    def key(self) -> tuple[str, str, int]:
        return self.problem, self.label, self.seed


class _Run(NamedTuple):
    """What one call gave, in nats; `failure` is empty where it gave something."""

    log_z: float = math.nan
    stderr: float = math.nan
    lower: float = -math.inf
    upper: float = math.inf
    level: float = math.nan
    seconds: float = math.nan
    failure: str = ""
    warnings: str = ""


# ---------------------------------------------------------------------------------------------- running


def _runs(jobs: list[_Job], subjects: Mapping[str, Subject], num_jobs: int) -> Iterator[tuple[_Job, _Run]]:
    """Each job with its run, as they finish in order."""
    if num_jobs == 1:
        yield from ((job, _run(partial(subjects.__getitem__, job.problem), job)) for job in jobs)
        return
    packed = {problem: _packed(problem, subjects[problem]) for problem in dict.fromkeys(job.problem for job in jobs)}
    away = [job for job in jobs if packed[job.problem] is not None]
    tasks = (joblib.delayed(_run)(partial(_unpacked, packed[job.problem]), job) for job in away)
    yield from zip(away, joblib.Parallel(n_jobs=num_jobs, return_as="generator")(tasks), strict=True)
    here = [job for job in jobs if packed[job.problem] is None]
    yield from _runs(here, subjects, num_jobs=1)


def _packed(problem: str, subject: Subject) -> bytes | None:
    """The subject as bytes for another process; None, with a warning, where it cannot leave this one."""
    try:
        return cloudpickle.dumps(subject)
    except Exception as error:  # noqa: BLE001 - whatever a user's model holds may refuse in its own way
        warnings.warn(
            f"benchmark: expected a problem that can be sent to another process, got {type(error).__name__} from {problem!r}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}; it runs in this process, one run after the other",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@lru_cache(maxsize=8)
def _unpacked(packed: bytes) -> Subject:
    """Kept, so that a worker traces each problem's model once."""
    return cloudpickle.loads(packed)


def _run(subject: Callable[[], Subject], job: _Job) -> _Run:
    with _ONE_AT_A_TIME, _one_thread(), isolated(job.seed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvidenceWarning)
        start = time.perf_counter()
        try:
            run = _evidence(subject(), job)
        except Exception as error:  # noqa: BLE001 - one estimator's failure, whatever it is, is a result of the benchmark
            run = _Run(failure=f"{type(error).__name__}: {error}")
        run = run._replace(seconds=time.perf_counter() - start)
    said = [str(each.message) for each in caught if issubclass(each.category, EvidenceWarning)]
    run = run._replace(warnings="; ".join(dict.fromkeys(said)))
    for other in caught:
        if not issubclass(other.category, EvidenceWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if job.path is not None:
        _keep(job.path, job, run)
    return run


def _evidence(subject: Subject, job: _Job) -> _Run:
    found = job.estimator(subject, seed=job.seed)
    if not math.isfinite(found.log_z):
        return _Run(failure=f"expected a finite log Z, got {found.log_z}")
    return _Run(found.log_z, found.stderr, found.lower, found.upper, found.level)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------------------------------------- names and files


def _named(estimators: Sequence[Estimator], *, keeps: bool) -> dict[str, Estimator]:
    labels = [label(estimator) for estimator in estimators]
    twice = sorted({name for name in labels if labels.count(name) > 1})
    if twice:
        raise ValueError(
            f"expected estimators of different names, got {twice} more than once; give them other settings"
        )
    for estimator in estimators if keeps else ():
        if not _says_it_all(estimator):
            raise ValueError(
                f"expected estimators that a file can be named after, got {label(estimator)}, whose work depends on more "
                "than its name; write a function of a module and set its arguments with functools.partial"
            )
    return dict(zip(labels, estimators, strict=True))


def label(estimator: Callable[..., Any]) -> str:
    """Name and settings of an estimator: `importance(num_samples=1000)`; that of a callable object is its repr.

    Example:
        >>> label(partial(benchmark, num_jobs=2, progress=False))
        'benchmark(num_jobs=2, progress=False)'
    """
    if isinstance(estimator, partial):
        settings = [_setting(value) for value in estimator.args]
        settings += [f"{name}={_setting(value)}" for name, value in sorted(estimator.keywords.items())]
        return f"{label(estimator.func)}({', '.join(settings)})"
    return estimator.__name__ if isinstance(estimator, FunctionType) else repr(estimator)


def _setting(value: Any) -> str:
    return label(value) if callable(value) else repr(value)


def _says_it_all(estimator: Callable[..., Any]) -> bool:
    if isinstance(estimator, partial):
        return all(_says_it_all(each) for each in (estimator.func, *estimator.keywords.values()) if callable(each))
    is_function = isinstance(estimator, FunctionType)
    return not (is_function and (estimator.__name__ == "<lambda>" or estimator.__closure__)) and " at 0x" not in label(
        estimator
    )


def _fingerprint(subject: Subject) -> str:
    """Of the data, the density at three points (rounding aside), and a posterior's draws."""
    target = target_of(subject)
    points = torch.linspace(-0.5, 0.5, 3, dtype=target.dtype, device=target.device)[:, None].expand(3, target.dim)
    density = [f"{float(value):.5e}" for value in target.log_joint(points.contiguous())]
    draws = digest(list(subject.draws.values())) if isinstance(subject, Posterior) else ""
    return f"{target.digest} {target.dim} {' '.join(density)} {draws}"


def _path(folder: str | Path | None, fingerprint: str, problem: str, name: str, seed: int) -> Path | None:
    if folder is None:
        return None
    key = hashlib.sha256(json.dumps([fingerprint, problem, name, seed]).encode()).hexdigest()[:24]
    return Path(folder) / f"{key}.json"


def _kept(path: Path | None) -> _Run | None:
    """A finished run from its file; None where there is none, it failed, or the file is no run."""
    if path is None or not path.is_file():
        return None
    try:
        run = _Run(**json.loads(path.read_text())["run"])
    except (ValueError, TypeError, KeyError):
        return None
    return None if run.failure else run


def _keep(path: Path, job: _Job, run: _Run) -> None:
    """Write all of the file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{uuid4().hex}.part")
    record = {"problem": job.problem, "estimator": job.label, "seed": job.seed, "run": run._asdict()}
    part.write_text(json.dumps(record, indent=1))
    os.replace(part, path)
