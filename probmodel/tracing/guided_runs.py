"""Runs of a model on the draws of its guide, and the log importance weights of these draws."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites
from probmodel.tracing.checks.modules import evaluation_mode
from probmodel.tracing.devices import traced_run
from probmodel.tracing.internals import is_subsample, unrecorded
from probmodel.tracing.minibatch_scale import row_scaled, scaled_to_rows
from probmodel.tracing.randomness import preserving_random_state
from probmodel.tracing.site_densities import axis_of_rows, enumerated, log_joint, reduce_to_rows
from probmodel.tracing.sites import row_axis, sites


def guided_runs(model: Model, guide: Model, data: Dataset) -> tuple[poutine.Trace, poutine.Trace, Tensor]:
    """A run of the guide, the model replayed on it, and the model's log joint in nats, all scaled to the full data set.

    Raises:
        ValueError: naming the latents for which the guide has no site.
    """
    with preserving_random_state(), unrecorded():
        found = sites(model, data)
    with evaluation_mode(model, guide):
        return _guided_runs(model, guide, data, found)


def _guided_runs(
    model: Model, guide: Model, data: Dataset, found: Sites
) -> tuple[poutine.Trace, poutine.Trace, Tensor]:
    drawn = traced_run(scaled_to_rows(guide, found, data, required=False), data)
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
    """Log importance weights log p(data, z) − log q(z) of one draw, in nats, and the factor of their sum over rows."""

    values: Tensor
    """Log weights, (N,) where every latent is local to a row, else (1,)."""
    scale: float
    """Factor size / rows for a minibatch of independent rows, else 1."""
    unreparametrized: tuple[str, ...]
    """Sites of the guide whose draw is not reparametrized: the gradient of the weight lacks a term there."""


def log_weights(model: Model, guide: Model, data: Dataset) -> LogWeights:
    """Log importance weights of one draw of the guide, by row where rows are independent given the parameters."""
    with preserving_random_state(), unrecorded():
        found = sites(model, data)
    rows, size = data.num_rows, data.size
    if not found.row_local or found.discrete or rows is None or size is None:
        with evaluation_mode(model, guide):
            drawn, _, joint = _guided_runs(model, guide, data, found)
        log_q = sum(n["log_prob"].sum() for n in guide_sites(drawn).values())
        return LogWeights((joint - log_q).reshape(1), 1.0, tuple(unreparametrized(drawn)))
    # Weights of rows are unscaled: a power N/B of a weight is not the weight of N/B rows.
    with evaluation_mode(model, guide):
        drawn, replayed, _ = _guided_runs(model, guide, data._replace(size=rows), found)
    scored = [n for n in replayed.nodes.values() if "log_prob" in n and not is_subsample(n["fn"])]
    model_terms = [reduce_to_rows(node["log_prob"], axis_of_rows(node, found)) for node in scored]
    guide_terms = [reduce_to_rows(node["log_prob"], row_axis(node, found)) for node in guide_sites(drawn).values()]
    values = torch.stack(model_terms).sum(0) - torch.stack(guide_terms).sum(0)
    return LogWeights(values, size / rows, tuple(unreparametrized(drawn)))


def _is_latent(node: Mapping[str, Any]) -> bool:
    return node["type"] == "sample" and not node["is_observed"] and not is_subsample(node["fn"])


def guide_sites(run: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """Latent sites of a run of a guide by name, auxiliary ones included."""
    return {name: node for name, node in run.nodes.items() if _is_latent(node)}


def unreparametrized(run: poutine.Trace) -> dict[str, Mapping[str, Any]]:
    """Latent sites of a guide whose draws carry no gradient to its parameters (discrete ones, for example)."""
    return {name: node for name, node in guide_sites(run).items() if not node["fn"].has_rsample}


def first_bad_site(model: Model, guide: Model, data: Dataset, leaves: Mapping[str, Tensor]) -> str:
    """Description of the first site, in order of execution, whose value, log-probability or gradient is not finite."""
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
                return f"site {name!r} of the {kind}: the gradient of its log-probability with respect to {bad!r} is not finite"
    return "no single site; the sum overflows"


def _bad_gradient(log_prob: Tensor, leaves: Mapping[str, Tensor]) -> str | None:
    if not log_prob.requires_grad or not leaves:
        return None
    gradients = torch.autograd.grad(log_prob, list(leaves.values()), allow_unused=True, retain_graph=True)
    pairs = zip(leaves, gradients, strict=True)
    return next((name for name, g in pairs if g is not None and not torch.isfinite(g).all()), None)
