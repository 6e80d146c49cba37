"""Log-probabilities of the sites of a run, summed or by row, with discrete latents summed out.

Discrete sites are enumerated in parallel and contracted by Pyro's tensor variable elimination (Obermeyer et al., 2019,
"Tensor variable elimination for plated factor graphs").
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites
from probmodel.tracing.internals import is_subsample
from probmodel.tracing.sites import is_over_rows, row_axis


def enumerated(model: Model, found: Sites) -> Model:
    """The model with its discrete latents enumerated in parallel."""
    if not found.discrete:
        return model

    def in_parallel(node: Any) -> Any:
        return {"enumerate": "parallel"} if node["name"] in found.discrete else {}

    configured = poutine.infer_config(model, in_parallel)
    return poutine.enum(configured, first_available_dim=-1 - found.max_plate_nesting)


def log_joint(run: poutine.Trace, found: Sites) -> Float[Tensor, ""]:
    """Log joint of a trace of the `enumerated` model, in nats."""
    run.compute_log_prob()
    names = [name for name, node in run.nodes.items() if "log_prob" in node and not is_subsample(node["fn"])]
    return _total(run, names, found)


def log_prior(run: poutine.Trace, found: Sites) -> Float[Tensor, ""]:
    """Log density of the continuous latents, in nats."""
    run.compute_log_prob()
    return _total(run, [*(latent.name for latent in found.latents), *found.discrete], found)


def log_prior_by_row(run: poutine.Trace, found: Sites) -> Float[Tensor, " N"]:
    """Log density of the continuous latents by row, in nats, for a model whose every latent is local to a row."""
    run.compute_log_prob()
    names = [latent.name for latent in found.latents]
    if _coupled(run, names, found):
        hidden = [*names, *found.discrete]
        return _summed_out(run, hidden, _row_plates(run, hidden, found)).reshape(-1)
    rows = [reduce_to_rows(run.nodes[name]["log_prob"], row_axis(run.nodes[name], found)) for name in names]
    return torch.stack(rows).sum(0)


def log_likelihood_by_row(run: poutine.Trace, found: Sites) -> Float[Tensor, " N"]:
    """Log-probability of the observations given the continuous latents, in nats, by row (by observed value without rows).

    Raises:
        ValueError: naming the sites, where discrete latents couple the rows.
    """
    run.compute_log_prob()
    if found.discrete:
        hidden = _hidden(run, found)
        return _given_hidden(run, found, hidden, _row_plates(run, [*found.observed, *hidden], found))
    nodes = [run.nodes[name] for name in found.observed]
    parts = [reduce_to_rows(node["log_prob"], axis_of_rows(node, found)) for node in nodes]
    if not parts:
        return _zero(run, found).reshape(1)[:0]
    if len({part.shape for part in parts}) == 1 and found.num_rows is not None:
        return torch.stack(parts).sum(0)
    return torch.cat(parts)


def log_likelihood_by_site(run: poutine.Trace, found: Sites) -> dict[str, Tensor]:
    """Log-likelihood by row of each observed site, in nats.

    One for all sites where discrete latents are summed out, and one term for all rows where these are shared by several.
    """
    run.compute_log_prob()
    if found.discrete:
        name = found.observed[0] if len(found.observed) == 1 else "log_likelihood"
        hidden = _hidden(run, found)
        rows, shared = _held_by_rows(run, [*found.observed, *hidden], found)
        return {name: _given_hidden(run, found, hidden, frozenset() if shared else rows)}
    nodes: Mapping[str, Any] = run.nodes
    return {name: reduce_to_rows(nodes[name]["log_prob"], axis_of_rows(nodes[name], found)) for name in found.observed}


def deterministic_values(run: poutine.Trace, found: Sites) -> dict[str, Tensor]:
    """Values of the sites that are functions of the continuous latents."""
    nodes: Mapping[str, Any] = run.nodes
    values = {name: nodes[name]["value"] for name in found.deterministic}
    # Enumeration adds axes to those that depend on discrete latents, which have no one value.
    return {name: value for name, value in values.items() if value.dim() == len(found.axes[name])}


def _zero(run: poutine.Trace, found: Sites) -> Tensor:
    return next((run.nodes[latent.name]["log_prob"].new_zeros(()) for latent in found.latents), torch.zeros(()))


def _coupled(run: poutine.Trace, names: Sequence[str], found: Sites) -> list[str]:
    """Sites whose log-probability varies with a discrete latent: enumeration uses the axes beyond those of all batches."""
    if not found.discrete:
        return []
    return [name for name in names if run.nodes[name]["log_prob"].dim() > found.max_plate_nesting]


def _total(run: poutine.Trace, names: Sequence[str], found: Sites) -> Tensor:
    coupled = _coupled(run, names, found)
    total = sum((run.nodes[name]["log_prob"].sum() for name in names if name not in coupled), _zero(run, found))
    return total + _summed_out(run, coupled, frozenset()) if coupled else total


def reduce_to_rows(log_prob: Tensor, axis: int | None) -> Tensor:
    """Log-probability summed over all axes but `axis`, (N,); flattened where `axis` is None."""
    if axis is None:
        return log_prob.reshape(-1)
    log_prob = log_prob.movedim(axis, 0)
    return log_prob.reshape(len(log_prob), -1).sum(-1)


def axis_of_rows(node: Mapping[str, Any], found: Sites) -> int | None:
    """Axis from `row_axis`; for observations without a plate the last axis, where it has one entry per row."""
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
            "expected sites around a discrete latent to share one scale, since the sum over its values cannot be scaled "
            f"term by term, got several among {list(names)}; pass all rows, or sample it inside the plate over rows"
        )
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for name in names:
        # The sum over a discrete latent is scaled, not its terms: log Σ pˢ is not s log Σ p.
        unscaled = packed.scale_and_mask(run.nodes[name]["packed"]["log_prob"], scale=1 / scales[0])
        factors.setdefault(_ordinal(run, name), []).append(unscaled)
    summed = set(run.symbol_to_dim) - set(run.plate_to_symbol.values())
    return scales[0] * contract_to_tensor(factors, summed, target_ordinal=rows)


class ByValue(NamedTuple):
    """A site's distribution at each of K combinations of values of the discrete latents it depends on."""

    distribution: TorchDistributionMixin
    """Batch shape (*E, *B), where the axes E run over the values."""
    log_weights: Tensor
    """Log joint of the discrete latents and the other sites that they affect, (*E, *B), in nats."""
    num_axes: int
    """Number of axes B, those of the plates."""


def by_value(run: poutine.Trace, site: str, others: Sequence[str], found: Sites) -> ByValue:
    """The distribution of a site of an `enumerated` run with the weights of the discrete latents' values.

    Args:
        run: run of the `enumerated` model.
        site: site that is not observed in it.
        others: observed sites, whose densities are part of the weights.
        found: sites of the model.

    Raises:
        ValueError: naming the discrete latents that rows share, since those depend on all rows that the fit has seen.
    """
    run.compute_log_prob()
    run.pack_tensors()
    node: Any = run.nodes[site]
    plates = _ordinal(run, site)
    shared = [name for name in found.discrete if not set(found.axes[name]) & set(found.axes[site]) & found.row_plates]
    if shared or any(_ordinal(run, name) != plates for name in found.discrete):
        raise ValueError(
            f"expected discrete latents with a value for each observation of site {site!r}, got "
            f"{shared or list(found.discrete)}, whose value depends on other observations; sum them out by hand, or score "
            "rows by elpd_loo"
        )
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    for name in (*found.discrete, *others):
        factors.setdefault(_ordinal(run, name), []).append(run.nodes[name]["packed"]["log_prob"])
    latent = set(run.symbol_to_dim) - set(run.plate_to_symbol.values())
    kept = latent.intersection(node["packed"]["log_prob"]._pyro_dims)
    weights = contract_to_tensor(factors, latent, target_ordinal=plates, target_dims=kept)
    depth = max((-frame.dim for frame in node["cond_indep_stack"] if frame.vectorized), default=0)
    return ByValue(node["fn"], packed.unpack(weights, run.symbol_to_dim), depth)


def _ordinal(run: poutine.Trace, name: str) -> frozenset[str]:
    return frozenset(run.plate_to_symbol[f.name] for f in run.nodes[name]["cond_indep_stack"] if f.vectorized)


def _held_by_rows(run: poutine.Trace, names: Sequence[str], found: Sites) -> tuple[frozenset[str], list[str]]:
    """Plates over the rows, and the sites outside of them, which several rows share."""
    run.pack_tensors()
    frames = [f for name in found.observed for f in run.nodes[name]["cond_indep_stack"] if f.vectorized]
    over_rows = (f for f in frames if found.num_rows is None or is_over_rows(f, found))
    rows = frozenset(run.plate_to_symbol[f.name] for f in over_rows)
    return rows, [name for name in names if not rows <= _ordinal(run, name)]


def _row_plates(run: poutine.Trace, names: Sequence[str], found: Sites) -> frozenset[str]:
    """Plates over the rows that hold all of the sites."""
    rows, shared = _held_by_rows(run, names, found)
    if shared or not rows:
        raise ValueError(
            f"expected discrete latents and observations local to a row, got {shared or list(found.discrete)} shared by "
            "several rows, over which the likelihood does not factorize; sample them inside the plate over rows"
        )
    return rows


def _hidden(run: poutine.Trace, found: Sites) -> list[str]:
    """Discrete latents, and the continuous ones whose density depends on them."""
    return [*_coupled(run, [latent.name for latent in found.latents], found), *found.discrete]


def _given_hidden(run: poutine.Trace, found: Sites, hidden: list[str], rows: frozenset[str]) -> Tensor:
    """Log-probability of the observations, hidden sites summed out, by entry of the plates over rows; one term without any."""
    # The probabilities of the hidden sites alone need not sum to 1: densities of codes, masked values.
    both, alone = (_summed_out(run, names, rows).reshape(-1) for names in ([*found.observed, *hidden], hidden))
    return both - alone
