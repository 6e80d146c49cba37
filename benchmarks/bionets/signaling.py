"""Networks of protein signaling (Sachs et al., 2005): best graphs and edge probabilities against the published graph."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.bionets.edge_areas import areas
from benchmarks.rows import Row, row
from probmodel.data.signaling import Signaling, protein_signaling, protein_signaling_interventions
from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG, structural_hamming_distance
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores, family_scores, gaussian_family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import BDeu
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, moments
from probmodel.families.bayesian_networks.structure.exact_posterior import posterior_over_dags
from probmodel.families.bayesian_networks.structure.exact_search import best_dag


def signaling_rows() -> Iterator[Row]:
    """Rows of eleven proteins: 853 cells by BGe; 5,400 cells by BDe, with interventions given and ignored."""
    cells = protein_signaling()
    x = cells.frame.to_numpy()
    # The prior assumes columns of similar scale; levels as measured are the usual input all the same.
    for scale, values in (("standardized", (x - x.mean(0)) / x.std(0)), ("as measured", x)):
        yield from _rows_of(
            f"853 cells, BGe, levels {scale}",
            cells,
            lambda values=values: gaussian_family_scores(moments(values), BGe()),
            at_most=16,
        )
    cells = protein_signaling_interventions()
    data = CategoricalData.of(cells.frame)
    for task, intervened in (("interventions known", cells.intervened), ("interventions unknown", ())):
        yield from _rows_of(
            f"5,400 cells, BDe, {task}", cells, lambda intervened=intervened: family_scores(data, BDeu(1.0), intervened)
        )


def _rows_of(task: str, cells: Signaling, families: Callable[[], FamilyScores], **bounds: float) -> Iterator[Row]:
    """Rows of the best graph and of edge probabilities under a uniform prior of graphs, against the published graph."""
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
        fraction_of_edges=len(cells.published) / (len(names) * (len(names) - 1)),
    )
    yield row(f"{task}: log evidence of all graphs", found.log_evidence, "nats")


def _matrix(cells: Signaling) -> np.ndarray:
    names = list(cells.frame.columns)
    return np.array([[float((parent, child) in cells.published) for child in names] for parent in names])
