"""Exact evidence of conjugate models."""

from probmodel.conjugate import conjugate
from probmodel.protocols import Evidence, Posterior
from probmodel.target import target_of


def exact(posterior: Posterior, *, seed: int = 0) -> Evidence:
    """Log Z in closed form, in nats: linear Gaussian models (also one code a row), beta, Dirichlet and gamma sites.

    Raises:
        NotConjugateError: where there is no closed form.
    """
    log_z = conjugate(posterior.model, posterior.data).log_z
    target = target_of(posterior)
    return Evidence(
        log_z, 0.0, lower=log_z, upper=log_z, level=1.0, method="exact", given=target.given, digest=target.digest
    )
