"""z → p(y | z) → action."""

from probmodel.layers.decisions.classify import Classify
from probmodel.layers.decisions.classify_joint import ClassifyJoint
from probmodel.layers.decisions.regress import Regress

__all__ = ["Classify", "ClassifyJoint", "Regress"]
