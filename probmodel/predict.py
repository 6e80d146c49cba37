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
    function's, None for other models.
    """

    distribution: Distribution
    action: Tensor
    by_draw: Distribution
    noise_by_draw: Tensor | None = None

    @property
    def aleatoric(self) -> Tensor:
        """Uncertainty that stays when the latents are known: mean over draws of the variance, or of the entropy in nats."""
        return (self._spread(self.by_draw) if self.noise_by_draw is None else self.noise_by_draw).mean(0)

    @property
    def epistemic(self) -> Tensor:
        """Uncertainty that more data would remove: variance over draws of the mean, or mutual information in nats."""
        if _is_finite(self.by_draw):
            return self.distribution.entropy() - self.aleatoric
        between = self.by_draw.mean.var(0, correction=0)
        return between if self.noise_by_draw is None else between + self.by_draw.variance.mean(0) - self.aleatoric

    @staticmethod
    def _spread(distribution: Distribution) -> Tensor:
        return distribution.entropy() if _is_finite(distribution) else distribution.variance


def predict(posterior: Posterior, *args: Tensor, num_draws: int = 200, seed: int = 0) -> Prediction:
    """p(y | new rows, data) = E_posterior[p(y | new rows, latents)].

    Latents shared by rows take the posterior's draws; latents local to a row are drawn from the model given the new row,
    since nothing has been observed there.

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

        def likelihood(theta: Tensor) -> tuple[Distribution, list[Tensor]]:
            """Of the new rows, and the variance of the noise alone where the model says so."""
            run = traced_run(poutine.condition(known, draws.split(theta)), data)
            noise = run.nodes.get(NOISE_VARIANCE)
            return cast(Distribution, run.nodes[found.observed[0]]["fn"]), [] if noise is None else [
                cast(Tensor, noise["value"])
            ]

        def packed_at(theta: Tensor) -> Tensor:
            return _packed(*likelihood(theta))

        if len(found.observed) != 1:
            raise ValueError(f"expected one observed site, got {list(found.observed)}; predict each with its own model")
        with torch.no_grad():
            with explained(data):
                template, noise = likelihood(draws.flat[0])
            shapes = [parameter.shape for parameter in (*_parameters(template), *noise)]
            if len(draws.flat) > 1 or draws.flat.shape[1]:
                packed = Density(packed_at, draws.flat[0])(draws.flat)
            else:  # Nothing is drawn, and one evaluation is all there is.
                packed = _packed(template, noise)[None]
    pieces = packed.split([shape.numel() for shape in shapes], -1)
    values = [p.reshape(len(p), *shape) for p, shape in zip(pieces, shapes, strict=True)]
    by_draw = _rebuild(template, values[: len(values) - len(noise)])
    distribution = average(by_draw)
    return Prediction(distribution, _act(posterior, distribution), by_draw, values[-1] if noise else None)


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


def average(by_draw: Distribution) -> Distribution:
    """The mixture over the first batch axis, in equal parts; a Categorical stays one, its probabilities averaged.

    Normals, and mixtures of them, make a `NormalMixture`, whose quantiles and modes are known.
    """
    if isinstance(by_draw, Categorical):
        return Categorical(logits=by_draw.logits.logsumexp(0))
    if isinstance(by_draw, Bernoulli):
        tails, heads = (logsigmoid(sign * by_draw.logits).logsumexp(0) for sign in (-1, 1))
        return Bernoulli(logits=heads - tails)
    if isinstance(by_draw, NormalMixture):
        logits, loc, scale = (p.movedim(0, -2).flatten(-2) for p in (by_draw.logits, by_draw.loc, by_draw.scale))
        return NormalMixture(logits, loc, scale)
    if type(by_draw) is Normal or type(by_draw) is PyroNormal:
        loc, scale = (p.movedim(0, -1) for p in (by_draw.loc, by_draw.scale))
        return NormalMixture(torch.zeros_like(loc), loc, scale)
    moved = _rebuild(by_draw, [_draw_axis_last(p, by_draw) for p in _parameters(by_draw)])
    weights = _parameters(by_draw)[0].new_zeros(moved.batch_shape)
    return MixtureSameFamily(Categorical(logits=weights), moved)


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


def _packed(distribution: Distribution, noise: Sequence[Tensor]) -> Float[Tensor, " P"]:
    return torch.cat([each.reshape(-1) for each in (*_parameters(distribution), *noise)])


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
    args = tuple(None if matches(old, left) else new for old, new in zip(trained.args, data.args, strict=False))
    if isinstance(posterior.model, Deciding):
        names.add("y")
    return Dataset(args, {k: None if k in names else v for k, v in data.kwargs.items()}, None)


def _shared_arguments(posterior: Posterior) -> dict[str, object]:
    """Keyword arguments that are not aligned with the training rows and so hold for new rows too."""
    rows = posterior.data.num_rows

    def aligned(value: object) -> bool:
        return isinstance(value, Tensor) and rows is not None and value.dim() > 0 and len(value) == rows

    return {name: value for name, value in posterior.data.kwargs.items() if not aligned(value)}
