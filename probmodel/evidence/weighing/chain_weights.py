"""Thinning and standard error of weights that start from dependent draws of chains."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.draws.diagnostics import mcse_mean
from probmodel.evidence.weighing.weights import independent_error


def chain_error(log_w: Float[Tensor, "S R"], num_chains: int, *, exact: bool) -> float:
    """Standard error of the log mean weight over draws of several chains, autocorrelation included, in nats."""
    independent = independent_error(log_w)
    if exact or (num_chains == 1 and len(log_w) < 8):
        return independent
    relative = torch.softmax(log_w.double(), 0) * len(log_w)
    arrays = {"w": relative.reshape(num_chains, -1, relative.shape[1]).numpy(force=True)}
    by_chain = float(np.sqrt(np.sum(np.square(mcse_mean(arrays)["w"]))))
    return max(independent, by_chain) if np.isfinite(by_chain) else independent


def thinned(log_w: Float[Tensor, "S R"], num_chains: int, *, exact: bool) -> Float[Tensor, "K R"]:
    """Weights evenly spaced along the chains, as many as there are independent ones by their autocorrelation."""
    if exact:
        return log_w
    plain = independent_error(-log_w)
    ratio = chain_error(-log_w, num_chains, exact=False) / plain if plain > 0 else 1.0
    keep = max(1, int(len(log_w) / max(1.0, ratio**2)))
    return log_w[torch.linspace(0, len(log_w) - 1, keep, device=log_w.device).long()]
