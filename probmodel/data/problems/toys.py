"""Test functions of nested sampling: a uniform prior on a box and a likelihood with a shape that defeats samplers."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import comb, factorial2
from torch import Tensor

from probmodel.data.problems.problem import Problem
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset

SHELL_RADIUS, SHELL_WIDTH, SHELL_CENTER = 2.0, 0.1, 3.5
PANELS, NODES = 100, 16
"""Panels per axis and Gauss-Legendre nodes per panel: the integrand of a Rosenbrock step is smooth over a tenth."""


@checks_arguments
def gaussian_shells(num_dimensions: int = 2) -> Problem:
    """Two thin spherical shells, curved and disconnected.

    theta ~ U[-6, 6]^d, L = Σ_{c = ±3.5 e_1} N(‖theta - c‖; 2, 0.1²), the normal density of the radius.

    Log evidence -1.7456 nats for d = 2, -5.6736 for d = 5: with S the area of the unit sphere, it is
    log(2 S E[r^(d - 1)] / 12^d), r ~ N(2, 0.1²); the corner that the box cuts off is below 1e-7 up to d = 10.

    >>> round(gaussian_shells(5).log_z, 4)
    -5.6736

    Args:
        num_dimensions: number of dimensions d, 2 … 10.

    Raises:
        ValueError: for d out of range.

    Reference:
        Feroz, Hobson & Bridges (2009), MultiNest, Monthly Notices of the Royal Astronomical Society 398.
    """
    if not 2 <= num_dimensions <= 10:
        raise ValueError(
            f"expected num_dimensions in 2 … 10, got {num_dimensions}; pass one of these: beyond 10 the box cuts the shells"
        )
    d, k = num_dimensions, np.arange(0, num_dimensions, 2)
    # E[r^(d - 1)] by the binomial theorem: the moments of a standard normal are (k - 1)!! for even k, else zero.
    moment = (comb(d - 1, k) * SHELL_RADIUS ** (d - 1 - k) * SHELL_WIDTH**k * np.maximum(factorial2(k - 1), 1)).sum()
    log_area = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    log_z = math.log(2) + log_area + math.log(moment) - d * math.log(12)
    source = "closed form; Feroz et al. (2009)"
    return Problem(f"Gaussian shells, {d} dimensions", _shells, _box(-6.0, 6.0, d), log_z, source=source)


def eggbox() -> Problem:
    """Eighteen narrow peaks of one height on a square, some of them cut by its border.

    theta ~ U[0, 10π]², L = exp((2 + cos(theta_1 / 2) cos(theta_2 / 2))⁵).

    Log evidence 235.8559403 nats.

    >>> eggbox().data.args[1]
    tensor([31.4159, 31.4159], dtype=torch.float64)

    Reference:
        Feroz, Hobson & Bridges (2009), MultiNest, Monthly Notices of the Royal Astronomical Society 398.
    """
    source = "quadrature; Feroz et al. (2009)"
    return Problem("eggbox", _eggbox, _box(0.0, 10 * math.pi, 2), 235.8559403323, source=source)


@checks_arguments
def rosenbrock(num_dimensions: int = 2) -> Problem:
    """A long, curved, narrow valley.

    theta ~ U[-5, 5]^d, log L = -Σ_{i < d} [(1 - theta_i)² + 100 (theta_{i + 1} - theta_i²)²].

    Log evidence -5.8041324 nats for d = 2, -15.1016907 for d = 4: coordinates form a chain, so that d - 1 quadratures
    over one of them each are enough.

    >>> round(rosenbrock(4).log_z, 5)
    -15.10169

    Args:
        num_dimensions: number of dimensions d, at least 2.

    Raises:
        ValueError: for fewer than two dimensions.

    Reference:
        Rosenbrock (1960), Computer Journal 3; Feroz & Hobson (2008), Multimodal nested sampling, Monthly Notices of the
        Royal Astronomical Society 384.
    """
    if num_dimensions < 2:
        raise ValueError(f"expected num_dimensions of 2 or more, got {num_dimensions}; pass num_dimensions=2 or more")
    log_z = _rosenbrock_chain(num_dimensions)
    source = "quadrature along the chain; Rosenbrock (1960)"
    name = f"Rosenbrock, {num_dimensions} dimensions"
    return Problem(name, _rosenbrock, _box(-5.0, 5.0, num_dimensions), log_z, source=source)


@checks_arguments
def rastrigin(num_dimensions: int = 2) -> Problem:
    """A grid of 11^d peaks under one wide hill.

    theta ~ U[-5.12, 5.12]^d, log L = -Σ_i [10 + theta_i² - 10 cos(2π theta_i)].

    Log evidence -3.8108665 d nats: coordinates are independent.

    >>> round(rastrigin(3).log_z, 4)
    -11.4326

    Args:
        num_dimensions: number of dimensions d, at least 1.

    Raises:
        ValueError: for fewer than one dimension.

    Reference:
        Rastrigin (1974), Systems of extremal control; Handley, Hobson & Lasenby (2015), PolyChord, Monthly Notices of
        the Royal Astronomical Society 453.
    """
    if num_dimensions < 1:
        raise ValueError(f"expected num_dimensions of 1 or more, got {num_dimensions}; pass num_dimensions=1 or more")
    data = _box(-5.12, 5.12, num_dimensions)
    source = "quadrature; Rastrigin (1974)"
    name = f"Rastrigin, {num_dimensions} dimensions"
    return Problem(name, _rastrigin, data, -3.8108664692 * num_dimensions, source=source)


def _box(low: float, high: float, num_dimensions: int) -> Dataset:
    ends = torch.ones(num_dimensions, dtype=torch.float64)
    return Dataset((low * ends, high * ends))


def _rosenbrock_chain(num_dimensions: int) -> float:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = 5.0 / PANELS
    centers = np.linspace(-5 + half, 5 - half, PANELS)
    x = (centers[:, None] + half * nodes).ravel()
    prior = np.tile(half * weights, PANELS) / 10
    step = np.exp(-((1 - x[:, None]) ** 2) - 100 * (x - x[:, None] ** 2) ** 2)
    given_first, log_scale = np.ones_like(x), 0.0
    for _ in range(num_dimensions - 1):
        given_first = step @ (prior * given_first)
        # Each step loses about five nats; rescaling keeps a long chain from underflow.
        log_scale += math.log(given_first.max())
        given_first /= given_first.max()
    return math.log(prior @ given_first) + log_scale


def _uniform(low: Tensor, high: Tensor) -> Tensor:
    return pyro.sample("theta", dist.Uniform(low, high).to_event(1))


def _shells(low: Tensor, high: Tensor) -> None:
    theta = _uniform(low, high)
    center = torch.cat([low.new_full((1,), SHELL_CENTER), torch.zeros_like(low[1:])])
    radii = torch.stack([torch.linalg.vector_norm(theta - c) for c in (center, -center)])
    log_density = dist.Normal(radii.new_tensor(SHELL_RADIUS), SHELL_WIDTH).log_prob(radii)
    pyro.factor("log_likelihood", torch.logsumexp(log_density, 0))


def _eggbox(low: Tensor, high: Tensor) -> None:
    theta = _uniform(low, high)
    pyro.factor("log_likelihood", (2 + torch.cos(theta / 2).prod()) ** 5)


def _rosenbrock(low: Tensor, high: Tensor) -> None:
    theta = _uniform(low, high)
    x, following = theta[:-1], theta[1:]
    pyro.factor("log_likelihood", -((1 - x) ** 2 + 100 * (following - x**2) ** 2).sum())


def _rastrigin(low: Tensor, high: Tensor) -> None:
    theta = _uniform(low, high)
    pyro.factor("log_likelihood", -(10 + theta**2 - 10 * torch.cos(2 * math.pi * theta)).sum())
