"""Bayesian networks of categorical variables with conditional probability tables (Koller & Friedman, 2009, ch. 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from probmodel.families.bayesian_networks.categorical_data import CategoricalData, check_codes
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.levels import position
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.arguments.kinds import is_mapping

ROW_SUM_TOLERANCE = 1e-6
"""Largest deviation from one of the sum of a row of probabilities: published networks have six or seven digits."""

NO_VALUES: Mapping[str, object] = MappingProxyType({})
"""Empty mapping: no evidence, no intervention."""


@dataclass(frozen=True, eq=False)
class DiscreteNetwork:
    """Bayesian network p(x) = Π p(x_i | parents of i), with each conditional distribution a table.

    Args:
        dag: the graph.
        levels: variable → its values, in order.
        tables: variable → probabilities, one axis per parent in the order of `dag.parents`, the variable's own axis
            last, along which they sum to one.

    Raises:
        TypeError: for what is no graph, or no mapping.
        ValueError: if levels or tables are of other variables, or a table has the wrong shape, is negative or not
            normalized.
    """

    dag: DAG
    levels: Mapping[str, tuple[str, ...]]
    tables: Mapping[str, Float[np.ndarray, "..."]]

    def __post_init__(self) -> None:
        if type(self.dag) is not DAG:
            raise TypeError(
                f"expected a DAG, got {type(self.dag).__name__}; pass a graph such as DAG.from_string('[a][b|a]')"
            )
        for what, found in (("levels", self.levels), ("tables", self.tables)):
            if not is_mapping(found):
                raise TypeError(
                    f"expected {what} by variable, got {type(found).__name__}; pass a dict with one entry per node"
                )
            if set(found) != set(self.dag.nodes):
                raise ValueError(
                    f"expected {what} of {sorted(self.dag.nodes)}, got {what} of {sorted(found)}; pass one per node"
                )
        if not self.dag.nodes:
            raise ValueError("expected one variable or more, got none; add nodes to the graph")
        for node, values in self.levels.items():
            if (
                type(values) is str
                or not np.iterable(values)
                or any(type(each) not in (str, np.str_) for each in values)
            ):
                raise ValueError(f"expected levels of {node!r} as text, got {values!r}; pass tuple(map(str, levels))")
            if len(set(values)) != len(values) or not values:
                raise ValueError(
                    f"expected different levels of {node!r}, got {list(values)}; name one or more, each once"
                )
        for node in self.dag.nodes:
            if not isinstance(self.tables[node], np.ndarray):
                kind = type(self.tables[node]).__name__
                raise ValueError(f"expected the table of {node!r} as a NumPy array, got {kind}; pass np.array(table)")
            _check_table(node, self.tables[node], self.family_shape(node))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The variables, in the graph's order."""
        return self.dag.nodes

    @property
    def cardinalities(self) -> dict[str, int]:
        """Variable → number of its values."""
        return {node: len(self.levels[node]) for node in self.dag.nodes}

    @property
    def num_parameters(self) -> int:
        """Number of free probabilities."""
        return sum(prod(shape[:-1]) * (shape[-1] - 1) for shape in map(self.family_shape, self.nodes))

    @cached_property
    def log_tables(self) -> Mapping[str, Float[np.ndarray, "..."]]:
        """Variable → logs of its table, −∞ for impossible values."""
        with np.errstate(divide="ignore"):
            return {node: np.log(table) for node, table in self.tables.items()}

    def family_shape(self, node: str) -> tuple[int, ...]:
        """Shape of a variable's table: the numbers of values of its parents, then its own."""
        return family_shape(self.dag, self.levels, node)

    def code(self, node: str, value: object) -> int:
        """Position of a value among the levels, matched by its text; a number matches in any type, 1 as 1.0 or True.

        Raises:
            ValueError: if the variable is unknown, or the value is not among its levels.
        """
        if node not in self.levels:
            raise ValueError(
                f"expected one of the variables {sorted(self.levels)}, got {node!r}; pass one of these names"
            )
        return position(node, self.levels[node], value)

    def codes(self, data: CategoricalData) -> Int[np.ndarray, "N n"]:
        """Codes of rows by this network's own levels, with columns in its order; −1 for missing values.

        Variables without a column are missing in all rows.

        Raises:
            ValueError: if columns are of unknown variables, or the rows have unknown levels.
        """
        check_codes(data)
        unknown = sorted(set(data.names) - set(self.nodes))
        if unknown:
            raise ValueError(f"expected columns among the variables {sorted(self.nodes)}, got {unknown}; drop them")
        found = np.full((len(data.codes), len(self.nodes)), -1, dtype=np.int64)
        for column, node in enumerate(self.nodes):
            if node in data.levels:
                found[:, column] = self._recoded(node, data.levels[node], data.codes[:, data.column(node)])
        return found

    def _recoded(self, node: str, theirs: Sequence[str], codes: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        at = {value: position for position, value in enumerate(self.levels[node])}
        strange = [theirs[code] for code in np.unique(codes[codes >= 0]) if theirs[code] not in at]
        if strange:
            raise ValueError(
                f"expected values of {node!r} among {list(self.levels[node])}, got {strange}; rename or drop them"
            )
        # Index −1 refers to the last entry.
        return np.array([*(at.get(value, -1) for value in theirs), -1], dtype=np.int64)[codes]


def family_shape(dag: DAG, levels: Mapping[str, Sequence[str]], node: str) -> tuple[int, ...]:
    """Shape of a variable's table: the numbers of values of its parents, then its own."""
    return tuple(len(levels[each]) for each in (*dag.parents[node], node))


def _check_table(node: str, table: np.ndarray, shape: tuple[int, ...]) -> None:
    if table.shape != shape:
        raise ValueError(
            f"expected the table of {node!r} to have shape {shape}, parents first, got {table.shape}; reorder its axes"
        )
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise ValueError(
            f"expected probabilities of {node!r}, got {table.min():g} among them; pass finite numbers of 0 or more"
        )
    apart = np.abs(table.sum(-1) - 1)
    if apart.max() > ROW_SUM_TOLERANCE:
        worst = tuple(int(i) for i in np.unravel_index(apart.argmax(), apart.shape))
        raise ValueError(
            f"expected each row of {node!r} to sum to one, got {table.sum(-1)[worst]:.9g} for the parents' values {worst};"
            " divide by the sum over the last axis"
        )


@checks_arguments
def intervene(network: DiscreteNetwork, do: Mapping[str, object]) -> DiscreteNetwork:
    """Network after an intervention: the variables that were set have no parents and one value (Pearl, 2009, ch. 3).

    Args:
        network: the network before the intervention.
        do: variable → the value it is set to.

    Raises:
        ValueError: if a variable is unknown, or a value is not among its levels.
    """
    codes = {node: network.code(node, value) for node, value in do.items()}
    points = {node: np.eye(len(network.levels[node]))[code] for node, code in codes.items()}
    dag = DAG({node: () if node in points else parents for node, parents in network.dag.parents.items()})
    return DiscreteNetwork(dag, network.levels, {**network.tables, **points})
