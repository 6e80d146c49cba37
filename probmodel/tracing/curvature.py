"""Gradient, Hessian and mode of a target, by blocks of rows where rows are independent."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vjp, vmap

from probmodel.protocols.posterior import Target

NEWTON_STEPS = 50


class NormalApproximation(NamedTuple):
    """Normal approximation in R independent blocks of d coordinates: R = 1 block of D where rows share latents."""

    coordinates: Int[Tensor, "R d"]
    """Indices of the coordinates of theta in each block."""
    loc: Float[Tensor, " D"]
    precision: Float[Tensor, "R d d"]
    scale_tril: Float[Tensor, "R d d"]

    def log_normalizer(self) -> Float[Tensor, ""]:
        """Log ∫ exp(−½ (θ − loc)ᵀ precision (θ − loc)) dθ = D/2 log 2π − ½ log det precision, in nats."""
        half_log_det = -torch.linalg.diagonal(self.scale_tril).log().sum()
        return self.loc.new_tensor(0.5 * self.loc.numel() * math.log(2 * math.pi)) - half_log_det

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]:
        """Draws of theta from the approximation."""
        rows, d = self.coordinates.shape
        noise = torch.randn(num_samples, rows, d, 1, dtype=self.loc.dtype, device=self.loc.device)
        theta = self.loc.expand(num_samples, -1).clone()
        theta[:, self.coordinates] += (self.scale_tril @ noise).squeeze(-1)
        return theta


def block_index(target: Target) -> Int[Tensor, "R d"]:
    """Indices of the coordinates in each independent block of a target."""
    if target.by_row is not None:
        return target.by_row.to(target.device)
    return torch.arange(target.dim, device=target.device)[None]


def log_joint_by_block(target: Target, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
    """Log joint of each independent block, in nats: one sum where rows share latents, else one value per row."""
    return target.log_joint(theta)[:, None] if target.by_row is None else target.log_joint_by_row(theta)


def gradient(target: Target, theta: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Gradient of the log joint at `theta`, in nats."""
    return _gradient(target.log_joint_at)(theta)


def hessian_blocks(target: Target, theta: Float[Tensor, " D"]) -> Float[Tensor, "R d d"]:
    """Diagonal blocks of the Hessian of the log joint: d Hessian-vector products, each for all blocks at once."""
    index = block_index(target)
    d = index.shape[1]
    probes = theta.new_zeros(d, target.dim)
    probes.scatter_(1, index.T, 1.0)
    columns = hessian_products(target.log_joint_at, theta, probes)
    return columns[:, index].permute(1, 2, 0)


def hessian_products(
    function: Callable[[Tensor], Tensor], theta: Float[Tensor, " D"], vectors: Float[Tensor, "V D"]
) -> Float[Tensor, "V D"]:
    """Products of the Hessian of a scalar function with many vectors (Pearlmutter, 1994), by reverse over reverse."""
    if vectors.numel() == 0:
        return vectors
    pull = vjp(_gradient(function), theta)[1]
    chunk = max(1, 10_000_000 // max(1, theta.numel()))
    return vmap(lambda vector: pull(vector)[0], chunk_size=chunk)(vectors)


def _gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return grad(function)


def mode(target: Target, start: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    """Maximum of the log joint in unconstrained coordinates: L-BFGS, then Newton steps to machine precision.

    Args:
        target: density to maximize.
        start: initial state of the ascent.

    Raises:
        ArithmeticError: where the ascent reaches NaN or infinity.
    """
    theta = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -target.log_joint_at(theta)
        loss.backward()
        return loss

    optimizer.step(closure)
    return _newton(target, theta.detach())


def _newton(target: Target, theta: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
    index = block_index(target)
    value = target.log_joint_at(theta)
    for _ in range(NEWTON_STEPS):
        factor, failed = torch.linalg.cholesky_ex(-hessian_blocks(target, theta))
        if failed.any() or not torch.isfinite(factor).all():
            break
        grad = gradient(target, theta)[index]
        step = theta.new_zeros(target.dim)
        step[index] = torch.cholesky_solve(grad[..., None], factor).squeeze(-1)
        proposal = theta + step
        improved = target.log_joint_at(proposal)
        if not improved >= value:
            break
        theta, gain, value = proposal, improved - value, improved
        if gain <= 1e-12 * value.abs():
            break
    if not torch.isfinite(theta).all():
        raise ArithmeticError(
            "expected a finite mode, got NaN or infinity, as of a log joint without a maximum; use a proper prior, or a "
            "method that needs no mode (NUTS, SVI)"
        )
    return theta


def gaussian_at(target: Target, theta: Float[Tensor, " D"]) -> NormalApproximation:
    """Laplace's normal approximation at `theta`: precision = −Hessian.

    Raises:
        ArithmeticError: where −Hessian is not positive definite, so that theta is not a maximum.
    """
    precision = -hessian_blocks(target, theta)
    precision = 0.5 * (precision + precision.mT)
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        lowest = float(torch.linalg.eigvalsh(precision).min())
        raise ArithmeticError(
            f"expected a maximum of the log joint, got a Hessian with largest eigenvalue {-lowest:.3g}; start closer to a "
            "mode, or use a method that needs no mode (NUTS, SVI)"
        )
    identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device).expand_as(precision)
    inverse = torch.cholesky_solve(identity, factor)
    return NormalApproximation(
        block_index(target), theta, precision, torch.linalg.cholesky(0.5 * (inverse + inverse.mT))
    )
