"""Prior probability of each expert for a row: stick-breaking proportions, or a function of the input.

Proportions π_k = v_k ∏_{j<k} (1 − v_j) with v_k ~ Beta(a_k, b_k) cover both priors in use: a Dirichlet(α_1 … α_K) has
a_k = α_k and b_k = Σ_{j>k} α_j, a Dirichlet process truncated at K experts has a_k = 1 and b_k = α (Sethuraman, 1994;
Ishwaran & James, 2001).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.protocols.structural import Structural


@runtime_checkable
class CountPrior(Protocol, metaclass=Structural):
    """Dependence among the numbers of rows of K ordered experts."""

    def log_split(self, expert: int, size: Tensor, later: Tensor) -> Tensor:
        """Log factor of an expert with `size` rows when `later` rows belong to the experts after it, in nats."""
        ...

    def log_next_assignment(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        """Log probability of each expert for one more row given the numbers of rows so far, in nats."""
        ...

    def expected_log(self, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
        """Expectation E[log π_k] given these numbers of rows, which may be fractional, in nats."""
        ...

    def log_weights_of_experts(self, like: Tensor) -> Float[Tensor, " #K"]:
        """Log proportions, sampled at the Pyro site "sticks" where random, in the dtype and on the device of `like`."""
        ...

    def sample_weights_from_guide(self, like: Tensor) -> None:
        """Sample the same site in a guide, normal in the logits of the sticks with parameters from `pyro.param`."""
        ...


@runtime_checkable
class Gate(Protocol, metaclass=Structural):
    """Prior of the assignments: p(c | x) = p(counts of c) ∏_i exp(log_input_factors(x)[i, c_i])."""

    num_experts: int

    @property
    def count_prior(self) -> CountPrior:
        """Dependence among the experts' numbers of rows."""
        ...

    def log_input_factors(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n K"]:
        """Log factor of each expert for the input of each row, in nats."""
        ...

    def log_prior(self) -> Float[Tensor, ""]:
        """Log prior density of the gate's own parameters in nats, which a fit adds to its bound."""
        ...


def log_prior_of_counts(count_prior: CountPrior, counts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S"]:
    """Log probability of assignments with these numbers of rows, in nats.

    Fractional numbers n_k give log ∫ p(v) ∏ π_k^{n_k} dv.
    """
    later = later_counts(counts)
    parts = [count_prior.log_split(k, counts[..., k], later[..., k]) for k in range(counts.shape[-1] - 1)]
    return torch.stack(parts).sum(0) if parts else counts.new_zeros(counts.shape[:-1])


def later_counts(counts: Tensor) -> Tensor:
    """Number of rows of all experts after each one."""
    return counts.flip(-1).cumsum(-1).flip(-1) - counts
