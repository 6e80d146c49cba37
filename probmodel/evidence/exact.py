"""Exact evidence of conjugate models."""

from probmodel.evidence.by_family.own_estimators import own_estimators
from probmodel.evidence.weighing.closed_form import closed_form
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.tracing.target import target_of


def exact(subject: Subject, *, seed: int = 0) -> Evidence:
    """Log Z in closed form, in nats: linear Gaussian models (also one code a row), beta, Dirichlet and gamma sites, and any
    model that knows its own.

    Of a mixture of Gaussian processes it is the sum over assignments, where the rows are few enough to enumerate.

    Of a target without its model only normal posteriors are recognized.

    Raises:
        NotConjugateError: where there is no closed form.
        ValueError: for a mixture of Gaussian processes of too many rows.
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
