"""Comparison → plots, one self-contained HTML file."""

from probmodel.comparison.report.page import report

__all__ = ["report"]
