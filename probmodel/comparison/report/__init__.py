"""Report of comparisons as one self-contained HTML file with plots."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.comparison.report.page import report

on_first_use(__name__)

__all__ = ["report"]
