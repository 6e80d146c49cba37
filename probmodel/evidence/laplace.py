"""Laplace's approximation of the evidence (Tierney & Kadane, 1986)."""

from probmodel.evidence.weighing.proposals import best_of
from probmodel.evidence.weighing.starting_draws import own_draws
from probmodel.evidence.weighing.weights import plain_evidence
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior, Subject
from probmodel.tracing.curvature import gaussian_at, mode
from probmodel.tracing.target import target_of


def laplace(subject: Subject, *, seed: int = 0) -> Evidence:
    """Log p(data, θ̂) + D/2 log 2π − ½ log det(−Hessian), in nats.

    θ̂ is the mode nearest to the mean of a fit's draws, or to the best particle where there is no fit.  Exact for a normal
    posterior in unconstrained coordinates; elsewhere its error shows in no draw, so `stderr` is nan.

    Raises:
        ArithmeticError: where the climb finds no maximum with a negative definite Hessian, as along a flat direction.
    """
    target = target_of(subject)
    if target.dim == 0:
        return plain_evidence(target, "laplace")
    theta = own_draws(subject, seed)
    begin = theta.mean(0) if isinstance(subject, Posterior) else best_of(target, theta)
    gaussian = gaussian_at(target, mode(target, begin))
    log_z = float(target.log_joint_at(gaussian.loc) + gaussian.log_normalizer())
    return Evidence(log_z, float("nan"), method="laplace", given=target.given, digest=target.digest)
