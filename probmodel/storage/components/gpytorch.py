"""Constructor arguments of GPyTorch's kernels, means, likelihoods, priors and constraints.

Values of parameters are not among them: they are stored with the parameters of the model.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from gpytorch.constraints import GreaterThan, Interval, LessThan, Positive
from gpytorch.kernels import (
    AdditiveKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    ProductKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
)
from gpytorch.likelihoods import FixedNoiseGaussianLikelihood, GaussianLikelihood
from gpytorch.means import ConstantMean, LinearMean, ZeroMean
from gpytorch.priors import GammaPrior, HalfCauchyPrior, LogNormalPrior, NormalPrior
from torch import nn

from probmodel.storage.components.component import Component
from probmodel.tracing.internals import constraint_transform

Settings = Mapping[str, Any]


def _child(module: nn.Module, name: str) -> Any:
    """Prior or constraint of a module by its name; None where there is none."""
    return dict(module.named_children()).get(name)


def _bounded(module: nn.Module, *parameters: str) -> Settings:
    """Priors and constraints of the named parameters."""
    priors = {f"{name}_prior": _child(module, f"{name}_prior") for name in parameters}
    return priors | {f"{name}_constraint": _child(module, f"raw_{name}_constraint") for name in parameters}


def _kernel(kernel: Kernel, *parameters: str) -> Settings:
    """Constructor arguments that all kernels have, and priors and constraints of the named parameters."""
    columns = None if kernel.active_dims is None else tuple(kernel.active_dims.tolist())
    common = {"ard_num_dims": kernel.ard_num_dims, "active_dims": columns, "batch_shape": tuple(kernel.batch_shape)}
    lengthscale = ("lengthscale",) if kernel.has_lengthscale else ()
    return common | dict(_bounded(kernel, *lengthscale, *parameters))


def _with_shape(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Constructor that takes its batch shape as a tuple, as it is stored."""

    def build(*, batch_shape: tuple[int, ...], **settings: Any) -> Any:
        # Some classes of GPyTorch accept a missing argument but not None.
        given = {name: value for name, value in settings.items() if value is not None}
        return kind(batch_shape=torch.Size(batch_shape), **given)

    return build


def _scaled(kernel: ScaleKernel) -> Settings:
    return {
        "base_kernel": kernel.base_kernel,
        "batch_shape": tuple(kernel.batch_shape),
        **_bounded(kernel, "outputscale"),
    }


def _rational_quadratic(kernel: RQKernel) -> Settings:
    return dict(_kernel(kernel)) | {"alpha_constraint": _child(kernel, "raw_alpha_constraint")}


def _summed(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(kernels: list[Kernel]) -> Any:
        return kind(*kernels)

    return build


def _likelihood(likelihood: GaussianLikelihood) -> Settings:
    return {**_bounded(likelihood.noise_covar, "noise"), "batch_shape": tuple(likelihood.raw_noise.shape[:-1])}


def _known_noise(likelihood: FixedNoiseGaussianLikelihood) -> Settings:
    learned = likelihood.second_noise_covar
    further = {} if learned is None else _bounded(learned, "noise")
    known: Any = likelihood.noise_covar
    return {"noise": known.noise.detach().clone(), "learn_additional_noise": learned is not None, **further}


def _constant(mean: ConstantMean) -> Settings:
    return {
        "constant_prior": _child(mean, "mean_prior"),
        "constant_constraint": _child(mean, "raw_constant_constraint"),
        "batch_shape": tuple(mean.raw_constant.shape),
    }


def _linear(mean: LinearMean) -> Settings:
    return {
        "input_size": mean.weights.shape[-2],
        "bias": mean.bias is not None,
        "batch_shape": tuple(mean.weights.shape[:-2]),
    }


def _bounds(usual: Interval, *names: str) -> Callable[[Interval], Settings]:
    """Bounds of a constraint, and a transform other than the usual one, so that describing it fails: it has no name."""

    def settings(constraint: Interval) -> Settings:
        # Transforms are compared as text, since the copy of a module has other objects.
        transform = constraint_transform(constraint)
        own = {} if str(transform) == str(constraint_transform(usual)) else {"transform": transform}
        bounds = {"lower_bound": constraint.lower_bound, "upper_bound": constraint.upper_bound}
        return {name: float(bounds[name]) for name in names} | own

    return settings


def _values(*names: str) -> Callable[[Any], Settings]:
    return lambda prior: {name: attrgetter(name)(prior).detach().clone() for name in names}


def _plain(kind: type, settings: Callable[[Any], Settings]) -> Component:
    return Component(kind, settings)


def _shaped(kind: type, settings: Callable[[Any], Settings]) -> Component:
    return Component(kind, settings, _with_shape(kind))


GPYTORCH_COMPONENTS = {
    "RBFKernel": _shaped(RBFKernel, _kernel),
    "MaternKernel": _shaped(MaternKernel, lambda kernel: {"nu": kernel.nu, **_kernel(kernel)}),
    "RQKernel": _shaped(RQKernel, _rational_quadratic),
    "PeriodicKernel": _shaped(PeriodicKernel, lambda kernel: _kernel(kernel, "period_length")),
    "LinearKernel": _shaped(LinearKernel, lambda kernel: _kernel(kernel, "variance")),
    "ScaleKernel": _shaped(ScaleKernel, _scaled),
    "AdditiveKernel": Component(AdditiveKernel, lambda k: {"kernels": list(k.kernels)}, _summed(AdditiveKernel)),
    "ProductKernel": Component(ProductKernel, lambda k: {"kernels": list(k.kernels)}, _summed(ProductKernel)),
    "ZeroMean": _plain(ZeroMean, lambda mean: {}),
    "ConstantMean": _shaped(ConstantMean, _constant),
    "LinearMean": _shaped(LinearMean, _linear),
    "GaussianLikelihood": _shaped(GaussianLikelihood, _likelihood),
    "FixedNoiseGaussianLikelihood": _plain(FixedNoiseGaussianLikelihood, _known_noise),
    "Positive": _plain(Positive, _bounds(Positive())),
    "GreaterThan": _plain(GreaterThan, _bounds(GreaterThan(0.0), "lower_bound")),
    "LessThan": _plain(LessThan, _bounds(LessThan(0.0), "upper_bound")),
    "Interval": _plain(Interval, _bounds(Interval(0.0, 1.0), "lower_bound", "upper_bound")),
    "GammaPrior": _plain(GammaPrior, _values("concentration", "rate")),
    "NormalPrior": _plain(NormalPrior, _values("loc", "scale")),
    "LogNormalPrior": _plain(LogNormalPrior, _values("loc", "scale")),
    "HalfCauchyPrior": _plain(HalfCauchyPrior, _values("scale")),
}
