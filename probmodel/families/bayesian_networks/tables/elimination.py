"""Variable elimination: sums over the variables of a network, one at a time (Zhang & Poole, 1994; Dechter, 1999).

Eliminating v multiplies the factors that contain it and sums v out.  The product, divided by the sum, is p(v | its
neighbors at that step, evidence); so one pass gives the probability of the evidence, and all these conditional
distributions, from which joint tables, marginals and draws are computed in the reverse order.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import combinations
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork
from probmodel.protocols.memory import budget, refuse_above_memory

CPU = torch.device("cpu")
COPIES = 3
"""Number of tables of one size that the sum over a variable holds: the product, its exponential, the conditional."""
MOST_ROWS = 2048
"""Largest number of rows per call: more do not fit in the processor's caches and are no faster."""


class Factor(NamedTuple):
    """A function of some variables for each row.

    Args:
        scope: variables, the last to be eliminated first.
        log_values: logs, one axis per variable, then rows; one row if all rows are alike.
    """

    scope: tuple[str, ...]
    log_values: Float[np.ndarray, "..."]


class EliminationPlan(NamedTuple):
    """An order of elimination.

    Args:
        order: variables, the first to be eliminated first.
        neighbors: variable → its neighbors at its elimination, the last to be eliminated first.
        entries: number of entries of all tables together, per row.
    """

    order: tuple[str, ...]
    neighbors: Mapping[str, tuple[str, ...]]
    entries: int

    @property
    def width(self) -> int:
        """Largest number of neighbors of a variable: the graph's width along this order."""
        return max(map(len, self.neighbors.values()), default=0)


class Eliminated(NamedTuple):
    """Result of elimination.

    Args:
        plan: the order.
        conditionals: variable → p(v | neighbors, evidence), one axis per neighbor, then v, then rows; zero where the
            evidence excludes the neighbors' values.
        log_prob: log probability of the evidence of each row, in nats; one row if all rows are alike.
    """

    plan: EliminationPlan
    conditionals: Mapping[str, Float[np.ndarray, "..."]]
    log_prob: Float[np.ndarray, " B"]


def ancestors(dag: DAG, nodes: Iterable[str]) -> set[str]:
    """Nodes together with all their ancestors; sums over the other variables are one (Shachter, 1986)."""
    found, left = set[str](), list(nodes)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left.extend(dag.parents[node])
    return found


# ------------------------------------------------------------------------------------------ the order


def min_fill(
    scopes: Iterable[Collection[str]], sizes: Mapping[str, int], last: Collection[str] = frozenset()
) -> EliminationPlan:
    """Order that joins the fewest neighbors at each step, ties broken by the smallest table (Kjærulff, 1990).

    Args:
        scopes: variables of each factor.
        sizes: variable → number of its values.
        last: variables to eliminate after all others.
    """
    near: dict[str, set[str]] = {node: set() for node in last}
    for scope in scopes:
        for node in scope:
            near.setdefault(node, set()).update(scope)
    for node, around in near.items():
        around.discard(node)
    fills = {node: _fill(node, near) for node in near}
    entries = {node: prod(sizes[each] for each in {node, *around}) for node, around in near.items()}
    order, neighbors, all_entries = list[str](), dict[str, set[str]](), 0
    while fills:
        node = min(fills, key=lambda each: (each in last, fills[each], entries[each], each))
        added, around = fills.pop(node), near.pop(node)
        order.append(node)
        neighbors[node] = around
        all_entries += entries.pop(node)
        for each in around:
            near[each].discard(node)
            if not added:
                # No edge is new, so that only the pairs with this node disappear.
                fills[each] -= len(near[each] - around)
                entries[each] //= sizes[node]
        if added:
            _join(around, near)
            for each in around:
                entries[each] = prod(sizes[one] for one in {each, *near[each]})
            fills |= {each: _fill(each, near) for each in around.union(*(near[each] for each in around))}
    place = {node: position for position, node in enumerate(order)}
    ordered = {node: tuple(sorted(around, key=lambda each: -place[each])) for node, around in neighbors.items()}
    return EliminationPlan(tuple(order), ordered, all_entries)


def _fill(node: str, near: Mapping[str, set[str]]) -> int:
    """Number of pairs of neighbors that are not joined."""
    return sum(b not in near[a] for a, b in combinations(near[node], 2))


def _join(nodes: set[str], near: Mapping[str, set[str]]) -> None:
    for node in nodes:
        near[node].update(nodes)
        near[node].discard(node)


def rows_at_once(plan: EliminationPlan, copies: int = COPIES) -> int:
    """Number of rows that fit in memory together.

    Raises:
        MemoryError: if a single row does not.
    """
    needed = 8 * copies * plan.entries
    what = f"tables of {plan.entries:,} entries, along an order of width {plan.width}"
    refuse_above_memory(needed, CPU, what, "query fewer variables together, give more evidence, or average samples")
    return min(MOST_ROWS, max(1, budget(CPU) // max(needed, 1)))


# ------------------------------------------------------------------------------------------ the sums


def family_factors(
    network: DiscreteNetwork,
    nodes: Iterable[str],
    known: Mapping[str, Int[np.ndarray, " B"]],
    plan: EliminationPlan,
) -> list[Factor]:
    """Tables of some variables as factors, with the known variables fixed at their values.

    Args:
        network: network with the tables.
        nodes: variables whose tables are used.
        known: variable → position of its value among its levels, per row.
        plan: elimination plan that the factors are for.
    """
    place = {node: position for position, node in enumerate(plan.order)}
    return [_reduced(network.log_tables[node], (*network.dag.parents[node], node), known, place) for node in nodes]


def _reduced(
    log_table: Float[np.ndarray, "..."],
    family: tuple[str, ...],
    known: Mapping[str, Int[np.ndarray, " B"]],
    place: Mapping[str, int],
) -> Factor:
    given = [axis for axis, each in enumerate(family) if each in known]
    free = sorted(
        (axis for axis, each in enumerate(family) if each not in known), key=lambda axis: -place[family[axis]]
    )
    scope = tuple(family[axis] for axis in free)
    turned = log_table.transpose(*given, *free)
    if not given:
        return Factor(scope, turned[..., None])
    picked = turned[tuple(known[family[axis]] for axis in given)]
    return Factor(scope, np.ascontiguousarray(np.moveaxis(picked, 0, -1)))


def eliminate(plan: EliminationPlan, factors: Iterable[Factor]) -> Eliminated:
    """Sum the product of factors over all variables of a plan.

    Args:
        plan: elimination plan for the scopes of these factors.
        factors: factors with values per row.
    """
    waiting: dict[str, list[Factor]] = {node: [] for node in plan.order}
    done, conditionals = [np.zeros(1)], dict[str, Float[np.ndarray, "..."]]()

    def put(factor: Factor) -> None:
        if factor.scope:
            waiting[factor.scope[-1]].append(factor)
        else:
            done.append(factor.log_values)

    for factor in factors:
        put(factor)
    for node in plan.order:
        scope = (*plan.neighbors[node], node)
        log_product = _product(waiting.pop(node), scope)
        top = log_product.max(-2, keepdims=True)
        top[np.isneginf(top)] = 0.0
        conditional = np.exp(log_product - top)
        total = conditional.sum(-2, keepdims=True)
        np.divide(conditional, total, out=conditional, where=total > 0)
        with np.errstate(divide="ignore"):
            put(Factor(scope[:-1], (top + np.log(total))[..., 0, :]))
        conditionals[node] = conditional
    return Eliminated(plan, conditionals, np.asarray(sum(done)))


def _product(factors: list[Factor], scope: tuple[str, ...]) -> Float[np.ndarray, "..."]:
    """Log of the product of all factors, along the axes of a scope that contains theirs in the same order."""
    parts = [aligned(factor.log_values, factor.scope, scope) for factor in factors]
    found = np.zeros(np.broadcast_shapes(*(part.shape for part in parts)))
    for part in parts:
        found += part
    return found


def aligned(
    values: Float[np.ndarray, "..."], theirs: tuple[str, ...], scope: tuple[str, ...]
) -> Float[np.ndarray, "..."]:
    """Values with an axis of length one for each variable of the scope that they lack; rows stay the last axis."""
    sizes = dict(zip(theirs, values.shape, strict=False))
    return values.reshape(*(sizes.get(each, 1) for each in scope), values.shape[-1])


# ------------------------------------------------------------------------------------------ results of elimination


def joint(found: Eliminated, variables: tuple[str, ...]) -> Float[np.ndarray, "..."]:
    """Joint table of the variables eliminated last, given the evidence: one axis each in the given order, then rows."""
    scope = tuple(reversed(found.plan.order))[: len(variables)]
    parts = [aligned(found.conditionals[node], (*found.plan.neighbors[node], node), scope) for node in scope]
    table = np.ones(1)
    for part in parts:
        table = table * part
    return table.transpose(*(scope.index(each) for each in variables), len(scope))


def scope_marginals(found: Eliminated) -> dict[str, Float[np.ndarray, "..."]]:
    """Joint table of each variable and its neighbors, given the evidence, with the axes of the conditionals."""
    plan, marginals = found.plan, dict[str, Float[np.ndarray, "..."]]()
    for node in reversed(plan.order):
        around = plan.neighbors[node]
        marginals[node] = found.conditionals[node]
        if around:
            # All other neighbors are neighbors of the first one to be eliminated.
            first = around[-1]
            of_all = summed(marginals[first], (*plan.neighbors[first], first), around)
            marginals[node] = found.conditionals[node] * of_all[..., None, :]
    return marginals


def summed(
    values: Float[np.ndarray, "..."], theirs: tuple[str, ...], scope: Collection[str]
) -> Float[np.ndarray, "..."]:
    """Values summed over the variables that are not in the scope."""
    axes = tuple(axis for axis, each in enumerate(theirs) if each not in scope)
    return values.sum(axes) if axes else values


def draw(found: Eliminated, rows: Int[np.ndarray, " S"], rng: np.random.Generator) -> dict[str, Int[np.ndarray, " S"]]:
    """Draw all eliminated variables given the evidence.

    Args:
        found: result of elimination.
        rows: row of the evidence for each draw.
        rng: random generator.
    """
    drawn: dict[str, Int[np.ndarray, " S"]] = {}
    for node in reversed(found.plan.order):
        table = found.conditionals[node]
        at = rows if table.shape[-1] > 1 else np.zeros_like(rows)
        by_value = np.moveaxis(table, -2, -1)  # (neighbors…, rows, values)
        drawn[node] = categorical(by_value[(*(drawn[each] for each in found.plan.neighbors[node]), at)], rng)
    return drawn


def categorical(probabilities: Float[np.ndarray, "S r"], rng: np.random.Generator) -> Int[np.ndarray, " S"]:
    """Draw one value per row, with probability proportional to its entry; values of probability zero never occur."""
    cumulated = probabilities.cumsum(-1)
    total = cumulated[:, -1]
    # Rounding must not raise u to the total, which would select a last value of probability zero.
    u = np.minimum(rng.random(len(total)) * total, np.nextafter(total, 0.0))
    return (u[:, None] >= cumulated[:, :-1]).sum(-1)
