"""Laplace's approximation of the evidence (Tierney & Kadane, 1986)."""

from probmodel.evidence.weighing.proposals import best_of
from probmodel.evidence.weighing.starting_draws import own_draws
from probmodel.evidence.weighing.starting_point import starting_point
from probmodel.evidence.weighing.weights import plain_evidence
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Subject
from probmodel.tracing.curvature import gaussian_at, mode
from probmodel.tracing.target import target_of


@checks_arguments
def laplace(subject: Subject, *, seed: int = 0) -> Evidence:
    """Laplace's approximation log p(data, θ̂) + D/2 log 2π − ½ log det(−Hessian), in nats.

    θ̂ is the mode that an ascent reaches from the mean of a fit's draws, or from the best particle of a target.  The
    value is exact for a normal posterior in unconstrained coordinates; elsewhere no draws show its error, so `stderr`
    is nan.

    Args:
        subject: a fit, or a target.
        seed: random seed of the particles of a target; unused for a fit.

    Returns:
        Evidence without bounds.

    Raises:
        ArithmeticError: if the ascent finds no maximum with a negative definite Hessian, as along a flat direction.
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "laplace")
    theta = own_draws(subject, seed)
    begin = theta.mean(0) if starting_point(subject).draws else best_of(target, theta)
    gaussian = gaussian_at(target, mode(target, begin))
    log_z = float(target.log_joint_at(gaussian.loc) + gaussian.log_normalizer())
    return Evidence(log_z, float("nan"), method="laplace", given=target.given, digest=target.digest)
