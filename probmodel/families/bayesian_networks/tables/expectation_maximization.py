"""Tables of a discrete network from rows with missing values, by expectation maximization (Lauritzen, 1995)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.tables.dirichlet_tables import (
    Table,
    dirichlet_rows,
    frequencies,
    refuse_large_table,
    smoothed,
)
from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork, family_shape
from probmodel.families.bayesian_networks.tables.incomplete_rows import (
    Batch,
    DistinctIncompleteRows,
    add_expected_counts,
    all_nodes,
    batches,
    distinct_rows,
    eliminated_batch,
)
from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.errors import EMWarning, warn
from probmodel.protocols.integers import checked_seed, integer


class EMFit(NamedTuple):
    """Result of expectation maximization.

    Args:
        network: network with the fitted tables.
        log_posteriors: log posterior before each step and after the last, in nats; it never falls.
    """

    network: DiscreteNetwork
    log_posteriors: tuple[float, ...]


@checks_fields
@dataclass(frozen=True)
class EM:
    """Expectation maximization of the log posterior of tables, each step from counts expected under the current ones.

        θ_ijk ← (α + E[N_ijk]) / (r_i α + E[N_ij]),    α = sample_size / (q_i r_i),

    which raises log p(data | θ) + Σ α log θ_ijk: the log posterior density of the log odds of θ under the prior of
    `BDeu(sample_size)`, whose mode exists for every α (MacKay, 1998).  The density of θ itself has α − 1 in place of α,
    and no mode within the simplex for α < 1.  Without missing values one step gives `posterior_mean`, and without a
    prior `maximum_likelihood`.  There may be several modes; other seeds start from other tables.

    Args:
        sample_size: equivalent sample size of the prior, in rows; 0 for the likelihood alone.
        tolerance: gain in nats up to which a step is the last.
        max_steps: largest number of steps.
    """

    sample_size: float = 1.0
    tolerance: float = 1e-6
    max_steps: int = 1_000

    @checks_arguments
    def __call__(self, dag: DAG, data: CategoricalData, intervened: Sequence[str | None] = (), *, seed: int) -> EMFit:
        """Fit the tables.

        Args:
            dag: graph over the variables of the data; one that is never observed has a column of missing values.
            data: rows, as read by `CategoricalData.with_missing`.
            intervened: for each row the variable that was set by intervention, or None; such a row carries no
                information about that variable's own table.
            seed: seed of the initial tables: draws given the rows that are complete for each, under a uniform prior.

        Raises:
            ValueError: if the graph has other variables, settings are out of range, or a value that was set is missing.
            MemoryError: if an intermediate table does not fit in memory.
        """
        if not (0 <= self.sample_size < np.inf and self.tolerance >= 0):
            raise ValueError(
                f"expected sample_size and tolerance of zero or more, got {self.sample_size} and {self.tolerance}; "
                "pass sample_size=0 for no prior"
            )
        if set(dag.nodes) != set(data.names):
            raise ValueError(
                f"expected a graph of {sorted(data.names)}, got one of {sorted(dag.nodes)}; pass a graph over the "
                "data's variables"
            )
        network, rows = _start(dag, data, intervened, np.random.default_rng(checked_seed(seed)))
        together = batches(dag, network.cardinalities, rows, all_nodes)
        log_posteriors = list[float]()
        for _ in range(integer("max_steps", self.max_steps)):
            expected, log_likelihood = _expected_counts(network, rows, together)
            log_posteriors.append(log_likelihood + self._log_prior(network))
            if len(log_posteriors) > 1 and log_posteriors[-1] - log_posteriors[-2] <= self.tolerance:
                return EMFit(network, tuple(log_posteriors))
            network = self._maximized(network, expected)
        warn(
            f"EM: expected a last gain of at most {self.tolerance:g} nats, got a log posterior still rising after "
            f"{self.max_steps} steps; raise max_steps or tolerance",
            EMWarning,
        )
        last = _expected_counts(network, rows, together)[1] + self._log_prior(network)
        return EMFit(network, (*log_posteriors, last))

    def _log_prior(self, network: DiscreteNetwork) -> float:
        tables = network.tables.values()
        return float(sum(xlogy(self.sample_size / table.size, table).sum() for table in tables))

    def _maximized(self, network: DiscreteNetwork, expected: dict[str, Table]) -> DiscreteNetwork:
        tables = {node: frequencies(smoothed(found, self.sample_size)) for node, found in expected.items()}
        return DiscreteNetwork(network.dag, network.levels, tables)


def _start(
    dag: DAG, data: CategoricalData, intervened: Sequence[str | None], rng: np.random.Generator
) -> tuple[DiscreteNetwork, DistinctIncompleteRows]:
    """Initial tables, drawn given the rows that are complete for each, and the distinct rows."""
    shapes = {node: family_shape(dag, data.levels, node) for node in dag.nodes}
    for node, shape in shapes.items():
        refuse_large_table(node, shape)
    uniform = {node: np.full(shape, 1 / shape[-1]) for node, shape in shapes.items()}
    rows = distinct_rows(DiscreteNetwork(dag, data.levels, uniform), data, intervened)
    tables = {}
    for column, node in enumerate(dag.nodes):
        family = rows.codes[:, [dag.nodes.index(each) for each in (*dag.parents[node], node)]]
        complete = (family >= 0).all(1) & (rows.intervened_column != column)
        seen = np.zeros(shapes[node])
        np.add.at(seen, tuple(family[complete].T), rows.times[complete])
        tables[node] = dirichlet_rows(1.0 + seen, rng)
    return DiscreteNetwork(dag, data.levels, tables), rows


def _expected_counts(
    network: DiscreteNetwork, rows: DistinctIncompleteRows, together: Sequence[Batch]
) -> tuple[dict[str, Table], float]:
    """Expected counts of every table given the observed values, and the log likelihood of these, in nats."""
    total, log_likelihood = {node: np.zeros(table.shape) for node, table in network.tables.items()}, 0.0
    for batch in together:
        found = eliminated_batch(network, rows, batch)
        add_expected_counts(total, network.dag, rows, batch, found)
        log_likelihood += float((rows.times[batch.rows] * found.log_prob).sum())
    return total, log_likelihood
