"""Missing numbers that a model masks itself."""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.tracing.devices import traced_run
from probmodel.tracing.minibatch_scale import row_scaled
from probmodel.tracing.ownership import reached_modules
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites


def are_masked(model: Model, data: Dataset) -> bool:
    """Return whether a model leaves out the numbers that are not finite: its density and its gradient are finite."""
    try:
        with isolated(seed=0), pyro.validation_enabled(False), torch.no_grad():
            found = sites(model, data)
            nodes: Mapping[str, Any] = traced_run(model, data).nodes
            values = {latent.name: nodes[latent.name]["value"].clone() for latent in found.latents}
            leaves = [value.requires_grad_() for value in values.values()]
            leaves += [p for network in reached_modules(model) for p in network.parameters() if p.requires_grad]
            with torch.enable_grad():
                run = traced_run(poutine.condition(row_scaled(model, found, data), values), data)
                total = torch.as_tensor(run.log_prob_sum())
                slopes = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else ()
    except (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError):
        return False
    return all(bool(torch.isfinite(each).all()) for each in (total, *slopes) if each is not None)
