"""Structure learning: speed of scores, graphs of many variables compared with pgmpy's hill climbing, calibration of edges.

The rows are sampled from published networks; values are means over five data sets of each size.  All searches have the same rows
and the same score: BDeu with the default sample size of pgmpy, 10, and with 1.  Distances are structural Hamming distances of
equivalence classes and of graphs; fresh rows are scored under posterior means of the tables.  Our mean may be worse than that of
pgmpy by two standard errors of the difference; the graphs of pgmpy depend on the hash seed of Python.
"""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.rows import Row, row
from probmodel.data.locate import locate
from probmodel.families import bayesian_networks as bn
from probmodel.families.bayesian_networks.structure.pgmpy_search import hill_climbing, refuse_without_pgmpy

with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
    warnings.simplefilter("ignore")  # Parts of pgmpy warn of renamed parts of pgmpy when imported.
    from pgmpy.causal_discovery import HillClimbSearch
    from pgmpy.structure_score import BDeu as PgmpyBDeu

SAMPLE_SIZES = (10.0, 1.0)
NETWORKS = ("insurance", "alarm", "hailfinder")
ROWS, FRESH = (1_000, 10_000), 10_000


OURS, PGMPY, WITHOUT_LIST, TRUE = "search over orders", "pgmpy's hill climbing", "the same, no tabu list", "true graph"
MEASURES = {
    "score": ("nats", "at_least"),
    "classes": ("edges apart", "at_most"),
    "graphs": ("edges apart", "at_most"),
    "fresh": ("nats per row", "at_least"),
    "seconds": ("s", ""),
}
"""Measure of a search → unit, and the side on which the mean of pgmpy bounds ours."""
SETS = 5
"""Number of data sets of each size."""


class Task(NamedTuple):
    """Rows of a published network, fresh rows, and the prior sample size of the score."""

    network: bn.DiscreteNetwork
    data: bn.CategoricalData
    fresh: bn.CategoricalData
    sample_size: float


def published(name: str) -> bn.DiscreteNetwork:
    """Network of the bnlearn repository."""
    return bn.read_bif(locate(f"bayesnets/{name}.bif"))


def log_score(dag: bn.DAG, data: bn.CategoricalData, fresh: bn.CategoricalData, sample_size: float) -> float:
    """Mean log probability of fresh rows under the posterior means of the tables of a graph, nats per row."""
    return float(bn.log_prob(bn.posterior_mean(dag, data, sample_size), fresh).mean())


def pgmpy_graph(data: bn.CategoricalData, sample_size: float) -> bn.DAG:
    """Graph by pgmpy alone: its search with its own score and defaults."""
    frame = pd.DataFrame(
        {
            name: pd.Categorical.from_codes(data.codes[:, column], categories=list(levels))
            for column, (name, levels) in enumerate(data.levels.items())
        }
    )
    states = {name: list(levels) for name, levels in data.levels.items()}
    term = PgmpyBDeu(frame, equivalent_sample_size=sample_size, state_names=states)
    found = HillClimbSearch(scoring_method=term, return_type="dag", show_progress=False).fit(frame).causal_graph_
    return bn.DAG.from_edges(data.names, sorted(found.edges()))


def speed_rows() -> Iterator[Row]:
    """Rows of the speed of scores of Alarm, 37 nodes on 20,000 rows, with an empty cache."""
    network = published("alarm")
    data = bn.sample(network, 20_000, seed=0)
    begin = time.perf_counter()
    families = bn.categorical_families(data, bn.BDeu(10.0))
    value = families.score(network.dag)
    yield row(
        "alarm, 20,000 rows, its graph scored cold", time.perf_counter() - begin, "s", at_most=2.0, score_in_nats=value
    )
    begin = time.perf_counter()
    for child in range(len(data.names)):
        families.additions(child, ())
    seconds = time.perf_counter() - begin
    yield row("alarm, 20,000 rows, families of one parent", 37 * 36 / seconds, "families/s", seconds=seconds)
    begin = time.perf_counter()
    bn.candidate_parents(families, 8)
    seconds = time.perf_counter() - begin
    yield row("alarm, 20,000 rows, all sets of 8 candidates", 37 * 2**8 / seconds, "families/s", seconds=seconds)


class Searched(NamedTuple):
    """Measures of one search on one data set."""

    score: float
    classes: int
    graphs: int
    fresh: float
    seconds: float


def searched(dag: bn.DAG, families: bn.FamilyCache, task: Task, seconds: float) -> Searched:
    """Measures of a graph: its score, its distances from the published graph, and the log score of fresh rows."""
    network, data, fresh, sample_size = task
    return Searched(
        families.score(dag),
        bn.class_hamming_distance(dag, network.dag),
        bn.structural_hamming_distance(dag, network.dag),
        log_score(dag, data, fresh, sample_size),
        seconds,
    )


def all_searches(task: Task) -> dict[str, Searched]:
    """Measures of every search on one data set, and of the published graph."""
    families = bn.categorical_families(task.data, bn.BDeu(task.sample_size))
    searches: dict[str, Callable[[], bn.DAG]] = {
        OURS: lambda: bn.OrderSearch()(families, seed=0).dag,
        PGMPY: lambda: pgmpy_graph(task.data, task.sample_size),
        # The default list of moves that must not be undone is long and hinders the search.
        WITHOUT_LIST: lambda: hill_climbing(families, tabu_length=0),
        TRUE: lambda: task.network.dag,
    }
    found = {}
    for name, search in searches.items():
        begin = time.perf_counter()
        dag = search()
        found[name] = searched(dag, families, task, time.perf_counter() - begin)
    return found


def _bound(ahead: np.ndarray, theirs: np.ndarray, sign: str) -> dict[str, float]:
    """Mean of pgmpy as a bound, with a margin of two standard errors of the difference, which is 0 for a single data set."""
    room = 2 * _stderr(ahead)
    return {sign: float(theirs.mean()) + (room if sign == "at_most" else -room)}


def _stderr(ahead: np.ndarray) -> float:
    return float(ahead.std(ddof=1)) / math.sqrt(len(ahead)) if len(ahead) > 1 else 0.0


def network_rows(name: str, num_rows: int, sample_size: float, num_sets: int) -> Iterator[Row]:
    """Rows of search over orders and of hill climbing with the same score: means over data sets, and of the differences."""
    refuse_without_pgmpy()
    network = published(name)
    sets = [
        all_searches(
            Task(
                network,
                bn.sample(network, num_rows, seed=2 * number),
                bn.sample(network, FRESH, seed=2 * number + 1),
                sample_size,
            )
        )
        for number in range(num_sets)
    ]
    for field, (unit, sign) in MEASURES.items():
        values = {search: np.array([getattr(each[search], field) for each in sets]) for search in sets[0]}
        for search, value in values.items():
            if field == "seconds" and search not in (OURS, PGMPY):
                continue  # Their families are in the cache already.
            task = f"{name}, {num_rows:,} rows, BDeu({sample_size:g}), {field}, {search}"
            ahead = values[OURS] - value
            bound = _bound(values[OURS] - values[PGMPY], values[PGMPY], sign) if search == OURS and sign else {}
            yield row(
                task, float(value.mean()), unit, ours_minus_it=float(ahead.mean()), its_stderr=_stderr(ahead), **bound
            )


def calibration_rows() -> Iterator[Row]:
    """Rows of the calibration of exact probabilities of edges between eight variables, on networks from the prior."""
    begin = time.perf_counter()
    found = bn.SimulatedNetworks(num_networks=150, num_variables=8, num_rows=200)(seed=0)
    seconds = time.perf_counter() - begin
    task = "edges of eight variables, 150 networks"
    yield row(f"{task}, calibrated", found.p_value, "p-value", at_least=0.01, seconds=seconds)
    for p, share, error, number in zip(*found[:4], strict=True):
        if number:
            yield row(f"{task}, probability {p:.3f}, of {number} pairs", share, "there", stderr=error)


def groups(*, quick: bool) -> dict[str, Callable[[], Iterator[Row]]]:
    """Name of a group → its rows; a quick run has the smallest data only."""
    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    found: dict[str, Callable[[], Iterator[Row]]] = {"structure, speed": speed_rows}
    for name in NETWORKS[:1] if quick else NETWORKS:
        for num_rows in ROWS[:1] if quick else ROWS:
            for sample_size in SAMPLE_SIZES:
                found[f"structure, {name} {num_rows} BDeu({sample_size:g})"] = partial(
                    network_rows, name, num_rows, sample_size, 1 if quick else SETS
                )
    if not quick:
        found["structure, calibration"] = calibration_rows
    return found
