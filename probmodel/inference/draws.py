"""Draws of a guide, all at once, by `vmap` over its traced graph; of much data one by one."""

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from probmodel.protocols import Dataset, Model
from probmodel.sites import sites
from probmodel.target import Density, loops
from probmodel.tracing import isolated


def guide_draws(model: Model, guide: Model, data: Dataset, num_draws: int, seed: int) -> dict[str, Tensor]:
    """Draws of the model's continuous latents from its guide: site → (1, num_draws, *event)."""
    with isolated(seed), torch.no_grad(), pyro.validation_enabled(False):
        latents = sites(model, data).latents
        if not latents:
            return {}

        def draw(_: Tensor) -> Tensor:
            run = poutine.trace(guide).get_trace(*data.args, **data.kwargs)
            values: list[Any] = [run.nodes[latent.name]["value"] for latent in latents]
            return torch.cat([value.reshape(-1) for value in values])

        start = latents[0].value.new_zeros(())
        size = sum(tensor.numel() * tensor.element_size() for tensor in data.tensors())
        if loops(size, start.device):  # One call keeps the processor busy: a graph of it would save nothing.
            flat = torch.stack([draw(start) for _ in range(num_draws)])
        else:
            flat = Density(draw, start)(start.new_zeros(num_draws))
    pieces = flat.split([latent.shape.numel() for latent in latents], -1)
    return {
        latent.name: piece.reshape(1, num_draws, *latent.shape) for latent, piece in zip(latents, pieces, strict=True)
    }
