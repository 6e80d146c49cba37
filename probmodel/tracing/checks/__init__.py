"""Checks of a model and its data before a fit."""

from probmodel.tracing.checks.data import check, check_draws, check_training

__all__ = ["check", "check_draws", "check_training"]
