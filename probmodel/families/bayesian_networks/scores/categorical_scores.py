"""Scores of a directed acyclic graph of categorical variables, one term a family (Koller & Friedman, 2009, ch. 18).

A family is a child with its parents; with N_jk how often the child has value k beside combination j of its parents, and q
combinations, each score is a sum over families of a function of N and q.  All are in nats; higher is better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from probmodel.families.bayesian_networks.categorical_data import CategoricalData, Counts, counts, refuse_missing
from probmodel.families.bayesian_networks.dag import DAG

CategoricalScore = Callable[[Counts], float]
"""Counts of a family → its term, in nats."""


def log_likelihood(found: Counts) -> float:
    """Log likelihood at its maximum."""
    table = found.table
    return float(xlogy(table, table).sum() - xlogy(table.sum(1), table.sum(1)).sum())


def aic(found: Counts) -> float:
    """Log likelihood less one nat a parameter (Akaike, 1974)."""
    return log_likelihood(found) - _num_parameters(found)


def bic(found: Counts) -> float:
    """Log likelihood less half of log N nats a parameter (Schwarz, 1978)."""
    return log_likelihood(found) - 0.5 * np.log(max(found.table.sum(), 1.0)) * _num_parameters(found)


@dataclass(frozen=True)
class BDeu:
    """Log evidence under Dirichlet priors that spread `sample_size` rows evenly over a family's cells (Heckerman et al., 1995).

    Graphs of one equivalence class score alike.

    Args:
        sample_size: rows that the prior counts for.

    Raises:
        ValueError: for a number that is not above 0 and finite.
    """

    sample_size: float = 1.0

    def __post_init__(self) -> None:
        check_prior_rows("sample_size", self.sample_size)

    def __call__(self, found: Counts) -> float:
        return dirichlet_log_evidence(found, self.sample_size / (found.num_parent_states * found.table.shape[1]))


@dataclass(frozen=True)
class BDs:
    """As BDeu, the rows spread over those combinations of parents that occur (Scutari, 2016); not score equivalent.

    Args:
        sample_size: rows that the prior counts for.
    """

    sample_size: float = 1.0

    def __post_init__(self) -> None:
        check_prior_rows("sample_size", self.sample_size)

    def __call__(self, found: Counts) -> float:
        return dirichlet_log_evidence(found, self.sample_size / max(found.table.size, 1))


def check_prior_rows(name: str, value: float, *, above: float = 0.0) -> None:
    """Raise ValueError for a number of rows that no prior can count for."""
    if not above < value < math.inf:
        raise ValueError(f"expected {name} to be a finite number above {above:g}, got {value}; {above + 1:g} is usual")


def k2(found: Counts) -> float:
    """Log evidence under uniform priors of each conditional distribution (Cooper & Herskovits, 1992)."""
    return dirichlet_log_evidence(found, 1.0)


def dirichlet_log_evidence(found: Counts, alpha: float) -> float:
    """Log p of the child's column given its parents', each conditional distribution Dirichlet(α, …, α): the Pólya urn."""
    table, r = found.table, found.table.shape[1]
    n = table[table > 0]  # Cells without rows add nothing, and most are.
    by_combination = gammaln(r * alpha) - gammaln(r * alpha + table.sum(1))
    return float(by_combination.sum() + (gammaln(alpha + n) - gammaln(alpha)).sum())


def _num_parameters(found: Counts) -> float:
    return found.num_parent_states * (found.table.shape[1] - 1)


def score(dag: DAG, data: CategoricalData, term: CategoricalScore, intervened: Sequence[str | None] = ()) -> float:
    """Score of a graph, in nats over the data set.

    Args:
        dag: over the variables of the data.
        data: rows.
        term: of a family.
        intervened: for each row the variable that was set from outside, or None; such a row says nothing of that variable's
            own family (Cooper & Yoo, 1999).  Empty where none was.

    Raises:
        ValueError: for a graph of other variables, missing values, and interventions of another number or of unknown
            variables.
    """
    if set(dag.nodes) != set(data.names):
        raise ValueError(f"expected a graph of {sorted(data.names)}, got one of {sorted(dag.nodes)}")
    kept = observed_rows(data, intervened)
    return sum(
        term(counts(data, data.column(node), [data.column(parent) for parent in parents], kept[data.column(node)]))
        for node, parents in dag.parents.items()
    )


def observed_rows(data: CategoricalData, intervened: Sequence[str | None]) -> list[np.ndarray | None]:
    """For each variable the rows where it was not set from outside; None for all.

    Raises:
        ValueError: for missing values, and interventions of another number or of unknown variables.
    """
    refuse_missing(data)
    if not len(intervened):
        return [None] * len(data.names)
    if len(intervened) != len(data.codes):
        raise ValueError(
            f"expected {len(data.codes)} interventions, one a row, got {len(intervened)}; None where there is none"
        )
    unknown = sorted({name for name in intervened if name is not None} - set(data.names))
    if unknown:
        raise ValueError(f"expected interventions on {sorted(data.names)}, got {unknown}")
    by_row = np.array([-1 if name is None else data.column(name) for name in intervened])
    return [np.flatnonzero(by_row != column) for column in range(len(data.names))]
