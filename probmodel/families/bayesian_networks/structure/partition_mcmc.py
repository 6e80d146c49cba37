"""Edge probabilities under a uniform prior over graphs, by chains over ordered partitions (Kuipers & Moffa, 2017).

The nodes without parents are the first part, those without parents once these are removed the next, and so on: every
graph has exactly one such partition, so that no graph counts several times as in a sum over orders.  Given a partition
each child outside the first part takes parents from all parts before its own, at least one of them from the part just
before.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from probmodel.families.bayesian_networks.structure.candidates import Candidates
from probmodel.families.bayesian_networks.structure.exact_posterior import subsets, sums_over_subsets
from probmodel.families.bayesian_networks.structure.order_mcmc import (
    SampledEdges,
    checked_temperatures,
    exchange_permutation,
    refuse_without_family,
    warn_if_not_mixed,
)
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.integers import checked_seed, integer

SubsetSums = Float[np.ndarray, "n M"]
"""Log sums over the families of each child with parents within each set of its candidates."""


@checks_fields
@dataclass(frozen=True)
class PartitionMCMC:
    """Gibbs moves of one node to any part, or to one of its own, between moves that split a part or join two.

    Copies at higher temperatures exchange their partitions with the chain (Geyer, 1991) after every round, even and odd
    pairs in turn (Okabe et al., 2001; Syed et al., 2022).

    Args:
        num_samples: number of partitions per chain that probabilities are averaged over.
        num_warmup: number of partitions per chain that are discarded, as far apart as the samples.
        num_chains: number of independent chains, started from the partition of one part, the empty graph.
        thinning: number of rounds of both moves between two samples.
        temperatures: temperatures of each chain and its tempered copies, rising from 1; (1.0,) for no tempering.
    """

    num_samples: int = 1_000
    num_warmup: int = 200
    num_chains: int = 4
    thinning: int = 20
    temperatures: tuple[float, ...] = (1.0, 1.6, 2.6, 4.2, 7.0, 11.0, 18.0, 30.0)

    @checks_arguments
    def __call__(self, given: Candidates, *, seed: int) -> SampledEdges:
        """Sample partitions and average the probabilities of edges, which are exact given a partition.

        Warns if there is only one chain, or if chains disagree on the probability of an edge.

        Args:
            given: candidate parents and their scores.
            seed: seed of the moves.

        Raises:
            ValueError: if counts are not integers, temperatures do not rise from 1, or a child has no finite score
                without parents.
        """
        kept, chains = integer("num_samples", self.num_samples), integer("num_chains", self.num_chains)
        warmup, thinning = integer("num_warmup", self.num_warmup, least=0), integer("thinning", self.thinning)
        temperatures = checked_temperatures(self.temperatures)
        subset_sums = sums_over_subsets(given.scores)
        refuse_without_family(subset_sums[:, :1])
        rng = np.random.default_rng(checked_seed(seed))
        temperature = np.tile(temperatures, chains)
        part = np.zeros((len(temperature), len(subset_sums)), dtype=np.int64)
        edges, log_scores = _Edges(given), np.zeros((chains, kept))
        found = np.zeros((chains, len(subset_sums), len(subset_sums)))
        for draw in range(-warmup, kept):
            for move in range(thinning):
                part, value = moved_node(part, given, subset_sums, rng, temperature)
                part, value = split_or_joined(part, value, given, subset_sums, rng, temperature)
                swapped = exchange_permutation(value, temperature, len(temperatures), (draw * thinning + move) % 2, rng)
                part, value = part[swapped], value[swapped]
            if draw >= 0:
                log_scores[:, draw] = value[:: len(temperatures)]
                found += np.stack([edges(each) for each in part[:: len(temperatures)]]) / kept
        warn_if_not_mixed("PartitionMCMC", found)
        return SampledEdges(found.mean(0), found, log_scores)


# ------------------------------------------------------------------------------------------ the score of a partition


def log_scores_of_partitions(
    part: Int[np.ndarray, "C n"], given: Candidates, subset_sums: SubsetSums
) -> Float[np.ndarray, " C"]:
    """Log of the sum of exp(score) over the graphs of each partition, in nats.

    Args:
        part: part of each node, numbered from 0 without gaps.
        given: candidate parents and their scores.
        subset_sums: log sums over subsets of the candidates.
    """
    children = np.arange(part.shape[1])
    before, far = _masks(part, given)
    return np.where(
        part > 0, _log_difference(subset_sums[children, before], subset_sums[children, far]), subset_sums[children, 0]
    ).sum(1)


def _masks(
    part: Int[np.ndarray, "C n"], given: Candidates, without: Bool[np.ndarray, "C n K"] | None = None
) -> tuple[Int[np.ndarray, "C n"], Int[np.ndarray, "C n"]]:
    """Bit masks of the candidates in parts before each child's own, and in parts before the one just before it."""
    bits = 1 << np.arange(given.parents.shape[1])
    distance = part[:, :, None] - part[:, given.parents]
    if without is not None:
        distance = np.where(without, 0, distance)
    return (distance > 0) @ bits, (distance > 1) @ bits


def _log_difference(whole: Float[np.ndarray, "..."], part: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Log of e^whole − e^part; −∞ where the difference is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.where(np.isneginf(part), -np.inf, np.minimum(part - whole, 0.0))
        return whole + np.log(-np.expm1(gap))


# ------------------------------------------------------------------------------------------ moves


def moved_node(
    part: Int[np.ndarray, "C n"],
    given: Candidates,
    subset_sums: SubsetSums,
    rng: np.random.Generator,
    temperature: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """Move one node of every partition to a part drawn from its distribution given the partition of the others.

    Args:
        part: part of each node in each chain's partition.
        given: candidate parents and their scores.
        subset_sums: log sums over subsets of the candidates.
        rng: random generator of the moves.
        temperature: temperature of each chain.

    Returns:
        the partitions after the move, and their log scores.
    """
    chains, n = part.shape
    every = np.arange(chains)
    node = rng.integers(n, size=(chains,))
    alone = (part == part[every, node][:, None]).sum(1) == 1
    rest = part - ((part > part[every, node][:, None]) & alone[:, None])
    rest[every, node] = n  # After all others, so that it precedes none.
    joins, opens = placement_scores(rest, node, given, subset_sums)
    value = np.stack([joins, opens], 2).reshape(chains, -1)
    chosen = (value + temperature[:, None] * rng.gumbel(size=value.shape)).argmax(1)
    at, new = chosen // 2, chosen % 2
    after = rest + ((rest >= at[:, None]) & (new == 1)[:, None])
    after[every, node] = at
    return after, value[every, chosen]


def placement_scores(
    rest: Int[np.ndarray, "C n"], node: Int[np.ndarray, " C"], given: Candidates, subset_sums: SubsetSums
) -> tuple[Float[np.ndarray, "C p"], Float[np.ndarray, "C p"]]:
    """Log scores with the node in each part, and in a part of its own before each (p = n places; −∞ beyond the last).

    Another child depends only on whether the node is not before it, in the part just before, alone in that part, or
    farther before: four numbers per child.

    Args:
        rest: part of each node, numbered from 0 without gaps, n for the moved one.
        node: the moved node of each chain.
        given: candidate parents and their scores.
        subset_sums: log sums over subsets of the candidates.

    Returns:
        the log scores with the node in each part, and with it in a part of its own before each.
    """
    chains, n = rest.shape
    children = np.arange(n)
    is_node = given.parents == node[:, None, None]
    own_bit = is_node @ (1 << np.arange(given.parents.shape[1]))
    before, far = _masks(rest, given, is_node)
    with_node, without = subset_sums[children, before | own_bit], subset_sums[children, before]
    absent = np.where(rest > 0, _log_difference(without, subset_sums[children, far]), subset_sums[children, 0])
    beside = _log_difference(with_node, subset_sums[children, far])
    farther = _log_difference(with_node, subset_sums[children, far | own_bit])
    alone = _log_difference(with_node, without)
    absent, beside, farther, alone = (_by_part(each, rest) for each in (absent, beside, farther, alone))
    own = _own_contribution(rest, node, given, subset_sums)
    num_parts = np.where(rest < n, rest, -1).max(1)[:, None] + 1
    at = np.arange(n)
    until = np.concatenate([np.zeros((chains, 1)), absent.cumsum(1)], 1)  # of parts before k
    after = np.concatenate([farther[:, ::-1].cumsum(1)[:, ::-1], np.zeros((chains, 2))], 1)  # of parts from k on
    beside = np.concatenate([beside[:, 1:], np.zeros((chains, 1))], 1)
    joins = np.where(at < num_parts, own + until[:, 1:] + beside + after[:, 2:][:, :n], -np.inf)
    opens = np.where(at <= num_parts, own + until[:, :-1] + alone + after[:, 1:][:, :n], -np.inf)
    return joins, opens


def _by_part(values: Float[np.ndarray, "C n"], rest: Int[np.ndarray, "C n"]) -> Float[np.ndarray, "C p"]:
    """Sums over the nodes of each part, without the moved one."""
    chains, n = rest.shape
    label = np.arange(chains)[:, None] * (n + 1) + rest
    return np.bincount(label.ravel(), values.ravel(), minlength=chains * (n + 1)).reshape(chains, n + 1)[:, :n]


def _own_contribution(
    rest: Int[np.ndarray, "C n"], node: Int[np.ndarray, " C"], given: Candidates, subset_sums: SubsetSums
) -> Float[np.ndarray, "C p"]:
    """Contribution of the moved node itself to the log score after each number of parts."""
    chains, n = rest.shape
    bits, at = 1 << np.arange(given.parents.shape[1]), np.arange(n)[:, None]
    where = rest[np.arange(chains)[:, None], given.parents[node]][:, None]  # (C, 1, K)
    before, far = (where < at) @ bits, (where < at - 1) @ bits
    sums = subset_sums[node[:, None], before]
    return np.where(at.T > 0, _log_difference(sums, subset_sums[node[:, None], far]), sums)


def split_or_joined(
    part: Int[np.ndarray, "C n"],
    value: Float[np.ndarray, " C"],
    given: Candidates,
    subset_sums: SubsetSums,
    rng: np.random.Generator,
    temperature: Float[np.ndarray, " C"],
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """Split a part in two, or join two neighbors, accepted by the Metropolis-Hastings rule.

    A split chooses one of m parts and one of 2^k ways to divide its k members (rejected if one side is empty); its
    reverse chooses one of m boundaries.  Both are proposed equally often, so that 2^k remains of the ratio of their
    probabilities.

    Args:
        part: part of each node in each chain's partition.
        value: log score of each partition, in nats.
        given: candidate parents and their scores.
        subset_sums: log sums over subsets of the candidates.
        rng: random generator of proposals and acceptance.
        temperature: temperature of each chain.

    Returns:
        the partitions after the move, and their log scores.
    """
    chains, num_parts = len(part), part.max(1) + 1
    cuts = rng.integers(2, size=chains) == 1
    at = (rng.random(chains) * np.where(cuts, num_parts, num_parts - 1)).astype(np.int64)[:, None]
    later = (part == at) & (rng.integers(2, size=part.shape) == 1)
    cut, joined = part + (part > at) + later, part - (part > at)
    possible = np.where(cuts, later.any(1) & ((part == at) & ~later).any(1), num_parts > 1)
    log_count = np.log(2) * np.where(cuts, (part == at).sum(1), -(joined == at).sum(1))
    proposed = np.where(possible[:, None], np.where(cuts[:, None], cut, joined), part)
    then = log_scores_of_partitions(proposed, given, subset_sums)
    agrees = possible & (np.log(rng.random(chains)) < (then - value) / temperature + log_count)
    return np.where(agrees[:, None], proposed, part), np.where(agrees, then, value)


# ------------------------------------------------------------------------------------------ edges


class _Edges:
    """Probability of each edge given a partition; sums of a child with the same parts before it are cached."""

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
