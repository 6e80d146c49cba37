"""Report of comparisons as one self-contained HTML file with plots."""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.comparison.report.page import report

__all__ = ["report"]
