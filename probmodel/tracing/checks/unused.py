"""Data that a model does not look at, such as observations without `obs=`."""

from collections.abc import Iterator

import pyro
import torch
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import inspected_run, sample_sites


def refuse_unused(model: Model, data: Dataset, found: Sites) -> None:
    """Raise ValueError for data that a fit would ignore.

    Args:
        model: any Pyro model.
        data: data set for its call.
        found: sites of the model.

    Raises:
        ValueError: naming the tensor, for one passed by name that reaches no site; for tensors of a model that observes
            nothing, whose posterior would be its prior.
    """
    named = {name: value for name, value in data.kwargs.items() if torch.is_tensor(value) and value.numel()}
    unused = [
        name for name, value in named.items() if not _is_observed(value, found) and not _matters(model, data, name)
    ]
    if unused:
        raise ValueError(
            f"expected every tensor passed by name to reach a site of the model, got {unused}, on which no site depends; "
            "observe it by obs= in its sample statement, or leave it out of the data"
        )
    if not found.observed and data.tensors():
        raise ValueError(
            "expected a model that observes data, got one without obs= in any sample statement, whose posterior is its "
            "prior; write pyro.sample(name, distribution, obs=y)"
        )


def _is_observed(value: Tensor, found: Sites) -> bool:
    return any(
        value is seen or (value.shape == seen.shape and bool((value == seen).all())) for seen in found.observations
    )


def _matters(model: Model, data: Dataset, name: str) -> bool:
    """Return whether any site changes with a named tensor."""
    before = _result(model, data)
    return any(not _same(before, _result(model, _with(data, name, other))) for other in _others(data.kwargs[name]))


def _with(data: Dataset, name: str, value: Tensor) -> Dataset:
    return data._replace(kwargs={**data.kwargs, name: value})


def _others(value: Tensor) -> Iterator[Tensor]:
    """Tensors of the same shape with other numbers: mirrored within their range, reversed, and moved out of it."""
    if value.dtype == torch.bool:
        yield ~value
        yield value.flip(0) if value.dim() else value
        return
    yield value.max() + value.min() - value
    yield value.flip(0) if value.dim() else -value
    yield value + 1 if not value.is_floating_point() else 1.25 * value + 0.5


def _result(model: Model, data: Dataset) -> list[tuple[str, Tensor, Tensor]] | None:
    """Value and log-probability of each site in a seeded run; None where the model refuses the data."""
    try:
        with isolated(seed=0), torch.no_grad(), pyro.validation_enabled(False):
            run = inspected_run(model, data)
            run.compute_log_prob()
    except (RuntimeError, ValueError, IndexError, TypeError, KeyError, ArithmeticError):
        return None
    return [(name, torch.as_tensor(node["value"]), node["log_prob"]) for name, node in sample_sites(run).items()]


def _same(before: list[tuple[str, Tensor, Tensor]] | None, after: list[tuple[str, Tensor, Tensor]] | None) -> bool:
    if before is None or after is None or [name for name, *_ in before] != [name for name, *_ in after]:
        return False
    pairs = zip(before, after, strict=True)
    return all(_equal(a, b) for (_, *old), (_, *new) in pairs for a, b in zip(old, new, strict=True))


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
