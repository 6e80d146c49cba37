"""Expected log likelihood under normal latents, by quadrature or draws, with gradients by Price's theorem (1958)."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.layers import Decision

NUM_NODES = 20
"""Number of quadrature nodes: exact for polynomials of degree 39, and so for Gaussian noise."""


def expected_log_likelihood(
    decision: Decision,
    loc: Float[Tensor, "B K"],
    variance: Float[Tensor, "B K"],
    y: Tensor,
    *,
    num_particles: int,
) -> Float[Tensor, " B"]:
    """Expected log likelihood E[log p(y_b | z_b)] per row in nats, for latent values z_b ~ N(loc_b, diag variance_b).

    A single value per row is integrated by Gauss–Hermite quadrature, for any decision; several by `num_particles`
    draws, whose average is unbiased.  With g = log p(y | z) the gradients are

        ∂E/∂loc = E[∂g/∂z],   ∂E/∂variance = ½ E[∂²g/∂z²],

    so that a log-concave likelihood has no positive derivative by any variance, at every draw.

    Args:
        decision: likelihood of y given z.
        loc, variance: means and variances of z.
        y: one observation per row.
        num_particles: number of draws where a row has several values; quadrature makes no draws.

    Reference:
        Price (1958), "A useful theorem for nonlinear devices having Gaussian inputs"; Opper & Archambeau (2009), eq. (12);
        Liu & Pierce (1994), "A note on Gauss–Hermite quadrature".
    """
    z, weights = _nodes(loc.detach(), variance.detach(), num_particles)
    z.requires_grad_()
    with torch.enable_grad():
        log_p = decision.likelihood(z).log_prob(decision.observed(y))
        (grad,) = torch.autograd.grad(log_p.sum(), z, create_graph=True)
        curvature = torch.stack([_curvature(grad, z, k) for k in range(z.shape[-1])], -1)
    by_loc, by_variance = ((weights * each.detach()).sum(0) for each in (grad, 0.5 * curvature))
    value = (weights[..., 0] * log_p).sum(0)
    # Both products are 0 in value and only carry a gradient.
    return value + (by_loc * (loc - loc.detach()) + by_variance * (variance - variance.detach())).sum(-1)


def _curvature(grad: Float[Tensor, "S B K"], z: Float[Tensor, "S B K"], k: int) -> Float[Tensor, "S B"]:
    """Second derivative ∂²g/∂z_k² per draw and row."""
    if not grad.requires_grad:  # The log likelihood is linear in z.
        return torch.zeros_like(z[..., k])
    (found,) = torch.autograd.grad(grad[..., k].sum(), z, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found[..., k]


def _nodes(loc: Tensor, variance: Tensor, num_particles: int) -> tuple[Float[Tensor, "S B K"], Float[Tensor, "S 1 1"]]:
    """Values of z at which g is evaluated, and their weights in the sum."""
    if loc.shape[1] == 1:
        white, weights = (torch.as_tensor(each).to(loc)[:, None, None] for each in _hermite())
    else:
        white = torch.randn(num_particles, *loc.shape, dtype=loc.dtype, device=loc.device)
        weights = loc.new_full((num_particles, 1, 1), 1 / num_particles)
    return loc + variance.sqrt() * white, weights


@cache
def _hermite() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
    return nodes, weights / weights.sum()
