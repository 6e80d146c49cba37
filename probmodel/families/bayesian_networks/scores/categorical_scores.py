"""Scores of a directed acyclic graph of categorical variables, one term per family (Koller & Friedman, 2009, ch. 18).

A family is a child with its parents.  With N_jk the number of rows with value k of the child and combination j of its
parents' values, and q combinations, each score is a sum over families of a function of N and q.  All are in nats;
higher is better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from probmodel.families.bayesian_networks.categorical_data import CategoricalData, Counts, counts, refuse_missing
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields

CategoricalScore = Callable[[Counts], float]
"""Function of the counts of a family that returns its term of the score, in nats."""


@checks_arguments
def log_likelihood(found: Counts) -> float:
    """Maximum of the log likelihood of a family, in nats."""
    table = found.table
    return float(xlogy(table, table).sum() - xlogy(table.sum(1), table.sum(1)).sum())


@checks_arguments
def aic(found: Counts) -> float:
    """Log likelihood minus one nat per parameter (Akaike, 1974)."""
    return log_likelihood(found) - _num_parameters(found)


@checks_arguments
def bic(found: Counts) -> float:
    """Log likelihood minus ½ log N nats per parameter (Schwarz, 1978)."""
    return log_likelihood(found) - 0.5 * np.log(max(found.table.sum(), 1.0)) * _num_parameters(found)


@checks_fields
@dataclass(frozen=True)
class BDeu:
    """Log evidence under Dirichlet priors of `sample_size` rows spread evenly over a family's cells (Heckerman et al., 1995).

    Equivalent graphs have equal scores.

    Args:
        sample_size: equivalent sample size of the prior, in rows.

    Raises:
        ValueError: if sample_size is not positive and finite.
    """

    sample_size: float = 1.0

    def __post_init__(self) -> None:
        check_prior_rows("sample_size", self.sample_size)

    @checks_arguments
    def __call__(self, found: Counts) -> float:
        return dirichlet_log_evidence(found, self.sample_size / (found.num_parent_states * found.table.shape[1]))


@checks_fields
@dataclass(frozen=True)
class BDs:
    """Log evidence like BDeu, with the prior's rows spread over combinations of parents that occur (Scutari, 2016).

    It is not score equivalent: equivalent graphs may have different scores.

    Args:
        sample_size: equivalent sample size of the prior, in rows.

    Raises:
        ValueError: if sample_size is not positive and finite.
    """

    sample_size: float = 1.0

    def __post_init__(self) -> None:
        check_prior_rows("sample_size", self.sample_size)

    @checks_arguments
    def __call__(self, found: Counts) -> float:
        return dirichlet_log_evidence(found, self.sample_size / max(found.table.size, 1))


def check_prior_rows(name: str, value: float, *, above: float = 0.0) -> None:
    """Raise ValueError unless a prior's number of rows is finite and above a bound."""
    if not above < value < math.inf:
        raise ValueError(f"expected {name} to be a finite number above {above:g}, got {value}; pass {above + 1:g}")


@checks_arguments
def k2(found: Counts) -> float:
    """Log evidence under a uniform prior of each conditional distribution, in nats (Cooper & Herskovits, 1992)."""
    return dirichlet_log_evidence(found, 1.0)


def dirichlet_log_evidence(found: Counts, alpha: float) -> float:
    """Log evidence in nats of the child's column given its parents', with Dirichlet(α, …, α) priors (the Pólya urn)."""
    table, r = found.table, found.table.shape[1]
    n = table[table > 0]  # Cells without rows, which most are, contribute nothing.
    by_combination = gammaln(r * alpha) - gammaln(r * alpha + table.sum(1))
    return float(by_combination.sum() + (gammaln(alpha + n) - gammaln(alpha)).sum())


def _num_parameters(found: Counts) -> float:
    return found.num_parent_states * (found.table.shape[1] - 1)


@checks_arguments
def score(dag: DAG, data: CategoricalData, term: CategoricalScore, intervened: Sequence[str | None] = ()) -> float:
    """Score of a graph, in nats over the data set.

    Args:
        dag: graph over the variables of the data.
        data: rows.
        term: score of a family.
        intervened: for each row the variable that was set by intervention, or None; such a row carries no information
            about that variable's own family (Cooper & Yoo, 1999).  Empty if there are no interventions.

    Raises:
        ValueError: if the graph has other variables, values are missing, or interventions are of unequal number to the
            rows or on unknown variables.
    """
    if set(dag.nodes) != set(data.names):
        raise ValueError(
            f"expected a graph of {sorted(data.names)}, got one of {sorted(dag.nodes)}; pass a graph over the data's "
            "variables"
        )
    kept = observed_rows(data, intervened)
    return sum(
        term(counts(data, data.column(node), [data.column(parent) for parent in parents], kept[data.column(node)]))
        for node, parents in dag.parents.items()
    )


def observed_rows(data: CategoricalData, intervened: Sequence[str | None]) -> list[np.ndarray | None]:
    """Rows in which each variable was not set by intervention; None for all rows.

    Raises:
        ValueError: if values are missing, or interventions are of unequal number to the rows or on unknown variables.
    """
    refuse_missing(data)
    if not len(intervened):
        return [None] * len(data.names)
    if len(intervened) != len(data.codes):
        raise ValueError(
            f"expected {len(data.codes)} interventions, one per row, got {len(intervened)}; pass None for rows without one"
        )
    unknown = sorted({name for name in intervened if name is not None} - set(data.names))
    if unknown:
        raise ValueError(f"expected interventions on {sorted(data.names)}, got {unknown}; pass names of the data")
    by_row = np.array([-1 if name is None else data.column(name) for name in intervened])
    return [np.flatnonzero(by_row != column) for column in range(len(data.names))]
