"""Conjugate families of a node given its parents: each holds a prior, draws parameters, and returns their posterior.

Reference:
    Heckerman, Geiger & Chickering (1995), "Learning Bayesian networks: the combination of knowledge and statistical data",
    Machine Learning; Geiger & Heckerman (2002), "Parameter priors for directed acyclic graphical models", Annals of
    Statistics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

Combination = Int[Tensor, "*N"] | EllipsisType
"""Index of each row's combination of discrete parents; an ellipsis where a real node has none."""


class FamilyRows(NamedTuple):
    """Columns of the rows that a family depends on."""

    child: Tensor
    combination: Combination
    regressors: Float[Tensor, "*N p"]
    """Values of the real parents."""

    @property
    def combination_index(self) -> Int[Tensor, "*N"]:
        """Index of the combination of each row; 0 if there is a single combination."""
        none = isinstance(self.combination, EllipsisType)
        return torch.zeros_like(self.child, dtype=torch.long) if none else self.combination  # type: ignore[return-value]

    def subset(self, rows: Tensor) -> "FamilyRows":
        """The columns of some rows alone."""
        combination = self.combination if isinstance(self.combination, EllipsisType) else self.combination[rows]
        return FamilyRows(self.child[rows], combination, self.regressors[rows])


@dataclass(frozen=True)
class DirichletTable:
    """Table with rows θ_j ~ Dirichlet(α_j), one per combination j of a discrete node's parents.

    Args:
        concentration: (q, r) α.
    """

    concentration: Float[Tensor, "q r"]

    def sample_site(self, node: str) -> Float[Tensor, "q r"]:
        """Sample the table at its Pyro site."""
        return pyro.sample(f"{node}.probabilities", dist.Dirichlet(self.concentration).to_event(1))

    def draws(self, node: str, num_samples: int) -> dict[str, Tensor]:
        """Independent draws by site, one per entry of the first axis."""
        return {f"{node}.probabilities": dist.Dirichlet(self.concentration).sample(torch.Size((num_samples,)))}

    def likelihood(self, table: Float[Tensor, "q r"], rows: FamilyRows) -> TorchDistributionMixin:
        """Distribution of the child given its parents and the table."""
        return dist.Categorical(table[rows.combination])

    def posterior(self, rows: FamilyRows) -> tuple["DirichletTable", float]:
        """Posterior of the table, and the log evidence of the child's column (the Pólya urn), in nats."""
        q, r = self.concentration.shape
        cell = rows.combination_index * r + rows.child
        counted = torch.bincount(cell.reshape(-1), minlength=q * r).reshape(q, r)
        prior, after = self.concentration.double(), self.concentration.double() + counted
        by_combination = torch.lgamma(prior.sum(1)) - torch.lgamma(after.sum(1))
        log_evidence = by_combination.sum() + (torch.lgamma(after) - torch.lgamma(prior)).sum()
        return DirichletTable(after.to(self.concentration)), float(log_evidence)

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return dict(vars(self))


class Regression(NamedTuple):
    """Regression y ~ N(intercept + slopes · parents, variance), for each combination of discrete parents."""

    variance: Float[Tensor, "*q"]
    slopes: Float[Tensor, "*q p"]
    intercept: Float[Tensor, "*q"]


@dataclass(frozen=True)
class NormalInverseGamma:
    """Distribution of a regression's parameters, for each combination of discrete parents.

        σ² ~ InvGamma(shape, rate),   b | σ² ~ N(slopes, σ² T Tᵀ),   m | b, σ² ~ N(center − b · regressors, σ² / rows).

    The mean is specified at the point where the parents equal `regressors`, so that the posterior has the same form.

    Args:
        shape: shape of the distribution of σ².
        rate: rate of the distribution of σ².
        slopes: mean of b.
        scale_tril: T, lower triangular.
        center: mean of the child where its parents equal `regressors`.
        regressors: values of the parents at which `center` is the mean.
        rows: equivalent sample size of the mean, in rows.
    """

    shape: Float[Tensor, "*q"]
    rate: Float[Tensor, "*q"]
    slopes: Float[Tensor, "*q p"]
    scale_tril: Float[Tensor, "*q p p"]
    center: Float[Tensor, "*q"]
    regressors: Float[Tensor, "*q p"]
    rows: Float[Tensor, "*q"]

    def sample_site(self, node: str) -> Regression:
        """Sample the parameters at their Pyro sites."""
        axes = self.shape.dim()
        variance = pyro.sample(f"{node}.variance", self._variance().to_event(axes))
        slopes = self.slopes
        if self.slopes.shape[-1]:
            slopes = pyro.sample(f"{node}.slopes", self._slopes(variance).to_event(axes))
        intercept = pyro.sample(f"{node}.intercept", self._intercept(variance, slopes).to_event(axes))
        return Regression(variance, slopes, intercept)

    def draws(self, node: str, num_samples: int) -> dict[str, Tensor]:
        """Independent draws by site, one per entry of the first axis."""
        variance = self._variance().sample(torch.Size((num_samples,)))
        none = self.slopes.expand(*variance.shape, self.slopes.shape[-1])
        slopes = self._slopes(variance).sample() if self.slopes.shape[-1] else none
        found = {f"{node}.variance": variance, f"{node}.slopes": slopes}
        found[f"{node}.intercept"] = self._intercept(variance, slopes).sample()
        return found if self.slopes.shape[-1] else {name: v for name, v in found.items() if name != f"{node}.slopes"}

    def likelihood(self, regression: Regression, rows: FamilyRows) -> TorchDistributionMixin:
        """Distribution of the child given its parents and the regression."""
        variance, slopes, intercept = (each[rows.combination] for each in regression)
        return dist.Normal(intercept + (slopes * rows.regressors).sum(-1), variance.sqrt())

    def posterior(self, rows: FamilyRows) -> tuple["NormalInverseGamma", float]:
        """Posterior of the regression, and the log evidence of the child's column, in nats."""
        if isinstance(rows.combination, EllipsisType):
            # The formulas need an axis of combinations, here of length one.
            whole = self._map(lambda value: value[None])
            after, log_evidence = whole.posterior(rows._replace(combination=rows.combination_index))
            return after._map(lambda value: value[0]), log_evidence
        prior, like = self._map(lambda value: value.double()), self.shape
        n, x_mean, y_mean, xx, xy, yy = _moments(rows, len(self.shape))
        total = prior.rows + n
        weight = prior.rows * n / total
        dx, dy = x_mean - prior.regressors, y_mean - prior.center
        xx = xx + weight[:, None, None] * dx[:, :, None] * dx[:, None, :]
        xy, yy = xy + (weight * dy)[:, None] * dx, yy + weight * dy.square()
        precision = torch.cholesky_inverse(prior.scale_tril)
        factor = torch.linalg.cholesky(precision + xx)
        start = (precision @ prior.slopes[..., None])[..., 0]
        slopes = torch.cholesky_solve((start + xy)[..., None], factor)[..., 0]
        moved = slopes - prior.slopes
        residual = yy - 2 * (xy * slopes).sum(-1) + _quadratic(xx, slopes) + _quadratic(precision, moved)
        after = NormalInverseGamma(
            shape=prior.shape + 0.5 * n,
            rate=prior.rate + 0.5 * residual,
            slopes=slopes,
            scale_tril=torch.linalg.cholesky(torch.cholesky_inverse(factor)),
            center=(prior.rows * prior.center + n * y_mean) / total,
            regressors=(prior.rows[:, None] * prior.regressors + n[:, None] * x_mean) / total[:, None],
            rows=total,
        )
        log_z = after._log_partition() - prior._log_partition() - 0.5 * math.log(2 * math.pi) * n
        return after._map(lambda value: value.to(like)), float(log_z.sum())

    def _log_partition(self) -> Float[Tensor, "*q"]:
        """Log normalizing constant of the density of (σ², b, m), without powers of 2π."""
        log_det = 2 * self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.lgamma(self.shape) - self.shape * self.rate.log() + 0.5 * (log_det - self.rows.log())

    def _variance(self) -> TorchDistributionMixin:
        return dist.InverseGamma(self.shape, self.rate)

    def _slopes(self, variance: Float[Tensor, "*S"]) -> TorchDistributionMixin:
        return dist.MultivariateNormal(self.slopes, scale_tril=variance.sqrt()[..., None, None] * self.scale_tril)

    def _intercept(self, variance: Float[Tensor, "*S"], slopes: Float[Tensor, "*S p"]) -> TorchDistributionMixin:
        return dist.Normal(self.center - (slopes * self.regressors).sum(-1), (variance / self.rows).sqrt())

    def _map(self, function: Any) -> "NormalInverseGamma":
        return NormalInverseGamma(**{name: function(value) for name, value in vars(self).items()})

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return dict(vars(self))


Family = DirichletTable | NormalInverseGamma


class FamilyGuide(nn.Module):
    """Guide of independent posteriors, one per family of a network.

    Args:
        families: node → posterior of its parameters.
    """

    def __init__(self, families: Mapping[str, Family]) -> None:
        super().__init__()
        self.families = dict(families)

    def forward(self, *args: object, **kwargs: object) -> None:
        for node, family in self.families.items():
            family.sample_site(node)

    def draws(self, num_samples: int) -> dict[str, Tensor]:
        """Independent draws of every site, (num_samples, *event)."""
        found: dict[str, Tensor] = {}
        for node, family in self.families.items():
            found |= family.draws(node, num_samples)
        return found

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return {"families": self.families}


def _quadratic(matrix: Float[Tensor, "q p p"], vector: Float[Tensor, "q p"]) -> Float[Tensor, " q"]:
    return torch.einsum("qi,qij,qj->q", vector, matrix, vector)


def _moments(rows: FamilyRows, q: int) -> tuple[Tensor, ...]:
    """Numbers of rows, means and scatters per combination of discrete parents, in double precision."""
    j, x, y = rows.combination_index, rows.regressors.double(), rows.child.double()

    def by_combination(values: Tensor) -> Tensor:
        return values.new_zeros(q, *values.shape[1:]).index_add(0, j, values)

    n = by_combination(torch.ones_like(y))
    most = n.clamp(min=1.0)  # A combination without rows has sums of 0.
    x_mean, y_mean = by_combination(x) / most[:, None], by_combination(y) / most
    dx, dy = x - x_mean[j], y - y_mean[j]
    xx = by_combination(dx[:, :, None] * dx[:, None, :])
    return n, x_mean, y_mean, xx, by_combination(dx * dy[:, None]), by_combination(dy.square())
