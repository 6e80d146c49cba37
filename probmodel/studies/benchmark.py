"""Benchmark of estimators of the evidence on many problems and seeds: error, time, calibration of standard errors."""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Subject
from probmodel.studies.jobs import Job, kept, run_jobs
from probmodel.studies.records import key, label, label_is_complete, subject_fingerprint
from probmodel.studies.table import coverage_plot, error_plot, judged, summarized


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Results of all runs, in nats, with their summary per estimator.

    Args:
        frame: one row per run: problem, estimator, seed, log_z, stderr, lower, upper, level, seconds, failure (message
            of the exception, empty for none), warnings, exact, error (log_z − exact), covered (exact within log_z ±
            1.96 stderr) and bounded (exact within [lower, upper]); the last two are missing where they cannot be
            decided.
    """

    frame: pd.DataFrame

    @property
    def summary(self) -> pd.DataFrame:
        """Table with one row per problem and estimator, over seeds.

        Its columns are median_error (of |error|), rms_error, rms_z (of error / stderr; 1 if standard errors are
        calibrated), coverage, bounded, violations (number of runs whose bounds exclude the exact value), judged (number
        of runs in coverage), seconds (median), runs, failed, warned; and, without need of an exact value, mean, spread
        (standard deviation over seeds), difference (mean − precision-weighted mean of all estimators) and agreement
        (the difference in units of its standard error).
        """
        return summarized(self.frame)

    def plot(self) -> Figure:
        """Plot |error| against seconds, and coverage with binomial errors, or spread and agreement without exact values."""
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


@checks_arguments
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
    """Run every estimator on every problem with every seed.

    A run that raises is recorded with its message and stops no other; an EvidenceWarning is recorded.  The results do
    not depend on `num_jobs`: each run has its own seed, and PyTorch one thread, since the number of threads determines
    the order of sums.  `joblib.parallel_config` chooses another backend, such as that of a cluster; in one that uses
    threads runs follow one another, since the random state belongs to the process.

    Args:
        subjects: problem → fit, or target.
        estimators: functions, or partial ones (`functools.partial`), whose settings become part of the name.
        seeds: random seeds, one run per seed.
        exact: problem → log evidence in nats, where it is known.
        folder: folder in which each finished run is kept as a JSON file and found again: where problem, data, estimator
            with its own code, seed and releases of the packages are the same, and the file is as it was written; failed
            ones run anew.
        num_jobs: number of worker processes; −1 for all cores.
        progress: whether to show a progress bar.

    Returns:
        Benchmark with rows in the order problem, estimator, seed, however the runs were distributed.

    Raises:
        ValueError: if two estimators have one name, an exact value belongs to no problem, or there is nothing to run;
            with a `folder`, if an estimator's name does not determine what it does (a lambda, or a closure).
    """
    named = _named(estimators, keeps=folder is not None)
    unknown = sorted(set(exact or {}) - set(subjects))
    if unknown:
        raise ValueError(f"expected exact values of {sorted(subjects)}, got some of {unknown}; leave those out")
    numbers = list(dict.fromkeys(seeds))
    if not (subjects and named and numbers):
        raise ValueError("expected at least one problem, estimator and seed, got none; add one")
    jobs = [
        Job(problem, label, estimator, seed)
        for problem in subjects
        for label, estimator in named.items()
        for seed in numbers
    ]
    if folder is not None:
        fingerprints = {name: subject_fingerprint(subject) for name, subject in subjects.items()}
        jobs = [
            job._replace(
                folder=Path(folder), key=key(job.problem, job.label, job.estimator, job.seed, fingerprints[job.problem])
            )
            for job in jobs
        ]
    found = {job.place: run for job in jobs if (run := kept(job)) is not None}
    missing = [job for job in jobs if job.place not in found]
    with tqdm(total=len(jobs), initial=len(found), disable=not progress, desc="evidence") as bar:
        for job, run in run_jobs(missing, subjects, num_jobs):
            found[job.place] = run
            bar.update()
    rows = [
        {"problem": job.problem, "estimator": job.label, "seed": job.seed, **found[job.place]._asdict()} for job in jobs
    ]
    return Benchmark(judged(pd.DataFrame(rows), exact or {}))


def _named(estimators: Sequence[Estimator], *, keeps: bool) -> dict[str, Estimator]:
    labels = [label(estimator) for estimator in estimators]
    twice = sorted({name for name in labels if labels.count(name) > 1})
    if twice:
        raise ValueError(
            f"expected estimators of different names, got {twice} more than once; give them different settings"
        )
    for estimator in estimators if keeps else ():
        if not label_is_complete(estimator):
            raise ValueError(
                f"expected estimators that a file can be named after, got {label(estimator)}, whose result depends on more "
                "than its name; write a function of a module and set its arguments with functools.partial"
            )
    return dict(zip(labels, estimators, strict=True))
