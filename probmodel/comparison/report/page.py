"""Report of comparisons as one HTML file that needs neither a network nor JavaScript."""

import base64
import html
import io
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from matplotlib.figure import Figure

from probmodel.comparison.models import Comparison, Row
from probmodel.comparison.report import figures
from probmodel.diagnosis.findings import legend
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #0f172a; max-width: 1240px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h2 { border-bottom: 2px solid #e2e8f0; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; } h4 { font-size: .9rem; margin: 1rem 0 .3rem; }
.quiet { color: #64748b; font-size: .85rem; }
table { border-collapse: collapse; font-size: .85rem; } .wide { overflow-x: auto; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #e2e8f0; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.words { text-align: left; white-space: normal; }
.verdict { border-radius: .3rem; padding: .1rem .5rem; color: white; background: #059669; font-size: .85rem; }
.verdict.overfits, .verdict.failed { background: #dc2626; } .verdict.underfits { background: #d97706; }
.flagged { background: #fef2f2; } img { max-width: 100%; } ul { padding-left: 1.2rem; font-size: .85rem; }
"""


@checks_arguments
def report(
    comparisons: Comparison | Mapping[str, Comparison],
    path: str | Path,
    *,
    held_out: Dataset | None = None,
    title: str = "Report",
) -> Path:
    """Write tables, plots and every finding into one self-contained HTML file.

    Args:
        comparisons: one comparison, or heading → comparison; fits of different observations need comparisons of their own.
        path: path of the file; its folder is created if missing.  The file is written completely or not at all.
        held_out: held-out rows used in the comparisons; images among them are shown.
        title: heading of the page.

    Returns:
        Path of the file.

    Raises:
        ValueError: for no comparisons, and for the path of a folder.
        OSError: where the file cannot be written; an earlier one is as it was.
    """
    chapters = {"Models": comparisons} if isinstance(comparisons, Comparison) else comparisons
    if not chapters:
        raise ValueError("expected comparisons by heading, got none; pass {'Models': pb.compare(fits)}")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"expected the path of a file, got the folder {path}; pass {str(path / 'report.html')!r}")
    page = _page(chapters, held_out, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        message = f"expected to write {path}, got {error}; free space, or choose another place for the report"
        raise (OSError(message) if error.errno is None else OSError(error.errno, message)) from error
    return path


def _page(comparisons: Mapping[str, Comparison], held_out: Dataset | None, title: str) -> str:
    count = sum(len(comparison.rows) for comparison in comparisons.values())
    body = "".join(_chapter(heading, comparison, held_out) for heading, comparison in comparisons.items())
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1><p class='quiet'>{count} models; log scores and "
        f"evidences in nats; PyTorch {torch.__version__}, Python {platform.python_version()}</p>{body}</body></html>"
    )


def _chapter(heading: str, comparison: Comparison, held_out: Dataset | None) -> str:
    sections = [
        f"<h2>{html.escape(heading)}</h2><div class='wide'>{comparison._repr_html_()}</div>",
        _section("Evidence and prediction", figures.scores(comparison)),
        _section("Training against held-out rows", _with_data(figures.gaps(comparison))),
        _section("Calibration of held-out predictions", _if_any(comparison)),
        _section("Descent of the loss", _with_data(figures.losses(comparison))),
        _hardest(comparison.rows[0], held_out),
        "<h3>Findings</h3>",
        *(_findings(row) for row in comparison.rows),
    ]
    return "".join(sections)


def _if_any(comparison: Comparison) -> Figure | None:
    return figures.calibration(comparison) if any(row.calibration is not None for row in comparison.rows) else None


def _with_data(figure: Figure) -> Figure | None:
    """Return the figure, or None if no fit has data for it."""
    return figure if any(axes.has_data() for axes in figure.axes) else None


def _hardest(row: Row, held_out: Dataset | None) -> str:
    images: Sequence[torch.Tensor] = () if held_out is None else held_out.tensors()
    figure = figures.hardest_rows(row, images[0]) if images else None
    return _section(
        f"Held-out rows with the worst scores of {row.name}: predicted class, its probability, true class", figure
    )


def _section(heading: str, figure: Figure | None) -> str:
    if figure is None:
        return ""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f"<h3>{html.escape(heading)}</h3><img alt='{html.escape(heading)}' src='data:image/png;base64,{encoded}'>"


def _findings(row: Row) -> str:
    lines = "".join(
        f"<tr class='{'flagged' if each.flag else ''}'><td>{html.escape(each.name)}</td><td>{html.escape(each.number)}</td>"
        f"<td class='words'>{html.escape(each.message)}</td></tr>"
        for each in row.diagnosis.findings
    )
    verdict = str(row.diagnosis.verdict)
    badge = f"<span class='verdict {verdict.split()[-1]}'>{verdict}</span>"
    marks = "".join(f"<p class='quiet'>{html.escape(line)}</p>" for line in legend(row.diagnosis.findings))
    return f"<h4>{html.escape(row.name)} {badge}</h4><div class='wide'><table>{lines}</table></div>{marks}"
