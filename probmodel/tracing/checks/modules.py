"""Networks inside a model: modes of training and evaluation, buffers that a call changes, and noise that is no site."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.tracing.error_messages import translated_errors
from probmodel.tracing.internals import number_of_changes, uses_batch_statistics
from probmodel.tracing.ownership import copied, reached_modules
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import inspected_run, sample_sites

_training: ContextVar[bool] = ContextVar("training", default=False)


@contextmanager
def training_mode() -> Iterator[None]:
    """Context of a fit, in which networks keep the mode that they were given: dropout is active in those in training mode."""
    token = _training.set(True)
    try:
        yield
    finally:
        _training.reset(token)


@contextmanager
def evaluation_mode(*functions: Any) -> Iterator[None]:
    """Context in which the networks that these functions reach are in evaluation mode, except inside `training_mode`."""
    parts = [] if _training.get() else [part for f in functions for net in reached_modules(f) for part in net.modules()]
    active = [part for part in parts if part.training]
    for part in active:
        part.training = False
    try:
        yield
    finally:
        for part in active:
            part.training = True


def end_training(*functions: Any) -> None:
    """Set the networks that fitted functions reach to evaluation mode."""
    for function in functions:
        for network in reached_modules(function):
            network.eval()


def refuse_dependence_on_calls(model: Model, data: Dataset) -> None:
    """Raise ValueError, naming the module, for batch statistics and for buffers that a call changes in training mode."""
    _refuse_batch_statistics(model)
    with translated_errors(data), isolated(seed=0), torch.no_grad(), pyro.validation_enabled(False):
        _refuse_changed_buffers(model, data)


def _refuse_batch_statistics(model: Model) -> None:
    for network in reached_modules(model):
        for name, part in network.named_modules():
            if uses_batch_statistics(part):
                raise ValueError(
                    f"expected networks whose output for a row does not depend on the other rows, got {type(part).__name__} "
                    f"{name!r} with the statistics of the batch; use GroupNorm or LayerNorm, or call its eval() to keep "
                    "its running statistics"
                )


def _refuse_changed_buffers(model: Model, data: Dataset) -> None:
    if not any(True for network in reached_modules(model) if network.training for _ in network.buffers()):
        return
    ours, networks = copied(model)
    owners = networks or reached_modules(ours)
    before = _versions(owners)
    inspected_run(ours, data)
    changed = [name for name, version in _versions(owners).items() if before.get(name) != version]
    if changed:
        raise ValueError(
            f"expected networks that a call leaves unchanged, got buffers {changed} that it changes in training mode; call "
            "eval() on their modules, or replace them by modules without running statistics"
        )


def _versions(networks: list[nn.Module]) -> dict[str, tuple[int, int]]:
    """Identity and number of in-place changes of each buffer."""
    return {
        f"{i}.{name}": (id(buffer), number_of_changes(buffer))
        for i, network in enumerate(networks)
        for name, buffer in network.named_buffers()
    }


def refuse_noise(model: Model, data: Dataset) -> None:
    """Raise ValueError, naming the site, where two runs with the same latents and other random numbers have other densities."""
    with isolated(seed=0), evaluation_mode(model), torch.no_grad(), pyro.validation_enabled(False):
        first = _log_probs(model, data)
        latents = {name: node["value"] for name, node in first.items() if not node["is_observed"]}
        with isolated(seed=1):
            second = _log_probs(poutine.condition(model, latents), data)
    for name, node in first.items():
        if name in second and not _equal(node["log_prob"], second[name]["log_prob"]):
            raise ValueError(
                f"expected random numbers in sample statements alone, got others, with which the density of site {name!r} "
                "differs between two runs at the same latents; draw them by pyro.sample"
            )


def _log_probs(model: Model, data: Dataset) -> dict[str, Mapping[str, Any]]:
    run = inspected_run(model, data)
    run.compute_log_prob()
    return sample_sites(run)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.isclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True).all())
