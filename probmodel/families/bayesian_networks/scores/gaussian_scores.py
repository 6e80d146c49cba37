"""Scores of directed acyclic graphs of linear Gaussian variables (Geiger & Heckerman, 2002; Kuipers et al., 2014)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import multigammaln

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import check_prior_rows
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields

SCORE_ROUNDING = 1e-12
"""Fraction of its variance that rounding errors may leave in a column determined by others."""


class Moments(NamedTuple):
    """Sufficient statistics of linear Gaussian variables.

    Args:
        num_rows: N, number of rows.
        mean: mean of each variable.
        scatter: scatter matrix Σ (x − mean)(x − mean)ᵀ.
    """

    num_rows: int
    mean: Float[np.ndarray, " n"]
    scatter: Float[np.ndarray, "n n"]


@checks_arguments
def moments(x: Float[np.ndarray, "N n"]) -> Moments:
    """Moments of rows, in double precision.

    Raises:
        ValueError: if numbers are not finite, there are fewer than two rows, or the shape is not (N, n).
    """
    x = np.asarray(x, dtype=float)
    if x.ndim != 2:
        raise ValueError(f"expected rows (N, n), got shape {x.shape}; pass x[:, None] for one column")
    if not np.isfinite(x).all() or len(x) < 2:
        bad = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"expected two rows of finite numbers or more, got {len(x)} rows with {bad} numbers that are not finite; "
            "drop those rows, or add others"
        )
    centered = x - x.mean(0)
    return Moments(len(x), x.mean(0), centered.T @ centered)


@checks_fields
@dataclass(frozen=True)
class BGe:
    """Log evidence of linear Gaussian variables under a normal-Wishart prior; equivalent graphs have equal scores.

    Mean ~ N(ν, (α_μ W)⁻¹) with ν the column means, W ~ Wishart(α_w, (t I)⁻¹), t = α_μ (α_w − n − 1) / (α_μ + 1).

    The prior is for columns with variances near t, and depends on their units.  Standardize columns of different scales
    first.

    Args:
        mean_rows: α_μ, equivalent sample size of the prior of the mean, in rows.
        extra_rows: α_w − n, above 1.

    Raises:
        ValueError: if mean_rows or extra_rows is out of range.
    """

    mean_rows: float = 1.0
    extra_rows: float = 2.0

    def __post_init__(self) -> None:
        check_prior_rows("mean_rows", self.mean_rows)
        check_prior_rows("extra_rows", self.extra_rows, above=1.0)

    def log_evidence(self, given: Moments, subset: Sequence[int]) -> float:
        """Log evidence of some columns alone, in nats, by eq. (8) of Kuipers et al.; that of a family is a difference."""
        if not subset:
            return 0.0
        l = len(subset)
        chosen = np.ix_(subset, subset)
        sign, log_det = np.linalg.slogdet(self.scale * np.eye(l) + given.scatter[chosen])
        return self.from_log_det(given.num_rows, l, float(log_det)) if sign > 0 else math.nan

    @property
    def scale(self) -> float:
        """Scale t of the prior."""
        return self.mean_rows * (self.extra_rows - 1.0) / (self.mean_rows + 1.0)

    def from_log_det(self, num_rows: int, l: int, log_det: Any) -> Any:
        """Log evidence of l columns from their log |t I + scatter|, in nats."""
        a = self.extra_rows + l
        return (
            -0.5 * l * num_rows * math.log(math.pi)
            + 0.5 * l * math.log(self.mean_rows / (self.mean_rows + num_rows))
            + float(multigammaln(0.5 * (a + num_rows), l) - multigammaln(0.5 * a, l))
            + 0.5 * a * l * math.log(self.scale)
            - 0.5 * (a + num_rows) * log_det
        )

    @checks_arguments
    def __call__(self, given: Moments, child: int, parents: Sequence[int]) -> float:
        check_columns(len(given.mean), [child, *parents])
        return self.log_evidence(given, [*parents, child]) - self.log_evidence(given, list(parents))

    def constructor_arguments(self) -> dict[str, object]:
        """Constructor arguments, by name."""
        return asdict(self)


@checks_arguments
def gaussian_log_likelihood(given: Moments, child: int, parents: Sequence[int]) -> float:
    """Maximum of the log likelihood of a regression of the child on its parents, in nats.

    Args:
        given: moments of the rows.
        child: column of the child.
        parents: columns of the parents.

    Raises:
        ValueError: if there are too few rows or the parents determine the child, so that there is no maximum.
    """
    check_columns(len(given.mean), [child, *parents])
    s = given.scatter
    rest = s[child, child]
    if given.num_rows <= len(parents) + 1:
        raise ValueError(
            f"expected more rows than the {len(parents) + 1} coefficients of column {child} on {list(parents)}, got "
            f"{given.num_rows}; lower max_parents, or take BGe, whose prior allows fewer rows"
        )
    if parents:
        slopes = np.linalg.lstsq(s[np.ix_(parents, parents)], s[parents, child], rcond=None)[0]
        rest = rest - s[child, parents] @ slopes
    if not rest > s[child, child] * SCORE_ROUNDING:
        raise ValueError(
            f"expected column {child} to vary beyond what columns {list(parents)} determine, got no residual variance: "
            "its likelihood has no maximum; drop constant, repeated and summed columns, or take BGe"
        )
    return -0.5 * given.num_rows * (math.log(2 * math.pi * rest / given.num_rows) + 1.0)


@checks_arguments
def gaussian_bic(given: Moments, child: int, parents: Sequence[int]) -> float:
    """Log likelihood minus ½ log N nats for each slope, the intercept and the variance."""
    return gaussian_log_likelihood(given, child, parents) - 0.5 * math.log(given.num_rows) * (len(parents) + 2)


def check_columns(n: int, columns: Sequence[int]) -> None:
    """Raise ValueError for a child or parents that are no columns of n."""
    if not 0 <= min(columns) <= max(columns) < n:
        raise ValueError(f"expected columns from 0 to {n - 1}, got {list(columns)}; count columns from 0")


GaussianScore = Callable[[Moments, int, Sequence[int]], float]
"""Function of moments, a child and its parents by column that returns the family's term of the score, in nats."""


def moments_by_child(given: "Moments | Sequence[Moments]") -> list[Moments]:
    """Moments of the rows that score each variable: the same for all, or one per variable where some were intervened on."""
    return [given] * len(given.mean) if isinstance(given, Moments) else list(given)


@checks_arguments
def gaussian_score(dag: DAG, names: Sequence[str], given: Moments, term: GaussianScore) -> float:
    """Score of a graph of linear Gaussian variables, in nats over the data set.

    Args:
        dag: graph over the variables.
        names: names of the variables, by column.
        given: moments of the rows.
        term: score of a family.

    Raises:
        ValueError: if the graph has other variables.
    """
    if set(dag.nodes) != set(names):
        raise ValueError(
            f"expected a graph of {sorted(names)}, got one of {sorted(dag.nodes)}; pass a graph over these names"
        )
    at = {name: column for column, name in enumerate(names)}
    return sum(term(given, at[node], [at[parent] for parent in parents]) for node, parents in dag.parents.items())
