"""Log marginal likelihood of a Gaussian process with its exact gradient (Rasmussen & Williams, 2006, ch. 2 and 5)."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import Mean
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import (
    check_rows,
    check_tensors,
    covariance,
    dense,
    mean_at,
    noise_by_row,
)
from probmodel.families.gaussian_processes.positive_definite import JITTERS, factorized, inverted_in_place, upper_factor
from probmodel.families.gaussian_processes.stationary_kernels import (
    Shape,
    refuse_second_derivative,
    squared_distances,
    stationary,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.memory import refuse_above_memory
from probmodel.tracing.programs.graphs import functional

PANEL = 256
"""Number of rows per panel: a panel of a few thousand columns stays in the cache."""

STATIONARY_BUFFERS = 3
"""Number of n × n matrices held for an RBF or Matérn kernel: covariance, its factor inverted in place, and ∂k/∂r²."""

DENSE_BUFFERS = 5
"""Number of n × n matrices held for any other kernel, two of them an allowance for what its own gradient keeps."""


@checks_arguments
def gp_log_marginal(
    mean: Mean,
    kernel: Kernel,
    likelihood: GaussianLikelihood | FixedNoiseGaussianLikelihood,
    x: Float[Tensor, "n D"],
    y: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Log density N(y; m(x), K + Σ) in nats over the whole data set, with its gradient from the same computation.

    With r = y − m(x), α = (K + Σ)⁻¹ r and G = ½ (α αᵀ − (K + Σ)⁻¹), the differential is

        d log p = Σ_ij G_ij dK_ij + Σ_i G_ii dσ²_i − αᵀ dr.

    For an RBF or Matérn kernel, under a `ScaleKernel` or not, dK is never formed: matrix products with W_ij = G_ij
    ∂k/∂r² give the gradient in all inputs and lengthscales.  Any other kernel is evaluated densely under autograd.
    Gradients flow into the parameters of mean, kernel and likelihood, and into x and y; there is no second derivative.
    Priors on parameters are not added.  Parameters of another precision are converted to that of the data where
    GPyTorch's own code allows it.

    In a recorded graph, or under a transform of `torch.func`, differentiable operations are used instead: they have
    second derivatives, and give NaN where the covariance is not positive definite.

    Args:
        mean: GPyTorch mean.
        kernel: GPyTorch kernel without batch dimensions.
        likelihood: Gaussian, with one noise variance or one per row; any other likelihood needs `svgp_elbo`.
        x: inputs (n, D), float32 or float64.
        y: observations (n,), of the same dtype.

    Returns:
        Log density in nats, a scalar.

    Raises:
        TypeError: for arguments that are not tensors, such as NumPy arrays, and for a likelihood without Gaussian
            noise.
        ValueError: for shapes or dtypes that do not fit, values that are not finite, a mean or kernel of another
            precision that cannot take x, or a covariance that is not positive definite with the largest of `JITTERS`
            added.
        MemoryError: before anything is allocated, where the n × n matrices exceed the free memory.

    Reference:
        Rasmussen & Williams (2006), Gaussian Processes for Machine Learning, eqs. (2.30) and (5.9).
    """
    check_tensors({"x": x, "y": y})
    check_rows(kernel, x, y)
    if not isinstance(likelihood, GaussianLikelihood | FixedNoiseGaussianLikelihood):
        raise TypeError(
            f"expected a GaussianLikelihood or FixedNoiseGaussianLikelihood, got {type(likelihood).__name__}; the exact "
            "marginal likelihood needs Gaussian noise, so use svgp_elbo for any other likelihood"
        )
    noise = noise_by_row(likelihood, y)
    parts = stationary(kernel)
    needed = (DENSE_BUFFERS if parts is None else STATIONARY_BUFFERS) * len(y) ** 2 * y.element_size()
    what = f"an exact Gaussian process of {len(y):,} rows"
    instead = "use a sparse Gaussian process (SparseGP), or experts on shards of the rows (GPProduct)"
    refuse_above_memory(needed, y.device, what, instead)
    r = y - mean_at(mean, x)
    if functional():
        return _by_autograd(covariance(kernel, x), noise, r)
    if parts is None:
        return _DenseLogMarginal.apply(dense(kernel, x), noise, r, torch.is_grad_enabled())
    # log N(r; s (k + Σ/s)): the outputscale is factored out of the n × n matrices.
    s = parts.outputscale.to(y)
    unit = _StationaryLogMarginal.apply(parts.scaled(x), noise / s, r / s.sqrt(), parts.shape, torch.is_grad_enabled())
    return unit - 0.5 * len(y) * s.log()


def _by_autograd(k: Float[Tensor, "n n"], noise: Float[Tensor, " n"], r: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Log density of r by differentiable operations, in nats."""
    u = upper_factor(k + torch.diag_embed(noise))
    white = torch.linalg.solve_triangular(u.mT, r[:, None], upper=False)[:, 0]
    return -0.5 * (white @ white + len(r) * math.log(2 * math.pi)) - u.diagonal().log().sum()


class _Solved(NamedTuple):
    """Log density of the residual, the weights α, and the inverse covariance where it was requested."""

    log_p: Float[Tensor, ""]
    alpha: Float[Tensor, " n"]
    inverse: Float[Tensor, "n n"] | None


def _solved(fill: Callable[[], Tensor], noise: Tensor, r: Tensor, with_inverse: bool) -> _Solved:
    """Log density of r, α, and the inverse's upper triangle; `fill` returns K's upper triangle, which is overwritten."""

    def build(jitter: float) -> Tensor:
        k = fill()
        diagonal = k.diagonal()
        diagonal += noise + jitter * diagonal.mean()
        return upper_factor(k)

    factor = factorized(build, JITTERS[r.dtype], "the mean variance")
    alpha = torch.cholesky_solve(r[:, None], factor.mT)[:, 0]
    log_p = -0.5 * (r @ alpha + len(r) * math.log(2 * math.pi)) - factor.diagonal().log().sum()
    return _Solved(log_p, alpha, inverted_in_place(factor) if with_inverse else None)


class _StationaryLogMarginal(torch.autograd.Function):
    """Log density whose gradient in scaled inputs z, noise and residual r is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, noise: Tensor, r: Tensor, shape: Shape, grad_enabled: bool) -> Tensor:
        with_gradient = grad_enabled and any(ctx.needs_input_grad)
        n = len(z)
        z = z - z.mean(0)
        grads = z.new_empty(n, n) if with_gradient else None
        log_p, alpha, inverse = _solved(lambda: _covariance(grads, z, shape), noise, r, with_gradient)
        if inverse is not None and grads is not None:
            ctx.save_for_backward(
                _input_gradient(inverse, grads, z, alpha), 0.5 * (alpha.square() - inverse.diagonal()), -alpha
            )
        return log_p

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        return *(grad * saved for saved in ctx.saved_tensors), None, None


class _DenseLogMarginal(torch.autograd.Function):
    """Log density whose gradient in covariance k, noise and residual r is computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, noise: Tensor, r: Tensor, grad_enabled: bool) -> Tensor:
        with_gradient = grad_enabled and any(ctx.needs_input_grad)
        log_p, alpha, inverse = _solved(lambda: k.detach().contiguous().clone(), noise, r, with_gradient)
        if inverse is not None:
            g = _mirrored(inverse).addr_(alpha, alpha, beta=-0.5, alpha=0.5)
            ctx.save_for_backward(g, g.diagonal().clone(), -alpha)
        return log_p

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        return *(grad * saved for saved in ctx.saved_tensors), None


def _panels(n: int) -> Iterator[slice]:
    return (slice(i, min(n, i + PANEL)) for i in range(0, n, PANEL))


def _covariance(grads: Tensor | None, z: Tensor, shape: Shape) -> Tensor:
    """Upper triangle of k; the strict upper triangle of ∂k/∂r² is written to `grads`."""
    k = z.new_empty(len(z), len(z))
    for rows in _panels(len(z)):
        right = slice(rows.start, None)
        k[rows, right], grad = shape.with_gradient(squared_distances(z[rows], z[right]))
        if grads is not None:
            grads[rows, right] = grad.triu_(1)
    k.diagonal().fill_(1.0)
    return k


def _input_gradient(inverse: Tensor, grads: Tensor, z: Tensor, alpha: Tensor) -> Tensor:
    """Gradient 4 Σ_j W_ij (z_i − z_j) by matrix products with W = G ∂k/∂r², its strict upper triangle counted twice."""
    ones = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    wz = torch.zeros_like(ones)
    for rows in _panels(len(z)):
        right = slice(rows.start, None)
        w = torch.addr(inverse[rows, right], alpha[rows], alpha[right], beta=-1.0).mul_(grads[rows, right])
        wz[rows].addmm_(w, ones[right])
        wz[right].addmm_(w.mT, ones[rows])
    return 2.0 * (wz[:, -1:] * z - wz[:, :-1])


def _mirrored(upper: Tensor) -> Tensor:
    """Symmetric matrix with the given upper triangle, written in place."""
    for rows in _panels(len(upper)):
        block = upper[rows, rows].triu()
        upper[rows, rows] = block + block.triu(1).mT
        upper[rows.stop :, rows] = upper[rows, rows.stop :].mT
    return upper
