"""Networks of gene regulation (DREAM4): edge probabilities of linear kinetics against random forests."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from benchmarks.bionets.edge_areas import areas
from benchmarks.rows import Row, row
from probmodel.data.signaling import GeneNetwork, dream4
from probmodel.families.bayesian_networks.kinetics import LinearKinetics, SteadyStates, Trajectories

TREES = 1_000
FOREST = "GENIE3"


def forests(genes: GeneNetwork, *, lagged: bool, spared: bool, trees: int) -> np.ndarray:
    """Importances of random forests of each gene on the others.

    Args:
        genes: trajectories and steady states.
        lagged: whether a level in a trajectory is predicted from the other levels one time before, not at the same time.
        spared: whether rows in which the gene itself was set are left out.
        trees: number of trees per forest.
    """
    x, n = genes.trajectories, len(genes.names)
    before, after = (x[:, :-1], x[:, 1:]) if lagged else (x, x)
    inputs = np.concatenate([genes.steady, before.reshape(-1, n)])
    outputs = np.concatenate([genes.steady, after.reshape(-1, n)])
    set_gene = np.array(
        [-1 if gene is None else gene for gene in genes.set_gene] + [-1] * (len(inputs) - len(genes.steady))
    )
    found = np.zeros((n, n))
    for gene in range(n):
        kept = set_gene != gene if spared else np.full(len(inputs), True)
        others = [i for i in range(n) if i != gene]
        forest = RandomForestRegressor(trees, max_features="sqrt", random_state=0)
        found[others, gene] = forest.fit(inputs[kept][:, others], outputs[kept, gene]).feature_importances_
    return found


def kinetics(genes: GeneNetwork) -> np.ndarray:
    """Edge probabilities from trajectories, knock-outs and knock-downs together."""
    given = Trajectories(genes.trajectories, genes.disturbed), SteadyStates(genes.steady, genes.set_gene)
    return LinearKinetics()(*given).edges


def regulation_rows(*, quick: bool) -> Iterator[Row]:
    """Rows of DREAM4: mean areas over networks, bounded by those of the best of four random-forest runs."""
    trees = 50 if quick else TREES
    methods: dict[str, Callable[[GeneNetwork], np.ndarray]] = {
        f"{FOREST}, {'one time before' if lagged else 'same time'}, rows of the gene set {'left out' if spared else 'kept'}": (
            lambda genes, lagged=lagged, spared=spared: forests(genes, lagged=lagged, spared=spared, trees=trees)
        )
        for lagged in (False, True)
        for spared in (False, True)
    }
    networks = [dream4(number) for number in ((1, 4) if quick else range(1, 6))]
    found: dict[str, np.ndarray] = {}
    for name, method in {**methods, "linear kinetics": kinetics}.items():
        begin = time.perf_counter()
        found[name] = np.array([areas(method(genes), genes.edges) for genes in networks])
        seconds = time.perf_counter() - begin
        for column, area in enumerate(("AUROC", "AUPR")):
            peers = [each[:, column].mean() for peer, each in found.items() if peer.startswith(FOREST)]
            bound = (
                {} if name.startswith(FOREST) else {"at_least": float(max(peers)), "by_network": found[name].tolist()}
            )
            yield row(
                f"DREAM4, {name}: mean {area}", float(found[name][:, column].mean()), "", seconds=seconds, **bound
            )
