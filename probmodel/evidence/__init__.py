"""Posterior → Evidence in nats: one estimator a file."""

from probmodel.evidence.best import best
from probmodel.evidence.elbo import elbo
from probmodel.evidence.exact import exact
from probmodel.evidence.importance import importance
from probmodel.evidence.iwae import iwae
from probmodel.evidence.laplace import laplace
from probmodel.evidence.weights import EvidenceWarning

__all__ = ["EvidenceWarning", "best", "elbo", "exact", "importance", "iwae", "laplace"]
