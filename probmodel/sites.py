"""What a Pyro model samples, and the log-probabilities of its sites: plates, rows, discrete latents summed out.

Discrete sites are enumerated in parallel and contracted by Pyro's tensor variable elimination (Obermeyer et al., 2019,
"Tensor variable elimination for plated factor graphs").
"""

import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.constraints import Constraint

from probmodel.placing import traced_run
from probmodel.protocols import Dataset, Model, counted, digest
from probmodel.tracing import explained, unnoticed


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
    other_plates: frozenset[str]
    """Plates that are as long as the data have rows, by chance: over features, groups, components …"""
    digest: str
    observations: tuple[Tensor, ...]
    improper: tuple[str, ...] = ()
    """Sites without a normalised prior, of which no draw can be made."""
    factors: tuple[str, ...] = ()
    """`pyro.factor` statements: terms that nobody has normalised."""

    def is_joint(self, num_terms: int) -> bool:
        """Whether so many terms are one of many observations, so that no row can be left out."""
        return num_terms == 1 < sum(each.numel() for each in self.observations)

    @property
    def row_local(self) -> bool:
        """Every latent belongs to one row, so that the evidence is a sum over rows."""
        return self.num_rows is not None and bool(self.latents) and all(s.row_dim is not None for s in self.latents)


class _RowScale(Messenger):
    """Scales every site inside a plate over the batch's rows by size / rows: an unbiased estimate of the full sum."""

    def __init__(self, found: Sites, rows: int, size: int) -> None:
        super().__init__()
        self.sites, self.factor, self.found = found, size / rows, False
        # A guide may name its plates as it likes; what it draws for all rows it shares with the model by name.
        self.shared = {latent.name for latent in found.latents if latent.row_dim is None}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] not in self.shared and row_axis(msg, self.sites) is not None:
            if isinstance(msg["scale"], float | int) and math.isclose(msg["scale"], self.factor):
                raise ValueError(
                    f"expected rows that the fit scales from the minibatch to all, got site {msg['name']!r} scaled by "
                    f"{msg['scale']:g} already; remove poutine.scale from the model"
                )
            msg["scale"] = msg["scale"] * self.factor
            self.found = True


class _Supplied(Messenger):
    """Gives latents without a normalised prior a value: the image of 0, since nothing can be drawn."""

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


def row_scaled(model: Model, found: Sites, data: Dataset) -> Model:
    """The model with its rows' sites scaled from the minibatch to the full set; itself where there is nothing to scale.

    Raises:
        ValueError: on the call, when no plate runs over the rows of a minibatch, since nothing could be scaled.
    """
    return _scaled(model, found, data, required=True)


def _scaled(model: Model, found: Sites, data: Dataset, *, required: bool) -> Model:
    rows, size = data.num_rows, data.size
    if rows is None or size is None or rows == size:
        return model

    def scaled(*args: Any, **kwargs: Any) -> Any:
        with _RowScale(found, rows, size) as scale:
            value = model(*args, **kwargs)
        if required and not scale.found:
            raise ValueError(
                f"expected a plate over the {rows} rows of the minibatch, got none; write "
                "`with pyro.plate('rows', len(x)):` (without subsample) around the observations, or fit without batch_size"
            )
        return value

    return scaled


def sites(model: Model, data: Dataset) -> Sites:
    """Run the model once (call it inside `isolated`) and list what it samples.

    Raises:
        ValueError: naming the site, for a discrete latent that cannot be summed out or a model that subsamples itself.
    """
    nodes = _run(model, data)
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
    found = Sites(
        (),
        discrete,
        tuple(observed),
        max((-frame.dim for frame in _frames(nodes)), default=0),
        data.num_rows,
        _other_plates(model, data, nodes),
        digest(_seen(observed) or data.tensors()),
        tuple(node["value"] for node in observed.values()),
        tuple(name for name, node in free.items() if _is_improper(node["fn"])),
        tuple(name for name, node in observed.items() if isinstance(node["fn"], dist.Unit)),
    )
    latents = (_latent(name, node, found) for name, node in free.items() if name not in discrete)
    return found._replace(latents=tuple(latents))


def _seen(observed: Mapping[str, Mapping[str, Any]]) -> list[Tensor]:
    """What was observed, and where a mask leaves some of it out, which."""
    return [_told(node["fn"], node["value"]) for node in observed.values() if node["value"] is not None]


def _told(fn: Any, value: Tensor) -> Tensor:
    mask = fn._mask if isinstance(fn, dist.MaskedDistribution) else None
    return counted(value, mask) if isinstance(mask, Tensor) else value


def _run(model: Model, data: Dataset) -> dict[str, Mapping[str, Any]]:
    with explained(data), torch.no_grad(), _Supplied(data):
        run = traced_run(model, data)
        with warnings.catch_warnings():
            # What kind of sites there are shows without their densities: NaN is for the target to report.
            warnings.filterwarnings("ignore", "Encountered NaN")
            run.compute_log_prob(lambda _, node: node["is_observed"])
        _check_observations(run)
    return {name: node for name, node in run.nodes.items() if node["type"] == "sample"}


def _check_observations(run: poutine.Trace) -> None:
    """Raise ValueError where an observation has more axes or rows than its site, which broadcasting would let pass."""
    for name in run.observation_nodes:
        node: Any = run.nodes[name]
        batch = node["fn"].batch_shape
        if torch.broadcast_shapes(node["log_prob"].shape, batch) != batch:
            raise ValueError(
                f"site {name!r} has shape {tuple(node['fn'].shape())}, got an observation of {tuple(node['value'].shape)}"
            )


def _frames(nodes: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    return [frame for node in nodes.values() for frame in node["cond_indep_stack"] if frame.vectorized]


def _other_plates(model: Model, data: Dataset, nodes: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Plates of the rows' length that keep it when a row is left out; asked only where observations leave a doubt."""
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
    except Exception:  # noqa: BLE001 - a model written for this very number of rows; its observations must tell
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
        if _is_over_rows(frame, found):
            return int(frame.dim)
    return None


def _is_over_rows(frame: Any, found: Sites) -> bool:
    if found.num_rows is None or not frame.vectorized or frame.name in found.other_plates:
        return False
    return _full_size(frame) == found.num_rows


def enumerated(model: Model, found: Sites) -> Model:
    """The model with its discrete latents enumerated in parallel."""
    if not found.discrete:
        return model
    return poutine.enum(config_enumerate(model), first_available_dim=-1 - found.max_plate_nesting)


def log_joint(run: poutine.Trace, found: Sites) -> Float[Tensor, ""]:
    """Log joint of a trace of the `enumerated` model, in nats."""
    run.compute_log_prob()
    names = [name for name, node in run.nodes.items() if "log_prob" in node and not isinstance(node["fn"], _Subsample)]
    return _total(run, names, found)


def log_prior(run: poutine.Trace, found: Sites) -> Float[Tensor, ""]:
    """Log density of the continuous latents, in nats."""
    run.compute_log_prob()
    return _total(run, [*(latent.name for latent in found.latents), *found.discrete], found)


def log_prior_by_row(run: poutine.Trace, found: Sites) -> Float[Tensor, " N"]:
    """As `log_prior`, by row; for a model whose every latent is local to a row."""
    run.compute_log_prob()
    names = [latent.name for latent in found.latents]
    if _coupled(run, names, found):
        return _summed_out_by_row(run, [*names, *found.discrete], found)
    rows = [_reduce_to_rows(run.nodes[name]["log_prob"], row_axis(run.nodes[name], found)) for name in names]
    return torch.stack(rows).sum(0)


def log_likelihood_by_row(run: poutine.Trace, found: Sites) -> Float[Tensor, " N"]:
    """Log-probability of the observations given the continuous latents, by row (by observed number without rows).

    Raises:
        ValueError: naming the sites, where discrete latents couple the rows.
    """
    run.compute_log_prob()
    if found.discrete:
        hidden = [*_coupled(run, [latent.name for latent in found.latents], found), *found.discrete]
        # The probabilities of the hidden sites alone need not sum to 1: densities of codes, values that are masked out.
        return _summed_out_by_row(run, [*found.observed, *hidden], found) - _summed_out_by_row(run, hidden, found)
    nodes = [run.nodes[name] for name in found.observed]
    parts = [_reduce_to_rows(node["log_prob"], _axis_of_rows(node, found)) for node in nodes]
    if not parts:
        return _zero(run, found).reshape(1)[:0]
    if len({part.shape for part in parts}) == 1 and found.num_rows is not None:
        return torch.stack(parts).sum(0)
    return torch.cat(parts)


def _zero(run: poutine.Trace, found: Sites) -> Tensor:
    return next((run.nodes[latent.name]["log_prob"].new_zeros(()) for latent in found.latents), torch.zeros(()))


def _coupled(run: poutine.Trace, names: Sequence[str], found: Sites) -> list[str]:
    """Sites whose log-probability varies with a discrete latent: enumeration takes the axes beyond the plates'."""
    return [name for name in names if run.nodes[name]["log_prob"].dim() > found.max_plate_nesting]


def _total(run: poutine.Trace, names: Sequence[str], found: Sites) -> Tensor:
    coupled = _coupled(run, names, found)
    total = sum((run.nodes[name]["log_prob"].sum() for name in names if name not in coupled), _zero(run, found))
    return total + _summed_out(run, coupled, frozenset()) if coupled else total


def _reduce_to_rows(log_prob: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return log_prob.reshape(-1)
    log_prob = log_prob.movedim(axis, 0)
    return log_prob.reshape(len(log_prob), -1).sum(-1)


def _axis_of_rows(node: Mapping[str, Any], found: Sites) -> int | None:
    """As `row_axis`, and for observations written without a plate the last axis if it has one entry a row."""
    axis = row_axis(node, found)
    rows = found.num_rows
    if axis is None and rows is not None and node["log_prob"].dim() and node["log_prob"].shape[-1] == rows:
        return -1
    return axis


def _summed_out(run: poutine.Trace, names: Sequence[str], rows: frozenset[str]) -> Tensor:
    """Product of the sites' probabilities, discrete latents summed out and every plate but `rows` multiplied out."""
    run.pack_tensors()
    scales = [run.nodes[name]["scale"] for name in names]
    if any(scale is not scales[0] and scale != scales[0] for scale in scales):
        raise ValueError(
            f"expected sites around a discrete latent to share one scale, got several among {list(names)}; a sum over "
            "its values cannot be scaled part by part, so give all rows or draw it inside the plate over rows"
        )
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for name in names:
        # The sum over a discrete latent is scaled, not its terms: log Σ pˢ is not s log Σ p.
        unscaled = packed.scale_and_mask(run.nodes[name]["packed"]["log_prob"], scale=1 / scales[0])
        factors.setdefault(_ordinal(run, name), []).append(unscaled)
    summed = set(run.symbol_to_dim) - set(run.plate_to_symbol.values())
    return scales[0] * contract_to_tensor(factors, summed, target_ordinal=rows)


def _ordinal(run: poutine.Trace, name: str) -> frozenset[str]:
    return frozenset(run.plate_to_symbol[f.name] for f in run.nodes[name]["cond_indep_stack"] if f.vectorized)


def _summed_out_by_row(run: poutine.Trace, names: Sequence[str], found: Sites) -> Tensor:
    run.pack_tensors()
    frames = [f for name in found.observed for f in run.nodes[name]["cond_indep_stack"] if f.vectorized]
    over_rows = (f for f in frames if found.num_rows is None or _is_over_rows(f, found))
    rows = frozenset(run.plate_to_symbol[f.name] for f in over_rows)
    shared = [name for name in names if not rows <= _ordinal(run, name)]
    if shared or not rows:
        raise ValueError(
            f"expected discrete latents and observations local to a row, got {shared or list(found.discrete)} shared by "
            "several rows; the likelihood does not factorise over rows"
        )
    return _summed_out(run, names, rows).reshape(-1)


def guided_runs(model: Model, guide: Model, data: Dataset) -> tuple[poutine.Trace, poutine.Trace, Tensor]:
    """A draw from the guide, the model replayed on it, and the model's log joint; all scaled to the full data set."""
    with unnoticed():
        found = sites(model, data)
    drawn = traced_run(_scaled(guide, found, data, required=False), data)
    replayed_model = poutine.replay(row_scaled(model, found, data), trace=drawn)
    summed = found._replace(discrete=tuple(name for name in found.discrete if name not in drawn.nodes))
    replayed = traced_run(enumerated(replayed_model, summed), data)
    drawn.compute_log_prob()
    joint = log_joint(replayed, summed)
    unguided = [latent.name for latent in found.latents if latent.name not in drawn.nodes]
    if unguided:
        raise ValueError(
            f"expected a guide for every latent, got none for {unguided}; add pyro.sample statements for them"
        )
    return drawn, replayed, joint


class LogWeights(NamedTuple):
    """Log importance weights log p(data, z) − log q(z) of one draw, and what their sum over rows is multiplied by."""

    values: Tensor
    """(N,) where every latent is local to a row, else (1,)."""
    scale: float
    """size / rows for a minibatch of independent rows, else 1."""
    unreparametrised: tuple[str, ...]
    """Sites of the guide whose draw does not follow its parameters: the weight's gradient misses a term there."""


def log_weights(model: Model, guide: Model, data: Dataset) -> LogWeights:
    """Weigh one draw of the guide; by row where rows are independent given the parameters."""
    with unnoticed():
        found = sites(model, data)
    rows, size = data.num_rows, data.size
    if not found.row_local or found.discrete or rows is None or size is None:
        drawn, _, joint = guided_runs(model, guide, data)
        paid_whole = sum(n["log_prob"].sum() for n in guide_sites(drawn).values())
        return LogWeights((joint - paid_whole).reshape(1), 1.0, tuple(unreparametrised(drawn)))
    # Rows are weighed unscaled: a power N/B of a weight is not the weight of N/B rows.
    drawn, replayed, _ = guided_runs(model, guide, data._replace(size=rows))
    scored = [n for n in replayed.nodes.values() if "log_prob" in n and not isinstance(n["fn"], _Subsample)]
    gained = [_reduce_to_rows(node["log_prob"], _axis_of_rows(node, found)) for node in scored]
    paid = [_reduce_to_rows(node["log_prob"], row_axis(node, found)) for node in guide_sites(drawn).values()]
    return LogWeights(
        torch.stack(gained).sum(0) - torch.stack(paid).sum(0), size / rows, tuple(unreparametrised(drawn))
    )


def _is_latent(node: Mapping[str, Any]) -> bool:
    return node["type"] == "sample" and not node["is_observed"] and not isinstance(node["fn"], _Subsample)


def guide_sites(run: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """The latents a guide drew, auxiliary ones included."""
    return {name: node for name, node in run.nodes.items() if _is_latent(node)}


def unreparametrised(run: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """The latents of a guide whose draws carry no gradient to its parameters (discrete ones, for example)."""
    return {name: node for name, node in guide_sites(run).items() if not node["fn"].has_rsample}


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
