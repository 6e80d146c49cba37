"""Laplace's approximation of the evidence (Tierney & Kadane, 1986)."""

from probmodel.curvature import gaussian_at, mode
from probmodel.evidence.weights import plain, theta_draws
from probmodel.protocols import Evidence, Posterior
from probmodel.target import target_of


def laplace(posterior: Posterior, *, seed: int = 0) -> Evidence:
    """Log p(data, θ̂) + D/2 log 2π − ½ log det(−Hessian), at the mode θ̂ nearest to the posterior's mean, in nats.

    Exact for a normal posterior in unconstrained coordinates; elsewhere its error shows in no draw, so `stderr` is nan.

    Raises:
        ArithmeticError: where the climb finds no maximum with a negative definite Hessian.
    """
    target = target_of(posterior)
    if target.dim == 0:
        log_z, stderr = plain(target), 0.0
    else:
        gaussian = gaussian_at(target, mode(target, theta_draws(posterior, target).mean(0)))
        log_z, stderr = float(target.log_joint_at(gaussian.loc) + gaussian.log_normaliser()), float("nan")
    return Evidence(log_z, stderr, method="laplace", given=target.given, digest=target.digest)
