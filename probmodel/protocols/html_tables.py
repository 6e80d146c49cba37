"""Small HTML tables for notebooks."""

import html
from collections.abc import Iterable, Sequence


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """An HTML table with a caption above it; every cell is escaped.

    >>> html_table(["site", "shape"], [["w", (4, 100)]])
    '<table><tr><th>site</th><th>shape</th></tr><tr><td>w</td><td>(4, 100)</td></tr></table>'
    """
    lines = [_line("th", head), *(_line("td", row) for row in rows)]
    above = f"<p>{html.escape(caption)}</p>" if caption else ""
    return f"{above}<table>{''.join(lines)}</table>"


def _line(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
