"""Checks of new rows, and the call of a model without its observations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_form
from probmodel.protocols.layers import Deciding
from probmodel.protocols.model import Marginal
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.sites import Sites


def check_columns(posterior: Posterior, data: Dataset) -> None:
    """Raise ValueError unless the rows in data are finite, at least one, and of the columns that the fit has seen."""
    check_form(data)
    if not data.tensors():
        raise ValueError("expected the model's arguments for the new rows, got none; pass test.args[0]")
    if len(data.args) > len(posterior.data.args):
        raise ValueError(
            f"expected at most {len(posterior.data.args)} positional arguments as in training, got {len(data.args)}; pass "
            "the others by name"
        )
    for old, new in zip(posterior.data.args, data.args, strict=False):
        if not isinstance(old, Tensor) or not isinstance(new, Tensor):
            continue
        by_row = posterior.data.size is not None or isinstance(posterior.model, Marginal)
        if by_row and old.shape[1:] != new.shape[1:]:
            raise ValueError(
                f"new rows need columns of shape {tuple(old.shape[1:])} as in training, got {tuple(new.shape[1:])}; "
                "prepare them as the training rows were"
            )
        if new.is_floating_point() and not torch.isfinite(new).all():
            raise ValueError("expected finite numbers in the new rows, got NaN or infinity; drop or impute those rows")
        if new.numel() == 0:
            raise ValueError("expected at least one new row, got none; add rows")


def without_observations(posterior: Posterior, found: Sites, data: Dataset) -> Dataset:
    """The call with None in place of what the training call observed, so that the model draws it."""
    trained = posterior.data

    def observed(value: object, seen: Tensor) -> bool:
        return isinstance(value, Tensor) and (value is seen or (value.shape == seen.shape and torch.equal(value, seen)))

    def matches(value: object, observations: Sequence[Tensor]) -> bool:
        return any(observed(value, seen) for seen in observations)

    names = {name for name, value in trained.kwargs.items() if matches(value, found.observations)}
    # An autoencoder's y equals its x: a positional argument is an observation only where no keyword is.
    left = [seen for seen in found.observations if not any(observed(value, seen) for value in trained.kwargs.values())]
    args = [None if matches(old, left) else new for old, new in zip(trained.args, data.args, strict=False)]
    if isinstance(posterior.model, Deciding):
        # Codes that are observed may be x itself, which stays.
        names, args = names | {"y"}, [*data.args[:1], *args[1:]]
    return Dataset(tuple(args), {k: None if k in names else v for k, v in data.kwargs.items()}, None)


def shared_arguments(posterior: Posterior) -> dict[str, object]:
    """Keyword arguments that are not aligned with the training rows and so hold for new rows too."""
    rows = posterior.data.num_rows

    def aligned(value: object) -> bool:
        return isinstance(value, Tensor) and rows is not None and value.dim() > 0 and len(value) == rows

    return {name: value for name, value in posterior.data.kwargs.items() if not aligned(value)}
