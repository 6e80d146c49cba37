"""Exact evidence of models with a closed form."""

from probmodel.evidence.by_family.own_estimators import own_estimators
from probmodel.evidence.weighing.closed_form import closed_form
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.tracing.target import target_of


@checks_arguments
def exact(subject: Subject, *, seed: int = 0) -> Evidence:
    """Exact log Z, in nats.

    It is in closed form for linear Gaussian models (also with one code per row), beta, Dirichlet and gamma sites, and
    any model that supplies its own.  For a mixture of Gaussian processes it is the sum over assignments, if the rows
    are few enough to enumerate.  For a target, which comes without its model, only normal posteriors are recognized.

    Args:
        subject: a fit, or a target.
        seed: unused by a closed form; every estimator takes one.

    Returns:
        Evidence with both bounds at level 1.

    Raises:
        NotConjugateError: if there is no closed form.
        ValueError: if a mixture of Gaussian processes has too many rows.
    """
    own = own_estimators(subject)
    if own is not None:
        return own.exact(subject, seed=seed)
    log_z = closed_form(subject).log_z
    target = target_of(subject)
    return Evidence(
        log_z,
        0.0,
        lower=log_z,
        upper=log_z,
        level=1.0,
        method="exact",
        given=target.given,
        digest=target.digest,
        certified="both sides, in closed form",
    )
