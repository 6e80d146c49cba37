"""Posterior probabilities of edges by Markov chains over orders (Friedman & Koller, 2003).

The score of an order is a sum over all graphs compatible with it, family by family, so that chains over orders mix
where chains over graphs would be stuck.  The prior is that of `posterior_over_orders`: p(G) grows with the number of
orders compatible with G.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.structure.candidates import Candidates
from probmodel.families.bayesian_networks.structure.exact_posterior import sums_over_subsets, sums_over_supersets
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.errors import MixingWarning, warn
from probmodel.protocols.integers import checked_seed, integer

DISAGREEMENT_OF_EDGES = 0.1
"""Difference between chains in the probability of an edge above which they count as not mixed."""


class SampledEdges(NamedTuple):
    """Edge probabilities estimated by Markov chains.

    Args:
        edges: (n, n) probability of an edge from i to j.
        by_chain: (chain, n, n) these probabilities per chain.
        log_scores: (chain, draw) log of the sum over the graphs of each order or partition, in nats.
    """

    edges: Float[np.ndarray, "n n"]
    by_chain: Float[np.ndarray, "C n n"]
    log_scores: Float[np.ndarray, "C S"]


@checks_fields
@dataclass(frozen=True)
class OrderMCMC:
    """Gibbs chains that move one variable of an order at a time (Kuipers & Moffa, 2017), with parallel tempering.

    Orders may have several modes that no single move connects; chains at higher temperatures cross between them, and
    neighbors in temperature exchange their orders (Geyer, 1991) after every move, even and odd pairs in turn, which
    moves an order through the temperatures in a straight line rather than by a random walk (Okabe et al., 2001;
    Syed et al., 2022).

    Args:
        num_samples: number of orders per chain that probabilities are averaged over.
        num_warmup: number of orders per chain that are discarded, as far apart as the samples.
        num_chains: number of independent chains, started from random orders.
        thinning: number of moves between two samples.
        temperatures: temperatures of each chain and its tempered copies, rising from 1; (1.0,) for no tempering.
    """

    num_samples: int = 1_000
    num_warmup: int = 200
    num_chains: int = 4
    thinning: int = 20
    temperatures: tuple[float, ...] = (1.0, 1.6, 2.6, 4.2, 7.0, 11.0, 18.0, 30.0)

    @checks_arguments
    def __call__(self, given: Candidates, *, seed: int) -> SampledEdges:
        """Sample orders and average the probabilities of edges, which are exact given an order.

        Warns if there is only one chain, or if chains disagree on the probability of an edge.

        Args:
            given: candidate parents and their scores.
            seed: seed of the initial orders and of the moves.

        Raises:
            ValueError: if counts are not integers, temperatures do not rise from 1, or a child has no family of finite
                score.
        """
        kept, chains = integer("num_samples", self.num_samples), integer("num_chains", self.num_chains)
        warmup, thinning = integer("num_warmup", self.num_warmup, least=0), integer("thinning", self.thinning)
        temperatures = checked_temperatures(self.temperatures)
        child_scores = sums_over_subsets(given.scores)
        refuse_without_family(child_scores)
        rng = np.random.default_rng(checked_seed(seed))
        position = rng.permuted(np.tile(np.arange(len(child_scores)), (chains * len(temperatures), 1)), axis=1)
        temperature = np.tile(temperatures, chains)
        masks, log_scores = np.zeros((kept, chains, len(child_scores)), dtype=np.int32), np.zeros((chains, kept))
        for draw in range(-warmup, kept):
            for move in range(thinning):
                position, value = relocated(position, given, child_scores, rng, temperature)
                swapped = exchange_permutation(value, temperature, len(temperatures), (draw * thinning + move) % 2, rng)
                position, value = position[swapped], value[swapped]
            if draw >= 0:
                log_scores[:, draw] = value[:: len(temperatures)]
                masks[draw] = masks_before(position[:: len(temperatures)], given)
        edges = np.stack([_edges(masks[:, chain], given, child_scores) for chain in range(chains)])
        warn_if_not_mixed("OrderMCMC", edges)
        return SampledEdges(edges.mean(0), edges, log_scores)


def checked_temperatures(temperatures: tuple[float, ...]) -> Float[np.ndarray, " T"]:
    """Temperatures as an array; raise ValueError unless they rise from 1."""
    values = np.array(temperatures, dtype=float)
    if not len(values) or values[0] != 1.0 or not (np.diff(values) > 0).all():
        raise ValueError(f"expected temperatures that rise from 1.0, got {temperatures}; pass (1.0,) for no tempering")
    return values


def refuse_without_family(child_scores: Float[np.ndarray, "n M"]) -> None:
    """Raise ValueError if a child has no set of parents of finite score."""
    if not np.isfinite(child_scores[:, -1]).all():
        raise ValueError("expected a family of finite score for every variable, got none for some; raise max_parents")


def warn_if_not_mixed(method: str, edges: Float[np.ndarray, "C n n"]) -> None:
    """Warn if chains differ in the probability of an edge, or if there is only one chain to judge by."""
    if len(edges) < 2:
        warn(
            f"{method}: expected two chains or more to judge how well they mix, got one chain; raise num_chains",
            MixingWarning,
        )
    apart = float(np.ptp(edges, 0).max())
    if apart > DISAGREEMENT_OF_EDGES:
        warn(
            f"{method}: expected chains that agree on the probability of every edge within {DISAGREEMENT_OF_EDGES:g}, "
            f"got chains that differ by up to {apart:.2f}; raise num_samples or thinning",
            MixingWarning,
        )


def exchange_permutation(
    value: Float[np.ndarray, " C"],
    temperature: Float[np.ndarray, " C"],
    num_temperatures: int,
    first: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " C"]:
    """Index of the chain whose state each continues with, after exchanges between neighbors in temperature.

    Args:
        value: log scores in nats, with all temperatures of one independent chain before those of the next.
        temperature: temperature of each chain.
        num_temperatures: number of temperatures per independent chain.
        first: 0 or 1, index of the lower temperature of the first pair.
        rng: random generator of the acceptance.
    """
    found = np.arange(len(value))
    low = found[(found % num_temperatures) % 2 == first]
    low = low[low % num_temperatures < num_temperatures - 1]
    gain = (1 / temperature[low] - 1 / temperature[low + 1]) * (value[low + 1] - value[low])
    low = low[np.log(rng.random(len(low))) < gain]
    found[low], found[low + 1] = low + 1, low
    return found


def relocated(
    position: Int[np.ndarray, "C n"],
    given: Candidates,
    child_scores: Float[np.ndarray, "n M"],
    rng: np.random.Generator,
    temperature: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """One step per chain: a variable moves to a position drawn from its distribution given the order of the others.

    Args:
        position: position of each variable in each chain's order.
        given: candidate parents and their scores.
        child_scores: contribution of each child to the log score, by mask of the candidates before it.
        rng: random generator of the moves.
        temperature: temperature of each chain; 0 takes the best position.

    Returns:
        the positions after the step, and the log score of each order, the sum over children.
    """
    chains, n = position.shape
    every = np.arange(chains)
    moved = rng.integers(n, size=(chains,))
    rank = position - (position > position[every, moved][:, None])
    value = placements(rank, moved, given, child_scores)
    chosen = (value + temperature[:, None] * rng.gumbel(size=value.shape)).argmax(1)
    after = rank + (rank >= chosen[:, None])
    after[every, moved] = chosen
    return after, value[every, chosen]


def placements(
    rank: Int[np.ndarray, "C n"],
    moved: Int[np.ndarray, " C"],
    given: Candidates,
    child_scores: Float[np.ndarray, "n M"],
) -> Float[np.ndarray, "C n"]:
    """Log scores with one variable at each position in each chain's order of the others.

    The position affects another child only by whether the variable comes before it, so that two numbers per child
    suffice.

    Args:
        rank: rank of each other variable among the others; that of the moved one is ignored.
        moved: the moved variable of each chain.
        given: candidate parents and their scores.
        child_scores: contribution of each child to the log score, by mask of the candidates before it.
    """
    chains, n = rank.shape
    every, children = np.arange(chains), np.arange(n)
    bits = 1 << np.arange(given.parents.shape[1])
    is_moved = given.parents == moved[:, None, None]
    before = (rank[:, given.parents] < rank[:, :, None]) & ~is_moved
    without = before @ bits
    follows = child_scores[children, without]
    precedes = child_scores[children, without | is_moved @ bits]
    order = np.where(children == moved[:, None], n, rank).argsort(1)[:, : n - 1]
    own = child_scores[moved[:, None], (rank[every[:, None], given.parents[moved]][:, None] < children[:, None]) @ bits]
    value = own.copy()
    value[:, 1:] += np.take_along_axis(follows, order, 1).cumsum(1)
    value[:, :-1] += np.take_along_axis(precedes, order, 1)[:, ::-1].cumsum(1)[:, ::-1]
    return value


def masks_before(position: Int[np.ndarray, "C n"], given: Candidates) -> Int[np.ndarray, "C n"]:
    """Bit mask of the candidates that come before each child, per chain."""
    before = position[:, given.parents] < position[:, :, None]
    return before @ (1 << np.arange(given.parents.shape[1]))


def _edges(
    masks: Int[np.ndarray, "S n"], given: Candidates, child_scores: Float[np.ndarray, "n M"]
) -> Float[np.ndarray, "n n"]:
    """Mean over orders of the probability of each edge.

    A family's probability given a compatible order is exp(score − log Σ of its child): one sum over supersets of the
    masks that occurred covers all orders at once.
    """
    n, size = child_scores.shape
    found, sets = np.zeros((n, n)), np.arange(size)
    for child in range(n):
        occurred, times = np.unique(masks[:, child], return_counts=True)
        weight = np.full(size, -np.inf)
        weight[occurred] = np.log(times / len(masks)) - child_scores[child, occurred]
        probability = np.exp(given.scores[child] + sums_over_supersets(weight))
        for position, parent in enumerate(given.parents[child]):
            if parent != child:
                found[parent, child] = probability[sets >> position & 1 == 1].sum()
    return found
