"""x → h → z → p(y | z) → one Pyro model: features, representations, decisions, and the pipeline of the three."""

from probmodel.layers.lift import lift
from probmodel.layers.pipeline import Pipeline

__all__ = ["Pipeline", "lift"]
