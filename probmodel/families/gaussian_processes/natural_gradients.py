"""Natural-gradient steps of a normal distribution over inducing values (Hensman et al., 2013; Salimbeni et al., 2018)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.errors import LeavesNormalsError


def natural_step(
    elbo: Callable[[Tensor, Tensor], Tensor],
    q_loc: Float[Tensor, "*K M"],
    q_scale_tril: Float[Tensor, "*K M M"],
    *,
    rate: float,
) -> tuple[Float[Tensor, "*K M"], Float[Tensor, "*K M M"]]:
    """One step up the natural gradient of a bound in the natural parameters of q(v) = N(m, T Tᵀ).

    With g and G the slopes in m and T, and P the lower triangle of Tᵀ G, its diagonal halved,

        T⁺ = T F,   F Fᵀ = (I − rate (P + Pᵀ))⁻¹,   m⁺ = m + rate T⁺ T⁺ᵀ g.

    Under Gaussian noise the precision moves the share `rate` of the way to `optimal_q`'s, so that a step of rate 1 on all
    rows is there; on minibatches the steps are those of stochastic variational inference.

    Args:
        elbo: (m, T) → bound in nats over all rows, higher is better, summed over the K outputs.
        q_loc: m.
        q_scale_tril: T, lower triangular with a positive diagonal; nothing else is read.
        rate: in (0, 1].

    Returns:
        m⁺ and T⁺, without a gradient.

    Raises:
        ValueError: for a rate outside (0, 1].
        LeavesNormalsError: for a step that leaves the normals: a likelihood that is not log-concave needs a smaller rate.

    Reference:
        Hensman, Fusi & Lawrence (2013), Gaussian Processes for Big Data, UAI, sec. 3.2; Salimbeni, Eleftheriadis &
        Hensman (2018), Natural Gradients in Practice, AISTATS.
    """
    m, t = q_loc.detach().requires_grad_(), q_scale_tril.detach().tril().requires_grad_()
    with torch.enable_grad():
        grads = torch.autograd.grad(elbo(m, t), (m, t))
    return natural_update(m.detach(), t.detach(), *grads, rate=rate)


def natural_update(
    q_loc: Float[Tensor, "*K M"],
    q_scale_tril: Float[Tensor, "*K M M"],
    grad_loc: Float[Tensor, "*K M"],
    grad_scale: Float[Tensor, "*K M M"],
    *,
    rate: float,
) -> tuple[Float[Tensor, "*K M"], Float[Tensor, "*K M M"]]:
    """The step of `natural_step` from slopes of the bound that are known already, in m and in T.

    Raises:
        ValueError: as `natural_step` does.
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"expected a rate above 0 and up to 1, got {rate}; 1 is exact for Gaussian noise on all rows")
    p = (q_scale_tril.mT @ grad_scale).tril()
    p = p - 0.5 * torch.diag_embed(p.diagonal(dim1=-2, dim2=-1))
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    t = q_scale_tril @ factor_of_inverse(eye - rate * (p + p.mT))
    if not bool(t.isfinite().all()):
        raise LeavesNormalsError(
            f"expected a step to a positive definite covariance, got none at rate {rate}; lower the rate"
        )
    return q_loc + rate * (t @ (t.mT @ grad_loc[..., None]))[..., 0], t


def factor_of_inverse(precision: Float[Tensor, "*K M M"]) -> Float[Tensor, "*K M M"]:
    """Lower T of T Tᵀ = precision⁻¹, which is never formed; NaN where there is none."""
    # Backwards, Cholesky's factor is the upper U of precision = U Uᵀ, and T = U⁻ᵀ.
    factor, info = torch.linalg.cholesky_ex(precision.flip(-1, -2))
    u = torch.where((info == 0)[..., None, None], factor, math.nan).flip(-1, -2)
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device).expand(u.shape)
    return torch.linalg.solve_triangular(u, eye, upper=True).mT
