"""Exact sampling of rows from a discrete network, given evidence and interventions (Koller & Friedman, 2009, ch. 12)."""

from collections.abc import Mapping

import numpy as np

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.tables.discrete_network import NO_VALUES, DiscreteNetwork, intervene
from probmodel.families.bayesian_networks.tables.elimination import categorical, draw
from probmodel.families.bayesian_networks.tables.queries import check_names, eliminated, log_evidence
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import checked_seed, integer


@checks_arguments
def sample(
    network: DiscreteNetwork,
    num_rows: int,
    *,
    seed: int,
    given: Mapping[str, object] = NO_VALUES,
    do: Mapping[str, object] = NO_VALUES,
) -> CategoricalData:
    """Draw independent rows from p(x | given, do).

    Evidence and its ancestors are drawn in the reverse of an elimination order, all other variables after their
    parents.

    Args:
        network: network with the tables, which are taken as known.
        num_rows: number of rows.
        seed: seed of the draws.
        given, do: as in `query`.

    Raises:
        ValueError: if a variable or value is unknown, a variable is named twice, the evidence has probability zero, or
            num_rows or seed is not an integer.
        MemoryError: if an intermediate table does not fit in memory.
    """
    num_rows, rng = integer("num_rows", num_rows), np.random.default_rng(checked_seed(seed))
    check_names(network, (), given, do)
    after = intervene(network, do)
    known = {name: np.full(num_rows, network.code(name, value)) for name, value in {**given, **do}.items()}
    found = eliminated(network, (), given, do)
    log_evidence(found, given, do)
    drawn = known | draw(found, np.zeros(num_rows, dtype=np.int64), rng)
    for node in after.dag.order:
        if node not in drawn:
            by_row = after.tables[node][tuple(drawn[each] for each in after.dag.parents[node])]
            drawn[node] = categorical(np.broadcast_to(by_row, (num_rows, by_row.shape[-1])), rng)
    codes = np.stack([drawn[node] for node in network.nodes], 1)
    return CategoricalData({node: network.levels[node] for node in network.nodes}, codes)
