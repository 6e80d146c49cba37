"""Sites under a mask: latents keep their prior, and masked observations may be any number, NaN included."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from probmodel.protocols.sites import Sites
from probmodel.tracing.internals import is_deterministic, is_subsample, mask_of


class KeptPriors(Messenger):
    """Lets masked entries of latents keep their prior.

    Pyro gives a masked entry of a latent the density 1 on the whole real line, so that the model has no evidence.  Nothing
    depends on such an entry, and with its prior it integrates to one.

    Args:
        found: sites of the model; those whose masked entries the rest of the model depends on keep their mask.
    """

    def __init__(self, found: Sites) -> None:
        super().__init__()
        self.flat = frozenset(found.improper)

    def _pyro_sample(self, msg: Any) -> None:
        fixed = msg["is_observed"] or is_subsample(msg["fn"]) or is_deterministic(msg)
        if not fixed and msg["name"] not in self.flat:
            msg["mask"], msg["fn"] = None, without_mask(msg["fn"])


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
    return mask.reshape(*mask.shape, *(1,) * event_dim)


def _valid(fn: Any, like: Tensor) -> Tensor:
    """A value in the support of a distribution."""
    if fn.support.is_discrete:
        return like.new_zeros(())
    transform = torch.distributions.transform_to(fn.support)
    return transform(like.new_zeros(transform.inverse_shape(fn.shape()))).to(like)
