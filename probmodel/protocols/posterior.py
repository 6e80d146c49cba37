"""A model and its data as one density (`Target`), and the result of inference (`Posterior`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.html_tables import html_table
from probmodel.protocols.model import Model
from probmodel.protocols.sites import Sites

Draws = Mapping[str, Tensor]
"""Site name → draws of shape (chain, draw, *event), in the model's own (constrained) space."""


class TraceInfo(NamedTuple):
    """Properties of a model that are known once its log joint is recorded as a graph."""

    bytes_per_draw: int
    """Memory of one evaluation of the log joint, in bytes, which decides how many draws are evaluated at once."""
    fallback: str | None
    """Reason why the model could not be traced and runs eagerly; None for a traced model."""
    given: tuple[str, ...]
    """Names of the parameters that the density is conditional on: point estimates that are not integrated."""


@dataclass(frozen=True, eq=False)
class Target:
    """A model and its data as one density on R^D, vectorized over S draws, in nats.

    `log_prior` includes the log-Jacobian of the map from R^D to the support, so that
    log_joint = log_prior + log_likelihood.  Discrete latents are summed out.
    """

    dim: int
    log_prior: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_likelihood: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_joint: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    log_likelihood_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_likelihood_by_site: Callable[[Float[Tensor, "S D"]], dict[str, Tensor]]
    """Observed site → its log-likelihood by row, (S, N), or by observed value without rows."""
    deterministic: Callable[[Float[Tensor, "S D"]], dict[str, Tensor]]
    """Site that is a function of continuous latents → its values, (S, *shape)."""
    log_prior_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_joint_by_row: Callable[[Float[Tensor, "S D"]], Float[Tensor, "S N"]]
    log_joint_at: Callable[[Float[Tensor, " D"]], Float[Tensor, ""]]
    log_jacobian: Callable[[Float[Tensor, "S D"]], Float[Tensor, " S"]]
    """Log |det| of the map from R^D to the support: log density of constrained values = log joint − this."""
    sample_prior: Callable[[int, int], Float[Tensor, "S D"]]
    constrain: Callable[[Float[Tensor, "S D"]], dict[str, Tensor]]
    unconstrain: Callable[[Mapping[str, Tensor]], Float[Tensor, "S D"]]
    by_row: Int[Tensor, "N d"] | None
    """Coordinates of each row, where every latent is local to a row and the evidence is a sum over rows; else None."""
    dtype: torch.dtype
    device: torch.device
    sites: Sites
    """Latents and observations, from one run of the model."""
    traced: Callable[[], TraceInfo]
    """Function that records the log joint on its first call."""

    @property
    def digest(self) -> str:
        """Fingerprint of the observed values."""
        return self.sites.digest

    @property
    def improper(self) -> tuple[str, ...]:
        """Sites whose prior does not integrate to one, so that the evidence is defined up to a constant."""
        return self.sites.improper

    @property
    def factors(self) -> tuple[str, ...]:
        """`pyro.factor` statements, which count as likelihood whether they are normalized or not."""
        return self.sites.factors

    @property
    def bytes_per_draw(self) -> int:
        """Memory of one evaluation of the log joint, in bytes, which decides how many draws are evaluated at once."""
        return self.traced().bytes_per_draw

    @property
    def fallback(self) -> str | None:
        """Reason why the model could not be traced and runs eagerly; None for a traced model."""
        return self.traced().fallback

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the parameters that the density is conditional on: point estimates that are not integrated."""
        return self.traced().given


ELEMENTS_SHOWN = 8
"""Elements of a site up to which the table of a posterior shows their moments."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Result of inference: the fitted model, the data, draws of its latents, diagnostics, and the guide if any.

    `info` holds plain numbers and lists: method, seconds, seed, losses, diagnostics of the sampler.
    """

    model: Model
    data: Dataset
    draws: Draws
    info: Mapping[str, Any]
    guide: Model | None = None

    def __repr__(self) -> str:
        # Draws that wait to be asked for know their shapes.
        shapes = getattr(self.draws, "shapes", None) or {name: draw.shape for name, draw in self.draws.items()}
        sites = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()) or "no latents"
        seconds = float(self.info.get("seconds", 0.0))
        return f"Posterior by {self.info.get('method', '?')} in {seconds:.1f} s{self._mark()}: {sites}"

    def _mark(self) -> str:
        return ", interrupted" if self.info.get("interrupted") else ""

    def _repr_html_(self) -> str:
        def line(site: str, draws: Tensor) -> tuple[str, str, str, str]:
            flat = draws.detach().double().reshape(draws.shape[0] * draws.shape[1], -1)
            moments = (flat.mean(0), flat.std(0, correction=0)) if 0 < flat.shape[1] <= ELEMENTS_SHOWN else ()
            mean, deviation = (", ".join(f"{float(v):.4g}" for v in each) for each in moments) if moments else ("", "")
            return site, str(tuple(draws.shape)), mean, deviation

        head = ["site", "draws (chain, draw, *event)", "mean", "standard deviation"]
        seconds = float(self.info.get("seconds", 0.0))
        caption = f"Posterior by {self.info.get('method', '?')} in {seconds:.1f} s{self._mark()}"
        return html_table(head, [line(site, draws) for site, draws in self.draws.items()], caption)


Subject = Posterior | Target
"""Input of an estimator of the evidence: a fit, or a model and its data without one."""
