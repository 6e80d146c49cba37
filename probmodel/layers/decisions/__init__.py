"""Decisions z → p(y | z) → action: the likelihood of y given the code, and the action of least expected loss."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.layers.decisions.classify import Classify
    from probmodel.layers.decisions.classify_joint import ClassifyJoint
    from probmodel.layers.decisions.regress import Regress

on_first_use(__name__)

__all__ = ["Classify", "ClassifyJoint", "Regress"]
