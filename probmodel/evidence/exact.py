"""Exact evidence of models with a closed form."""

import torch

from probmodel.evidence.by_family.own_estimators import own_estimators
from probmodel.evidence.weighing.claims import claimed
from probmodel.evidence.weighing.closed_form import closed_form
from probmodel.evidence.weighing.verdict import closed_form_rounding
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
        Evidence with both bounds at level 1, apart by the rounding errors of a precision below double, which are also
        its `stderr`.

    Raises:
        NotConjugateError: if there is no closed form.
        ValueError: if a mixture of Gaussian processes has too many rows.
    """
    own = own_estimators(subject)
    if own is not None:
        return own.exact(subject, seed=seed)
    log_z = closed_form(subject).log_z
    target = target_of(subject)
    rounding = 0.0 if target.dtype == torch.float64 else closed_form_rounding(target, log_z)
    claim = claimed(
        "exact",
        target,
        lower=log_z - rounding,
        upper=log_z + rounding,
        certified="both sides, in closed form" if rounding == 0 else "both sides, in closed form up to rounding",
    )
    return Evidence(
        log_z,
        rounding,
        level=1.0,
        lower=claim.lower,
        upper=claim.upper,
        certified=claim.certified,
        method="exact",
        given=target.given,
        digest=target.digest,
    )
