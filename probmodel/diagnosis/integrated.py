"""Likelihood of each row given the shared latents, the latents local to the row integrated by importance sampling.

    log p(y_i | θ) = log 1/K Σ_k p(y_i, η_k | θ) / q(η_k),   q = ½ p(η | θ) + ½ Student-t at p(η_i | θ, data)

Half of the draws come from the prior, which bounds the weights by twice the likelihood (Hesterberg, 1995); the other half
from where the row's own observations have moved its latents (Merkle, Furr & Rabe-Hesketh, 2019).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import StudentT

from probmodel.evidence.weighing.weights import theta_draws
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target
from probmodel.protocols.sites import Latent, Sites
from probmodel.tracing.checks.modules import evaluation_mode
from probmodel.tracing.density import Density
from probmodel.tracing.devices import traced_run
from probmodel.tracing.latents.coordinates import Coordinates
from probmodel.tracing.minibatch_scale import row_scaled
from probmodel.tracing.randomness import isolated
from probmodel.tracing.site_densities import log_likelihood_by_row, log_prior_by_row
from probmodel.tracing.target import target

LOCAL_DRAWS = 64
"""Draws of a row's latents from each half of the proposal, per draw of the shared ones."""
MORE_LOCAL_DRAWS = 512
"""The same where the error stays too large."""
REPEATS = 32
"""Populations of a row's latents where no latents are shared, so that one which has missed a mode does not speak for all."""
LARGEST_ERROR = 0.1
"""Nats: standard error of a row's log likelihood above which its latents count as not integrated."""
ROUNDS = 12
"""Rounds in which the proposal adapts, at most."""
ADAPTED_ESS = 8.0
"""Effective draws of a row to which its weights are flattened while the proposal adapts."""
POWERS = tuple(0.5**k for k in range(12))
"""Powers of the weights that are tried, the largest that leaves enough effective draws is taken."""
DEGREES = 5.0
MIN_PRIOR_DRAWS = 200
"""Draws of a row's latents from the prior whose moments start the proposal at new rows."""
MAX_ELEMENTS = 2**22
"""Largest number of local coordinates or terms proposed at once; more draws are taken in chunks."""


class Integrated(NamedTuple):
    """Log likelihoods by draw and row in nats, or None and the reason."""

    log_likelihood: Float[Tensor, "S N"] | None
    reason: str = ""


def integrated_log_likelihood(posterior: Posterior, density: Target, theta: Float[Tensor, "S D"]) -> Integrated:
    """Log p(y_i | θ_s) in nats at draws of a posterior whose latents are partly local to a row.

    None where that cannot be: with discrete latents, an improper prior, supports that other latents move, observations that
    are not one term per row, rows that depend on each other's local latents, and where the draws leave an error above 0.1
    nats.
    """
    return _integrated(posterior.model, posterior.data, density, lambda _: (theta, theta_draws(posterior, density)))


def integrated_at_new_rows(posterior: Posterior, data: Dataset, num_samples: int) -> Integrated:
    """Log p(y_i | θ_s) in nats at up to `num_samples` draws of the shared latents, for rows that the fit need not know.

    The proposal of a row's latents starts at their prior, as nothing has been drawn there.  None as in
    `integrated_log_likelihood`.
    """
    new = target(posterior.model, data._replace(size=data.num_rows))

    def draws(parts: "_Parts") -> tuple[Tensor, Tensor]:
        flat = {name: value.flatten(0, 1) for name, value in posterior.draws.items()}
        shared = {each.name: flat[each.name] for each in new.sites.latents if each.row_dim is None}
        total = len(next(iter(shared.values()))) if shared else 1
        chosen = torch.linspace(0, total - 1, min(num_samples, total if shared else REPEATS)).long()
        filled = {each.name: each.value.expand(len(chosen), *each.shape) for each in parts.local}
        theta = new.unconstrain({**filled, **{name: value[chosen.to(value.device)] for name, value in shared.items()}})
        many = theta.repeat_interleave(-(-MIN_PRIOR_DRAWS // len(theta)), 0)
        many[:, parts.columns] = parts.prior_draw(many)
        return theta, many

    return _integrated(posterior.model, data, new, draws)


def _integrated(
    model: Model, data: Dataset, density: Target, draws: Callable[["_Parts"], tuple[Tensor, Tensor]]
) -> Integrated:
    """Integrate at the first draws that are returned; the proposal of the local latents starts where the second have them."""
    found = density.sites
    local = tuple(latent for latent in found.latents if latent.row_dim is not None)
    names = f"latents local to a row ({', '.join(latent.name for latent in local)})"
    if found.discrete or set(found.improper) & {latent.name for latent in local} or found.num_rows is None:
        return Integrated(None, f"{names} beside discrete ones, or without a normalized prior")
    if found.moving:
        return Integrated(None, f"{names} beside supports that other latents move ({', '.join(sorted(found.moving))})")
    with torch.no_grad(), isolated(seed=0):
        parts = _Parts(model, data, found, local)
        theta, started = draws(parts)
        if not parts.rows_are_independent(theta):
            return Integrated(None, f"{names} on which the observations of other rows depend")
        by_row, error = _weighed(parts, theta, started)
    if not error <= LARGEST_ERROR:
        return Integrated(None, f"{names} that importance sampling cannot integrate (error {error:.2g} nats)")
    return Integrated(by_row)


class _Parts:
    """Densities of a model by row, its local latents apart from the shared ones."""

    def __init__(self, model: Model, data: Dataset, found: Sites, local: tuple[Latent, ...]) -> None:
        self.model, self.data, self.found, self.local = model, data, found, local
        self.layout, self.local_layout = Coordinates(found.latents), Coordinates(local)
        start = self.layout.join(
            {each.name: each.value[None] for each in found.latents}, local[0].value.dtype, local[0].value.device
        )[0]
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

    def _run(self, model: Model, values: dict[str, Tensor]) -> poutine.Trace:
        with evaluation_mode(self.model):
            return traced_run(poutine.condition(model, values), self.data)

    def _terms(self, theta: Float[Tensor, " D"]) -> Float[Tensor, "2 N"]:
        """Log prior of the local latents in their coordinates, and log likelihood, by row."""
        run = self._run(row_scaled(self.model, self.found, self.data), self._values(theta))
        prior = log_prior_by_row(run, self.found._replace(latents=self.local))
        prior = prior + self.local_layout.log_jacobian(theta[self.columns], by_row=True)
        return torch.stack([prior, log_likelihood_by_row(run, self.found).to(prior.dtype)])

    def _prior_draw(self, theta: Float[Tensor, " D"]) -> Float[Tensor, " L"]:
        """A draw of the local latents given the shared ones, in their coordinates."""
        names = {latent.name for latent in self.local}
        shared = {name: value for name, value in self._values(theta).items() if name not in names}
        run = self._run(self.model, shared)
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
    parts: _Parts, theta: Float[Tensor, "S D"], started: Float[Tensor, "T D"]
) -> tuple[Float[Tensor, "S N"], float]:
    """Log likelihood of each row at each draw of the shared latents, and the largest error of a row in nats.

    The proposal starts at the moments of the given draws; each further round takes the weighted moments of the last one at
    the same draw of the shared latents, until the error is small enough (Cappé et al., 2004, "Population Monte Carlo").
    Where it stays too large, more draws are taken from the last proposal.
    """
    local = started[:, parts.columns]
    center, scale = local.mean(0), local.std(0)
    size = max(1, MAX_ELEMENTS // (2 * LOCAL_DRAWS * theta.shape[1]))
    found = [_adapted(parts, each, center, scale) for each in theta.split(size)]
    by_row, variance = (torch.cat(each) for each in zip(*found, strict=True))
    return by_row, _error(by_row, variance)


def _error(by_row: Float[Tensor, "S N"], variance: Float[Tensor, "S N"]) -> float:
    """Largest standard error of a row in nats: of its mean log likelihood, or of its log mean likelihood.

    The second rests on the few draws of the shared latents that explain the row.  Their errors are taken as equal in sign,
    since a proposal that is not there yet misses the largest weights at all of them.
    """
    share = torch.softmax(by_row, 0)
    return float(torch.maximum(variance.mean(0).sqrt(), (share * variance.sqrt()).sum(0)).max())


def _adapted(
    parts: _Parts, theta: Float[Tensor, "S D"], center: Float[Tensor, " L"], scale: Float[Tensor, " L"]
) -> tuple[Float[Tensor, "S N"], Float[Tensor, "S N"]]:
    """Log likelihood of each row at each draw of the shared latents, and its squared standard error."""
    center, scale = (moment.expand(len(theta), -1) for moment in (center, scale))
    for number in range(ROUNDS):
        log_w, proposed = _log_weights(parts, theta, center, scale, LOCAL_DRAWS)
        found = _summed(log_w)
        if number and _error(*found) <= LARGEST_ERROR:  # The first proposal ignores the shared latents.
            return found
        by_column = _flattened(log_w)[:, :, parts.row_of_column].to(proposed)
        center = (by_column * proposed).sum(1)
        scale = (by_column * (proposed - center[:, None]).square()).sum(1).sqrt()
    return _summed(_log_weights(parts, theta, center, scale, MORE_LOCAL_DRAWS)[0])


def _summed(log_w: Float[Tensor, "S K N"]) -> tuple[Float[Tensor, "S N"], Float[Tensor, "S N"]]:
    """Log mean weight and its squared standard error."""
    count = log_w.shape[1]
    variance = (torch.softmax(log_w, 1) * count).var(1) / count
    return torch.logsumexp(log_w, 1) - math.log(count), variance


def _flattened(log_w: Float[Tensor, "S K N"]) -> Float[Tensor, "S K N"]:
    """Normalized weights to the largest power that leaves enough effective draws, so that one draw does not stand for all.

    A proposal far from its target then moves there in steps (Koblents & Míguez, 2015, "A population Monte Carlo scheme with
    transformed weights").
    """
    weights = torch.softmax(log_w, 1)
    for power in POWERS[1:]:
        few = 1 / weights.square().sum(1, keepdim=True) < ADAPTED_ESS
        if not bool(few.any()):
            break
        weights = torch.where(few, torch.softmax(power * log_w, 1), weights)
    return weights


def _log_weights(
    parts: _Parts,
    theta: Float[Tensor, "S D"],
    center: Float[Tensor, "S L"],
    scale: Float[Tensor, "S L"],
    num_draws: int,
) -> tuple[Float[Tensor, "S K N"], Float[Tensor, "S K L"]]:
    """Log weights of each row and the proposals, half from the prior and half from a Student-t."""
    many = theta.repeat_interleave(num_draws, 0)
    wide = StudentT(DEGREES, center[:, None], scale.clamp_min(1e-6 * (1 + center.abs()))[:, None])
    drawn = wide.sample((num_draws,))[:, :, 0].movedim(0, 1)
    local = torch.cat([parts.prior_draw(many).reshape(drawn.shape), drawn], 1).to(theta)
    proposed = theta[:, None].repeat(1, local.shape[1], 1)
    proposed[:, :, parts.columns] = local
    terms = parts.terms(proposed.flatten(0, 1)).double().reshape(*local.shape[:2], 2, -1)
    prior, likelihood = terms.unbind(2)
    log_t = wide.log_prob(local)[:, :, parts.by_row_of_local].sum(-1).double()
    log_q = torch.logaddexp(prior, log_t) - math.log(2)
    return (prior + likelihood - log_q).nan_to_num(nan=-math.inf), local
