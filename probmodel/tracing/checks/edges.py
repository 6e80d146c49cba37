"""Priors with mass so close to an edge of their support that no floating-point number lies between."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import TracingWarning, warn
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Latent, Sites
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import inspected_run

NUM_DRAWS = 1_000
"""Numbers drawn from a prior, over all of its elements."""
LARGEST_SHARE = 0.02
"""Share of a prior's mass at an edge, all of which an evidence loses, above which the user is warned."""
LARGEST_SIMPLEX = 64
"""Coordinates of a vector on the simplex that are looked at."""
INTERVALS = (constraints.interval, constraints.half_open_interval)


def warn_of_edges(model: Model, data: Dataset, found: Sites) -> None:
    """Warn of latents with two edges much of whose prior cannot be told from an edge.

    Beta(0.05, 0.05) has 22 % of its mass above 1 − 6e-8, the largest number below 1 in single precision.

    Args:
        model: any Pyro model.
        data: data set for its call.
        found: sites of the model.

    Warns:
        TracingWarning: naming the site, its share and its dtype.
    """
    bounded = {each.name: each for each in found.latents if _has_two_edges(each) and each.name not in found.improper}
    if not bounded:
        return
    with isolated(seed=0), torch.no_grad():
        nodes: Any = inspected_run(model, data).nodes
        shares = {name: _share(each, nodes[name]["fn"]) for name, each in bounded.items() if name in nodes}
    for name, share in shares.items():
        if share > LARGEST_SHARE:
            kind = bounded[name].value.dtype
            dtype, remedy = str(kind).removeprefix("torch."), "" if kind == torch.float64 else "compute in float64, or "
            warn(
                f"expected priors whose mass floating-point numbers can hold, got {share:.0%} of that of {name!r} closer "
                f"to an edge of its support than {dtype} tells apart, which draws and evidence lose; {remedy}take larger "
                "concentrations",
                TracingWarning,
            )


def _has_two_edges(latent: Latent) -> bool:
    return type(latent.support) in INTERVALS or latent.support is constraints.simplex


def _share(latent: Latent, fn: Any) -> float:
    """Fraction of draws that a step of 1 in their coordinates toward an edge does not move."""
    draws = fn.sample((max(1, NUM_DRAWS // max(1, latent.value.numel())),)).reshape(-1, *latent.shape)
    return float(_is_stuck(draws, latent).double().mean())


def _is_stuck(draws: Tensor, latent: Latent) -> Tensor:
    theta = latent.transform.inv(draws)
    here = latent.transform(theta)
    if latent.support is not constraints.simplex:
        return (latent.transform(theta + 1) == here) | (latent.transform(theta - 1) == here)
    steps = torch.eye(theta.shape[-1], dtype=theta.dtype, device=theta.device)[:LARGEST_SIMPLEX]
    return torch.stack([(latent.transform(theta + step) == here).all(-1) for step in steps]).any(0)
