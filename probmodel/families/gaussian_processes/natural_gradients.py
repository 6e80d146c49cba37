"""Natural-gradient steps for a normal distribution over inducing values (Hensman et al., 2013; Salimbeni et al., 2018)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.errors import NotNormalError


def natural_step(
    elbo: Callable[[Tensor, Tensor], Tensor],
    q_loc: Float[Tensor, "*K M"],
    q_scale_tril: Float[Tensor, "*K M M"],
    *,
    rate: float,
) -> tuple[Float[Tensor, "*K M"], Float[Tensor, "*K M M"]]:
    """One ascent step along the natural gradient of a bound, in the natural parameters of q(v) = N(m, T Tᵀ).

    With g and G the gradients in m and T, and P the lower triangle of Tᵀ G with its diagonal halved,

        T⁺ = T F,   F Fᵀ = (I − rate (P + Pᵀ))⁻¹,   m⁺ = m + rate T⁺ T⁺ᵀ g.

    Under Gaussian noise the precision moves by the fraction `rate` of its distance to the precision of `optimal_q`, so
    that one step of rate 1 on all rows reaches it; on minibatches the steps are those of stochastic variational
    inference.

    Args:
        elbo: (m, T) → bound in nats over all rows, higher is better, summed over the K outputs.
        q_loc: mean m.
        q_scale_tril: T, lower triangular with a positive diagonal; entries above the diagonal are not read.
        rate: step size in (0, 1].

    Returns:
        m⁺ and T⁺, detached.

    Raises:
        ValueError: for a rate outside (0, 1].
        NotNormalError: for a step to a covariance that is not positive definite; a likelihood that is not
            log-concave needs a smaller rate.

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
    """One step of `natural_step` from known gradients of the bound in m and in T.

    Raises:
        ValueError, NotNormalError: under the conditions of `natural_step`.
    """
    if not 0.0 < rate <= 1.0:
        raise ValueError(
            f"expected a rate above 0 and up to 1, got {rate}; pass 1 for Gaussian noise on all rows, else less"
        )
    p = (q_scale_tril.mT @ grad_scale).tril()
    p = p - 0.5 * torch.diag_embed(p.diagonal(dim1=-2, dim2=-1))
    eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    t = q_scale_tril @ factor_of_inverse(eye - rate * (p + p.mT))
    if not bool(t.isfinite().all()):
        raise NotNormalError(
            f"expected a step to a positive definite covariance, got none at rate {rate}; lower the rate"
        )
    return q_loc + rate * (t @ (t.mT @ grad_loc[..., None]))[..., 0], t


def factor_of_inverse(precision: Float[Tensor, "*K M M"]) -> Float[Tensor, "*K M M"]:
    """Lower triangular T with T Tᵀ = precision⁻¹, which is not formed; NaN unless the precision is positive definite."""
    # With rows and columns in reverse order Cholesky's factor is the upper U of precision = U Uᵀ, and T = U⁻ᵀ.
    factor, info = torch.linalg.cholesky_ex(precision.flip(-1, -2))
    u = torch.where((info == 0)[..., None, None], factor, math.nan).flip(-1, -2)
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device).expand(u.shape)
    return torch.linalg.solve_triangular(u, eye, upper=True).mT
