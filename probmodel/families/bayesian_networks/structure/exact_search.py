"""Graph with the highest score of all, by dynamic programming over sets of variables (Silander & Myllymäki, 2006)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.dag import DAG, refuse_duplicates
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores, check_families
from probmodel.protocols.arguments.checks import checks_arguments


class BestDAG(NamedTuple):
    """The best graph, with the certificate of its optimality.

    Args:
        dag: the graph.
        score: score of the graph, in nats.
        num_families: number of families compared; every graph consists of these.
        optimal_sinks: last variable in a best order of each set of variables, which gives the optimum of the set.
    """

    dag: DAG
    score: float
    num_families: int
    optimal_sinks: Int[np.ndarray, " M"]

    def __str__(self) -> str:
        return (
            f"{self.dag} scores {self.score:.4f} nats, and no graph scores more: the best of all {self.num_families:,} "
            f"families was taken within each of {len(self.optimal_sinks):,} sets of variables, and each variable of every "
            "set was tried as the one without children; `verify` recomputes the value by the reverse recursion"
        )


@checks_arguments
def verify(found: BestDAG, families: FamilyScores, names: Sequence[str]) -> None:
    """Check an optimum by the reverse recursion, from the variables without parents, and its graph by its own families.

    With V(S) the best score that the variables outside S can add when those in S come first,

        V(S) = max_{i ∉ S} best_i(S) + V(S + i),   V(all) = 0,

    and V of the empty set is the optimum.

    Args:
        found: result of `best_dag`.
        families: the scores it was found with.
        names: names of the variables.

    Raises:
        ArithmeticError: if the score of the graph differs from the stated one, or another graph has a higher one.
    """
    n, size = families.shape
    at = {name: column for column, name in enumerate(names)}
    masks = {node: sum(1 << at[parent] for parent in parents) for node, parents in found.dag.parents.items()}
    own = sum(float(families[at[node], mask]) for node, mask in masks.items())
    best, rest = _best_by_axes(families), np.full(size, -np.inf)
    rest[-1] = 0.0
    sets = np.arange(size)
    members = np.bitwise_count(sets)
    for level in range(n - 1, -1, -1):
        for child in range(n):
            here = sets[(members == level) & (sets >> child & 1 == 0)]
            rest[here] = np.maximum(rest[here], best[child, here] + rest[here | 1 << child])
    tolerance = 1e-9 * max(1.0, abs(found.score))
    if abs(own - found.score) > tolerance or abs(rest[0] - found.score) > tolerance:
        raise ArithmeticError(
            f"expected the optimum {found.score:.6f}, got {own:.6f} of its graph and {rest[0]:.6f} as the best of all; "
            "call best_dag with the families that it is checked by"
        )


def _best_by_axes(families: FamilyScores) -> FamilyScores:
    """Best score of each child within each set: running maxima along each variable's axis, absent then present."""
    n, size = families.shape
    cube = families.reshape(n, *[2] * n)
    for axis in range(1, n + 1):
        cube = np.maximum.accumulate(cube, axis)
    return cube.reshape(n, size)


@checks_arguments
def best_dag(families: FamilyScores, names: Sequence[str]) -> BestDAG:
    """Find the best graph: in every set of variables one has no children in it; the others are a smaller problem.

    Args:
        families: scores in nats, from `family_scores` or `gaussian_family_scores`.
        names: names of the variables.

    Raises:
        ValueError: if the number of names differs, a name occurs twice, or scores are NaN.
    """
    check_families(families)
    n, size = families.shape
    if len(names) != n:
        raise ValueError(f"expected {n} names, got {len(names)}; pass one name per row of scores")
    refuse_duplicates(list(names))
    best = maxima_over_subsets(families)
    value, sink = np.full(size, -np.inf), np.full(size, -1, dtype=np.int8)
    value[0] = 0.0
    masks = np.arange(size)
    count = np.bitwise_count(masks)
    for level in range(1, n + 1):
        here = masks[count == level]
        for child in range(n):
            within = here[here >> child & 1 == 1]
            rest = within ^ (1 << child)
            total = value[rest] + best[child, rest]
            better = total > value[within]
            value[within[better]], sink[within[better]] = total[better], child
    parents, left = dict[str, tuple[str, ...]](), size - 1
    while left:
        child = int(sink[left])
        left ^= 1 << child
        chosen = attaining(families[child], best[child, left], left)
        parents[names[child]] = tuple(names[i] for i in range(n) if chosen >> i & 1)
    dag = DAG({name: parents[name] for name in names})
    return BestDAG(dag, float(value[-1]), int(np.isfinite(families).sum()), sink)


def maxima_over_subsets(families: FamilyScores) -> FamilyScores:
    """Highest score of a family of each child with parents within each set."""
    best = families.copy()
    for i in range(families.shape[1].bit_length() - 1):
        halves = best.reshape(len(families), -1, 2, 1 << i)
        np.maximum(halves[:, :, 1], halves[:, :, 0], out=halves[:, :, 1])
    return best


def attaining(scores: Float[np.ndarray, " M"], value: float, within: int) -> int:
    """Bit mask of the smallest set of parents within a set that has the score `value`."""
    masks = np.flatnonzero(scores == value)
    masks = masks[masks & ~within == 0]
    return int(masks[np.argmin(np.bitwise_count(masks))])
