"""Points from which a fit starts: values that the model takes from the data, and random ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model, StartsAtData

SPREAD = 1.0
"""Standard deviation of the normal numbers that are added to the parameters of a model for each further start."""


def place(leaves: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Set the named tensors, in place."""
    with torch.no_grad():
        for name, value in values.items():
            leaves[name].copy_(value)


def start_at_data(model: Model, leaves: Mapping[str, Tensor], data: Dataset) -> None:
    """Move the leaves to the first start that the model takes from the data, in place."""
    place(leaves, _proposed(model, leaves, data, 1)[0])


def starting_points(
    model: Model, leaves: Mapping[str, Tensor], data: Dataset, number: int | None
) -> list[dict[str, Tensor]]:
    """Values of all leaves for each start of a fit, the model's own first.

    Further starts of a model that proposes fewer are its parameters plus normal noise, drawn by the global random state.

    Args:
        model: model that is owned by the fit.
        leaves: trainable parameters by name, as from `owned_copies`.
        data: the data to be fitted.
        number: number of starts; None for one, or as many as the model proposes.
    """
    own = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    found = [own | each for each in _proposed(model, leaves, data, number)]
    while number is not None and len(found) < number:
        found.append({name: value + SPREAD * torch.randn_like(value) for name, value in own.items()})
    return found


def units_of(model: Model, leaves: Mapping[str, Tensor], data: Dataset) -> list[Tensor]:
    """Natural step of each number of the leaves, in their order."""
    own = _started(model)
    found = {} if own is None else own.parameter_units(data)
    ones = {name: torch.ones_like(leaf) for name, leaf in leaves.items()}
    return list((ones | _of_leaves(found, leaves)).values())


def _proposed(
    model: Model, leaves: Mapping[str, Tensor], data: Dataset, number: int | None
) -> Sequence[dict[str, Tensor]]:
    """Values by name of the leaf that the model proposes; of no leaf where it proposes none."""
    own = _started(model)
    proposed = [{}] if own is None else own.starting_values(data, number)
    return [_of_leaves(each, leaves) for each in proposed]


def check_fit(model: Model, data: Dataset) -> None:
    """Let the model warn where its fitted parameters are not to be trusted."""
    own = _started(model)
    if own is not None:
        own.check_fit(data)


def _started(model: Model) -> StartsAtData | None:
    return model if isinstance(model, StartsAtData) else None


def _of_leaves(values: Mapping[str, Tensor], leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values by the names of the leaves, which come from a model and its guide."""
    named = {f"model.{name}": value for name, value in values.items()}
    return {name: value.to(leaves[name]) for name, value in named.items() if name in leaves}
