"""Posterior probabilities of edges under a uniform prior of graphs, by chains over ordered partitions (Kuipers & Moffa, 2017).

Take the nodes without parents as the first part, and of what is left those without parents as the next: every graph has exactly
one such partition, so that no graph counts twice as it does over orders.  Given a partition each child outside the first part
takes parents from all parts before its own, one of them at least from the part just before.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from probmodel.families.bayesian_networks.structure.candidates import Candidates
from probmodel.families.bayesian_networks.structure.exact_posterior import subsets, sums_over_subsets
from probmodel.families.bayesian_networks.structure.order_mcmc import (
    SampledEdges,
    checked_temperatures,
    exchanged,
    refuse_without_family,
    warn_if_apart,
)
from probmodel.protocols.integers import checked_seed, integer

Sums = Float[np.ndarray, "n M"]
"""Log Σ over the families of each child whose parents are among each set of its candidates."""


@dataclass(frozen=True)
class PartitionMCMC:
    """Gibbs moves of one node to any part, or to one of its own, between moves that split a part or join two.

    Companions at higher temperatures exchange their partitions with the chain (Geyer, 1991) after every round, even and odd
    pairs in turn (Okabe et al., 2001; Syed et al., 2022).

    Args:
        num_samples: partitions of each chain to take probabilities from.
        num_warmup: partitions of each chain to leave out, as far apart as the samples.
        num_chains: independent chains, from partitions of one part: the empty graph.
        thinning: rounds of both moves between two samples.
        temperatures: of each chain and its companions, rising from 1; (1.0,) for none.
    """

    num_samples: int = 1_000
    num_warmup: int = 200
    num_chains: int = 4
    thinning: int = 20
    temperatures: tuple[float, ...] = (1.0, 1.6, 2.6, 4.2, 7.0, 11.0, 18.0, 30.0)

    def __call__(self, given: Candidates, *, seed: int) -> SampledEdges:
        """Sample partitions; an edge's probability given one is exact.

        Raises:
            ValueError: for counts that are no whole numbers, temperatures that do not rise from 1, or a child that cannot be
                without parents.
        """
        kept, chains = integer("num_samples", self.num_samples), integer("num_chains", self.num_chains)
        warmup, thinning = integer("num_warmup", self.num_warmup, least=0), integer("thinning", self.thinning)
        ladder = checked_temperatures(self.temperatures)
        among = sums_over_subsets(given.scores)
        refuse_without_family(among[:, :1])
        rng = np.random.default_rng(checked_seed(seed))
        hot = np.tile(ladder, chains)
        part = np.zeros((len(hot), len(among)), dtype=np.int64)
        edges, log_scores = _Edges(given), np.zeros((chains, kept))
        found = np.zeros((chains, len(among), len(among)))
        for draw in range(-warmup, kept):
            for move in range(thinning):
                part, value = moved_node(part, given, among, rng, hot)
                part, value = split_or_joined(part, value, given, among, rng, hot)
                swapped = exchanged(value, hot, len(ladder), (draw * thinning + move) % 2, rng)
                part, value = part[swapped], value[swapped]
            if draw >= 0:
                log_scores[:, draw] = value[:: len(ladder)]
                found += np.stack([edges(each) for each in part[:: len(ladder)]]) / kept
        warn_if_apart("PartitionMCMC", found, stacklevel=3)
        return SampledEdges(found.mean(0), found, log_scores)


# ------------------------------------------------------------------------------------------ the score of a partition


def log_scores_of_partitions(part: Int[np.ndarray, "C n"], given: Candidates, among: Sums) -> Float[np.ndarray, " C"]:
    """Log Σ exp score over the graphs of each partition.

    Args:
        part: of each node, from 0 without a gap.
        given: candidates.
        among: sums over subsets of their scores.
    """
    children = np.arange(part.shape[1])
    before, far = _masks(part, given)
    return np.where(part > 0, _less(among[children, before], among[children, far]), among[children, 0]).sum(1)


def _masks(
    part: Int[np.ndarray, "C n"], given: Candidates, without: Bool[np.ndarray, "C n K"] | None = None
) -> tuple[Int[np.ndarray, "C n"], Int[np.ndarray, "C n"]]:
    """Candidates in parts before each child's own, and in those before the one just before."""
    bits = 1 << np.arange(given.parents.shape[1])
    distance = part[:, :, None] - part[:, given.parents]
    if without is not None:
        distance = np.where(without, 0, distance)
    return (distance > 0) @ bits, (distance > 1) @ bits


def _less(whole: Float[np.ndarray, "..."], part: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Log of e^whole − e^part; −∞ where nothing is left."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(np.isneginf(part), -np.inf, np.minimum(part - whole, 0.0))
        return whole + np.log(-np.expm1(gap))


# ------------------------------------------------------------------------------------------ moves


def moved_node(
    part: Int[np.ndarray, "C n"],
    given: Candidates,
    among: Sums,
    rng: np.random.Generator,
    hot: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """One node of every partition goes to a part drawn from its distribution given the partition of the others.

    Args:
        part: of each node in each chain's partition.
        given: candidates.
        among: sums over subsets of their scores.
        rng: where the moves come from.
        hot: temperature of each chain.

    Returns:
        the partitions after it, and their log scores.
    """
    chains, n = part.shape
    every = np.arange(chains)
    node = rng.integers(n, size=(chains,))
    alone = (part == part[every, node][:, None]).sum(1) == 1
    rest = part - ((part > part[every, node][:, None]) & alone[:, None])
    rest[every, node] = n  # Behind all others, so that it is before none.
    joins, opens = places(rest, node, given, among)
    value = np.stack([joins, opens], 2).reshape(chains, -1)
    chosen = (value + hot[:, None] * rng.gumbel(size=value.shape)).argmax(1)
    at, new = chosen // 2, chosen % 2
    after = rest + ((rest >= at[:, None]) & (new == 1)[:, None])
    after[every, node] = at
    return after, value[every, chosen]


def places(
    rest: Int[np.ndarray, "C n"], node: Int[np.ndarray, " C"], given: Candidates, among: Sums
) -> tuple[Float[np.ndarray, "C p"], Float[np.ndarray, "C p"]]:
    """Log scores with the node in each part, and in a part of its own before each (p = n places; −∞ beyond the last).

    The others see no more than whether the node is not before them, in the part just before, alone in that part, or
    farther before: four numbers a child.

    Args:
        rest: part of each node, from 0 without a gap, n for the one that is moved.
        node: the moved one.
        given: candidates.
        among: sums over subsets of their scores.
    """
    chains, n = rest.shape
    children = np.arange(n)
    is_node = given.parents == node[:, None, None]
    own_bit = is_node @ (1 << np.arange(given.parents.shape[1]))
    before, far = _masks(rest, given, is_node)
    with_node, without = among[children, before | own_bit], among[children, before]
    absent = np.where(rest > 0, _less(without, among[children, far]), among[children, 0])
    beside = _less(with_node, among[children, far])
    farther = _less(with_node, among[children, far | own_bit])
    alone = _less(with_node, without)
    absent, beside, farther, alone = (_by_part(each, rest) for each in (absent, beside, farther, alone))
    own = _own(rest, node, given, among)
    num_parts = np.where(rest < n, rest, -1).max(1)[:, None] + 1
    at = np.arange(n)
    until = np.concatenate([np.zeros((chains, 1)), absent.cumsum(1)], 1)  # of parts before k
    after = np.concatenate([farther[:, ::-1].cumsum(1)[:, ::-1], np.zeros((chains, 2))], 1)  # of parts from k on
    beside = np.concatenate([beside[:, 1:], np.zeros((chains, 1))], 1)
    joins = np.where(at < num_parts, own + until[:, 1:] + beside + after[:, 2:][:, :n], -np.inf)
    opens = np.where(at <= num_parts, own + until[:, :-1] + alone + after[:, 1:][:, :n], -np.inf)
    return joins, opens


def _by_part(values: Float[np.ndarray, "C n"], rest: Int[np.ndarray, "C n"]) -> Float[np.ndarray, "C p"]:
    """Sums over the nodes of each part, the moved one left out."""
    chains, n = rest.shape
    label = np.arange(chains)[:, None] * (n + 1) + rest
    return np.bincount(label.ravel(), values.ravel(), minlength=chains * (n + 1)).reshape(chains, n + 1)[:, :n]


def _own(
    rest: Int[np.ndarray, "C n"], node: Int[np.ndarray, " C"], given: Candidates, among: Sums
) -> Float[np.ndarray, "C p"]:
    """What the moved node itself adds behind each number of parts."""
    chains, n = rest.shape
    bits, at = 1 << np.arange(given.parents.shape[1]), np.arange(n)[:, None]
    where = rest[np.arange(chains)[:, None], given.parents[node]][:, None]  # (C, 1, K)
    before, far = (where < at) @ bits, (where < at - 1) @ bits
    sums = among[node[:, None], before]
    return np.where(at.T > 0, _less(sums, among[node[:, None], far]), sums)


def split_or_joined(
    part: Int[np.ndarray, "C n"],
    value: Float[np.ndarray, " C"],
    given: Candidates,
    among: Sums,
    rng: np.random.Generator,
    hot: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """A part is cut in two, or two neighbors become one, where the score agrees (Metropolis-Hastings).

    A cut takes one of m parts and one of 2^k ways to sort its k members (to no avail where one side is empty); its reverse
    takes one of m boundaries.  Both are tried equally often, so that 2^k is left of the ratio of their chances.

    Args:
        part: of each node in each chain's partition.
        value: its log score.
        given: candidates.
        among: sums over subsets of their scores.
        rng: proposes and decides.
        hot: temperature of each chain.

    Returns:
        the partitions after it, and their log scores.
    """
    chains, num_parts = len(part), part.max(1) + 1
    cuts = rng.integers(2, size=chains) == 1
    at = (rng.random(chains) * np.where(cuts, num_parts, num_parts - 1)).astype(np.int64)[:, None]
    later = (part == at) & (rng.integers(2, size=part.shape) == 1)
    cut, joined = part + (part > at) + later, part - (part > at)
    possible = np.where(cuts, later.any(1) & ((part == at) & ~later).any(1), num_parts > 1)
    log_count = np.log(2) * np.where(cuts, (part == at).sum(1), -(joined == at).sum(1))
    proposed = np.where(possible[:, None], np.where(cuts[:, None], cut, joined), part)
    then = log_scores_of_partitions(proposed, given, among)
    agrees = possible & (np.log(rng.random(chains)) < (then - value) / hot + log_count)
    return np.where(agrees[:, None], proposed, part), np.where(agrees, then, value)


# ------------------------------------------------------------------------------------------ edges


class _Edges:
    """Probability of each edge given a partition; families of a child with the same parts before it are summed once."""

    def __init__(self, given: Candidates) -> None:
        self.given = given
        self.known: dict[tuple[int, int, int], Float[np.ndarray, " K"]] = {}

    def __call__(self, part: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
        found = np.zeros((len(part), len(part)))
        before, far = _masks(part[None], self.given)
        for child in np.flatnonzero(part):
            key = (int(child), int(before[0, child]), int(far[0, child]))
            if key not in self.known:
                self.known[key] = self._of_child(*key)
            np.add.at(found[:, child], self.given.parents[child], self.known[key])
        return found

    def _of_child(self, child: int, before: int, far: int) -> Float[np.ndarray, " K"]:
        sets = subsets(before)
        sets = sets[(sets & ~far) != 0]
        scores = self.given.scores[child, sets]
        weight = np.exp(scores - scores.max())
        positions = np.arange(self.given.parents.shape[1])
        return weight @ (sets[:, None] >> positions & 1) / weight.sum()
