"""The sites of a Pyro model, found by one run: latents, observations, plates and rows."""

import warnings
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from probmodel.protocols.dataset import Dataset, digest, joined_with_mask
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Latent, Sites
from probmodel.tracing.devices import traced_run
from probmodel.tracing.error_messages import MACHINERY, raise_time_out, translated_errors
from probmodel.tracing.internals import is_subsample


class _Supplied(Messenger):
    """Sets latents without a normalized prior, which cannot be drawn, to the image of 0."""

    def __init__(self, data: Dataset) -> None:
        super().__init__()
        floating = [tensor for tensor in data.tensors() if tensor.is_floating_point()]
        self.like = floating[0] if floating else torch.zeros(())

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and msg["value"] is None and _is_improper(msg["fn"]):
            transform = biject_to(msg["fn"].support)
            shape = transform.inverse_shape(msg["fn"].shape())
            msg["value"] = transform(self.like.new_zeros(shape))
            msg["done"] = True


def _is_improper(fn: Any) -> bool:
    while isinstance(fn, dist.torch.Independent):
        fn = fn.base_dist
    return isinstance(fn, dist.ImproperUniform)


def _full_size(frame: Any) -> int:
    return int(frame.full_size or frame.size)


def sites(model: Model, data: Dataset) -> Sites:
    """Sites of a model, found by running it once; call it inside `isolated`.

    Args:
        model: any Pyro model.
        data: data set for its call.

    Raises:
        ValueError: naming the site, for a discrete latent that cannot be summed out or a model that subsamples itself.
    """
    nodes = _run(model, data)
    for name, node in nodes.items():
        fn = node["fn"]
        if is_subsample(fn) and fn.subsample_size is not None and fn.subsample_size < fn.size:
            raise ValueError(
                f"expected the whole data set, got plate {name!r} that draws {fn.subsample_size} of {fn.size} rows at "
                "each call; pass an explicit subsample=, or let SVI(batch_size=...) draw the minibatches"
            )
    nodes = {name: node for name, node in nodes.items() if not is_subsample(node["fn"])}
    free = {name: node for name, node in nodes.items() if not node["is_observed"]}
    discrete = tuple(name for name, node in free.items() if node["fn"].support.is_discrete)
    for name in discrete:
        if not free[name]["fn"].has_enumerate_support:
            raise ValueError(
                f"expected continuous latents or discrete ones with finite support, got site {name!r} "
                f"({type(free[name]['fn']).__name__}), which cannot be summed out; marginalize it by hand"
            )
    observed = {name: node for name, node in nodes.items() if node["is_observed"]}
    found = Sites(
        (),
        discrete,
        tuple(observed),
        max((-frame.dim for frame in _frames(nodes)), default=0),
        data.num_rows,
        _other_plates(model, data, nodes),
        digest(_observed_values(observed) or data.tensors()),
        tuple(node["value"] for node in observed.values()),
        tuple(name for name, node in free.items() if _is_improper(node["fn"])),
        tuple(name for name, node in observed.items() if isinstance(node["fn"], dist.Unit)),
    )
    latents = (_latent(name, node, found) for name, node in free.items() if name not in discrete)
    return found._replace(latents=tuple(latents))


def _observed_values(observed: Mapping[str, Mapping[str, Any]]) -> list[Tensor]:
    """Observed values, joined with their mask where some of them are masked out."""
    return [_digested(node["fn"], node["value"]) for node in observed.values() if node["value"] is not None]


def _digested(fn: Any, value: Tensor) -> Tensor:
    mask = fn._mask if isinstance(fn, dist.MaskedDistribution) else None
    return joined_with_mask(value, mask) if torch.is_tensor(mask) else value


def _run(model: Model, data: Dataset) -> dict[str, Mapping[str, Any]]:
    with translated_errors(data), torch.no_grad(), _Supplied(data):
        run = traced_run(model, data)
        with warnings.catch_warnings():
            # The kinds of the sites do not depend on their densities, of which the target reports NaN.
            warnings.filterwarnings("ignore", "Encountered NaN")
            run.compute_log_prob(lambda _, node: node["is_observed"])
        _check_observations(run)
    return {name: node for name, node in run.nodes.items() if node["type"] == "sample"}


def _check_observations(run: poutine.Trace) -> None:
    """Raise ValueError where an observation has more axes or rows than its site, which broadcasting would accept."""
    for name in run.observation_nodes:
        node: Any = run.nodes[name]
        batch = node["fn"].batch_shape
        if torch.broadcast_shapes(node["log_prob"].shape, batch) != batch:
            raise ValueError(
                f"expected an observation of shape {tuple(node['fn'].shape())} at site {name!r}, got "
                f"{tuple(node['value'].shape)}; reshape it"
            )


def _frames(nodes: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    return [frame for node in nodes.values() for frame in node["cond_indep_stack"] if frame.vectorized]


def _other_plates(model: Model, data: Dataset, nodes: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Plates of the size of the rows that keep it without a row; tested only where the observations are ambiguous."""
    rows = data.num_rows
    candidates = frozenset(frame.name for frame in _frames(nodes) if _full_size(frame) == rows)
    around = [
        {frame.name for frame in node["cond_indep_stack"] if frame.vectorized} & candidates
        for node in nodes.values()
        if node["is_observed"]
    ]
    over_rows = frozenset[str]().union(*(names for names in around if len(names) == 1))
    if rows is None or candidates == over_rows:
        return frozenset()
    try:
        shorter = _frames(_run(model, data.rows(slice(rows - 1))))
    except MACHINERY as error:  # A model written for exactly this number of rows; its observations decide.
        raise_time_out(error)
        return candidates - over_rows
    return candidates - over_rows - {frame.name for frame in shorter if _full_size(frame) == rows - 1}


def _latent(name: str, node: Mapping[str, Any], found: Sites) -> Latent:
    transform = biject_to(node["fn"].support)
    value = node["value"].detach()
    event_dim = node["fn"].event_dim
    row_dim = row_axis(node, found)
    return Latent(
        name,
        value.shape,
        transform.inv(value).shape,
        transform,
        _base(node["fn"].support),
        event_dim,
        None if row_dim is None else row_dim - event_dim,
        value,
    )


def _base(support: Constraint) -> Constraint:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def row_axis(node: Mapping[str, Any], found: Sites) -> int | None:
    """Axis, counted from the right, of the plate over rows in a site's log-probability; None outside such a plate."""
    for frame in node["cond_indep_stack"]:
        if is_over_rows(frame, found):
            return int(frame.dim)
    return None


def is_over_rows(frame: Any, found: Sites) -> bool:
    """Return whether a plate runs over the rows of the data."""
    if found.num_rows is None or not frame.vectorized or frame.name in found.other_plates:
        return False
    return _full_size(frame) == found.num_rows
