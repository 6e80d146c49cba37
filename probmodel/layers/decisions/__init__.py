"""Decisions z → p(y | z) → action: the likelihood of y given the code, and the action of least expected loss."""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.layers.decisions.classify import Classify
    from probmodel.layers.decisions.classify_joint import ClassifyJoint
    from probmodel.layers.decisions.regress import Regress

__all__ = ["Classify", "ClassifyJoint", "Regress"]
