"""GPyTorch's stationary kernels as functions of squared distance (Rasmussen & Williams, 2006, sec. 4.2)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import Kernel, MaternKernel, RBFKernel, ScaleKernel
from jaxtyping import Float
from torch import Tensor

from probmodel.tracing.programs.graphs import functional

FEW_COLUMNS = 4
"""Largest number of columns for which squared distances are summed column by column."""


class Shape(NamedTuple):
    """Elementwise functions of squared distances r² that define a kernel of unit variance."""

    with_gradient: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Maps r², which is overwritten, to (k, ∂k/∂r²)."""
    differentiable: Callable[[Tensor], Tensor]
    """Maps r² to k by operations whose derivatives of every order are finite where the kernel's are."""


class Stationary(NamedTuple):
    """The kernel s k(|x − x'|² / ℓ²); gradients reach GPyTorch's parameters through s and ℓ."""

    shape: Shape
    lengthscale: Float[Tensor, "1 _"]
    outputscale: Float[Tensor, ""]
    active_dims: Tensor | None

    def scaled(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n E"]:
        """Active columns of x divided by the lengthscale.

        Raises:
            ValueError: where the number of lengthscales is unequal to the number of active columns.
        """
        active = x if self.active_dims is None else x.index_select(1, self.active_dims)
        expected, got = self.lengthscale.shape[-1], active.shape[1]
        if expected not in (1, got):
            raise ValueError(f"expected {expected} active columns of x, got {got}; set ard_num_dims={got}")
        return (active / self.lengthscale).to(x.dtype)


def stationary(kernel: Kernel) -> Stationary | None:
    """Shape, lengthscale and outputscale of an RBF or Matérn kernel, scaled or not; None for every other kernel."""
    # Exact types are compared because a subclass may override `forward`.
    scaled = type(kernel) is ScaleKernel
    base = kernel.base_kernel if scaled else kernel
    if type(base) is RBFKernel:
        shape = Shape(rbf, lambda r2: torch.exp(-0.5 * r2))
    elif type(base) is MaternKernel:
        shape = _MATERN[base.nu]
    else:
        return None
    outputscale = kernel.outputscale if scaled else base.lengthscale.new_ones(())
    return Stationary(shape, base.lengthscale, outputscale, kernel.active_dims)


def rbf(r2: Tensor) -> tuple[Tensor, Tensor]:
    """Squared exponential kernel k = exp(−r²/2)."""
    k = r2.mul_(-0.5).exp_()
    return k, k * -0.5


def matern_1_2(r2: Tensor) -> tuple[Tensor, Tensor]:
    """Exponential kernel k = exp(−r); its derivative −exp(−r) / 2r is set to 0 at r = 0, where k has a cusp."""
    r = r2.sqrt()
    k = torch.exp(-r)
    # r / (r² + tiny) is 1 / r, and 0 at r = 0.
    return k, r.div_(r2.add_(torch.finfo(r2.dtype).tiny)).mul_(k).mul_(-0.5)


def matern_3_2(r2: Tensor) -> tuple[Tensor, Tensor]:
    """Once differentiable Matérn kernel k = (1 + a) exp(−a) with a = √3 r."""
    a = r2.mul_(3.0).sqrt_()
    decay = torch.exp(-a)
    return a.add_(1.0).mul_(decay), decay.mul_(-1.5)


def matern_5_2(r2: Tensor) -> tuple[Tensor, Tensor]:
    """Twice differentiable Matérn kernel k = (1 + a + a²/3) exp(−a) with a = √5 r."""
    a = r2.mul_(5.0).sqrt_()
    decay = torch.exp(-a)
    derivative = a + 1.0
    k = a.square_().div_(3.0).add_(derivative).mul_(decay)
    return k, derivative.mul_(decay).mul_(-5.0 / 6.0)


def _exponential(r2: Tensor) -> Tensor:
    """Exponential kernel exp(−r) with derivative 0 at r = 0."""
    same = r2 == 0.0
    return torch.where(same, 1.0, torch.exp(-torch.where(same, 1.0, r2).sqrt()))


def _matern(a2: Tensor, grad: float, polynomial: Callable[[Tensor], Tensor]) -> Tensor:
    """Covariances polynomial(a) exp(−a), replaced by the expansion 1 + grad · a² where a³ is below the rounding error.

    There √ has no finite derivative, and the derivatives of the two factors cancel.
    """
    near = a2 <= torch.finfo(a2.dtype).eps ** (2 / 3)
    a = torch.where(near, 1.0, a2).sqrt()
    return torch.where(near, 1.0 + grad * a2, polynomial(a) * torch.exp(-a))


_MATERN = {
    0.5: Shape(matern_1_2, _exponential),
    1.5: Shape(matern_3_2, lambda r2: _matern(3.0 * r2, -1 / 2, lambda a: 1.0 + a)),
    2.5: Shape(matern_5_2, lambda r2: _matern(5.0 * r2, -1 / 6, lambda a: 1.0 + a + a * a / 3.0)),
}


def squared_distances(a: Float[Tensor, "n D"], b: Float[Tensor, "m D"]) -> Float[Tensor, "n m"]:
    """Squared distances |a_i − b_j|² by one matrix product, set to 0 below its rounding error, as for equal rows.

    With few columns differences are taken column by column, which is exact and as fast.
    """
    if a.shape[1] <= FEW_COLUMNS:
        apart = [a[:, d, None] - b[:, d] for d in range(a.shape[1])]
        return torch.stack([each.square() if functional() else each.square_() for each in apart]).sum(0)
    a2, b2 = a.square().sum(1), b.square().sum(1)
    r2 = torch.addmm(b2, a, b.mT, alpha=-2.0).add_(a2[:, None])
    # Rounding errors would make r of two equal rows √eps, and the derivative at a cusp there arbitrary.
    rounding = 8.0 * torch.finfo(r2.dtype).eps * torch.maximum(a2.max(), b2.max())
    if functional():  # The value is 0 with the derivatives of r², whose second order does not vanish at equal rows.
        return r2 - torch.where(r2 > rounding, 0.0, r2.detach())
    return torch.threshold_(r2, float(rounding), 0.0)


def stationary_covariance(shape: Shape, a: Float[Tensor, "n D"], b: Float[Tensor, "m D"]) -> Float[Tensor, "n m"]:
    """Covariances k(|a_i − b_j|²), with a gradient that needs no n × m × D tensor.

    A recorded graph consists of differentiable operations and has second derivatives as well.
    """
    if not functional():
        return _Covariance.apply(a, b, shape)
    center = a.mean(0).detach()
    return shape.differentiable(squared_distances(a - center, b - center))


def refuse_second_derivative() -> None:
    """Refuse a backward pass that is itself to be differentiated.

    Raises:
        NotImplementedError: where autograd records the pass: saved gradients are constants, so that the result would be
            wrong.
    """
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "expected a first derivative, got create_graph=True; differentiate the gradient by finite differences"
        )


class _Covariance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, shape: Shape) -> Tensor:
        center = a.mean(0)
        a, b = a - center, b - center
        k, derivative = shape.with_gradient(squared_distances(a, b))
        ctx.save_for_backward(a, b, derivative)
        return k

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative()
        a, b, derivative = ctx.saved_tensors
        w = grad * derivative
        grad_a = (w.sum(1, keepdim=True) * a).addmm_(w, b, alpha=-1.0).mul_(2.0)
        grad_b = (w.sum(0)[:, None] * b).addmm_(w.mT, a, alpha=-1.0).mul_(2.0)
        return grad_a, grad_b, None
