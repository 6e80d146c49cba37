"""Exact posterior and evidence of conjugate models, recognized numerically instead of by the names of distributions.

A posterior stays in the family of its prior exactly when the log joint is linear in that family's sufficient statistics.
The coefficients are solved for at random points and verified at others, so the result holds however the model is written.

Reference:
    Bernardo & Smith (1994), "Bayesian theory", section 5.2.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import NotConjugateError
from probmodel.protocols.model import ClosedForm, ExactGuide, Model
from probmodel.protocols.posterior import Target
from probmodel.protocols.sites import Latent
from probmodel.tracing.curvature import NormalApproximation, gaussian_at, gradient
from probmodel.tracing.latents.supports import refuse_moved
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import density_of

CONJUGATE_ERROR = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest misfit of the family at fresh points, relative to the largest log joint there: rounding errors only."""
NUM_CHECKS = 8
NUM_PRIOR_CHECKS = 200
CHECK_DISTANCES = (3.0, -3.0, 12.0, -12.0, 50.0, -50.0)
"""Distances from the mode, in posterior standard deviations, at which the quadratic is verified besides prior draws."""


class Conjugate(NamedTuple):
    """An exact posterior: one normal over all latents, one distribution per site, or the model's own guide."""

    log_z: float
    gaussian: NormalApproximation | None
    by_site: Mapping[str, TorchDistributionMixin]
    guide: ExactGuide | None = None


def conjugate(model: Model, data: Dataset) -> Conjugate:
    """Exact posterior and log evidence, in nats.

    A posterior that the model supplies itself is returned as it is.  Otherwise the method covers normal latents with a
    quadratic log joint (any linear Gaussian model, also with one code per row), and independent beta, Dirichlet and gamma
    sites.

    Args:
        model: any Pyro model.
        data: data set for its call.

    Raises:
        NotConjugateError: where the log joint is not linear in the sufficient statistics; the message states the misfit.
    """
    known = supplied(model, data)
    if known is not None:
        return known
    return conjugate_target(density_of(model, data))


def supplied(model: Model, data: Dataset) -> Conjugate | None:
    """Exact posterior that the model itself supplies in closed form; None where it supplies none."""
    found = model.exact_posterior(data) if isinstance(model, ClosedForm) else None
    return None if found is None else Conjugate(found.log_evidence, None, {}, found.guide)


def conjugate_target(target: Target) -> Conjugate:
    """Exact posterior and log evidence of an existing target, given the latents of its coordinates; see `conjugate`."""
    latents = target.sites.latents
    if not latents:
        return Conjugate(float(target.log_joint_at(torch.zeros(0, dtype=target.dtype))), None, {})
    refuse_moved(target.sites, "an exact posterior")
    if all(_is_real(latent) for latent in latents):
        return normal_posterior(target)
    return _independent(target, latents)


def _is_real(latent: Latent) -> bool:
    return latent.shape == latent.unconstrained_shape and latent.support is constraints.real


def normal_posterior(target: Target) -> Conjugate:
    """The normal posterior of a target whose log joint is quadratic in its coordinates.

    Raises:
        NotConjugateError: where it is not quadratic.
    """
    start = torch.zeros(target.dim, dtype=target.dtype, device=target.device)
    base = gaussian_at(target, start)
    # One Newton step from anywhere reaches the maximum of a quadratic.
    step = torch.zeros_like(start)
    grad = gradient(target, start)[base.coordinates]
    step[base.coordinates] = torch.linalg.solve(base.precision, grad[..., None]).squeeze(-1)
    gaussian = gaussian_at(target, start + step)
    top = target.log_joint_at(gaussian.loc)
    with isolated(seed=0):
        offsets = gaussian.sample(NUM_CHECKS) - gaussian.loc
    # Near the mode, and so far out that another mode would show: each direction and its opposite.
    points = torch.cat([gaussian.loc + reach * offsets for reach in CHECK_DISTANCES])
    if not target.improper:
        points = torch.cat([points, target.sample_prior(NUM_PRIOR_CHECKS, 0)])
    offset = (points - gaussian.loc)[:, gaussian.coordinates]
    quadratic = top - 0.5 * torch.einsum("sri,rij,srj->s", offset, gaussian.precision, offset)
    _verify(target.log_joint(points), quadratic)
    return Conjugate(float(top + gaussian.log_normalizer()), gaussian, {})


def _verify(log_joint: Float[Tensor, " S"], predicted: Float[Tensor, " S"]) -> None:
    scale = max(1.0, float(log_joint.abs().max()))
    misfit = float((log_joint - predicted).abs().max()) / scale
    if not misfit < CONJUGATE_ERROR.get(log_joint.dtype, 1e-3):
        raise NotConjugateError(
            f"expected a log joint linear in sufficient statistics of a normal, beta, Dirichlet or gamma posterior, got "
            f"a relative misfit of {misfit:.2g}; use NUTS, SVI or Laplace instead of an exact method"
        )


def _independent(target: Target, latents: tuple[Latent, ...]) -> Conjugate:
    families = {latent.name: _family(latent) for latent in latents}
    count = 1 + sum(family.num_statistics(latent) for latent, family in zip(latents, families.values(), strict=True))
    with isolated(seed=0):
        theta = torch.randn(2 * count + NUM_CHECKS, target.dim, dtype=target.dtype, device=target.device)
    statistics = _statistics(target, latents, families, theta)
    design = torch.cat([torch.ones_like(theta[:, :1]), *statistics], -1)
    log_density = target.log_joint(theta) - _log_jacobian(latents, theta)
    fit = len(theta) - NUM_CHECKS
    natural = torch.linalg.lstsq(design[:fit], log_density[:fit, None], driver="gelsd").solution[:, 0]
    _verify(log_density[fit:], design[fit:] @ natural)
    log_z, position = natural[0], 1
    by_site: dict[str, TorchDistributionMixin] = {}
    for latent, block in zip(latents, statistics, strict=True):
        eta = natural[position : position + block.shape[1]]
        position += block.shape[1]
        by_site[latent.name], log_partition = families[latent.name].posterior(eta, latent)
        log_z = log_z + log_partition
    with isolated(seed=0):
        drawn = {name: found.sample(torch.Size([NUM_PRIOR_CHECKS])) for name, found in by_site.items()}
    # Where the posterior lies, which may be far from the points of the fit: a bound on a rate is then of effect.
    _verify_at(target, latents, families, natural, target.unconstrain(drawn))
    if not target.improper:
        _verify_at(target, latents, families, natural, target.sample_prior(NUM_PRIOR_CHECKS, 0))
    return Conjugate(float(log_z), None, by_site)


def _statistics(
    target: Target, latents: tuple[Latent, ...], families: Mapping[str, Any], theta: Float[Tensor, "S D"]
) -> list[Tensor]:
    values = target.constrain(theta)
    return [families[latent.name].statistics(values[latent.name]).flatten(1) for latent in latents]


def _verify_at(
    target: Target,
    latents: tuple[Latent, ...],
    families: Mapping[str, Any],
    natural: Float[Tensor, " K"],
    theta: Float[Tensor, "S D"],
) -> None:
    """Verify the linear form at further draws, apart from those that rounding has put onto the edge of their support."""
    design = torch.cat([torch.ones_like(theta[:, :1]), *_statistics(target, latents, families, theta)], -1)
    inside = design.isfinite().all(-1)
    if bool(inside.any()):
        log_density = target.log_joint(theta[inside]) - _log_jacobian(latents, theta[inside])
        _verify(log_density, design[inside] @ natural)


def _log_jacobian(latents: tuple[Latent, ...], theta: Float[Tensor, "S D"]) -> Float[Tensor, " S"]:
    total = theta.new_zeros(len(theta))
    pieces = theta.split([latent.unconstrained_shape.numel() for latent in latents], -1)
    for latent, piece in zip(latents, pieces, strict=True):
        u = piece.reshape(len(theta), *latent.unconstrained_shape)
        total = total + latent.transform.log_abs_det_jacobian(u, latent.transform(u)).reshape(len(theta), -1).sum(-1)
    return total


class _Beta:
    """Beta family, with sufficient statistics log x and log(1 − x)."""

    def num_statistics(self, latent: Latent) -> int:
        return 2 * latent.shape.numel()

    def statistics(self, value: Tensor) -> Tensor:
        return torch.stack([value.log(), torch.log1p(-value)], -1)

    def posterior(self, eta: Tensor, latent: Latent) -> tuple[TorchDistributionMixin, Tensor]:
        a, b = (eta.reshape(*latent.shape, 2) + 1).unbind(-1)
        log_partition = (a.lgamma() + b.lgamma() - (a + b).lgamma()).sum()
        return dist.Beta(a, b).to_event(latent.event_dim), log_partition


class _Gamma:
    """Gamma family, with sufficient statistics log x and x."""

    def num_statistics(self, latent: Latent) -> int:
        return 2 * latent.shape.numel()

    def statistics(self, value: Tensor) -> Tensor:
        return torch.stack([value.log(), value], -1)

    def posterior(self, eta: Tensor, latent: Latent) -> tuple[TorchDistributionMixin, Tensor]:
        shape, rate = eta.reshape(*latent.shape, 2).unbind(-1)
        shape, rate = shape + 1, -rate
        return dist.Gamma(shape, rate).to_event(latent.event_dim), (shape.lgamma() - shape * rate.log()).sum()


class _Dirichlet:
    """Dirichlet family, with sufficient statistics log x."""

    def num_statistics(self, latent: Latent) -> int:
        return latent.shape.numel()

    def statistics(self, value: Tensor) -> Tensor:
        return value.log()

    def posterior(self, eta: Tensor, latent: Latent) -> tuple[TorchDistributionMixin, Tensor]:
        concentration = eta.reshape(latent.shape) + 1
        log_partition = (concentration.lgamma().sum(-1) - concentration.sum(-1).lgamma()).sum()
        return dist.Dirichlet(concentration).to_event(latent.event_dim - 1), log_partition


def _family(latent: Latent) -> _Beta | _Gamma | _Dirichlet:
    families: dict[Constraint, _Beta | _Gamma | _Dirichlet] = {
        constraints.unit_interval: _Beta(),
        constraints.positive: _Gamma(),
        constraints.nonnegative: _Gamma(),
        constraints.simplex: _Dirichlet(),
    }
    if latent.support not in families:
        raise NotConjugateError(
            f"expected normal latents alone, or beta, gamma and Dirichlet ones alone, got site {latent.name!r} on "
            f"{latent.support}; use NUTS, SVI or Laplace"
        )
    return families[latent.support]
