"""Posterior + new rows → predictive distribution and action."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions import Normal as PyroNormal
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Multinomial,
    Normal,
)
from torch.nn.functional import logsigmoid

from probmodel.form import check_form
from probmodel.gaussian_processes.normal_mixture import NormalMixture
from probmodel.integers import integer
from probmodel.placing import beside, traced_run
from probmodel.protocols import NOISE_VARIANCE, Dataset, Deciding, Marginal, Posterior
from probmodel.sites import Sites, sites
from probmodel.target import Density
from probmodel.tracing import explained, isolated


class Prediction(NamedTuple):
    """Predictive distribution of new rows, and what to do about them.

    `distribution` has batch shape (N,) and integrates the latents; `by_draw` has (S, N), one likelihood a draw.  A Gaussian
    process integrates its function inside each draw: `noise_by_draw` (S, N) is the part of that variance that is not the
    function's, None for other models.  A model that is a density of the new rows' features too makes some draws likelier
    than others there: `log_weights` (S, N), whose exponentials sum to 1 over the draws, None for other models.
    """

    distribution: Distribution
    action: Tensor
    by_draw: Distribution
    noise_by_draw: Tensor | None = None
    log_weights: Float[Tensor, "S N"] | None = None

    @property
    def aleatoric(self) -> Tensor:
        """Uncertainty that stays when the latents are known: mean over draws of the variance, or of the entropy in nats."""
        return self._mean(self._spread(self.by_draw) if self.noise_by_draw is None else self.noise_by_draw)

    @property
    def epistemic(self) -> Tensor:
        """Uncertainty that more data would remove: variance over draws of the mean, or mutual information in nats."""
        if _is_finite(self.by_draw):
            return self.distribution.entropy() - self.aleatoric
        loc = self.by_draw.mean
        between = self._mean((loc - self._mean(loc)).square())
        return between if self.noise_by_draw is None else between + self.by_draw.variance.mean(0) - self.aleatoric

    def _mean(self, by_draw: Float[Tensor, "S N *event"]) -> Float[Tensor, "N *event"]:
        if self.log_weights is None:
            return by_draw.mean(0)
        weights = self.log_weights.exp()
        return (weights.reshape(*weights.shape, *(1,) * (by_draw.dim() - 2)) * by_draw).sum(0)

    @staticmethod
    def _spread(distribution: Distribution) -> Tensor:
        return distribution.entropy() if _is_finite(distribution) else distribution.variance


def predict(posterior: Posterior, *args: Tensor, num_draws: int = 200, seed: int = 0) -> Prediction:
    """p(y | new rows, data) = E_posterior[p(y | new rows, latents)].

    Latents shared by rows take the posterior's draws; latents local to a row are drawn from the model given the new row,
    since nothing has been observed there.  Where the model is a density of the new rows' features too, as a `ClassNetwork` is,
    each draw of the latents counts by the density that it gives to them: p(y | h, data) ∝ E_posterior[p(h, y | latents)].

    Args:
        posterior: from any inference.
        args: the model's positional arguments for the new rows, without the observations; on any device.
        num_draws: draws to average; all that the posterior has where it has fewer.
        seed: of the local draws.

    Returns:
        Prediction.

    Raises:
        ValueError: where the new rows' columns differ from the training rows', or the likelihood cannot be averaged.
    """
    return predict_rows(posterior, Dataset(args, _shared_arguments(posterior), None), num_draws=num_draws, seed=seed)


def predict_rows(posterior: Posterior, data: Dataset, *, num_draws: int = 200, seed: int = 0) -> Prediction:
    """As `predict`, for rows given as a data set; observations in it are not looked at."""
    check_columns(posterior, data)
    data = beside(data, posterior.data)
    num_draws = integer("num_draws", num_draws)
    with isolated(seed):
        found = sites(posterior.model, posterior.data)
        data = _without_observations(posterior, found, data)
        draws = _SharedDraws(posterior, found, num_draws)
        known = posterior.model.given(posterior.data) if isinstance(posterior.model, Marginal) else posterior.model

        def likelihood(theta: Tensor) -> _Likelihood:
            run = traced_run(poutine.condition(known, draws.split(theta)), data)
            return _likelihood(run, found.observed)

        with torch.no_grad():
            with explained(data):
                template = likelihood(draws.flat[0])
            if len(draws.flat) > 1 or draws.flat.shape[1]:
                packed = Density(lambda theta: likelihood(theta).packed, draws.flat[0])(draws.flat)
            else:  # Nothing is drawn, and one evaluation is all there is.
                packed = template.packed[None]
    shapes = [parameter.shape for parameter in template.tensors]
    pieces = packed.split([shape.numel() for shape in shapes], -1)
    values = [p.reshape(len(p), *shape) for p, shape in zip(pieces, shapes, strict=True)]
    by_draw = _rebuild(template.distribution, values[: len(_parameters(template.distribution))])
    noise, density = (values.pop() if each is not None else None for each in (template.noise, template.log_density))
    log_weights = None if density is None else density.log_softmax(0)
    distribution = average(by_draw, log_weights)
    return Prediction(distribution, _act(posterior, distribution), by_draw, noise, log_weights)


class _Likelihood(NamedTuple):
    """Of the new rows at one draw."""

    distribution: Distribution
    log_density: Tensor | None
    """Of what stays observed of the new rows, (N,); None where nothing does."""
    noise: Tensor | None
    """Variance of the noise alone where the model says so."""

    @property
    def tensors(self) -> list[Tensor]:
        others = [each for each in (self.log_density, self.noise) if each is not None]
        return [*_parameters(self.distribution), *others]

    @property
    def packed(self) -> Float[Tensor, " P"]:
        return torch.cat([each.reshape(-1) for each in self.tensors])


def _likelihood(run: poutine.Trace, observed: Sequence[str]) -> _Likelihood:
    """Raise ValueError for several sites to predict."""
    open_sites = [name for name in observed if len(observed) == 1 or not run.nodes[name]["is_observed"]]
    if len(open_sites) != 1:
        raise ValueError(
            f"expected one observed site, got {list(observed)}; predict each with its own model, score whole rows by diagnose "
            "or compare, or ask a discrete network by bayesian_networks.query"
        )
    node: Any = run.nodes[open_sites[0]]
    noise = cast(Any, run.nodes.get(NOISE_VARIANCE))
    seen: list[Any] = [run.nodes[name] for name in observed if name not in open_sites]
    terms = [each["fn"].log_prob(each["value"]) for each in seen]
    density = torch.stack(terms).sum(0) if terms else None
    return _Likelihood(cast(Distribution, node["fn"]), density, None if noise is None else noise["value"])


class _SharedDraws:
    """Draws of the latents that rows share, side by side in one matrix (S, D); D = 0 where there are none."""

    def __init__(self, posterior: Posterior, found: Sites, num_draws: int) -> None:
        self.latents = [latent for latent in found.latents if latent.row_dim is None]
        values = [_thinned(posterior.draws[latent.name], num_draws) for latent in self.latents]
        # Without any latent one evaluation is the predictive; with local ones alone each draw draws them anew.
        count = len(values[0]) if values else (num_draws if found.latents else 1)
        floating = [t for t in posterior.data.tensors() if t.is_floating_point()]
        like = found.latents[0].value if found.latents else floating[0] if floating else torch.zeros(())
        self.flat = torch.cat([value.reshape(len(value), -1) for value in values] or [like.new_zeros(count, 0)], -1)

    def split(self, theta: Float[Tensor, " D"]) -> dict[str, Tensor]:
        pieces = theta.split([latent.shape.numel() for latent in self.latents]) if self.latents else ()
        return {latent.name: p.reshape(latent.shape) for latent, p in zip(self.latents, pieces, strict=True)}


def average(by_draw: Distribution, log_weights: Float[Tensor, "S N"] | None = None) -> Distribution:
    """The mixture over the first batch axis; a Categorical stays one, its probabilities averaged.

    Normals, and mixtures of them, make a `NormalMixture`, whose quantiles and modes are known.

    Args:
        by_draw: one distribution a draw and row.
        log_weights: of the draws at each row, up to a constant; equal parts by default.
    """
    weights = torch.zeros(by_draw.batch_shape).to(_parameters(by_draw)[0]) if log_weights is None else log_weights
    if isinstance(by_draw, Categorical):
        return Categorical(logits=(by_draw.logits + weights[..., None]).logsumexp(0))
    if isinstance(by_draw, Bernoulli):
        tails, heads = ((logsigmoid(sign * by_draw.logits) + weights).logsumexp(0) for sign in (-1, 1))
        return Bernoulli(logits=heads - tails)
    if isinstance(by_draw, NormalMixture):
        logits = by_draw.logits.log_softmax(-1) + weights[..., None]
        logits, loc, scale = (p.movedim(0, -2).flatten(-2) for p in (logits, by_draw.loc, by_draw.scale))
        return NormalMixture(logits, loc, scale)
    if type(by_draw) is Normal or type(by_draw) is PyroNormal:
        loc, scale = (p.movedim(0, -1) for p in (by_draw.loc, by_draw.scale))
        return NormalMixture(weights.movedim(0, -1), loc, scale)
    moved = _rebuild(by_draw, [_draw_axis_last(p, by_draw) for p in _parameters(by_draw)])
    return MixtureSameFamily(Categorical(logits=weights.movedim(0, -1)), moved)


def _draw_axis_last(parameter: Tensor, distribution: Distribution) -> Tensor:
    """Draws of shape (S, N, *event) as (N, S, *event), which is where a mixture keeps its components."""
    return parameter.movedim(0, len(distribution.batch_shape) - 1)


def _act(posterior: Posterior, distribution: Distribution) -> Tensor:
    if isinstance(posterior.model, Deciding):
        return posterior.model.decision.act(distribution)
    return distribution.probs.argmax(-1) if isinstance(distribution, Categorical) else distribution.mean


def _is_finite(distribution: Distribution) -> bool:
    return isinstance(distribution, Categorical | Bernoulli)


def _thinned(draws: Float[Tensor, "chain draw *event"], count: int) -> Float[Tensor, "S *event"]:
    """At most `count` draws, evenly spaced over all chains."""
    flat = draws.flatten(0, 1)
    return flat[torch.linspace(0, len(flat) - 1, min(count, len(flat)), device=flat.device).long()]


def _parameters(distribution: Distribution) -> list[Tensor]:
    if isinstance(distribution, Independent):
        return _parameters(distribution.base_dist)
    return [attrgetter(name)(distribution) for name in _names(distribution)]


def _names(distribution: Distribution) -> Sequence[str]:
    names = list(distribution.arg_constraints)
    if not names:
        raise ValueError(
            f"expected a likelihood with parameters to average, got {type(distribution).__name__}; write it as one of "
            "PyTorch's distributions, or draw from the model with pyro.infer.Predictive"
        )
    twice = {"probs", "logits"} <= set(names)
    twice_scale = {"covariance_matrix", "precision_matrix", "scale_tril"} <= set(names)
    return [
        n
        for n in names
        if not ((twice and n == "probs") or (twice_scale and n in ("covariance_matrix", "precision_matrix")))
    ]


def _rebuild(distribution: Distribution, values: Sequence[Tensor]) -> Distribution:
    if isinstance(distribution, Independent):
        return Independent(_rebuild(distribution.base_dist, values), distribution.reinterpreted_batch_ndims)
    if isinstance(distribution, Multinomial):  # The number of trials is no parameter to PyTorch.
        return type(distribution)(distribution.total_count, logits=values[0])
    family: Callable[..., Any] = type(distribution)
    return cast(Distribution, family(**dict(zip(_names(distribution), values, strict=True))))


def check_columns(posterior: Posterior, data: Dataset) -> None:
    """Raise ValueError unless the rows in data are finite, at least one, and of the columns that the fit has seen."""
    check_form(data)
    if not data.tensors():
        raise ValueError("expected the model's arguments for the new rows, got none; pass test.args[0]")
    if len(data.args) > len(posterior.data.args):
        raise ValueError(
            f"expected at most {len(posterior.data.args)} positional arguments as in training, got {len(data.args)}; pass "
            "the others by name"
        )
    for old, new in zip(posterior.data.args, data.args, strict=False):
        if not isinstance(old, Tensor) or not isinstance(new, Tensor):
            continue
        by_row = posterior.data.size is not None or isinstance(posterior.model, Marginal)
        if by_row and old.shape[1:] != new.shape[1:]:
            raise ValueError(
                f"new rows need columns of shape {tuple(old.shape[1:])} as in training, got {tuple(new.shape[1:])}; "
                "prepare them as the training rows were"
            )
        if new.is_floating_point() and not torch.isfinite(new).all():
            raise ValueError("expected finite numbers in the new rows, got NaN or infinity; drop or impute those rows")
        if new.numel() == 0:
            raise ValueError("expected at least one new row, got none; add rows")


def _without_observations(posterior: Posterior, found: Sites, data: Dataset) -> Dataset:
    """The call with None in place of what the training call observed, so that the model draws it."""
    trained = posterior.data

    def observed(value: object, seen: Tensor) -> bool:
        return isinstance(value, Tensor) and (value is seen or (value.shape == seen.shape and torch.equal(value, seen)))

    def matches(value: object, observations: Sequence[Tensor]) -> bool:
        return any(observed(value, seen) for seen in observations)

    names = {name for name, value in trained.kwargs.items() if matches(value, found.observations)}
    # An autoencoder's y equals its x: a positional argument is an observation only where no keyword is.
    left = [seen for seen in found.observations if not any(observed(value, seen) for value in trained.kwargs.values())]
    args = [None if matches(old, left) else new for old, new in zip(trained.args, data.args, strict=False)]
    if isinstance(posterior.model, Deciding):
        # Codes that are observed may be x itself, which stays.
        names, args = names | {"y"}, [*data.args[:1], *args[1:]]
    return Dataset(tuple(args), {k: None if k in names else v for k, v in data.kwargs.items()}, None)


def _shared_arguments(posterior: Posterior) -> dict[str, object]:
    """Keyword arguments that are not aligned with the training rows and so hold for new rows too."""
    rows = posterior.data.num_rows

    def aligned(value: object) -> bool:
        return isinstance(value, Tensor) and rows is not None and value.dim() > 0 and len(value) == rows

    return {name: value for name, value in posterior.data.kwargs.items() if not aligned(value)}
