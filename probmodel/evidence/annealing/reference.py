"""Base distributions of annealing, which are sampled exactly and have a normalized density in closed form."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import chi2
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Chi2

from probmodel.protocols.posterior import Target
from probmodel.protocols.structural import Structural
from probmodel.tracing.curvature import block_index

DEGREES_OF_FREEDOM = 5.0
"""Degrees of freedom of a base: tails heavier than any normal's, light enough to keep draws near the mode."""
DRAWS_PER_COORDINATE = 5
"""Draws needed per coordinate for a full covariance matrix; with fewer the matrix is diagonal."""
DEFENSIVE_WEIGHT = 0.1
DEFENSIVE_SCALE = 3.0
"""Weight and relative scale of the second component of a defensive mixture (Hesterberg, 1995)."""
DEFENSIVE_DEGREES = 2.0
TRUNCATED_WEIGHT = 0.95
CLUSTERS = (2, 4, 8, 16, 32)
"""Numbers of mixture components that are tried in turn, until BIC rises."""
MAX_CLUSTERED, MIN_CLUSTERED, NUM_CLUSTERED = 12, 200, 2_000
"""Largest number of coordinates, and least and largest number of draws, for which clusters are sought."""
REGULARIZATION = 1e-4
"""Added to the variances of standardized draws, so that a cluster of a few equal draws has a positive width."""


@runtime_checkable
class Base(Protocol, metaclass=Structural):
    """A normalized distribution of theta in R independent blocks of d coordinates."""

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]: ...

    def log_prob(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]: ...


class StudentT(NamedTuple):
    """Multivariate Student-t in each block; draws use the global random state, so call `sample` inside `isolated`."""

    coordinates: Int[Tensor, "R d"]
    loc: Float[Tensor, "R d"]
    scale_tril: Float[Tensor, "R d d"]
    degrees: float = DEGREES_OF_FREEDOM

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]:
        """Draws of theta."""
        rows, d = self.loc.shape
        noise = torch.randn(num_samples, rows, d, dtype=self.loc.dtype, device=self.loc.device)
        nu = self.loc.new_tensor(self.degrees)
        stretch = (Chi2(nu).sample((num_samples, rows)) / nu).rsqrt()
        offset = torch.einsum("rij,srj->sri", self.scale_tril, noise) * stretch[..., None]
        return _joined(self.loc + offset, self.coordinates)

    def log_prob(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
        """Log density of each block."""
        nu, d = self.degrees, self.loc.shape[1]
        squared = _squared_distance(theta, self.coordinates, self.loc, self.scale_tril)
        half_log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - 0.5 * d * math.log(nu * math.pi)
        return constant - half_log_det - 0.5 * (nu + d) * torch.log1p(squared / nu)


class ProductT(NamedTuple):
    """Product of Student-t distributions along the axes of `scale_tril`, as heavy along each of them as across.

    Coordinates with heavy tails of their own put more density on the axes than any multivariate Student-t does.
    """

    coordinates: Int[Tensor, "R d"]
    loc: Float[Tensor, "R d"]
    scale_tril: Float[Tensor, "R d d"]
    degrees: float

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]:
        """Draws of theta."""
        shape = num_samples, *self.loc.shape
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        nu = self.loc.new_tensor(self.degrees)
        noise = noise * (Chi2(nu).sample(shape) / nu).rsqrt()
        return _joined(self.loc + torch.einsum("rij,srj->sri", self.scale_tril, noise), self.coordinates)

    def log_prob(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
        """Log density of each block."""
        nu = self.degrees
        offset = (theta[:, self.coordinates] - self.loc).permute(1, 2, 0)
        z = torch.linalg.solve_triangular(self.scale_tril, offset, upper=False)
        constant = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        half_log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (constant - 0.5 * (nu + 1) * torch.log1p(z.square() / nu)).sum(1).T - half_log_det


class ReferenceMixture(NamedTuple):
    """Mixture of base distributions; each block draws its component independently."""

    components: "tuple[StudentT | ProductT | TruncatedNormal, ...]"
    weights: tuple[float, ...]

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]:
        """Draws of theta."""
        index = self.components[0].coordinates
        drawn = torch.stack([component.sample(num_samples)[:, index] for component in self.components])
        weights = torch.tensor(self.weights, dtype=torch.float64, device=index.device)
        chosen = torch.multinomial(weights, num_samples * len(index), replacement=True).reshape(num_samples, len(index))
        picked = drawn.gather(0, chosen[None, ..., None].expand(1, *drawn.shape[1:]))[0]
        return _joined(picked, index)

    def log_prob(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
        """Log density of each block."""
        terms = [
            component.log_prob(theta) + math.log(weight)
            for component, weight in zip(self.components, self.weights, strict=True)
        ]
        return torch.logsumexp(torch.stack(terms), 0)


class TruncatedNormal(NamedTuple):
    """Normal in each block, truncated to the ellipsoid that holds probability `weight` (Geweke, 1999).

    Its tails are lighter than those of any target with a density there: the ratio base / target, from which backward
    weights are computed, stays bounded where a full normal or a Student-t would give it an infinite variance.
    """

    coordinates: Int[Tensor, "R d"]
    loc: Float[Tensor, "R d"]
    scale_tril: Float[Tensor, "R d d"]
    weight: float = TRUNCATED_WEIGHT

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]:
        """Draws of theta."""
        rows, d = self.loc.shape
        noise = torch.randn(num_samples, rows, d, dtype=self.loc.dtype, device=self.loc.device)
        direction = noise / noise.norm(dim=-1, keepdim=True)
        uniform = torch.rand(num_samples, rows, dtype=torch.float64)
        squared = torch.from_numpy(chi2.ppf(self.weight * uniform.numpy(), d)).to(noise)
        offset = torch.einsum("rij,srj->sri", self.scale_tril, direction * squared.sqrt()[..., None])
        return _joined(self.loc + offset, self.coordinates)

    def log_prob(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
        """Log density of each block; −inf outside its ellipsoid."""
        d = self.loc.shape[1]
        squared = _squared_distance(theta, self.coordinates, self.loc, self.scale_tril)
        half_log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_normal = -0.5 * squared - half_log_det - 0.5 * d * math.log(2 * math.pi)
        inside = squared <= float(chi2.ppf(self.weight, d))
        return torch.where(inside, log_normal - math.log(self.weight), -torch.inf)


class Prior(NamedTuple):
    """The model's own prior."""

    target: Target
    seed: int

    def sample(self, num_samples: int) -> Float[Tensor, "S D"]:
        """Draws of the model's latents, the same on every call."""
        return self.target.sample_prior(num_samples, self.seed)

    def log_prob(self, theta: Float[Tensor, "S D"]) -> Float[Tensor, "S R"]:
        """Log prior density, per row where every latent is local to a row."""
        if self.target.by_row is None:
            return self.target.log_prior(theta)[:, None]
        return self.target.log_prior_by_row(theta)


def _joined(blocks: Float[Tensor, "S R d"], index: Int[Tensor, "R d"]) -> Float[Tensor, "S D"]:
    """Theta assembled from the coordinates of its blocks."""
    theta = blocks.new_empty(len(blocks), index.numel())
    theta[:, index.flatten()] = blocks.flatten(1)
    return theta


def _squared_distance(
    theta: Float[Tensor, "S D"],
    index: Int[Tensor, "R d"],
    loc: Float[Tensor, "R d"],
    scale_tril: Float[Tensor, "R d d"],
) -> Float[Tensor, "S R"]:
    """Squared Mahalanobis distance of each block."""
    offset = (theta[:, index] - loc).permute(1, 2, 0)
    return torch.linalg.solve_triangular(scale_tril, offset, upper=False).square().sum(1).T


def covariance_factor(theta: Float[Tensor, "S D"], index: Int[Tensor, "R d"]) -> Float[Tensor, "R d d"]:
    """Cholesky factors of the covariance of draws in each block; diagonal if the draws are too few for more."""
    blocks = theta[:, index]
    centered = blocks - blocks.mean(0)
    variance = centered.square().sum(0) / max(1, len(theta) - 1)
    # A constant coordinate needs a positive scale by which kernels can move it.
    variance = torch.where(variance > 0, variance, torch.ones_like(variance))
    if len(theta) < DRAWS_PER_COORDINATE * index.shape[1]:
        return torch.diag_embed(variance.sqrt())
    covariance = torch.einsum("srd,sre->rde", centered, centered) / (len(theta) - 1)
    # One part in a million of each variance keeps rounding errors from making the matrix indefinite.
    factor, failed = torch.linalg.cholesky_ex(covariance + 1e-6 * torch.diag_embed(variance))
    broken = (failed > 0)[:, None, None]
    return torch.where(broken, torch.diag_embed(variance.sqrt()), factor)


def matched(target: Target, theta: Float[Tensor, "S D"]) -> ReferenceMixture:
    """Defensive mixture of Student-t distributions matched to draws (Hesterberg, 1995).

    It has one component per cluster and, with weight 0.1, a wider one with heavier tails, so that the ratio target /
    base stays bounded where the tails of the matched components are too light.
    """
    index = block_index(target)
    t_scale = math.sqrt((DEGREES_OF_FREEDOM - 2) / DEGREES_OF_FREEDOM)
    found = clusters(theta, index)
    narrow = [StudentT(index, c.loc, c.scale_tril * t_scale) for c in found]
    return _defended(narrow, [c.weight for c in found], theta[:, index].mean(0), covariance_factor(theta, index))


def around(narrow: StudentT) -> ReferenceMixture:
    """Defensive mixture of one Student-t and a wider one with heavier tails."""
    return _defended([narrow], [1.0], narrow.loc, narrow.scale_tril)


def enclosed(target: Target, theta: Float[Tensor, "S D"]) -> ReferenceMixture:
    """Mixture of truncated normals inside the clusters of draws."""
    index = block_index(target)
    found = clusters(theta, index)
    return ReferenceMixture(
        tuple(TruncatedNormal(index, c.loc, c.scale_tril) for c in found), tuple(c.weight for c in found)
    )


def normal(target: Target, theta: Float[Tensor, "S D"]) -> TruncatedNormal:
    """Normal with the mean and covariance of draws, without truncation."""
    index = block_index(target)
    return TruncatedNormal(index, theta[:, index].mean(0), covariance_factor(theta, index), weight=1.0)


def _defended(
    narrow: Sequence[StudentT], weights: Sequence[float], loc: Float[Tensor, "R d"], scale_tril: Float[Tensor, "R d d"]
) -> ReferenceMixture:
    wide = StudentT(narrow[0].coordinates, loc, scale_tril * DEFENSIVE_SCALE, DEFENSIVE_DEGREES)
    return ReferenceMixture(
        (*narrow, wide), (*((1 - DEFENSIVE_WEIGHT) * weight for weight in weights), DEFENSIVE_WEIGHT)
    )


class Cluster(NamedTuple):
    """One component of a normal mixture fitted to draws."""

    weight: float
    loc: Float[Tensor, "R d"]
    scale_tril: Float[Tensor, "R d d"]


def clusters(theta: Float[Tensor, "S D"], index: Int[Tensor, "R d"]) -> list[Cluster]:
    """Normal mixture fitted to draws, sized by BIC.

    It has one component if rows are independent, coordinates many or draws few.
    """
    single = [Cluster(1.0, theta[:, index].mean(0), covariance_factor(theta, index))]
    rows, d = index.shape
    if rows > 1 or d > MAX_CLUSTERED or len(theta) < MIN_CLUSTERED:
        return single
    chosen = torch.linspace(0, len(theta) - 1, min(len(theta), NUM_CLUSTERED), device=theta.device).long()
    draws = theta[chosen].double().numpy(force=True)
    scale = draws.std(0) + np.finfo(float).tiny
    best, best_bic = None, GaussianMixture(1, random_state=0).fit(draws / scale).bic(draws / scale)
    for size in CLUSTERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # Any mixture is valid: weights correct for it.
            fitted = GaussianMixture(size, random_state=0, reg_covar=REGULARIZATION).fit(draws / scale)
        bic = fitted.bic(draws / scale)
        if bic >= best_bic:
            break
        best, best_bic = fitted, bic
    if best is None:
        return single
    factors = np.linalg.cholesky(best.covariances_) * scale[:, None]
    return [
        Cluster(float(weight), theta.new_tensor(loc * scale)[None], theta.new_tensor(factor)[None])
        for weight, loc, factor in zip(best.weights_, best.means_, factors, strict=True)
    ]
