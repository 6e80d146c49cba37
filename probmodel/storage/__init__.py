"""Posterior ↔ folder on disk; posterior → ArviZ."""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.storage.fits import load, save
    from probmodel.storage.to_arviz import to_arviz

__all__ = ["load", "save", "to_arviz"]
