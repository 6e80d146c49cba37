"""Scores of published graphs, optima over all graphs, and probabilities of edges of small Bayesian networks."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from benchmarks.rows import Row, near, row
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
"""Number of variables → largest seconds allowed for the posterior probabilities of all edges."""
ROWS, SEEDS = 1_000, 3
SAMPLES = {15: 5_000, 20: 15_000}
"""Number of variables → orders per chain."""


def table(name: str) -> pd.DataFrame:
    """Data set of bnlearn, as text."""
    return pd.read_csv(locate(f"bayesnets/bnlearn_{name}.csv.gz"), dtype=str, keep_default_na=False)


def score_rows() -> Iterator[Row]:
    """Rows of the scores of the true graphs."""
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
    """Rows of the optima over all graphs."""
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
    """Rows of protein signaling (Sachs et al., 2005): 853 cells, eleven proteins."""
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
    yield row("Sachs, pairs joined with probability above 0.5", float((np.triu(either) > 0.5).sum()), "pairs")


def binary(n: int) -> CategoricalData:
    """Data of a random network, in which each variable depends on up to three before it."""
    rng = np.random.default_rng(n)
    codes = np.zeros((ROWS, n), dtype=np.int64)
    for i in range(n):
        parents = rng.choice(i, size=min(i, 3), replace=False)
        weights = rng.normal(scale=2.0, size=len(parents))
        logits = (2 * codes[:, parents] - 1) @ weights + rng.normal()
        codes[:, i] = rng.random(ROWS) < 1 / (1 + np.exp(-logits))
    return CategoricalData({f"x{i}": ("0", "1") for i in range(n)}, codes)


def posterior_rows(n: int) -> Iterator[Row]:
    """Rows of the probabilities of all edges between n binary variables, exact and by chains."""
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


def groups() -> dict[str, Callable[[], Iterator[Row]]]:
    """Name of a group → its rows."""
    return {
        "scores": score_rows,
        "search": search_rows,
        "Sachs": sachs_rows,
        "edges of 15": lambda: posterior_rows(15),
        "edges of 20": lambda: posterior_rows(20),
    }
