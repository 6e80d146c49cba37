"""Figure of the evidence: every estimate with its error bar, and the bounds as a band."""

import math
import textwrap
from statistics import median_high

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Estimate, Evidence

NORMAL_95 = 1.959963984540054
"""Half length of an error bar in standard errors, two-sided 95 %."""
BLUE, GRAY, RED, INK = "#2563eb", "#94a3b8", "#dc2626", "#475569"
WIDTH = 8.0
"""Width of the figure in inches, which a notebook shows without shrinking it."""
CAPTION_WIDTH = 130
"""Characters per line of the caption, at its font size."""
NEAR_WIDTHS = 1.0
"""Distance within which an estimate with a caveat or a long error bar still widens the axis, in units of the width of
the other estimates or of a typical error bar."""


@checks_arguments
def plot(evidence: Evidence) -> Figure:
    """Figure with one row per estimator and ± 1.96 standard errors, the two-sided bound as a band and log Z as a line.

    Hollow markers have no standard error; gray ones have a caveat, which is written beneath.  An estimate far outside
    is an arrow with its value, so that it does not compress the others.  A refused evidence shows the unchecked bounds,
    hatched, and the first check that failed.

    Args:
        evidence: result of `sandwich`; that of any other estimator gives a single row.
    """
    rows = evidence.agreement.estimates or (Estimate(evidence.method or "estimate", evidence.log_z, evidence.stderr),)
    band = _band(evidence)
    left, right = _window(evidence, rows, band)
    digits = _digits(right - left)
    caption = _caption(evidence)
    figure = Figure(figsize=(WIDTH, 0.42 * len(rows) + 1.5 + 0.16 * caption.count("\n")), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(left, right)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _draw_band(axes, evidence, band, digits)
    if math.isfinite(evidence.log_z):
        axes.axvline(evidence.log_z, color=INK, lw=1, zorder=1, label="log Z")
    for place, estimate in enumerate(rows):
        _draw_row(axes, place, estimate, digits)
    axes.set_yticks(range(len(rows)), [each.method for each in rows])
    axes.tick_params(axis="y", length=0, pad=10)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
    axes.grid(axis="x", alpha=0.3)
    axes.ticklabel_format(axis="x", useOffset=False, style="plain")
    axes.locator_params(axis="x", nbins=7)
    axes.set_xlabel("log evidence, nats")
    color = RED if _refused(evidence) else "black"
    figure.suptitle(_title(evidence), x=0.01, ha="left", fontsize=11, color=color)
    if axes.get_legend_handles_labels()[0]:
        # A legend of the axes, since one of the figure would overlap the title.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=2, frameon=False, fontsize=9)
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=INK)
    return figure


def _draw_band(axes: Axes, evidence: Evidence, band: tuple[float, float], digits: int) -> None:
    """Shade from bound to bound, or to the edge on a side without a bound; hatch if the evidence is refused."""
    lower, upper = band
    if not (math.isfinite(lower) or math.isfinite(upper)):
        return
    edges = axes.get_xlim()
    ends = (lower if math.isfinite(lower) else edges[0], upper if math.isfinite(upper) else edges[1])
    if _refused(evidence):
        label = textwrap.fill(f"refused: {_first_failure(evidence)}", CAPTION_WIDTH - 20)
        axes.axvspan(*ends, facecolor="none", edgecolor=RED, hatch="////", alpha=0.35, lw=0, zorder=0, label=label)
        return
    if math.isfinite(lower) and math.isfinite(upper):
        said = f"bound [{_text(lower, digits)}, {_text(upper, digits)}]"
    else:
        said = f"lower bound {_text(lower, digits)}" if math.isfinite(lower) else f"upper bound {_text(upper, digits)}"
    axes.axvspan(*ends, color=BLUE, alpha=0.15, lw=0, zorder=0, label=f"{100 * evidence.level:.4g} % {said}")
    for end in (lower, upper):
        axes.axvline(end, color=BLUE, alpha=0.4, lw=1, zorder=0)  # A closed form's band is too narrow to see.


def _draw_row(axes: Axes, place: int, estimate: Estimate, digits: int) -> None:
    color = GRAY if estimate.caveat else BLUE
    inside = axes.get_yaxis_transform()  # x as a fraction of the axes, y in rows
    if estimate.caveat:
        said = textwrap.shorten(estimate.caveat, 100, placeholder=" …")
        axes.text(0.005, place + 0.36, said, transform=inside, fontsize=7, color=INK, va="center")
    left, right = axes.get_xlim()
    if not math.isfinite(estimate.log_z):
        axes.text(
            0.5, place, f"no finite value: {estimate.log_z}", transform=inside, fontsize=8, color=INK, ha="center"
        )
    elif left <= estimate.log_z <= right:
        known = math.isfinite(estimate.stderr)
        bar = NORMAL_95 * estimate.stderr if known else None
        face = color if known else "white"
        axes.errorbar(estimate.log_z, place, xerr=bar, fmt="o", color=color, mfc=face, ms=6, capsize=3, zorder=3)
    else:
        below = estimate.log_z < left
        end, step, align = (left, 10, "left") if below else (right, -10, "right")
        face = color if math.isfinite(estimate.stderr) else "white"
        axes.plot(end, place, marker="<" if below else ">", color=color, mfc=face, ms=9, clip_on=False, zorder=3)
        axes.annotate(
            _text(estimate.log_z, min(digits, 2)),
            (end, place),
            (step, 0),
            textcoords="offset points",
            ha=align,
            va="center",
            fontsize=8,
            color=INK,
        )


def _band(evidence: Evidence) -> tuple[float, float]:
    """Bounds, or the unchecked ones if the evidence is refused."""
    if _refused(evidence):
        lower, upper = evidence.info.get("unchecked_bounds", (-math.inf, math.inf))
        return (lower, upper) if lower <= upper else (upper, lower)
    return evidence.lower, evidence.upper


def _refused(evidence: Evidence) -> bool:
    return bool(evidence.info.get("failed"))


def _first_failure(evidence: Evidence) -> str:
    """First failed check without its remedy, which the warning gives."""
    return str(evidence.info["failed"][0]).split(";")[0]


def _window(evidence: Evidence, rows: tuple[Estimate, ...], band: tuple[float, float]) -> tuple[float, float]:
    """Limits of the axis: they include all trusted estimates, and others that are near enough not to compress them."""
    trusted = [each for each in rows if not each.caveat]
    points = [value for value in (evidence.log_z, *band, *(each.log_z for each in trusted)) if math.isfinite(value)]
    points = points or [each.log_z for each in rows if math.isfinite(each.log_z)] or [0.0]
    if math.isfinite(evidence.stderr):
        points += [evidence.log_z - NORMAL_95 * evidence.stderr, evidence.log_z + NORMAL_95 * evidence.stderr]
    low, high = min(points), max(points)
    optional = [value for each in trusted for value in _ends(each)] + [each.log_z for each in rows if each.caveat]
    bars = [2 * NORMAL_95 * each.stderr for each in trusted if 0 < each.stderr < math.inf] or [0.0]
    reach = NEAR_WIDTHS * max(high - low, median_high(bars))
    near = [value for value in optional if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    width = max(high - low, 1e-6 * max(1.0, abs(high)))
    return low - 0.08 * width, high + 0.08 * width


def _ends(estimate: Estimate) -> tuple[float, ...]:
    half = NORMAL_95 * estimate.stderr
    return (estimate.log_z - half, estimate.log_z + half) if math.isfinite(half) else ()


def _title(evidence: Evidence) -> str:
    error = f" ± {evidence.stderr:.2g}" if math.isfinite(evidence.stderr) else ""
    digits = max(0, 1 - math.floor(math.log10(evidence.stderr))) if 0 < evidence.stderr < math.inf else 4
    said = f"log evidence {_text(evidence.log_z, digits)}{error} nats"
    return f"refused: {said} is not to be trusted" if _refused(evidence) else said


def _caption(evidence: Evidence) -> str:
    agreement = evidence.agreement.p_value
    found = [] if math.isnan(agreement) else [f"agreement of estimators: p {_p_value(agreement)}"]
    found += [f"given {len(evidence.given)} point-estimated tensors"] if evidence.given else []
    found += [evidence.certified] if evidence.certified else []
    return textwrap.fill("; ".join(found), CAPTION_WIDTH)


def _p_value(value: float) -> str:
    return "< 1e-10" if value < 1e-10 else f"= {value:.2g}"


def _digits(width: float) -> int:
    """Number of decimals that distinguishes two values a hundredth of `width` apart."""
    return min(9, max(1, 2 - math.floor(math.log10(width)))) if width > 0 and math.isfinite(width) else 4


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
