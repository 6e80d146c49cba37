"""Tables of probabilities given rows, under independent Dirichlet priors (Heckerman, Geiger & Chickering, 1995)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import observed_rows
from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork, family_shape
from probmodel.protocols.integers import checked_seed, integer
from probmodel.protocols.memory import refuse_above_memory

Table = Float[np.ndarray, "..."]
"""One axis a parent, the variable's own the last."""


def posterior_mean(
    dag: DAG, data: CategoricalData, sample_size: float = 1.0, intervened: Sequence[str | None] = ()
) -> DiscreteNetwork:
    """Tables as expected given the data, under the prior of `BDeu(sample_size)`.

        E[θ_ijk | data] = (α + N_ijk) / (r_i α + N_ij),    α = sample_size / (q_i r_i).

    What it says of one new row is exact.  Given complete data the rows of all tables are independent, and one new row
    reads one row of each table, so that E[Π θ | data] = Π E[θ | data]; sums over some of its values, what these say of
    others, and the same after an intervention follow.  Several new rows share their θ: the product of their
    probabilities is not their joint one.  Nor does a mean say how far a probability may be off; `posterior_networks`
    does.

    Args:
        dag: over the variables of the data.
        data: rows without missing values.
        sample_size: rows that the prior counts for.
        intervened: for each row the variable that was set from outside, or None; such a row says nothing of that
            variable's own table.

    Raises:
        ValueError: for a graph of other variables, missing values, or a sample size that is not positive.
    """
    check_sample_size(sample_size)
    found = family_counts(dag, data, intervened)
    return DiscreteNetwork(dag, data.levels, {node: frequencies(smoothed(n, sample_size)) for node, n in found.items()})


def maximum_likelihood(dag: DAG, data: CategoricalData, intervened: Sequence[str | None] = ()) -> DiscreteNetwork:
    """Tables as frequencies, the limit of `posterior_mean` as the prior counts for no rows.

    Of parents' values that never occur together the limit is the prior's mean: all values alike.

    Args:
        dag, data, intervened: as in `posterior_mean`.

    Raises:
        ValueError: for a graph of other variables, or missing values.
    """
    found = family_counts(dag, data, intervened)
    return DiscreteNetwork(dag, data.levels, {node: frequencies(n) for node, n in found.items()})


def posterior_networks(
    dag: DAG,
    data: CategoricalData,
    sample_size: float = 1.0,
    intervened: Sequence[str | None] = (),
    *,
    num_samples: int,
    seed: int,
) -> list[DiscreteNetwork]:
    """Networks drawn from the posterior of their tables; a query of each is a draw from the posterior of its answer.

    Args:
        dag, data, sample_size, intervened: as in `posterior_mean`.
        num_samples: networks.
        seed: of the draws.

    Raises:
        ValueError: as `posterior_mean` does, and for numbers that are not whole.
    """
    check_sample_size(sample_size)
    rng, found = np.random.default_rng(checked_seed(seed)), family_counts(dag, data, intervened)
    return [
        DiscreteNetwork(
            dag, data.levels, {node: dirichlet_rows(smoothed(n, sample_size), rng) for node, n in found.items()}
        )
        for _ in range(integer("num_samples", num_samples))
    ]


def family_counts(dag: DAG, data: CategoricalData, intervened: Sequence[str | None] = ()) -> dict[str, Table]:
    """How often parents' and variables' values occur together, in the shapes of the tables.

    Raises:
        ValueError: for a graph of other variables, or missing values.
        MemoryError: for a table that does not fit.
    """
    if set(dag.nodes) != set(data.names):
        raise ValueError(f"expected a graph of {sorted(data.names)}, got one of {sorted(dag.nodes)}")
    kept = observed_rows(data, intervened)
    found = {}
    for node in dag.nodes:
        shape = family_shape(dag, data.levels, node)
        refuse_large_table(node, shape)
        columns = [data.column(each) for each in (*dag.parents[node], node)]
        rows = kept[data.column(node)]
        codes = data.codes[:, columns] if rows is None else data.codes[rows][:, columns]
        cells = np.ravel_multi_index(tuple(codes.T), shape)
        found[node] = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(float)
    return found


def refuse_large_table(node: str, shape: tuple[int, ...]) -> None:
    """Raise MemoryError for a table that does not fit."""
    needed = 8 * 3 * int(np.prod([float(size) for size in shape]))
    what = f"a table of {node!r} with {len(shape) - 1} parents"
    refuse_above_memory(needed, torch.device("cpu"), what, "take a graph with fewer parents")


def check_sample_size(sample_size: float) -> None:
    """Raise ValueError for a prior that counts for no rows."""
    if not 0 < sample_size < np.inf:
        raise ValueError(f"expected a positive sample_size, got {sample_size}; `maximum_likelihood` takes no prior")


def smoothed(found: Table, sample_size: float) -> Table:
    """Counts with the prior's rows spread evenly over the cells."""
    return found + sample_size / found.size


def frequencies(found: Table) -> Table:
    """Shares of each row's values; of a row that is zero, all alike."""
    total = found.sum(-1, keepdims=True)
    return np.divide(found, total, out=np.full_like(found, 1 / found.shape[-1]), where=total > 0)


def dirichlet_rows(alpha: Table, rng: np.random.Generator) -> Table:
    """A draw of each row, Dirichlet(alpha).

    Gammas are taken in logs, G(α) = G(α + 1) U^{1/α}, as those of a small α underflow.
    """
    log_gamma = np.log(rng.standard_gamma(alpha + 1)) + np.log1p(-rng.random(alpha.shape)) / alpha
    weights = np.exp(log_gamma - log_gamma.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
