"""Checks of new rows, and the data set with which a model is called without its observations."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probmodel.protocols.arrays import as_tensor, in_known_columns
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_form
from probmodel.protocols.layers import HasDecision
from probmodel.protocols.model import ConditionsOnRows
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.sites import Sites


def rows_as_trained(posterior: Posterior, args: Sequence[Any]) -> tuple[Any, ...]:
    """New rows as tensors in the dtype of the training rows; a frame's columns are found by their names in training."""

    def converted(position: int, value: Any) -> Any:
        name = f"args[{position}]"
        value = in_known_columns(name, value, posterior.data.columns.get(name, ()))
        tensor = as_tensor(name, value)
        known: Any = posterior.data.args[position] if position < len(posterior.data.args) else None
        is_converted = tensor is not value and torch.is_tensor(known) and known.is_floating_point()
        return tensor.to(known.dtype) if is_converted else tensor

    return tuple(converted(position, value) for position, value in enumerate(args))


def check_columns(posterior: Posterior, data: Dataset) -> None:
    """Raise ValueError unless there are new rows, they are finite, and their columns are those of the training rows."""
    check_form(data)
    if not data.tensors():
        got = ", ".join(type(value).__name__ for value in data.args) or "none"
        raise ValueError(
            f"expected the model's arguments for the new rows, got {got}; pass tensors, arrays or frames, such as test.args[0]"
        )
    if len(data.args) > len(posterior.data.args):
        raise ValueError(
            f"expected at most {len(posterior.data.args)} positional arguments as in training, got {len(data.args)}; pass "
            "the others by name"
        )
    for old, new in zip(posterior.data.args, data.args, strict=False):
        if not torch.is_tensor(old) or not torch.is_tensor(new):
            continue
        if _has_rows(posterior) and old.shape[1:] != new.shape[1:]:
            raise ValueError(
                f"expected new rows with columns of shape {tuple(old.shape[1:])} as in training, got {tuple(new.shape[1:])}; "
                "prepare them as the training rows were"
            )
        imputed = old.is_floating_point() and not torch.isfinite(old).all()  # By the model, which was fitted to them.
        if new.is_floating_point() and not torch.isfinite(new).all() and not imputed:
            raise ValueError("expected finite numbers in the new rows, got NaN or infinity; drop or impute those rows")
        if new.numel() == 0:
            raise ValueError("expected at least one new row, got none; add rows")


def without_observations(posterior: Posterior, found: Sites, data: Dataset) -> Dataset:
    """Data set with None in place of the arguments that training observed, so that the model draws them."""
    trained = posterior.data

    def observed(value: object, seen: Tensor) -> bool:
        return torch.is_tensor(value) and (value is seen or (value.shape == seen.shape and torch.equal(value, seen)))

    def matches(value: object, observations: Sequence[Tensor]) -> bool:
        return any(observed(value, seen) for seen in observations)

    names = {name for name, value in trained.kwargs.items() if matches(value, found.observations)}
    # An autoencoder's y equals its x: a positional argument is an observation only where no keyword is.
    left = [seen for seen in found.observations if not any(observed(value, seen) for value in trained.kwargs.values())]
    args = [None if matches(old, left) else new for old, new in zip(trained.args, data.args, strict=False)]
    if isinstance(posterior.model, HasDecision):
        # Observed latent values may be x itself, which has to stay.
        names, args = names | {"y"}, [*data.args[:1], *args[1:]]
    return Dataset(tuple(args), {k: None if k in names else v for k, v in data.kwargs.items()}, None)


def refuse_other_rows_than_trained(posterior: Posterior, found: Sites, bare: Dataset) -> None:
    """Raise ValueError for rows other than the training rows, whose latents the posterior holds and which move each other."""
    trained = without_observations(posterior, found, posterior.data)
    if Dataset(tuple(bare.tensors())) != Dataset(tuple(trained.tensors())):
        names = [latent.name for latent in found.latents]
        raise ValueError(
            f"expected the training rows, since observations depend on the values of latents among {names} at several rows, got "
            "others, at which no draws are; write the model with the new rows among its own, and their y masked"
        )


def shared_arguments(posterior: Posterior) -> dict[str, object]:
    """Keyword arguments that are not aligned with the training rows and so hold for new rows too."""
    rows = len(posterior.data.tensors()[0]) if _has_rows(posterior) else None

    def aligned(value: object) -> bool:
        return torch.is_tensor(value) and rows is not None and value.dim() > 0 and len(value) == rows

    return {name: value for name, value in posterior.data.kwargs.items() if not aligned(value)}


def _has_rows(posterior: Posterior) -> bool:
    """Return whether the first axis of the first tensor runs over rows, dependent ones included."""
    return posterior.data.size is not None or isinstance(posterior.model, ConditionsOnRows)
