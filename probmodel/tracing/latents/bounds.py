"""Bounds of supports, and observations outside of them."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from probmodel.tracing.internals import is_deterministic


def bounds(value: Any) -> list[Any]:
    """Numbers and tensors that a constraint is made of."""
    if torch.is_tensor(value) or type(value) is float:
        return [value]
    parts = value if type(value) in (list, tuple) else getattr(value, "__dict__", {}).values()
    return [bound for part in parts for bound in bounds(part)]


class BoundedObservations(Messenger):
    """Gives observations outside of the support no density, where its bounds are tensors, which latents may move."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not is_deterministic(msg) and _has_tensor_bounds(msg["fn"]):
            msg["fn"] = InsideSupport(msg["fn"])


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
        return InsideSupport(self.base_dist.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, −inf outside of the support."""
        inside = self.base_dist.support.check(value)
        return torch.where(inside, self.base_dist.log_prob(value), -math.inf)
