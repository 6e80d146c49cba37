"""Exact queries of published networks compared with the variable elimination of pgmpy, and rows with missing values.

The query is all marginals given the values of every sixth node in a row sampled from the network; pgmpy needs one query per node.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.rows import Row, row
from probmodel.data.locate import locate
from probmodel.families import bayesian_networks as bn

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Parts of pgmpy warn of renamed parts of pgmpy when imported.
        from pgmpy.inference import VariableElimination
        from pgmpy.readwrite import BIFReader

    HAS_PGMPY = True
except ImportError:
    HAS_PGMPY = False

NETWORKS = ("alarm", "insurance", "hailfinder", "hepar2", "win95pts", "water")
ROWS, HOLES = 10_000, 0.1
PRINTED = 1e-6
"""Largest difference allowed: printed probabilities sum to one within 1e-7, so that quotients of sums may differ by more."""


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a function and its seconds."""
    begin = time.perf_counter()
    found = function()
    return found, time.perf_counter() - begin


def evidence_of(network: bn.DiscreteNetwork) -> dict[str, str]:
    """Values of every sixth node that occur together."""
    codes = bn.sample(network, 1, seed=0).codes[0]
    return {node: network.levels[node][codes[i]] for i, node in enumerate(network.nodes) if i % 6 == 5}


def pgmpy_rows(
    name: str, network: bn.DiscreteNetwork, evidence: dict[str, str], found: bn.Marginals, ours: float
) -> Iterator[Row]:
    """Rows of pgmpy: difference of the marginals, and seconds."""
    model, reading = timed(lambda: BIFReader(str(locate(f"bayesnets/{name}.bif"))).get_model())
    free = [node for node in network.nodes if node not in evidence]
    engine = VariableElimination(model)
    theirs, seconds = timed(
        lambda: [engine.query([node], evidence=evidence, show_progress=False).values for node in free]
    )
    apart = max(float(np.abs(found.tables[node] - table).max()) for node, table in zip(free, theirs, strict=True))
    yield row(f"{name}, marginals, largest difference from pgmpy's", apart, "", at_most=PRINTED)
    yield row(f"{name}, all marginals, pgmpy", seconds, "s", source="pgmpy")
    yield row(f"{name}, all marginals, fraction of pgmpy's time", ours / seconds, "", at_most=1.0)
    yield row(f"{name}, file read, pgmpy", reading, "s", source="pgmpy")


def marginal_rows(name: str) -> Iterator[Row]:
    """Rows of all marginals of a network given some evidence."""
    network, reading = timed(lambda: bn.read_bif(locate(f"bayesnets/{name}.bif")))
    evidence = evidence_of(network)
    found, seconds = timed(lambda: bn.marginals(network, given=evidence))
    without, seconds_without = timed(lambda: bn.marginals(network))
    task = f"{name}, {len(network.nodes)} nodes"
    yield row(f"{task}, file read", reading, "s")
    yield row(f"{task}, all marginals given {len(evidence)}", seconds, "s", log_evidence=found.log_evidence)
    yield row(f"{task}, all marginals given nothing", seconds_without, "s", tables=len(without.tables))
    if HAS_PGMPY:
        yield from pgmpy_rows(name, network, evidence, found, seconds)


def missing_rows(num_rows: int) -> Iterator[Row]:
    """Rows of Alarm with a tenth of all values missing: log probability, imputation, and estimates of the tables."""
    network = bn.read_bif(locate("bayesnets/alarm.bif"))
    data, seconds = timed(lambda: bn.sample(network, num_rows, seed=0))
    task = f"alarm, {num_rows:,} rows"
    yield row(f"{task}, sampled", seconds, "s")
    holes = np.random.default_rng(0).random(data.codes.shape) < HOLES
    some = data._replace(codes=np.where(holes, -1, data.codes))
    found, seconds = timed(lambda: bn.log_prob(network, some))
    yield row(f"{task}, {HOLES:.0%} of values missing, log probability", seconds, "s", nats_per_row=float(found.mean()))
    _, seconds = timed(lambda: bn.impute(network, some, seed=0))
    yield row(f"{task}, {HOLES:.0%} of values missing, imputed", seconds, "s")
    fit, seconds = timed(lambda: bn.EM(tolerance=1e-2)(network.dag, some, seed=0))
    steps = len(fit.log_posteriors)
    least = float(np.diff(fit.log_posteriors).min())
    yield row(f"{task}, {HOLES:.0%} of values missing, EM", seconds, "s", steps=steps)
    yield row(f"{task}, {HOLES:.0%} of values missing, EM, least gain of a step", least, "nats", at_least=0.0)
    fresh = bn.sample(network, num_rows, seed=1)
    truth = bn.log_prob(network, fresh).mean()
    full = truth - bn.log_prob(bn.posterior_mean(network.dag, data), fresh).mean()
    lost = truth - bn.log_prob(fit.network, fresh).mean()
    yield row(f"{task}, complete, tables, divergence from the truth on fresh rows", float(full), "nats per row")
    yield row(
        f"{task}, {HOLES:.0%} of values missing, EM, the same", float(lost), "nats per row", at_most=2 * float(full)
    )


def query_rows(*, quick: bool = False) -> Iterator[Row]:
    """Rows of all networks and of missing values; a quick run leaves out the large networks."""
    for name in NETWORKS[:2] if quick else NETWORKS:
        yield from marginal_rows(name)
    yield from missing_rows(ROWS // 10 if quick else ROWS)
