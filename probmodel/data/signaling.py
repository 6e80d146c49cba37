"""Biological networks whose graph is known or published: protein signaling (Sachs et al., 2005), gene regulation (DREAM4)."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from probmodel.data.locate import locate

SERIES, DISTURBED = 5, 10
"""Number of trajectories of a DREAM4 network of ten genes, and number of times (half of them) with the disturbance."""


class Signaling(NamedTuple):
    """Cells in which eleven phosphorylated proteins were measured.

    Args:
        frame: one row per cell, one column per protein.
        intervened: for each row the protein that was inhibited or activated from outside, or None.
        published: edges (from, to) of the graph that Sachs et al. regard as known.
    """

    frame: pd.DataFrame
    intervened: tuple[str | None, ...]
    published: frozenset[tuple[str, str]]


def protein_signaling() -> Signaling:
    """Levels as measured of 853 cells without interventions; 17 published edges.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with bayesnets/sachs_853_continuous.npz.
    """
    with np.load(locate("bayesnets/sachs_853_continuous.npz")) as file:
        names = [str(name) for name in file["header"]]
        edges = zip(*np.nonzero(file["DAG"]), strict=True)
        frame = pd.DataFrame(file["X"], columns=names)
    return Signaling(frame, (None,) * len(frame), frozenset((names[i], names[j]) for i, j in edges))


def protein_signaling_interventions() -> Signaling:
    """Levels, in three classes, of 5,400 cells, 3,600 of them with one of five proteins set from outside; 20 published edges.

    Raises:
        FileNotFoundError: where PROBMODEL_DATA names no folder with the files of bayesnets.
    """
    table = pd.read_csv(locate("bayesnets/sachs.interventional.discrete.csv.gz"))
    frame = table.drop(columns="INT")
    names = list(frame.columns)
    by_lower = {name.lower(): name for name in names} | {"plc": "Plcg"}
    lines = locate("bayesnets/sachs.2005.ground.truth.graph.txt").read_text().splitlines()
    pairs = [line.split(". ", 1)[1].split(" --> ") for line in lines if "-->" in line]
    published = frozenset((by_lower[parent.strip()], by_lower[child.strip()]) for parent, child in pairs)
    return Signaling(frame, tuple(names[number - 1] if number else None for number in table["INT"]), published)


class GeneNetwork(NamedTuple):
    """Simulated expression of genes that regulate each other.

    Args:
        names: names of the genes.
        trajectories: levels (series, time, gene) from rest, through a disturbance of unknown genes, back to rest.
        disturbed: True where the disturbance acts, (series, time).
        steady: levels at rest (row, gene): wild type, each gene knocked out, each gene knocked down.
        set_gene: for each steady state the gene that was set, or None.
        edges: edges of the simulation (gene, gene), 1 where the first gene regulates the second.
    """

    names: tuple[str, ...]
    trajectories: Float[np.ndarray, "S T n"]
    disturbed: np.ndarray
    steady: Float[np.ndarray, "M n"]
    set_gene: tuple[int | None, ...]
    edges: Float[np.ndarray, "n n"]


def simulated_genes(
    *, num_genes: int = 8, num_series: int = 4, num_times: int = 15, noise: float = 0.1, seed: int = 0
) -> GeneNetwork:
    """Linear kinetics of a random network, feedback included: each gene follows one or two others.

    From rest, unknown genes (three in ten) are driven for the first half of each series; then each gene is knocked out.

    Args:
        num_genes: number of genes, at least 3.
        num_series: number of trajectories.
        num_times: number of times per trajectory.
        noise: standard deviation of the noise per step and of a measured steady state; effects are about one.
        seed: seed of the network and of the noise.

    Raises:
        ValueError: for fewer than three genes.
    """
    if num_genes < 3:
        raise ValueError(f"expected num_genes of 3 or more, got {num_genes}; pass num_genes=3 or more")
    rng, n = np.random.default_rng(seed), num_genes
    weights = np.zeros((n, n))
    for gene in range(n):
        regulators = rng.choice(np.delete(np.arange(n), gene), size=rng.integers(1, 3), replace=False)
        weights[regulators, gene] = rng.choice([-0.8, 0.8], size=len(regulators))
    # A spectral radius below 1: levels neither diverge nor oscillate forever.
    weights *= min(1.0, 0.8 / max(1e-12, float(np.abs(np.linalg.eigvals(weights)).max())))
    persistence, level = rng.uniform(0.2, 0.7, n), rng.normal(size=n)
    drive = (rng.random((num_series, n)) < 0.3) * rng.choice([-2.0, 2.0], (num_series, n))
    disturbed = np.broadcast_to(np.arange(num_times) < num_times // 2, (num_series, num_times))
    x = np.zeros((num_series, num_times, n))
    x[:, 0] = rest = np.linalg.solve(np.eye(n) - weights.T, level)
    for t in range(num_times - 1):
        goal = level + x[:, t] @ weights + disturbed[:, t, None] * drive
        x[:, t + 1] = persistence * x[:, t] + (1 - persistence) * goal + noise * rng.normal(size=goal.shape)
    knocked_out = [
        np.linalg.solve(
            np.eye(n) - np.where(np.arange(n) == gene, 0.0, weights).T, np.where(np.arange(n) == gene, 0.0, level)
        )
        for gene in range(n)
    ]
    steady = np.stack([rest, *knocked_out])
    steady[1:] += noise * rng.normal(size=(n, n)) * ~np.eye(n, dtype=bool)
    steady[0] += noise * rng.normal(size=n)
    names = tuple(f"G{gene + 1}" for gene in range(n))
    return GeneNetwork(names, x, disturbed, steady, (None, *range(n)), (weights != 0).astype(float))


def dream4(network: int) -> GeneNetwork:
    """One of DREAM4's five networks of ten genes (Marbach et al., 2010): five trajectories of 21 times, 21 steady states.

    Args:
        network: number of the network, 1 to 5.

    Raises:
        ValueError: for another number.
        FileNotFoundError: where PROBMODEL_DATA names no folder with the files of dream4_size10.
    """
    if network not in range(1, 6):
        raise ValueError(f"expected a network from 1 to 5, got {network}; pass one of these")
    folder = f"dream4_size10/insilico_size10_{network}"

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(locate(f"{folder}/{name}.tsv"), sep="\t")

    series = table("timeseries").dropna().drop(columns="Time")
    names = tuple(series.columns)
    x = series.to_numpy(float).reshape(SERIES, -1, len(names))
    disturbed = np.broadcast_to(np.arange(x.shape[1]) < DISTURBED, x.shape[:2])
    steady = np.concatenate(
        [table(name)[list(names)].to_numpy(float) for name in ("wildtype", "knockouts", "knockdowns")]
    )
    gold = pd.read_csv(locate(f"{folder}/goldStandard.tsv"), sep="\t", header=None)
    edges = np.zeros((len(names), len(names)))
    for parent, child, present in gold.itertuples(index=False):
        edges[names.index(parent), names.index(child)] = present
    genes = range(len(names))
    return GeneNetwork(names, x, disturbed, steady, (None, *genes, *genes), edges)
