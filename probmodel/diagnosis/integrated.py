"""Likelihood of each row given the shared latents, the latents local to the row integrated by importance sampling.

    log p(y_i | θ) = log 1/K Σ_k p(y_i, η_k | θ) / q(η_k),   q = ½ p(η | θ) + ½ Student-t at p(η_i | θ, data)

Half of the draws come from the prior, which bounds the weights by twice the likelihood (Hesterberg, 1995); the other half
from where the row's own observations have moved its latents (Merkle, Furr & Rabe-Hesketh, 2019).
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import StudentT

from probmodel.evidence.weighing.weights import theta_draws
from probmodel.protocols.posterior import Posterior, Target
from probmodel.protocols.sites import Latent, Sites
from probmodel.tracing.density import Density
from probmodel.tracing.devices import traced_run
from probmodel.tracing.latents.coordinates import Coordinates
from probmodel.tracing.minibatch_scale import row_scaled
from probmodel.tracing.randomness import isolated
from probmodel.tracing.site_densities import log_likelihood_by_row, log_prior_by_row

LOCAL_DRAWS = 64
"""Draws of a row's latents from each half of the proposal, per draw of the shared ones."""
LARGEST_ERROR = 0.1
"""Nats: standard error of a row's log likelihood above which its latents count as not integrated."""
ROUNDS = 4
"""Rounds in which the proposal adapts, at most."""
DEGREES = 5.0


class Integrated(NamedTuple):
    """Log likelihoods by draw and row in nats, or None and the reason."""

    log_likelihood: Float[Tensor, "S N"] | None
    reason: str = ""


def integrated_log_likelihood(posterior: Posterior, target: Target, theta: Float[Tensor, "S D"]) -> Integrated:
    """Log p(y_i | θ_s) in nats at draws of a posterior whose latents are partly local to a row.

    None where that cannot be: with discrete latents, an improper prior, observations that are not one term per row, rows
    that depend on each other's local latents, and where the draws leave an error above 0.1 nats.
    """
    found = target.sites
    local = tuple(latent for latent in found.latents if latent.row_dim is not None)
    names = f"latents local to a row ({', '.join(latent.name for latent in local)})"
    if found.discrete or set(found.improper) & {latent.name for latent in local} or found.num_rows is None:
        return Integrated(None, f"{names} beside discrete ones, or without a normalized prior")
    parts = _Parts(posterior, found, local, theta[0])
    with torch.no_grad(), isolated(seed=0):
        if not parts.rows_are_independent(theta):
            return Integrated(None, f"{names} on which the observations of other rows depend")
        log_w, error = _weighed(parts, theta, theta_draws(posterior, target))
    if not error <= LARGEST_ERROR:
        return Integrated(None, f"{names} that importance sampling cannot integrate (error {error:.2g} nats)")
    return Integrated(torch.logsumexp(log_w, 1) - math.log(log_w.shape[1]))


class _Parts:
    """Densities of a model by row, its local latents apart from the shared ones."""

    def __init__(self, posterior: Posterior, found: Sites, local: tuple[Latent, ...], start: Tensor) -> None:
        self.posterior, self.found, self.local = posterior, found, local
        self.layout, self.local_layout = Coordinates(found.latents), Coordinates(local)
        pieces = torch.arange(self.layout.dim, device=start.device).split(self.layout.sizes)
        chosen = [piece for piece, each in zip(pieces, found.latents, strict=True) if each.row_dim is not None]
        self.columns = torch.cat(chosen)
        rows = found.num_rows or 0
        self.by_row = self.columns[self.local_layout.by_row(rows).to(start.device)]
        self.by_row_of_local = self.local_layout.by_row(rows).to(start.device)
        places = self.by_row_of_local.flatten()
        numbers = torch.arange(rows, device=start.device).repeat_interleave(self.by_row_of_local.shape[1])
        self.row_of_column = torch.empty_like(places).scatter(0, places, numbers)
        self.terms = Density(lambda theta: self._terms(theta), start)
        self.prior_draw = Density(lambda theta: self._prior_draw(theta), start)

    def _values(self, theta: Tensor) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.layout.split(theta[None]).items()}

    def _terms(self, theta: Float[Tensor, " D"]) -> Float[Tensor, "2 N"]:
        """Log prior of the local latents in their coordinates, and log likelihood, by row."""
        model = row_scaled(self.posterior.model, self.found, self.posterior.data)
        run = traced_run(poutine.condition(model, self._values(theta)), self.posterior.data)
        prior = log_prior_by_row(run, self.found._replace(latents=self.local))
        prior = prior + self.local_layout.log_jacobian(theta[self.columns], by_row=True)
        return torch.stack([prior, log_likelihood_by_row(run, self.found).to(prior.dtype)])

    def _prior_draw(self, theta: Float[Tensor, " D"]) -> Float[Tensor, " L"]:
        """A draw of the local latents given the shared ones, in their coordinates."""
        names = {latent.name for latent in self.local}
        shared = {name: value for name, value in self._values(theta).items() if name not in names}
        run = traced_run(poutine.condition(self.posterior.model, shared), self.posterior.data)
        nodes: list[Any] = [run.nodes[name] for name in names]
        values = {name: node["value"][None] for name, node in zip(names, nodes, strict=True)}
        return self.local_layout.join(values, theta.dtype, theta.device)[0]

    def rows_are_independent(self, theta: Float[Tensor, "S D"]) -> bool:
        """Return whether each row's terms stay the same where the local latents of other rows change."""
        before = theta[:1]
        moved = torch.rand(len(self.by_row), device=theta.device) < 0.5
        after = before.clone()
        columns = self.by_row[moved].reshape(-1)
        after[:, columns] = theta[-1:, columns] + 0.1
        try:
            a, b = self.terms(before)[0], self.terms(after)[0]
        except RuntimeError:  # Terms of unequal length: the observations are not one term per row.
            return False
        same = a.shape[-1] == len(moved)
        return same and bool(torch.allclose(a[:, ~moved], b[:, ~moved], rtol=1e-5, atol=1e-6))


def _weighed(
    parts: _Parts, theta: Float[Tensor, "S D"], draws: Float[Tensor, "T D"]
) -> tuple[Float[Tensor, "S K N"], float]:
    """Log weights of each row's local latents at each draw of the shared ones, and the largest error of a row in nats.

    The proposal starts at the posterior of all draws; each further round takes the weighted moments of the last one at the
    same draw of the shared latents, until the error is small enough (Cappé et al., 2004, "Population Monte Carlo").
    """
    local = draws[:, parts.columns]
    center, scale = (moment.expand(len(theta), -1) for moment in (local.mean(0), local.std(0)))
    for number in range(ROUNDS):
        log_w, proposed = _log_weights(parts, theta, center, scale)
        weights = torch.softmax(log_w, 1)
        error = float(((weights * log_w.shape[1]).var(1) / log_w.shape[1]).mean(0).sqrt().max())
        if error <= LARGEST_ERROR and number:  # The first proposal ignores the shared latents.
            break
        by_column = weights[:, :, parts.row_of_column].to(proposed)
        center = (by_column * proposed).sum(1)
        scale = (by_column * (proposed - center[:, None]).square()).sum(1).sqrt()
    return log_w, error


def _log_weights(
    parts: _Parts, theta: Float[Tensor, "S D"], center: Float[Tensor, "S L"], scale: Float[Tensor, "S L"]
) -> tuple[Float[Tensor, "S K N"], Float[Tensor, "S K L"]]:
    """Log weights of each row and the proposals, half from the prior and half from a Student-t."""
    many = theta.repeat_interleave(LOCAL_DRAWS, 0)
    wide = StudentT(DEGREES, center[:, None], scale.clamp_min(1e-6 * (1 + center.abs()))[:, None])
    drawn = wide.sample((LOCAL_DRAWS,))[:, :, 0].movedim(0, 1)
    local = torch.cat([parts.prior_draw(many).reshape(drawn.shape), drawn], 1).to(theta)
    proposed = theta[:, None].repeat(1, local.shape[1], 1)
    proposed[:, :, parts.columns] = local
    terms = parts.terms(proposed.flatten(0, 1)).double().reshape(*local.shape[:2], 2, -1)
    prior, likelihood = terms.unbind(2)
    log_t = wide.log_prob(local)[:, :, parts.by_row_of_local].sum(-1).double()
    log_q = torch.logaddexp(prior, log_t) - math.log(2)
    return (prior + likelihood - log_q).nan_to_num(nan=-math.inf), local
