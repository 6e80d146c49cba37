"""Structure learning: speed of scores, graphs of many variables beside pgmpy's hill climbing, calibration of edges.

    PROBMODEL_DATA=FOLDER python benchmarks/graphs_structure.py [--quick] [--only TEXT] [--out FILE.json]

Rows are sampled from published networks, five data sets of each size; means over them.  All searches see the same rows and the
same score: BDeu with pgmpy's own sample size, 10, and with 1.  Distances are structural Hamming distances of equivalence classes
and of graphs; fresh rows are scored under posterior means of the tables.  A mean of ours may be worse than pgmpy's by two
standard errors of their difference; pgmpy's graphs depend on Python's hash seed.
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
    warnings.simplefilter("ignore")  # Parts of pgmpy warn of its own renamings when they are imported.
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
    "fresh": ("nats a row", "at_least"),
    "seconds": ("s", ""),
}
"""Of a search → unit, and the side on which pgmpy's bounds ours."""
SETS = 5
"""Data sets of each size."""


class Task(NamedTuple):
    """Rows of a published network, fresh ones, and the score's prior sample size."""

    network: bn.DiscreteNetwork
    data: bn.CategoricalData
    fresh: bn.CategoricalData
    sample_size: float


def published(name: str) -> bn.DiscreteNetwork:
    """A network of the bnlearn repository."""
    return bn.read_bif(locate(f"bayesnets/{name}.bif"))


def log_score(dag: bn.DAG, data: bn.CategoricalData, fresh: bn.CategoricalData, sample_size: float) -> float:
    """Mean log probability of fresh rows under the posterior means of a graph's tables, nats a row."""
    return float(bn.log_prob(bn.posterior_mean(dag, data, sample_size), fresh).mean())


def pgmpy_graph(data: bn.CategoricalData, sample_size: float) -> bn.DAG:
    """By pgmpy alone: its search with its own score, as it comes."""
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
    """Alarm's 37 nodes on 20,000 rows, nothing kept from before."""
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
    """Of one search on one data set."""

    score: float
    classes: int
    graphs: int
    fresh: float
    seconds: float


def searched(dag: bn.DAG, families: bn.FamilyCache, task: Task, seconds: float) -> Searched:
    """What a graph is worth: its score, its distances from the published one, and fresh rows."""
    network, data, fresh, sample_size = task
    return Searched(
        families.score(dag),
        bn.class_hamming_distance(dag, network.dag),
        bn.structural_hamming_distance(dag, network.dag),
        log_score(dag, data, fresh, sample_size),
        seconds,
    )


def all_searches(task: Task) -> dict[str, Searched]:
    """Every search on one data set, and the published graph."""
    families = bn.categorical_families(task.data, bn.BDeu(task.sample_size))
    ways: dict[str, Callable[[], bn.DAG]] = {
        OURS: lambda: bn.OrderSearch()(families, seed=0).dag,
        PGMPY: lambda: pgmpy_graph(task.data, task.sample_size),
        # Its list of moves that must not be undone is long by default and hinders it.
        WITHOUT_LIST: lambda: hill_climbing(families, tabu_length=0),
        TRUE: lambda: task.network.dag,
    }
    found = {}
    for name, way in ways.items():
        begin = time.perf_counter()
        dag = way()
        found[name] = searched(dag, families, task, time.perf_counter() - begin)
    return found


def _bound(ahead: np.ndarray, theirs: np.ndarray, sign: str) -> dict[str, float]:
    """Pgmpy's mean, and two standard errors of the difference to its worse side; no room on one data set."""
    room = 2 * _stderr(ahead)
    return {sign: float(theirs.mean()) + (room if sign == "at_most" else -room)}


def _stderr(ahead: np.ndarray) -> float:
    return float(ahead.std(ddof=1)) / math.sqrt(len(ahead)) if len(ahead) > 1 else 0.0


def network_rows(name: str, num_rows: int, sample_size: float, num_sets: int) -> Iterator[Row]:
    """Search over orders beside hill climbing of the same score: means over data sets, and the means of the differences."""
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
        values = {way: np.array([getattr(each[way], field) for each in sets]) for way in sets[0]}
        for way, value in values.items():
            if field == "seconds" and way not in (OURS, PGMPY):
                continue  # They find the families counted.
            task = f"{name}, {num_rows:,} rows, BDeu({sample_size:g}), {field}, {way}"
            ahead = values[OURS] - value
            bound = _bound(values[OURS] - values[PGMPY], values[PGMPY], sign) if way == OURS and sign else {}
            yield row(
                task, float(value.mean()), unit, ours_minus_it=float(ahead.mean()), its_stderr=_stderr(ahead), **bound
            )


def calibration_rows() -> Iterator[Row]:
    """Exact probabilities of edges of eight variables, on networks from the prior."""
    begin = time.perf_counter()
    found = bn.SimulatedNetworks(num_networks=150, num_variables=8, num_rows=200)(seed=0)
    seconds = time.perf_counter() - begin
    task = "edges of eight variables, 150 networks"
    yield row(f"{task}, calibrated", found.p_value, "p-value", at_least=0.01, seconds=seconds)
    for p, share, error, number in zip(*found[:4], strict=True):
        if number:
            yield row(f"{task}, probability {p:.3f}, of {number} pairs", share, "there", stderr=error)


def groups(*, quick: bool) -> dict[str, Callable[[], Iterator[Row]]]:
    """Name → its rows; the smallest data only at smoke size."""
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
