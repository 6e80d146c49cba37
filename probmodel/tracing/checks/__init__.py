"""Checks of a model and its data before a fit."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.tracing.checks.data import check, check_draws, check_reading, check_training

on_first_use(__name__)

__all__ = ["check", "check_draws", "check_reading", "check_training"]
