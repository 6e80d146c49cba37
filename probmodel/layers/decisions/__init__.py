"""Decisions z → p(y | z) → action: the likelihood of y given the code, and the action of least expected loss."""

from probmodel.layers.decisions.classify import Classify
from probmodel.layers.decisions.classify_joint import ClassifyJoint
from probmodel.layers.decisions.regress import Regress

__all__ = ["Classify", "ClassifyJoint", "Regress"]
