"""z → p(y | z) → action."""

from probmodel.decisions.classify import Classify
from probmodel.decisions.classify_joint import ClassifyJoint
from probmodel.decisions.regress import Regress

__all__ = ["Classify", "ClassifyJoint", "Regress"]
