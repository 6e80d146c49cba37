"""Models of increasing complexity ranked by evidence, which penalizes parameters that the data do not need."""

import math
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from probmodel.diagnosis.complexity import num_parameters
from probmodel.diagnosis.experiments.prior_sensitivity import STRONG_ODDS, prior_score, prior_width
from probmodel.diagnosis.findings import Verdict
from probmodel.diagnosis.rule import check_conditional, has_higher_evidence
from probmodel.evidence import best
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of


@dataclass(frozen=True)
class Ladder:
    """Models of one data set with their evidences, and a verdict on each."""

    best: Hashable
    verdicts: Mapping[Hashable, Verdict]
    evidences: Mapping[Hashable, Evidence]
    conditional: Mapping[Hashable, Evidence] = field(default_factory=dict)
    """Conditional evidences, if they were given."""

    def __str__(self) -> str:
        top = self.evidences[self.best].log_z
        lines = [f"best: {self.best}"]
        for name, verdict in self.verdicts.items():
            log_z = self.evidences[name].log_z
            later = f", conditional {self.conditional[name].log_z:.3f}" if self.conditional else ""
            lines.append(f"  {name}: log Z {log_z:.3f} ({log_z - top:+.3f}){later} {verdict}")
        return "\n".join(lines)


@checks_arguments
def diagnose_ladder(
    posteriors: Mapping[Hashable, Posterior],
    *,
    estimator: Estimator = best,
    conditional: Mapping[Hashable, Evidence] | None = None,
) -> Ladder:
    """Find the model of greatest evidence; models with more parameters and strong evidence against them overfit.

    A model overfits (underfits) if it has more (fewer) parameters than the best one and the Bayes factor against it is 10
    or more, since the evidence penalizes parameters that the data do not need.  If the best model's evidence is bounded from
    below and the other's from above, the Bayes factor is computed from these bounds; otherwise from the estimates, as it
    has to be for methods that give no bounds or only one.

    The evidence alone cannot distinguish a model that is too large from one whose prior is too wide.  With conditional
    evidences a larger model overfits only if that of the best model is higher; and a model with as many parameters or more
    has a *prior too wide* if its prior is wider and it predicts no worse, by conditional evidence and PSIS-LOO (see
    `prior_sensitivity`).

    Args:
        posteriors: name → fit, all of the same observations.
        estimator: estimator of the evidence.
        conditional: name → `conditional_evidence` of each model, all for the same rows given the same rows.

    Returns:
        Ladder: the best model, the evidences, and a verdict on each model.

    Raises:
        ValueError: for fewer than two models, evidences of different data, or conditional evidences that are missing or
            cannot be compared.

    Reference:
        MacKay (1992), "Bayesian interpolation"; Jeffreys (1961), "Theory of probability", appendix B; Lotfi et al. (2022),
        "Bayesian model selection, the marginal likelihood, and generalization".
    """
    evidences = _evidences(posteriors, estimator)
    conditional = dict(conditional or {})
    if conditional:
        _check(conditional, evidences)
    sizes = {name: num_parameters(posterior, target_of(posterior)) for name, posterior in posteriors.items()}
    top = max(evidences, key=lambda name: evidences[name].log_z)

    def too_wide(name: Hashable) -> bool:
        scores = [prior_score(posteriors[each], evidences[each], conditional[each]) for each in (top, name)]
        return prior_width(*scores).flag == Verdict.TOO_WIDE

    def verdict(name: Hashable) -> Verdict:
        if not strong(evidences[top], evidences[name]):
            return Verdict.FITS
        if sizes[name] < sizes[top]:
            return Verdict.UNDERFITS
        if conditional and too_wide(name):
            return Verdict.TOO_WIDE
        if sizes[name] == sizes[top]:
            return Verdict.FITS  # A worse model of the same size is neither too large nor too small.
        predicts_worse = not conditional or has_higher_evidence(conditional[top], conditional[name])
        return Verdict.OVERFITS if predicts_worse else Verdict.FITS

    return Ladder(top, {name: verdict(name) for name in posteriors}, evidences, conditional)


def strong(top: Evidence, other: Evidence) -> bool:
    """Return whether the Bayes factor for `top` is 10 or more.

    It is computed from the lower bound of `top` and the upper bound of `other` if both are finite, else from the estimates.
    """
    bounded = math.isfinite(top.lower) and math.isfinite(other.upper)
    lead = top.lower - other.upper if bounded else top.log_z - other.log_z
    return lead >= math.log(STRONG_ODDS)


def _evidences(posteriors: Mapping[Hashable, Posterior], estimator: Estimator) -> dict[Hashable, Evidence]:
    if len(posteriors) < 2:
        raise ValueError(f"expected two or more models to rank, got {len(posteriors)}; pass fits of several models")
    with warnings.catch_warnings():
        warnings.simplefilter("always", EvidenceWarning)
        evidences = {name: estimator(posterior) for name, posterior in posteriors.items()}
    if len({evidence.digest for evidence in evidences.values()}) > 1:
        raise ValueError("expected evidences of the same observations, got different ones; rank fits of one data set")
    given = [name for name, evidence in evidences.items() if evidence.given]
    if given:
        warn(
            f"expected full evidences, got those of {given} conditional on point estimates, which do not penalize fitting them "
            "and favor larger models; integrate the estimates with lift()",
            EvidenceWarning,
        )
    return evidences


def _check(conditional: Mapping[Hashable, Evidence], evidences: Mapping[Hashable, Evidence]) -> None:
    if set(conditional) != set(evidences):
        raise ValueError(
            f"expected a conditional evidence for each of {list(evidences)}, got {list(conditional)}; compute the others "
            "with conditional_evidence(model, data, num_rows)"
        )
    check_conditional(conditional)
    if next(iter(conditional.values())).digest != next(iter(evidences.values())).digest:
        raise ValueError(
            "expected conditional evidences of the same observations as the fits, got different ones; compute them "
            "on the data of the fits"
        )
