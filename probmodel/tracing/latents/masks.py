"""Sites under a mask: latents keep their prior, and masked observations may be any number, NaN included."""

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from probmodel.protocols.sites import Sites
from probmodel.tracing.internals import is_deterministic, is_subsample, mask_of
from probmodel.tracing.latents.bounds import InsideSupport


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
        value = msg["value"]
        if (
            not msg["is_observed"]
            or is_deterministic(msg)
            or not torch.is_tensor(value)
            or not value.is_floating_point()
        ):
            return
        kept = kept_at(msg)
        if torch.is_tensor(kept):
            msg["value"] = torch.where(kept | torch.isfinite(value), value, _valid(msg["fn"], value))


def kept_at(node: Mapping[str, Any]) -> Tensor | bool | None:
    """Mask of a site, by handlers and by its distribution: True where a value counts, broadcast to it; None without one."""
    masks, fn = [(node["mask"], node["fn"])], node["fn"]
    while is_wrapped(fn):
        masks, fn = [*masks, (mask_of(fn), fn)], fn.base_dist
    kept = None
    for mask, masked in masks:
        if mask is not None:
            # A mask has the axes of a batch, to which the axes of each event are added.
            whole = mask.reshape(mask.shape + (1,) * masked.event_dim) if torch.is_tensor(mask) else mask
            kept = whole if kept is None else kept & whole
    return kept


def is_wrapped(fn: Any) -> bool:
    """Return whether a distribution is another one under a mask, inside its support, or with event axes in place of batches."""
    return type(fn) in (dist.torch.Independent, dist.MaskedDistribution) or isinstance(fn, InsideSupport)


def without_mask(fn: Any) -> Any:
    """The distribution without the masks made by `.mask(...)`."""
    if type(fn) is dist.MaskedDistribution:
        return without_mask(fn.base_dist)
    if type(fn) is dist.torch.Independent and without_mask(fn.base_dist) is not fn.base_dist:
        return without_mask(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    return fn


def _valid(fn: Any, like: Tensor) -> Tensor:
    """A value in the support of a distribution."""
    if fn.support.is_discrete:
        return like.new_zeros(())
    transform = torch.distributions.transform_to(fn.support)
    return transform(like.new_zeros(transform.inverse_shape(fn.shape()))).to(like)
