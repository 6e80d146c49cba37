"""Spectrum of a symmetric matrix from matrix-vector products: stochastic Lanczos quadrature (Ubaru et al., 2017)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

DENSE_LIMIT = 100
"""Largest size at which the matrix is formed, so that its spectrum is exact."""


class Spectrum(NamedTuple):
    """Ritz values and weights of each random probe; trace f(A) is the mean over probes of Σ weights · f(values)."""

    probes: Sequence[tuple[Float[Tensor, " M"], Float[Tensor, " M"]]]
    exact: bool

    @property
    def largest(self) -> float:
        """Largest absolute Ritz value."""
        return max(float(values.abs().max()) for values, _ in self.probes)

    def trace(self, function: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Estimate of trace f(A) and its standard error over probes (0 where the spectrum is exact)."""
        sums = torch.stack([(weights * function(values)).sum() for values, weights in self.probes])
        stderr = 0.0 if self.exact else float(sums.std() / len(sums) ** 0.5)
        return float(sums.mean()), stderr


def spectrum(
    product: Callable[[Float[Tensor, " D"]], Float[Tensor, " D"]],
    like: Float[Tensor, " D"],
    *,
    num_steps: int = 50,
    num_probes: int = 4,
) -> Spectrum:
    """Spectrum of A from products v → A v; call it inside `isolated`, since the probes are random.

    Args:
        product: function v → A v of a symmetric A.
        like: vector with the size, dtype and device of v.
        num_steps: Lanczos steps per probe.
        num_probes: random directions, 2 or more.
    """
    size = like.numel()
    if size <= DENSE_LIMIT:
        matrix = torch.stack([product(row) for row in torch.eye(size, dtype=like.dtype, device=like.device)])
        values = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T).double())
        return Spectrum([(values, torch.ones_like(values))], exact=True)
    probes = [_lanczos(product, _rademacher(like), min(num_steps, size)) for _ in range(num_probes)]
    return Spectrum([(values, weights * size) for values, weights in probes], exact=False)


def _rademacher(like: Tensor) -> Tensor:
    return torch.randint_like(like, 2) * 2 - 1


def _lanczos(
    product: Callable[[Tensor], Tensor], start: Float[Tensor, " D"], num_steps: int
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    """Ritz values and squared first components, with full reorthogonalization against rounding errors."""
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    off_diagonal: list[Tensor] = []
    for _ in range(num_steps):
        vector = product(basis[-1])
        diagonal.append(vector @ basis[-1])
        earlier = torch.stack(basis)
        for _ in range(2):  # A single orthogonalization is not enough in float32.
            vector = vector - earlier.T @ (earlier @ vector)
        norm = vector.norm()
        if norm <= 1e-6 * max(abs(float(d)) for d in diagonal) or len(diagonal) == num_steps:
            break
        off_diagonal.append(norm)
        basis.append(vector / norm)
    tridiagonal = torch.diag(torch.stack(diagonal).double())
    if len(diagonal) > 1:
        side = torch.stack(off_diagonal[: len(diagonal) - 1]).double()
        tridiagonal = tridiagonal + torch.diag(side, 1) + torch.diag(side, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return values, vectors[0] ** 2
