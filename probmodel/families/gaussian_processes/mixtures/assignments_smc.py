"""Unbiased estimates of the evidence over assignments by particles (Fearnhead, 2004) or by annealing (Neal, 2001)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.families.gaussian_processes.mixtures.assignments import (
    Assigned,
    gibbs_sweep,
    log_joint,
    prior_assignments,
)
from probmodel.protocols.memory import refuse_above_memory

PILOT, PILOT_POWER = 50, 5
"""Steps and exponent of the pilot run at β = (t / 50)^5: log p(y | c) varies most near the prior."""


class Particles(NamedTuple):
    """Weighted assignments; the log of the sum of the weights estimates log Z."""

    c: Int[Tensor, "P n"]
    log_weights: Float[Tensor, " P"]

    @property
    def log_z(self) -> Float[Tensor, ""]:
        """Estimate of log Z in nats, whose exponential is unbiased."""
        return torch.logsumexp(self.log_weights, 0)


def smc_over_rows(model: Assigned, num_particles: int, order: Int[Tensor, " n"]) -> Particles:
    """Sequential Monte Carlo over rows, in which each particle tries every expert for the next row.

    Particles with weights above a threshold are kept unchanged, the others by systematic resampling, so that no two
    particles are equal and the sum over few enough assignments is exact.  Each particle holds the experts' means and
    covariances at the remaining rows, conditioned by one rank-one update: n³ / 3 operations per particle.

    Args:
        model: evaluated experts and gate.
        num_particles: largest number of particles kept after each row.
        order: order in which rows are added; any order is unbiased.

    Reference:
        Fearnhead & Clifford (2003), "On-line inference for hidden Markov models via particle filters", sec. 4;
        Fearnhead (2004), "Particle filters for mixture models with an unknown number of components".
    """
    num_experts, n = model.residual.shape
    needed = num_particles * num_experts * n**2 * model.residual.element_size()
    what = f"{num_particles} particles over {n:,} rows and {num_experts} experts"
    refuse_above_memory(needed, model.residual.device, what, "take fewer particles")
    residual, ahead = model.residual[:, order], model.covariance[:, order[:, None], order]
    noise, gate = model.noise[:, order], model.log_input_factors[order]
    # Residual of y given a particle's rows, (P, K, m), and its covariance, (P, K, m, m), at the m remaining rows.
    left, ahead = residual[None], ahead[None]
    counts, c = residual.new_zeros(1, num_experts), order.new_zeros(1, 0)
    log_w = residual.new_zeros(1)
    for i in range(n):
        variance = ahead[:, :, 0, 0] + noise[:, i]
        log_p = -0.5 * (left[:, :, 0].square() / variance + variance.log() + math.log(2 * math.pi))
        children = (log_w[:, None] + log_p + model.count_prior.log_next_assignment(counts) + gate[i]).flatten()
        chosen, log_w = _resampled(children, num_particles)
        parent, expert = chosen // num_experts, chosen % num_experts
        at, variance = torch.arange(len(chosen), device=order.device), variance[parent, expert]
        gain = ahead[parent, expert, 1:, 0] / variance[:, None]
        error = left[parent, expert, 0]
        left, ahead = left[parent, :, 1:], ahead[parent, :, 1:, 1:]
        left[at, expert] -= gain * error[:, None]
        ahead[at, expert] -= gain[:, :, None] * gain[:, None, :] * variance[:, None, None]
        counts = counts[parent]
        counts[at, expert] += 1
        c = torch.cat([c[parent], expert[:, None]], 1)
    return Particles(c[:, order.argsort()], log_w)


def order_along_direction(x: Float[Tensor, "n D"]) -> Int[Tensor, " n"]:
    """Order of the rows along a random direction of the inputs, so that particles meet neighbors in succession."""
    return (x @ torch.randn(x.shape[1], dtype=x.dtype, device=x.device)).argsort()


def annealed_log_weights(model: Assigned, num_chains: int, powers: Sequence[float]) -> Float[Tensor, " S"]:
    """Log weights in nats of chains annealed from the gate's prior to the posterior by p(c) p(y | c)^β; E[exp] = Z.

    Args:
        model: evaluated experts and gate.
        num_chains: number of independent chains, run in parallel.
        powers: β increasing from above 0 to 1, with a Gibbs sweep at each but the last; they have to be fixed
            beforehand, or the weights are biased.
    """
    c, log_w, last = prior_assignments(model, num_chains), model.residual.new_zeros(num_chains), 0.0
    for beta in powers[:-1]:
        swept = gibbs_sweep(model, c, power=beta)
        log_w, c, last = log_w + (beta - last) * swept.log_likelihood, swept.c, beta
    return log_w + (powers[-1] - last) * log_joint(model, c)


def annealing_powers(model: Assigned, num_steps: int, *, num_chains: int = 64) -> tuple[float, ...]:
    """Powers β spaced by the standard deviation of log p(y | c) along a pilot run, so that all steps are equally hard.

    Reference:
        Gelman & Meng (1998), "Simulating normalizing constants", sec. 4: the best path has constant speed √Var.
    """
    grid = [(t / PILOT) ** PILOT_POWER for t in range(PILOT + 1)]
    c, speeds = prior_assignments(model, num_chains), []
    for beta in grid:
        c = gibbs_sweep(model, c, power=beta).c
        speeds.append(float(log_joint(model, c).std()))
    steps = [(b - a) * (s + t) / 2 for (a, b), (s, t) in zip(pairwise(grid), pairwise(speeds), strict=True)]
    length = np.concatenate([[0.0], np.cumsum(np.maximum(steps, sum(steps) * 1e-6))])
    even = np.interp(np.linspace(0, length[-1], num_steps + 1), length, grid)
    return (*even[1:-1].tolist(), 1.0)


def _resampled(log_w: Float[Tensor, " M"], count: int) -> tuple[Int[Tensor, " P"], Float[Tensor, " P"]]:
    """At most `count` particles, each kept with probability min(1, w / t) and then with weight max(w, t)."""
    if len(log_w) <= count:
        return torch.arange(len(log_w), device=log_w.device), log_w
    top = log_w.max()
    w, order = (log_w - top).exp().sort(descending=True)
    tail = w.flip(0).cumsum(0).flip(0)[:count]
    thresholds = tail / torch.arange(count, 0, -1, device=w.device)
    # Least number of weights kept unchanged for which the next weight is at most the threshold.
    kept = int((w[:count] <= thresholds).int().argmax())
    threshold = thresholds[kept]
    inclusion = (w[kept:] / threshold).cumsum(0)
    points = torch.rand((), dtype=w.dtype, device=w.device) + torch.arange(count - kept, device=w.device)
    drawn = torch.searchsorted(inclusion, points).clamp(max=len(inclusion) - 1) + kept
    survivors = torch.cat([torch.arange(kept, device=w.device), drawn])
    return order[survivors], top + torch.cat([w[:kept], threshold.expand(count - kept)]).log()
