"""Default estimator of the evidence."""

from probmodel.evidence.by_family.own_estimators import own_estimators
from probmodel.evidence.importance import importance
from probmodel.evidence.iwae import iwae
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress


@checks_arguments
@shows_progress
def best(subject: Subject, *, seed: int = 0, progress: bool = True) -> Evidence:
    """Log evidence by `iwae` if a fit has a guide (exact for an exact guide), else by `importance` from draws, in nats.

    A mixture of Gaussian processes is enumerated, or estimated by `assignments_smc` if its rows are many.

    Args:
        subject: a fit, or a target.
        seed: random seed of the estimator.
        progress: whether to show what is being computed.
    """
    own = own_estimators(subject)
    if own is not None:
        return own.best(subject, seed=seed)
    guided = starting_point(subject).guide is not None
    return iwae(subject, seed=seed) if guided else importance(subject, seed=seed)
