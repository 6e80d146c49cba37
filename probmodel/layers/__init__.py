"""Layers of one Pyro model, x → h → z → p(y | z): features, representations, decisions, and their pipeline."""

from probmodel.layers.lift import lift
from probmodel.layers.pipeline import Pipeline

__all__ = ["Pipeline", "lift"]
