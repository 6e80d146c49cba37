"""Rows that depend on the latents of other rows, found by runs in which the latents of some rows are exchanged.

A plate over the rows says that its latents are one per row, not that each observation reads its own alone: those of a random
walk add them up, and an index may order them otherwise.  Only where they do not is the evidence a sum over rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pyro
import torch
from jaxtyping import Bool
from pyro import poutine
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Latent
from probmodel.tracing.devices import traced_run
from probmodel.tracing.error_messages import MACHINERY, raise_time_out
from probmodel.tracing.internals import is_deterministic, is_subsample
from probmodel.tracing.randomness import isolated

NUM_PATTERNS = 6
"""Sets of rows whose latents are exchanged: they tell any two of 64 rows apart."""
LARGEST_INDEX = 1_000_000
"""Entries of a tensor of integers up to which it may be an index that a finding depends on."""
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Rounding allowed in terms whose own latents are the same."""

Axis = Callable[[Mapping[str, Any]], int | None]
"""Axis of the rows in the log-probability of a site, None for a site outside of the plate over rows."""

_known: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()


def rows_depend(model: Model, data: Dataset, latents: Sequence[Latent], axis: Axis) -> bool:
    """Return whether the density of a row changes with latents in the plate over rows that belong to other rows.

    The finding is kept for a model and data of the same shapes and integers.
    """
    local = {latent.name: latent for latent in latents if latent.row_dim is not None}
    rows = data.num_rows
    if not local or rows is None or rows < 2:
        return False
    key = tuple(_key(tensor) for tensor in data.tensors())
    try:
        known = _known.setdefault(model, {})
    except TypeError:  # A model without a hash, or to which no weak reference can be made.
        known = {}
    if key not in known:
        known[key] = _found(model, data, local, axis, rows)
    return known[key]


def _key(tensor: Tensor) -> tuple[Any, ...]:
    is_index = not tensor.is_floating_point() and tensor.numel() <= LARGEST_INDEX
    return tuple(tensor.shape), tensor.dtype, tensor.detach().cpu().numpy().tobytes() if is_index else b""


def _found(model: Model, data: Dataset, local: Mapping[str, Latent], axis: Axis, rows: int) -> bool:
    with torch.no_grad(), pyro.validation_enabled(False):
        try:
            first, second = (_values(model, data, seed) for seed in (0, 1))
            second = {**first, **{name: second[name] for name in local}}
            at_first, at_second = (_terms(model, data, values, axis) for values in (first, second))
            for moved in _patterns(rows):
                mixed = {name: _exchanged(latent, first, second, moved) for name, latent in local.items()}
                found = _terms(model, data, {**first, **mixed}, axis)
                if not _separate(at_first, at_second, found, moved.numpy()):
                    return True
        except MACHINERY as error:  # What cannot be run at other values is judged by its plates.
            raise_time_out(error)
    return False


def _values(model: Model, data: Dataset, seed: int) -> dict[str, Tensor]:
    with isolated(seed):
        nodes: Mapping[str, Any] = traced_run(model, data).nodes
    return {name: node["value"] for name, node in nodes.items() if _is_latent(node)}


def _is_latent(node: Mapping[str, Any]) -> bool:
    return node["type"] == "sample" and not node["is_observed"] and not is_subsample(node["fn"])


def _terms(model: Model, data: Dataset, values: dict[str, Tensor], axis: Axis) -> list[np.ndarray]:
    """Log-probabilities of each site, (rows, …), or (1, …) for one outside of the plate over rows."""
    with isolated(seed=0):
        run = traced_run(poutine.condition(model, values), data)
    run.compute_log_prob()
    found = []
    for node in run.nodes.values():
        if node["type"] == "sample" and not is_subsample(node["fn"]) and not is_deterministic(node):
            at, log_prob = axis(node), node["log_prob"]
            by_row = log_prob[None] if at is None else log_prob.movedim(at, 0)
            found.append(by_row.reshape(len(by_row), -1).double().cpu().numpy())
    return found


def _exchanged(
    latent: Latent, first: Mapping[str, Tensor], second: Mapping[str, Tensor], moved: Bool[Tensor, " N"]
) -> Tensor:
    a, b = first[latent.name], second[latent.name]
    at = len(a.shape) + (latent.row_dim or 0)
    chosen = moved.to(a.device).reshape(-1, *(1,) * (len(a.shape) - at - 1))
    return torch.where(chosen, b, a)


def _patterns(rows: int) -> list[Bool[Tensor, " N"]]:
    """The binary digits of the numbers of the rows, of which two rows have different ones."""
    numbers = torch.arange(rows)
    return [(numbers >> digit) % 2 == 1 for digit in range(min(NUM_PATTERNS, max(1, math.ceil(math.log2(rows)))))]


def _separate(first: list[np.ndarray], second: list[np.ndarray], mixed: list[np.ndarray], moved: np.ndarray) -> bool:
    """Return whether each row has the terms of the run from which it has its latents."""
    for a, b, each in zip(first, second, mixed, strict=True):
        expected = np.where(moved[:, None], b, a) if len(a) == len(moved) else a
        if not np.allclose(each, expected, RELATIVE, ABSOLUTE, equal_nan=True):
            return False
    return True
