"""The estimator to take when none is named."""

from probmodel.evidence.by_family.gp_mixtures import by_size, is_mixture
from probmodel.evidence.importance import importance
from probmodel.evidence.iwae import iwae
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior, Subject


def best(subject: Subject, *, seed: int = 0) -> Evidence:
    """`iwae` where a fit has a guide (exact for an exact one), else `importance` from posterior draws; nats.

    A mixture of Gaussian processes is enumerated, or takes `assignments_smc` where its rows are many.
    """
    if is_mixture(subject):
        return by_size(subject, seed=seed)
    guided = isinstance(subject, Posterior) and subject.guide is not None
    return iwae(subject, seed=seed) if guided else importance(subject, seed=seed)
