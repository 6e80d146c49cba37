"""Layers of one Pyro model, x → h → z → p(y | z): features, representations, decisions, and their pipeline."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.layers.lift import lift
    from probmodel.layers.pipeline import Pipeline

on_first_use(__name__)

__all__ = ["Pipeline", "lift"]
