"""Objectives (model, guide, data) → loss in nats over the whole data set (`pb.objectives`).

Bounds on the evidence: elbo, iwae.
"""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.inference.objectives.elbo import elbo
    from probmodel.inference.objectives.iwae import iwae

__all__ = ["elbo", "iwae"]
