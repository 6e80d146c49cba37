"""Exact queries of a discrete network: joint tables, marginals, evidence and interventions (Pearl, 2009, ch. 1 and 3)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from probmodel.families.bayesian_networks.levels import position
from probmodel.families.bayesian_networks.tables.discrete_network import NO_VALUES, DiscreteNetwork, intervene
from probmodel.families.bayesian_networks.tables.elimination import (
    CPU,
    Eliminated,
    ancestors,
    eliminate,
    family_factors,
    joint,
    min_fill,
    rows_at_once,
    scope_marginals,
    summed,
)
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.memory import refuse_above_memory


class JointTable(NamedTuple):
    """Joint distribution p(variables | evidence, interventions).

    Args:
        levels: variable → its values, in the order of the axes.
        table: probabilities, one axis per variable.
        log_evidence: log probability of the evidence under the interventions, in nats; 0 without evidence.
    """

    levels: Mapping[str, tuple[str, ...]]
    table: Float[np.ndarray, "..."]
    log_evidence: float

    def __repr__(self) -> str:
        return _text(self.to_series(), self.log_evidence)

    def to_series(self) -> pd.Series:
        """Probabilities as a series, indexed by the variables' values."""
        if len(self.levels) == 1:
            ((name, values),) = self.levels.items()
            return pd.Series(self.table, index=pd.Index(values, name=name), name="probability")
        index = pd.MultiIndex.from_product(list(self.levels.values()), names=list(self.levels))
        return pd.Series(self.table.ravel(), index=index, name="probability")

    def probability(self, values: Mapping[str, object]) -> float:
        """Probability of the values of some variables, summed over the others.

        Raises:
            ValueError: if a variable or value is unknown.
        """
        unknown = sorted(set(values) - set(self.levels))
        if unknown:
            raise ValueError(
                f"expected variables among {list(self.levels)}, got {unknown}; query them too, or drop them"
            )
        at = [
            position(name, found, values[name]) if name in values else slice(None)
            for name, found in self.levels.items()
        ]
        return float(self.table[tuple(at)].sum())


class Marginals(NamedTuple):
    """Marginal distributions p(variable | evidence, interventions) of every variable.

    Args:
        levels: variable → its values.
        tables: variable → probabilities of its values; one and zeros for a known variable.
        log_evidence: log probability of the evidence under the interventions, in nats; 0 without evidence.
    """

    levels: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, Float[np.ndarray, " r"]]
    log_evidence: float

    def __repr__(self) -> str:
        return _text(self.to_series(), self.log_evidence)

    def to_series(self) -> pd.Series:
        """Probabilities as a series, indexed by variable and value."""
        index = pd.MultiIndex.from_tuples(
            [(name, value) for name, values in self.levels.items() for value in values], names=["variable", "value"]
        )
        return pd.Series(np.concatenate([self.tables[name] for name in self.levels]), index=index, name="probability")


@checks_arguments
def query(
    network: DiscreteNetwork,
    targets: Sequence[str] | str,
    *,
    given: Mapping[str, object] = NO_VALUES,
    do: Mapping[str, object] = NO_VALUES,
) -> JointTable:
    """Joint table of some variables, by elimination of all others.

    Variables that are not ancestors of targets or evidence are left out; those that were set lose their parents.

    Args:
        network: network whose tables are taken as known; `posterior_mean` states when answers from mean tables are
            exact.
        targets: variables of the joint table; one alone may be given by its name.
        given: variable → the observed value, as in the frame that the network was learned from: text, a number, a date.
        do: variable → the value it was set to by intervention, before `given` was observed.

    Raises:
        ValueError: if a variable or value is unknown, a variable is named twice, there is no target, or the evidence
            has probability zero.
        MemoryError: if an intermediate table or the answer does not fit in memory; nothing is allocated before.
    """
    targets = (targets,) if type(targets) is str else tuple(targets)
    check_names(network, targets, given, do)
    if not targets:
        raise ValueError("expected one target at least, got none; name a variable, or call marginals")
    sizes = network.cardinalities
    needed = 16 * math.prod(sizes[each] for each in targets)
    refuse_above_memory(needed, CPU, f"the joint table of {len(targets)} variables", "query fewer, or call sample")
    found = eliminated(network, targets, given, do)
    table = joint(found, targets)[..., 0]
    return JointTable({each: network.levels[each] for each in targets}, table, log_evidence(found, given, do))


@checks_arguments
def marginals(
    network: DiscreteNetwork, *, given: Mapping[str, object] = NO_VALUES, do: Mapping[str, object] = NO_VALUES
) -> Marginals:
    """Distribution of every variable, by a forward and a backward pass (Lauritzen & Spiegelhalter, 1988).

    Args:
        network, given, do: as in `query`.

    Raises:
        ValueError: if a variable or value is unknown, a variable is named twice, or the evidence has probability zero.
        MemoryError: if an intermediate table does not fit in memory; nothing is allocated before.
    """
    check_names(network, (), given, do)
    found = eliminated(network, None, given, do)
    of_evidence = log_evidence(found, given, do)
    tables = {
        node: summed(table, (*found.plan.neighbors[node], node), {node})[..., 0]
        for node, table in scope_marginals(found).items()
    }
    tables |= {name: np.eye(len(network.levels[name]))[network.code(name, at)] for name, at in {**given, **do}.items()}
    return Marginals({node: network.levels[node] for node in network.nodes}, tables, of_evidence)


def eliminated(
    network: DiscreteNetwork,
    targets: tuple[str, ...] | None,
    given: Mapping[str, object],
    do: Mapping[str, object],
) -> Eliminated:
    """Sum out all variables but barren ones, the targets last; with targets None, all variables in any order."""
    after = intervene(network, do)
    evidence = {name: np.array([network.code(name, value)]) for name, value in {**given, **do}.items()}
    nodes = network.nodes if targets is None else sorted(ancestors(after.dag, {*targets, *evidence}))
    families = [(*after.dag.parents[node], node) for node in nodes]
    free = [[each for each in family if each not in evidence] for family in families]
    plan = min_fill(free, network.cardinalities, frozenset(targets or ()))
    rows_at_once(plan)
    return eliminate(plan, family_factors(after, nodes, evidence, plan))


def log_evidence(found: Eliminated, given: Mapping[str, object], do: Mapping[str, object]) -> float:
    """Log probability of the evidence, in nats.

    Raises:
        ValueError: if it is −∞.
    """
    value = float(found.log_prob[0])
    if value == -math.inf:
        after = f" after setting {dict(do)}" if do else ""
        raise ValueError(
            f"expected evidence that can occur{after}, got {dict(given)} of probability zero; change or drop values"
        )
    return value if given else 0.0


def _text(probabilities: pd.Series, log_evidence: float) -> str:
    evidence = f"\nlog probability of the evidence: {log_evidence:.6g}" if log_evidence else ""
    return probabilities.to_string() + evidence


def check_names(network: DiscreteNetwork, targets: tuple[str, ...], given: Iterable[str], do: Iterable[str]) -> None:
    """Raise ValueError if a variable is unknown or named twice."""
    named = [*targets, *given, *do]
    unknown = sorted(set(named) - set(network.nodes))
    if unknown:
        raise ValueError(f"expected variables among {sorted(network.nodes)}, got {unknown}; pass names of the network")
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise ValueError(f"expected each variable once among targets, given and do, got {twice} twice; name it once")
