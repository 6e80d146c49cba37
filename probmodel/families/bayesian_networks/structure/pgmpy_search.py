"""Hill climbing over graphs and the PC algorithm by pgmpy (Ankan & Textor, 2024), on this package's data and scores.

pgmpy is an optional dependency: `pip install 'probmodel[networks]'`.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd

from probmodel.families.bayesian_networks.categorical_data import CategoricalData, refuse_missing
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.family_cache import FamilyCache

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pgmpy warns of its own renamings when it is imported.
    try:
        from pgmpy.causal_discovery import PC, HillClimbSearch
        from pgmpy.structure_score import BaseStructureScore

        HAS_PGMPY = True
    except ImportError:
        BaseStructureScore, HAS_PGMPY = object, False


class PartiallyDirected(NamedTuple):
    """A graph in which some edges have no direction.

    Args:
        nodes: all nodes.
        directed: pairs (parent, child).
        undirected: pairs of nodes joined without a direction.
    """

    nodes: tuple[str, ...]
    directed: frozenset[tuple[str, str]]
    undirected: frozenset[frozenset[str]]


def hill_climbing(families: FamilyCache, max_parents: int | None = None, tabu_length: int = 100) -> DAG:
    """Graph that no added, dropped or reversed edge improves, searched from the empty one (pgmpy's `HillClimbSearch`).

    Args:
        families: scores of any kind and data, interventions included.
        max_parents: largest number of parents of a variable; None for no limit.
        tabu_length: number of last moves that must not be undone.

    Raises:
        ModuleNotFoundError: if pgmpy is not installed.
    """
    refuse_without_pgmpy()
    names = list(families.names)
    search = HillClimbSearch(
        scoring_method=_PgmpyScore(families),
        tabu_length=tabu_length,
        max_indegree=max_parents,
        return_type="dag",
        show_progress=False,
    )
    with _quiet():
        found = search.fit(_stand_in(families)).causal_graph_
    return DAG.from_edges(names, sorted(found.edges()))


def pc(data: CategoricalData | pd.DataFrame, alpha: float = 0.01, max_conditions: int = 5) -> PartiallyDirected:
    """Edges left by tests of conditional independence, directed by colliders (Spirtes, Glymour & Scheines, 2000).

    Args:
        data: categorical data, tested by Pearson's chi-square, or a frame of real numbers, tested by partial
            correlations.
        alpha: p-value above which two variables count as independent.
        max_conditions: largest number of variables conditioned on at once.

    Raises:
        ModuleNotFoundError: if pgmpy is not installed.
        ValueError: if alpha is outside (0, 1), or values are missing.
    """
    refuse_without_pgmpy()
    if not 0 < alpha < 1:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}; 0.01 is usual")
    if isinstance(data, CategoricalData):
        refuse_missing(data)
        frame, test = _frame(data), "chi_square"
    else:
        if data.isna().to_numpy().any():
            raise ValueError("expected no missing values, got some; drop those rows")
        frame, test = data, "pearsonr"
    search = PC(
        variant="stable",
        ci_test=test,
        significance_level=alpha,
        max_cond_vars=max_conditions,
        show_progress=False,
    )
    with _quiet():
        found = search.fit(frame).causal_graph_
    return PartiallyDirected(
        tuple(map(str, frame)),
        frozenset((str(a), str(b)) for a, b in found.directed_edges),
        frozenset(frozenset((str(a), str(b))) for a, b in found.undirected_edges),
    )


class _PgmpyScore(BaseStructureScore):
    """Adapter of cached scores to the interface of pgmpy's searches."""

    def __init__(self, families: FamilyCache) -> None:
        self.families = families
        self.at = {name: column for column, name in enumerate(families.names)}
        super().__init__(_stand_in(families))

    def local_score(self, variable: str, parents: tuple[str, ...]) -> float:
        return self.families(self.at[variable], [self.at[parent] for parent in parents])


def _stand_in(families: FamilyCache) -> pd.DataFrame:
    """Placeholder of two rows with the names, since the scores already hold the counts of the data."""
    return pd.DataFrame({name: ["a", "b"] for name in families.names})


def _frame(data: CategoricalData) -> pd.DataFrame:
    """Values by name, one unordered categorical column per variable."""
    return pd.DataFrame(
        {
            name: pd.Categorical.from_codes(data.codes[:, column], dtype=pd.CategoricalDtype(list(levels)))
            for column, (name, levels) in enumerate(data.levels.items())
        }
    )


def refuse_without_pgmpy() -> None:
    """Raise ModuleNotFoundError if pgmpy is not installed."""
    if not HAS_PGMPY:
        raise ModuleNotFoundError(
            "expected pgmpy, got no installation of it; pip install 'probmodel[networks]', or use OrderSearch"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress pgmpy's messages on data types and renamings."""
    logger = logging.getLogger("pgmpy")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
