"""Priors of GPyTorch modules as Pyro latents: hyperparameters integrated, not maximized (MacKay, 1999)."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gpytorch
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Normal, TransformedDistribution, biject_to, constraints

from probmodel.families.gaussian_processes.substitution import prior_of, registered, substituted

GUIDE_START_LOG_SCALE = -2.0
"""Initial log standard deviation of the guide, around the present value."""


class Hyperparameter(NamedTuple):
    """Names of a parameter with a prior."""

    site: str
    """Name of the Pyro site."""
    module: str
    """Dotted name of the GPyTorch module."""
    raw: str
    """Name of the unconstrained parameter in the module."""
    prior: str
    """Name of the prior in the module."""
    shape: torch.Size
    """Shape of the constrained value."""


def hyperparameters(modules: nn.Module) -> tuple[Hyperparameter, ...]:
    """Every prior registered by `register_prior`, with the parameter that it belongs to.

    The prior's support replaces a lower bound of the parameter, such as GPyTorch's on the noise: draws may be below it.

    Raises:
        ValueError: for a prior of anything but one parameter of the module it is registered with, of a function of that
            parameter, or with values that the parameter cannot have.
    """
    return tuple(_found(modules))


def _found(modules: nn.Module) -> Iterator[Hyperparameter]:
    for prefix, module in modules.named_modules():
        if not isinstance(module, gpytorch.Module):
            continue
        for name in registered(module):
            own = dict(module.named_parameters(recurse=False))
            with torch.enable_grad():
                prior, value = prior_of(module, name)
                found = torch.autograd.grad(value.sum(), list(own.values()), allow_unused=True) if own else ()
            read = [each for each, grad in zip(own, found, strict=True) if grad is not None]
            if len(read) != 1:
                raise ValueError(
                    f"expected a prior of one parameter of {type(module).__name__}, got {name!r} of {read}; register it with "
                    "the module that owns the parameter"
                )
            _check_prior(module, name, prior, value, read[0])
            site = ".".join(part for part in (prefix, name.removesuffix("_prior")) if part)
            yield Hyperparameter(site, prefix, read[0], name, value.shape)


def _check_prior(module: gpytorch.Module, name: str, prior: Any, value: Tensor, raw: str) -> None:
    """Raise ValueError for a prior of a function of the parameter, or with values that the parameter cannot have."""
    parameter, constraint = module.get_parameter(raw), module.constraint_for_parameter_name(raw)
    own = parameter if constraint is None else constraint.transform(parameter)
    if value.shape != own.shape or not torch.equal(value, own):
        raise ValueError(
            f"expected a prior of {raw.removeprefix('raw_')} itself, got {name!r} of a function of it; give the prior of the "
            "parameter, as LogNormalPrior is for a normal prior of a logarithm"
        )
    if constraint is not None and bool(constraint.upper_bound.isfinite().any()):
        raise ValueError(
            f"expected no upper bound of {raw.removeprefix('raw_')} together with a prior, got {constraint}; give a prior "
            "on that interval"
        )
    if constraint is not None and bool((constraint.lower_bound >= 0).all()) and prior.support is constraints.real:
        raise ValueError(
            f"expected a prior of positive numbers for {raw.removeprefix('raw_')}, got {type(prior).__name__} at {name!r}; use "
            "LogNormalPrior or GammaPrior"
        )


def sampled(modules: nn.Module, priors: Sequence[Hyperparameter]) -> nn.Module:
    """Modules with these parameters drawn from their priors, each at the Pyro site of its dotted name.

    Args:
        modules: module that contains the parameters; it is left unchanged.
        priors: the parameters to draw.
    """
    values: dict[int, dict[str, Tensor]] = {}
    for each in priors:
        module: Any = modules.get_submodule(each.module)
        prior = _like(registered(module)[each.prior].expand(each.shape), module.get_parameter(each.raw))
        prior = prior.to_event(len(each.shape))
        values.setdefault(id(module), {})[each.raw] = pyro.sample(each.site, prior)
    return substituted(modules, values) if values else modules


def _like(prior: Any, parameter: Tensor) -> Any:
    """Prior in the dtype and on the device of the parameter; a copy is expected, since it is changed in place.

    GPyTorch does not convert the base distribution of a transformed prior.
    """
    if isinstance(prior, TransformedDistribution) and isinstance(prior.base_dist, Normal):
        prior.base_dist = Normal(
            prior.base_dist.loc.to(parameter), prior.base_dist.scale.to(parameter), validate_args=False
        )
    return prior


def guide_distribution(modules: nn.Module, each: Hyperparameter, log_scale: Tensor) -> TorchDistributionMixin:
    """Guide's distribution of a parameter: normal, transformed to the prior's support, centered at the present value.

    It is log-normal where the support is positive.
    """
    module: Any = modules.get_submodule(each.module)
    prior, value = prior_of(module, each.prior)
    to_support = biject_to(prior.support)
    normal = dist.Normal(to_support.inv(value), log_scale.exp())
    return dist.TransformedDistribution(normal, [to_support]).to_event(len(each.shape))


def sampled_with_scales(
    modules: nn.Module, priors: Sequence[Hyperparameter], log_scales: Sequence[Tensor]
) -> nn.Module:
    """Modules with these parameters drawn by a guide, each from the distribution that `guide_distribution` returns."""
    pairs = zip(priors, log_scales, strict=True)
    found = {each.site: pyro.sample(each.site, guide_distribution(modules, each, scale)) for each, scale in pairs}
    with poutine.block(), poutine.condition(data=found):
        return sampled(modules, priors)


def sampled_by_guide(modules: nn.Module, priors: Sequence[Hyperparameter]) -> nn.Module:
    """Modules with parameters from `sampled_with_scales`, whose scales are `pyro.param` statements named after the sites."""
    like = next(modules.parameters())
    names = [f"{each.site}.log_scale" for each in priors]
    starts = [like.new_full(each.shape, GUIDE_START_LOG_SCALE) for each in priors]
    scales = [pyro.param(name, start) for name, start in zip(names, starts, strict=True)]
    return sampled_with_scales(modules, priors, scales)
