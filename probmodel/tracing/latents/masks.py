"""Sites under a mask: latents keep their prior, and masked observations may be any number, NaN included."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from probmodel.protocols.sites import Sites
from probmodel.tracing.internals import is_deterministic, is_subsample, mask_of


class KeptPriors(Messenger):
    """Lets masked entries of latents keep their prior, and observations have no density outside of their support.

    Pyro gives a masked entry of a latent the density 1 on the whole real line, so that the model has no evidence.  Nothing
    depends on such an entry, and with its prior it integrates to one.

    Args:
        found: sites of the model; those whose masked entries the rest of the model depends on keep their mask.
    """

    def __init__(self, found: Sites) -> None:
        super().__init__()
        self.flat = frozenset(found.improper)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not is_deterministic(msg) and _is_bounded_by_tensors(msg["fn"]):
            msg["fn"] = InsideSupport(msg["fn"])
        fixed = msg["is_observed"] or is_subsample(msg["fn"]) or is_deterministic(msg)
        if not fixed and msg["name"] not in self.flat:
            msg["mask"], msg["fn"] = None, without_mask(msg["fn"])


class InsideSupport(dist.TorchDistribution):
    """A distribution whose density is zero outside of its support, also where arguments are not validated.

    Args:
        inner: distribution whose bounds may depend on latents.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.inner.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "InsideSupport":
        return InsideSupport(self.inner.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.inner.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, −inf outside of the support."""
        inside = self.inner.support.check(value)
        return torch.where(inside, self.inner.log_prob(value), -math.inf)


def _is_bounded_by_tensors(fn: Any) -> bool:
    try:
        support = fn.support
    except (AttributeError, NotImplementedError):  # A distribution of the user's that states none.
        return False
    inner = getattr(support, "base_constraint", support)
    return not support.is_discrete and any(torch.is_tensor(bound) for bound in getattr(inner, "__dict__", {}).values())


class FilledObservations(Messenger):
    """Puts finite numbers in place of masked observations that are none, whose gradient would be NaN though they do not count."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not is_deterministic(msg):
            _fill(msg)


def without_mask(fn: Any) -> Any:
    """The distribution without the masks made by `.mask(...)`."""
    if type(fn) is dist.MaskedDistribution:
        return without_mask(fn.base_dist)
    if type(fn) is dist.torch.Independent and without_mask(fn.base_dist) is not fn.base_dist:
        return without_mask(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    return fn


def _fill(msg: Any) -> None:
    value = msg["value"]
    kept = [mask for mask in (msg["mask"], mask_of(msg["fn"])) if torch.is_tensor(mask)]
    if not kept or not torch.is_tensor(value) or not value.is_floating_point():
        return
    for mask in kept:
        value = torch.where(
            _over_events(mask, msg["fn"].event_dim) | torch.isfinite(value), value, _valid(msg["fn"], value)
        )
    msg["value"] = value


def _over_events(mask: Tensor, event_dim: int) -> Tensor:
    return mask.reshape(mask.shape + (1,) * event_dim)


def _valid(fn: Any, like: Tensor) -> Tensor:
    """A value in the support of a distribution."""
    if fn.support.is_discrete:
        return like.new_zeros(())
    transform = torch.distributions.transform_to(fn.support)
    return transform(like.new_zeros(transform.inverse_shape(fn.shape()))).to(like)
