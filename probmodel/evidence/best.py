"""The estimator to take when none is named."""

from probmodel.evidence.importance import importance
from probmodel.evidence.iwae import iwae
from probmodel.protocols import Evidence, Posterior, Subject


def best(subject: Subject, *, seed: int = 0) -> Evidence:
    """`iwae` where a fit has a guide (exact for an exact one), else `importance` from posterior draws; nats."""
    guided = isinstance(subject, Posterior) and subject.guide is not None
    return iwae(subject, seed=seed) if guided else importance(subject, seed=seed)
