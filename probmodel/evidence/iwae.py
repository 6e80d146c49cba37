"""Importance-weighted bound on the evidence (Burda, Grosse & Salakhutdinov, 2016)."""

from probmodel.evidence.weighing.claims import claimed
from probmodel.evidence.weighing.weights import (
    ONE_SIDED,
    fit_with_guide,
    guide_weights,
    warn_if_untrusted,
    weighted_mean,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.protocols.session.progress import shows_progress
from probmodel.tracing.target import target_of


@checks_arguments
@shows_progress
def iwae(subject: Subject, *, seed: int = 0, num_samples: int = 1_000, progress: bool = True) -> Evidence:
    """Importance-weighted bound log 1/S Σ_s p(data, z_s) / q(z_s), z_s ~ q, in nats.

    Where every latent is local to a row, the bound is computed per row and summed.  Its expectation is below log Z and
    increases to log Z with S; if k-hat can be trusted, it is a consistent estimate.

    Args:
        subject: a fit with a guide (SVI, Laplace, Exact).
        seed: random seed of the draws.
        num_samples: number S of draws from the guide.
        progress: whether to show what is being computed.

    Returns:
        Evidence with `lower` at 95 %; `info` holds k-hat and relative ESS, both of the worst row.

    Raises:
        ValueError: if the fit has no guide, or the subject is a target.
    """
    mean = weighted_mean(guide_weights(fit_with_guide(subject), num_samples, seed))
    warn_if_untrusted(
        "iwae", mean, "the value is only a lower bound; use a richer guide, or NUTS and evidence.importance"
    )
    target = target_of(subject)
    claim = claimed("iwae", target, lower=mean.log_mean - ONE_SIDED[0.95] * mean.stderr)
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=claim.lower,
        upper=claim.upper,
        certified=claim.certified,
        method="iwae",
        given=target.given,
        digest=target.digest,
        info={"num_samples": num_samples, "k_hat": mean.k_hat, "relative_ess": mean.relative_ess},
    )
