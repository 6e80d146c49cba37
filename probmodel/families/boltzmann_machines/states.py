"""States of {0, 1} units: draws, log odds of means, and enumeration by integers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

SOFTPLUS_THRESHOLD = 40.0
"""Argument above which log(1 + e^x) is x in double precision; PyTorch's own threshold costs 2e-9 nats per unit."""


def bernoulli(logits: Tensor) -> Tensor:
    """Draws of {0, 1} with these log odds, from the global random state; call it inside `isolated`."""
    return (torch.rand_like(logits) < torch.sigmoid(logits)).to(logits)


def logit_of_mean(values: Float[Tensor, "N K"]) -> Float[Tensor, " K"]:
    """Log odds of the mean over rows in [0, 1], smoothed by one added row of zeros and one of ones."""
    mean = (values.sum(0) + 1) / (len(values) + 2)
    return torch.logit(mean)


def states_from_integers(index: Int[Tensor, " N"], num_units: int) -> Float[Tensor, "N K"]:
    """States of {0, 1} units from the bits of integers, with the first unit as lowest bit."""
    return (index[:, None] >> torch.arange(num_units, device=index.device) & 1).double()
