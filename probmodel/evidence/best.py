"""The estimator to take when none is named."""

from probmodel.evidence.importance import importance
from probmodel.evidence.iwae import iwae
from probmodel.protocols import Evidence, Posterior


def best(posterior: Posterior, *, seed: int = 0) -> Evidence:
    """`iwae` where the posterior has a guide (exact for an exact one), else `importance` from its draws; nats."""
    estimator = importance if posterior.guide is None else iwae
    return estimator(posterior, seed=seed)
