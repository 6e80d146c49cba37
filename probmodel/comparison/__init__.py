"""Comparison of models and of posterior approximations, and the HTML report."""

from probmodel.comparison.models import Comparison, compare
from probmodel.comparison.posteriors import PosteriorComparison, compare_posteriors
from probmodel.comparison.report import report

__all__ = ["Comparison", "PosteriorComparison", "compare", "compare_posteriors", "report"]
