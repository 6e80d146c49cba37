"""Importance sampling with a Student-t matched to the posterior's moments (Geweke, 1989)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Chi2, MultivariateNormal

from probmodel.curvature import block_index
from probmodel.evidence.weights import ONE_SIDED, plain, theta_draws, warn_if_untrusted, weighted_mean
from probmodel.protocols import Evidence, Posterior, Target
from probmodel.target import target_of
from probmodel.tracing import isolated

DEGREES_OF_FREEDOM = 5.0
"""Tails heavier than any normal's, light enough to keep draws near the mode."""
DRAWS_A_COORDINATE = 5
"""Draws needed for each coordinate of a full covariance matrix; with fewer the proposal is diagonal."""


def importance(posterior: Posterior, *, seed: int = 0, num_samples: int = 10_000) -> Evidence:
    """Log 1/S Σ_s p(data, θ_s) / t(θ_s), θ_s ~ t, in nats; by row and summed where every latent is local to a row.

    t is a Student-t with 5 degrees of freedom and the mean and covariance of the posterior's draws in unconstrained
    coordinates.

    Args:
        posterior: any with draws.
        seed: of the proposals.
        num_samples: proposals S.

    Returns:
        Evidence with `lower` at 95 %; `info` holds k-hat and the effective share of draws, of the worst row.
    """
    target = target_of(posterior)
    common = {"method": "importance", "given": target.given, "digest": target.digest}
    if target.dim == 0:
        log_z = plain(target)
        return Evidence(log_z, 0.0, lower=log_z, upper=log_z, **common)  # type: ignore[arg-type]
    index = block_index(target)
    loc, scale_tril = _moments(theta_draws(posterior, target), index)
    with isolated(seed), torch.no_grad():
        theta, log_t = _propose(loc, scale_tril, index, num_samples)
        log_w = _log_joint(target, theta) - log_t
    mean = weighted_mean(log_w)
    warn_if_untrusted("importance", mean, "take more samples, or reparametrise towards a normal posterior")
    return Evidence(
        mean.log_mean,
        mean.stderr,
        lower=mean.log_mean - ONE_SIDED[0.95] * mean.stderr,
        info={"num_samples": num_samples, "k_hat": mean.k_hat, "ess_share": mean.ess_share},
        **common,  # type: ignore[arg-type]
    )


def _log_joint(target: Target, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
    return target.log_joint(theta)[:, None] if target.by_row is None else target.log_joint_by_row(theta)


def _moments(
    theta: Float[Tensor, "S D"], index: Int[Tensor, "R d"]
) -> tuple[Float[Tensor, "R d"], Float[Tensor, "R d d"]]:
    blocks = theta[:, index]
    d = index.shape[1]
    loc = blocks.mean(0)
    centred = blocks - loc
    variance = centred.var(0)
    if len(theta) < DRAWS_A_COORDINATE * d:
        return loc, torch.diag_embed(variance.sqrt())
    covariance = torch.einsum("srd,sre->rde", centred, centred) / (len(theta) - 1)
    # One part in a million of each variance keeps rounding from making the matrix indefinite.
    return loc, torch.linalg.cholesky(covariance + 1e-6 * torch.diag_embed(variance))


def _propose(
    loc: Float[Tensor, "R d"], scale_tril: Float[Tensor, "R d d"], index: Int[Tensor, "R d"], num_samples: int
) -> tuple[Float[Tensor, "S D"], Float[Tensor, "S R"]]:
    """Draws of the Student-t of each block and their log densities."""
    rows, d = loc.shape
    nu = loc.new_tensor(DEGREES_OF_FREEDOM)
    # A Student-t of covariance C has scale matrix C (nu − 2) / nu.
    scale_tril = scale_tril * ((nu - 2) / nu).sqrt()
    normal = MultivariateNormal(torch.zeros_like(loc), scale_tril=scale_tril)
    stretch = (Chi2(nu).sample((num_samples, rows)) / nu).rsqrt()
    offset = normal.sample((num_samples,)) * stretch[..., None]
    theta = offset.new_empty(num_samples, rows * d)
    theta[:, index.flatten()] = (loc + offset).flatten(1)
    squared = torch.linalg.solve_triangular(scale_tril, offset[..., None], upper=False).square().sum((-1, -2))
    half_log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_t = (
        torch.lgamma((nu + d) / 2)
        - torch.lgamma(nu / 2)
        - 0.5 * d * torch.log(nu * torch.pi)
        - half_log_det
        - 0.5 * (nu + d) * torch.log1p(squared / nu)
    )
    return theta, log_t
