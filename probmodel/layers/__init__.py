"""Layers of one Pyro model, x → h → z → p(y | z): features, representations, decisions, and their pipeline."""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.layers.lift import lift
    from probmodel.layers.pipeline import Pipeline

__all__ = ["Pipeline", "lift"]
