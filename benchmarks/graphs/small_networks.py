"""Bayesian networks and Boltzmann machines: scores, exact search, edges, queries, classes, partition functions, learning.

    PROBMODEL_DATA=FOLDER python benchmarks/graphs.py [--quick] [--long] [--only TEXT] [--out FILE.json]

Published scores and optima are bnlearn's (Scutari, 2010) and sums over all graphs; times are of one process.  Sections are in
the files graphs_*.py beside this one; --long adds an hour of learning on MNIST.
"""

import time
from collections.abc import Callable, Iterator

import graphs_boltzmann
import graphs_classes
import graphs_partition
import graphs_queries
import graphs_structure
import numpy as np
import pandas as pd
from benchmarks.rows import Row, near, options, row, status, tabulate, verdict

from probmodel.data.locate import locate
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG, structural_hamming_distance
from probmodel.families.bayesian_networks.scores.all_families import family_scores, gaussian_family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import (
    BDeu,
    CategoricalScore,
    bic,
    k2,
    log_likelihood,
    score,
)
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, gaussian_score, moments
from probmodel.families.bayesian_networks.structure.candidates import all_candidates
from probmodel.families.bayesian_networks.structure.exact_posterior import posterior_over_orders
from probmodel.families.bayesian_networks.structure.exact_search import best_dag
from probmodel.families.bayesian_networks.structure.order_mcmc import OrderMCMC

TERMS: dict[str, CategoricalScore] = {
    "log likelihood": log_likelihood,
    "BIC": bic,
    "BDeu(1)": BDeu(1.0),
    "BDeu(10)": BDeu(10.0),
    "K2": k2,
}
GRAPHS = {
    "learning.test": "[A][C][F][B|A][D|A:C][E|B:F]",
    "asia": "[A][S][T|A][L|S][B|S][E|T:L][X|E][D|B:E]",
    "gaussian.test": "[A][B][E][G][C|A:B][D|B][F|A:D:E:G]",
}
PUBLISHED = {
    "learning.test": {
        "log likelihood": -23832.1318,
        "BIC": -24006.7342,
        "BDeu(1)": -24028.0948,
        "BDeu(10)": -23967.6496,
        "K2": -23958.6953,
    },
    "asia": {"BDeu(1)": -11095.8242, "BDeu(10)": -11142.0144, "K2": -11110.1517, "BIC": -11109.7419},
}
OPTIMA = {"BIC": -11107.2933, "BDeu(1)": -11095.7885, "BDeu(10)": -11132.1466}
BGE = {"graph": -53258.9416, "empty": -88130.9901}
SECONDS = {15: 10.0, 20: 600.0}
"""For all posterior probabilities of edges between so many variables."""
ROWS, SEEDS = 1_000, 3
SAMPLES = {15: 5_000, 20: 15_000}
"""Orders of each chain."""
NOT_QUICK = ("edges of 20", "partition functions")


def table(name: str) -> pd.DataFrame:
    """A data set of bnlearn's, as text."""
    return pd.read_csv(locate(f"bayesnets/bnlearn_{name}.csv.gz"), dtype=str, keep_default_na=False)


def score_rows() -> Iterator[Row]:
    """Scores of the true graphs."""
    for name, values in PUBLISHED.items():
        data, graph = CategoricalData.of(table(name)), DAG.from_string(GRAPHS[name])
        for term, expected in values.items():
            yield near(f"{name}, {term}", score(graph, data, TERMS[term]), "nats", reference=expected, tolerance=1e-4)
    frame = table("gaussian.test").astype(float)
    names, found = list(frame), moments(frame.to_numpy())
    graphs = {"graph": DAG.from_string(GRAPHS["gaussian.test"]), "empty": DAG(dict.fromkeys(names, ()))}
    for kind, graph in graphs.items():
        value = gaussian_score(graph, names, found, BGe())
        yield near(f"gaussian.test, BGe of the {kind}", value, "nats", reference=BGE[kind], tolerance=1e-4)


def search_rows() -> Iterator[Row]:
    """Optima over all graphs."""
    data = CategoricalData.of(table("asia"))
    for term, expected in OPTIMA.items():
        begin = time.perf_counter()
        best = best_dag(family_scores(data, TERMS[term]), data.names)
        seconds = time.perf_counter() - begin
        apart = abs(score(best.dag, data, TERMS[term]) - best.score)
        yield near(
            f"asia, optimal {term}", best.score, "nats", reference=expected, tolerance=1e-3, edges=len(best.dag.edges)
        )
        yield row(f"asia, optimal {term}, score of its graph counted anew, difference", apart, "nats", at_most=1e-6)
        yield row(f"asia, optimal {term}, all {best.num_families:,} families", seconds, "s", at_most=1.0)


def sachs_rows() -> Iterator[Row]:
    """Protein signalling (Sachs et al., 2005): 853 rows of eleven proteins."""
    with np.load(locate("bayesnets/sachs_853_continuous.npz")) as file:
        x, truth, names = file["X"], file["DAG"], [str(name) for name in file["header"]]
    graph = DAG.from_edges(names, [(names[i], names[j]) for i, j in zip(*np.nonzero(truth), strict=True)])
    begin = time.perf_counter()
    families = gaussian_family_scores(moments(x), BGe())
    best = best_dag(families, names)
    seconds = time.perf_counter() - begin
    yield row(
        "Sachs, BGe, structural Hamming distance", structural_hamming_distance(best.dag, graph), "edges", at_most=16
    )
    yield row("Sachs, BGe, exact search", seconds, "s", at_most=1.0)
    edges = posterior_over_orders(families).edges
    either = edges + edges.T
    yield row("Sachs, pairs joined with probability above .5", float((np.triu(either) > 0.5).sum()), "pairs")


def binary(n: int) -> CategoricalData:
    """Rows of a random network: each variable follows up to three before it."""
    rng = np.random.default_rng(n)
    codes = np.zeros((ROWS, n), dtype=np.int64)
    for i in range(n):
        parents = rng.choice(i, size=min(i, 3), replace=False)
        weights = rng.normal(scale=2.0, size=len(parents))
        logits = (2 * codes[:, parents] - 1) @ weights + rng.normal()
        codes[:, i] = rng.random(ROWS) < 1 / (1 + np.exp(-logits))
    return CategoricalData({f"x{i}": ("0", "1") for i in range(n)}, codes)


def posterior_rows(n: int) -> Iterator[Row]:
    """All edges of n binary variables."""
    data = binary(n)
    begin = time.perf_counter()
    families = family_scores(data, BDeu(1.0))
    counted = time.perf_counter() - begin
    found = posterior_over_orders(families)
    seconds = time.perf_counter() - begin
    task = f"{n} binary variables, {ROWS:,} rows"
    yield row(f"{task}, exact posterior of edges", seconds, "s", at_most=SECONDS[n], seconds_of_counting=counted)
    for seed in range(SEEDS):
        begin = time.perf_counter()
        chains = OrderMCMC(num_samples=SAMPLES[n])(all_candidates(families), seed=seed)
        apart = float(np.abs(chains.edges - found.edges).max())
        spread = float(np.ptp(chains.by_chain, 0).max())
        seconds = time.perf_counter() - begin
        name = f"{task}, chains over orders, largest difference, seed {seed}"
        yield row(name, apart, "", at_most=0.02, seconds=seconds, chains_apart=spread)


def line(found: Row) -> str:
    """A row as it is printed, scores with all their digits."""
    low, high = found.get("at_least"), found.get("at_most")
    bound = ("" if low is None else f" ≥ {low:.9g}") + ("" if high is None else f" ≤ {high:.9g}")
    return f"{found['task']:<84}{found['value']:>14.9g} {found['unit']:<6}{bound} {verdict(found)}"


def rows(*, quick: bool, long: bool, only: str) -> Iterator[Row]:
    """All groups whose name contains the text; the largest not at smoke size."""
    groups: dict[str, Callable[[], Iterator[Row]]] = {
        "scores": score_rows,
        "search": search_rows,
        "Sachs": sachs_rows,
        "edges of 15": lambda: posterior_rows(15),
        "edges of 20": lambda: posterior_rows(20),
        "partition functions": graphs_partition.partition_rows,
        "queries": lambda: graphs_queries.query_rows(quick=quick),
        "classes": lambda: graphs_classes.class_rows(quick=quick),
        **graphs_structure.groups(quick=quick),
        **graphs_boltzmann.groups(quick=quick, long=long),
    }
    for name, group in groups.items():
        if only in name and not (quick and name in NOT_QUICK):
            yield from group()


def main() -> None:
    """Print the table; write it where asked."""
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="groups whose name contains the text")
    parser.add_argument("--long", action="store_true", help="the long run on MNIST too")
    arguments = parser.parse_args()
    found = rows(quick=arguments.quick, long=arguments.long, only=arguments.only)
    raise SystemExit(status(tabulate(found, arguments.out, line)))


if __name__ == "__main__":
    main()
