"""Conditional probability tables under independent Dirichlet priors (Heckerman, Geiger & Chickering, 1995)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import DAG
from probmodel.families.bayesian_networks.scores.categorical_scores import observed_rows
from probmodel.families.bayesian_networks.tables.discrete_network import DiscreteNetwork, family_shape
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.integers import checked_seed, integer
from probmodel.protocols.memory import refuse_above_memory

Table = Float[np.ndarray, "..."]
"""One axis per parent, the variable's own axis last."""


@checks_arguments
def posterior_mean(
    dag: DAG, data: CategoricalData, sample_size: float = 1.0, intervened: Sequence[str | None] = ()
) -> DiscreteNetwork:
    """Posterior mean of the tables given the data, under the prior of `BDeu(sample_size)`.

        E[θ_ijk | data] = (α + N_ijk) / (r_i α + N_ij),    α = sample_size / (q_i r_i).

    Probabilities of one new row are exact.  Given complete data the rows of all tables are independent, and one new row
    uses one row of each table, so that E[Π θ | data] = Π E[θ | data]; marginal and conditional probabilities follow,
    also after an intervention.  Several new rows share the same θ, so that the product of their probabilities is not
    their joint probability.  Nor does the mean state the uncertainty of a probability; `posterior_networks` does.

    Args:
        dag: graph over the variables of the data.
        data: rows without missing values.
        sample_size: equivalent sample size of the prior, in rows.
        intervened: for each row the variable that was set by intervention, or None; such a row carries no information
            about that variable's own table.

    Raises:
        ValueError: if the graph has other variables, values are missing, or the sample size is not positive.
    """
    check_sample_size(sample_size)
    found = family_counts(dag, data, intervened)
    return DiscreteNetwork(dag, data.levels, {node: frequencies(smoothed(n, sample_size)) for node, n in found.items()})


@checks_arguments
def maximum_likelihood(dag: DAG, data: CategoricalData, intervened: Sequence[str | None] = ()) -> DiscreteNetwork:
    """Tables of relative frequencies, the limit of `posterior_mean` as the prior's sample size goes to zero.

    For parents' values that never occur together the limit is the prior mean, a uniform distribution.

    Args:
        dag, data, intervened: as in `posterior_mean`.

    Raises:
        ValueError: if the graph has other variables, or values are missing.
    """
    found = family_counts(dag, data, intervened)
    return DiscreteNetwork(dag, data.levels, {node: frequencies(n) for node, n in found.items()})


@checks_arguments
def posterior_networks(
    dag: DAG,
    data: CategoricalData,
    sample_size: float = 1.0,
    intervened: Sequence[str | None] = (),
    *,
    num_samples: int,
    seed: int,
) -> list[DiscreteNetwork]:
    """Draw networks from the posterior of their tables; a query of each is a draw from the posterior of its answer.

    Args:
        dag, data, sample_size, intervened: as in `posterior_mean`.
        num_samples: number of networks.
        seed: seed of the draws.

    Raises:
        ValueError: as `posterior_mean` does, and if num_samples or seed is not an integer.
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
    """Counts of the values of each variable and its parents, in the shapes of the tables.

    Raises:
        ValueError: if the graph has other variables, or values are missing.
        MemoryError: if a table does not fit in memory.
    """
    if set(dag.nodes) != set(data.names):
        raise ValueError(
            f"expected a graph of {sorted(data.names)}, got one of {sorted(dag.nodes)}; pass a graph over the data's "
            "variables"
        )
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
    """Raise MemoryError if a table does not fit in memory."""
    needed = 8 * 3 * int(np.prod([float(size) for size in shape]))
    what = f"a table of {node!r} with {len(shape) - 1} parents"
    refuse_above_memory(needed, torch.device("cpu"), what, "take a graph with fewer parents")


def check_sample_size(sample_size: float) -> None:
    """Raise ValueError unless the prior's sample size is positive and finite."""
    if not 0 < sample_size < np.inf:
        raise ValueError(f"expected a positive sample_size, got {sample_size}; call maximum_likelihood for no prior")


def smoothed(found: Table, sample_size: float) -> Table:
    """Counts plus the prior's sample size, spread evenly over the cells."""
    return found + sample_size / found.size


def frequencies(found: Table) -> Table:
    """Proportions of the values per row; uniform for a row of zeros."""
    total = found.sum(-1, keepdims=True)
    return np.divide(found, total, out=np.full_like(found, 1 / found.shape[-1]), where=total > 0)


def dirichlet_rows(alpha: Table, rng: np.random.Generator) -> Table:
    """Draw each row from Dirichlet(alpha).

    Gammas are drawn in logs, G(α) = G(α + 1) U^{1/α}, since those of a small α underflow.
    """
    log_gamma = np.log(rng.standard_gamma(alpha + 1)) + np.log1p(-rng.random(alpha.shape)) / alpha
    weights = np.exp(log_gamma - log_gamma.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
