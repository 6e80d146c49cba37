"""Simulated annealing over orders of many variables (Teyssier & Koller, 2005; Kuipers, Suter & Moffa, 2022).

Given an order, every child takes its best family among the variables before it, so that only orders are searched: a
move places one variable anywhere in the order.  Parents that the candidates miss are searched for around the best
graph, and the search continues from there.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.family_cache import FamilyCache
from probmodel.families.bayesian_networks.structure.candidates import (
    Candidates,
    best_within,
    candidate_parents,
    improved_candidates,
)
from probmodel.families.bayesian_networks.structure.exact_search import attaining
from probmodel.families.bayesian_networks.structure.order_mcmc import masks_before, refuse_without_family, relocated
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.integers import checked_seed, integer


class SearchResult(NamedTuple):
    """The best graph of a search, without proof that none is better.

    Args:
        dag: the graph.
        score: score of the graph, in nats.
        by_round: best score after each round of candidates, in nats.
        candidates: candidates of the last round, for chains over orders or partitions.
    """

    dag: DAG
    score: float
    by_round: tuple[float, ...]
    candidates: Candidates


@checks_fields
@dataclass(frozen=True)
class OrderSearch:
    """Annealed Gibbs moves of single variables in several orders at once, then greedy moves until none is better.

    Args:
        num_candidates: number of candidate parents per variable.
        num_chains: number of orders searched at once.
        num_sweeps: number of moves per variable in a round.
        initial_temperature: initial temperature in nats; it falls geometrically to a thousandth.
        max_parents: largest number of parents of a family; None for all candidates.
        max_rounds: largest number of rounds of candidates; fewer if the score no longer rises.
    """

    num_candidates: int = 10
    num_chains: int = 8
    num_sweeps: int = 60
    initial_temperature: float = 30.0
    max_parents: int | None = None
    max_rounds: int = 8

    @checks_arguments
    def __call__(self, families: FamilyCache, *, seed: int) -> SearchResult:
        """Search for the graph with the highest score.

        Args:
            families: scores of single families.
            seed: seed of the initial orders and of the moves.

        Raises:
            MemoryError: if the scores of all sets of candidates do not fit in memory.
            ValueError: if counts are not integers, or a variable has no family of finite score.
        """
        chains, rounds = integer("num_chains", self.num_chains), integer("max_rounds", self.max_rounds)
        if not 0 < self.initial_temperature < np.inf:
            raise ValueError(
                f"expected initial_temperature to be finite and above 0 nats, got "
                f"{self.initial_temperature}; pass 30, the default"
            )
        rng, n = np.random.default_rng(checked_seed(seed)), len(families.names)
        given = candidate_parents(families, self.num_candidates, self.max_parents)
        position = rng.permuted(np.tile(np.arange(n), (chains, 1)), axis=1)
        by_round = list[float]()
        for number in range(rounds):
            position, value = self._annealed(position, given, rng, self.initial_temperature / 2**number)
            by_round.append(float(value.max()))
            dag = _best_graph(position[value.argmax()], given, families.names)
            wider = improved_candidates(families, given, dag, min(self.num_candidates, n - 1), self.max_parents)
            if wider is given or (number and by_round[-1] <= by_round[-2] + 1e-6):
                break
            given, position[0] = wider, position[value.argmax()]
        return SearchResult(dag, families.score(dag), tuple(by_round), given)

    def _annealed(
        self, position: Int[np.ndarray, "C n"], given: Candidates, rng: np.random.Generator, initial_temperature: float
    ) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
        """Orders after annealing, and their scores; the first chain is greedy."""
        child_scores = best_within(given)
        refuse_without_family(child_scores)
        chains, n = position.shape
        for temperature in np.geomspace(
            initial_temperature, initial_temperature / 1_000, integer("num_sweeps", self.num_sweeps) * n
        ):
            position, _ = relocated(position, given, child_scores, rng, np.array([0.0] + [temperature] * (chains - 1)))
        return greedy_orders(position, given, child_scores, rng)


def greedy_orders(
    position: Int[np.ndarray, "C n"],
    given: Candidates,
    child_scores: Float[np.ndarray, "n M"],
    rng: np.random.Generator,
) -> tuple[Int[np.ndarray, "C n"], Float[np.ndarray, " C"]]:
    """Orders after greedy moves, until four sweeps of moves bring no gain, and their scores."""
    cold, since, value = np.zeros(len(position)), 0, np.full(len(position), -np.inf)
    while since < 4 * position.shape[1]:
        position, after = relocated(position, given, child_scores, rng, cold)
        since = 0 if (after > value + 1e-9 * np.abs(after)).any() else since + 1
        value = after
    return position, value


def _best_graph(position: Int[np.ndarray, " n"], given: Candidates, names: tuple[str, ...]) -> DAG:
    child_scores = best_within(given)
    parents = {}
    for child, mask in enumerate(masks_before(position[None], given)[0]):
        chosen = attaining(given.scores[child], float(child_scores[child, mask]), int(mask))
        parents[names[child]] = tuple(names[p] for i, p in enumerate(given.parents[child]) if chosen >> i & 1)
    return DAG(parents)
