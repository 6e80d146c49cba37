"""Model + data → `Target`: one density on R^D, vectorized over draws by `vmap` over the traced graph."""

import warnings
from collections.abc import Callable
from functools import lru_cache, partial, singledispatch

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import TracingWarning
from probmodel.protocols.integers import integer
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target, TraceInfo
from probmodel.protocols.sites import Sites
from probmodel.tracing.checks import check, check_draws, check_reading
from probmodel.tracing.checks.modules import evaluation_mode
from probmodel.tracing.density import Density, refuse_other_draws
from probmodel.tracing.devices import traced_run
from probmodel.tracing.error_messages import raise_time_out
from probmodel.tracing.latents.coordinates import Coordinates
from probmodel.tracing.latents.maps import FixedMaps, Maps, MovingMaps
from probmodel.tracing.latents.supports import moving_supports
from probmodel.tracing.minibatch_scale import row_scaled
from probmodel.tracing.ownership import parameters
from probmodel.tracing.programs.program import Program, bytes_per_call
from probmodel.tracing.randomness import isolated
from probmodel.tracing.site_densities import (
    deterministic_values,
    enumerated,
    log_joint,
    log_likelihood_by_row,
    log_likelihood_by_site,
    log_prior,
    log_prior_by_row,
)
from probmodel.tracing.sites import checked_run, sites


@checks_arguments
def target(model: Model, data: Dataset) -> Target:
    """The joint density of a model's latents with its data, on unconstrained coordinates theta in R^D.

    log p(theta) = log p(data, T(theta)) + log |det T'(theta)|, T the map from R^D to the support of the latents.

    Args:
        model: any Pyro model whose latents are continuous or can be summed out.
        data: data set for its call.

    Returns:
        Target; its functions take draws of shape (S, D), return nats, and split the draws into chunks that fit the memory.

    Raises:
        ValueError: naming the site, where a discrete latent cannot be summed out or the model subsamples itself; naming
            the tensor, where the data are not finite.
    """
    check(model, data)
    check_reading(model, data)
    found = density_of(model, data)
    found.traced()
    return found


def density_of(model: Model, data: Dataset) -> Target:
    """Target of a model and data that are checked already; its graph is recorded on first use."""
    with isolated(seed=0):
        found = sites(model, data)
        moving = moving_supports(model, data, found)
    found = found._replace(moving=moving)
    layout = Coordinates(found.latents)
    dtype, device = _kind(found, data)
    start = layout.join({latent.name: latent.value[None] for latent in found.latents}, dtype, device)[0]
    prepared = row_scaled(model, found, data)

    def ran(placed: Model) -> poutine.Trace:
        with evaluation_mode(model):
            return checked_run(enumerated(placed, found), data, found)

    maps: Maps = MovingMaps(layout, start, ran, prepared) if moving else FixedMaps(layout, start)

    def run(theta: Tensor) -> poutine.Trace:
        return ran(maps.placed(prepared, theta))

    with_jacobian = partial(_with_jacobian, run, maps, found)

    def prior_by_row(theta: Tensor) -> Tensor:
        if not found.row_local:
            raise ValueError(
                "expected a model whose every latent is local to a row, got latents that rows share; use log_prior or log_joint"
            )
        return with_jacobian(log_prior_by_row, by_row=True)(theta)

    def joint_by_row(theta: Tensor) -> Tensor:
        return prior_by_row(theta) + log_likelihood_by_row(run(theta), found)

    def draw(_: Tensor) -> Tensor:
        with evaluation_mode(model):
            return maps.theta_of(traced_run(model, data))

    joint = Density(with_jacobian(log_joint), start)

    def density(function: Callable[[Tensor], Tensor]) -> Density:
        return Density(function, start, like=joint)

    prior = density(with_jacobian(log_prior))
    return Target(
        dim=layout.dim,
        log_prior=prior,
        log_likelihood=lambda theta: joint(theta) - prior(theta),
        log_joint=joint,
        log_likelihood_by_row=density(lambda theta: log_likelihood_by_row(run(theta), found)),
        log_prior_by_row=density(prior_by_row),
        log_joint_by_row=density(joint_by_row),
        log_joint_at=joint.at,
        log_jacobian=density(lambda theta: maps.log_jacobian(theta, lambda: run(theta))),
        log_likelihood_by_site=_by_name(lambda theta: log_likelihood_by_site(run(theta), found), start),
        deterministic=_by_name(lambda theta: deterministic_values(run(theta), found), start),
        sample_prior=_prior_sampler(draw, start),
        constrain=maps.constrain,
        unconstrain=maps.unconstrain,
        by_row=layout.by_row(found.num_rows) if found.row_local and found.num_rows else None,
        dtype=dtype,
        device=device,
        sites=found,
        traced=lambda: _traced(model, joint.program, found),
    )


def _with_jacobian(
    run: Callable[[Tensor], poutine.Trace],
    maps: Maps,
    found: Sites,
    density: Callable[[poutine.Trace, Sites], Tensor],
    *,
    by_row: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Density of theta from one of the latents: log |det| of the maps is added."""

    def at(theta: Tensor) -> Tensor:
        trace = run(theta)
        return density(trace, found) + maps.log_jacobian(theta, lambda: trace, by_row=by_row)

    return at


def _by_name(
    function: Callable[[Tensor], dict[str, Tensor]], start: Tensor
) -> Callable[[Float[Tensor, "S D"]], dict[str, Tensor]]:
    """Function of draws theta (S, D) → tensors by name, each with S in front, of a function of one theta."""
    packed = Density(lambda theta: torch.cat([each.reshape(-1) for each in function(theta).values()]), start)

    def evaluate(theta: Float[Tensor, "S D"]) -> dict[str, Tensor]:
        refuse_other_draws(theta, start.shape)
        with isolated(seed=0), torch.no_grad():
            shapes = {name: value.shape for name, value in function(theta[0]).items()}
            if not shapes:
                return {}
            pieces = packed(theta).split([shape.numel() for shape in shapes.values()], -1)
        return {name: p.reshape(len(theta), *shape) for (name, shape), p in zip(shapes.items(), pieces, strict=True)}

    return evaluate


def _prior_sampler(draw: Callable[[Tensor], Tensor], start: Tensor) -> Callable[[int, int], Float[Tensor, "S D"]]:
    """Function (num_samples, seed) → draws from the prior, all at once where `draw` can be traced."""
    traced = Density(draw, start.new_zeros(()))

    def sample_prior(num_samples: int, seed: int) -> Float[Tensor, "S D"]:
        num_samples = integer("num_samples", num_samples)
        with isolated(seed), torch.no_grad(), pyro.validation_enabled(False), warnings.catch_warnings():
            # A rejection sampler cannot be traced; drawing one by one is slow but no reason to warn.
            warnings.simplefilter("ignore", TracingWarning)
            nothing = start.new_zeros(num_samples)
            try:
                return traced(nothing)
            except RuntimeError as error:
                raise_time_out(error)
                return torch.stack([draw(each) for each in nothing])

    return sample_prior


@singledispatch
def target_of(subject: object) -> Target:
    """The target itself, or that of a posterior's model and data, cached for a few posteriors, as recording takes seconds.

    Raises:
        TypeError: for anything else.
    """
    raise TypeError(
        f"expected a fit or a target, got {type(subject).__name__}; pass a Posterior, or target(model, data)"
    )


@target_of.register
def _(subject: Target) -> Target:
    return subject


@target_of.register
@lru_cache(maxsize=8)
def _(subject: Posterior) -> Target:
    check(subject.model, subject.data)
    found = density_of(subject.model, subject.data)
    check_draws(subject, found.sites)
    return found


def _traced(model: Model, program: Program, found: Sites) -> TraceInfo:
    return TraceInfo(bytes_per_call(program), program.reason, _given(model, program, found))


def _given(model: Model, program: Program, found: Sites) -> tuple[str, ...]:
    """Names of the point estimates that the log joint reads; those of the whole model where it has no graph."""
    named = parameters(model)
    if not named:  # A function that is not fitted yet: its parameters lie in no module of the model.
        return found.parameters
    read = {id(leaf) for leaf in program.leaves}
    return tuple(name for name, value in named.items() if program.run is None or id(value) in read)


def _kind(found: Sites, data: Dataset) -> tuple[torch.dtype, torch.device]:
    """Dtype and device of the latents, else of the first floating-point tensor of the data."""
    candidates = [latent.value for latent in found.latents] + [t for t in data.tensors() if t.is_floating_point()]
    first = candidates[0] if candidates else torch.zeros(())
    return first.dtype, first.device
