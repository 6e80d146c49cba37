"""Agreement of log densities, evidence and predictions on the device with those of the CPU."""

from collections.abc import Iterator

import torch
from gpytorch.kernels import MaternKernel

import probmodel as pb
from benchmarks.gaussian_processes import models
from benchmarks.rows import Row, row
from probmodel.data.problems import eight_schools

AGREEMENT = 1e-4
"""Largest relative difference allowed of log joints."""
SAME_ARITHMETIC = 1e-8
"""Largest relative difference allowed of Gaussian processes in float64."""


def agreement_rows() -> Iterator[Row]:
    """Row of the same density at the same points on both devices."""
    problem = eight_schools()
    near, far = pb.target(problem.model, problem.data), pb.target(problem.model, problem.data.to("cuda"))
    theta = near.sample_prior(1_000, 0)
    a, b = near.log_joint(theta), far.log_joint(theta.to("cuda")).cpu()
    value = float(((a - b).abs() / a.abs().clamp(min=1)).max())
    yield row("GPU against CPU: log joint, largest relative difference", value, "", at_most=AGREEMENT, reference=0.0)


def process_rows() -> Iterator[Row]:
    """Rows of evidence and predictions of processes, products and mixtures on both devices, in float64."""
    for name, numbers in (("evidence and prediction", _process), ("product", _product), ("mixture", _mixture)):
        near, far = numbers("cpu"), numbers("cuda").cpu()
        value = float(((near - far).abs() / near.abs().max()).max())
        task = f"GPU against CPU: Gaussian process, {name}, difference of the largest"
        yield row(task, value, "", at_most=SAME_ARITHMETIC, reference=0.0)


def _noisy_sine(device: str, rows: int = 500) -> pb.Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(rows, generator=generator, dtype=torch.float64)
    return pb.Dataset((x,), {"y": y}).to(device)


def _predicted(model: pb.protocols.Model, data: pb.Dataset) -> torch.Tensor:
    found = pb.predict(pb.Posterior(model, data, {}, {}), data.args[0][:50] + 0.1).distribution
    return torch.cat([found.mean.flatten(), found.variance.flatten()])


def _process(device: str) -> torch.Tensor:
    model = models.process(1.0, 1.0, 0.05, kernel=MaternKernel(nu=2.5)).to(device)
    data = _noisy_sine(device)
    evidence = pb.evidence.exact(pb.target(model, data))
    return torch.cat([torch.tensor([evidence.log_z], dtype=torch.float64, device=device), _predicted(model, data)])


def _product(device: str) -> torch.Tensor:
    expert = models.process(1.0, 1.0, 0.05, kernel=MaternKernel(nu=2.5))
    product = pb.gp.GPProduct(expert.kernel, mean=expert.mean, likelihood=expert.likelihood, shards=4)
    return _predicted(product.to(device), _noisy_sine(device))


def _mixture(device: str) -> torch.Tensor:
    mixture, data = models.known_experts(2).to(device), models.alternating().to(device)
    found = pb.evidence.assignments(pb.Posterior(mixture, data, {}, {}))
    return torch.tensor([found.log_z], dtype=torch.float64)
