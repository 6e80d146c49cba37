"""Evidence of the class of all directed acyclic graphs, and posterior probabilities of edges, by exact sums.

The sum over orders (Koivisto & Sood, 2004; Koivisto, 2006) counts a graph once per order that is compatible with it, so
that the prior probability of a graph grows with the number of these orders.  The sum over graphs with a uniform prior
(Tian & He, 2009) uses inclusion and exclusion of the nodes without children, which costs 3ⁿ in place of n 2ⁿ.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.scores.all_families import FamilyScores, check_families, masks_without
from probmodel.protocols.arguments.checks import checks_arguments

MOST_FOR_GRAPHS = 14
"""Largest number of variables of a sum over graphs, whose 3ⁿ terms take seconds."""


class GraphPosterior(NamedTuple):
    """Evidence of all graphs together, and posterior probabilities of edges.

    Args:
        log_evidence: log Σ p(G) p(data | G), in nats.
        edges: (n, n) posterior probability of an edge from i to j.
        prior: description of the prior over graphs.
    """

    log_evidence: float
    edges: Float[np.ndarray, "n n"]
    prior: str


@checks_arguments
def posterior_over_orders(families: FamilyScores) -> GraphPosterior:
    """Exact posterior under a uniform prior over orders, and over the graphs compatible with each order.

    p(G) is proportional to the number of orders compatible with G.

    Args:
        families: scores in nats; families of score −∞ are excluded from the prior.

    Raises:
        ValueError: for scores of another shape or NaN, and if no graph has a finite score.
    """
    check_families(families)
    n, size = families.shape
    sums = sums_over_subsets(families)
    forward, backward = _forward(sums), _backward(sums)
    _refuse_without_graph(float(forward[-1]))
    edges = np.zeros((n, n))
    masks = np.arange(size)
    for child in range(n):
        rest = masks_without(child, n)
        through = np.full(size, -np.inf)
        through[rest] = forward[rest] + backward[rest | 1 << child]
        probability = np.exp(families[child] + sums_over_supersets(through) - forward[-1])
        for parent in range(n):
            if parent != child:
                edges[parent, child] = probability[masks >> parent & 1 == 1].sum()
    prior = _forward(sums_over_subsets(_uninformative(families)))[-1]
    return GraphPosterior(float(forward[-1] - prior), edges, "uniform over orders")


def _refuse_without_graph(log_sum: float) -> None:
    if not math.isfinite(log_sum):
        raise ValueError(
            f"expected a graph of finite score, got a log sum over all of {log_sum}; raise max_parents, or check scores "
            "and data"
        )


def _uninformative(families: FamilyScores) -> FamilyScores:
    """Scores of uninformative data: 0 where the score is finite, else −∞."""
    return np.where(np.isfinite(families), 0.0, -np.inf)


def _forward(sums: FamilyScores) -> Float[np.ndarray, " M"]:
    """Log sums over the orders of the members of each set, placed first."""
    n, size = sums.shape
    masks = np.arange(size)
    count = np.bitwise_count(masks)
    found = np.full(size, -np.inf)
    found[0] = 0.0
    for level in range(1, n + 1):
        for child in range(n):
            here = masks[(count == level) & (masks >> child & 1 == 1)]
            rest = here ^ (1 << child)
            found[here] = np.logaddexp(found[here], found[rest] + sums[child, rest])
    return found


def _backward(sums: FamilyScores) -> Float[np.ndarray, " M"]:
    """Log sums over the orders of the complement of each set, placed last."""
    n, size = sums.shape
    masks = np.arange(size)
    count = np.bitwise_count(masks)
    found = np.full(size, -np.inf)
    found[-1] = 0.0
    for level in range(n - 1, -1, -1):
        for child in range(n):
            here = masks[(count == level) & (masks >> child & 1 == 0)]
            found[here] = np.logaddexp(found[here], found[here | 1 << child] + sums[child, here])
    return found


def sums_over_subsets(families: FamilyScores) -> FamilyScores:
    """Log of the sum over the subsets of each set, per row."""
    found = families.copy()
    for i in range(families.shape[1].bit_length() - 1):
        halves = found.reshape(len(families), -1, 2, 1 << i)
        halves[:, :, 1] = np.logaddexp(halves[:, :, 1], halves[:, :, 0])
    return found


def sums_over_supersets(values: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Log of the sum over the supersets of each set."""
    found = values.copy()
    for i in range(len(values).bit_length() - 1):
        halves = found.reshape(-1, 2, 1 << i)
        halves[:, 0] = np.logaddexp(halves[:, 0], halves[:, 1])
    return found


@checks_arguments
def posterior_over_dags(families: FamilyScores) -> GraphPosterior:
    """Exact posterior under a uniform prior over directed acyclic graphs.

    With A_i(S) the sum over the sets of parents of i within S, and Z(S) the sum over graphs of S,

        Z(S) = Σ_{∅ ≠ T ⊆ S} (−1)^{|T|+1} Z(S − T) Π_{i ∈ T} A_i(S − T),    T without children in S.

    Terms cancel to no less than 2^−n of their sum, since a graph with k such nodes is counted Σ ±C(k, t) = 1 times.
    Edges come from the derivative of log Z with respect to each family's log score, the posterior probability of that
    family.

    Args:
        families: scores in nats; families of score −∞ are excluded from the prior.

    Raises:
        ArithmeticError: if a sum is lost to rounding errors.
        ValueError: if there are too many variables for 3ⁿ terms, or no graph has a finite score.
    """
    check_families(families)
    n, size = families.shape
    if n > MOST_FOR_GRAPHS:
        raise ValueError(
            f"expected at most {MOST_FOR_GRAPHS} variables to sum over graphs, got {n}; use posterior_over_orders, "
            "or PartitionMCMC"
        )
    sums = sums_over_subsets(families)
    log_z = _sums_over_graphs(sums)
    _refuse_without_graph(float(log_z[-1]))
    derivatives = _derivatives(sums, log_z)
    edges = np.zeros((n, n))
    masks = np.arange(size)
    for child in range(n):
        possible = np.where(np.isfinite(sums[child]), sums[child], np.inf)
        ups, downs = (sums_over_supersets(_log(part) - possible) for part in (derivatives[child], -derivatives[child]))
        probability = np.exp(families[child] + ups) - np.exp(families[child] + downs)
        for parent in range(n):
            edges[parent, child] = probability[masks >> parent & 1 == 1].sum()
    prior = _sums_over_graphs(sums_over_subsets(_uninformative(families)))[-1]
    return GraphPosterior(float(log_z[-1] - prior), edges.clip(0.0, 1.0), "uniform over graphs")


def _sums_over_graphs(sums: FamilyScores) -> Float[np.ndarray, " M"]:
    """Log Z(S) of every set S."""
    log_z = np.full(sums.shape[1], -np.inf)
    log_z[0] = 0.0
    for whole in range(1, len(log_z)):
        terms, signs = _inclusion_exclusion_terms(whole, subsets(whole)[1:], sums, log_z)
        # SciPy's logsumexp with signs loses a sum whose largest terms cancel each other.
        top = terms.max()
        if np.isneginf(top):
            continue  # No graph of this set has a finite score.
        total = (signs * np.exp(terms - top)).sum()
        if not total > 0:
            raise ArithmeticError(
                "expected positive sums over graphs, got complete cancellation; use posterior_over_orders"
            )
        log_z[whole] = top + math.log(total)
    return log_z


def subsets(whole: int) -> Int[np.ndarray, " K"]:
    """All subsets of a set, the empty one first."""
    found = np.zeros(1, dtype=np.int64)
    for i in range(whole.bit_length()):
        if whole >> i & 1:
            found = np.concatenate([found, found | 1 << i])
    return found


def _inclusion_exclusion_terms(
    whole: int, childless: Int[np.ndarray, " K"], sums: FamilyScores, log_z: Float[np.ndarray, " M"]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Logs of the terms of Z(S), one per set T, and their signs."""
    rest = whole ^ childless
    terms = log_z[rest].copy()
    for i in range(whole.bit_length()):
        if whole >> i & 1:
            terms += np.where(childless >> i & 1, sums[i, rest], 0.0)
    return terms, np.where(np.bitwise_count(childless) % 2, 1.0, -1.0)


def _derivatives(sums: FamilyScores, log_z: Float[np.ndarray, " M"]) -> Float[np.ndarray, "n M"]:
    """Derivatives of log Z of all variables with respect to log A_i(S), from the largest set down."""
    n, size = sums.shape
    of_z, of_sums = np.zeros(size), np.zeros((n, size))
    of_z[-1] = 1.0
    for whole in range(size - 1, 0, -1):
        if of_z[whole] == 0.0:
            continue
        childless = subsets(whole)[1:]
        terms, signs = _inclusion_exclusion_terms(whole, childless, sums, log_z)
        proportion = of_z[whole] * signs * np.exp(terms - log_z[whole])
        rest = whole ^ childless
        of_z[rest] += proportion
        for i in range(n):
            has = childless >> i & 1 == 1
            of_sums[i, rest[has]] += proportion[has]
    return of_sums


def _log(values: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Log of the positive values, −∞ for the others."""
    return np.log(values, out=np.full_like(values, -np.inf), where=values > 0)
