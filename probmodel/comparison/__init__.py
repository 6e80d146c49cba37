"""Comparison of models and of posterior approximations, and the HTML report."""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.comparison.models import Comparison, compare
    from probmodel.comparison.posteriors import PosteriorComparison, compare_posteriors
    from probmodel.comparison.report import report

__all__ = ["Comparison", "PosteriorComparison", "compare", "compare_posteriors", "report"]
