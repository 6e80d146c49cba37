"""Posterior ↔ folder on disk; posterior → ArviZ."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.storage.fits import load, save
    from probmodel.storage.to_arviz import to_arviz

on_first_use(__name__)

__all__ = ["load", "save", "to_arviz"]
