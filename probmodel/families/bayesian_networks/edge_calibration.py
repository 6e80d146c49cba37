"""Calibration of edge probabilities: they are compared with the frequency of edges in networks drawn from the prior.

Under the prior that a posterior assumes, an edge of probability p is in a fraction p of all networks (Dawid, 1982).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import chi2

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.all_families import family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import BDeu, check_prior_rows
from probmodel.families.bayesian_networks.structure.exact_posterior import posterior_over_dags
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.integers import checked_seed, integer

EdgePosterior = Callable[[CategoricalData], Float[np.ndarray, "n n"]]
"""Function of the data that returns the probability of an edge from i to j."""


class EdgeReliability(NamedTuple):
    """Edge probabilities per bin, and the frequency of these edges in the true graphs.

    Args:
        probability: (B,) mean probability per bin; nan for empty bins.
        frequency: (B,) fraction of edges that are in the true graph.
        stderr: (B,) standard error of the difference; edges of one network count as one observation.
        num_edges: (B,) number of pairs of nodes per bin.
        p_value: p-value of the chi-square test that all bins' differences are zero; nan below 20 networks in every bin.
    """

    probability: Float[np.ndarray, " B"]
    frequency: Float[np.ndarray, " B"]
    stderr: Float[np.ndarray, " B"]
    num_edges: Int[np.ndarray, " B"]
    p_value: float


@checks_fields
@dataclass(frozen=True)
class SimulatedNetworks:
    """Networks with graphs uniform over all DAGs, tables from the Dirichlet prior of BDeu, and rows drawn from them.

    Args:
        num_networks: number of networks.
        num_variables: number of nodes of each.
        num_rows: number of rows drawn from each.
        cardinality: number of values of each variable.
        sample_size: equivalent sample size of the Dirichlet priors, in rows.
    """

    num_networks: int = 200
    num_variables: int = 5
    num_rows: int = 100
    cardinality: int = 2
    sample_size: float = 4.0

    @checks_arguments
    def __call__(self, posterior: EdgePosterior | None = None, *, seed: int, num_bins: int = 10) -> EdgeReliability:
        """Reliability of edge probabilities on these networks.

        Args:
            posterior: function to assess; None for the exact posterior of this prior, `posterior_over_dags` of BDeu.
            seed: seed of the networks and rows.
            num_bins: number of probability bins of equal width.

        Raises:
            ValueError: if counts are not integers, there are fewer than two networks, or sample_size is not positive.
        """
        count = integer("num_networks", self.num_networks, least=2)
        integer("num_bins", num_bins)
        check_prior_rows("sample_size", self.sample_size)
        n, rng = integer("num_variables", self.num_variables, least=2), np.random.default_rng(checked_seed(seed))
        judged = self.posterior if posterior is None else posterior
        truths, probabilities = [], []
        for _ in range(count):
            graph = random_dag(n, rng)
            truths.append(graph)
            probabilities.append(judged(self.sample(graph, rng)))
        return edge_reliability(np.stack(probabilities), np.stack(truths), num_bins)

    def posterior(self, data: CategoricalData) -> Float[np.ndarray, "n n"]:
        """Exact posterior of the edges under this prior."""
        return posterior_over_dags(family_scores(data, BDeu(self.sample_size))).edges

    def sample(self, graph: Int[np.ndarray, "n n"], rng: np.random.Generator) -> CategoricalData:
        """Rows drawn from a network with this graph and tables drawn from their prior."""
        n, r = len(graph), integer("cardinality", self.cardinality, least=2)
        names = [f"x{i}" for i in range(n)]
        dag = DAG.from_edges(names, [(names[i], names[j]) for i, j in zip(*np.nonzero(graph), strict=True)])
        codes = np.zeros((integer("num_rows", self.num_rows), n), dtype=np.int64)
        for name in dag.order:
            child = names.index(name)
            parents = [names.index(parent) for parent in dag.parents[name]]
            table = _dirichlet(self.sample_size / (r * r ** len(parents)), (r ** len(parents), r), rng)
            label = codes[:, parents] @ r ** np.arange(len(parents))
            codes[:, child] = (rng.random(len(codes))[:, None] > table.cumsum(1)[label, :-1]).sum(1)
        return CategoricalData({name: tuple(map(str, range(r))) for name in names}, codes)


@checks_arguments
def edge_reliability(
    probabilities: Float[np.ndarray, "S n n"], truths: Int[np.ndarray, "S n n"], num_bins: int = 10
) -> EdgeReliability:
    """Reliability of the edge probabilities of S networks, compared with the true graphs.

    Args:
        probabilities: probability of an edge from i to j.
        truths: 1 where the edge is in the true graph, else 0.
        num_bins: number of probability bins of equal width.

    Raises:
        ValueError: if probabilities lie outside [0, 1], shapes differ, or there are fewer than two networks.
    """
    if probabilities.shape != truths.shape or len(truths) < 2:
        raise ValueError(
            f"expected probabilities and graphs (networks, n, n) of two networks or more, got {probabilities.shape} and "
            f"{truths.shape}; simulate more networks, with one graph each"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("expected probabilities between 0 and 1, got others or NaN; pass the edges of a posterior")
    pairs = ~np.eye(truths.shape[1], dtype=bool)
    p, there = probabilities[:, pairs], truths[:, pairs].astype(float)
    label = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)
    inside = label[:, None] == np.arange(num_bins)[:, None]  # (S, B, pairs)
    num_edges = inside.sum((0, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, fraction = ((inside * values[:, None]).sum((0, 2)) / num_edges for values in (p, there))
        by_network = (inside * (there - p)[:, None]).sum(2)  # (S, B), with mean zero if calibrated
        stderr = np.sqrt((by_network**2).sum(0)) / num_edges
    return EdgeReliability(mean, fraction, stderr, num_edges, _p_value(by_network))


def _p_value(by_network: Float[np.ndarray, "S B"]) -> float:
    """P-value of Hotelling's statistic of the bins' sums; bins that few networks fall into are left out."""
    used = by_network[:, (by_network != 0).sum(0) >= 20]
    if not used.shape[1]:
        return math.nan
    total, covariance = used.sum(0), used.T @ used
    return float(chi2.sf(total @ np.linalg.pinv(covariance) @ total, used.shape[1]))


# ------------------------------------------------------------------------------------------ random graphs


@checks_arguments
def random_dag(n: int, rng: np.random.Generator) -> Int[np.ndarray, "n n"]:
    """Draw a graph uniformly from all DAGs of n nodes: 1 for an edge from i to j (Kuipers & Moffa, 2015).

    The number of nodes without parents, then of those without parents once the former are removed, and so on, is drawn
    by exact counts.

    Args:
        n: number of nodes.
        rng: random generator.
    """
    counts = _counts_by_roots(n)
    sizes = [_drawn([counts[n][k] for k in range(n + 1)], rng)]
    while (left := n - sum(sizes)) > 0:
        k = sizes[-1]
        sizes.append(_drawn([_num_dags(counts, left, k, s) for s in range(left + 1)], rng))
    node = rng.permutation(n)
    found, start = np.zeros((n, n), dtype=np.int64), 0
    for number, size in enumerate(sizes):
        previous = node[start - sizes[number - 1] : start] if number else node[:0]
        for child in node[start : start + size]:
            found[node[:start], child] = rng.integers(2, size=start)
            while len(previous) and not found[previous, child].any():
                found[previous, child] = rng.integers(2, size=len(previous))
        start += size
    return found


def _counts_by_roots(n: int) -> list[list[int]]:
    """Number of DAGs of m nodes of which k have no parents, for all m up to n."""
    counts = [[0] * (n + 1) for _ in range(n + 1)]
    counts[0][0] = 1
    for m in range(1, n + 1):
        for k in range(1, m + 1):
            rest = 1 if k == m else sum(_num_dags(counts, m - k, k, s) for s in range(1, m - k + 1))
            counts[m][k] = math.comb(m, k) * rest
    return counts


def _num_dags(counts: Sequence[Sequence[int]], left: int, k: int, s: int) -> int:
    """Number of DAGs of `left` nodes with s roots, together with their edges from the k roots just removed."""
    return (2**k - 1) ** s * 2 ** (k * (left - s)) * counts[left][s]


def _drawn(weights: Sequence[int], rng: np.random.Generator) -> int:
    """Random index with probabilities proportional to exact integer weights."""
    total = sum(weights)
    return int(rng.choice(len(weights), p=[weight / total for weight in weights]))


def _dirichlet(alpha: float, shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "q r"]:
    """Draw rows from Dirichlet(α, …, α), by logs of gammas so that a small α leaves no row without mass."""
    # Gamma(α) = Gamma(α + 1) U^{1/α}.
    log_gamma = np.log(rng.gamma(alpha + 1, size=shape)) + np.log(rng.random(shape)) / alpha
    weight = np.exp(log_gamma - log_gamma.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)
