"""Scores of directed acyclic graphs of linear Gaussian variables (Geiger & Heckerman, 2002; Kuipers et al., 2014)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import multigammaln

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import check_prior_rows

SCORE_ROUNDING = 1e-12
"""Share of a column's variance that rounding may leave of one that others determine."""


class Moments(NamedTuple):
    """What scores of linear Gaussian variables need of the rows.

    Args:
        num_rows: N.
        mean: of each variable.
        scatter: Σ (x − mean)(x − mean)ᵀ.
    """

    num_rows: int
    mean: Float[np.ndarray, " n"]
    scatter: Float[np.ndarray, "n n"]


def moments(x: Float[np.ndarray, "N n"]) -> Moments:
    """Of rows, in double precision.

    Raises:
        ValueError: for numbers that are not finite, fewer than two rows, or another shape than (N, n).
    """
    x = np.asarray(x, dtype=float)
    if x.ndim != 2:
        raise ValueError(f"expected rows (N, n), got shape {x.shape}; one column is x[:, None]")
    if not np.isfinite(x).all() or len(x) < 2:
        bad = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"expected two rows of finite numbers at least, got {len(x)} with {bad} that are not; drop those"
        )
    centered = x - x.mean(0)
    return Moments(len(x), x.mean(0), centered.T @ centered)


@dataclass(frozen=True)
class BGe:
    """Log evidence of linear Gaussian variables under a normal-Wishart prior; equivalent graphs score alike.

    Mean ~ N(ν, (α_μ W)⁻¹) with ν the column means, W ~ Wishart(α_w, (t I)⁻¹), t = α_μ (α_w − n − 1) / (α_μ + 1).

    The prior is one of columns whose variances are near t: it is not the same in other units.  Standardize columns of
    different scales first.

    Args:
        mean_rows: α_μ, rows that the prior of the mean counts for.
        extra_rows: α_w − n, more than 1.

    Raises:
        ValueError: for numbers out of range.
    """

    mean_rows: float = 1.0
    extra_rows: float = 2.0

    def __post_init__(self) -> None:
        check_prior_rows("mean_rows", self.mean_rows)
        check_prior_rows("extra_rows", self.extra_rows, above=1.0)

    def log_evidence(self, given: Moments, subset: Sequence[int]) -> float:
        """Log p of some columns alone, by eq. (8) of Kuipers et al.; every family is a ratio of two."""
        if not subset:
            return 0.0
        l = len(subset)
        chosen = np.ix_(subset, subset)
        sign, log_det = np.linalg.slogdet(self.scale * np.eye(l) + given.scatter[chosen])
        return self.from_log_det(given.num_rows, l, float(log_det)) if sign > 0 else math.nan

    @property
    def scale(self) -> float:
        """T of the prior."""
        return self.mean_rows * (self.extra_rows - 1.0) / (self.mean_rows + 1.0)

    def from_log_det(self, num_rows: int, l: int, log_det: Any) -> Any:
        """Log evidence of l columns, from log |T + scatter| of them."""
        a = self.extra_rows + l
        return (
            -0.5 * l * num_rows * math.log(math.pi)
            + 0.5 * l * math.log(self.mean_rows / (self.mean_rows + num_rows))
            + float(multigammaln(0.5 * (a + num_rows), l) - multigammaln(0.5 * a, l))
            + 0.5 * a * l * math.log(self.scale)
            - 0.5 * (a + num_rows) * log_det
        )

    def __call__(self, given: Moments, child: int, parents: Sequence[int]) -> float:
        return self.log_evidence(given, [*parents, child]) - self.log_evidence(given, list(parents))


def gaussian_log_likelihood(given: Moments, child: int, parents: Sequence[int]) -> float:
    """Of a regression of the child on its parents, at its maximum.

    Raises:
        ValueError: where the rows are too few or the child is determined by its parents: there is no maximum.
    """
    s = given.scatter
    rest = s[child, child]
    if given.num_rows <= len(parents) + 1:
        raise ValueError(
            f"expected more rows than the {len(parents) + 1} coefficients of column {child} on {list(parents)}, got "
            f"{given.num_rows}; limit max_parents, or take BGe, whose prior needs none"
        )
    if parents:
        slopes = np.linalg.lstsq(s[np.ix_(parents, parents)], s[parents, child], rcond=None)[0]
        rest = rest - s[child, parents] @ slopes
    if not rest > s[child, child] * SCORE_ROUNDING:
        raise ValueError(
            f"expected column {child} to vary beyond what columns {list(parents)} determine, got nothing left: its likelihood "
            "has no maximum; drop constant, repeated and summed columns, or take BGe"
        )
    return -0.5 * given.num_rows * (math.log(2 * math.pi * rest / given.num_rows) + 1.0)


def gaussian_bic(given: Moments, child: int, parents: Sequence[int]) -> float:
    """Log likelihood less half of log N nats for each slope, the intercept and the variance."""
    return gaussian_log_likelihood(given, child, parents) - 0.5 * math.log(given.num_rows) * (len(parents) + 2)


GaussianScore = Callable[[Moments, int, Sequence[int]], float]
"""Moments, child and parents by their columns → the family's term, in nats."""


def gaussian_score(dag: DAG, names: Sequence[str], given: Moments, term: GaussianScore) -> float:
    """Score of a graph in nats over the data set, of columns with these names.

    Raises:
        ValueError: for a graph of other variables.
    """
    if set(dag.nodes) != set(names):
        raise ValueError(f"expected a graph of {sorted(names)}, got one of {sorted(dag.nodes)}")
    at = {name: column for column, name in enumerate(names)}
    return sum(term(given, at[node], [at[parent] for parent in parents]) for node, parents in dag.parents.items())
