"""Covariances of GPyTorch's kernels by operations that a recorded graph can hold (Rasmussen & Williams, 2006, ch. 4).

GPyTorch's own code asks whether two inputs are equal, to choose among formulas of the same value.  A graph cannot hold the
question, since the inputs may depend on latents.
"""

import math
from collections.abc import Callable
from functools import reduce
from operator import add, mul
from typing import Any

import torch
from gpytorch.kernels import (
    AdditiveKernel,
    ConstantKernel,
    CosineKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PolynomialKernel,
    ProductKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
)
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.stationary_kernels import (
    squared_distances,
    stationary,
    stationary_covariance,
)

Formula = Callable[[Any, Tensor, Tensor], Tensor]
"""Kernel and its active columns of a (n, D) and b (m, D) → covariances (n, m)."""


def is_recordable(kernel: Kernel) -> bool:
    """Return whether the kernel is composed of kernels with a formula here."""
    # Exact types are compared because a subclass may override `forward`.
    return all(type(part) in _FORMULAS for part in (kernel, *kernel.sub_kernels()))


def recordable_covariance(kernel: Kernel, a: Float[Tensor, "n D"], b: Float[Tensor, "m D"]) -> Float[Tensor, "n m"]:
    """Covariances K(a, b), with finite derivatives of every order at equal rows where the kernel has them.

    Args:
        kernel: GPyTorch kernel without batch dimensions that `is_recordable`.
        a: inputs (n, D).
        b: inputs (m, D).

    Raises:
        ValueError: where a kernel has another number of lengthscales than columns.
    """
    return _FORMULAS[type(kernel)](kernel, _active(kernel, a), _active(kernel, b)).to(a)


def recordable_variance(kernel: Kernel, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
    """Prior variances k(x_i, x_i) of a kernel that `is_recordable`."""
    return _VARIANCES.get(type(kernel), _unit)(kernel, _active(kernel, x)).to(x)


def _active(kernel: Kernel, x: Tensor) -> Tensor:
    found = x if kernel.active_dims is None else x.index_select(1, kernel.active_dims)
    if kernel.ard_num_dims not in (None, 1, found.shape[1]):
        raise ValueError(
            f"expected inputs of {kernel.ard_num_dims} columns for {type(kernel).__name__}, got {found.shape[1]}; set "
            f"ard_num_dims={found.shape[1]}"
        )
    return found


def _centered(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    center = a.mean(0).detach()
    return a - center, b - center


def _distances(a: Tensor, b: Tensor, unit: Tensor) -> Tensor:
    """Squared distances in units of a length per column."""
    a, b = _centered(a, b)
    return squared_distances(a / unit, b / unit)


def _stationary(kernel: Kernel, a: Tensor, b: Tensor) -> Tensor:
    parts: Any = stationary(kernel)
    return stationary_covariance(parts.shape, a / parts.lengthscale, b / parts.lengthscale)


def _rational_quadratic(kernel: RQKernel, a: Tensor, b: Tensor) -> Tensor:
    return (1.0 + _distances(a, b, kernel.lengthscale) / (2.0 * kernel.alpha)).pow(-kernel.alpha)


def _periodic(kernel: PeriodicKernel, a: Tensor, b: Tensor) -> Tensor:
    a, b = _centered(a, b)
    phase = math.pi / kernel.period_length
    # Not by distances, whose root has no derivative at equal rows.
    angles = ((a * phase)[:, None] - (b * phase)[None]).sin().square()
    return torch.exp(-2.0 * (angles / kernel.lengthscale).sum(-1))


def _cosine(kernel: CosineKernel, a: Tensor, b: Tensor) -> Tensor:
    angle2 = math.pi**2 * _distances(a, b, kernel.period_length)
    near = angle2 <= torch.finfo(a.dtype).eps ** (1 / 3)
    far = torch.where(near, 1.0, angle2).sqrt().cos()
    # The root has no derivative at 0, where the series is exact up to rounding errors.
    return torch.where(near, 1.0 - angle2 / 2.0 * (1.0 - angle2 / 12.0 * (1.0 - angle2 / 30.0)), far)


def _linear(kernel: LinearKernel, a: Tensor, b: Tensor) -> Tensor:
    return (a * kernel.variance) @ b.mT


def _polynomial(kernel: PolynomialKernel, a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.mT + kernel.offset).pow(kernel.power)


def _constant(kernel: ConstantKernel, a: Tensor, b: Tensor) -> Tensor:
    return kernel.constant.expand(len(a), len(b))


def _scaled(kernel: ScaleKernel, a: Tensor, b: Tensor) -> Tensor:
    # GPyTorch gives the columns of the inner kernel to the outer one, which selects them once.
    return kernel.outputscale * _FORMULAS[type(kernel.base_kernel)](kernel.base_kernel, a, b)


def _sum(kernel: AdditiveKernel, a: Tensor, b: Tensor) -> Tensor:
    return reduce(add, (recordable_covariance(part, a, b) for part in kernel.kernels))


def _product(kernel: ProductKernel, a: Tensor, b: Tensor) -> Tensor:
    return reduce(mul, (recordable_covariance(part, a, b) for part in kernel.kernels))


_FORMULAS: dict[type, Formula] = {
    RBFKernel: _stationary,
    MaternKernel: _stationary,
    RQKernel: _rational_quadratic,
    PeriodicKernel: _periodic,
    CosineKernel: _cosine,
    LinearKernel: _linear,
    PolynomialKernel: _polynomial,
    ConstantKernel: _constant,
    ScaleKernel: _scaled,
    AdditiveKernel: _sum,
    ProductKernel: _product,
}


def _unit(kernel: Kernel, x: Tensor) -> Tensor:
    return x.new_ones(len(x))


def _scaled_variance(kernel: ScaleKernel, x: Tensor) -> Tensor:
    return kernel.outputscale * _VARIANCES.get(type(kernel.base_kernel), _unit)(kernel.base_kernel, x)


_VARIANCES: dict[type, Callable[[Any, Tensor], Tensor]] = {
    LinearKernel: lambda kernel, x: (x.square() * kernel.variance).sum(1),
    PolynomialKernel: lambda kernel, x: (x.square().sum(1) + kernel.offset).pow(kernel.power),
    ConstantKernel: lambda kernel, x: kernel.constant.expand(len(x)),
    ScaleKernel: _scaled_variance,
    AdditiveKernel: lambda kernel, x: reduce(add, (recordable_variance(each, x) for each in kernel.kernels)),
    ProductKernel: lambda kernel, x: reduce(mul, (recordable_variance(each, x) for each in kernel.kernels)),
}
"""Prior variance by kernel; those that are not listed have variance 1."""
