"""Annealed importance sampling along a frozen schedule, forward from the base or backward from the target (Neal, 2001).

Forward weights are unbiased for Z and backward weights for 1/Z under any schedule, as long as nothing adapts.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.path import AnnealingPath, PopulationState
from probmodel.evidence.annealing.population import TemperedPopulation
from probmodel.evidence.annealing.transitions import Kernel, transition
from probmodel.tracing.curvature import block_index

STEP_FACTORS = (1.0, 0.3, 1.0, 0.1)
"""Factors on the step size from move to move: a particle in a narrower part of a curved ridge rejects every long step."""
GRADIENT_COST = 2.5
"""Cost of a density with its gradient, in evaluations of the density."""
MAX_STEPS = 1_000
NEAR_BEST = 1.3
"""Ratio to the least cost up to which fewer steps are preferred."""


def frozen(pilot: TemperedPopulation, *, num_steps: int | None = None) -> tuple[Kernel, ...]:
    """Frozen schedule: kernels at steps of equal length along the pilot's path.

    T steps along a path of length Λ = Σ √variance give log weights the variance Λ² / T (Gelman & Meng, 1998), so that
    each chain contributes the precision 1 / (exp(Λ² / T) − 1) and costs one gradient per leapfrog step.

    Args:
        pilot: adaptive run along the same path.
        num_steps: number of steps T; None for the fewest that give nearly the highest precision per cost.

    Returns:
        One kernel per step, the last at β = 1.
    """
    lengths = np.sqrt(np.maximum(pilot.variances, 1e-12))
    length = np.concatenate([[0.0], np.cumsum(lengths)])
    betas = np.array([0.0, *(kernel.beta for kernel in pilot.kernels)])
    count = num_steps or _cheapest(float(length[-1]), pilot.kernels[-1].num_leapfrogs)
    wanted = np.interp(np.linspace(0, length[-1], count + 1)[1:], length, betas)
    position = np.clip(np.searchsorted(betas[1:], wanted - 1e-12), 0, len(pilot.kernels) - 1)
    kernels = [pilot.kernels[p]._replace(beta=float(beta)) for p, beta in zip(position, wanted, strict=True)]
    return (*kernels[:-1], kernels[-1]._replace(beta=1.0))


def path_length(pilot: TemperedPopulation) -> float:
    """Length Λ of a path, in standard deviations of log weights."""
    return float(np.sqrt(np.maximum(pilot.variances, 1e-12)).sum())


def _cheapest(length: float, leapfrogs: int) -> int:
    """Fewest steps whose variance times cost is near its minimum; beyond, cost grows as fast as variance falls."""
    counts = np.unique(np.round(np.geomspace(1, MAX_STEPS, 100)))
    log_variance = np.minimum(length**2 / counts, 100.0)
    cost = 1 + (counts - 1) * (leapfrogs + 1) * GRADIENT_COST
    price = np.expm1(log_variance) * cost
    return int(counts[np.argmax(price <= NEAR_BEST * price.min())])


def forward(path: AnnealingPath, kernels: Sequence[Kernel], num_chains: int) -> Float[Tensor, "S R"]:
    """Log weights of independent chains from the base, in nats; the exponential of each is unbiased for Z.

    The kernels are at β_1 … β_T = 1; the chain moves at all but the last, and its log weight is
    Σ_t (β_t+1 − β_t) log ratio(θ_t).
    """
    index = block_index(path.target).to(path.target.device)
    theta = path.base.sample(num_chains).to(path.target.dtype)
    if len(kernels) == 1:
        return path.log_ratio(theta)
    point = path.at(theta, 0.0)
    log_w = kernels[0].beta * point.log_ratio.double()
    for kernel, following in pairwise(kernels):
        point = path.at(point.theta, kernel.beta)
        point, _ = transition(path, point, kernel, index)
        log_w = log_w + (following.beta - kernel.beta) * point.log_ratio.double()
    return log_w


def backward(path: AnnealingPath, kernels: Sequence[Kernel], theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
    """Log weights, in nats, of chains from draws of the target to the base; exp(−log weight) is unbiased for 1/Z."""
    index = block_index(path.target).to(path.target.device)
    if len(kernels) == 1:
        return path.log_ratio(theta)
    point = path.at(theta, 1.0)
    betas = [0.0, *(kernel.beta for kernel in kernels)]
    log_w = (betas[-1] - betas[-2]) * point.log_ratio.double()
    for kernel, previous in zip(kernels[-2::-1], betas[-3::-1], strict=True):
        point = path.at(point.theta, kernel.beta)
        point, _ = transition(path, point, kernel, index)
        log_w = log_w + (kernel.beta - previous) * point.log_ratio.double()
    return log_w


def decorrelated(path: AnnealingPath, point: PopulationState, kernel: Kernel, num_moves: int) -> PopulationState:
    """Move particles by `num_moves` more transitions, so that they no longer depend on common ancestors."""
    index = block_index(path.target).to(path.target.device)
    point = path.at(point.theta, kernel.beta)
    for move in range(num_moves):
        shorter = kernel._replace(step_size=kernel.step_size * STEP_FACTORS[move % len(STEP_FACTORS)])
        point, _ = transition(path, point, shorter, index)
    return point
