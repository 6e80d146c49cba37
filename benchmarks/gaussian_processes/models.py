"""Processes, mixtures and data that several of the benchmarks use."""

import math
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ZeroMean

import probmodel as pb

DOUBLE = torch.float64


def process(
    lengthscale: float, variance: float, noise: float, *, kernel: Any = None, least_noise: float = 1e-4
) -> pb.GaussianProcess:
    """Process without a mean and with a scaled kernel of GPyTorch, an RBF by default."""
    scaled = ScaleKernel(RBFKernel() if kernel is None else kernel)
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(least_noise))
    found = pb.GaussianProcess(scaled, mean=ZeroMean(), likelihood=likelihood).double()
    scaled.base_kernel.lengthscale = torch.tensor(lengthscale, dtype=DOUBLE)
    scaled.outputscale = torch.tensor(variance, dtype=DOUBLE)
    likelihood.noise = torch.tensor(noise, dtype=DOUBLE)
    return found


def motorcycle() -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds after the impact and accelerations in g."""
    train = pb.data.motorcycle()
    return train.args[0][:, 0].numpy(), train.kwargs["y"].numpy()


def alternating() -> pb.Dataset:
    """Twelve points, alternately on sin 2πx and on its negative."""
    x = torch.linspace(0, 1, 12, dtype=DOUBLE)
    y = (-1.0) ** torch.arange(12, dtype=DOUBLE) * torch.sin(2 * math.pi * x)
    return pb.Dataset((x[:, None],), {"y": y})


def known_experts(number: int) -> pb.gp.GPMixture:
    """Mixture of experts with known hyperparameters and equal prior weights."""
    return pb.gp.GPMixture([process(0.3, 1.0, 0.01) for _ in range(number)], pb.gp.DirichletGate(number))
