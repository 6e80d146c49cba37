"""Structure learning: speed of scores, graphs of many variables beside pgmpy's hill climbing, calibration of edges.

    PROBMODEL_DATA=FOLDER python benchmarks/graphs_structure.py [--quick] [--only TEXT] [--out FILE.json]

Rows are sampled from published networks.  Both searches see the same rows and the same score:
BDeu with pgmpy's own sample size, 10.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from pgmpy.causal_discovery import HillClimbSearch
from pgmpy.readwrite import BIFReader
from pgmpy.structure_score import BDeu as PgmpyBDeu
from rows import Row, line, options, row, status, tabulate

from probmodel.bayesian_networks.candidates import screened
from probmodel.bayesian_networks.categories import Categories
from probmodel.bayesian_networks.dag import DAG, class_hamming_distance, structural_hamming_distance
from probmodel.bayesian_networks.edge_calibration import SimulatedNetworks
from probmodel.bayesian_networks.family_cache import categorical_families
from probmodel.bayesian_networks.order_mcmc import OrderMCMC
from probmodel.bayesian_networks.order_search import OrderSearch
from probmodel.bayesian_networks.pgmpy_search import hill_climbing
from probmodel.bayesian_networks.scores import BDeu
from probmodel.data.locate import locate

SAMPLE_SIZE = 10.0
NETWORKS = ("insurance", "alarm", "hailfinder")
ROWS, FRESH = (1_000, 10_000), 10_000


class Published(NamedTuple):
    """A network of categorical variables; each table has the child's axis first, then its parents'."""

    dag: DAG
    levels: dict[str, tuple[str, ...]]
    tables: dict[str, Float[np.ndarray, "r *q"]]


def published(name: str) -> Published:
    """A network of the bnlearn repository."""
    model = BIFReader(str(locate(f"bayesnets/{name}.bif"))).get_model()
    tables = {str(node): model.get_cpds(node) for node in sorted(model.nodes())}
    dag = DAG({node: tuple(map(str, table.variables[1:])) for node, table in tables.items()})
    levels = {node: tuple(map(str, table.state_names[node])) for node, table in tables.items()}
    return Published(dag, levels, {node: np.asarray(table.values) for node, table in tables.items()})


def sampled(network: Published, num_rows: int, rng: np.random.Generator) -> Categories:
    """Rows, parents first."""
    columns: dict[str, np.ndarray] = {}
    for node in network.dag.order:
        cumulative = network.tables[node].cumsum(0)[:-1]
        given = tuple(columns[parent] for parent in network.dag.parents[node])
        below = cumulative[(slice(None), *given)] if given else cumulative[:, None]
        columns[node] = (rng.random(num_rows) > below).sum(0)
    return Categories(network.levels, np.stack([columns[node] for node in network.levels], 1).astype(np.int64))


def log_score(dag: DAG, data: Categories, fresh: Categories) -> float:
    """Mean log probability of fresh rows under the posterior means of a graph's tables, nats a row."""
    total = 0.0
    for node, parents in dag.parents.items():
        child, columns = data.column(node), [data.column(parent) for parent in parents]
        sizes = [data.cardinalities[column] for column in columns]
        r, q = data.cardinalities[child], float(np.prod(np.array(sizes, dtype=float)))
        strides = np.cumprod([1, *sizes[:-1]], dtype=np.int64)[: len(sizes)]
        seen, new = (each.codes[:, columns] @ strides for each in (data, fresh))
        with_child = (seen * r + data.codes[:, child], new * r + fresh.codes[:, child])
        alpha = SAMPLE_SIZE / (q * r)
        total += float(np.log((_times(*with_child) + alpha) / (_times(seen, new) + r * alpha)).mean())
    return total


def _times(seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How often each label that is asked for was seen."""
    labels, times = np.unique(seen, return_counts=True)
    at = np.searchsorted(labels, asked).clip(max=len(labels) - 1)
    return np.where(labels[at] == asked, times[at], 0)


def pgmpy_graph(data: Categories) -> DAG:
    """By pgmpy alone: its search with its own score, as it comes."""
    frame = pd.DataFrame(
        {
            name: pd.Categorical.from_codes(data.codes[:, column], categories=list(levels))
            for column, (name, levels) in enumerate(data.levels.items())
        }
    )
    term = PgmpyBDeu(
        frame, equivalent_sample_size=SAMPLE_SIZE, state_names={k: list(v) for k, v in data.levels.items()}
    )
    found = HillClimbSearch(scoring_method=term, return_type="dag", show_progress=False).fit(frame).causal_graph_
    return DAG.from_edges(data.names, sorted(found.edges()))


def speed_rows() -> Iterator[Row]:
    """Alarm's 37 nodes on 20,000 rows, nothing kept from before."""
    network = published("alarm")
    data = sampled(network, 20_000, np.random.default_rng(0))
    begin = time.perf_counter()
    families = categorical_families(data, BDeu(SAMPLE_SIZE))
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
    screened(families, 8)
    seconds = time.perf_counter() - begin
    yield row("alarm, 20,000 rows, all sets of 8 candidates", 37 * 2**8 / seconds, "families/s", seconds=seconds)


def network_rows(name: str, num_rows: int) -> Iterator[Row]:
    """Search over orders beside hill climbing, of the same score."""
    network, rng = published(name), np.random.default_rng(0)
    fresh, data = sampled(network, FRESH, rng), sampled(network, num_rows, rng)
    task = f"{name}, {num_rows:,} rows"
    begin = time.perf_counter()
    families = categorical_families(data, BDeu(SAMPLE_SIZE))
    found = OrderSearch()(families, seed=0)
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    theirs = pgmpy_graph(data)
    pgmpy_seconds = time.perf_counter() - begin
    # Its list of moves that must not be undone is long by default and hinders it: the better of both is the rival.
    rivals = [theirs, hill_climbing(families, tabu_length=0)]
    yield row(f"{task}, BDeu", found.score, "nats", at_least=max(map(families.score, rivals)), rounds=found.by_round)
    yield row(f"{task}, BDeu of the true graph", families.score(network.dag), "nats")
    for what, distance in (("classes", class_hamming_distance), ("graphs", structural_hamming_distance)):
        bound = min(distance(each, network.dag) for each in rivals)
        yield row(f"{task}, Hamming distance of {what}", distance(found.dag, network.dag), "edges", at_most=bound)
        yield row(f"{task}, Hamming distance of {what}, pgmpy alone", distance(theirs, network.dag), "edges")
    bound = max(log_score(each, data, fresh) for each in rivals)
    yield row(f"{task}, {FRESH:,} fresh rows", log_score(found.dag, data, fresh), "nats a row", at_least=bound)
    yield row(f"{task}, {FRESH:,} fresh rows, true graph", log_score(network.dag, data, fresh), "nats a row")
    yield row(f"{task}, search over orders", seconds, "s")
    yield row(f"{task}, pgmpy's hill climbing", pgmpy_seconds, "s")
    begin = time.perf_counter()
    chains = OrderMCMC(num_samples=200, num_warmup=100)(found.candidates, seed=0)
    apart = float(np.ptp(chains.by_chain, 0).max())
    yield row(f"{task}, chains over orders", time.perf_counter() - begin, "s", chains_apart=apart)


def calibration_rows() -> Iterator[Row]:
    """Exact probabilities of edges of eight variables, on networks from the prior."""
    begin = time.perf_counter()
    found = SimulatedNetworks(num_networks=150, num_variables=8, num_rows=200)(seed=0)
    seconds = time.perf_counter() - begin
    task = "edges of eight variables, 150 networks"
    yield row(f"{task}, calibrated", found.p_value, "p-value", at_least=0.01, seconds=seconds)
    for p, share, error, number in zip(*found[:4], strict=True):
        if number:
            yield row(f"{task}, probability {p:.3f}, of {number} pairs", share, "there", stderr=error)


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """All groups whose name contains the text; the small data only at smoke size."""
    groups: dict[str, Callable[[], Iterator[Row]]] = {"speed": speed_rows}
    for name in NETWORKS[:1] if quick else NETWORKS:
        for num_rows in ROWS[:1] if quick else ROWS:
            groups[f"{name} {num_rows}"] = lambda name=name, num_rows=num_rows: network_rows(name, num_rows)
    if not quick:
        groups["calibration"] = calibration_rows
    for name, group in groups.items():
        if only in name:
            yield from group()


def main() -> None:
    """Print the table; write it where asked."""
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="groups whose name contains the text")
    arguments = parser.parse_args()
    logging.getLogger("pgmpy").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    raise SystemExit(status(tabulate(rows(quick=arguments.quick, only=arguments.only), arguments.out, line)))


if __name__ == "__main__":
    main()
