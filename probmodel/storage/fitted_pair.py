"""A fitted model and its guide ↔ storable values: their kinds, and their parameters by name.

User code is rebuilt in the way it was fitted: `owned_copies` rebuilds the pair around the function that is passed to `load`, and
the stored parameters replace the initial ones.
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
from probmodel.inference.guides.automatic import guided_part
from probmodel.inference.guides.exact import GaussianGuide, SiteGuide
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import NotSerializableError
from probmodel.protocols.model import ExactGuide, Model
from probmodel.protocols.posterior import Draws, Posterior
from probmodel.storage.descriptions import RENAMED_ARGUMENTS, TensorCollection, describe, rebuild
from probmodel.tracing.curvature import NormalApproximation
from probmodel.tracing.devices import traced_run
from probmodel.tracing.ownership import OwnedFunction, is_parameter, module_of, owned_copies
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites

AUTOGUIDES: Mapping[str, Callable[[Model], Model]] = {
    guide.__name__: guide for guide in (AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoDelta)
}
"""Automatic guides whose parameters have the same shapes for all settings."""

SAME_MODEL_ERROR = 1e-3
"""Largest relative difference of a log joint that rounding on another machine explains; another model differs by more."""


ASSIGNMENTS = "model.responsibilities"
"""Name of the responsibilities that a mixture of experts learns when it is fitted; before that it has none."""


class FittedPair(NamedTuple):
    """The model and guide of a posterior as storable values."""

    model: Any
    """The model without its fitted parameters; None where it is user code."""
    model_name: str
    owned: bool
    """True where inference wrapped the model to own its parameters."""
    guide: dict[str, Any]
    state: dict[str, Tensor]
    frozen: list[str]
    """Names of the parameters that are not point estimates of this fit."""
    log_joint: float
    """Log joint, in nats, of a model that is not stored, by which `load` recognizes the same model; else nan."""


def stored_pair(content: Mapping[str, Any]) -> FittedPair:
    """The pair from the contents of a folder, with the current names of parameters that release 0.1 named differently."""
    pair = FittedPair(**content)
    state = {_renamed(name): value for name, value in pair.state.items()}
    return pair._replace(state=state, frozen=[_renamed(name) for name in pair.frozen])


def _renamed(name: str) -> str:
    return ".".join(RENAMED_ARGUMENTS.get(part, part) for part in name.split("."))


def describe_pair(posterior: Posterior) -> FittedPair:
    """The model and guide of a posterior as storable values."""
    model, guide = posterior.model, posterior.guide
    owned = type(model) is OwnedFunction
    function: Any = model.function if type(model) is OwnedFunction else model
    known, state = _is_describable(function), _state(model, guide)
    return FittedPair(
        model=function if known else None,
        model_name=_name(function),
        owned=owned,
        # With the same seed the same latents are found, also where a support depends on another latent's value.
        guide=_guide_content(guide, function) | {"seed": posterior.info.get("seed", 0)},
        state=state,
        frozen=[name for name, t in state.items() if is_parameter(t) and not t.requires_grad],
        log_joint=math.nan if known else _log_joint(model, posterior.data, posterior.draws),
    )


def needs_code(pair: FittedPair) -> bool:
    """Return whether the model or its guide is user code, which has to be passed to `load`."""
    return pair.model is None or _needs_guide(pair)


def rebuild_pair(
    pair: FittedPair, data: Dataset, draws: Draws, model: Model | None, guide: Model | None
) -> tuple[Model, Model | None]:
    """Model and guide as inference returned them; call it inside `isolated`.

    Args:
        pair: result of `describe_pair`.
        data: data of the posterior.
        draws: draws of the posterior.
        model: the user's function where `pair` has none.
        guide: the user's guide, or a function that makes an automatic one.

    Raises:
        ValueError: where a function is needed and not passed, or is not the one that was fitted.
    """
    _check_code(pair, model, guide)
    kind = pair.guide["kind"]
    fitted = pair.model if model is None else deepcopy(model)
    fitted_guide: Model | None = None
    if isinstance(fitted, ProcessMixture) and ASSIGNMENTS in pair.state:
        fitted = fitted.with_responsibilities(pair.state[ASSIGNMENTS])
    owned = pair.owned or kind in _CODE_KINDS or any(name.startswith("guide.param ") for name in pair.state)
    if owned:
        fitted, fitted_guide, _ = owned_copies(fitted, *_guide_arguments(pair, guide, data), data)
    if kind in _STANDALONE_KINDS or not owned:
        _restore(pair, fitted, None)
        fitted_guide = _GUIDES[kind](pair, fitted, data)
    _restore(pair, fitted, fitted_guide)
    _check_same_model(pair, fitted, data, draws)
    return fitted, fitted_guide


def _is_describable(function: Model) -> bool:
    """Return whether a model's constructor arguments reproduce its parameters: not where a layer was changed by hand."""
    kept = TensorCollection()
    try:
        node = describe(function, "model", kept)
    except NotSerializableError:
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
def _(guide: OwnedFunction, function: Model) -> dict[str, Any]:
    return _guide_content(guide.function, function)


def _state(model: Model, guide: Model | None) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once; those of `pyro.param` statements by the name of their site."""
    modules = nn.ModuleDict()
    for part, function in (("model", model), ("guide", guide)):
        owner = module_of(function)
        if owner is not None:
            modules[part] = owner
    sites_of = {
        f"{part}.unconstrained.{i}": f"{part}.param {site}"
        for part, owner in modules.items()
        if type(owner) is OwnedFunction
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
    if kind not in _CODE_KINDS and kind not in _GUIDES:
        raise ValueError(f"expected a guide of kind {[*_GUIDES, *_CODE_KINDS]}, got {kind!r}; fit and save again")
    if model is None and pair.model is None:
        raise ValueError(f"expected model=, the function that was fitted ({pair.model_name}), got none; pass it")
    if guide is None and _needs_guide(pair):
        raise ValueError(f"expected guide=, the one that was fitted ({pair.guide['name']}), got none; pass it")
    if guide is not None and kind in _GUIDES:
        raise ValueError(f"expected no guide=, since the folder holds the guide, got {_name(guide)}; leave it out")


def _guide_arguments(pair: FittedPair, guide: Any, data: Dataset) -> tuple[Model | None, Callable[[Model], Model]]:
    """Arguments of `owned_copies` besides the model: a guide, or None and a function that makes one."""
    if pair.guide["kind"] == "automatic":
        automatic = guide or AUTOGUIDES[pair.guide["name"]]
        return None, lambda model: automatic(guided_part(model, sites(model, data)))
    if pair.guide["kind"] == "own":
        return None, AutoNormal
    return guide or _no_guide, AutoNormal


def _no_guide(*args: Any, **kwargs: Any) -> None:
    """Placeholder guide for a model whose own guide has no parameters in common with it."""


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
"""Kinds of guides that need no user code → function that builds the guide."""

_CODE_KINDS = ("automatic", "foreign")
"""Kinds of guides that are made by calling code: Pyro's or the user's."""

_STANDALONE_KINDS = ("none", "gaussian", "by_site", "exact")
"""Kinds of guides that share no parameters with their model."""


def _restore(pair: FittedPair, model: Model, guide: Model | None) -> None:
    """Set the parameters of newly made copies to the stored values; without a guide, those of the model alone."""
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
        # By .data, so that parameters shared by model and guide stay shared.
        value.data = pair.state[name]
        if is_parameter(value):
            value.requires_grad_(name not in pair.frozen)


def _check_same_model(pair: FittedPair, model: Model, data: Dataset, draws: Draws) -> None:
    if math.isnan(pair.log_joint):
        return
    got = _log_joint(model, data, draws)
    if not math.isclose(got, pair.log_joint, rel_tol=SAME_MODEL_ERROR, abs_tol=SAME_MODEL_ERROR):
        raise ValueError(
            f"expected the model that was fitted ({pair.model_name}), with log joint {pair.log_joint:.6g} at the first "
            f"draw, got one with {got:.6g}; pass the same function, with the same networks and constants"
        )
