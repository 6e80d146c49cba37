"""Posterior → ArviZ: draws, log-likelihood by row, observed data and sampler statistics (Kumar et al., 2019)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probmodel.draws.containers import from_arrays
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of


@checks_arguments
def to_arviz(posterior: Posterior) -> Any:
    """Posterior as a container of ArviZ, for ArviZ's own plots, summaries and comparisons.

    Groups: "posterior"; "log_likelihood" in nats by row (chain, draw, row), where the draws hold every latent of the
    model and each row has a likelihood of its own; "observed_data" with the tensors among the model's keyword arguments;
    "sample_stats" from `posterior.info["sample_stats"]`, lists of shape (chain, draw), where inference recorded some.

    Args:
        posterior: result of inference; all draws are kept.

    Returns:
        `arviz.InferenceData` under ArviZ 0.23, `xarray.DataTree` under ArviZ 1.

    Raises:
        ValueError: from `target`, where the model has no density on R^D.
    """
    stats = posterior.info.get("sample_stats", {})
    observed = {name: value for name, value in posterior.data.kwargs.items() if torch.is_tensor(value)}
    # ArviZ matches a likelihood with its data by name; several observed tensors have one likelihood by row.
    name = next(iter(observed)) if len(observed) == 1 else "log_likelihood"
    by_row = _log_likelihood_by_row(posterior)
    return from_arrays(
        {site: _array(value) for site, value in posterior.draws.items()},
        sample_stats={key: np.asarray(values) for key, values in stats.items()},
        log_likelihood=None if by_row is None else {name: _array(by_row)},
        observed_data={key: _array(value) for key, value in observed.items()},
    )


def _log_likelihood_by_row(posterior: Posterior) -> Tensor | None:
    """Log-likelihood (chain, draw, row) in nats; None where latents or separate terms of the rows are missing."""
    if not posterior.draws:
        return None
    density = target_of(posterior)
    origin = torch.zeros(1, density.dim, dtype=density.dtype, device=density.device)
    latents = density.constrain(origin)
    if not latents or not all(site in posterior.draws for site in latents):
        return None
    chains, count = next(iter(posterior.draws.values())).shape[:2]
    with torch.no_grad():
        theta = density.unconstrain({site: posterior.draws[site].flatten(0, 1) for site in latents})
        by_row = density.log_likelihood_by_row(theta)
    joint = density.sites.is_joint(by_row.shape[-1])
    return by_row.reshape(chains, count, -1) if by_row.numel() and not joint else None


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
