"""Gene regulatory networks from trajectories and steady states: linear kinetics, summed over all sets of regulators.

Between two times a gene relaxes towards the level set by its regulators, and a steady state is that level:

    x_i(t + 1) = ρ_i x_i(t) + (1 − ρ_i) [a_i + Σ_j b_ij x_j(t) + Σ_s u_is 1(series s is disturbed at t)] + ε,   ε ~ N(0, σ_i²)
    x_i = a_i' + Σ_j b_ij x_j + ε',   ε' ~ N(0, σ_i² / w_i)                                   at rest

(the form of Bonneau et al., 2006).  A row in which gene i was set by intervention carries no information about the
regulators of i.  Each regulator and each disturbance is included or not; their coefficients, the levels and σ_i² are
integrated in closed form, and persistence ρ_i, relative precision w_i and prior variance of the coefficients over a
grid.  Each gene has its own sum, so that feedback is allowed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln, logsumexp

from probmodel.protocols.arguments.checks import checks_arguments, checks_fields
from probmodel.protocols.integers import integer

PERSISTENCE = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Grid of ρ: from a gene that forgets its level between two times to one that hardly changes."""
STEADY_PRECISIONS = (0.1, 0.3, 1.0, 3.0)
"""Grid of w: a steady state may follow the kinetics less or more closely than a step of a trajectory does."""
VARIANCE_SHAPE, VARIANCE_RATE = 0.5, 0.05
"""Shape and rate of the inverse gamma prior of σ², in units of each gene's variance: one row of noise variance 0.1."""
COEFFICIENT_VARIANCE = (1.0, 10.0, 100.0)
"""Grid of the prior variance of b and u, in units of σ²: from effects of the size of the noise to ten times that."""
LEVEL_VARIANCE = 100.0
"""Prior variance of the levels a, in units of σ²: vague for standardized genes."""


class Trajectories(NamedTuple):
    """Time series of gene levels at equally spaced times.

    Args:
        x: (series, time, gene) levels.
        disturbed: (series, time) true where an unknown input acts on unknown genes.
    """

    x: Float[np.ndarray, "S T n"]
    disturbed: Bool[np.ndarray, "S T"]


class SteadyStates(NamedTuple):
    """Gene levels in steady states.

    Args:
        x: (row, gene) levels.
        set_gene: for each row the column of the gene that was set by intervention (knocked out or down), or None.
    """

    x: Float[np.ndarray, "M n"]
    set_gene: Sequence[int | None]


class KineticPosterior(NamedTuple):
    """Posterior of the regulators given trajectories and steady states.

    Args:
        edges: (n, n) probability that gene i regulates gene j.
        inputs: (series, n) probability that the disturbance of a series acts on gene j.
        persistence: (n,) posterior mean of ρ.
        log_evidence: log density of all standardized levels, given those at the previous time (trajectories) or of the
            other genes (steady states), summed over genes, in nats.
    """

    edges: Float[np.ndarray, "n n"]
    inputs: Float[np.ndarray, "S n"]
    persistence: Float[np.ndarray, " n"]
    log_evidence: float


@checks_fields
@dataclass(frozen=True)
class LinearKinetics:
    """Exact posterior of regulators under linear kinetics.

    Args:
        num_regulators: prior expected number of regulators per gene: each other gene is one with probability
            num_regulators / (n − 1).
        input_fraction: prior probability that the disturbance of a series acts on a gene.
        max_terms: largest number of regulators and inputs per gene, counted together.
    """

    num_regulators: float = 1.5
    input_fraction: float = 1 / 3
    max_terms: int = 5

    @checks_arguments
    def __call__(self, trajectories: Trajectories, steady: SteadyStates) -> KineticPosterior:
        """Sum over the sets of regulators of every gene.

        Args:
            trajectories: time series.
            steady: steady states of the same genes.

        Raises:
            ValueError: if shapes do not match, levels are not finite, a gene is constant, a set gene does not exist, or
                settings are out of range.
        """
        _check(trajectories, steady)
        series, _, n = trajectories.x.shape
        self._check_priors(n)
        rows = _standardized(trajectories, steady)
        edges, inputs, persistence, log_evidence = np.zeros((n, n)), np.zeros((series, n)), np.zeros(n), 0.0
        for gene in range(n):
            found = self._of_gene(rows, gene)
            others = [i for i in range(n) if i != gene]
            edges[others, gene], inputs[:, gene] = found.inclusion[: n - 1], found.inclusion[n - 1 :]
            persistence[gene] = found.persistence
            log_evidence += found.log_evidence
        return KineticPosterior(edges, inputs, persistence, log_evidence)

    def _check_priors(self, num_genes: int) -> None:
        integer("max_terms", self.max_terms, least=0)
        if not 0 < self.num_regulators < num_genes - 1:
            raise ValueError(
                f"expected num_regulators between 0 and the {num_genes - 1} other genes, both excluded, got "
                f"{self.num_regulators}; pass the prior expected number, such as {0.5 * (num_genes - 1):g}"
            )
        if not 0 < self.input_fraction < 1:
            raise ValueError(
                f"expected input_fraction between 0 and 1, both excluded, got {self.input_fraction}; 1/3 is usual"
            )

    def _of_gene(self, rows: "_StandardizedLevels", gene: int) -> "_GenePosterior":
        """Posterior of one gene, averaged over the grid with each point weighted by its evidence."""
        n, series = rows.steady.shape[1], rows.disturbed.shape[1]
        prior_probability = np.r_[np.full(n - 1, self.num_regulators / (n - 1)), np.full(series, self.input_fraction)]
        log_odds = np.log(prior_probability) - np.log1p(-prior_probability)
        sets = [_sets(len(prior_probability), size) for size in range(min(self.max_terms, len(prior_probability)) + 1)]
        prior = [log_odds[members].sum(1) for members in sets]
        found = [
            _sum_over_sets(regression, variance, len(prior_probability), sets, prior)._replace(persistence=rho)
            for rho, precision in product(PERSISTENCE, STEADY_PRECISIONS)
            for regression in [_regression(rows, gene, rho, precision)]
            for variance in COEFFICIENT_VARIANCE
        ]
        log_z = np.array([each.log_evidence for each in found])
        weight = np.exp(log_z - logsumexp(log_z))
        return _GenePosterior(
            weight @ np.stack([each.inclusion for each in found]),
            float(weight @ np.array([each.persistence for each in found])),
            float(logsumexp(log_z) - logsumexp(np.concatenate(prior))) - math.log(len(found)),
        )


class _GenePosterior(NamedTuple):
    inclusion: Float[np.ndarray, " p"]
    persistence: float
    log_evidence: float


class _StandardizedLevels(NamedTuple):
    """Standardized levels: in steady states, and before and after each step of the trajectories."""

    steady: Float[np.ndarray, "M n"]
    set_gene: np.ndarray
    before: Float[np.ndarray, "R n"]
    after: Float[np.ndarray, "R n"]
    disturbed: Float[np.ndarray, "R S"]


class _Regression(NamedTuple):
    """Weighted moments of one gene's regression, with its levels integrated out."""

    gram: Float[np.ndarray, "p p"]
    cross: Float[np.ndarray, " p"]
    square: float
    num_rows: int
    offset: float
    """Terms of the log density that do not depend on the set of regulators, in nats."""

    def log_evidence(self, members: Int[np.ndarray, "K k"], variance: float) -> Float[np.ndarray, " K"]:
        """Log evidence of each set of regulators, a multivariate Student-t density, in nats."""
        sets, size = members.shape
        explained, log_det = np.zeros(sets), np.zeros(sets)
        if size:
            precision = self.gram[members[:, :, None], members[:, None, :]] + np.eye(size) / variance
            cross = self.cross[members]
            explained = (np.linalg.solve(precision, cross[..., None])[..., 0] * cross).sum(1)
            log_det = np.linalg.slogdet(precision)[1] + size * math.log(variance)
        shape = VARIANCE_SHAPE + 0.5 * self.num_rows
        return self.offset - 0.5 * log_det - shape * np.log(VARIANCE_RATE + 0.5 * (self.square - explained))


def _sum_over_sets(
    regression: _Regression,
    variance: float,
    num_terms: int,
    sets: Sequence[np.ndarray],
    prior: Sequence[np.ndarray],
) -> _GenePosterior:
    """Sum over all sets of regulators and inputs, weighted by prior odds, and the inclusion probability of each."""
    joint = [regression.log_evidence(members, variance) + odds for members, odds in zip(sets, prior, strict=True)]
    total = float(logsumexp(np.concatenate(joint)))
    inclusion = np.zeros(num_terms)
    for members, each in zip(sets, joint, strict=True):
        np.add.at(inclusion, members, np.exp(each - total)[:, None])
    return _GenePosterior(inclusion, math.nan, total)


def _regression(rows: _StandardizedLevels, gene: int, rho: float, precision: float) -> _Regression:
    """Regression of one gene at a given persistence and relative precision of the steady states."""
    kept = np.array([each != gene for each in rows.set_gene], dtype=bool)
    others = np.arange(rows.steady.shape[1]) != gene
    at_rest, num_steps = rows.steady[kept], len(rows.before)
    x = np.zeros((len(at_rest) + num_steps, others.sum() + rows.disturbed.shape[1]))
    x[: len(at_rest), : others.sum()] = at_rest[:, others]
    x[len(at_rest) :] = np.hstack([rows.before[:, others], rows.disturbed])
    y = np.r_[at_rest[:, gene], (rows.after[:, gene] - rho * rows.before[:, gene]) / (1 - rho)]
    # Dividing by 1 − ρ, so that the level is regressed, scales the noise of a step to σ / (1 − ρ).
    root = np.r_[np.full(len(at_rest), math.sqrt(precision)), np.full(num_steps, 1 - rho)]
    is_step = np.arange(len(y)) >= len(at_rest)
    levels = np.stack([~is_step, is_step], 1) * root[:, None]
    x, y = x * root[:, None], y * root
    held = levels.T @ levels + np.eye(2) / LEVEL_VARIANCE
    x_levels, y_levels = levels.T @ x, levels.T @ y
    log_det = float(np.linalg.slogdet(held)[1]) + 2 * math.log(LEVEL_VARIANCE)
    # The Jacobian of the weights and that of dividing by 1 − ρ cancel for the steps.
    offset = (
        float(gammaln(VARIANCE_SHAPE + 0.5 * len(y)) - gammaln(VARIANCE_SHAPE))
        + VARIANCE_SHAPE * math.log(VARIANCE_RATE)
        - 0.5 * len(y) * math.log(2 * math.pi)
        + 0.5 * len(at_rest) * math.log(precision)
        - 0.5 * log_det
    )
    return _Regression(
        x.T @ x - x_levels.T @ np.linalg.solve(held, x_levels),
        x.T @ y - x_levels.T @ np.linalg.solve(held, y_levels),
        float(y @ y - y_levels @ np.linalg.solve(held, y_levels)),
        len(y),
        offset,
    )


def _sets(p: int, size: int) -> Int[np.ndarray, "K k"]:
    """All sets of `size` out of p terms, one per row."""
    return np.array(list(combinations(range(p), size)), dtype=np.int64).reshape(math.comb(p, size), size)


def _standardized(trajectories: Trajectories, steady: SteadyStates) -> _StandardizedLevels:
    x = trajectories.x
    series, times, n = x.shape
    every = np.concatenate([steady.x, x.reshape(-1, n)])
    mean, deviation = every.mean(0), every.std(0)
    x = (x - mean) / deviation
    disturbed = trajectories.disturbed[:, :-1, None] * np.eye(series)[:, None]
    return _StandardizedLevels(
        (steady.x - mean) / deviation,
        np.array([-1 if gene is None else gene for gene in steady.set_gene]),
        x[:, :-1].reshape(-1, n),
        x[:, 1:].reshape(-1, n),
        disturbed.reshape(series * (times - 1), series),
    )


def _check(trajectories: Trajectories, steady: SteadyStates) -> None:
    x, n = trajectories.x, steady.x.shape[-1]
    if x.ndim != 3 or steady.x.ndim != 2 or x.shape[2] != n or n < 2 or x.shape[1] < 2 or len(x) + len(steady.x) == 0:
        raise ValueError(
            "expected trajectories (series, time ≥ 2, gene) and steady states (row, gene) of the same two genes or more, "
            f"got {x.shape} and {steady.x.shape}; give both one column per gene"
        )
    if trajectories.disturbed.shape != x.shape[:2] or len(steady.set_gene) != len(steady.x):
        raise ValueError(
            f"expected disturbed of shape {x.shape[:2]} and {len(steady.x)} entries of set_gene, got "
            f"{trajectories.disturbed.shape} and {len(steady.set_gene)}; pass None where no gene was set"
        )
    every = np.concatenate([steady.x, x.reshape(-1, n)])
    if not np.isfinite(every).all():
        raise ValueError(
            f"expected finite levels, got {int((~np.isfinite(every)).sum())} that are not; drop those rows"
        )
    constant = np.flatnonzero(every.std(0) == 0).tolist()
    if constant:
        raise ValueError(f"expected genes that vary, got constant columns {constant}; drop them")
    named = [gene for gene in steady.set_gene if isinstance(gene, str)]
    if named:
        raise ValueError(f"expected genes set as column indices, got {named[:3]}; pass names.index(gene)")
    unknown = sorted({gene for gene in steady.set_gene if gene is not None and not 0 <= gene < n})
    if unknown:
        raise ValueError(f"expected genes set among 0 … {n - 1}, got {unknown}; pass their column indices")
