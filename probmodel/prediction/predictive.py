"""Predictive distribution of new rows given a posterior, and the actions of least expected loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from probmodel.families.draw_mixture import Stacked, moments
from probmodel.prediction.averages import (
    average,
    can_be_stacked,
    distribution_parameters,
    has_classes,
    has_finite_support,
    with_parameters,
)
from probmodel.prediction.new_rows import (
    check_columns,
    refuse_other_rows_than_trained,
    rows_as_trained,
    shared_arguments,
    without_observations,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.html_tables import html_table
from probmodel.protocols.integers import integer
from probmodel.protocols.layers import HasDecision
from probmodel.protocols.model import NOISE_VARIANCE, ConditionsOnRows, Model
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.sites import Sites
from probmodel.tracing.checks.modules import evaluation_mode
from probmodel.tracing.density import Density
from probmodel.tracing.devices import on_device_of, traced_run
from probmodel.tracing.error_messages import translated_errors
from probmodel.tracing.latents.masks import without_mask
from probmodel.tracing.minibatch_scale import row_scaled
from probmodel.tracing.randomness import isolated, preserving_random_state
from probmodel.tracing.site_densities import by_value, enumerated
from probmodel.tracing.target import target_of


class Prediction(NamedTuple):
    """Predictive distribution of new rows, and the action for each.

    `distribution` has batch shape (N,) and integrates the latents; `by_draw` has (S, N), one likelihood per draw.  A
    Gaussian process integrates its function inside each draw: `noise_by_draw` (S, N) is the part of that variance that
    is not the function's, None for other models.  A model that is also a density of the new rows' features makes some
    draws likelier than others there: `log_weights` (S, N), whose exponentials sum to 1 over the draws, None for other
    models.
    """

    distribution: Distribution
    action: Tensor
    by_draw: Distribution
    noise_by_draw: Tensor | None = None
    log_weights: Float[Tensor, "S N"] | None = None

    @property
    def aleatoric(self) -> Tensor:
        """Uncertainty left when the latents are known: mean over draws of the variance, or of the entropy in nats."""
        return self._mean(self._spread(self.by_draw) if self.noise_by_draw is None else self.noise_by_draw)

    @property
    def epistemic(self) -> Tensor:
        """Uncertainty that more data would remove: variance over draws of the mean, or mutual information in nats."""
        if has_finite_support(self.by_draw):
            return self.distribution.entropy() - self.aleatoric
        loc = moments(self.by_draw)[0]
        between = self._mean((loc - self._mean(loc)).square())
        return between if self.noise_by_draw is None else between + self.by_draw.variance.mean(0) - self.aleatoric

    def _mean(self, by_draw: Float[Tensor, "S N *event"]) -> Float[Tensor, "N *event"]:
        if self.log_weights is None:
            return by_draw.mean(0)
        weights = self.log_weights.exp()
        return (weights.reshape(*weights.shape, *(1,) * (by_draw.dim() - 2)) * by_draw).sum(0)

    def _repr_html_(self) -> str:
        action = self.action.detach().reshape(len(self.action), -1)
        aleatoric, epistemic = self.aleatoric.detach(), self.epistemic.detach()

        def cell(value: Tensor) -> str:
            return ", ".join(f"{float(number):.4g}" for number in value.flatten())

        count = min(ROWS_SHOWN, len(action))
        rows = [[i, cell(action[i]), cell(aleatoric[i]), cell(epistemic[i])] for i in range(count)]
        unit = "entropy, nats" if has_finite_support(self.by_draw) else "variance"
        head = ["row", "action", f"aleatoric ({unit})", f"epistemic ({unit})"]
        shown = f"{len(action):,} rows" if len(action) == count else f"the first {count} of {len(action):,} rows"
        return html_table(head, rows, f"Prediction by {type(self.distribution).__name__}: {shown}")

    @staticmethod
    def _spread(distribution: Distribution) -> Tensor:
        return distribution.entropy() if has_finite_support(distribution) else moments(distribution)[1]


ROWS_SHOWN = 10
"""Rows of a prediction in its HTML table."""


@checks_arguments
def predict(posterior: Posterior, *args: Any, num_samples: int = 200, seed: int = 0) -> Prediction:
    """Predictive distribution p(y | new rows, data) = E_posterior[p(y | new rows, latents)].

    Latents shared by rows take the posterior's draws; latents local to a row are drawn from the model given the new
    row, since nothing has been observed there.  Where the model is also a density of the new rows' features, as a
    `ClassNetwork` is, each draw of the latents is weighted by the density that it gives to them:

        p(y | h, data) ∝ E_posterior[p(h, y | latents)].

    Args:
        posterior: posterior from any inference method.
        args: one Dataset, whose observations are ignored, or the positional arguments of the model for the new rows,
            without the observations: tensors on any device, NumPy arrays or data frames, which take the dtype of the
            training rows; where those were a frame, a frame's columns are found by their names.
        num_samples: number of draws to average; all draws of the posterior where it has fewer.
        seed: seed of the draws of latents that are local to a row.

    Returns:
        Prediction with one entry per new row.

    Raises:
        TypeError: for arrays of text, and lists.
        ValueError: where the new rows' columns differ from the training rows', or the likelihood cannot be averaged.
    """
    if len(args) == 1 and type(args[0]) is Dataset:
        rows = args[0].in_columns_of(posterior.data)
        data = rows._replace(kwargs={**shared_arguments(posterior), **rows.kwargs}, size=None)
    else:
        data = Dataset(rows_as_trained(posterior, args), shared_arguments(posterior), None)
    return predict_rows(posterior, data, num_samples=num_samples, seed=seed)


def predict_rows(posterior: Posterior, data: Dataset, *, num_samples: int = 200, seed: int = 0) -> Prediction:
    """Predictive distribution as by `predict`, for rows given as a data set whose observations are ignored."""
    check_columns(posterior, data)
    data = on_device_of(data, posterior.data)
    num_samples = integer("num_samples", num_samples)
    found = target_of(posterior).sites
    with isolated(seed):
        draws = _SharedDraws(posterior, found, num_samples)
        known = (
            posterior.model.given(posterior.data) if isinstance(posterior.model, ConditionsOnRows) else posterior.model
        )
        bare = without_observations(posterior, found, data)
        if found.coupled_rows:
            refuse_other_rows_than_trained(posterior, found, bare)
        known, data = _callable_without_observations(known, found, draws, bare, data)
        known = row_scaled(known, found, data)

        def likelihood(theta: Tensor) -> _Likelihood:
            with evaluation_mode(posterior.model):
                run = traced_run(enumerated(poutine.condition(known, draws.split(theta)), found), data)
            return _likelihood(run, found)

        with torch.no_grad():
            with translated_errors(data):
                template = likelihood(draws.flat[0])
            with preserving_random_state():
                stackable = can_be_stacked(template.distribution)
            by_theta = _stacked(likelihood, template, draws.flat) if stackable else _listed(likelihood, draws.flat)
    log_weights = None if by_theta.log_density is None else by_theta.log_density.log_softmax(0)
    distribution = average(by_theta.distribution, log_weights)
    return Prediction(distribution, _act(posterior, distribution), by_theta.distribution, by_theta.noise, log_weights)


def _callable_without_observations(
    model: Model, found: Sites, draws: "_SharedDraws", bare: Dataset, given: Dataset
) -> tuple[Model, Dataset]:
    """A model that draws its observations and the data to call it with.

    A model that reads its observations, as one that counts them, keeps those given for the new rows, and ignores them.
    """
    try:
        with preserving_random_state(), torch.no_grad(), translated_errors(bare):
            traced_run(poutine.condition(model, draws.split(draws.flat[0])), bare)
    except ValueError:
        unconditioned: Model = poutine.uncondition(model)
        return unconditioned, given
    return model, bare


class _Likelihood(NamedTuple):
    """Likelihood of the new rows at one draw."""

    distribution: Distribution
    log_density: Tensor | None
    """Log density of what stays observed of the new rows, (N,), in nats; None where nothing does."""
    noise: Tensor | None
    """Variance of the noise alone, where the model states it."""

    @property
    def tensors(self) -> list[Tensor]:
        others = [each for each in (self.log_density, self.noise) if each is not None]
        return [*distribution_parameters(self.distribution), *others]

    @property
    def packed(self) -> Float[Tensor, " P"]:
        return torch.cat([each.reshape(-1) for each in self.tensors])


def _likelihood(run: poutine.Trace, found: Sites) -> _Likelihood:
    """Likelihood at the one site to predict, discrete latents summed out; raises ValueError for several sites."""
    observed = [name for name in found.observed if name not in found.factors]
    if not observed:
        raise ValueError(
            f"expected an observed site to predict, got factors {list(found.factors)} alone, which do not say how "
            "observations are drawn; write the likelihood as pyro.sample(name, distribution, obs=y)"
        )
    open_sites = [name for name in observed if len(observed) == 1 or not run.nodes[name]["is_observed"]]
    if len(open_sites) != 1:
        raise ValueError(
            f"expected one observed site, got {list(observed)}; predict each with its own model, score whole rows by diagnose "
            "or compare, or use pb.bn.query for a discrete network"
        )
    noise = cast(Any, run.nodes.get(NOISE_VARIANCE))
    seen = [name for name in observed if name not in open_sites]
    distribution, density = (_mixed if found.discrete else _alone)(run, open_sites[0], seen, found)
    return _Likelihood(distribution, density, None if noise is None else noise["value"])


def _alone(run: poutine.Trace, site: str, seen: Sequence[str], found: Sites) -> tuple[Distribution, Tensor | None]:
    """Distribution of a site, and the log density of the sites that stay observed."""
    nodes: Mapping[str, Any] = run.nodes
    terms = [nodes[name]["fn"].log_prob(nodes[name]["value"]) for name in seen]
    return cast(Distribution, without_mask(nodes[site]["fn"])), torch.stack(terms).sum(0) if terms else None


def _mixed(run: poutine.Trace, site: str, seen: Sequence[str], found: Sites) -> tuple[Distribution, Tensor | None]:
    """Mixture over the values of the discrete latents, and the log density of the sites that stay observed."""
    each = by_value(run, site, seen, found)
    fn = without_mask(each.distribution)
    shape = torch.broadcast_shapes(each.log_weights.shape, fn.batch_shape)
    batch = shape[len(shape) - each.num_axes :]
    weights = each.log_weights.expand(shape).reshape(-1, *batch)
    whole = fn.expand(shape)
    flat = [p.reshape(len(weights), *batch, *p.shape[len(shape) :]) for p in distribution_parameters(whole)]
    return average(with_parameters(whole, flat), weights), weights.logsumexp(0) if seen else None


def _stacked(
    likelihood: Callable[[Tensor], _Likelihood], template: _Likelihood, draws: Float[Tensor, "S D"]
) -> _Likelihood:
    """Likelihoods of all draws at once, as one whose first axis runs over the draws."""
    if len(draws) > 1 or draws.shape[1]:
        packed = Density(lambda theta: likelihood(theta).packed, draws[0])(draws)
    else:  # Without draws, one evaluation gives the predictive.
        packed = template.packed[None]
    shapes = [parameter.shape for parameter in template.tensors]
    pieces = packed.split([shape.numel() for shape in shapes], -1)
    values = [p.reshape(len(p), *shape) for p, shape in zip(pieces, shapes, strict=True)]
    by_draw = with_parameters(template.distribution, values[: len(distribution_parameters(template.distribution))])
    noise, density = (values.pop() if each is not None else None for each in (template.noise, template.log_density))
    return _Likelihood(by_draw, density, noise)


def _listed(likelihood: Callable[[Tensor], _Likelihood], draws: Float[Tensor, "S D"]) -> _Likelihood:
    """Likelihoods one by one, of a family whose parameters do not say all about it."""
    each = [likelihood(theta) for theta in draws]
    noise = [one.noise for one in each if one.noise is not None]
    density = [one.log_density for one in each if one.log_density is not None]
    stacked = (torch.stack(values) if values else None for values in (density, noise))
    return _Likelihood(Stacked([one.distribution for one in each]), *stacked)


class _SharedDraws:
    """Draws of the latents that rows share, concatenated in one matrix (S, D); D = 0 where there are none."""

    def __init__(self, posterior: Posterior, found: Sites, num_samples: int) -> None:
        self.latents = [latent for latent in found.latents if latent.row_dim is None]
        values = [_thinned(posterior.draws[latent.name], num_samples) for latent in self.latents]
        # Without latents one evaluation gives the predictive; row-local latents are drawn anew at each draw.
        count = len(values[0]) if values else (num_samples if found.latents else 1)
        floating = [t for t in posterior.data.tensors() if t.is_floating_point()]
        like = found.latents[0].value if found.latents else floating[0] if floating else torch.zeros(())
        self.flat = torch.cat([value.reshape(len(value), -1) for value in values] or [like.new_zeros(count, 0)], -1)

    def split(self, theta: Float[Tensor, " D"]) -> dict[str, Tensor]:
        pieces = theta.split([latent.shape.numel() for latent in self.latents]) if self.latents else ()
        return {latent.name: p.reshape(latent.shape) for latent, p in zip(self.latents, pieces, strict=True)}


def _act(posterior: Posterior, distribution: Distribution) -> Tensor:
    if isinstance(posterior.model, HasDecision):
        return posterior.model.decision.act(distribution)
    return distribution.probs.argmax(-1) if has_classes(distribution) else moments(distribution)[0]


def _thinned(draws: Float[Tensor, "chain draw *event"], count: int) -> Float[Tensor, "S *event"]:
    """At most `count` draws, evenly spaced over all chains."""
    flat = draws.flatten(0, 1)
    return flat[torch.linspace(0, len(flat) - 1, min(count, len(flat)), device=flat.device).long()]
