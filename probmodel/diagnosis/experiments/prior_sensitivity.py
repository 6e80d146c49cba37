"""Prior sensitivity: if the evidence changes with the prior but the predictions do not, the prior is too wide."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from probmodel.diagnosis.experiments.conditional import difference, evidence_of, first_rows
from probmodel.diagnosis.findings import Finding, Verdict, finding
from probmodel.diagnosis.leave_one_out import leave_one_out
from probmodel.diagnosis.scored import SIGNIFICANT
from probmodel.draws.diagnostics import Loo
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator, Inference
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Posterior, Target
from probmodel.tracing.target import target_of

STRONG_ODDS = 10.0
"""Bayes factor from which evidence is strong (Jeffreys, 1961)."""
PREDICTIVE_FRACTION = 0.5
"""Fraction of the loss in log evidence that worse predictions may explain if the prior is to be the reason."""
WIDER = 0.1
"""Mean difference of log standard deviations above which a prior is wider: twice its error for one coordinate."""
SPREAD_DRAWS = 200
"""Draws of the prior from which its standard deviations are estimated."""


class PriorScore(NamedTuple):
    """Scores under one prior: the evidence, which depends on it strongly, and two predictive scores that hardly do."""

    evidence: Evidence
    conditional: Evidence
    left_out: Loo | None
    """PSIS-LOO; None if no row can be left out by importance weights."""
    spread: float
    """Mean over the unconstrained coordinates of the log standard deviation of prior draws."""


@dataclass(frozen=True)
class PriorSensitivity:
    """Comparison of several priors of one model.

    Args:
        best: label of the prior with the greatest evidence.
        scores: label → scores under that prior.
        findings: label → comparison with the best prior, flagged *prior too wide* if that is the result.
    """

    best: Hashable
    scores: Mapping[Hashable, PriorScore]
    findings: Mapping[Hashable, Finding]

    def __str__(self) -> str:
        lines = [f"{'prior':<16}{'log Z':>12}{'conditional':>13}{'elpd_loo':>11}  finding"]
        for label, score in self.scores.items():
            elpd = float("nan") if score.left_out is None else score.left_out.elpd
            said = "best" if label == self.best else self.findings[label].flag
            lines.append(
                f"{label!s:<16}{score.evidence.log_z:>12.3f}{score.conditional.log_z:>13.3f}{elpd:>11.3f}  {said}"
            )
        return "\n".join(lines)


@checks_arguments
def prior_sensitivity(
    models: Mapping[Hashable, Model],
    data: Dataset,
    num_rows: int,
    *,
    estimator: Estimator,
    inference: Inference,
    seed: int = 0,
) -> PriorSensitivity:
    """Fit one model under several priors and find those that are too wide.

    A prior is too wide if it is wider than the best one and the evidence is strongly against it (Bayes factor 10, beyond
    twice its error), while neither the conditional evidence nor PSIS-LOO falls by more than log 10 nats (or two standard
    errors) or by more than half of the loss in evidence.  Such a model does not overfit: its predictions are as good.

    Args:
        models: label → model; `{c: recalibrated(model, c) for c in (1.0, 10.0)}` makes them from one model.
        data: all rows, with `size` their number.
        num_rows: number of rows on which the conditional evidence conditions.
        estimator: estimator of the evidence.
        inference: inference that fits each model to all rows and to the first ones.
        seed: random seed of the fits and the estimates, the same for every model.

    Returns:
        PriorSensitivity: the scores under each prior and its comparison with the best one, in nats.

    Raises:
        ValueError: for fewer than two models, data without rows, a minibatch, or `num_rows` that leaves one part without
            rows.

    Reference:
        Lotfi et al. (2022), "Bayesian model selection, the marginal likelihood, and generalization", section 4.
    """
    if len(models) < 2:
        raise ValueError(
            f"expected two or more priors to compare, got {len(models)}; add a wider one with recalibrated()"
        )
    first, scores = first_rows(next(iter(models.values())), data, num_rows), {}
    for label, model in models.items():
        fit = inference(model, data, seed=seed)
        evidence = estimator(fit, seed=seed)
        part = evidence_of(model, first, estimator=estimator, inference=inference, seed=seed + 1)
        scores[label] = prior_score(fit, evidence, difference(evidence, part, num_rows))
    best = max(scores, key=lambda label: scores[label].evidence.log_z)
    return PriorSensitivity(best, scores, {label: prior_width(scores[best], score) for label, score in scores.items()})


def prior_score(posterior: Posterior, evidence: Evidence, conditional: Evidence) -> PriorScore:
    """Scores of a fit whose evidence and conditional evidence are known."""
    spread = float(prior_spread(target_of(posterior)))
    return PriorScore(evidence, conditional, leave_one_out(posterior), spread)


def prior_spread(target: Target) -> Float[Tensor, ""]:
    """Mean log standard deviation of prior draws in unconstrained coordinates."""
    return target.sample_prior(SPREAD_DRAWS, 0).std(0).log().mean()


def prior_width(best: PriorScore, other: PriorScore) -> Finding:
    """Finding on whether a prior has less evidence than the best one because it is too wide; its value is the loss in nats."""
    fall = best.evidence.log_z - other.evidence.log_z
    stderr = math.hypot(best.evidence.stderr, other.evidence.stderr)
    lost = [(best.conditional.log_z - other.conditional.log_z, _error(best.conditional, other.conditional))]
    if best.left_out is not None and other.left_out is not None:
        lost.append(_elpd_lost(best.left_out, other.left_out))
    strong = fall > max(math.log(STRONG_ODDS), SIGNIFICANT * _known(stderr))
    as_good = all(
        loss <= max(math.log(STRONG_ODDS), SIGNIFICANT * _known(error)) and loss <= PREDICTIVE_FRACTION * fall
        for loss, error in lost
    )
    too_wide = strong and as_good and other.spread > best.spread + WIDER
    names = ("conditional evidence", "elpd_loo")
    predictions = " and ".join(f"{name} {loss:+.2f}" for name, (loss, _) in zip(names, lost, strict=False))
    message = f"nats of log evidence below the best prior; the loss in predictions is {predictions}"
    return finding("prior width", fall, message, stderr=stderr, flag=Verdict.TOO_WIDE if too_wide else "")


def _elpd_lost(best: Loo, other: Loo) -> tuple[float, float]:
    """Paired difference of elpd_loo and its standard error over rows."""
    by_row = best.elpd_by_row - other.elpd_by_row
    error = (len(by_row) * by_row.var(ddof=1)) ** 0.5 if len(by_row) > 1 else float("nan")
    return float(by_row.sum()), float(error)


def _error(a: Evidence, b: Evidence) -> float:
    return math.hypot(a.stderr, b.stderr)


def _known(stderr: float) -> float:
    """The standard error, or 0 if it is unknown."""
    return 0.0 if math.isnan(stderr) else stderr
