"""Latent function values of a Gaussian process at dependent rows, in whitened coordinates (Opper & Archambeau, 2009).

f_k = m + Uᵀ u_k with K = Uᵀ U at the rows and u_k ~ N(0, I).  Where rows are independent given f, the optimal normal
q(u_k) has the covariance (I + U W Uᵀ)⁻¹, W diagonal: 2 n parameters per output in place of n² / 2.
"""

import pyro
import pyro.distributions as dist
import torch
from gpytorch.kernels import Kernel
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from probmodel.families.gaussian_processes.conditional import conditional_variance
from probmodel.families.gaussian_processes.covariances import covariance
from probmodel.families.gaussian_processes.natural_gradients import factor_of_inverse
from probmodel.families.gaussian_processes.sparse import jittered_factor
from probmodel.protocols.memory import refuse_above_memory

FUNCTION_VALUE_BUFFERS = 4
"""Number of n × n matrices in memory: covariance and factor, with their gradients."""
START_ROW_WEIGHT = 50.0
"""Initial weight of each row in q, around a draw of the prior: a code that is all noise cannot train features."""


def whitening_factor(kernel: Kernel, h: Float[Tensor, "n D"]) -> Float[Tensor, "n n"]:
    """Upper Cholesky factor U of K(h, h) + jitter = Uᵀ U, with the jitter schedule of `svgp_elbo`.

    Raises:
        MemoryError: if n × n matrices exceed the free memory, before anything is allocated.
        ValueError: if the covariance is not positive definite with the largest jitter.
    """
    needed = FUNCTION_VALUE_BUFFERS * len(h) ** 2 * h.element_size()
    what = f"function values of a Gaussian process at {len(h):,} rows"
    refuse_above_memory(needed, h.device, what, "use a sparse Gaussian process (SparseGP)")
    return jittered_factor(covariance(kernel, h))


def standard_normal(like: Tensor, *shape: int) -> TorchDistributionMixin:
    """Standard normal N(0, I) along the last axis, of the family of `sample_guide`: their KL divergence has a closed form.

    Args:
        like: tensor whose dtype and device the distribution takes.
        shape: event shape.
    """
    eye = torch.eye(shape[-1], dtype=like.dtype, device=like.device)
    return dist.MultivariateNormal(like.new_zeros(shape), scale_tril=eye.expand(*shape, shape[-1])).to_event(
        len(shape) - 1
    )


def sample_guide(site: str, upper: Float[Tensor, "n n"], num_outputs: int) -> Float[Tensor, "K n"]:
    """Draw from the guide q(u) at a Pyro site, with `pyro.param` statements named after the site.

    Args:
        site: name of the site.
        upper: factor U at the rows.
        num_outputs: number of functions, K.

    Raises:
        MemoryError: if the covariances of q exceed the free memory, before anything is allocated.
    """
    n = len(upper)
    needed = 3 * num_outputs * n**2 * upper.element_size()
    refuse_above_memory(needed, upper.device, f"a guide of {num_outputs} functions at {n:,} rows", "use a SparseGP")
    loc = pyro.param(f"{site}.loc", lambda: torch.randn(num_outputs, n).to(upper))
    weight = pyro.param(
        f"{site}.weight", lambda: upper.new_full((num_outputs, n), START_ROW_WEIGHT), constraint=constraints.positive
    )
    precision = torch.eye(n).to(upper) + (upper * weight[:, None]) @ upper.mT
    return pyro.sample(site, dist.MultivariateNormal(loc, scale_tril=factor_of_inverse(precision)).to_event(1))


def conditional_moments(
    kernel: Kernel, upper: Float[Tensor, "n n"], u: Float[Tensor, "K n"], known: Tensor, new: Float[Tensor, "m D"]
) -> tuple[Float[Tensor, "K m"], Float[Tensor, " m"]]:
    """Mean less the prior's mean, and variance, of f at new rows given f at the known rows.

    Args:
        kernel: GPyTorch kernel without batch dimensions.
        upper: factor U at the known rows.
        u: whitened function values at the known rows.
        known: inputs of the known rows, (n, D).
        new: inputs of the new rows.
    """
    cross = torch.linalg.solve_triangular(upper.mT, covariance(kernel, known, new), upper=False)
    return u @ cross, conditional_variance(kernel, new, cross)


def normal_codes(mean: Float[Tensor, "... K m"], variance: Float[Tensor, "... m"]) -> TorchDistributionMixin:
    """Independent normal codes of new rows, for a plate over rows; axes before the last two run over experts."""
    return dist.Normal(mean.mT, variance.sqrt().expand_as(mean).mT).to_event(1)
