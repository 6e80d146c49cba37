"""A fitted model and its guide ↔ values: what kinds they are, their parameters by name, and the way back.

What is code of the user's comes back through the same door as it went in: `own` rebuilds the pair around the function
that `load` is given, and the stored parameters take the place of the initial ones.
"""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import singledispatch
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuide, AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

from probmodel.families.gaussian_processes.mixtures.assignments import ProcessMixture
from probmodel.inference.guides.exact import GaussianGuide, SiteGuide
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import UndescribableError
from probmodel.protocols.model import ExactGuide, Model
from probmodel.protocols.posterior import Draws, Posterior
from probmodel.storage.descriptions import Kept, describe, rebuild
from probmodel.tracing.curvature import NormalApproximation
from probmodel.tracing.devices import traced_run
from probmodel.tracing.ownership import Owned, own
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites

AUTOGUIDES: Mapping[str, Callable[[Model], Model]] = {
    guide.__name__: guide for guide in (AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoDelta)
}
"""Automatic guides whose parameters have one shape, whatever their settings."""

SAME_MODEL = 1e-3
"""Relative difference of a log joint that rounding on another machine explains; another model differs by more."""


ASSIGNMENTS = "model.responsibilities"
"""What a mixture of experts finds out about the rows: a model that was not fitted has none."""


class FittedPair(NamedTuple):
    """A posterior's model and guide as values."""

    model: Any
    """The model, its parameters not set; None where it is code of the user's."""
    model_name: str
    owned: bool
    """Whether inference wrapped the model to own its parameters."""
    guide: dict[str, Any]
    state: dict[str, Tensor]
    frozen: list[str]
    """Names of the parameters that are no point estimates of this fit."""
    log_joint: float
    """Of a model that is not stored, in nats, to tell whether `load` is given the same one; else nan."""


def describe_pair(posterior: Posterior) -> FittedPair:
    """Take a posterior's model and guide apart."""
    model, guide = posterior.model, posterior.guide
    function = model.function if isinstance(model, Owned) else model
    known, state = _is_describable(function), _state(model, guide)
    return FittedPair(
        model=function if known else None,
        model_name=_name(function),
        owned=isinstance(model, Owned),
        # The seed finds the same latents again, also where a support depends on another latent's value.
        guide=_guide_content(guide, function) | {"seed": posterior.info.get("seed", 0)},
        state=state,
        frozen=[name for name, t in state.items() if isinstance(t, nn.Parameter) and not t.requires_grad],
        log_joint=math.nan if known else _log_joint(model, posterior.data, posterior.draws),
    )


def needs_code(pair: FittedPair) -> bool:
    """Whether the model or its guide is code of the user's, which `load` has to be given."""
    return pair.model is None or _needs_guide(pair)


def rebuild_pair(
    pair: FittedPair, data: Dataset, draws: Draws, model: Model | None, guide: Model | None
) -> tuple[Model, Model | None]:
    """Model and guide as inference left them; call it inside `isolated`.

    Args:
        pair: from `describe_pair`.
        data: of the posterior.
        draws: of the posterior.
        model: the user's function where `pair` has none.
        guide: the user's guide, or what makes an automatic one.

    Raises:
        ValueError: where a function is needed and not given, or is another one than was fitted.
    """
    _check_code(pair, model, guide)
    kind = pair.guide["kind"]
    fitted = pair.model if model is None else deepcopy(model)
    fitted_guide: Model | None = None
    if isinstance(fitted, ProcessMixture) and ASSIGNMENTS in pair.state:
        fitted = fitted.with_responsibilities(pair.state[ASSIGNMENTS])
    owned = pair.owned or kind in _CODE or any(name.startswith("guide.param ") for name in pair.state)
    if owned:
        fitted, fitted_guide, _ = own(fitted, *_beside(pair, guide), data)
    if kind in _STANDALONE or not owned:
        _restore(pair, fitted, None)
        fitted_guide = _GUIDES[kind](pair, fitted, data)
    _restore(pair, fitted, fitted_guide)
    _check_same_model(pair, fitted, data, draws)
    return fitted, fitted_guide


def _is_describable(function: Model) -> bool:
    """Whether the settings of a model build one with the same parameters: not where its author has changed a layer."""
    kept = Kept()
    try:
        node = describe(function, "model", kept)
    except UndescribableError:
        return False
    with isolated(seed=0):
        again = _state(rebuild(node, kept.tensors.__getitem__), None)
    return {name: t.shape for name, t in again.items()} == {name: t.shape for name, t in _state(function, None).items()}


def _name(function: Any) -> str:
    named = function if isinstance(function, FunctionType | MethodType) else type(function)
    return f"{named.__module__}.{named.__qualname__}"


@singledispatch
def _guide_content(guide: Any, function: Model) -> dict[str, Any]:
    if isinstance(guide, ExactGuide) and _is_describable(guide):
        return {"kind": "exact", "guide": guide}
    return {"kind": "foreign", "name": _name(guide)}


@_guide_content.register
def _(guide: None, function: Model) -> dict[str, Any]:
    return {"kind": "none"}


@_guide_content.register
def _(guide: MethodType, function: Model) -> dict[str, Any]:
    own_guide = guide.__self__ is function and guide.__name__ == "guide"
    return {"kind": "own" if own_guide else "foreign", "name": _name(guide)}


@_guide_content.register
def _(guide: GaussianGuide, function: Model) -> dict[str, Any]:
    return {"kind": "gaussian"}


@_guide_content.register
def _(guide: SiteGuide, function: Model) -> dict[str, Any]:
    return {"kind": "by_site", "by_site": guide.by_site}


@_guide_content.register
def _(guide: AutoGuide, function: Model) -> dict[str, Any]:
    return {"kind": "automatic", "name": type(guide).__name__}


@_guide_content.register
def _(guide: Owned, function: Model) -> dict[str, Any]:
    return _guide_content(guide.function, function)


def _state(model: Model, guide: Model | None) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once; those of `pyro.param` statements by the name of their site."""
    modules = nn.ModuleDict()
    for part, function in (("model", model), ("guide", guide)):
        owner: Any = function.__self__ if isinstance(function, MethodType) else function
        if isinstance(owner, nn.Module):
            modules[part] = owner
    sites_of = {
        f"{part}.unconstrained.{i}": f"{part}.param {site}"
        for part, owner in modules.items()
        if isinstance(owner, Owned)
        for i, site in enumerate(owner.sites)
    }
    named = dict(modules.named_parameters()) | dict(modules.named_buffers())
    return {sites_of.get(name, name): value for name, value in named.items()}


def _log_joint(model: Model, data: Dataset, draws: Draws) -> float:
    """The log joint at the first draw, in nats; nan where the draws do not fix every latent."""
    first = {name: values[0, 0] for name, values in draws.items()}
    with isolated(seed=0), torch.no_grad(), pyro.validation_enabled(False):
        found = sites(model, data)
        if found.discrete or {latent.name for latent in found.latents} != set(first):
            return math.nan
        return float(traced_run(poutine.condition(model, first), data).log_prob_sum())


def _needs_guide(pair: FittedPair) -> bool:
    kind, name = pair.guide["kind"], pair.guide.get("name")
    return kind == "foreign" or (kind == "automatic" and name not in AUTOGUIDES)


def _check_code(pair: FittedPair, model: Model | None, guide: Model | None) -> None:
    kind = pair.guide["kind"]
    if kind not in _CODE and kind not in _GUIDES:
        raise ValueError(f"expected a guide of kind {[*_GUIDES, *_CODE]}, got {kind!r}")
    if model is None and pair.model is None:
        raise ValueError(f"expected model=, the function that was fitted ({pair.model_name}), got none; pass it")
    if guide is None and _needs_guide(pair):
        raise ValueError(f"expected guide=, the one that was fitted ({pair.guide['name']}), got none; pass it")
    if guide is not None and kind in _GUIDES:
        raise ValueError(f"expected no guide=, since the folder holds the guide, got {_name(guide)}; leave it out")


def _beside(pair: FittedPair, guide: Any) -> tuple[Model | None, Callable[[Model], Model]]:
    """What `own` takes beside the model: a guide, or None and what makes one."""
    if pair.guide["kind"] == "automatic":
        return None, guide or AUTOGUIDES[pair.guide["name"]]
    if pair.guide["kind"] == "own":
        return None, AutoNormal
    return guide or _no_guide, AutoNormal


def _no_guide(*args: Any, **kwargs: Any) -> None:
    """For a model whose guide has no parameters that belong to the model."""


def _gaussian(pair: FittedPair, model: Model, data: Dataset) -> Model:
    index, loc, scale_tril = (pair.state[f"guide.{name}"] for name in ("index", "loc", "scale_tril"))
    with isolated(pair.guide["seed"]):
        latents = sites(model, data).latents
    return GaussianGuide(NormalApproximation(index, loc, torch.cholesky_inverse(scale_tril), scale_tril), latents)


_GUIDES: Mapping[str, Callable[[FittedPair, Any, Dataset], Model | None]] = {
    "none": lambda pair, model, data: None,
    "own": lambda pair, model, data: model.guide,
    "gaussian": _gaussian,
    "by_site": lambda pair, model, data: SiteGuide(pair.guide["by_site"]),
    "exact": lambda pair, model, data: pair.guide["guide"],
}
"""Guides that need no code of the caller's."""

_CODE = ("automatic", "foreign")
"""Guides that are made by calling code: Pyro's or the user's."""

_STANDALONE = ("none", "gaussian", "by_site", "exact")
"""Guides that share no parameters with their model."""


def _restore(pair: FittedPair, model: Model, guide: Model | None) -> None:
    """Put the stored values into fresh copies, which nobody else holds; those of the model alone without a guide."""
    fresh = _state(model, guide)
    parts = ("model.", "guide.") if guide is not None else ("model.",)
    saved = {name: tuple(value.shape) for name, value in pair.state.items() if name.startswith(parts)}
    got = {name: tuple(value.shape) for name, value in fresh.items()}
    if saved != got:
        raise ValueError(
            f"expected parameters {dict(saved.items() - got.items())}, got {dict(got.items() - saved.items())}; pass "
            "the model and guide that were fitted"
        )
    for name, value in fresh.items():
        # Through .data, so that parameters shared by model and guide stay shared.
        value.data = pair.state[name]
        if isinstance(value, nn.Parameter):
            value.requires_grad_(name not in pair.frozen)


def _check_same_model(pair: FittedPair, model: Model, data: Dataset, draws: Draws) -> None:
    if math.isnan(pair.log_joint):
        return
    got = _log_joint(model, data, draws)
    if not math.isclose(got, pair.log_joint, rel_tol=SAME_MODEL, abs_tol=SAME_MODEL):
        raise ValueError(
            f"expected the model that was fitted ({pair.model_name}), with log joint {pair.log_joint:.6g} at the first "
            f"draw, got one with {got:.6g}; pass the same function, with the same networks and constants"
        )
