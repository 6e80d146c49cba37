"""Comparison of models and of posterior approximations, and the HTML report."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.comparison.models import Comparison, compare
    from probmodel.comparison.posteriors import PosteriorComparison, compare_posteriors
    from probmodel.comparison.report import report

on_first_use(__name__)

__all__ = ["Comparison", "PosteriorComparison", "compare", "compare_posteriors", "report"]
