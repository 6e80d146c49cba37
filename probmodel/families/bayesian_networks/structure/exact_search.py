"""The graph of highest score among all, by dynamic programming over sets (Silander & Myllymäki, 2006)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.dag import DAG, refuse_twice
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores


class BestDAG(NamedTuple):
    """The best graph, and why there is none better.

    Args:
        dag: the graph.
        score: nats.
        num_families: families compared; every graph is made of them.
        optimal_sinks: of each set of variables, the last in a best order, by which the optimum of every set was found.
    """

    dag: DAG
    score: float
    num_families: int
    optimal_sinks: Int[np.ndarray, " M"]

    def __str__(self) -> str:
        return (
            f"{self.dag} scores {self.score:.4f} nats, and no graph scores more: the best of all {self.num_families:,} "
            f"families was taken within each of {len(self.optimal_sinks):,} sets of variables, and of every set each variable "
            "was tried as the one without children there; `verify` finds the value anew from the other end"
        )


def verify(found: BestDAG, families: FamilyScores, names: Sequence[str]) -> None:
    """Check an optimum by another recursion, from the variables without parents, and its graph by its own families.

    With V(S) the best score that the variables outside S can add when those in S come first,

        V(S) = max_{i ∉ S} best_i(S) + V(S + i),   V(all) = 0:

    V of the empty set is the optimum.

    Args:
        found: of `best_dag`.
        families: the scores it was found with.
        names: of the variables.

    Raises:
        ArithmeticError: where the graph has another score than said, or another graph a higher one.
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
            f"expected the optimum {found.score:.6f}, got {own:.6f} of its graph and {rest[0]:.6f} as the best of all; search "
            "anew with the families it is checked by"
        )


def _best_by_axes(families: FamilyScores) -> FamilyScores:
    """For each child and set, the best score among the set: running maxima along each variable's axis, absent then present."""
    n, size = families.shape
    cube = families.reshape(n, *[2] * n)
    for axis in range(1, n + 1):
        cube = np.maximum.accumulate(cube, axis)
    return cube.reshape(n, size)


def best_dag(families: FamilyScores, names: Sequence[str]) -> BestDAG:
    """The best graph: of every set of variables, one of them has no child there, and the rest is a smaller problem.

    Args:
        families: of `family_scores` or `gaussian_family_scores`.
        names: of the variables.

    Raises:
        ValueError: for names of another number or twice, or scores that are NaN.
    """
    n, size = families.shape
    if len(names) != n or size != 2**n:
        raise ValueError(f"expected {n} names and {2**n} sets, got {len(names)} and {size}")
    refuse_twice(list(names))
    if np.isnan(families).any():
        raise ValueError("expected scores that are numbers, got NaN; check the score's settings and the data")
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
    """For each child and set, the highest score of a family with parents among the set."""
    best = families.copy()
    for i in range(families.shape[1].bit_length() - 1):
        halves = best.reshape(len(families), -1, 2, 1 << i)
        np.maximum(halves[:, :, 1], halves[:, :, 0], out=halves[:, :, 1])
    return best


def attaining(scores: Float[np.ndarray, " M"], value: float, within: int) -> int:
    """The smallest set of parents among some that has the score."""
    masks = np.flatnonzero(scores == value)
    masks = masks[masks & ~within == 0]
    return int(masks[np.argmin(np.bitwise_count(masks))])
