"""The sites of a Pyro model, found by one run: latents, observations, plates and rows."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro
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
from probmodel.tracing.internals import is_deterministic, is_subsample
from probmodel.tracing.latents.bounds import latent_support
from probmodel.tracing.latents.dependence import rows_depend
from probmodel.tracing.latents.masks import is_wrapped, kept_at
from probmodel.tracing.ownership import provide_parameter_stores


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
    return isinstance(_inner(fn), dist.ImproperUniform)


def _inner(fn: Any) -> Any:
    while is_wrapped(fn):
        fn = fn.base_dist
    return fn


def _is_function_of_others(node: Mapping[str, Any]) -> bool:
    """Return whether a site is a `pyro.deterministic` statement, or a point mass that is not observed.

    A reparametrized latent is a point mass that counts for nothing, which Pyro records as an observation.
    """
    if type(_inner(node["fn"])) is not dist.Delta:
        return is_deterministic(node)
    return is_deterministic(node) or not node["is_observed"] or kept_at(node) is False


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
    provide_parameter_stores(model)
    nodes, parameters = _run(model, data)
    for name, node in nodes.items():
        fn = node["fn"]
        if is_subsample(fn) and fn.subsample_size is not None and fn.subsample_size < fn.size:
            raise ValueError(
                f"expected the whole data set, got plate {name!r} that draws {fn.subsample_size} of {fn.size} rows at "
                "each call; pass an explicit subsample=, or let SVI(batch_size=...) draw the minibatches"
            )
    nodes = {name: node for name, node in nodes.items() if not is_subsample(node["fn"])}
    functions = [name for name, node in nodes.items() if _is_function_of_others(node)]
    stochastic = {name: node for name, node in nodes.items() if name not in functions}
    free = {name: node for name, node in stochastic.items() if not node["is_observed"]}
    discrete = tuple(name for name, node in free.items() if node["fn"].support.is_discrete)
    for name in discrete:
        if not free[name]["fn"].has_enumerate_support:
            raise ValueError(
                f"expected continuous latents or discrete ones with finite support, got site {name!r} "
                f"({type(free[name]['fn']).__name__}), which cannot be summed out; marginalize it by hand"
            )
    observed = {name: node for name, node in stochastic.items() if node["is_observed"]}
    factors = tuple(name for name, node in observed.items() if type(_inner(node["fn"])) is dist.Unit)
    seen = {name: node for name, node in observed.items() if name not in factors}
    improper = [name for name, node in free.items() if _is_improper(node["fn"]) or _power(node) is not None]
    found = Sites(
        (),
        discrete,
        tuple(observed),
        _nesting(nodes),
        data.num_rows,
        _other_plates(model, data, nodes),
        _digest(seen, data, [node["fn"].log_prob(node["value"]) for name, node in observed.items() if name in factors]),
        tuple(node["value"] for node in seen.values()),
        (*improper, *_flat_under_mask(model, data, free)),
        factors,
        tuple(functions),
        {name: _axes(node) for name, node in nodes.items()},
        parameters=parameters,
        sequential=frozenset(f.name for node in nodes.values() for f in node["cond_indep_stack"] if not f.vectorized),
    )
    over_rows = frozenset(frame.name for frame in _frames(nodes) if data.num_rows is None or is_over_rows(frame, found))
    found = found._replace(row_plates=over_rows)
    latents = tuple(_latent(name, node, found) for name, node in free.items() if name not in discrete)
    if not rows_depend(model, data, latents, lambda node: row_axis(node, found)):
        return found._replace(latents=latents)
    _refuse_minibatch(data, latents)
    return found._replace(latents=tuple(latent._replace(row_dim=None) for latent in latents), coupled_rows=True)


def _refuse_minibatch(data: Dataset, latents: Sequence[Latent]) -> None:
    if data.size != data.num_rows:
        names = [latent.name for latent in latents if latent.row_dim is not None]
        raise ValueError(
            f"expected all {data.size} rows, since the observations of a row depend on the values of {names} of other rows, "
            f"got {data.num_rows}; leave out batch_size"
        )


def checked_run(model: Model, data: Dataset, found: Sites) -> poutine.Trace:
    """Trace of a run whose latents are all supplied.

    Raises:
        ValueError: naming the site, where this run samples others than the one by which the sites were found.
    """
    run = traced_run(model, data)
    known = {*(latent.name for latent in found.latents), *found.discrete, *found.observed, *found.deterministic}
    names = set(sample_sites(run))
    if known != names:
        raise ValueError(
            f"expected the same sites in every run, got {sorted(known ^ names)} in some runs only, depending on the values "
            "of latents; sample every site in every run, and select among them by torch.where"
        )
    return run


def _nesting(nodes: Mapping[str, Mapping[str, Any]]) -> int:
    """Number of batch axes of the deepest site, those without a plate included."""
    plates = (-frame.dim for frame in _frames(nodes))
    return max((*plates, *(len(node["fn"].batch_shape) for node in nodes.values())), default=0)


def _axes(node: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Names of the plates over the axes of a site's value, from the left; None for an axis without a plate."""
    plates = {frame.dim: frame for frame in node["cond_indep_stack"] if frame.vectorized}
    value: Tensor = node["value"]
    # A deterministic statement declares every axis to be an event axis, those of plates included.
    event_dim = 0 if is_deterministic(node) else node["fn"].event_dim
    batch = value.dim() - event_dim
    frames = [plates.get(axis - batch) for axis in range(batch)]
    names = [f.name if f is not None and f.size == size else None for f, size in zip(frames, value.shape, strict=False)]
    return (*names, *(None,) * event_dim)


def _digest(seen: Mapping[str, Mapping[str, Any]], data: Dataset, factors: list[Tensor]) -> str:
    """Fingerprint of the observations.

    Observations inside factors cannot be told: then it is one of all data, and where the model is called without data,
    one of the factors' values at the draws of this run.
    """
    values = [_digested(node) for node in seen.values() if node["value"] is not None]
    if factors:
        return digest(data.tensors() or [*values, *factors])
    return digest(values or data.tensors())


def _digested(node: Mapping[str, Any]) -> Tensor:
    """Observed value; joined with its mask where some of it is masked out, and with the power of its likelihood."""
    kept, power = kept_at(node), _power(node)
    value = joined_with_mask(node["value"], kept) if torch.is_tensor(kept) else node["value"]
    return value if power is None else torch.cat([value.double().reshape(-1), power.double().reshape(-1)])


def _power(node: Mapping[str, Any]) -> Tensor | None:
    """Power to which `poutine.scale` raises the density of a site, that of a minibatch apart; None for one."""
    subsampled = math.prod(_full_size(frame) / max(frame.size, 1) for frame in node["cond_indep_stack"])
    power = torch.as_tensor(node["scale"]).detach() / subsampled
    # By NumPy, since a comparison of tensors would abort a graph recording during which sites are listed.
    return None if np.allclose(power.cpu().numpy(), 1.0, rtol=1e-9, atol=0) else power


def _flat_under_mask(model: Model, data: Dataset, free: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Latents without a prior for entries that the rest of the model depends on: their prior is masked out.

    A masked entry that nothing depends on keeps its prior, which integrates to one, and the evidence is right.
    """
    masked = {name: kept_at(node) for name, node in free.items() if not node["fn"].support.is_discrete}
    masked = {name: mask for name, mask in masked.items() if mask is not None and mask is not True}
    if not masked:
        return ()
    values = {name: node["value"].detach().clone() for name, node in free.items()}
    for name in masked:
        values[name].requires_grad_()
    with torch.enable_grad(), pyro.validation_enabled(False):
        total = traced_run(poutine.condition(model, values), data).log_prob_sum()
        if not torch.is_tensor(total) or not total.requires_grad:
            return ()
        gradients = torch.autograd.grad(total, [values[name] for name in masked], materialize_grads=True)
    # By NumPy, since reading a tensor would abort a graph recording during which sites are listed.
    return tuple(
        name
        for (name, kept), gradient in zip(masked.items(), gradients, strict=True)
        if (gradient.ne(0) & ~torch.as_tensor(kept, device=gradient.device)).detach().cpu().numpy().any()
    )


def _run(model: Model, data: Dataset) -> tuple[dict[str, Mapping[str, Any]], tuple[str, ...]]:
    """Sites of a run by name, and the names of its `pyro.param` statements."""
    with translated_errors(data), torch.no_grad():
        run = _run_with_densities(model, data)
        _check_observations(run)
    return {name: node for name, node in run.nodes.items() if node["type"] == "sample"}, tuple(run.param_nodes)


NUM_TRIES = 20
"""Draws of the latents among which the observations have to be inside their support once."""


def inspected_run(model: Model, data: Dataset) -> poutine.Trace:
    """Trace of a run of any model: latents that cannot be drawn are supplied."""
    with _Supplied(data):
        return traced_run(model, data)


def sample_sites(run: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """Sites of a run that belong to the model."""
    return {name: node for name, node in run.nodes.items() if node["type"] == "sample" and not is_subsample(node["fn"])}


def _run_with_densities(model: Model, data: Dataset) -> poutine.Trace:
    """Trace of a run with the log-probabilities of the observed sites."""
    for left in reversed(range(NUM_TRIES)):
        run = inspected_run(model, data)
        try:
            with warnings.catch_warnings():
                # The kinds of the sites do not depend on their densities, of which the target reports NaN.
                warnings.filterwarnings("ignore", "Encountered NaN")
                run.compute_log_prob(lambda _, node: node["is_observed"])
        except ValueError as error:
            # At some draws a support may leave observations out, as that above a drawn bound.
            if "within the support" not in str(error) or not left or not run.stochastic_nodes:
                raise
            continue
        break
    return run


def _check_observations(run: poutine.Trace) -> None:
    """Raise ValueError where an observation has more axes or rows than its site, which broadcasting would accept."""
    for name in run.observation_nodes:
        node: Any = run.nodes[name]
        if is_deterministic(node):
            continue
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
        shorter = _frames(_run(model, data.rows(slice(rows - 1)))[0])
    except MACHINERY as error:  # A model written for exactly this number of rows; its observations decide.
        raise_time_out(error)
        return candidates - over_rows
    return candidates - over_rows - {frame.name for frame in shorter if _full_size(frame) == rows - 1}


def _latent(name: str, node: Mapping[str, Any], found: Sites) -> Latent:
    try:
        support = latent_support(node["fn"])
        transform = biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"expected latents with a map from R^D to their support, got site {name!r} ({type(_inner(node['fn'])).__name__}) "
            "without one; sample what it is made of, as a covariance from scales and LKJCholesky"
        ) from error
    value = node["value"].detach()
    event_dim = node["fn"].event_dim
    row_dim = row_axis(node, found)
    return Latent(
        name,
        value.shape,
        transform.inv(value).shape,
        transform,
        _base(support),
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
