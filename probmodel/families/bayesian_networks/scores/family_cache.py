"""Cached scores of single families, for searches and Markov chains over many variables.

Counts come from mixed-radix labels that are refined by one parent at a time, over the distinct rows with their weights.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.categorical_data import CategoricalData, Counts, compact_labels
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.all_families import log_evidence_of_sets, masks_of_most
from probmodel.families.bayesian_networks.scores.categorical_scores import CategoricalScore, observed_rows
from probmodel.families.bayesian_networks.scores.gaussian_scores import (
    BGe,
    GaussianScore,
    Moments,
    check_columns,
    moments_by_child,
)
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields, unchecked

ScoreFamilies = Callable[[int, Sequence[Sequence[int]]], Iterable[float]]
"""Function of a child and sets of parents that returns the score of each family, in nats."""
ScoreSubsets = Callable[[int, Sequence[int], int], Float[np.ndarray, " M"]]
"""Function of a child, K candidates and the largest number of parents that returns scores by mask of positions."""


@checks_fields
@dataclass(frozen=True, eq=False)
class FamilyCache:
    """Scores of the families of one data set, in nats; built by `categorical_families` or `gaussian_families`.

    Args:
        names: names of the variables, by column.
        score_families: function that scores families of one child.
        by_subset: function that scores all subsets of some candidates at once; these scores are not cached.
        cache: (child, mask of its parents) → score, of all families scored so far.
    """

    names: tuple[str, ...]
    score_families: ScoreFamilies
    by_subset: ScoreSubsets
    cache: dict[tuple[int, int], float] = field(default_factory=dict, repr=False)

    @checks_arguments
    def __call__(self, child: int, parents: Iterable[int]) -> float:
        """Score of one family, given by columns, in nats."""
        parents = tuple(parents)
        check_columns(len(self.names), [child, *parents])
        return self.of_child(child, [parents])[0]

    def of_child(self, child: int, parents: Sequence[Sequence[int]]) -> list[float]:
        """Scores of several families of one child; those that differ in the last parent alone share counts."""
        keys = [(child, sum(1 << i for i in each)) for each in parents]
        new = [i for i, key in enumerate(keys) if key not in self.cache]
        if new:
            values = self.score_families(child, [parents[i] for i in new])
            self.cache.update(zip((keys[i] for i in new), values, strict=True))
        return [self.cache[key] for key in keys]

    def additions(self, child: int, parents: Sequence[int]) -> Float[np.ndarray, " n"]:
        """Score with each variable as an additional parent; −∞ for the child and for those that are parents already."""
        new = [i for i in range(len(self.names)) if i != child and i not in parents]
        found = np.full(len(self.names), -np.inf)
        found[new] = self.of_child(child, [(*parents, i) for i in new])
        return found

    def score(self, dag: DAG) -> float:
        """Score of a graph, in nats over the data set.

        Raises:
            ValueError: if the graph has other variables.
        """
        if set(dag.nodes) != set(self.names):
            raise ValueError(
                f"expected a graph of {sorted(self.names)}, got one of {sorted(dag.nodes)}; pass a graph over the "
                "data's variables"
            )
        at = {name: column for column, name in enumerate(self.names)}
        return sum(self(at[node], [at[parent] for parent in parents]) for node, parents in dag.parents.items())


# ------------------------------------------------------------------------------------------ categorical


@checks_arguments
def categorical_families(
    data: CategoricalData, term: CategoricalScore, intervened: Sequence[str | None] = ()
) -> FamilyCache:
    """Cached family scores of categorical variables.

    Args:
        data: rows.
        term: score of a family.
        intervened: as in `score`.

    Raises:
        ValueError: if values are missing, or interventions are of unequal number to the rows or on unknown variables.
    """
    whole, term = _distinct(data.codes), unchecked(term)
    kept = [whole if rows is None else _distinct(data.codes[rows]) for rows in observed_rows(data, intervened)]
    sizes = data.cardinalities

    def score_families(child: int, parents: Sequence[Sequence[int]]) -> Iterator[float]:
        start, label, used = tuple[int, ...](), np.zeros(len(kept[child].weights), dtype=np.int64), 1
        for each in parents:
            if tuple(each[:-1]) != start:
                start = tuple(each[:-1])
                label, used = _label(kept[child], start, sizes)
            finer, many = _refined(label, used, kept[child], each[-1:], sizes)
            yield term(_counted(kept[child], child, sizes, finer, many, _product(sizes, each)))

    def by_subset(child: int, candidates: Sequence[int], most: int) -> Float[np.ndarray, " M"]:
        rows = _distinct(kept[child].columns[[*candidates, child]].T, kept[child].weights)
        own = [sizes[i] for i in (*candidates, child)]
        found = np.full(2 ** len(candidates), -np.inf)

        def visit(mask: int, first: int, label: Int[np.ndarray, " R"], used: int, possible: float) -> None:
            found[mask] = term(_counted(rows, len(candidates), own, label, used, possible))
            if mask.bit_count() < most:
                for i in range(first, len(candidates)):
                    visit(mask | 1 << i, i + 1, *_refined(label, used, rows, (i,), own), possible * own[i])

        visit(0, 0, np.zeros(len(rows.weights), dtype=np.int64), 1, 1.0)
        return found

    return FamilyCache(data.names, score_families, by_subset)


@dataclass(frozen=True, eq=False)
class _DistinctRows:
    """Distinct rows, and the number of times that each occurs."""

    columns: Int[np.ndarray, "n R"]
    weights: Float[np.ndarray, " R"]


def _distinct(codes: Int[np.ndarray, "N n"], weights: Float[np.ndarray, " N"] | None = None) -> _DistinctRows:
    """Merge equal rows; each distinct one is identified by a label refined column by column."""
    label, used = np.zeros(len(codes), dtype=np.int64), 1
    for column in codes.T:
        label, used = compact_labels(
            label * (int(column.max(initial=0)) + 1) + column, used * (int(column.max(initial=0)) + 1)
        )
    first = np.empty(used if len(codes) else 0, dtype=np.int64)
    first[label] = np.arange(len(codes))
    times = np.bincount(label, weights, minlength=len(first)).astype(float)
    return _DistinctRows(np.ascontiguousarray(codes[first].T, dtype=np.int64), times)


def _label(rows: _DistinctRows, parents: Sequence[int], sizes: Sequence[int]) -> tuple[Int[np.ndarray, " R"], int]:
    return _refined(np.zeros(len(rows.weights), dtype=np.int64), 1, rows, parents, sizes)


def _refined(
    label: Int[np.ndarray, " R"], used: int, rows: _DistinctRows, parents: Sequence[int], sizes: Sequence[int]
) -> tuple[Int[np.ndarray, " R"], int]:
    """Labels refined by more variables; gaps are closed where there would be more labels than rows."""
    for parent in parents:
        label, used = label * sizes[parent] + rows.columns[parent], used * sizes[parent]
        if used > len(label):
            label, used = compact_labels(label, used)
    return label, used


def _counted(
    rows: _DistinctRows, child: int, sizes: Sequence[int], label: Int[np.ndarray, " R"], used: int, possible: float
) -> Counts:
    table = np.bincount(label * sizes[child] + rows.columns[child], rows.weights, minlength=used * sizes[child])
    table = table.reshape(used, sizes[child])
    return Counts(table[table.any(1)], possible)


def _product(sizes: Sequence[int], parents: Sequence[int]) -> float:
    return float(np.prod([float(sizes[parent]) for parent in parents]))


# ------------------------------------------------------------------------------------------ Gaussian


@checks_arguments
def gaussian_families(given: Moments | Sequence[Moments], term: GaussianScore, names: Sequence[str]) -> FamilyCache:
    """Cached family scores of linear Gaussian variables.

    Args:
        given: as in `gaussian_family_scores`.
        term: score of a family.
        names: names of the variables.

    Raises:
        ValueError: if the number of names differs.
    """
    by_child = moments_by_child(given)
    if len(by_child) != len(names):
        raise ValueError(f"expected {len(by_child)} names, got {len(names)}; pass one name per variable")
    scored = unchecked(term)

    def score_families(child: int, parents: Sequence[Sequence[int]]) -> Iterator[float]:
        return (scored(by_child[child], child, each) for each in parents)

    def by_subset(child: int, candidates: Sequence[int], most: int) -> Float[np.ndarray, " M"]:
        within = masks_of_most(len(candidates), most)
        found = np.full(2 ** len(candidates), -np.inf)
        if isinstance(term, BGe):
            of_sets = log_evidence_of_sets(_among(by_child[child], [*candidates, child]), term)
            found[within] = of_sets[within | 1 << len(candidates)] - of_sets[within]
        else:
            chosen = ([c for i, c in enumerate(candidates) if mask >> i & 1] for mask in within)
            found[within] = [scored(by_child[child], child, parents) for parents in chosen]
        return found

    return FamilyCache(tuple(names), score_families, by_subset)


def _among(given: Moments, columns: Sequence[int]) -> Moments:
    return Moments(given.num_rows, given.mean[list(columns)], given.scatter[np.ix_(columns, columns)])
