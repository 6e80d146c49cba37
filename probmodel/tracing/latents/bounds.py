"""Bounds of supports, and observations outside of them."""

import math
from functools import singledispatch
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from probmodel.tracing.internals import is_deterministic, is_subsample, mask_of


def bounds(value: Any) -> list[Any]:
    """Numbers and tensors that a constraint is made of."""
    if torch.is_tensor(value) or type(value) is float:
        return [value]
    parts = value if type(value) in (list, tuple) else getattr(value, "__dict__", {}).values()
    return [bound for part in parts for bound in bounds(part)]


class BoundedObservations(Messenger):
    """Gives values outside of the support no density: observations where its bounds are tensors, which latents may move.

    PyTorch states the support of a shifted or scaled distribution as all reals.  Its values, of latents too, are checked
    where the transform came from.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if is_deterministic(msg) or is_subsample(msg["fn"]):
            return
        msg["fn"] = _with_edge(msg["fn"])
        if not msg["is_observed"] and _is_angle(msg["fn"]):
            msg["fn"] = Angle(msg["fn"])
        if msg["is_observed"] and _has_tensor_bounds(msg["fn"]):
            msg["fn"] = InsideSupport(msg["fn"])


CIRCULAR = (dist.VonMises, dist.SineBivariateVonMises, dist.SineSkewed)
"""Densities of angles, which PyTorch states on all reals, where they repeat and have no finite integral."""
ONCE_AROUND = constraints.interval(-math.pi, math.pi)


def latent_support(fn: Any) -> Any:
    """Support of a latent: once around the circle for an angle, else what the distribution states."""
    if not _is_angle(fn):
        return fn.support
    return constraints.independent(ONCE_AROUND, fn.event_dim) if fn.event_dim else ONCE_AROUND


def _is_angle(fn: Any) -> bool:
    while type(fn) is dist.torch.Independent:
        fn = fn.base_dist
    return type(fn) in CIRCULAR


@singledispatch
def _with_edge(fn: Any) -> Any:
    """The distribution, whose density is zero where the base of a transform has none."""
    return fn


@_with_edge.register
def _(fn: dist.torch.Independent) -> Any:
    inner = _with_edge(fn.base_dist)
    return fn if inner is fn.base_dist else inner.to_event(fn.reinterpreted_batch_ndims)


@_with_edge.register
def _(fn: dist.MaskedDistribution) -> Any:
    inner = _with_edge(fn.base_dist)
    return fn if inner is fn.base_dist else inner.mask(mask_of(fn))


@_with_edge.register
def _(fn: torch.distributions.TransformedDistribution) -> Any:
    base = fn.base_dist.support
    while type(base) is constraints.independent:
        base = base.base_constraint
    return fn if base is None or base is constraints.real or base.is_discrete else InsideBase(fn)


def _has_tensor_bounds(fn: Any) -> bool:
    try:
        support = fn.support
    except (AttributeError, NotImplementedError):  # A distribution of the user's that states none.
        return False
    return not support.is_discrete and any(map(torch.is_tensor, bounds(support)))


class InsideSupport(dist.TorchDistribution):
    """A distribution whose density is zero outside of its support, also where arguments are not validated.

    Args:
        base_dist: distribution whose bounds may depend on latents.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, base_dist: Any) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "InsideSupport":
        return type(self)(self.base_dist.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, −inf outside of the support."""
        return torch.where(self._is_inside(value), self.base_dist.log_prob(value), -math.inf)

    def _is_inside(self, value: Tensor) -> Tensor:
        return self.support.check(value)


class Angle(InsideSupport):
    """A distribution of angles, or of vectors of them, from −π to π.

    Args:
        base_dist: distribution whose density repeats beyond.
    """

    @property
    def support(self) -> Any:
        return latent_support(self.base_dist)


class InsideBase(InsideSupport):
    """A transformed distribution whose density is zero where its base has none.

    Args:
        base_dist: transformed distribution.
    """

    def _is_inside(self, value: Tensor) -> Tensor:
        for transform in reversed(self.base_dist.transforms):
            value = transform.inv(value)
        inside = self.base_dist.base_dist.support.check(value)
        while inside.dim() > len(self.batch_shape):  # Axes of the event that the base does not have.
            inside = inside.all(-1)
        return inside
