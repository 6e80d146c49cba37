"""Runs of estimators of the evidence against exact values, or against one another: verdicts, summary, plots."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

NORMAL_95 = 1.959963984540054
"""Normal quantile of the two-sided 95 % intervals whose coverage is counted."""
MARKERS = "osD^v"
"""Plot markers, one per ten estimators, after which the colors repeat."""
TABLE_ROUNDING = 1e-6
"""Tolerance in nats for an estimate without standard error, and the least standard error that counts."""


def judged(frame: pd.DataFrame, exact: Mapping[str, float]) -> pd.DataFrame:
    """Runs with columns exact, error, covered and bounded, of which the last two are missing where undecidable."""
    frame = frame.assign(exact=frame["problem"].map(dict(exact)).astype(float))
    frame = frame.assign(error=frame["log_z"] - frame["exact"])
    told = frame["error"].notna() & frame["stderr"].notna()
    covered = frame["error"].abs() <= NORMAL_95 * frame["stderr"] + TABLE_ROUNDING
    finite = np.isfinite(frame["lower"]) | np.isfinite(frame["upper"])
    inside = (frame["lower"] - TABLE_ROUNDING <= frame["exact"]) & (frame["exact"] <= frame["upper"] + TABLE_ROUNDING)
    return frame.assign(
        covered=covered.astype("boolean").where(told),
        bounded=inside.astype("boolean").where(finite & frame["error"].notna()),
    )


def summarized(frame: pd.DataFrame) -> pd.DataFrame:
    """Table with one row per problem and estimator, in the order of the runs."""
    rows = [
        {"problem": problem, "estimator": estimator, **_over_seeds(runs)}
        for (problem, estimator), runs in frame.groupby(["problem", "estimator"], sort=False)
    ]
    table = pd.DataFrame(rows)
    parts = [_agreement(part) for _, part in table.groupby("problem", sort=False)]
    return pd.concat(parts).drop(columns="mean_error").sort_index()


def _over_seeds(runs: pd.DataFrame) -> dict[str, float]:
    good = runs[runs["failure"] == ""]
    error, z = good["error"], (good["error"] / good["stderr"])[good["stderr"] > 0]
    spread = float(good["log_z"].std())
    reported = _rms(good["stderr"])
    # Seeds may share draws, which hides part of the spread, and standard errors may be too small: the larger counts.
    single = reported if math.isnan(spread) else max(spread, reported)
    return {
        "median_error": float(error.abs().median()),
        "rms_error": _rms(error),
        "rms_z": _rms(z),
        "coverage": _fraction(good["covered"]),
        "bounded": _fraction(good["bounded"]),
        "violations": int((~good["bounded"].dropna().astype(bool)).sum()),
        "judged": int(good["covered"].notna().sum()),
        "mean": float(good["log_z"].mean()),
        "spread": spread,
        "mean_error": single / math.sqrt(len(good)) if len(good) else math.nan,
        "seconds": float(runs["seconds"].median()),
        "runs": len(runs),
        "failed": len(runs) - len(good),
        "warned": int((runs["warnings"] != "").sum()),
    }


def _agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Table with each mean's difference from the precision-weighted mean of all, also in units of its standard error.

    An estimator is part of the mean it is compared with, so that the variance of the difference is its own minus that
    of the mean.  Estimators without a standard error are left out.
    """
    error = table["mean_error"].clip(lower=TABLE_ROUNDING)
    precision = (1 / error**2).fillna(0.0)
    total = float(precision.sum())
    if total == 0:
        return table.assign(difference=math.nan, agreement=math.nan)
    difference = table["mean"] - float((precision * table["mean"].fillna(0.0)).sum()) / total
    variance = error**2 - 1 / total
    scale = np.sqrt(variance.where(variance > 1e-9 * error**2))
    return table.assign(difference=difference, agreement=difference / scale)


def _rms(values: pd.Series) -> float:
    return float(np.sqrt((values.dropna() ** 2).mean())) if values.notna().any() else math.nan


def _fraction(verdicts: pd.Series) -> float:
    told = verdicts.dropna().astype(float)
    return float(told.mean()) if len(told) else math.nan


# ---------------------------------------------------------------------------------------------- plots


def error_plot(axes: Axes, summary: pd.DataFrame) -> None:
    """Plot median |error| against median seconds, one marker per problem; spread over seeds without exact values."""
    known = summary["median_error"].notna().any()
    column = "median_error" if known else "spread"
    for position, (name, part) in enumerate(summary.groupby("estimator", sort=False)):
        marker = MARKERS[position // 10 % len(MARKERS)]
        # An error of exactly zero has no place on a logarithmic axis.
        axes.plot(part["seconds"].clip(lower=1e-4), part[column].clip(lower=1e-12), marker, label=str(name), alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="seconds (median)")
    axes.set_ylabel("|log Z − exact|, nats (median)" if known else "spread of log Z over seeds, nats")


def coverage_plot(axes: Axes, summary: pd.DataFrame) -> None:
    """Plot coverage of log Z ± 1.96 stderr with its binomial 95 % interval; without exact values the agreement."""
    known = summary["coverage"].notna().any()
    for position, (_, part) in enumerate(summary.groupby("estimator", sort=False)):
        offset = position + np.linspace(-0.2, 0.2, len(part)) * (len(part) > 1)
        if known:
            # Wilson (1927): stays inside [0, 1] and has a length at coverage 0 and 1.
            center, half = _wilson(part["coverage"].to_numpy(float), part["judged"].to_numpy(float))
            axes.errorbar(offset, center, half, fmt="none", capsize=3, color=f"C{position % 10}")
        marker = MARKERS[position // 10 % len(MARKERS)]
        axes.plot(offset, part["coverage" if known else "agreement"], marker, color=f"C{position % 10}")
    names = list(dict.fromkeys(summary["estimator"]))
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    for line in (0.95,) if known else (-NORMAL_95, 0, NORMAL_95):
        axes.axhline(line, color="0.6", linestyle="--", linewidth=1)
    axes.set_ylabel("coverage of log Z ± 1.96 stderr" if known else "(mean − pooled mean) / its standard error")


def _wilson(fraction: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Center and half length of the 95 % interval of a fraction of `count` trials; nan for no trials."""
    count = np.where(count > 0, count, np.nan)
    z2 = NORMAL_95**2
    scale = 1 + z2 / count
    half = NORMAL_95 * np.sqrt(fraction * (1 - fraction) / count + z2 / (4 * count**2)) / scale
    return (fraction + z2 / (2 * count)) / scale, half
