"""Starts of a fit of Gaussian processes, in the units of their data."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.starting_periods import period_starts
from probmodel.families.gaussian_processes.starting_values import Parts, random_values, start_at_data, units


def starts_of_process(
    process: Any, h: Float[Tensor, "n D"], y: Float[Tensor, " n"], number: int | None
) -> list[Mapping[str, Tensor]]:
    """Starts of a process's parameters by name, best first.

    Of a kernel with a period at its default they are the likeliest periods of the data and the default itself, else one.
    Further starts are random.

    Args:
        process: module with mean, kernel and likelihood, whose `hyperparameters` are latents.
        h: inputs of the kernel.
        y: observations.
        number: number of starts; None for as many as are worth it.
    """
    with torch.no_grad():
        parts, x = _parts(process), h.detach().double()
        if not bool(x.isfinite().all()):
            return [{}]
        start_at_data(parts, x, y.detach().double())
        first = parts.values(parts.trained)
        periods = period_starts(parts, x, y.detach().double())
        starts: list[Mapping[str, Tensor]] = [*({**first, **each} for each in periods), first]
        while number is not None and len(starts) < number:
            starts.append(random_values(parts, x))
    return starts if number is None else starts[:number]


def units_of_process(process: Any, h: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> Mapping[str, Tensor]:
    """Natural steps of a process's parameters by name at their present values.

    Args:
        process: module with mean, kernel and likelihood, whose `hyperparameters` are latents.
        h: inputs of the kernel.
        y: observations.
    """
    with torch.no_grad():
        return units(_parts(process), h.detach().double(), y.detach().double())


def _parts(process: Any) -> Parts:
    latents = [".".join(part for part in (each.module, each.raw) if part) for each in process.hyperparameters]
    return Parts(process, latents)
