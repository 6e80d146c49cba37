"""Scores of all families of up to about twenty variables, by bit mask of the parents.

Bit i of a mask states that variable i is in the set.  The evidence of a family under Dirichlet priors is a ratio of the
evidences of two sets, so that 2ⁿ sets of counts give all n 2ⁿ⁻¹ families.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import gammaln, xlogy

from probmodel.families.bayesian_networks.categorical_data import CategoricalData, compact_labels, counts
from probmodel.families.bayesian_networks.scores.categorical_scores import (
    BDeu,
    CategoricalScore,
    aic,
    bic,
    k2,
    log_likelihood,
    observed_rows,
)
from probmodel.families.bayesian_networks.scores.gaussian_scores import BGe, GaussianScore, Moments, moments_by_child
from probmodel.protocols.arguments.checks import checks_arguments, unchecked
from probmodel.protocols.integers import integer
from probmodel.protocols.memory import refuse_above_memory

FamilyScores = Float[np.ndarray, "n M"]
"""Score in nats by child and bit mask of its parents, M = 2ⁿ; −∞ where the child is among the parents."""

CPU = torch.device("cpu")
SETS_AT_ONCE = 2**14
"""Number of determinants computed in one call."""


@checks_arguments
def family_scores(
    data: CategoricalData, term: CategoricalScore, intervened: Sequence[str | None] = (), max_parents: int | None = None
) -> FamilyScores:
    """Scores of all families of categorical variables, in nats.

    Args:
        data: rows.
        term: score of a family; BDeu, K2, log likelihood, AIC and BIC need 2ⁿ counts without interventions, others
            n 2ⁿ⁻¹.
        intervened: as in `score`.
        max_parents: largest number of parents of a family; larger families get −∞.

    Raises:
        MemoryError: if n 2ⁿ numbers do not fit in memory.
        ValueError: if values are missing, codes are out of range, interventions do not match the rows, or max_parents
            is negative.
    """
    n = len(data.names)
    check_max_parents(max_parents)
    refuse_too_many(n)
    kept = observed_rows(data, intervened)
    by_sets = _by_sets(data, term) if all(rows is None for rows in kept) else None
    if by_sets is None:
        by_sets, term = np.full((n, 2**n), -np.inf), unchecked(term)
        for child in range(n):
            for mask, parents in sets_without(child, n, max_parents):
                by_sets[child, mask] = term(counts(data, child, parents, kept[child]))
    return _limited(by_sets, max_parents)


@checks_arguments
def gaussian_family_scores(
    given: Moments | Sequence[Moments], term: GaussianScore, max_parents: int | None = None
) -> FamilyScores:
    """Scores of all families of linear Gaussian variables, in nats.

    Args:
        given: moments of all rows; with interventions, one entry per variable: the moments of the rows in which it was
            not set.
        term: score of a family; BGe needs 2ⁿ determinants without interventions.
        max_parents: largest number of parents of a family; larger families get −∞.

    Raises:
        MemoryError: if n 2ⁿ numbers do not fit in memory.
        ValueError: if max_parents is not an integer of 0 or more.
    """
    by_child = moments_by_child(given)
    n = len(by_child)
    check_max_parents(max_parents)
    refuse_too_many(n)
    found = np.full((n, 2**n), -np.inf)
    of_sets = log_evidence_of_sets(given, term) if isinstance(given, Moments) and isinstance(term, BGe) else None
    scored = unchecked(term)
    for child, own in enumerate(by_child):
        if of_sets is not None:
            masks = masks_without(child, n)
            found[child, masks] = of_sets[masks | 1 << child] - of_sets[masks]
        else:
            for mask, parents in sets_without(child, n, max_parents):
                found[child, mask] = scored(own, child, parents)
    return _limited(found, max_parents)


def check_families(families: FamilyScores) -> None:
    """Raise ValueError unless there is a score, which may be −∞ and not NaN, for each variable and set of variables."""
    n = len(families)
    if n == 0 or families.shape != (n, 2**n):
        raise ValueError(
            f"expected scores of shape (n, 2ⁿ), one for each variable and set of variables, got {families.shape}; take them "
            "from family_scores or gaussian_family_scores"
        )
    if np.isnan(families).any():
        raise ValueError("expected scores that are numbers, got NaN; check the score's settings and the data")


def check_max_parents(most: int | None) -> None:
    """Raise ValueError unless the limit is None or an integer of 0 or more."""
    if most is not None:
        integer("max_parents", most, least=0)


def refuse_too_many(n: int) -> None:
    """Raise MemoryError if the scores of all families do not fit in memory."""
    refuse_above_memory(
        4 * n * 2**n * 8,
        CPU,
        f"the families of {n} variables",
        "take OrderSearch, and OrderMCMC or PartitionMCMC on the candidates it finds (max_parents saves time, no memory)",
    )


def masks_without(child: int, n: int) -> Int[np.ndarray, " H"]:
    """Bit masks of all sets that do not contain the child."""
    masks = np.arange(2**n)
    return masks[masks >> child & 1 == 0]


def sets_without(child: int, n: int, most: int | None) -> Iterator[tuple[int, list[int]]]:
    """Yield (mask, members) of the sets that do not contain the child, small ones first."""
    others = [i for i in range(n) if i != child]
    for size in range(n if most is None else min(most, n - 1) + 1):
        for chosen in combinations(others, size):
            yield sum(1 << i for i in chosen), list(chosen)


def masks_of_most(n: int, most: int) -> Int[np.ndarray, " K"]:
    """Bit masks of all sets of at most `most` members."""
    masks = np.arange(2**n)
    return masks[np.bitwise_count(masks) <= most]


def _limited(found: FamilyScores, max_parents: int | None) -> FamilyScores:
    if max_parents is not None:
        found[:, np.bitwise_count(np.arange(found.shape[1])) > max_parents] = -np.inf
    return found


# ------------------------------------------------------------------------------------------ categorical


SetTerm = Callable[[Float[np.ndarray, " J"], float], float]
"""Function, in nats, of the counts of a set's combinations that occur and of the number of possible combinations."""


def _by_sets(data: CategoricalData, term: CategoricalScore) -> FamilyScores | None:
    """Scores of all families by differences of sets; None for a score that is no such difference."""
    sizes = np.array(data.cardinalities, dtype=float)
    n = len(sizes)
    cells = np.ones(2**n)
    for i, size in enumerate(sizes):
        cells[1 << i : 1 << (i + 1)] = cells[: 1 << i] * size
    found = np.full((n, 2**n), -np.inf)

    def differences(joint: Float[np.ndarray, " M"], marginal: Float[np.ndarray, " M"], children: Sequence[int]) -> None:
        for child in children:
            masks = masks_without(child, n)
            found[child, masks] = joint[masks | 1 << child] - marginal[masks]

    criteria = ((log_likelihood, 0.0), (aic, 1.0), (bic, 0.5 * np.log(max(len(data.codes), 1))))
    price = next((nats for known, nats in criteria if term is known), None)
    if price is not None:
        (likelihood,) = _terms_of_all_sets(data, [lambda counted, _: float(xlogy(counted, counted).sum())])
        differences(likelihood, likelihood, range(n))
        for child in range(n):
            found[child] -= price * (sizes[child] - 1) * cells
        return found
    if isinstance(term, BDeu):
        (evidence,) = _terms_of_all_sets(data, [_polya_term(lambda possible: term.sample_size / possible)])
        differences(evidence, evidence, range(n))
        return found
    if term is k2:
        widths = sorted(set(sizes))
        joint, *marginals = _terms_of_all_sets(data, [_polya_term(_constant(alpha)) for alpha in (1.0, *widths)])
        for width, marginal in zip(widths, marginals, strict=True):
            differences(joint, marginal, [i for i in range(n) if sizes[i] == width])
        return found
    return None


def _polya_term(alpha: Callable[[float], float]) -> SetTerm:
    """Term Σ log Γ(α + N) − log Γ(α) of a set, to which combinations that never occur contribute nothing."""

    def term(counted: Float[np.ndarray, " J"], possible: float) -> float:
        a = alpha(possible)
        return float(gammaln(a + counted).sum() - len(counted) * gammaln(a))

    return term


def _constant(alpha: float) -> Callable[[float], float]:
    return lambda possible: alpha


def _terms_of_all_sets(data: CategoricalData, terms: Sequence[SetTerm]) -> list[Float[np.ndarray, " M"]]:
    """Each term for every set; combinations are refined by one variable at a time, over distinct rows with weights."""
    rows, times = np.unique(data.codes, axis=0, return_counts=True)
    sizes, weights = data.cardinalities, times.astype(float)
    found = [np.zeros(2 ** len(sizes)) for _ in terms]

    def visit(mask: int, first: int, label: Int[np.ndarray, " R"], used: int, possible: float) -> None:
        counted = np.bincount(label, weights, minlength=used)
        for values, term in zip(found, terms, strict=True):
            values[mask] = term(counted, possible)
        for i in range(first, len(sizes)):
            finer = compact_labels(label * sizes[i] + rows[:, i], used * sizes[i])
            visit(mask | 1 << i, i + 1, *finer, possible * sizes[i])

    visit(0, 0, np.zeros(len(rows), dtype=np.int64), 1, 1.0)
    return found


# ------------------------------------------------------------------------------------------ Gaussian


def log_evidence_of_sets(given: Moments, term: BGe) -> Float[np.ndarray, " M"]:
    """Log evidence of every set of variables alone, in nats; that of a family is the difference of two."""
    n = len(given.mean)
    r = term.scale * np.eye(n) + given.scatter
    masks = np.arange(2**n)
    size = np.bitwise_count(masks)
    found = np.zeros(2**n)
    for l in range(1, n + 1):
        for some in np.array_split(masks[size == l], max(1, int((size == l).sum()) // SETS_AT_ONCE)):
            members = np.nonzero(some[:, None] >> np.arange(n) & 1)[1].reshape(len(some), l)
            log_det = np.linalg.slogdet(r[members[:, :, None], members[:, None, :]])[1]
            found[some] = term.from_log_det(given.num_rows, l, log_det)
    return found
