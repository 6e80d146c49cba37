"""Sequential Monte Carlo with adaptive temperatures: the pilot run that finds a schedule, kernels and particles.

Reference:
    Del Moral, Doucet & Jasra (2006), "Sequential Monte Carlo samplers".
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.evidence.annealing.path import AnnealingPath, PopulationState
from probmodel.evidence.annealing.reference import covariance_factor
from probmodel.evidence.annealing.transitions import Kernel, first_step, transition
from probmodel.tracing.curvature import block_index

LEAST_RELATIVE_ESS = 0.5
"""Relative ESS of the particles that one temperature step keeps."""
TARGET_ACCEPTANCE = 0.8
NUM_MOVES = 3
MAX_TRIALS = 12
"""Largest number of trajectories per temperature, while the step size is still far off."""
MAX_TEMPERATURES = 2_000


class TemperedPopulation(NamedTuple):
    """Result of an adaptive run from the base to the target.

    The estimate of log Z is consistent, not unbiased, since temperatures and kernels depend on the particles.
    """

    point: PopulationState
    """Particles at β = 1."""
    kernels: tuple[Kernel, ...]
    """One per temperature, the last at β = 1."""
    variances: tuple[float, ...]
    """Variance of the incremental log weights per step, averaged over blocks."""
    log_z: Float[Tensor, " R"]
    """Log Z per block, in nats."""
    stderr: float
    """Standard error of log Z summed over blocks, in nats, from the variance of each step's weights."""
    acceptance: float
    """Mean acceptance probability of the last kernel."""


def temper(
    path: AnnealingPath, num_particles: int, *, relative_ess: float = LEAST_RELATIVE_ESS, num_moves: int = NUM_MOVES
) -> TemperedPopulation:
    """Move particles from the base to the target with adaptive temperatures and kernels; call it inside `isolated`.

    Args:
        path: path from the base to the target.
        num_particles: number of particles.
        relative_ess: relative ESS that each temperature step keeps.
        num_moves: number of trajectories with acceptance above 0.5 per temperature.

    Raises:
        ValueError: if no draw of the base has a finite density under the target, or β does not reach 1.
    """
    index = block_index(path.target).to(path.target.device)
    theta = path.base.sample(num_particles).to(path.target.dtype)
    point = path.at(theta, 0.0)
    _check_start(point)
    beta, step, variance_of_log_z, acceptance = 0.0, first_step(index.shape[1]), 0.0, 1.0
    log_z = torch.zeros(len(index), dtype=torch.float64, device=theta.device)
    kernels: list[Kernel] = []
    variances: list[float] = []
    while beta < 1:
        if len(kernels) == MAX_TEMPERATURES:
            raise ValueError(
                f"expected to reach the target in {MAX_TEMPERATURES} temperatures, got to β = {beta:.3g}; rescale the data, "
                "or start from a fit"
            )
        # Rounding errors may put a draw outside its own base; only such a draw has an infinite ratio, and gets no weight.
        log_ratio = point.log_ratio.double().nan_to_num(-math.inf, -math.inf, -math.inf)
        increment = _increment(log_ratio, 1 - beta, relative_ess)
        log_w = increment * log_ratio
        log_z = log_z + torch.logsumexp(log_w, 0) - math.log(num_particles)
        relative = torch.exp(log_w - torch.logsumexp(log_w, 0)) * num_particles
        variance_of_log_z += float(relative.var(0).sum()) / num_particles
        # A normal log weight of variance v has relative ESS exp(−v), which a few far particles hardly change.
        variances.append(-math.log(_relative_ess(log_w)))
        beta = 1.0 if beta + increment > 1 - 1e-9 else beta + increment
        theta = resample(point.theta, log_w, index)
        factor = covariance_factor(theta, index)
        point = path.at(theta, beta)
        done = 0
        for _ in range(MAX_TRIALS):
            point, acceptance = transition(path, point, Kernel(beta, step, factor), index)
            used = step
            step = min(2.0, step * math.exp(acceptance - TARGET_ACCEPTANCE))
            done += acceptance > 0.5
            if done == num_moves:
                break
        kernels.append(Kernel(beta, used, covariance_factor(point.theta, index)))
    return TemperedPopulation(point, tuple(kernels), tuple(variances), log_z, math.sqrt(variance_of_log_z), acceptance)


class Populations(NamedTuple):
    """G independent groups of particles along one frozen schedule β_0 = 0 … β_T = 1, in each of R blocks."""

    betas: Float[Tensor, " T1"]
    increments: Float[Tensor, "T G R"]
    """Log mean incremental weight of each step; the exponential of their sum over steps is unbiased for Z."""
    means: Float[Tensor, "T1 G R"]
    """Mean of the log ratio under each tempered distribution."""
    variances: Float[Tensor, "T1 G R"]
    """Variance of the log ratio under each tempered distribution."""
    point: PopulationState


def populations(
    path: AnnealingPath, kernels: Sequence[Kernel], num_groups: int, group_size: int, *, num_moves: int = NUM_MOVES
) -> Populations:
    """Sequential Monte Carlo with frozen temperatures and kernels, in independent groups; call it inside `isolated`.

    Nothing adapts, so that each group's product of mean incremental weights is unbiased for Z.

    Args:
        path: path from the base to the target.
        kernels: one per temperature, the last at β = 1.
        num_groups: number G of independent groups.
        group_size: number of particles per group.
        num_moves: number of trajectories per temperature.
    """
    index = block_index(path.target).to(path.target.device)
    point = path.at(path.base.sample(num_groups * group_size).to(path.target.dtype), 0.0)
    betas, increments, means, variances = [0.0], [], [], []
    for kernel in kernels:
        log_ratio = point.log_ratio.double().reshape(num_groups, group_size, -1)
        means.append(log_ratio.mean(1))
        variances.append(log_ratio.var(1))
        log_w = (kernel.beta - betas[-1]) * log_ratio
        increments.append(torch.logsumexp(log_w, 1) - math.log(group_size))
        betas.append(kernel.beta)
        groups = zip(point.theta.reshape(num_groups, group_size, -1), log_w, strict=True)
        point = path.at(torch.cat([resample(theta, w, index) for theta, w in groups]), kernel.beta)
        for _ in range(num_moves):
            point, _ = transition(path, point, kernel, index)
    log_ratio = point.log_ratio.double().reshape(num_groups, group_size, -1)
    means.append(log_ratio.mean(1))
    variances.append(log_ratio.var(1))
    grid = torch.tensor(betas, dtype=torch.float64, device=point.theta.device)
    return Populations(grid, torch.stack(increments), torch.stack(means), torch.stack(variances), point)


def effective_size(log_w: Float[Tensor, "S R"]) -> Float[Tensor, " R"]:
    """Effective sample size in each block (Kong, 1992)."""
    return torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))


def _check_start(point: PopulationState) -> None:
    if not torch.isfinite(point.log_joint).any(0).all():
        raise ValueError(
            f"expected draws of the base with a finite density, got {len(point.theta)} without; check the likelihood's "
            "domain, or start from a fit"
        )


def _increment(log_ratio: Float[Tensor, "S R"], longest: float, relative_ess: float) -> float:
    """Largest step of β after which the weights keep `relative_ess` of the particles, on average over blocks."""
    if _relative_ess(longest * log_ratio) >= relative_ess:
        return longest
    # A step that only drops particles outside the support cannot keep more than those inside.
    wanted = relative_ess * float(torch.isfinite(log_ratio).double().mean())
    low, high = 0.0, longest
    for _ in range(80):
        middle = (low + high) / 2
        if _relative_ess(middle * log_ratio) >= wanted:
            low = middle
        else:
            high = middle
    return high


def _relative_ess(log_w: Float[Tensor, "S R"]) -> float:
    return float(effective_size(log_w).mean()) / len(log_w)


def resample(theta: Float[Tensor, "S D"], log_w: Float[Tensor, "S R"], index: Tensor) -> Float[Tensor, "S D"]:
    """Systematic resampling, independently per block (Kitagawa, 1996)."""
    count, rows = log_w.shape
    # A group in which every weight is 0 keeps its particles: its estimate is 0 already.
    weights = torch.nan_to_num(torch.softmax(log_w, 0), 1 / count)
    cumulative = weights.cumsum(0).T.contiguous()
    offset = torch.rand(rows, 1, dtype=cumulative.dtype, device=theta.device)
    grid = (torch.arange(count, dtype=cumulative.dtype, device=theta.device) + offset) / count
    parents = torch.searchsorted(cumulative / cumulative[:, -1:], grid).clamp(max=count - 1)
    chosen = theta.clone()
    for coordinate in index.T:  # One coordinate of every block at a time.
        chosen[:, coordinate] = theta[:, coordinate].gather(0, parents.T)
    return chosen
