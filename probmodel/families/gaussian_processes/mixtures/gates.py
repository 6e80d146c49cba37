"""Which expert a row belongs to, before its y is seen: shares drawn from sticks, or a function of the input.

Shares π_k = v_k ∏_{j<k} (1 − v_j) with v_k ~ Beta(a_k, b_k) hold both priors in use: a Dirichlet(α_1 … α_K) has a_k = α_k and
b_k = Σ_{j>k} α_j, a Dirichlet process cut at K experts has a_k = 1 and b_k = α (Sethuraman, 1994; Ishwaran & James, 2001).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.structural import Structural


@runtime_checkable
class Coupling(Protocol, metaclass=Structural):
    """How the numbers of rows of the experts depend on each other; K experts in their order."""

    def log_split(self, expert: int, size: Tensor, later: Tensor) -> Tensor:
        """Log factor of an expert with `size` rows when `later` rows go to the experts after it, nats."""
        ...

    def log_next(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        """Log probability of each expert for one more row, nats."""
        ...

    def expected_log(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        """E[log π_k] given these numbers of rows, which may be fractions, nats."""
        ...

    def log_weights_of_experts(self, like: Tensor) -> Float[Tensor, " #K"]:
        """Log π, drawn at the Pyro site "sticks" where it is random; in the type and on the device of `like`."""
        ...

    def guided_weights(self, like: Tensor) -> None:
        """Draw the same site from a guide, normal in the logits of the sticks, its parameters `pyro.param` statements."""
        ...


@runtime_checkable
class Gate(Protocol, metaclass=Structural):
    """Prior of the assignments: p(c | x) = p(counts of c) ∏_i exp(log_rows(x)[i, c_i])."""

    num_experts: int

    @property
    def coupling(self) -> Coupling: ...

    def log_rows(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]: ...

    def log_prior(self) -> Float[Tensor, ""]:
        """Log prior density of the gate's own parameters, which a fit adds to its bound, nats."""
        ...


def log_sizes(coupling: Coupling, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S"]:
    """Log probability of assignments by their numbers of rows; of fractions, log ∫ p(v) ∏ π_k^{n_k} dv, nats."""
    later = later_counts(counts)
    parts = [coupling.log_split(k, counts[..., k], later[..., k]) for k in range(counts.shape[-1] - 1)]
    return torch.stack(parts).sum(0) if parts else counts.new_zeros(counts.shape[:-1])


def later_counts(counts: Tensor) -> Tensor:
    return counts.flip(-1).cumsum(-1).flip(-1) - counts
