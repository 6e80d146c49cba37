"""Evidence lower bound of a guide (Jordan et al., 1999)."""

from probmodel.evidence.weighing.claims import claimed
from probmodel.evidence.weighing.weights import ONE_SIDED, fit_with_guide, guide_weights
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.target import target_of


@checks_arguments
@shows_progress
def elbo(subject: Subject, *, seed: int = 0, num_samples: int = 1_000, progress: bool = True) -> Evidence:
    """Evidence lower bound E_q[log p(data, z) − log q(z)] ≤ log Z, in nats over the data set.

    Args:
        subject: a fit with a guide (SVI, Laplace, Exact).
        seed: random seed of the draws.
        num_samples: number of draws from the guide.
        progress: whether to show what is being computed.

    Returns:
        Evidence whose `lower` bounds log Z at 95 %; it has no upper bound.

    Raises:
        ValueError: if the fit has no guide, or the subject is a target.
    """
    total = guide_weights(fit_with_guide(subject), num_samples, seed).double().sum(-1)
    log_z, stderr = float(total.mean()), float(total.std() / num_samples**0.5)
    target = target_of(subject)
    claim = claimed("elbo", target, lower=log_z - ONE_SIDED[0.95] * stderr)
    return Evidence(
        log_z,
        stderr,
        lower=claim.lower,
        upper=claim.upper,
        certified=claim.certified,
        method="elbo",
        given=target.given,
        digest=target.digest,
        info={"num_samples": num_samples},
    )
