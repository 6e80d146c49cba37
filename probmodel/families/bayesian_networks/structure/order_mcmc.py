"""Posterior probabilities of edges by Markov chains over orders (Friedman & Koller, 2003).

An order sums over all graphs that it admits, family by family, so that chains move where graphs would be stuck.  The prior is
that of `posterior_over_orders`: p(G) grows with the number of orders that admit G.
"""

import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.structure.candidates import Candidates
from probmodel.families.bayesian_networks.structure.exact_posterior import sums_over_subsets, sums_over_supersets
from probmodel.protocols.errors import MixingWarning
from probmodel.protocols.integers import checked_seed, integer

DISAGREEMENT_OF_EDGES = 0.1
"""Difference of an edge's probability between chains from which on they have not mixed."""


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


@dataclass(frozen=True)
class OrderMCMC:
    """Gibbs chains that move one variable of an order at a time (Kuipers & Moffa, 2017), tempered ones beside them.

    Orders may have several modes that no single move connects; chains at higher temperatures cross between them, and
    neighbors in temperature exchange their orders (Geyer, 1991) after every move, even and odd pairs in turn, which carries
    an order up and down the ladder in a straight line rather than by a random walk (Okabe et al., 2001; Syed et al., 2022).

    Args:
        num_samples: orders of each chain to take probabilities from.
        num_warmup: orders of each chain to leave out, as far apart as the samples.
        num_chains: independent chains, from random orders.
        thinning: moves between two samples.
        temperatures: of each chain and its companions, rising from 1; (1.0,) for none.
    """

    num_samples: int = 1_000
    num_warmup: int = 200
    num_chains: int = 4
    thinning: int = 20
    temperatures: tuple[float, ...] = (1.0, 1.6, 2.6, 4.2, 7.0, 11.0, 18.0, 30.0)

    def __call__(self, given: Candidates, *, seed: int) -> SampledEdges:
        """Sample orders; an edge's probability given one is exact.

        Raises:
            ValueError: for counts that are no whole numbers, temperatures that do not rise from 1, or a child without any
                family of finite score.
        """
        kept, chains = integer("num_samples", self.num_samples), integer("num_chains", self.num_chains)
        warmup, thinning = integer("num_warmup", self.num_warmup, least=0), integer("thinning", self.thinning)
        ladder = checked_temperatures(self.temperatures)
        among = sums_over_subsets(given.scores)
        refuse_without_family(among)
        rng = np.random.default_rng(checked_seed(seed))
        place = rng.permuted(np.tile(np.arange(len(among)), (chains * len(ladder), 1)), axis=1)
        hot = np.tile(ladder, chains)
        masks, log_scores = np.zeros((kept, chains, len(among)), dtype=np.int32), np.zeros((chains, kept))
        for draw in range(-warmup, kept):
            for move in range(thinning):
                place, value = relocated(place, given, among, rng, hot)
                swapped = exchanged(value, hot, len(ladder), (draw * thinning + move) % 2, rng)
                place, value = place[swapped], value[swapped]
            if draw >= 0:
                log_scores[:, draw] = value[:: len(ladder)]
                masks[draw] = masks_before(place[:: len(ladder)], given)
        edges = np.stack([_edges(masks[:, chain], given, among) for chain in range(chains)])
        warn_if_apart("OrderMCMC", edges, stacklevel=3)
        return SampledEdges(edges.mean(0), edges, log_scores)


def checked_temperatures(temperatures: tuple[float, ...]) -> Float[np.ndarray, " T"]:
    """Temperatures that rise from 1."""
    ladder = np.array(temperatures, dtype=float)
    if not len(ladder) or ladder[0] != 1.0 or not (np.diff(ladder) > 0).all():
        raise ValueError(f"expected temperatures that rise from 1.0, got {temperatures}; (1.0,) for plain chains")
    return ladder


def refuse_without_family(among: Float[np.ndarray, "n M"]) -> None:
    """Raise ValueError for a child that no set of parents is left for."""
    if not np.isfinite(among[:, -1]).all():
        raise ValueError("expected a family of finite score for every variable, got none for some; raise max_parents")


def warn_if_apart(method: str, edges: Float[np.ndarray, "C n n"], *, stacklevel: int) -> None:
    """Warn where chains differ in the probability of an edge, or none can be set beside another."""
    if len(edges) < 2:
        warnings.warn(
            f"{method}: one chain says nothing of how well it has mixed; raise num_chains",
            MixingWarning,
            stacklevel=stacklevel,
        )
    apart = float(np.ptp(edges, 0).max())
    if apart > DISAGREEMENT_OF_EDGES:
        warnings.warn(
            f"{method}: the chains' probabilities of an edge differ by up to {apart:.2f}; raise num_samples or thinning",
            MixingWarning,
            stacklevel=stacklevel,
        )


def exchanged(
    value: Float[np.ndarray, " C"], hot: Float[np.ndarray, " C"], rungs: int, first: int, rng: np.random.Generator
) -> Int[np.ndarray, " C"]:
    """Which chain each goes on from, after neighbors in temperature had the chance to change places.

    Args:
        value: log scores, the rungs of one ladder after another.
        hot: temperatures.
        rungs: of each ladder.
        first: 0 or 1, the lower rung of the first pair.
        rng: decides.
    """
    found = np.arange(len(value))
    low = found[(found % rungs) % 2 == first]
    low = low[low % rungs < rungs - 1]
    gain = (1 / hot[low] - 1 / hot[low + 1]) * (value[low + 1] - value[low])
    low = low[np.log(rng.random(len(low))) < gain]
    found[low], found[low + 1] = low + 1, low
    return found


def relocated(
    place: Int[np.ndarray, "C n"],
    given: Candidates,
    among: Float[np.ndarray, "n M"],
    rng: np.random.Generator,
    hot: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """One step of every chain: a variable moves to a place drawn from its distribution given the order of the others.

    Args:
        place: of each variable in each chain's order.
        given: candidates.
        among: what each child adds, by mask of the candidates before it.
        rng: where the moves come from.
        hot: temperature of each chain; 0 takes the best place.

    Returns:
        the places after it, and the sum over children.
    """
    chains, n = place.shape
    every = np.arange(chains)
    moved = rng.integers(n, size=(chains,))
    rank = place - (place > place[every, moved][:, None])
    value = placements(rank, moved, given, among)
    chosen = (value + hot[:, None] * rng.gumbel(size=value.shape)).argmax(1)
    after = rank + (rank >= chosen[:, None])
    after[every, moved] = chosen
    return after, value[every, chosen]


def placements(
    rank: Int[np.ndarray, "C n"], moved: Int[np.ndarray, " C"], given: Candidates, among: Float[np.ndarray, "n M"]
) -> Float[np.ndarray, "C n"]:
    """Sum over children with one variable at each place of each chain's order of the others.

    A place changes no more of another child than whether the variable comes before it, so that two numbers a child do.

    Args:
        rank: of each of the others among themselves; that of the moved one is not looked at.
        moved: the variable.
        given: candidates.
        among: what each child adds, by mask of the candidates before it.
    """
    chains, n = rank.shape
    every, children = np.arange(chains), np.arange(n)
    bits = 1 << np.arange(given.parents.shape[1])
    is_moved = given.parents == moved[:, None, None]
    before = (rank[:, given.parents] < rank[:, :, None]) & ~is_moved
    without = before @ bits
    follows = among[children, without]
    precedes = among[children, without | is_moved @ bits]
    order = np.where(children == moved[:, None], n, rank).argsort(1)[:, : n - 1]
    own = among[moved[:, None], (rank[every[:, None], given.parents[moved]][:, None] < children[:, None]) @ bits]
    value = own.copy()
    value[:, 1:] += np.take_along_axis(follows, order, 1).cumsum(1)
    value[:, :-1] += np.take_along_axis(precedes, order, 1)[:, ::-1].cumsum(1)[:, ::-1]
    return value


def masks_before(place: Int[np.ndarray, "C n"], given: Candidates) -> Int[np.ndarray, "C n"]:
    """For each chain and child its candidates that come before it."""
    before = place[:, given.parents] < place[:, :, None]
    return before @ (1 << np.arange(given.parents.shape[1]))


def _edges(
    masks: Int[np.ndarray, "S n"], given: Candidates, among: Float[np.ndarray, "n M"]
) -> Float[np.ndarray, "n n"]:
    """Mean over orders of the probability of each edge.

    A family's probability given an order is exp(score − log Σ of its child), if the order admits it: one sum over supersets
    of the masks that occurred does all orders at once.
    """
    n, size = among.shape
    found, sets = np.zeros((n, n)), np.arange(size)
    for child in range(n):
        occurred, times = np.unique(masks[:, child], return_counts=True)
        weight = np.full(size, -np.inf)
        weight[occurred] = np.log(times / len(masks)) - among[child, occurred]
        probability = np.exp(given.scores[child] + sums_over_supersets(weight))
        for position, parent in enumerate(given.parents[child]):
            if parent != child:
                found[parent, child] = probability[sets >> position & 1 == 1].sum()
    return found
