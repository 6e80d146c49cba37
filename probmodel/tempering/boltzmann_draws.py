"""Draws of a {0, 1} Boltzmann machine: exact ones by enumeration, else by parallel tempering (Desjardins et al., 2010)."""

import math
import time
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.tempering.boltzmann import BinaryRBM, RBMPath, RBMWay, bernoulli
from probmodel.tracing import isolated

MAX_SIDE = 25
"""Units of the smaller side up to which its 2^units states are summed."""
CHUNK = 2**13
"""States summed at once; 64 units on the other side then take 4 MB, which stays in the cache."""
TEMPERED_CHAINS = 40
SWEEPS_A_DRAW = 5
LEFT_OUT = 200
"""Sweeps of parallel tempering before its first draw, at least."""


class Enumerated(NamedTuple):
    """A machine whose smaller side has been summed: log Z in nats, and the distribution function over that side's states."""

    rbm: BinaryRBM
    log_z: float
    cumulative: Float[Tensor, " M"]
    seconds: float
    """That the sum took."""

    def draws(self, count: int, seed: int) -> Float[Tensor, "S V"]:
        """Exact visible states: the smaller side by inversion of its distribution function, the other given it."""
        rows, columns = self.rbm.weight.shape
        with isolated(seed), torch.no_grad():
            uniform = torch.rand(count, dtype=self.cumulative.dtype, device=self.cumulative.device)
            index = torch.searchsorted(self.cumulative, uniform * self.cumulative[-1], right=True)
            side = _bits(index.clamp(max=len(self.cumulative) - 1), min(rows, columns))
            return side if rows <= columns else bernoulli(self.rbm.visible_bias + side @ self.rbm.weight.T)


def enumerated(rbm: BinaryRBM, max_side: int) -> Enumerated | None:
    """Sum the smaller side; None where it has more than `max_side` units.

    Raises:
        ValueError: for max_side above 25.
    """
    if not 0 <= max_side <= MAX_SIDE:
        raise ValueError(f"expected max_side between 0 and {MAX_SIDE}, got {max_side}; 2^units states are summed")
    if min(rbm.weight.shape) > max_side:
        return None
    begin = time.perf_counter()
    log_f = log_masses(rbm)
    log_z = torch.logsumexp(log_f, 0)
    cumulative = torch.exp(log_f - log_z).cumsum(0)
    return Enumerated(rbm, float(log_z), cumulative, time.perf_counter() - begin)


def log_masses(rbm: BinaryRBM) -> Float[Tensor, " M"]:
    """Log f of all states of the smaller side, nats."""
    small = rbm if rbm.weight.shape[0] <= rbm.weight.shape[1] else rbm.transposed
    units = len(small.visible_bias)
    index = torch.arange(2**units, device=small.weight.device)
    return torch.cat([small.log_unnormalised(_bits(part, units)) for part in index.split(CHUNK)])


def tempered_draws(way: RBMWay, count: int, seed: int) -> Float[Tensor, "S V"]:
    """Visible states by parallel tempering over block Gibbs, chain by chain, `count` rounded up to whole chains.

    As many sweeps as give the draws, 200 at least, are left out first.
    """
    with isolated(seed), torch.no_grad():
        return _tempered(way.path, way.rungs, math.ceil(count / TEMPERED_CHAINS))


def _bits(index: Int[Tensor, " N"], units: int) -> Float[Tensor, "N K"]:
    return (index[:, None] >> torch.arange(units, device=index.device) & 1).double()


def _tempered(path: RBMPath, betas: Float[Tensor, " T"], num_draws: int) -> Float[Tensor, "S V"]:
    """Draws of the last temperature."""
    v = path.base(TEMPERED_CHAINS, len(betas))
    kept = []
    left_out = max(LEFT_OUT, num_draws * SWEEPS_A_DRAW)
    for sweep in range(left_out + num_draws * SWEEPS_A_DRAW):
        v = path.gibbs(betas, path.fields(v))
        # Independent units can be drawn afresh, so that new states keep entering at the first temperature.
        v = torch.cat([path.base(TEMPERED_CHAINS, 1), v[:, 1:]], 1)
        v = _exchanged(path, betas, v, sweep % 2)
        if sweep >= left_out and (sweep - left_out) % SWEEPS_A_DRAW == 0:
            kept.append(v[:, -1])
    return torch.stack(kept, 1).flatten(0, 1)


def _exchanged(
    path: RBMPath, betas: Float[Tensor, " T"], v: Float[Tensor, "C T V"], first: int
) -> Float[Tensor, "C T V"]:
    """Neighbours `first`, `first` + 1 and every second pair after them exchange states by Metropolis' rule."""
    low = torch.arange(first, len(betas) - 1, 2, device=betas.device)
    fields = path.fields(v)
    cold, warm = fields[:, low + 1], fields[:, low]
    ratio = path.log_f(betas[low + 1], warm) + path.log_f(betas[low], cold)
    ratio = ratio - path.log_f(betas[low + 1], cold) - path.log_f(betas[low], warm)
    swap = torch.rand_like(ratio).log() < ratio
    order = torch.arange(len(betas), device=betas.device).repeat(len(v), 1)
    order[:, low] += swap.long()
    order[:, low + 1] -= swap.long()
    return torch.take_along_dim(v, order[..., None], 1)
