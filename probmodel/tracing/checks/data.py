"""Checks of a model and its data before anything runs."""

import torch

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.dataset_checks import check_by_model, check_form, check_training_by_model
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.sites import Sites
from probmodel.tracing.checks.edges import warn_of_edges
from probmodel.tracing.checks.missing import are_masked
from probmodel.tracing.checks.modules import refuse_dependence_on_calls, refuse_noise
from probmodel.tracing.checks.unused import refuse_unused
from probmodel.tracing.ownership import copied_to_data
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites


def check(model: Model, data: Dataset) -> None:
    """Raise for data that no model can use (no rows, or numbers that are not finite), and run the model's own check.

    Raises:
        TypeError: for anything but a Dataset of tensors.
        ValueError: for all other invalid data.
    """
    check_form(data)
    for name, tensor in data.by_name().items():
        if not torch.is_tensor(tensor):
            continue
        if tensor.numel() == 0:
            raise ValueError(f"expected at least one row, got {name} of shape {tuple(tensor.shape)}; add data")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all() and not are_masked(model, data):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ValueError(
                f"expected finite numbers, got {bad} NaN or infinite ones in {name} of shape "
                f"{tuple(tensor.shape)}; drop or impute those rows, or mask them in the model (obs_mask=)"
            )
    if data.size is not None and not data.tensors():
        raise ValueError(f"expected tensors with {data.size} rows, got none; pass the data as PyTorch tensors")
    if data.size is not None and data.tensors()[0].dim() == 0:
        raise ValueError(
            f"expected rows in the first tensor, got a scalar with size={data.size}; pass it as a keyword argument after the rows"
        )
    rows = data.num_rows
    if rows is not None and data.size is not None and rows > data.size:
        raise ValueError(
            f"expected size to be the number of rows of the full data set, got {data.size} for {rows} rows; pass size={rows}"
        )
    check_by_model(model, data)


def check_draws(posterior: Posterior, found: Sites) -> None:
    """Raise ValueError for a posterior whose draws are not those of the latents of its model.

    Draws that are computed when asked for are checked by name alone.
    """
    draws, known = posterior.draws, {latent.name: latent for latent in found.latents}
    if not draws:
        return  # Drawn by its guide, or integrated by the model itself; what needs draws says so.
    absent, unknown = sorted(set(known) - set(draws)), sorted(set(draws) - set(known) - set(found.discrete))
    if absent:
        raise ValueError(
            f"expected values for every latent, got none for {absent}{f' and draws of {unknown}' if unknown else ''}; pass draws "
            "of this model and data"
        )
    for name, latent in known.items() if type(draws) is dict else ():
        shape = tuple(draws[name].shape)
        if len(shape) < 2 or 0 in shape[:2]:
            raise ValueError(
                f"expected draws of {name!r} of shape (chain, draw, {', '.join(map(str, latent.shape))}), with one or more "
                f"of each, got {shape}; pass a posterior of this model and data"
            )


def check_reading(model: Model, data: Dataset) -> None:
    """Raise ValueError for what no fit could read rightly: networks that depend on calls, noise that is no site, unused data."""
    refuse_dependence_on_calls(model, data)
    with isolated(seed=0):
        found = sites(model, data)
    refuse_noise(model, data)
    refuse_unused(model, data, found)
    warn_of_edges(model, data, found)


def check_training(model: Model, data: Dataset) -> None:
    """Run `check`, and raise ValueError for data from which the model states that nothing can be learned."""
    check_form(data)
    model = copied_to_data(model, data)
    check(model, data)
    check_training_by_model(model, data)
    check_reading(model, data)
