"""Complexity of a fit: number of parameters, effective dimension, and curvature of the log likelihood."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vjp

from probmodel.diagnosis.findings import CAUTION, Finding, finding
from probmodel.diagnosis.lanczos import Spectrum, spectrum
from probmodel.evidence.by_family.own_estimators import own_estimators
from probmodel.evidence.weighing.weights import theta_draws
from probmodel.inference.objectives.elbo import elbo
from probmodel.protocols.posterior import Posterior, Target
from probmodel.tracing.curvature import hessian_products
from probmodel.tracing.ownership import parameters
from probmodel.tracing.programs.program import trace
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

PRIOR_PRECISION = 1.0
"""Prior precision α assumed for a parameter without a prior."""
COMPLEXITY_ROUNDING = 1e-5
"""Fraction of the largest curvature below which an eigenvalue is a rounding error."""
NEGATIVE_LIMIT = 0.1
"""Fraction of negative curvature above which point estimates are at no minimum of their loss."""
CURVATURE_ROWS = 256
"""Rows from which the curvature at point estimates is computed at most."""


def complexity(posterior: Posterior) -> list[Finding]:
    """Number of parameters, effective dimension Σ λ / (λ + α), and fraction of negative curvature.

    Point estimates have to be at a minimum of their loss, where no curvature is negative; the effective dimension is marked
    where more than a tenth is.  The mean of posterior draws need not be at a mode.

    λ are the eigenvalues of minus the Hessian of the log likelihood and α is the prior precision.  For latents shared by
    rows they are taken at the posterior mean; for point estimates (α = 1) at the fitted values, on at most 256 rows scaled
    to all.

    Reference:
        MacKay (1992), "Bayesian interpolation"; Maddox, Benton & Wilson (2020), "Rethinking parameter counting".
    """
    target = target_of(posterior)
    count = num_parameters(posterior, target)
    found = [finding("parameters", float(count), "point estimates and shared latents, without latents local to a row")]
    with isolated(seed=0):
        if target.dim and target.by_row is None:
            curvature = _latent_curvature(posterior, target)
        elif target.given:
            curvature = _parameter_curvature(posterior)
        else:
            return found
    return [*found, *_spectral(curvature, count, at_mode=not target.dim or target.by_row is not None)]


def num_parameters(posterior: Posterior, target: Target) -> int:
    """Number of point estimates that the log joint reads (all of them for a mixture of GPs) and of latents shared by rows.

    Parameters that were given rather than estimated, as those of a bare function, do not count.
    """
    named = parameters(posterior.model)
    # The evidence of such a model is not that of its log joint, which need not read all parameters.
    read = [name for name in target.given if name in named] if own_estimators(posterior) is None else named
    return sum(named[name].numel() for name in read) + (target.dim if target.by_row is None else 0)


def _spectral(curvature: Spectrum, count: int, *, at_mode: bool) -> list[Finding]:
    limit = COMPLEXITY_ROUNDING * curvature.largest
    effective, stderr = curvature.trace(lambda v: v.clamp_min(0) / (v.clamp_min(0) + PRIOR_PRECISION))
    total, _ = curvature.trace(torch.abs)
    upward, _ = curvature.trace(lambda v: torch.where(v < -limit, -v, torch.zeros_like(v)))
    fraction = upward / total if total > 0 else 0.0
    elsewhere = at_mode and fraction > NEGATIVE_LIMIT
    place = (
        f"above {NEGATIVE_LIMIT} the estimates are at no minimum"
        if at_mode
        else "posterior draws need not be at a mode"
    )
    doubt = "the curvature is taken at estimates that are at no minimum of the loss" if elsewhere else ""
    message = f"directions out of {count} that the data determine"
    return [
        finding("effective dimension", effective, message, stderr=stderr, doubt=doubt),
        finding(
            "negative curvature",
            fraction,
            f"fraction of negative curvature; {place}",
            flag=CAUTION if elsewhere else "",
        ),
    ]


def _latent_curvature(posterior: Posterior, target: Target) -> Spectrum:
    """Spectrum of P^(−1/2) H P^(−1/2), with H of minus the log likelihood and P of minus the log prior."""
    theta = theta_draws(posterior, target).mean(0)

    def prior(vector: Tensor) -> Tensor:
        return -hessian_products(_at(target.log_prior), theta, vector[None])[0]

    def likelihood(vector: Tensor) -> Tensor:
        joint = -hessian_products(target.log_joint_at, theta, vector[None])[0]
        return joint - prior(vector)

    scale = _prior_scale(prior, target, theta)
    return spectrum(lambda v: scale * likelihood(scale * v), theta)


def _at(density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda theta: density(theta[None])[0]


def _prior_scale(prior: Callable[[Tensor], Tensor], target: Target, theta: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Standard deviations of the prior, from its curvature if that is diagonal, else from its draws."""
    signs = torch.randint_like(theta, 2) * 2 - 1
    diagonal = signs * prior(signs)  # One product gives the diagonal of a diagonal matrix exactly.
    if (diagonal > 0).all() and torch.allclose(prior(torch.ones_like(theta)), diagonal, rtol=1e-3):
        return diagonal.rsqrt()
    return target.sample_prior(500, 0).std(0)


def _parameter_curvature(posterior: Posterior) -> Spectrum:
    """Spectrum of the Hessian of the negative ELBO over the parameters of model and guide, with the noise held fixed."""
    data = posterior.data
    if data.num_rows is not None and data.num_rows > CURVATURE_ROWS:
        data = data.rows(torch.randperm(data.num_rows, device=data.tensors()[0].device)[:CURVATURE_ROWS])
    model = posterior.model
    guide = _no_guide if posterior.guide is None else posterior.guide
    program = trace(lambda: elbo(model, guide, data))
    if program.run is None or not program.leaves:
        return Spectrum([(torch.zeros(1), torch.zeros(1))], exact=True)
    run, leaves = program.run, [leaf.detach() for leaf in program.leaves]
    flat = torch.cat([leaf.reshape(-1) for leaf in leaves])

    def loss(vector: Tensor) -> Tensor:
        return run(*_unflatten(vector, leaves))

    with isolated(seed=0):  # Noise and point are fixed, so that the graph of one gradient serves all products.
        pull = vjp(grad(loss), flat)[1]

    def product(vector: Tensor) -> Tensor:
        return pull(vector)[0].detach()

    return spectrum(product, flat)


def _unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = vector.split([leaf.numel() for leaf in like])
    return [piece.reshape(leaf.shape) for piece, leaf in zip(pieces, like, strict=True)]


def _no_guide(*args: object, **kwargs: object) -> None:
    """Guide of a model without latents."""
