"""Modes of the joint density found by ascents, with the evidence that particles have near each, to see what they missed."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import chi2
from torch import Tensor

from probmodel.evidence.annealing.ascent import ascended
from probmodel.evidence.annealing.reference import (
    ProductT,
    ReferenceMixture,
    StudentT,
    TruncatedNormal,
    covariance_factor,
)
from probmodel.protocols.posterior import Target
from probmodel.tracing.curvature import block_index, gradient, hessian_blocks, log_joint_by_block
from probmodel.tracing.randomness import isolated, spawn

MAX_BLOCK = 200
"""Largest number of coordinates per block for which Hessians at modes are worth their cost."""
MAX_MODES = 24
"""Largest number of end points whose curvature is computed."""
NUM_WEIGHED = 500
"""Draws around each mode by which its evidence is estimated."""
REGION = 0.9
"""Probability, under the normal approximation, of the ellipsoid around a mode that is compared with the particles."""
LEAST_FRACTION = 3e-4
"""Fraction of the evidence below which a mode does not matter."""
LEAST_EXPECTED = 3.0
"""Expected number of particles in a region below which their absence says nothing."""
MISSED = 0.25
"""Ratio of the fraction of particles in a region to its fraction of the evidence, below which it counts as missed."""
NEWTON_STEPS = 5
FALL_OF_WIDTH = 0.8
"""Fall of the log density, in nats, at the end of a principal axis: 0.5 at one standard deviation of a normal."""
WIDENED, NUM_HALVINGS = 4.0, 48
"""Longest axis tried, in standard deviations by the curvature, and how often it is halved."""
HEAVY = 1.0
"""Degrees of freedom of the products at the modes: it takes heavy tails to leave a mode far from the prior's bulk."""
MANY = 4
"""Number of modes above which they and one wide component make up the base."""
MODES_WEIGHT = 0.5
"""Weight of the modes in a base distribution that they share with the particles."""


class Modes(NamedTuple):
    """K modes in each of R blocks; a block that has fewer repeats a normal around the particles."""

    components: tuple[StudentT, ...]
    weights: tuple[float, ...]
    """Fraction of the evidence of each mode, averaged over blocks."""

    def __bool__(self) -> bool:
        return bool(self.components)

    def joined(self, base: ReferenceMixture) -> ReferenceMixture:
        """Mixture of a base distribution and, at each mode, a Student-t and a product of heavier ones.

        Of many modes the base gives way to its last component alone, the widest: each component costs its density.
        """
        if not self.components:
            return base
        count = len(self.components)
        if count > MANY:
            base = ReferenceMixture(base.components[-1:], (1.0,))
        heavy = tuple(ProductT(each.coordinates, each.loc, each.scale_tril, HEAVY) for each in self.components)
        shares = [0.5 * MODES_WEIGHT * (0.5 * weight + 0.5 / count) for weight in self.weights]
        kept = [(1 - MODES_WEIGHT) * weight for weight in base.weights]
        return ReferenceMixture((*base.components, *self.components, *heavy), (*kept, *shares, *shares))

    def enclosed(self) -> ReferenceMixture:
        """Mixture of truncated normals inside the modes."""
        inside = tuple(TruncatedNormal(each.coordinates, each.loc, each.scale_tril) for each in self.components)
        return ReferenceMixture(inside, self.weights)


NO_MODES = Modes((), ())


class _Region(NamedTuple):
    """One mode in each block: where it is, its width, and what lies inside its ellipsoid."""

    loc: Float[Tensor, "R d"]
    scale_tril: Float[Tensor, "R d d"]
    is_mode: Bool[Tensor, " R"]
    log_z: Float[Tensor, " R"]
    """Log evidence inside the ellipsoid, in nats."""

    def holds(self, blocks: Float[Tensor, "S R d"]) -> Bool[Tensor, "S R"]:
        """Return whether points lie in the ellipsoid of a mode."""
        return (_squared(blocks, self.loc, self.scale_tril) <= _radius(self.loc.shape[1])) & self.is_mode


def missed_modes(
    target: Target, theta: Float[Tensor, "P D"], log_z: Float[Tensor, " R"], prior: Float[Tensor, "Q D"], seed: int
) -> Modes:
    """All modes that ascents find, if particles have missed one of them; none otherwise.

    A mode is missed if its share of the evidence, by importance sampling around it, is several times the share of
    particles there.

    Args:
        target: density of the particles.
        theta: particles.
        log_z: log evidence of each block by the particles, in nats.
        prior: draws of the prior, from which ascents start.
        seed: random seed of the starts and the draws around the modes.
    """
    index = block_index(target).to(target.device)
    if index.shape[1] > MAX_BLOCK:
        return NO_MODES
    regions = _regions(target, index, ascended(target, prior, spawn(seed, 1)), spawn(seed, 2))
    if not regions:
        return NO_MODES
    masses = torch.stack([each.log_z for each in regions])
    total = torch.logsumexp(torch.cat([log_z.to(masses)[None], masses]), 0)
    share = torch.exp(masses - total)
    seen = torch.stack([each.holds(theta[:, index]).double().mean(0) for each in regions])
    missed = (share * len(theta) > LEAST_EXPECTED) & (seen < MISSED * share)
    if not missed.any():
        return NO_MODES
    kept = [k for k in range(len(regions)) if bool((share[k] > LEAST_FRACTION).any())]
    plain = theta[:, index].mean(0), covariance_factor(theta, index)
    weights = (share[kept] / share[kept].sum(0).clamp(min=1e-300)).mean(1)
    return Modes(tuple(_component(regions[k], index, plain) for k in kept), tuple((weights / weights.sum()).tolist()))


def _component(each: _Region, index: Int[Tensor, "R d"], plain: tuple[Tensor, Tensor]) -> StudentT:
    loc = torch.where(each.is_mode[:, None], each.loc, plain[0])
    return StudentT(index, loc, torch.where(each.is_mode[:, None, None], each.scale_tril, plain[1]))


def _regions(target: Target, index: Int[Tensor, "R d"], ends: Float[Tensor, "S D"], seed: int) -> list[_Region]:
    """Distinct modes among end points, the highest first, at most `MAX_MODES` tried."""
    if not len(ends):
        return []
    with torch.no_grad():
        values = log_joint_by_block(target, ends).sum(1).nan_to_num(-math.inf, -math.inf, -math.inf)
    found: list[_Region] = []
    tried = 0
    for place in values.argsort(descending=True).tolist():
        blocks = ends[place][index]
        is_new = torch.ones(len(index), dtype=torch.bool, device=index.device)
        for each in found:
            is_new &= ~each.holds(blocks[None])[0]
        if not is_new.any() or tried == MAX_MODES or not math.isfinite(float(values[place])):
            continue
        tried += 1
        region = _region(target, index, ends[place], spawn(seed, tried))
        region = region._replace(is_mode=region.is_mode & is_new)
        for each in found:  # Newton steps may have ended at a mode that is known.
            region = region._replace(is_mode=region.is_mode & ~each.holds(region.loc[None])[0])
        if region.is_mode.any():
            found.append(region._replace(log_z=region.log_z.masked_fill(~region.is_mode, -math.inf)))
    return found


def _region(target: Target, index: Int[Tensor, "R d"], theta: Float[Tensor, " D"], seed: int) -> _Region:
    """Mode that Newton steps reach from `theta` in each block, its curvature, and the evidence inside its ellipsoid."""
    for _ in range(NEWTON_STEPS):
        factor, is_maximum = _precision(target, index, theta)
        step = torch.zeros_like(theta)
        step[index] = torch.cholesky_solve(gradient(target, theta)[index][..., None], factor).squeeze(-1)
        moved = theta + step
        with torch.no_grad():
            before, after = log_joint_by_block(target, torch.stack([theta, moved]))
        better = (after > before) & is_maximum
        if not better.any():
            break
        advanced = theta.clone()
        advanced[index] = torch.where(better[:, None], moved[index], theta[index])
        theta = advanced
    scale, is_mode = _width(target, index, theta)
    return _weighed(target, StudentT(index, theta[index], scale), is_mode, seed)


def _width(
    target: Target, index: Int[Tensor, "R d"], theta: Float[Tensor, " D"]
) -> tuple[Float[Tensor, "R d d"], Bool[Tensor, " R"]]:
    """Cholesky factor of a covariance at `theta`: principal axes of the Hessian, as long as the density stays high.

    Where the curvature vanishes at the mode, its inverse says nothing about the width.
    """
    values, axes = torch.linalg.eigh(_symmetric(-hessian_blocks(target, theta)))
    tiny = torch.finfo(theta.dtype).eps
    longest = WIDENED * values.abs().clamp(min=tiny).rsqrt()
    lengths = longest * 0.5 ** torch.arange(NUM_HALVINGS, dtype=theta.dtype, device=theta.device)[:, None, None]
    falls = torch.stack([_falls(target, index, theta, axes, lengths, axis) for axis in range(index.shape[1])], -1)
    fits = falls < FALL_OF_WIDTH
    width = torch.where(fits, lengths, torch.zeros_like(lengths)).max(0).values
    is_mode = (width > 0).all(-1) & torch.isfinite(width).all(-1)
    width = torch.where(is_mode[:, None], width, torch.ones_like(width))
    covariance = torch.einsum("rij,rj,rkj->rik", axes, width.square(), axes)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    identity = torch.eye(index.shape[1], dtype=theta.dtype, device=theta.device).expand_as(factor)
    is_mode &= failed == 0
    return torch.where(is_mode[:, None, None], factor, identity), is_mode


def _falls(
    target: Target, index: Tensor, theta: Tensor, axes: Tensor, lengths: Tensor, axis: int
) -> Float[Tensor, "H R"]:
    """Mean fall of the log density at both ends of an axis, for each of its lengths, in nats."""
    offset = lengths[:, :, axis, None] * axes[None, :, :, axis]
    places = theta.expand(2 * len(lengths) + 1, -1).clone()
    places[:-1, index] += torch.cat([offset, -offset])
    with torch.no_grad():
        log_p = log_joint_by_block(target, places)
    return (log_p[-1] - 0.5 * (log_p[: len(lengths)] + log_p[len(lengths) : -1])).nan_to_num(math.inf)


def _precision(target: Target, index: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    factor, failed = torch.linalg.cholesky_ex(_symmetric(-hessian_blocks(target, theta)))
    identity = torch.eye(index.shape[1], dtype=theta.dtype, device=theta.device).expand_as(factor)
    is_maximum = failed == 0
    return torch.where(is_maximum[:, None, None], factor, identity), is_maximum


def _symmetric(matrices: Float[Tensor, "R d d"]) -> Float[Tensor, "R d d"]:
    return torch.nan_to_num(0.5 * (matrices + matrices.mT), 0.0, 0.0, 0.0)


def _weighed(target: Target, proposal: StudentT, is_mode: Bool[Tensor, " R"], seed: int) -> _Region:
    with isolated(seed), torch.no_grad():
        theta = proposal.sample(NUM_WEIGHED)
        log_w = (log_joint_by_block(target, theta) - proposal.log_prob(theta)).double()
    blocks = theta[:, proposal.coordinates]
    inside = _squared(blocks, proposal.loc, proposal.scale_tril) <= _radius(proposal.loc.shape[1])
    log_w = torch.where(inside & torch.isfinite(log_w), log_w, -math.inf)
    log_z = torch.logsumexp(log_w, 0) - math.log(NUM_WEIGHED)
    return _Region(proposal.loc, proposal.scale_tril, is_mode, log_z)


def _squared(
    blocks: Float[Tensor, "S R d"], loc: Float[Tensor, "R d"], scale_tril: Float[Tensor, "R d d"]
) -> Float[Tensor, "S R"]:
    offset = (blocks - loc).permute(1, 2, 0)
    return torch.linalg.solve_triangular(scale_tril, offset, upper=False).square().sum(1).T


def _radius(d: int) -> float:
    return float(chi2.ppf(REGION, d))
