"""Codes of linked rows: functions of a Gaussian process at all rows, in whitened coordinates (Opper & Archambeau, 2009).

f_k = m + Uᵀ u_k with K = Uᵀ U at the rows and u_k ~ N(0, I).  Where rows are independent given f, the best normal q(u_k)
has the covariance (I + U W Uᵀ)⁻¹ with one weight a row: 2 n numbers an output in place of n² / 2.
"""

import pyro
import pyro.distributions as dist
import torch
from gpytorch.kernels import Kernel
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from probmodel.families.gaussian_processes.conditional import unexplained
from probmodel.families.gaussian_processes.covariances import covariance
from probmodel.families.gaussian_processes.natural_gradients import factor_of_inverse
from probmodel.families.gaussian_processes.sparse import jittered_factor
from probmodel.protocols.memory import refuse_above_memory

BUFFERS = 4
"""n × n matrices held: covariance and factor, with their gradients."""
START_WEIGHT = 50.0
"""Weight of a row that q starts with, around a draw of the prior: a code that is all noise teaches features nothing."""


def whitening(kernel: Kernel, h: Float[Tensor, "n D"]) -> Float[Tensor, "n n"]:
    """U of K(h, h) + jitter = Uᵀ U, the jitter that of `svgp_elbo`.

    Raises:
        MemoryError: before anything is allocated, where n × n matrices exceed the free memory.
        ValueError: for a covariance that is not positive definite with the largest jitter.
    """
    needed = BUFFERS * len(h) ** 2 * h.element_size()
    what = f"codes of a Gaussian process of {len(h):,} rows"
    refuse_above_memory(needed, h.device, what, "use a sparse Gaussian process (SparseGP)")
    return jittered_factor(covariance(kernel, h))


def standard(like: Tensor, *shape: int) -> TorchDistributionMixin:
    """N(0, I) over rows of the last axis, of one family with `guess`: their divergence is in closed form."""
    eye = torch.eye(shape[-1], dtype=like.dtype, device=like.device)
    return dist.MultivariateNormal(like.new_zeros(shape), scale_tril=eye.expand(*shape, shape[-1])).to_event(
        len(shape) - 1
    )


def guess(site: str, upper: Float[Tensor, "n n"], num_outputs: int) -> Float[Tensor, "K n"]:
    """A draw of q(u) at a site, its parameters `pyro.param` statements named after it."""
    n = len(upper)
    needed = 3 * num_outputs * n**2 * upper.element_size()
    refuse_above_memory(needed, upper.device, f"a guide of {num_outputs} functions at {n:,} rows", "use a SparseGP")
    loc = pyro.param(f"{site}.loc", lambda: torch.randn(num_outputs, n).to(upper))
    weight = pyro.param(
        f"{site}.weight", lambda: upper.new_full((num_outputs, n), START_WEIGHT), constraint=constraints.positive
    )
    precision = torch.eye(n).to(upper) + (upper * weight[:, None]) @ upper.mT
    return pyro.sample(site, dist.MultivariateNormal(loc, scale_tril=factor_of_inverse(precision)).to_event(1))


def continued(
    kernel: Kernel, upper: Float[Tensor, "n n"], u: Float[Tensor, "K n"], known: Tensor, new: Float[Tensor, "m D"]
) -> tuple[Float[Tensor, "K m"], Float[Tensor, " m"]]:
    """Means above the prior's, and variance, of f at new rows given f at the known ones."""
    cross = torch.linalg.solve_triangular(upper.mT, covariance(kernel, known, new), upper=False)
    return u @ cross, unexplained(kernel, new, cross)


def code(mean: Float[Tensor, "K m"], variance: Float[Tensor, "*K m"]) -> TorchDistributionMixin:
    """Independent codes of new rows, for a plate over rows."""
    return dist.Normal(mean.mT, variance.sqrt().expand_as(mean).mT).to_event(1)
