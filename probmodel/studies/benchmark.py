"""How near estimators of the evidence come on many problems and seeds, in what time, and whether their errors are honest."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Subject
from probmodel.studies.jobs import (
    Job,
    label,
    label_is_complete,
    read_record,
    record_path,
    run_jobs,
    subject_fingerprint,
)
from probmodel.studies.table import coverage_plot, error_plot, judged, summarized


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
        return summarized(self.frame)

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
        Job(
            problem,
            label,
            estimator,
            seed,
            record_path(folder, subject_fingerprint(subject) if folder else "", problem, label, seed),
        )
        for problem, subject in subjects.items()
        for label, estimator in named.items()
        for seed in numbers
    ]
    found = {job.key: run for job in jobs if (run := read_record(job.path)) is not None}
    missing = [job for job in jobs if job.key not in found]
    with tqdm(total=len(jobs), initial=len(found), disable=not progress, desc="evidence") as bar:
        for job, run in run_jobs(missing, subjects, num_jobs):
            found[job.key] = run
            bar.update()
    rows = [
        {"problem": job.problem, "estimator": job.label, "seed": job.seed, **found[job.key]._asdict()} for job in jobs
    ]
    return Benchmark(judged(pd.DataFrame(rows), exact or {}))


def _named(estimators: Sequence[Estimator], *, keeps: bool) -> dict[str, Estimator]:
    labels = [label(estimator) for estimator in estimators]
    twice = sorted({name for name in labels if labels.count(name) > 1})
    if twice:
        raise ValueError(
            f"expected estimators of different names, got {twice} more than once; give them other settings"
        )
    for estimator in estimators if keeps else ():
        if not label_is_complete(estimator):
            raise ValueError(
                f"expected estimators that a file can be named after, got {label(estimator)}, whose work depends on more "
                "than its name; write a function of a module and set its arguments with functools.partial"
            )
    return dict(zip(labels, estimators, strict=True))
