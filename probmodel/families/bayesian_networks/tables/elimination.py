"""Sums over the variables of a network, one variable at a time (Zhang & Poole, 1994; Dechter, 1999).

Eliminating v multiplies the factors that hold it and sums v out.  The product, divided by the sum, is p(v | its neighbors
then, evidence); so one pass gives the probability of the evidence, and all these conditional distributions, which joint
tables, marginals and draws are read from in the reverse order.
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
"""Tables of one size that the sum over a variable holds at a time: the product, its exponential, the conditional."""
MOST_ROWS = 2048
"""Rows of one call: more leave the caches and gain nothing."""


class Factor(NamedTuple):
    """A function of some variables for each row.

    Args:
        scope: variables, the last to be eliminated first.
        log_values: one axis a variable, then rows; one row where all are alike.
    """

    scope: tuple[str, ...]
    log_values: Float[np.ndarray, "..."]


class EliminationPlan(NamedTuple):
    """An order of elimination.

    Args:
        order: variables, the first to be eliminated first.
        neighbors: variable → those it is eliminated beside, the last to be eliminated first.
        entries: of all tables together, for one row.
    """

    order: tuple[str, ...]
    neighbors: Mapping[str, tuple[str, ...]]
    entries: int

    @property
    def width(self) -> int:
        """The most neighbors of a variable: the graph's width along this order."""
        return max(map(len, self.neighbors.values()), default=0)


class Eliminated(NamedTuple):
    """What elimination leaves.

    Args:
        plan: the order.
        conditionals: variable → p(v | neighbors, evidence), one axis a neighbor, then v, then rows; zero where the
            evidence rules the neighbors' values out.
        log_prob: of the evidence of each row, in nats; one row where all are alike.
    """

    plan: EliminationPlan
    conditionals: Mapping[str, Float[np.ndarray, "..."]]
    log_prob: Float[np.ndarray, " B"]


def ancestors(dag: DAG, nodes: Iterable[str]) -> set[str]:
    """Some nodes and all that lead to them; sums over the others are one (Shachter, 1986)."""
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
    """The order that joins the fewest neighbors at each step, of these the smallest table (Kjærulff, 1990).

    Args:
        scopes: of the factors.
        sizes: variable → how many values it has.
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
                # No edge is new, so that only the pairs of this node are gone.
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
    """Pairs of neighbors that are not joined."""
    return sum(b not in near[a] for a, b in combinations(near[node], 2))


def _join(nodes: set[str], near: Mapping[str, set[str]]) -> None:
    for node in nodes:
        near[node].update(nodes)
        near[node].discard(node)


def rows_at_once(plan: EliminationPlan, copies: int = COPIES) -> int:
    """How many rows fit into memory together.

    Raises:
        MemoryError: where one does not.
    """
    needed = 8 * copies * plan.entries
    what = f"tables of {plan.entries:,} entries, along an order of width {plan.width}"
    refuse_above_memory(needed, CPU, what, "ask for fewer variables together, give more evidence, or average samples")
    return min(MOST_ROWS, max(1, budget(CPU) // max(needed, 1)))


# ------------------------------------------------------------------------------------------ the sums


def family_factors(
    network: DiscreteNetwork,
    nodes: Iterable[str],
    known: Mapping[str, Int[np.ndarray, " B"]],
    plan: EliminationPlan,
) -> list[Factor]:
    """The tables of some variables, where the known ones have their values.

    Args:
        network: whose tables.
        nodes: whose families.
        known: variable → its position among its levels, of each row.
        plan: that the factors are for.
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
        plan: of these factors' scopes.
        factors: by rows.
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
    """Of all factors, by the axes of a scope that holds theirs in the same order."""
    parts = [aligned(factor.log_values, factor.scope, scope) for factor in factors]
    found = np.zeros(np.broadcast_shapes(*(part.shape for part in parts)))
    for part in parts:
        found += part
    return found


def aligned(
    values: Float[np.ndarray, "..."], theirs: tuple[str, ...], scope: tuple[str, ...]
) -> Float[np.ndarray, "..."]:
    """The same with an axis of one for each variable of the scope that it lacks; rows stay the last axis."""
    sizes = dict(zip(theirs, values.shape, strict=False))
    return values.reshape(*(sizes.get(each, 1) for each in scope), values.shape[-1])


# ------------------------------------------------------------------------------------------ what is read from them


def joint(found: Eliminated, variables: tuple[str, ...]) -> Float[np.ndarray, "..."]:
    """Of the variables that were eliminated last, given the evidence: one axis each in the order asked for, then rows."""
    scope = tuple(reversed(found.plan.order))[: len(variables)]
    parts = [aligned(found.conditionals[node], (*found.plan.neighbors[node], node), scope) for node in scope]
    table = np.ones(1)
    for part in parts:
        table = table * part
    return table.transpose(*(scope.index(each) for each in variables), len(scope))


def scope_marginals(found: Eliminated) -> dict[str, Float[np.ndarray, "..."]]:
    """Of each variable and its neighbors, given the evidence: axes as those of the conditionals."""
    plan, marginals = found.plan, dict[str, Float[np.ndarray, "..."]]()
    for node in reversed(plan.order):
        around = plan.neighbors[node]
        marginals[node] = found.conditionals[node]
        if around:
            # The first neighbor to be eliminated was so beside all others.
            first = around[-1]
            of_all = summed(marginals[first], (*plan.neighbors[first], first), around)
            marginals[node] = found.conditionals[node] * of_all[..., None, :]
    return marginals


def summed(
    values: Float[np.ndarray, "..."], theirs: tuple[str, ...], scope: Collection[str]
) -> Float[np.ndarray, "..."]:
    """Over the variables that are not in the scope."""
    axes = tuple(axis for axis, each in enumerate(theirs) if each not in scope)
    return values.sum(axes) if axes else values


def draw(found: Eliminated, rows: Int[np.ndarray, " S"], rng: np.random.Generator) -> dict[str, Int[np.ndarray, " S"]]:
    """All variables given the evidence.

    Args:
        found: the conditional distributions.
        rows: of the evidence, one for each draw.
        rng: source of randomness.
    """
    drawn: dict[str, Int[np.ndarray, " S"]] = {}
    for node in reversed(found.plan.order):
        table = found.conditionals[node]
        at = rows if table.shape[-1] > 1 else np.zeros_like(rows)
        by_value = np.moveaxis(table, -2, -1)  # (neighbors…, rows, values)
        drawn[node] = categorical(by_value[(*(drawn[each] for each in found.plan.neighbors[node]), at)], rng)
    return drawn


def categorical(probabilities: Float[np.ndarray, "S r"], rng: np.random.Generator) -> Int[np.ndarray, " S"]:
    """One value from each row, in proportion; values of probability zero never occur."""
    cumulated = probabilities.cumsum(-1)
    total = cumulated[:, -1]
    # Rounding must not carry u to the total, where a last value of probability zero would be.
    u = np.minimum(rng.random(len(total)) * total, np.nextafter(total, 0.0))
    return (u[:, None] >= cumulated[:, :-1]).sum(-1)
