"""Rows with missing values: their log probabilities, expected counts of the tables, and imputations.

Rows that lack the same variables are eliminated together.  For few such rows a plan of their own costs more than it
saves; these rows are pooled, and their known values enter as factors that are one at the value and zero elsewhere.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork
from probmodel.families.bayesian_networks.tables.elimination import (
    Eliminated,
    EliminationPlan,
    Factor,
    ancestors,
    draw,
    eliminate,
    family_factors,
    min_fill,
    rows_at_once,
    scope_marginals,
    summed,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import checked_seed

ENTRIES_WORTH_A_PLAN = 2**18
"""Number of table entries that cost about as much as a plan and its calls, some milliseconds."""
NO_INTERVENTION = -1
"""Marker of rows in which no variable was set by intervention."""


class Batch(NamedTuple):
    """Rows that are eliminated together.

    Args:
        rows: positions of the rows.
        known: variables that are known in all of them.
        partly_known: variables that are known in some of them.
        families: variables whose tables are used.
        plan: elimination plan over the variables that are not known in all of them.
    """

    rows: Int[np.ndarray, " B"]
    known: tuple[str, ...]
    partly_known: tuple[str, ...]
    families: tuple[str, ...]
    plan: EliminationPlan


class DistinctIncompleteRows(NamedTuple):
    """Distinct rows of a data set by a network's own columns and levels.

    Args:
        codes: (R, n) each distinct row once, −1 for missing values.
        intervened_column: (R,) column that was set by intervention in each, or −1.
        times: (R,) number of times that each occurs.
        row_index: (N,) position of each row of the data among the distinct rows.
    """

    codes: Int[np.ndarray, "R n"]
    intervened_column: Int[np.ndarray, " R"]
    times: Int[np.ndarray, " R"]
    row_index: Int[np.ndarray, " N"]


Relevant = Callable[[DAG, Iterable[str]], Iterable[str]]
"""Function of a graph and the variables known in a row that returns the variables whose tables are needed."""


@checks_arguments
def log_prob(
    network: DiscreteNetwork, data: CategoricalData, intervened: Sequence[str | None] = ()
) -> Float[np.ndarray, " N"]:
    """Log probability of each row, in nats, summed over missing values; −∞ for a row that cannot occur.

    Args:
        network: network over the rows' variables; those without a column are missing in all rows.
        data: rows.
        intervened: for each row the variable that was set by intervention, or None; its own table is not used for the
            row.

    Raises:
        ValueError: if variables or levels are unknown, the number of interventions differs, or a value that was set is
            missing.
        MemoryError: if an intermediate table does not fit in memory.
    """
    rows = distinct_rows(network, data, intervened)
    found = np.zeros(len(rows.codes))
    for batch in batches(network.dag, network.cardinalities, rows, ancestors):
        found[batch.rows] = eliminated_batch(network, rows, batch).log_prob
    return found[rows.row_index]


@checks_arguments
def impute(
    network: DiscreteNetwork, data: CategoricalData, intervened: Sequence[str | None] = (), *, seed: int
) -> CategoricalData:
    """Rows with missing values drawn given the observed ones; several seeds give several imputations.

    Columns are those of the network, in its order, including those that the rows lack.

    Args:
        network, data, intervened: as in `log_prob`.
        seed: seed of the draws.

    Raises:
        ValueError: as `log_prob` does, and if a row cannot occur.
        MemoryError: as `log_prob` does.
    """
    rng = np.random.default_rng(checked_seed(seed))
    rows = distinct_rows(network, data, intervened)
    # Equal rows get independent draws.
    rows = DistinctIncompleteRows(
        rows.codes[rows.row_index],
        rows.intervened_column[rows.row_index],
        np.ones_like(rows.row_index),
        np.arange(len(rows.row_index)),
    )
    codes = rows.codes.copy()
    for batch in batches(network.dag, network.cardinalities, rows, all_nodes):
        found = eliminated_batch(network, rows, batch)
        _refuse_impossible(found, batch)
        for node, values in draw(found, np.arange(len(batch.rows)), rng).items():
            codes[batch.rows, network.nodes.index(node)] = values
    return CategoricalData({node: network.levels[node] for node in network.nodes}, codes)


def all_nodes(dag: DAG, known: Iterable[str]) -> Iterable[str]:
    """All variables, since every missing value is needed."""
    return dag.nodes


def distinct_rows(
    network: DiscreteNetwork, data: CategoricalData, intervened: Sequence[str | None]
) -> DistinctIncompleteRows:
    """Distinct rows by a network's columns.

    Raises:
        ValueError: as `log_prob` does.
    """
    codes = network.codes(data)
    intervened_column = _intervened_columns(network, len(codes), intervened)
    is_set = intervened_column >= 0
    absent = is_set.copy()
    absent[is_set] = codes[is_set, intervened_column[is_set]] < 0
    if absent.any():
        raise ValueError(
            f"expected the value that was set in each row, got none in rows {np.flatnonzero(absent)[:5]}; fill it in, "
            "or pass None for these rows"
        )
    both = np.column_stack([codes, intervened_column])
    kept, row_index, times = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    return DistinctIncompleteRows(kept[:, :-1], kept[:, -1], times, row_index.reshape(-1))


def _intervened_columns(
    network: DiscreteNetwork, num_rows: int, intervened: Sequence[str | None]
) -> Int[np.ndarray, " N"]:
    if not len(intervened):
        return np.full(num_rows, NO_INTERVENTION)
    if len(intervened) != num_rows:
        raise ValueError(
            f"expected {num_rows} interventions, one per row, got {len(intervened)}; pass None for rows without one"
        )
    column = {None: NO_INTERVENTION} | {node: column for column, node in enumerate(network.nodes)}
    unknown = sorted({str(name) for name in intervened if name not in column})
    if unknown:
        raise ValueError(f"expected interventions on {sorted(network.nodes)}, got {unknown}; pass names of the network")
    return np.array([column[name] for name in intervened], dtype=np.int64)


# ------------------------------------------------------------------------------------------ batches


def batches(dag: DAG, sizes: Mapping[str, int], rows: DistinctIncompleteRows, relevant: Relevant) -> list[Batch]:
    """All rows, in batches that fit in memory.

    Raises:
        MemoryError: if a single row does not.
    """
    found = list[Batch]()
    for column in np.unique(rows.intervened_column):
        is_set = () if column == NO_INTERVENTION else (dag.nodes[column],)
        after = DAG({node: () if node in is_set else parents for node, parents in dag.parents.items()})
        members = np.flatnonzero(rows.intervened_column == column)
        whole = _planned(after, sizes, rows.codes, members, is_set, relevant)
        for some in _groups(rows.codes, members, whole.plan.entries):
            batch = _planned(after, sizes, rows.codes, some, is_set, relevant)
            step = rows_at_once(batch.plan)
            found += [batch._replace(rows=some[start : start + step]) for start in range(0, len(some), step)]
    return found


def _groups(codes: Int[np.ndarray, "R n"], members: Int[np.ndarray, " M"], entries: int) -> list[Int[np.ndarray, " _"]]:
    """Groups of rows that lack the same variables, where a plan for them pays off, and one group of all others."""
    _, pattern, times = np.unique(codes[members] < 0, axis=0, return_inverse=True, return_counts=True)
    pattern = pattern.reshape(-1)
    alone = times * float(entries) > ENTRIES_WORTH_A_PLAN
    by_pattern = np.split(members[np.argsort(pattern, kind="stable")], np.cumsum(times)[:-1])
    groups = [some for some, is_alone in zip(by_pattern, alone, strict=True) if is_alone]
    rest = members[~alone[pattern]]
    return [*groups, rest] if len(rest) else groups


def _planned(
    dag: DAG,
    sizes: Mapping[str, int],
    codes: Int[np.ndarray, "R n"],
    members: Int[np.ndarray, " M"],
    is_set: tuple[str, ...],
    relevant: Relevant,
) -> Batch:
    seen = codes[members] >= 0
    known = tuple(node for node, all_ in zip(dag.nodes, seen.all(0), strict=True) if all_)
    partly_known = tuple(node for node, any_ in zip(dag.nodes, seen.any(0), strict=True) if any_ and node not in known)
    nodes = set(relevant(dag, (*known, *partly_known)))
    families = tuple(node for node in dag.nodes if node in nodes and node not in is_set)
    scopes = [[each for each in (*dag.parents[node], node) if each not in known] for node in families]
    return Batch(members, known, partly_known, families, min_fill(scopes, sizes))


def eliminated_batch(network: DiscreteNetwork, rows: DistinctIncompleteRows, batch: Batch) -> Eliminated:
    """Sum out all missing values of a batch."""
    codes = dict(zip(network.nodes, rows.codes[batch.rows].T, strict=True))
    factors = family_factors(network, batch.families, {node: codes[node] for node in batch.known}, batch.plan)
    seen = [_observation_factor(node, codes[node], len(network.levels[node])) for node in batch.partly_known]
    return eliminate(batch.plan, [*factors, *seen])


def _observation_factor(node: str, codes: Int[np.ndarray, " B"], size: int) -> Factor:
    """Factor that is one at the value of a row and zero elsewhere, and one everywhere if the value is missing."""
    possible = (codes < 0) | (codes == np.arange(size)[:, None])
    return Factor((node,), np.where(possible, 0.0, -np.inf))


def add_expected_counts(
    total: Mapping[str, Float[np.ndarray, "..."]],
    dag: DAG,
    rows: DistinctIncompleteRows,
    batch: Batch,
    found: Eliminated,
) -> None:
    """Add to `total`, in the shapes of the tables, the expected counts of a batch given its known values."""
    of_scopes, place = scope_marginals(found), {node: position for position, node in enumerate(found.plan.order)}
    times, codes = rows.times[batch.rows].astype(float), dict(zip(dag.nodes, rows.codes[batch.rows].T, strict=True))
    for node in batch.families:
        family = (*dag.parents[node], node)
        known = [each for each in family if each in batch.known]
        free = sorted((each for each in family if each not in batch.known), key=lambda each: -place[each])
        by_row = np.ones(1)
        if free:
            # The others are neighbors of the first of them to be eliminated.
            by_row = summed(of_scopes[free[-1]], (*found.plan.neighbors[free[-1]], free[-1]), free)
        cells = total[node].transpose([family.index(each) for each in (*known, *free)])
        if known:
            np.add.at(cells, tuple(codes[each] for each in known), np.moveaxis(by_row * times, -1, 0))
        else:
            cells += (by_row * times).sum(-1)


def _refuse_impossible(found: Eliminated, batch: Batch) -> None:
    zero = np.isneginf(np.broadcast_to(found.log_prob, len(batch.rows)))
    if zero.any():
        raise ValueError(
            f"expected rows that can occur, got {int(zero.sum())} of probability zero, the first of them"
            f" {batch.rows[zero][:5].tolist()}; drop those where log_prob is −∞, or take tables with a prior"
        )
