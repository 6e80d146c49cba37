"""A model as one density, and what inference found of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model

Draws = Mapping[str, Tensor]
"""Site name → draws of shape (chain, draw, *event), in the model's own (constrained) space."""


class Target(NamedTuple):
    """A model and its data as one density on R^D; S draws at once, everything in nats.

    `log_prior` includes the log-Jacobian of the map from R^D to the support, so the three add up:
    log_joint = log_prior + log_likelihood.  Discrete latents are summed out.
    """

    dim: int
    log_prior: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_likelihood: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_joint: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_likelihood_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_prior_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_joint_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_joint_at: Callable[[Float[Tensor, " D"]], Float[Tensor, ""]]
    log_jacobian: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    """Log |det| of the map from R^D to the support: log density of constrained values = log joint − this."""
    sample_prior: Callable[[int, int], Float[Tensor, "S D"]]
    constrain: Callable[[Float[Tensor, "S D"]], dict[str, Tensor]]
    unconstrain: Callable[[Mapping[str, Tensor]], Float[Tensor, "S D"]]
    by_row: Int[Tensor, "N d"] | None
    """Which coordinates belong to which row, when every latent is local to a row: the evidence is then a sum over rows."""
    bytes_per_draw: int
    """Memory that one evaluation of the log joint needs: what decides how many draws run at once."""
    digest: str
    dtype: torch.dtype
    device: torch.device
    fallback: str | None
    """Why the model could not be traced and runs eagerly; None for a traced model."""
    given: tuple[str, ...]
    """Parameters that the density is conditional on: point estimates that are not integrated."""
    improper: tuple[str, ...] = ()
    """Sites whose prior does not integrate to one: the evidence is defined up to a constant then."""
    factors: tuple[str, ...] = ()
    """`pyro.factor` statements, which count as likelihood whether they are normalized or not."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """What inference found: the fitted model, the data, draws of its latents, how it went, and the guide if any.

    `info` holds plain numbers and lists: method, seconds, seed, losses, diagnostics of the sampler.
    """

    model: Model
    data: Dataset
    draws: Draws
    info: Mapping[str, Any]
    guide: Model | None = None

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {tuple(draw.shape)}" for name, draw in self.draws.items()) or "no latents"
        seconds = float(self.info.get("seconds", 0.0))
        return f"Posterior by {self.info.get('method', '?')} in {seconds:.1f} s: {sites}"


Subject = Posterior | Target
"""What an estimator of the evidence works on: a fit, or a model and its data without one."""
