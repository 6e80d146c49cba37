"""Rows drawn from a discrete network, exactly so given evidence and after interventions (Koller & Friedman, 2009, ch. 12)."""

from collections.abc import Mapping

import numpy as np

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.tables.discrete_network import NOTHING, DiscreteNetwork, intervene
from probmodel.families.bayesian_networks.tables.elimination import categorical, draw
from probmodel.families.bayesian_networks.tables.queries import check_names, eliminated, log_evidence
from probmodel.protocols.integers import checked_seed, integer


def sample(
    network: DiscreteNetwork,
    num_rows: int,
    *,
    seed: int,
    given: Mapping[str, object] = NOTHING,
    do: Mapping[str, object] = NOTHING,
) -> CategoricalData:
    """Independent rows from p(x | given, do).

    Evidence and what leads to it are drawn along the reverse of an order of elimination, all else after its parents.

    Args:
        network: all its tables count.
        num_rows: rows.
        seed: of the draws.
        given, do: as in `query`.

    Raises:
        ValueError: for unknown variables or values, one named twice, evidence of probability zero, or no whole numbers.
        MemoryError: where a table on the way does not fit.
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
