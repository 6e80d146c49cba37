"""A few candidate parents of each of many variables, and the scores of all their sets (Kuipers, Suter & Moffa, 2022).

Exact sums over orders need 2ⁿ sets.  With K candidates per variable 2ᴷ remain, and parents that the candidates miss are
searched for around the best graph found with them.
"""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores, check_families, check_max_parents
from probmodel.families.bayesian_networks.scores.family_cache import FamilyCache
from probmodel.families.bayesian_networks.structure.exact_search import maxima_over_subsets
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.errors import SlowSearchWarning, warn
from probmodel.protocols.integers import integer
from probmodel.protocols.memory import refuse_above_memory

MANY_FAMILIES = 2**24
"""Number of families that take minutes to hours to score."""


class Candidates(NamedTuple):
    """Candidate parents of each child, and the score of each set of them.

    Args:
        parents: (n, K) variables by index; a child's own index marks an empty position.
        scores: (n, 2ᴷ) scores in nats, by bit mask of positions among the candidates; −∞ for sets with an empty
            position.
    """

    parents: Int[np.ndarray, "n K"]
    scores: Float[np.ndarray, "n M"]


@checks_arguments
def all_candidates(families: FamilyScores) -> Candidates:
    """Candidates that allow every other variable as a parent, from the scores of all families."""
    check_families(families)
    n = len(families)
    others = [[i for i in range(n) if i != child] for child in range(n)]
    parents = np.array(others, dtype=np.int64).reshape(n, n - 1)
    masks = np.arange(2 ** (n - 1))
    low = (1 << np.arange(n))[:, None] - 1
    return Candidates(parents, np.take_along_axis(families, (masks & low) | (masks & ~low) << 1, 1))


@checks_arguments
def candidate_parents(families: FamilyCache, num_candidates: int = 10, max_parents: int | None = None) -> Candidates:
    """Candidates of highest score: added greedily while the score rises, then by the score of each as the only parent.

    Parents that are informative only together (a parity) are found by chance only.  Warns if there are so many sets
    that scoring them may take hours.

    Args:
        families: scores of single families.
        num_candidates: K, number of candidates per variable.
        max_parents: largest number of parents of a family; larger sets get −∞.

    Raises:
        MemoryError: if n 2ᴷ numbers do not fit in memory.
        ValueError: if counts are not integers.
    """
    n = len(families.names)
    check_max_parents(max_parents)
    num_candidates = min(integer("num_candidates", num_candidates), n - 1)
    refuse_too_many_candidates(n, num_candidates)
    largest = num_candidates if max_parents is None else min(num_candidates, max_parents)
    count = n * sum(comb(num_candidates, size) for size in range(largest + 1))
    if count > MANY_FAMILIES:
        warn(
            f"expected at most {MANY_FAMILIES:,} families, got {count:,} families to score (sets of up to "
            f"{num_candidates} candidates of {n} variables), which may take hours; take 10 to 16 candidates, or lower "
            "max_parents (no gain for BGe)",
            SlowSearchWarning,
        )
    return score_table(
        families, [_greedy_candidates(families, child, num_candidates) for child in range(n)], max_parents
    )


@checks_arguments
def score_table(
    families: FamilyCache,
    chosen: Sequence[Sequence[int]],
    max_parents: int | None = None,
    known: Candidates | None = None,
) -> Candidates:
    """Scores of all sets of given candidates; shorter lists are padded with empty positions.

    Args:
        families: scores of single families.
        chosen: candidates of each variable.
        max_parents: largest number of parents of a family; larger sets get −∞.
        known: earlier scores, which are reused for variables with unchanged candidates.

    Raises:
        ValueError: unless there is one list of columns per variable, or if max_parents is negative.
        MemoryError: if n 2ᴷ numbers do not fit in memory.
    """
    _check_chosen(chosen, len(families.names))
    check_max_parents(max_parents)
    num_candidates = max(map(len, chosen))
    refuse_too_many_candidates(len(chosen), num_candidates)
    parents = np.array(
        [[*some, *[child] * (num_candidates - len(some))] for child, some in enumerate(chosen)], dtype=np.int64
    )
    parents = parents.reshape(len(chosen), num_candidates)
    scores = np.full((len(chosen), 2**num_candidates), -np.inf)
    for child, some in enumerate(chosen):
        if known is not None and np.array_equal(known.parents[child], parents[child]):
            scores[child] = known.scores[child]
        else:
            limit = len(some) if max_parents is None else max_parents
            scores[child, : 2 ** len(some)] = families.by_subset(child, some, limit)
    return Candidates(parents, scores)


def _check_chosen(chosen: Sequence[Sequence[int]], n: int) -> None:
    """Raise ValueError unless there is one list of columns per variable."""
    if len(chosen) != n or not all(0 <= each < n for some in chosen for each in some):
        raise ValueError(
            f"expected the columns, from 0 to {n - 1}, of candidates of each of {n} variables, got {list(chosen)!r:.60}; pass "
            "one list per variable"
        )


def refuse_too_many_candidates(n: int, num_candidates: int) -> None:
    """Raise MemoryError if the scores of all sets of candidates do not fit in memory."""
    refuse_above_memory(
        4 * n * 2**num_candidates * 8,
        torch.device("cpu"),
        f"all sets of {num_candidates} candidates of {n} variables",
        "lower the number of candidates (max_parents saves time, no memory)",
    )


@checks_arguments
def improved_candidates(
    families: FamilyCache, given: Candidates, dag: DAG, num_candidates: int, max_parents: int | None
) -> Candidates:
    """Candidates extended around the best graph: parents that would raise its score, and its edges in both directions.

    Args:
        families: scores of single families.
        given: the candidates so far.
        dag: the best graph with them.
        num_candidates: K, number of candidates per variable; the least useful ones are replaced.
        max_parents: largest number of parents of a family.

    Returns:
        the new candidates with their scores; `given` itself if none changes.
    """
    at = {name: column for column, name in enumerate(families.names)}
    chosen, changed = [], False
    for child, name in enumerate(families.names):
        parents = [at[parent] for parent in dag.parents[name]]
        children = [at[b] for a, b in dag.edges if a == name]
        now = [int(c) for c in given.parents[child] if c != child]
        wanted = list(dict.fromkeys([*parents, *_improving(families, child, parents, max_parents), *children]))
        useful = [c for c in _by_best_score(given, child) if c not in wanted]
        after = [*wanted, *useful][:num_candidates]
        changed |= not set(after) <= set(now)
        chosen.append(after if not set(after) <= set(now) else now)
    return score_table(families, chosen, max_parents, given) if changed else given


def _greedy_candidates(families: FamilyCache, child: int, num_candidates: int) -> list[int]:
    alone = families.additions(child, ())
    found, score, added = list[int](), families(child, ()), alone
    while len(found) < num_candidates and added.max() > score:
        score = float(added.max())
        found.append(int(added.argmax()))
        added = families.additions(child, found)
    rest = [int(i) for i in np.argsort(-alone) if i != child and i not in found]
    return [*found, *rest][:num_candidates]


def _improving(families: FamilyCache, child: int, parents: Sequence[int], max_parents: int | None) -> list[int]:
    """Variables that raise the score as an additional parent or in place of one, best first."""
    full = max_parents is not None and len(parents) >= max_parents
    starts = [] if full else [list(parents)]
    starts += [[p for p in parents if p != left_out] for left_out in parents]
    if not starts:
        return []
    gain = np.max([families.additions(child, start) for start in starts], 0) - families(child, parents)
    return [int(i) for i in np.argsort(-gain) if gain[i] > 0]


def _by_best_score(given: Candidates, child: int) -> list[int]:
    """Candidates in descending order of the best score of a family with them."""
    masks = np.arange(given.scores.shape[1])
    best = [given.scores[child, masks >> i & 1 == 1].max() for i in range(given.parents.shape[1])]
    return [int(given.parents[child, i]) for i in np.argsort(-np.array(best)) if given.parents[child, i] != child]


def best_within(given: Candidates) -> Float[np.ndarray, "n M"]:
    """Highest score of a family with parents within each set of candidates."""
    return maxima_over_subsets(given.scores)
