"""Figures of a comparison, made with matplotlib but without its global state."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from probmodel.comparison.models import Comparison, Row
from probmodel.diagnosis.findings import MARK
from probmodel.diagnosis.scored import Scored
from probmodel.prediction.averages import has_classes
from probmodel.prediction.scores.calibration import reliability

COLORS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
WORST_ROWS = 12


class _Panel(NamedTuple):
    label: str
    finding: str
    rows: Sequence[Row]


def scores(comparison: Comparison) -> Figure:
    """Evidence and held-out log score of each model, with two standard errors.

    Full evidences and those given point estimates have an axis each, since they must not be compared.  A number that is not
    to be relied on is drawn hollow, a lower bound as an arrow.
    """
    panels = _panels(comparison)
    figure = Figure(figsize=(9, 0.5 * len(comparison.rows) + 1.9), layout="constrained")
    places = {row.name: place for place, row in enumerate(reversed(comparison.rows))}
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True):
        for row in panel.rows:
            shown = row.diagnosis[panel.finding]
            axes.errorbar(
                shown.value,
                places[row.name],
                xerr=2 * np.nan_to_num(shown.stderr),
                fmt=">" if shown.only_lower else "o",
                color=COLORS[0],
                mfc="white" if shown.doubt else COLORS[0],
                capsize=3,
            )
        axes.set_yticks(list(places.values()), list(places))
        axes.set_xlabel(panel.label, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        axes.margins(x=0.15, y=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    figure.supxlabel(f"hollow: {MARK} not to be relied on; arrow: lower bound", fontsize=8, color="#64748b")
    return figure


def _panels(comparison: Comparison) -> list[_Panel]:
    full = [row for row in comparison.rows if not row.evidence.given]
    given = [row for row in comparison.rows if row.evidence.given]
    scored = [row for row in comparison.rows if "held-out log score" in row.diagnosis]
    panels = [
        _Panel("log evidence\n(nats)", "log evidence", full),
        _Panel("log evidence given\npoint estimates* (nats)", "log evidence", given),
        _Panel("held-out log score\n(nats per row)", "held-out log score", scored),
    ]
    return [panel for panel in panels if panel.rows]


def losses(comparison: Comparison) -> Figure:
    """Loss of each optimized fit per step, smoothed over at most fifty steps."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    for color, row in zip(_colors(comparison), comparison.rows, strict=True):
        values = np.asarray(row.posterior.info.get("losses", ()))
        if len(values) < 2:
            continue
        width = max(1, min(50, len(values) // 10))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(np.arange(len(smooth)) + width, smooth, label=row.name, color=color)
    positive = all(np.min(line.get_ydata()) > 0 for line in axes.lines)
    axes.set_yscale("log" if positive else "linear")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats over the data set")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(frameon=False)
    return figure


def gaps(comparison: Comparison) -> Figure:
    """Log scores of training and held-out rows; the distance between them is the cost of fitting."""
    figure = Figure(figsize=(9, 0.5 * len(comparison.rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(comparison.rows)):
        if "gap" not in row.diagnosis:
            continue
        train, test = row.diagnosis["train log score"], row.diagnosis["held-out log score"]
        flagged = bool(row.diagnosis["gap"].flag)
        axes.plot([train.value, test.value], [place, place], color=COLORS[3] if flagged else "#94a3b8", lw=3, zorder=1)
        for each, color in ((train, COLORS[0]), (test, COLORS[1])):
            axes.errorbar(each.value, place, xerr=2 * each.stderr, fmt="o", color=color, capsize=3)
    axes.set_yticks(
        range(len(comparison.rows)), [f"{r.name}: {r.diagnosis.verdict}" for r in reversed(comparison.rows)]
    )
    axes.set_xlabel("log score, nats per row (blue: training rows, orange: held-out rows)")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.25)
    return figure


def calibration(comparison: Comparison) -> Figure:
    """Accuracy against confidence of the held-out predictions of each classifier."""
    rows = [row for row in comparison.rows if row.calibration is not None and row.held_out is not None]
    figure = Figure(figsize=(max(3.0, 2.4 * len(rows)), 2.9), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(1, max(1, len(rows)), sharey=True)), rows, strict=False):
        _reliability(axes, row)
    return figure


def _reliability(axes: Axes, row: Row) -> None:
    test = row.held_out
    if test is None or row.calibration is None or not has_classes(test.prediction.distribution):
        return
    confidence, predicted = test.prediction.distribution.probs.max(-1)
    table = reliability(confidence, predicted == test.observed)
    counts = table.num_rows.numpy(force=True)
    filled = counts > 0
    x, y = (values.numpy(force=True)[filled] for values in (table.confidence, table.accuracy))
    axes.plot([0, 1], [0, 1], color="#94a3b8", lw=1)
    axes.scatter(x, y, s=10 + 120 * counts[filled] / max(1, counts.sum()), color=COLORS[0], alpha=0.8)
    measured = row.calibration
    axes.set_title(row.name, fontsize=10)
    axes.set_xlabel(
        f"confidence\nECE {measured.ece:.3f}, null {measured.null_mean:.3f} ± {measured.null_sd:.3f}", fontsize=8
    )
    axes.set_ylim(-0.03, 1.03)


def hardest_rows(row: Row, x: Tensor) -> Figure | None:
    """Held-out images with the worst scores, with the predicted and the true class; None for other data or models."""
    test = row.held_out
    if test is None or x.dim() != 4 or not has_classes(test.prediction.distribution):
        return None
    return _images(test, test.prediction.distribution.probs, x)


def _images(test: Scored, probs: Tensor, x: Tensor) -> Figure:
    order = test.log_score.argsort()[:WORST_ROWS].tolist()
    figure = Figure(figsize=(9, 1.35), layout="constrained")
    for axes, index in zip(figure.subplots(1, len(order)), order, strict=True):
        axes.imshow(x[index].mean(0).numpy(force=True), cmap="gray_r")
        predicted, truth = int(probs[index].argmax()), int(test.observed[index])
        color = COLORS[3] if predicted != truth else "#475569"
        axes.set_title(f"{predicted} ({float(probs[index].max()):.0%})\ntrue {truth}", fontsize=7, color=color)
        axes.set_axis_off()
    return figure


def _colors(comparison: Comparison) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(comparison.rows))]
