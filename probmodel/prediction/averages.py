"""Average of a predictive distribution over posterior draws, in closed form or as a mixture."""

from collections.abc import Callable, Sequence
from functools import singledispatch
from operator import attrgetter
from typing import Any, TypeGuard, cast

import torch
from jaxtyping import Float
from pyro.distributions import Normal as PyroNormal
from pyro.distributions import ZeroInflatedDistribution
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Multinomial,
    Normal,
)
from torch.nn.functional import logsigmoid

from probmodel.families.draw_mixture import DrawMixture, Stacked
from probmodel.families.normal_mixture import NormalMixture


def average(by_draw: Distribution, log_weights: Float[Tensor, "S N"] | None = None) -> Distribution:
    """Mixture over the first batch axis; a Categorical or Bernoulli stays one, with its probabilities averaged.

    Normals, and mixtures of them, make a `NormalMixture`, whose quantiles and modes are known.

    Args:
        by_draw: one distribution per draw and row, batch shape (S, N).
        log_weights: log weights of the draws at each row, up to a constant; equal weights by default.

    Returns:
        Distribution of batch shape (N,).

    Raises:
        ValueError: for a distribution without parameters to average.
    """
    return _mixture(by_draw, equal_weights(by_draw) if log_weights is None else log_weights)


@singledispatch
def equal_weights(by_draw: Distribution) -> Float[Tensor, "S *N"]:
    """Log weights of zero for each draw and row."""
    return torch.zeros(by_draw.batch_shape).to(distribution_parameters(by_draw)[0])


@equal_weights.register
def _(by_draw: Stacked) -> Float[Tensor, "S *N"]:
    return torch.zeros(by_draw.batch_shape, dtype=torch.float64)


@singledispatch
def _mixture(by_draw: Distribution, weights: Float[Tensor, "S *N"]) -> Distribution:
    """Mixture over the first batch axis with these log weights."""
    if type(by_draw) is Normal or type(by_draw) is PyroNormal:
        loc, scale = (p.movedim(0, -1) for p in (by_draw.loc, by_draw.scale))
        return NormalMixture(weights.movedim(0, -1), loc, scale)
    moved = with_parameters(by_draw, [_draw_axis_last(p, by_draw) for p in distribution_parameters(by_draw)])
    return MixtureSameFamily(Categorical(logits=weights.movedim(0, -1)), moved)


@_mixture.register
def _(by_draw: Categorical, weights: Float[Tensor, "S *N"]) -> Distribution:
    return Categorical(logits=(by_draw.logits + weights[..., None]).logsumexp(0))


@_mixture.register
def _(by_draw: Bernoulli, weights: Float[Tensor, "S *N"]) -> Distribution:
    tails, heads = ((logsigmoid(sign * by_draw.logits) + weights).logsumexp(0) for sign in (-1, 1))
    return Bernoulli(logits=heads - tails)


@_mixture.register
def _(by_draw: Stacked, weights: Float[Tensor, "S *N"]) -> Distribution:
    return DrawMixture(by_draw.parts, weights)


@_mixture.register
def _(by_draw: MixtureSameFamily, weights: Float[Tensor, "S *N"]) -> Distribution:
    """Mixture of mixtures: the components of all draws, S K of them, in one."""
    inner = by_draw.component_distribution
    logits = by_draw.mixture_distribution.logits + weights[..., None]
    depth = len(by_draw.batch_shape)
    parts = [p.movedim(0, depth - 1).flatten(depth - 1, depth) for p in distribution_parameters(inner)]
    return MixtureSameFamily(Categorical(logits=logits.movedim(0, -2).flatten(-2)), with_parameters(inner, parts))


@_mixture.register
def _(by_draw: NormalMixture, weights: Float[Tensor, "S *N"]) -> Distribution:
    logits = by_draw.logits.log_softmax(-1) + weights[..., None]
    logits, loc, scale = (p.movedim(0, -2).flatten(-2) for p in (logits, by_draw.loc, by_draw.scale))
    return NormalMixture(logits, loc, scale)


def _draw_axis_last(parameter: Tensor, distribution: Distribution) -> Tensor:
    """Parameter of shape (S, N, *event) as (N, S, *event), the axis order in which a mixture keeps its components."""
    return parameter.movedim(0, len(distribution.batch_shape) - 1)


def has_finite_support(distribution: Distribution) -> bool:
    """Return whether the distribution is a Categorical or a Bernoulli."""
    return isinstance(distribution, Categorical | Bernoulli)


def has_classes(distribution: Distribution) -> TypeGuard[Categorical]:
    """Return whether the distribution is over classes, with a probability for each."""
    return isinstance(distribution, Categorical)


def unwrapped(distribution: Distribution) -> Distribution:
    """The distribution itself, or the one whose batch axes an `Independent` declares to be event axes."""
    return distribution.base_dist if isinstance(distribution, Independent) else distribution


def distribution_parameters(distribution: Distribution) -> list[Tensor]:
    """Parameters of a distribution, each in one parametrization: logits, and the Cholesky factor of a covariance."""
    if unwrapped(distribution) is not distribution:
        return distribution_parameters(unwrapped(distribution))
    return _parameters(distribution)


@singledispatch
def _parameters(distribution: Distribution) -> list[Tensor]:
    return [attrgetter(name)(distribution) for name in _names(distribution)]


@_parameters.register
def _(distribution: ZeroInflatedDistribution) -> list[Tensor]:
    return [distribution.gate_logits, *distribution_parameters(distribution.base_dist)]


@_parameters.register
def _(distribution: MixtureSameFamily) -> list[Tensor]:
    return [distribution.mixture_distribution.logits, *distribution_parameters(distribution.component_distribution)]


@_parameters.register
def _(distribution: NormalMixture) -> list[Tensor]:
    return [distribution.logits, distribution.loc, distribution.scale]


def _names(distribution: Distribution) -> Sequence[str]:
    names = list(distribution.arg_constraints)
    if not names:
        raise ValueError(
            f"expected a likelihood with parameters to average, got {type(distribution).__name__}; write it as one of "
            "PyTorch's distributions, or draw from the model with pyro.infer.Predictive"
        )
    twice = {"probs", "logits"} <= set(names)
    twice_scale = {"covariance_matrix", "precision_matrix", "scale_tril"} <= set(names)
    return [
        n
        for n in names
        if not ((twice and n == "probs") or (twice_scale and n in ("covariance_matrix", "precision_matrix")))
    ]


@singledispatch
def with_parameters(distribution: Distribution, values: Sequence[Tensor]) -> Distribution:
    """Distribution of the same family with these values of its `distribution_parameters`, in their order."""
    family: Callable[..., Any] = type(distribution)
    return cast(Distribution, family(**dict(zip(_names(distribution), values, strict=True))))


@with_parameters.register
def _(distribution: Independent, values: Sequence[Tensor]) -> Distribution:
    return Independent(with_parameters(distribution.base_dist, values), distribution.reinterpreted_batch_ndims)


@with_parameters.register
def _(distribution: ZeroInflatedDistribution, values: Sequence[Tensor]) -> Distribution:
    base = with_parameters(distribution.base_dist, values[1:])
    return cast(Distribution, ZeroInflatedDistribution(base, gate_logits=values[0]))


@with_parameters.register
def _(distribution: MixtureSameFamily, values: Sequence[Tensor]) -> Distribution:
    return MixtureSameFamily(
        Categorical(logits=values[0]), with_parameters(distribution.component_distribution, values[1:])
    )


@with_parameters.register
def _(distribution: NormalMixture, values: Sequence[Tensor]) -> Distribution:
    logits, loc, scale = values
    return NormalMixture(logits, loc, scale)


def can_be_stacked(distribution: Distribution) -> bool:
    """Return whether a distribution is that of its parameters: rebuilt from them, it gives a value the same density."""
    try:
        again = with_parameters(distribution, distribution_parameters(distribution))
        value = distribution.sample()
        densities = again.log_prob(value), distribution.log_prob(value)
        return torch.allclose(*densities, rtol=1e-4, atol=1e-5, equal_nan=True)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False


@with_parameters.register
def _(distribution: Multinomial, values: Sequence[Tensor]) -> Distribution:
    # PyTorch does not list the number of trials as a parameter.
    return type(distribution)(distribution.total_count, logits=values[0])
