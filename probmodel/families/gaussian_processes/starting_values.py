"""Starting values of a Gaussian process's parameters from its observations (Rasmussen & Williams, 2006, sec. 5.4.1).

A parameter that is at GPyTorch's default starts in the units of the data: a constant mean at the mean of y, variances at
shares of the variance of y.  A fit is then the same in all units, and for any distance of y from zero.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from gpytorch.kernels import AdditiveKernel, Kernel, LinearKernel, ProductKernel, ScaleKernel
from gpytorch.means import LinearMean
from jaxtyping import Float
from torch import Tensor, nn

from probmodel.families.gaussian_processes.covariances import covariance, mean_at, noise_by_row, prior_variance
from probmodel.families.gaussian_processes.positive_definite import upper_factor

Values = Mapping[str, Tensor]
"""Values of unconstrained parameters by their dotted names."""

READ_ROWS = 500
"""Largest number of rows, drawn at random, that a kernel is evaluated at for a start."""
FAR = 4.0
"""Mean square of y − m(x), in variances of y, above which a linear mean starts at least squares: GPyTorch draws its weights."""

RANDOM_SPREAD = 1.0
"""Standard deviation of the logarithm of a factor of a random start."""


class Parts(nn.Module):
    """Mean, kernel and likelihood of a Gaussian process, in float64 and apart from those that they are copies of."""

    def __init__(self, process: Any, latents: Collection[str]) -> None:
        super().__init__()
        self.mean: Any = deepcopy(process.mean)
        self.kernel: Any = deepcopy(process.kernel)
        self.likelihood: Any = deepcopy(process.likelihood)
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        self.free = frozenset(
            name for name, value in trained.items() if name not in latents and not bool(value.detach().any())
        )
        """Names of the parameters at GPyTorch's default, zero, that a fit may move."""
        self.trained = frozenset(trained) - set(latents)
        self.double().requires_grad_(False)

    def values(self, names: Collection[str]) -> dict[str, Tensor]:
        """Copies of the present values of these parameters."""
        return {name: self.get_parameter(name).clone() for name in names}

    def place(self, values: Values) -> None:
        """Set parameters, in place."""
        for name, value in values.items():
            self.get_parameter(name).copy_(value)

    def name_of(self, module: nn.Module, raw: str) -> str:
        """Dotted name of a module's parameter."""
        prefix = next(name for name, each in self.named_modules() if each is module)
        return f"{prefix}.{raw}"


def start_at_data(parts: Parts, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> None:
    """Move the parameters at their defaults to values in the units of the data, in place.

    Args:
        parts: mean, kernel and likelihood.
        x: inputs of the kernel, float64.
        y: observations, float64.
    """
    _start_mean(parts, x, y)
    residual = y - mean_at(parts.mean, x)
    rounding = (torch.finfo(y.dtype).eps * y).square().sum()
    variance, square = residual.var(correction=0), residual.square().mean()
    noises = sorted(name for name in parts.free if name.startswith("likelihood.") and name.endswith("raw_noise"))
    if variance > rounding:
        for name in noises:
            _scale(parts, name, variance)
    if square > rounding:
        rows = some_rows(len(x))
        _start_kernel(parts, parts.kernel, x[rows], square)
        if "mean.raw_constant" in parts.free and not parts.kernel.is_stationary:
            _start_beside_trend(parts, x, y, rows, noises)


def units(parts: Parts, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> dict[str, Tensor]:
    """Natural steps of the parameters: the deviation of y for a constant mean, and the size of a large variance.

    Args:
        parts: mean, kernel and likelihood at a start.
        x: inputs of the kernel, float64.
        y: observations, float64.
    """
    variances = {name for name in parts.trained if name.endswith((*_AMPLITUDES.values(), "raw_noise"))}
    found = {name: value.clamp(min=1.0) for name, value in parts.values(variances).items()}
    deviation = (y - mean_at(parts.mean, x)).std(correction=0)
    is_free = "mean.raw_constant" in parts.trained and parts.mean.constraint_for_parameter_name("raw_constant") is None
    if is_free and deviation > 0:
        found["mean.raw_constant"] = deviation.expand_as(parts.get_parameter("mean.raw_constant"))
    return found


def random_values(parts: Parts, x: Float[Tensor, "n D"]) -> dict[str, Tensor]:
    """Values drawn about the present ones: variances and lengthscales are multiplied by log-normal factors.

    A lengthscale at its default is drawn about a tenth of the range of x.

    Args:
        parts: mean, kernel and likelihood, which are left unchanged.
        x: inputs of the kernel, float64.
    """
    before = parts.values(parts.trained)
    tenth = (x.max(0).values - x.min(0).values).mean() / 10
    for name in sorted(name for name in parts.trained if not name.startswith("mean.")):
        parameter = parts.get_parameter(name)
        factor = (RANDOM_SPREAD * torch.randn(parameter.shape).to(parameter)).exp()
        if name.endswith("raw_lengthscale") and name in parts.free and tenth > 0:
            factor = factor * tenth / math.log(2)
        _scale(parts, name, factor)
    found = parts.values(parts.trained)
    parts.place(before)
    return found


def some_rows(count: int, most: int = READ_ROWS) -> Tensor:
    """Numbers of some rows, always the same, not evenly spaced."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:most].sort().values


def _start_mean(parts: Parts, x: Tensor, y: Tensor) -> None:
    if "mean.raw_constant" in parts.free:
        _set_constant(parts, y.mean())
    if type(parts.mean) is not LinearMean or "mean.bias" not in parts.trained:
        return
    residual = y - mean_at(parts.mean, x)
    if residual.square().mean() <= FAR * y.var(correction=0):
        return
    few = len(y) <= 2 * (x.shape[1] + 1)
    if "mean.weights" in parts.trained and not few:
        center = x.mean(0)
        columns = torch.cat([x - center, torch.ones_like(x[:, :1])], 1)
        solution = torch.linalg.lstsq(columns, y[:, None]).solution
        parts.mean.weights.copy_(solution[:-1])
        parts.mean.bias.copy_(solution[-1] - center @ solution[:-1, 0])
    else:
        parts.mean.bias.add_(residual.mean())


def _set_constant(parts: Parts, value: Tensor) -> None:
    """Set the constant mean, unless a constraint of it excludes the value."""
    raw = constrained(parts.mean, "raw_constant", value)
    if raw is not None:
        parts.mean.raw_constant.fill_(raw)


def constrained(module: Any, raw: str, value: Tensor) -> Tensor | None:
    """Value of the unconstrained parameter for a value of the constrained one; None where a bound excludes it."""
    constraint = module.constraint_for_parameter_name(raw)
    if constraint is None:
        return value
    within = (value > constraint.lower_bound) & (value < constraint.upper_bound) & value.isfinite()
    return constraint.inverse_transform(value) if bool(within.all()) else None


def _start_beside_trend(parts: Parts, x: Tensor, y: Tensor, rows: Tensor, noises: Sequence[str]) -> None:
    """Constant mean by generalized least squares, and noise by what a first fit leaves of y.

    Where the kernel has a trend the constant is far from the mean of y, and most of the variance of y is the trend's.
    """
    k = covariance(parts.kernel, x[rows])
    for last in (False, True):
        noise = noise_by_row(parts.likelihood, y)[rows]
        upper = upper_factor(k + torch.diag_embed(noise))
        right = torch.stack([torch.ones_like(y), y], 1)[rows]
        ones, weights = torch.cholesky_solve(right, upper, upper=True).unbind(1)
        constant = weights.sum() / ones.sum()
        if not bool(constant.isfinite()):
            return
        _set_constant(parts, constant)
        left = (noise * (weights - constant * ones)).square().mean()
        for name in () if last else noises:
            _scale(parts, name, left / noise.mean())


def _start_kernel(parts: Parts, kernel: Kernel, x: Tensor, variance: Tensor) -> bool:
    """Scale the kernel's amplitude where it has one at its default; return whether it has one at all."""
    if type(kernel) in (AdditiveKernel, ProductKernel):
        inner = x if kernel.active_dims is None else x.index_select(1, kernel.active_dims)
        each = (_start_kernel(parts, part, inner, variance) for part in kernel.kernels)
        # One amplitude of a product is enough.
        return any(each) if type(kernel) is ProductKernel else any(list(each))
    raw = _AMPLITUDES.get(type(kernel))
    if raw is None:
        return False
    name = parts.name_of(kernel, raw)
    if name in parts.free:
        default = kernel.constraint_for_parameter_name(raw).transform(parts.get_parameter(name))
        _scale(parts, name, variance * default.mean() / _variance_about_its_mean(kernel, x))
    return True


_AMPLITUDES: Mapping[type, str] = {ScaleKernel: "raw_outputscale", LinearKernel: "raw_variance"}
"""Parameter that the variance of a kernel is proportional to."""


def _variance_about_its_mean(kernel: Kernel, x: Tensor) -> Tensor:
    """Prior variance of f; of a kernel that is not stationary about f's mean over the rows, which a constant follows."""
    variance = prior_variance(kernel, x).mean()
    about = variance if kernel.is_stationary else variance - covariance(kernel, x).mean()
    return about if about > torch.finfo(x.dtype).eps * variance else variance


def _scale(parts: Parts, name: str, factor: Tensor) -> None:
    """Multiply what a parameter has above its lower bound, unless an upper bound is in the way."""
    module, _, raw = name.rpartition(".")
    owner: Any = parts.get_submodule(module)
    constraint = owner.constraint_for_parameter_name(raw)
    if constraint is None or not bool(constraint.lower_bound.isfinite().all()):
        return
    parameter, low = owner.get_parameter(raw), constraint.lower_bound
    value = constrained(owner, raw, low + (constraint.transform(parameter) - low) * factor)
    if value is not None:
        parameter.copy_(value)
