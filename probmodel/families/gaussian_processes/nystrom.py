"""Nyström approximation of a covariance matrix, and the bounds on log p(y) that follow from it (Burt et al., 2020).

With K̃ = Σ^-½ K Σ^-½ and ỹ = Σ^-½ (y − m) a Gaussian process has

    −2 log p(y) = n log 2π + log|Σ| + log|I + K̃| + ỹᵀ (I + K̃)⁻¹ ỹ,

and Q̃ = Wᵀ W ⪯ K̃ of rank M bounds the last two terms from both sides.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from gpytorch.kernels import Kernel
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import covariance, prior_variance
from probmodel.families.gaussian_processes.positive_definite import factor_with_jitter
from probmodel.protocols.memory import budget, refuse_above_memory
from probmodel.protocols.structural import Structural

PRODUCT_BUFFERS = 4
"""Number of matrices of block rows × n held at a time for a product with the covariance."""


class ObservedValues(NamedTuple):
    """Observations of a Gaussian process: y = m + f + ε, f ~ GP(0, scale · k), ε ~ N(0, noise)."""

    inputs: Float[Tensor, "n D"]
    y: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]
    noise: Float[Tensor, " n"]
    kernel: Kernel
    scale: Float[Tensor, ""]

    @property
    def residual(self) -> Float[Tensor, " n"]:
        """Residual y − m."""
        return self.y - self.mean

    def covariance(self, a: Float[Tensor, "p D"], b: Float[Tensor, "q D"]) -> Float[Tensor, "p q"]:
        """Covariance matrix of f between the rows of a and of b."""
        return self.scale * covariance(self.kernel, a, b)

    @property
    def variance(self) -> Float[Tensor, " n"]:
        """Prior variance of f at the inputs."""
        return self.scale * prior_variance(self.kernel, self.inputs)


@runtime_checkable
class SuppliesProcess(Protocol, metaclass=Structural):
    """A model whose observations are those of one Gaussian process."""

    def process(self, data: object) -> ObservedValues:
        """The Gaussian process evaluated at the data.

        Raises:
            ValueError: where the model's observations are not those of one Gaussian process.
        """
        ...


def greedy_factor(observed: ObservedValues, count: int) -> Float[Tensor, "M n"]:
    """Nyström factor W of up to `count` rows, each chosen greedily for its variance given those before.

    W is a pivoted Cholesky factor of K̃: Wᵀ W equals K̃ in the chosen rows, and is below it in all others.

    Args:
        observed: the process and its observations.
        count: largest number of rows; fewer are chosen where the remaining variance vanishes.

    Raises:
        MemoryError: where W exceeds the free memory.

    Reference:
        Burt, Rasmussen & van der Wilk (2020), Convergence of Sparse Variational Inference in Gaussian Processes
        Regression, JMLR, sec. 4; Fine & Scheinberg (2001).
    """
    x, root = observed.inputs, observed.noise.rsqrt()
    count = min(count, len(x))
    _refuse_if_large(count, observed)
    left = observed.variance * root.square()
    least = torch.finfo(x.dtype).eps * len(x) * left.max()
    w = x.new_zeros(count, len(x))
    for i in range(count):
        row = int(left.argmax())
        if left[row] <= least:
            return w[:i]
        k = observed.covariance(x[row, None], x)[0] * root * root[row]
        w[i] = (k - w[:i, row] @ w[:i]) / left[row].sqrt()
        left = (left - w[i].square()).clamp(min=0.0)
        left[row] = 0.0
    return w


def inducing_factor(observed: ObservedValues, inducing: Float[Tensor, "M D"]) -> Float[Tensor, "M n"]:
    """Nyström factor W at given inducing inputs; the jitter that Kuu needs keeps Wᵀ W below K̃.

    Raises:
        MemoryError: where W exceeds the free memory.
        ValueError: where Kuu is not positive definite with the largest jitter.
    """
    _refuse_if_large(len(inducing), observed)
    kuu = observed.covariance(inducing, inducing)
    upper = factor_with_jitter(kuu, kuu.new_zeros(()))
    kux = observed.covariance(inducing, observed.inputs) * observed.noise.rsqrt()
    return torch.linalg.solve_triangular(upper.mT, kux, upper=False)


class Bounds(NamedTuple):
    """Bounds on log p(y), in nats."""

    lower: float
    upper: float
    trace: float
    """tr(K̃ − Q̃), the variance that the approximation misses."""
    num_products: int
    """Number of products with the covariance of all rows."""


def bounds(observed: ObservedValues, w: Float[Tensor, "M n"], *, num_steps: int, tolerance: float) -> Bounds:
    """Lower and upper bound of log p(y), without Monte Carlo and without n × n matrices in memory.

    With t = tr(K̃ − Q̃), which is below λ_max, and r = ỹ − (I + K̃) v for any v,

        log|I + Q̃| ≤ log|I + K̃| ≤ log|I + Q̃| + n log(1 + t / n),
        ỹᵀ (I + K̃)⁻¹ ỹ = vᵀ (I + K̃) v + 2 rᵀ v + rᵀ (I + K̃)⁻¹ r,

    of which the last term lies between rᵀ ((1 + t) I + Q̃)⁻¹ r and rᵀ (I + Q̃)⁻¹ r.  Conjugate gradients choose v, and
    stop once these differ by at most 2 `tolerance`.  At v = 0 the upper bound is that of Titsias (2014), and the lower
    one is above that of Titsias (2009).

    Args:
        observed: the process and its observations.
        w: Nyström factor by `greedy_factor` or `inducing_factor`.
        num_steps: largest number of conjugate gradient steps, each a product with K̃ in n² kernel evaluations; 0 takes
            v = 0.
        tolerance: gap between the bounds that the quadratic term may leave, in nats.

    Reference:
        Titsias (2009, 2014); Artemev, Burt & van der Wilk (2021), Tighter Bounds on the Log Marginal Likelihood of
        Gaussian Process Regression Using Conjugate Gradients, ICML.
    """
    n, white = len(observed.y), observed.residual * observed.noise.rsqrt()
    trace = float((observed.variance / observed.noise).sum() - w.square().sum())
    trace = max(0.0, trace)
    gram = w @ w.mT
    near, far = _Shifted.of(w, gram, 1.0), _Shifted.of(w, gram, 1.0 + trace)
    constant = n * math.log(2 * math.pi) + float(observed.noise.log().sum())
    low, high, products = _quadratic(lambda v: v + _product(observed, v), white, near, far, num_steps, 2 * tolerance)
    upper = -0.5 * (constant + near.log_det + low)
    lower = -0.5 * (constant + near.log_det + n * math.log1p(trace / n) + high)
    return Bounds(lower, upper, trace, products)


class _Shifted(NamedTuple):
    """Inverse (s I + Wᵀ W)⁻¹ through the M × M Cholesky factor of s I + W Wᵀ."""

    w: Tensor
    shift: float
    factor: Tensor

    @classmethod
    def of(cls, w: Tensor, gram: Tensor, shift: float) -> "_Shifted":
        return cls(w, shift, torch.linalg.cholesky(gram + shift * torch.eye(len(gram), dtype=w.dtype, device=w.device)))

    def solve(self, r: Tensor) -> Tensor:
        inside = torch.cholesky_solve((self.w @ r)[:, None], self.factor)[:, 0]
        return (r - inside @ self.w) / self.shift

    @property
    def log_det(self) -> float:
        """Log determinant of s I + Wᵀ W, valid at s = 1."""
        return 2 * float(self.factor.diagonal().log().sum())


def _quadratic(
    product: Callable[[Tensor], Tensor], y: Tensor, near: _Shifted, far: _Shifted, num_steps: int, tolerance: float
) -> tuple[float, float, int]:
    """Lower and upper bound of yᵀ A⁻¹ y by conjugate gradients preconditioned with I + Q̃, and the number of products."""
    v, r, done = torch.zeros_like(y), y, 0
    z = near.solve(r)
    p, rz = z, r @ z
    for _ in range(num_steps):
        if float(rz - r @ far.solve(r)) <= tolerance:
            break
        ap = product(p)
        step = rz / (p @ ap)
        v, r, done = v + step * p, r - step * ap, done + 1
        z = near.solve(r)
        fresh = r @ z
        p, rz = z + (fresh / rz) * p, fresh
    if done:
        r = y - product(v)  # The recursion's residual drifts, and the bounds hold for the true one.
        done += 1
    known = float(v @ (y - r) + 2 * r @ v)
    return known + float(r @ far.solve(r)), known + float(r @ near.solve(r)), done


def _product(observed: ObservedValues, v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Product K̃ v, over blocks of rows of K̃ that fit the memory budget."""
    x, root = observed.inputs, observed.noise.rsqrt()
    each = max(1, budget(x.device) // (PRODUCT_BUFFERS * len(x) * x.element_size()))
    return root * torch.cat([observed.covariance(part, x) @ (root * v) for part in x.split(each)])


def _refuse_if_large(count: int, observed: ObservedValues) -> None:
    needed = 2 * count * len(observed.inputs) * observed.inputs.element_size()
    what = f"a Nyström factor of {count} × {len(observed.inputs)} numbers"
    refuse_above_memory(needed, observed.inputs.device, what, "take fewer inducing inputs")
