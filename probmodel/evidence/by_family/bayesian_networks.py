"""Exact evidence of the class of all Bayesian networks of some variables (Koivisto & Sood, 2004; Tian & He, 2009).

log Z = log Σ_G p(G) p(data | G), where p(data | G) is the product of the evidences of G's families.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probmodel.families.bayesian_networks.categorical_data import CategoricalData
from probmodel.families.bayesian_networks.dag import refuse_duplicates
from probmodel.families.bayesian_networks.scores.all_families import FamilyScores, family_scores, gaussian_family_scores
from probmodel.families.bayesian_networks.scores.categorical_scores import (
    BDeu,
    CategoricalScore,
    aic,
    bic,
    log_likelihood,
    observed_rows,
)
from probmodel.families.bayesian_networks.scores.gaussian_scores import (
    BGe,
    GaussianScore,
    gaussian_bic,
    gaussian_log_likelihood,
    moments,
)
from probmodel.families.bayesian_networks.structure.exact_posterior import GraphPosterior
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import digest, joined_with_mask
from probmodel.protocols.evidence import Evidence

StructurePrior = Callable[[FamilyScores], GraphPosterior]
"""Function that sums scores of families over graphs under a prior: `posterior_over_orders` or `posterior_over_dags`."""


@checks_arguments
def structures(
    data: CategoricalData,
    prior: StructurePrior,
    term: CategoricalScore | None = None,
    intervened: Sequence[str | None] = (),
    max_parents: int | None = None,
) -> Evidence:
    """Exact log evidence of the class of all graphs of categorical variables, in nats.

    It is comparable with the evidence of any model of the same rows and interventions.

    Args:
        data: categorical data.
        prior: prior over graphs, `posterior_over_orders` or `posterior_over_dags`.
        term: evidence of a family, `BDeu`, `BDs` or `k2`; None for BDeu with a sample size of one row.
        intervened: per row the variable set by intervention, or None, as in `score`; values set by intervention are
            given and not part of the evidence.
        max_parents: largest number of parents of a family; None for the class of all graphs.

    Raises:
        MemoryError: if the families do not fit in memory.
        ValueError: if `term` is not an evidence, or `prior` raises it.
    """
    chosen = BDeu() if term is None else term
    _refuse_criteria(chosen in (log_likelihood, aic, bic), "BDeu, BDs or k2")
    kept = observed_rows(data, intervened)
    columns = [_observed_column(torch.as_tensor(column), own) for column, own in zip(data.codes.T, kept, strict=True)]
    found = prior(family_scores(data, chosen, intervened, max_parents))
    return _evidence(found, chosen, data.names, columns, max_parents, tuple(sorted({x for x in intervened if x})))


@checks_arguments
def gaussian_structures(
    x: Float[np.ndarray, "N n"],
    names: Sequence[str],
    prior: StructurePrior,
    term: GaussianScore | None = None,
    max_parents: int | None = None,
) -> Evidence:
    """Exact log evidence of the class of all graphs of linear Gaussian variables, in nats.

    It is comparable with the evidence of any model of the same rows.

    Args:
        x: data, one variable per column.
        names: names of the columns.
        prior: prior over graphs, `posterior_over_orders` or `posterior_over_dags`.
        term: evidence of a family; None for BGe with its defaults.
        max_parents: largest number of parents of a family; None for the class of all graphs.

    Raises:
        MemoryError: if the families do not fit in memory.
        ValueError: if `term` is not an evidence, names and columns are of unequal number, a value is not finite, or
            `prior` raises it.
    """
    chosen = BGe() if term is None else term
    _refuse_criteria(chosen in (gaussian_bic, gaussian_log_likelihood), "BGe")
    if len(names) != x.shape[1]:
        raise ValueError(f"expected {x.shape[1]} names, got {len(names)}; name each column")
    refuse_duplicates(list(names))
    found = prior(gaussian_family_scores(moments(x), chosen, max_parents))
    return _evidence(found, chosen, tuple(names), [torch.as_tensor(column) for column in x.T], max_parents, ())


def _observed_column(column: Int[Tensor, " N"], kept: Int[np.ndarray, " M"] | None) -> Tensor:
    """Column with the rows in which it was not set by intervention."""
    return (
        column
        if kept is None
        else joined_with_mask(column, torch.isin(torch.arange(len(column)), torch.as_tensor(kept)))
    )


def _refuse_criteria(criterion: bool, instead: str) -> None:
    if criterion:
        raise ValueError(f"expected the evidence of a family, got a criterion that only penalizes; pass {instead}")


def _evidence(
    found: GraphPosterior,
    term: object,
    names: tuple[str, ...],
    columns: list[Tensor],
    max_parents: int | None,
    interventions: tuple[str, ...],
) -> Evidence:
    limit = "" if max_parents is None else f" of at most {max_parents} parents"
    info = {
        "names": list(names),
        "edges": found.edges.tolist(),
        "term": str(term),
        "prior": found.prior,
        "max_parents": max_parents,
        "interventions": list(interventions),
    }
    return Evidence(
        found.log_evidence,
        0.0,
        lower=found.log_evidence,
        upper=found.log_evidence,
        level=1.0,
        method=f"structures, {found.prior}{limit}",
        digest=digest(columns),
        info=info,
        certified="both sides, summed over all graphs",
    )
