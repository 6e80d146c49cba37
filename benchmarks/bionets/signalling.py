"""Biological networks: protein signalling with and without interventions, and gene regulation (DREAM4, ten genes).

    PROBMODEL_DATA=FOLDER python benchmarks/bionets.py [--quick] [--only TEXT] [--out FILE.json]

Areas are over all ordered pairs of variables: under the receiver operating characteristic, and average precision.  The
random forests (GENIE3; Huynh-Thu et al., 2010) see the same rows in the same run.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
from benchmarks.rows import Row, line, options, row, status, tabulate
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import average_precision_score, roc_auc_score

from probmodel.data.signalling import (
    GeneNetwork,
    Signalling,
    dream4,
    protein_signalling,
    protein_signalling_interventions,
)
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG, structural_hamming_distance
from probmodel.families.bayesian_networks.kinetics import LinearKinetics, SteadyStates, Trajectories
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores, family_scores, gaussian_family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import BDeu
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, moments
from probmodel.families.bayesian_networks.structure.exact_posterior import posterior_over_dags
from probmodel.families.bayesian_networks.structure.exact_search import best_dag

TREES = 1_000
FOREST = "GENIE3"


def areas(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Area under the receiver operating characteristic and average precision, over pairs of different variables."""
    pairs = ~np.eye(len(truth), dtype=bool)
    return float(roc_auc_score(truth[pairs], scores[pairs])), float(
        average_precision_score(truth[pairs], scores[pairs])
    )


def _matrix(cells: Signalling) -> np.ndarray:
    names = list(cells.frame.columns)
    return np.array([[float((parent, child) in cells.published) for child in names] for parent in names])


def _signalling_rows(
    task: str, cells: Signalling, families: Callable[[], FamilyScores], **bounds: float
) -> Iterator[Row]:
    """Best graph and edge probabilities under a uniform prior of graphs, beside the published graph."""
    names = tuple(cells.frame.columns)
    begin = time.perf_counter()
    scores = families()
    best = best_dag(scores, names)
    seconds = time.perf_counter() - begin
    published = DAG.from_edges(names, sorted(cells.published))
    distance = structural_hamming_distance(best.dag, published)
    yield row(
        f"{task}: best graph, Hamming distance", distance, "edges", seconds=seconds, graph=str(best.dag), **bounds
    )
    begin = time.perf_counter()
    found = posterior_over_dags(scores)
    seconds = time.perf_counter() - begin
    roc, precision = areas(found.edges, _matrix(cells))
    yield row(f"{task}: edge probabilities, AUROC", roc, "", seconds=seconds)
    yield row(
        f"{task}: edge probabilities, AUPR",
        precision,
        "",
        share_of_edges=len(cells.published) / (len(names) * (len(names) - 1)),
    )
    yield row(f"{task}: log evidence of all graphs", found.log_evidence, "nats")


def signalling_rows() -> Iterator[Row]:
    """Eleven proteins: 853 cells by BGe; 5,400 cells by BDe, with interventions and as if there had been none."""
    cells = protein_signalling()
    x = cells.frame.to_numpy()
    # The prior is one of columns of like scales: the second is the usual run on the levels as they were measured.
    for scale, values in (("standardized", (x - x.mean(0)) / x.std(0)), ("as measured", x)):
        yield from _signalling_rows(
            f"853 cells, BGe, levels {scale}",
            cells,
            lambda values=values: gaussian_family_scores(moments(values), BGe()),
            at_most=16,
        )
    cells = protein_signalling_interventions()
    data = CategoricalData.of(cells.frame)
    for task, intervened in (("interventions told", cells.intervened), ("interventions not told", ())):
        yield from _signalling_rows(
            f"5,400 cells, BDe, {task}", cells, lambda intervened=intervened: family_scores(data, BDeu(1.0), intervened)
        )


def forests(genes: GeneNetwork, *, lagged: bool, spared: bool, trees: int) -> np.ndarray:
    """Importances of random forests of each gene on the others.

    Args:
        genes: all rows: trajectories and steady states.
        lagged: whether a trajectory's level follows the others' levels one time before, in place of the same time.
        spared: whether rows where the gene itself was set are left out.
        trees: of each forest.
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
    """DREAM4: each network, then the means beside the best of four random-forest runs."""
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


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """All groups whose name contains the text."""
    groups: dict[str, Callable[[], Iterator[Row]]] = {
        "signalling": signalling_rows,
        "regulation": lambda: regulation_rows(quick=quick),
    }
    for name, group in groups.items():
        if only in name:
            yield from group()


def main() -> None:
    """Print the table; write it where asked."""
    parser = options(__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="groups whose name contains the text")
    arguments = parser.parse_args()
    raise SystemExit(status(tabulate(rows(quick=arguments.quick, only=arguments.only), arguments.out, line)))


if __name__ == "__main__":
    main()
