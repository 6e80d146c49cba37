"""Structure learning: speed of scores, graphs of many variables beside pgmpy's hill climbing, calibration of edges.

    PROBMODEL_DATA=FOLDER python benchmarks/graphs_structure.py [--quick] [--only TEXT] [--out FILE.json]

Rows are sampled from published networks.  Both searches see the same rows and the same score:
BDeu with pgmpy's own sample size, 10.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
from rows import Row, row

from probmodel import bayesian_networks as bn
from probmodel.bayesian_networks.pgmpy_search import hill_climbing
from probmodel.data.locate import locate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Parts of pgmpy warn of its own renamings when they are imported.
    from pgmpy.causal_discovery import HillClimbSearch
    from pgmpy.structure_score import BDeu as PgmpyBDeu

SAMPLE_SIZES = (10.0, 1.0)
NETWORKS = ("insurance", "alarm", "hailfinder")
ROWS, FRESH = (1_000, 10_000), 10_000


def published(name: str) -> bn.DiscreteNetwork:
    """A network of the bnlearn repository."""
    return bn.read_bif(locate(f"bayesnets/{name}.bif"))


def log_score(dag: bn.DAG, data: bn.Categories, fresh: bn.Categories, sample_size: float) -> float:
    """Mean log probability of fresh rows under the posterior means of a graph's tables, nats a row."""
    return float(bn.log_prob(bn.posterior_mean(dag, data, sample_size), fresh).mean())


def pgmpy_graph(data: bn.Categories, sample_size: float) -> bn.DAG:
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
    bn.screened(families, 8)
    seconds = time.perf_counter() - begin
    yield row("alarm, 20,000 rows, all sets of 8 candidates", 37 * 2**8 / seconds, "families/s", seconds=seconds)


def network_rows(name: str, num_rows: int, sample_size: float) -> Iterator[Row]:
    """Search over orders beside hill climbing, of the same score."""
    network = published(name)
    data, fresh = bn.sample(network, num_rows, seed=0), bn.sample(network, FRESH, seed=1)
    task = f"{name}, {num_rows:,} rows, BDeu({sample_size:g})"
    begin = time.perf_counter()
    families = bn.categorical_families(data, bn.BDeu(sample_size))
    found = bn.OrderSearch()(families, seed=0)
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    theirs = pgmpy_graph(data, sample_size)
    pgmpy_seconds = time.perf_counter() - begin
    # Its list of moves that must not be undone is long by default and hinders it: the better of both is the rival.
    rivals = [theirs, hill_climbing(families, tabu_length=0)]
    yield row(
        f"{task}, score of the best graph found",
        found.score,
        "nats",
        at_least=max(map(families.score, rivals)),
        rounds=found.by_round,
    )
    yield row(f"{task}, score of the true graph", families.score(network.dag), "nats")
    for what, distance in (("classes", bn.class_hamming_distance), ("graphs", bn.structural_hamming_distance)):
        bound = min(distance(each, network.dag) for each in rivals)
        yield row(f"{task}, Hamming distance of {what}", distance(found.dag, network.dag), "edges", at_most=bound)
        yield row(f"{task}, Hamming distance of {what}, pgmpy alone", distance(theirs, network.dag), "edges")
    bound = max(log_score(each, data, fresh, sample_size) for each in rivals)
    yield row(
        f"{task}, {FRESH:,} fresh rows", log_score(found.dag, data, fresh, sample_size), "nats a row", at_least=bound
    )
    yield row(
        f"{task}, {FRESH:,} fresh rows, true graph", log_score(network.dag, data, fresh, sample_size), "nats a row"
    )
    yield row(f"{task}, search over orders", seconds, "s")
    yield row(f"{task}, pgmpy's hill climbing", pgmpy_seconds, "s")
    begin = time.perf_counter()
    chains = bn.OrderMCMC(num_samples=200, num_warmup=100)(found.candidates, seed=0)
    apart = float(np.ptp(chains.by_chain, 0).max())
    yield row(f"{task}, chains over orders", time.perf_counter() - begin, "s", chains_apart=apart)


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
                    network_rows, name, num_rows, sample_size
                )
    if not quick:
        found["structure, calibration"] = calibration_rows
    return found
