"""What a Pyro model samples, and the log-probabilities of its sites: plates, rows, discrete latents summed out.

Discrete sites are enumerated in parallel and contracted by Pyro's tensor variable elimination (Obermeyer et al., 2019,
"Tensor variable elimination for plated factor graphs").
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint

from probmodel.protocols import Dataset, Model, digest


class Latent(NamedTuple):
    """A continuous latent: its place in R^D and the map from there to its support."""

    name: str
    shape: torch.Size
    unconstrained_shape: torch.Size
    transform: Transform
    support: Constraint
    """Support of one number or vector of the site, its event dimensions unwrapped."""
    event_dim: int
    row_dim: int | None
    """Axis of `shape` (from the right) that runs over the rows; None for a latent shared by all rows."""
    value: Tensor


class Sites(NamedTuple):
    """Everything a model samples when called on a data set, found by running it once."""

    latents: tuple[Latent, ...]
    discrete: tuple[str, ...]
    observed: tuple[str, ...]
    max_plate_nesting: int
    num_rows: int | None
    digest: str
    observations: tuple[Tensor, ...]

    @property
    def row_local(self) -> bool:
        """Every latent belongs to one row, so that the evidence is a sum over rows."""
        return self.num_rows is not None and bool(self.latents) and all(s.row_dim is not None for s in self.latents)


class _RowScale(Messenger):
    """Scales every site inside a plate over the batch's rows by size / rows: an unbiased estimate of the full sum."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.rows, self.size, self.found = rows, size, False

    def _pyro_sample(self, msg: Any) -> None:
        if any(frame.vectorized and _full_size(frame) == self.rows for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * (self.size / self.rows)
            self.found = True


def _full_size(frame: Any) -> int:
    return int(frame.full_size or frame.size)


def row_scaled(model: Model, data: Dataset) -> Model:
    """The model with its rows' sites scaled from the minibatch to the full set; itself where there is nothing to scale.

    Raises:
        ValueError: on the call, when no plate runs over the rows of a minibatch, since nothing could be scaled.
    """
    return _scaled(model, data, required=True)


def _scaled(model: Model, data: Dataset, *, required: bool) -> Model:
    rows, size = data.num_rows, data.size
    if rows is None or size is None or rows == size:
        return model

    def scaled(*args: Any, **kwargs: Any) -> Any:
        with _RowScale(rows, size) as scale:
            value = model(*args, **kwargs)
        if required and not scale.found:
            raise ValueError(
                f"expected a plate over the {rows} rows of the minibatch, got none; write "
                "`with pyro.plate('rows', len(x)):` around the observations, or fit without batch_size"
            )
        return value

    return scaled


def sites(model: Model, data: Dataset) -> Sites:
    """Run the model once (call it inside `isolated`) and list what it samples.

    Raises:
        ValueError: naming the site, for a discrete latent that cannot be summed out or a model that subsamples itself.
    """
    with torch.no_grad():
        run = poutine.trace(model).get_trace(*data.args, **data.kwargs)
    nodes = {name: node for name, node in run.nodes.items() if node["type"] == "sample"}
    for name, node in nodes.items():
        fn = node["fn"]
        if isinstance(fn, _Subsample) and fn.subsample_size is not None and fn.subsample_size < fn.size:
            raise ValueError(
                f"expected the whole data set, got plate {name!r} that draws {fn.subsample_size} of {fn.size} rows at "
                "each call; pass an explicit subsample= or let SVI(batch_size=...) take the minibatches"
            )
    nodes = {name: node for name, node in nodes.items() if not isinstance(node["fn"], _Subsample)}
    free = {name: node for name, node in nodes.items() if not node["is_observed"]}
    discrete = tuple(name for name, node in free.items() if node["fn"].support.is_discrete)
    for name in discrete:
        if not free[name]["fn"].has_enumerate_support:
            raise ValueError(
                f"expected continuous latents or discrete ones with finite support, got site {name!r} "
                f"({type(free[name]['fn']).__name__}), which cannot be summed out; marginalise it by hand"
            )
    observed = {name: node for name, node in nodes.items() if node["is_observed"]}
    frames = [frame for node in nodes.values() for frame in node["cond_indep_stack"] if frame.vectorized]
    return Sites(
        tuple(_latent(name, node, data.num_rows) for name, node in free.items() if name not in discrete),
        discrete,
        tuple(observed),
        max((-frame.dim for frame in frames), default=0),
        data.num_rows,
        digest([node["value"] for node in observed.values() if node["value"] is not None] or data.tensors()),
        tuple(node["value"] for node in observed.values()),
    )


def _latent(name: str, node: Mapping[str, Any], rows: int | None) -> Latent:
    transform = biject_to(node["fn"].support)
    value = node["value"].detach()
    event_dim = node["fn"].event_dim
    row_dim = row_axis(node, rows)
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


def row_axis(node: Mapping[str, Any], rows: int | None) -> int | None:
    """Axis, counted from the right, of the plate over rows in a site's log-probability; None outside such a plate."""
    for frame in node["cond_indep_stack"]:
        if frame.vectorized and rows is not None and _full_size(frame) == rows:
            return int(frame.dim)
    return None


class Scores(NamedTuple):
    """Log-probabilities of one run of a model, in nats."""

    joint: Tensor
    prior: Tensor
    by_row: Tensor
    """Likelihood by row (N,), or by observed number where the data have no rows."""
    prior_by_row: Tensor


def enumerated(model: Model, found: Sites) -> Model:
    """The model with its discrete latents enumerated in parallel."""
    if not found.discrete:
        return model
    return poutine.enum(config_enumerate(model), first_available_dim=-1 - found.max_plate_nesting)


def score(run: poutine.Trace, found: Sites) -> Scores:
    """Joint, prior and row-wise log-probabilities of a trace whose model was `enumerated`."""
    run.compute_log_prob()
    latents = {latent.name for latent in found.latents}
    joint = _joint(run, found)
    priors = [run.nodes[name] for name in latents]
    if any(node["log_prob"].dim() > found.max_plate_nesting for node in priors):
        raise ValueError(
            f"expected continuous latents that do not depend on discrete ones, got {sorted(latents)} under "
            f"{list(found.discrete)}; prior and likelihood cannot be told apart, use log_joint"
        )
    zero = torch.zeros_like(joint)
    prior = sum((node["log_prob"].sum() for node in priors), zero)
    rows = [_reduce_to_rows(node["log_prob"], row_axis(node, found.num_rows)) for node in priors] if found.row_local else []
    return Scores(joint, prior, _likelihood_by_row(run, found), torch.stack(rows).sum(0) if rows else zero)


def _joint(run: poutine.Trace, found: Sites) -> Tensor:
    if found.discrete:
        return TraceEinsumEvaluator(run, True, found.max_plate_nesting).log_prob(run)
    return run.log_prob_sum()


def _reduce_to_rows(log_prob: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return log_prob.reshape(-1)
    log_prob = log_prob.movedim(axis, 0)
    return log_prob.reshape(len(log_prob), -1).sum(-1)


def _likelihood_by_row(run: poutine.Trace, found: Sites) -> Tensor:
    nodes = [run.nodes[name] for name in found.observed]
    if not nodes:
        return torch.zeros(0)
    if found.discrete:
        return _summed_out_by_row(run, found)
    parts = [_reduce_to_rows(node["log_prob"], _axis_of_rows(node, found.num_rows)) for node in nodes]
    if len({part.shape for part in parts}) == 1 and found.num_rows is not None:
        return torch.stack(parts).sum(0)
    return torch.cat(parts)


def _axis_of_rows(node: Mapping[str, Any], rows: int | None) -> int | None:
    """As `row_axis`, and for observations written without a plate the last axis if it has one entry a row."""
    axis = row_axis(node, rows)
    if axis is None and rows is not None and node["log_prob"].dim() and node["log_prob"].shape[-1] == rows:
        return -1
    return axis


def _summed_out_by_row(run: poutine.Trace, found: Sites) -> Tensor:
    run.pack_tensors()
    names = (*found.observed, *found.discrete)
    ordinals = {
        name: frozenset(run.plate_to_symbol[f.name] for f in run.nodes[name]["cond_indep_stack"] if f.vectorized)
        for name in names
    }
    rows = {
        run.plate_to_symbol[f.name]
        for name in found.observed
        for f in run.nodes[name]["cond_indep_stack"]
        if f.vectorized and (found.num_rows is None or _full_size(f) == found.num_rows)
    }
    target = frozenset(rows)
    shared = [name for name in found.discrete if not target <= ordinals[name]]
    if shared or not target:
        raise ValueError(
            f"expected discrete latents local to a row, got {shared or list(found.discrete)} shared by several rows; "
            "the likelihood does not factorise over rows"
        )
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for name in names:
        factors.setdefault(ordinals[name], []).append(run.nodes[name]["packed"]["log_prob"])
    enumerated_dims = set(run.symbol_to_dim) - set(run.plate_to_symbol.values())
    return contract_to_tensor(factors, enumerated_dims, target_ordinal=target)


def guided_runs(model: Model, guide: Model, data: Dataset) -> tuple[poutine.Trace, poutine.Trace, Tensor]:
    """A draw from the guide, the model replayed on it, and the model's log joint; all scaled to the full data set."""
    found = sites(model, data)
    drawn = poutine.trace(_scaled(guide, data, required=False)).get_trace(*data.args, **data.kwargs)
    replayed_model = poutine.replay(row_scaled(model, data), trace=drawn)
    summed = found._replace(discrete=tuple(name for name in found.discrete if name not in drawn.nodes))
    replayed = poutine.trace(enumerated(replayed_model, summed)).get_trace(*data.args, **data.kwargs)
    drawn.compute_log_prob()
    replayed.compute_log_prob()
    unguided = [latent.name for latent in found.latents if latent.name not in drawn.nodes]
    if unguided:
        raise ValueError(f"expected a guide for every latent, got none for {unguided}; add pyro.sample statements for them")
    return drawn, replayed, _joint(replayed, summed)


class LogWeights(NamedTuple):
    """Log importance weights log p(data, z) − log q(z) of one draw, and what their sum over rows is multiplied by."""

    values: Tensor
    """(N,) where every latent is local to a row, else (1,)."""
    scale: float
    """size / rows for a minibatch of independent rows, else 1."""


def log_weights(model: Model, guide: Model, data: Dataset) -> LogWeights:
    """Weigh one draw of the guide; by row where rows are independent given the parameters."""
    found = sites(model, data)
    rows, size = data.num_rows, data.size
    if not found.row_local or found.discrete or rows is None or size is None:
        drawn, _, joint = guided_runs(model, guide, data)
        return LogWeights((joint - sum(n["log_prob"].sum() for n in guide_sites(drawn).values())).reshape(1), 1.0)
    # Rows are weighed unscaled: a power N/B of a weight is not the weight of N/B rows.
    drawn, replayed, _ = guided_runs(model, guide, data._replace(size=rows))
    scored = [node for node in replayed.nodes.values() if node["type"] == "sample" and "log_prob" in node]
    values = sum(_reduce_to_rows(node["log_prob"], _axis_of_rows(node, rows)) for node in scored)
    values = values - sum(_reduce_to_rows(node["log_prob"], row_axis(node, rows)) for node in guide_sites(drawn).values())
    return LogWeights(values, size / rows)


def _is_latent(node: Mapping[str, Any]) -> bool:
    return node["type"] == "sample" and not node["is_observed"] and not isinstance(node["fn"], _Subsample)


def guide_sites(run: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """The latents a guide drew, auxiliary ones included."""
    return {name: node for name, node in run.nodes.items() if _is_latent(node)}


def first_bad_site(model: Model, guide: Model, data: Dataset, leaves: Mapping[str, Tensor]) -> str:
    """Name the first site whose value, log-probability or gradient is not finite, in the order the model runs."""
    with pyro.validation_enabled(False):
        drawn, replayed, _ = guided_runs(model, guide, data)
    for kind, run in (("guide", drawn), ("model", replayed)):
        for name, node in run.nodes.items():
            if node["type"] != "sample" or "log_prob" not in node:
                continue
            if not torch.isfinite(torch.as_tensor(node["value"])).all():
                return f"site {name!r} of the {kind}: its value is not finite"
            if not torch.isfinite(node["log_prob"]).all():
                return f"site {name!r} of the {kind}: its log-probability is not finite"
            bad = _bad_gradient(node["log_prob"].sum(), leaves)
            if bad:
                return f"site {name!r} of the {kind}: the gradient of its log-probability by {bad!r} is not finite"
    return "no single site; the sum overflows"


def _bad_gradient(log_prob: Tensor, leaves: Mapping[str, Tensor]) -> str | None:
    if not log_prob.requires_grad or not leaves:
        return None
    gradients = torch.autograd.grad(log_prob, list(leaves.values()), allow_unused=True, retain_graph=True)
    pairs = zip(leaves, gradients, strict=True)
    return next((name for name, g in pairs if g is not None and not torch.isfinite(g).all()), None)
