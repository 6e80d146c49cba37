"""Objectives (model, guide, data) → loss in nats over the whole data set (`pb.objectives`).

Bounds on the evidence: elbo, iwae.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.inference.objectives.elbo import elbo
    from probmodel.inference.objectives.iwae import iwae

on_first_use(__name__)

__all__ = ["elbo", "iwae"]
