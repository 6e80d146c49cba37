"""Report of comparisons as one self-contained HTML file with plots."""

from probmodel.comparison.report.page import report

__all__ = ["report"]
