"""Comparison → plots, one self-contained HTML file."""

from probmodel.report.page import report

__all__ = ["report"]
