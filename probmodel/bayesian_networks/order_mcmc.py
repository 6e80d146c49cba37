"""Posterior probabilities of edges by Markov chains over orders (Friedman & Koller, 2003).

An order sums over all graphs that it admits, family by family, so that chains move where graphs would be stuck.  The prior is
that of `over_orders`: p(G) grows with the number of orders that admit G.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.bayesian_networks.exact_posterior import subsets, sums_over_subsets
from probmodel.bayesian_networks.families import FamilyScores
from probmodel.integers import checked_seed, integer

APART = 0.1
"""Difference of an edge's probability between chains from which on they have not mixed."""


class MixingWarning(UserWarning):
    """Chains over orders disagree."""


class Candidates(NamedTuple):
    """For each child those that may be its parents, and the score of each set of them.

    Args:
        parents: (n, K) variables; a child's own number stands for none.
        scores: (n, 2ᴷ) nats, by mask of positions among them; −∞ for sets with a position that stands for none.
    """

    parents: Int[np.ndarray, "n K"]
    scores: Float[np.ndarray, "n M"]


class SampledEdges(NamedTuple):
    """What the chains say.

    Args:
        edges: (n, n) probability of an edge from i to j.
        by_chain: (chain, n, n) the same of each chain.
        log_scores: (chain, draw) log Σ over the graphs of each order, in nats.
    """

    edges: Float[np.ndarray, "n n"]
    by_chain: Float[np.ndarray, "C n n"]
    log_scores: Float[np.ndarray, "C S"]


def all_candidates(families: FamilyScores) -> Candidates:
    """Every other variable may be a parent."""
    n = len(families)
    parents = np.array([[i for i in range(n) if i != child] for child in range(n)]).reshape(n, n - 1)
    masks = np.arange(2 ** (n - 1))
    low = (1 << np.arange(n))[:, None] - 1
    return Candidates(parents, np.take_along_axis(families, (masks & low) | (masks & ~low) << 1, 1))


@dataclass(frozen=True)
class OrderMCMC:
    """Gibbs chains that move one variable of an order at a time (Kuipers & Moffa, 2017).

    Args:
        num_samples: orders of each chain to take probabilities from.
        num_warmup: orders of each chain to leave out, as far apart as the samples.
        num_chains: chains, from random orders.
        thinning: moves between two samples.
    """

    num_samples: int = 500
    num_warmup: int = 100
    num_chains: int = 4
    thinning: int = 50

    def __call__(self, given: Candidates, *, seed: int) -> SampledEdges:
        """Sample orders; an edge's probability given one is exact.

        Raises:
            ValueError: for counts that are no whole numbers, or a child without any family of finite score.
        """
        kept, chains = integer("num_samples", self.num_samples), integer("num_chains", self.num_chains)
        warmup, thinning = integer("num_warmup", self.num_warmup, least=0), integer("thinning", self.thinning)
        among = sums_over_subsets(given.scores)
        if not np.isfinite(among[:, -1]).all():
            raise ValueError(
                "expected a family of finite score for every variable, got none for some; raise max_parents"
            )
        rng = np.random.default_rng(checked_seed(seed))
        n = len(among)
        place = rng.permuted(np.tile(np.arange(n), (chains, 1)), axis=1)
        edges, log_scores = np.zeros((chains, n, n)), np.zeros((chains, kept))
        for draw in range(-warmup, kept):
            for _ in range(thinning):
                place, value = _relocated(place, given, among, rng)
            if draw >= 0:
                log_scores[:, draw] = value
                edges += np.stack([_edges(order, given, among) for order in place]) / kept
        apart = float(np.ptp(edges, 0).max())
        if apart > APART:
            warnings.warn(
                f"OrderMCMC: the chains' probabilities of an edge differ by up to {apart:.2f}; raise num_samples or thinning",
                MixingWarning,
                stacklevel=2,
            )
        return SampledEdges(edges.mean(0), edges, log_scores)


def _masks(place: Int[np.ndarray, "C n"], given: Candidates) -> Int[np.ndarray, "C n"]:
    """For each chain and child its candidates that come before it."""
    before = place[:, given.parents] < place[:, :, None]
    return before @ (1 << np.arange(given.parents.shape[1]))


def _by_child(
    place: Int[np.ndarray, "C n"], given: Candidates, among: Float[np.ndarray, "n M"]
) -> Float[np.ndarray, "C n"]:
    return among[np.arange(len(among)), _masks(place, given)]


def _relocated(
    place: Int[np.ndarray, "C n"], given: Candidates, among: Float[np.ndarray, "n M"], rng: np.random.Generator
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """One step of every chain: a variable moves to a place drawn from its distribution given the order of the others."""
    chains, n = place.shape
    every = np.arange(chains)
    moved = rng.integers(n, size=chains)
    rank = place - (place > place[every, moved][:, None])
    options = rank[:, None] + (rank[:, None] >= np.arange(n)[:, None])  # (C, place, n)
    options[every, :, moved] = np.arange(n)
    value = _by_child(options.reshape(-1, n), given, among).sum(1).reshape(chains, n)
    chosen = (value + rng.gumbel(size=value.shape)).argmax(1)
    return options[every, chosen], value[every, chosen]


def _edges(
    place: Int[np.ndarray, " n"], given: Candidates, among: Float[np.ndarray, "n M"]
) -> Float[np.ndarray, "n n"]:
    """Probability of each edge given the order."""
    found = np.zeros((len(place), len(place)))
    for child, mask in enumerate(_masks(place[None], given)[0]):
        weight = np.exp(given.scores[child, subsets(int(mask))] - among[child, mask])
        members = [position for position in range(given.parents.shape[1]) if mask >> position & 1]
        for number, position in enumerate(members):
            found[given.parents[child, position], child] = weight.reshape(-1, 2, 1 << number)[:, 1].sum()
    return found
