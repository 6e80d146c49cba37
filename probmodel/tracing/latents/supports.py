"""Supports that depend on other latents, found by runs of the model at different draws."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.ops.provenance import get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch.distributions.constraints import Constraint

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites
from probmodel.tracing.devices import traced_run
from probmodel.tracing.latents.bounds import bounds


class _AtEdge(Messenger):
    """Sets discrete latents to the first or the last value of their support."""

    def __init__(self, names: tuple[str, ...], position: int) -> None:
        super().__init__()
        self.names, self.position = names, position

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names and not msg["is_observed"]:
            msg["value"], msg["done"] = msg["fn"].enumerate_support(expand=True)[self.position], True


def moving_supports(model: Model, data: Dataset, found: Sites) -> frozenset[str]:
    """Latents whose support depends on other latents, found by runs at different draws; call it inside `isolated`.

    Raises:
        ValueError: naming the site, where the support depends on a discrete latent, or its kind on any.
    """
    if not any(_could_move(bound) for latent in found.latents for bound in bounds(latent.support)):
        return frozenset()
    with torch.no_grad():
        first, second, last = (_supports(model, data, found, position) for position in (0, 0, -1))
        _refuse_kinds(first, second, last)
        moving = frozenset(name for name in first if _differ(first[name], second[name]))
        moving |= {name for name, sources in _sources(model, data, found).items() if sources - {name}}
        if found.discrete:
            _refuse_discrete(model, data, found)
    return moving


class _Tracked(Messenger):
    """Marks the values of latents, so that what is computed from them tells by which latents it was."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.names and not msg["is_observed"]:
            msg["value"] = track_provenance(msg["value"], frozenset({msg["name"]}))


def _sources(model: Model, data: Dataset, found: Sites) -> dict[str, frozenset[str]]:
    """Latents from which the bounds of each latent's support are computed, also where these draws leave them as they are.

    Empty for a model that cannot be run with marked values; its supports are compared at several draws alone.
    """
    names = frozenset(latent.name for latent in found.latents)
    try:
        with _Tracked(names):
            nodes: Mapping[str, Any] = traced_run(model, data).nodes
        supports = {name: bounds(nodes[name]["fn"].support) for name in names}
        marks = {
            name: [get_provenance(bound) for bound in each if torch.is_tensor(bound)] for name, each in supports.items()
        }
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
        return {}
    return {name: frozenset[str]().union(*each) for name, each in marks.items()}


def refuse_moving(model: Model, data: Dataset, found: Sites, what: str) -> None:
    """Raise ValueError where a latent moves a support; call it inside `isolated`.

    Args:
        model: any Pyro model.
        data: data set for its call.
        found: sites of the model.
        what: what maps R^D to the latents in the same way in every run.
    """
    refuse_moved(found._replace(moving=moving_supports(model, data, found)), what)


def refuse_moved(found: Sites, what: str) -> None:
    """Raise ValueError where a latent moves a support, for what maps R^D to the latents in the same way in every run."""
    if found.moving:
        raise ValueError(
            f"expected bounds that no latent moves for {what}, got sites {sorted(found.moving)}; use NUTS, or write such a "
            "site as a function of one with fixed bounds, as b = a + (1 - a) * u with u ~ Uniform(0, 1)"
        )


def _supports(model: Model, data: Dataset, found: Sites, position: int) -> dict[str, Constraint]:
    with _AtEdge(found.discrete, position):
        nodes: Mapping[str, Any] = traced_run(model, data).nodes
    return {latent.name: nodes[latent.name]["fn"].support for latent in found.latents}


def _could_move(bound: Any) -> bool:
    return torch.is_tensor(bound) or bound not in (-1, 0, 1)


def _differ(one: Constraint, other: Constraint) -> bool:
    pairs = zip(bounds(one), bounds(other), strict=True)
    return any(not torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _refuse_kinds(*runs: Mapping[str, Constraint]) -> None:
    for name, support in runs[0].items():
        kinds = {(type(each[name]), len(bounds(each[name]))) for each in runs}
        if len(kinds) > 1:
            raise ValueError(
                f"expected one kind of support for site {name!r}, got {support} and others at other draws; use a family of "
                "distributions with one kind of support"
            )


def _refuse_discrete(model: Model, data: Dataset, found: Sites) -> None:
    """Raise ValueError where a support differs between values of a discrete latent at the same continuous ones."""
    values = {latent.name: latent.value for latent in found.latents}
    ends = [_supports(poutine.condition(model, values), data, found, position) for position in (0, -1)]
    for name, support in ends[0].items():
        if _differ(support, ends[1][name]):
            raise ValueError(
                f"expected a support that no discrete latent moves, got site {name!r}, whose bounds depend on one of "
                f"{list(found.discrete)}; write it as a function of a latent with fixed bounds"
            )
