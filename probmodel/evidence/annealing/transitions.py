"""Hamiltonian Monte Carlo of a population of chains, with acceptance per block of coordinates (Neal, 2011)."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probmodel.evidence.annealing.path import AnnealingPath, PopulationState
from probmodel.protocols.session.progress import tick

TRAJECTORY = 1.5
"""Length of a trajectory in standard deviations: a quarter of a normal distribution's period, π/2."""
MAX_LEAPFROGS = 20
JITTER = 0.2
"""Relative spread of the step size from trajectory to trajectory, which keeps periodic orbits from repeating."""


class Kernel(NamedTuple):
    """Settings of a Metropolis-adjusted transition that leaves p_β invariant."""

    beta: float
    step_size: float
    scale_tril: Float[Tensor, "R d d"]
    """Cholesky factor of the inverse mass matrix: distances are measured in its units."""

    @property
    def num_leapfrogs(self) -> int:
        return max(1, min(MAX_LEAPFROGS, round(TRAJECTORY / self.step_size)))


def first_step(num_coordinates: int) -> float:
    """Step size with acceptance probability 0.8 for a normal distribution of that dimension (Beskos et al., 2013)."""
    return 1.2 * num_coordinates**-0.25


def transition(
    path: AnnealingPath, point: PopulationState, kernel: Kernel, index: Int[Tensor, "R d"]
) -> tuple[PopulationState, float]:
    """Move every chain by one trajectory.

    Args:
        path: path with the densities.
        point: state of the chains, evaluated at the kernel's β.
        kernel: inverse temperature, step size and inverse mass matrix.
        index: coordinates of each block.

    Returns:
        The new state, evaluated at the kernel's β, and the mean acceptance probability.
    """
    tick()
    theta = point.theta
    momentum = torch.randn(len(theta), *index.shape, dtype=theta.dtype, device=theta.device)
    stretch = 1 + JITTER * (2 * torch.rand(len(theta), 1, 1, dtype=theta.dtype, device=theta.device) - 1)
    step = kernel.step_size * stretch
    start = point.log_prob(kernel.beta) - 0.5 * momentum.square().sum(-1)
    moved = point
    momentum = momentum + 0.5 * step * _whiten(moved.grad, kernel, index)
    for leapfrog in range(kernel.num_leapfrogs):
        moved = path.at(_shift(moved.theta, step * momentum, kernel, index), kernel.beta)
        half = 0.5 if leapfrog == kernel.num_leapfrogs - 1 else 1.0
        momentum = momentum + half * step * _whiten(moved.grad, kernel, index)
    gain = moved.log_prob(kernel.beta) - 0.5 * momentum.square().sum(-1) - start
    gain = torch.nan_to_num(gain, -math.inf, math.inf, -math.inf)
    # `rand_like` would fill the numbers in the order of the memory, which chunks and compilation change.
    accepted = torch.rand(gain.shape, dtype=gain.dtype, device=gain.device).log() < gain
    return _choose(accepted, moved, point, index), float(gain.clamp(max=0).exp().mean())


def _whiten(grad: Float[Tensor, "S D"], kernel: Kernel, index: Int[Tensor, "R d"]) -> Float[Tensor, "S R d"]:
    if len(index) == 1:
        return (grad @ kernel.scale_tril[0])[:, None]
    return torch.einsum("rij,sri->srj", kernel.scale_tril, grad[:, index])


def _shift(
    theta: Float[Tensor, "S D"], step: Float[Tensor, "S R d"], kernel: Kernel, index: Int[Tensor, "R d"]
) -> Float[Tensor, "S D"]:
    if len(index) == 1:
        return theta + step[:, 0] @ kernel.scale_tril[0].T
    moved = theta.clone()
    moved[:, index] += torch.einsum("rij,srj->sri", kernel.scale_tril, step)
    return moved


def _choose(
    accepted: Bool[Tensor, "S R"], moved: PopulationState, stayed: PopulationState, index: Int[Tensor, "R d"]
) -> PopulationState:
    where = torch.zeros_like(stayed.theta, dtype=torch.bool)
    where[:, index] = accepted[..., None].expand(-1, -1, index.shape[1])
    return PopulationState(
        torch.where(where, moved.theta, stayed.theta),
        torch.where(accepted, moved.log_base, stayed.log_base),
        torch.where(accepted, moved.log_joint, stayed.log_joint),
        torch.where(where, moved.grad, stayed.grad),
    )
