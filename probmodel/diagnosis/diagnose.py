"""One verdict from all checks, for a fit and for a ladder of models of growing complexity."""

import math
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from probmodel.diagnosis.complexity import complexity, num_parameters
from probmodel.diagnosis.convergence import convergence
from probmodel.diagnosis.findings import Diagnosis, Finding, Verdict, finding
from probmodel.diagnosis.overfitting import overfitting
from probmodel.evidence import EvidenceWarning, best
from probmodel.predict import check_columns
from probmodel.protocols import Dataset, Estimator, Evidence, Posterior
from probmodel.target import check, target_of

STRONG_ODDS = 10.0
"""Bayes factor from which evidence is strong (Jeffreys, 1961)."""


def diagnose(posterior: Posterior, held_out: Dataset | None = None, *, evidence: Evidence | None = None) -> Diagnosis:
    """Whether a fit converged, how complex it is, and whether it over- or underfits.

    Args:
        posterior: from any inference.
        held_out: rows the fit has not seen; needed where there are no latents whose draws could leave rows out.
        evidence: if already estimated, shown among the findings and spares its k-hat a second computation.

    Returns:
        Diagnosis: a verdict, *inference failed* before *overfits* before *underfits* before *fits*, and the findings.

    Raises:
        ValueError: for held-out rows with other columns, too few of them, or none where they are needed.
    """
    if held_out is not None:
        check_columns(posterior, held_out)
        check(posterior.model, held_out)
    found = [*convergence(posterior, evidence), *complexity(posterior), *_evidence(posterior, evidence)]
    found += overfitting(posterior, held_out)
    flags = {each.flag for each in found}
    order = (Verdict.FAILED, Verdict.OVERFITS, Verdict.UNDERFITS)
    return Diagnosis(next((verdict for verdict in order if verdict in flags), Verdict.FITS), tuple(found))


def _evidence(posterior: Posterior, evidence: Evidence | None) -> list[Finding]:
    if evidence is None:
        return []
    given = f", given {len(evidence.given)} point-estimated tensors" if evidence.given else ""
    message = f"log marginal likelihood by {evidence.method}, nats{given}"
    return [finding("log evidence", evidence.log_z, message, stderr=evidence.stderr)]


@dataclass(frozen=True)
class Ladder:
    """Models of one data set ranked by evidence."""

    best: Hashable
    verdicts: Mapping[Hashable, Verdict]
    evidences: Mapping[Hashable, Evidence]

    def __str__(self) -> str:
        top = self.evidences[self.best].log_z
        lines = [f"best: {self.best}"]
        for name, verdict in self.verdicts.items():
            lines.append(
                f"  {name}: log Z {self.evidences[name].log_z:.3f} ({self.evidences[name].log_z - top:+.3f}) {verdict}"
            )
        return "\n".join(lines)


def diagnose_ladder(posteriors: Mapping[Hashable, Posterior], *, estimator: Estimator = best) -> Ladder:
    """Name the model of greatest evidence; those with more parameters and strong evidence against them overfit.

    A model overfits (underfits) if it has more (fewer) parameters than the best one and the Bayes factor against it is 10
    or more: the evidence pays for parameters that the data do not need.

    Args:
        posteriors: name → fit, all of the same observations.
        estimator: of the evidence.

    Raises:
        ValueError: for fewer than two models or evidences of different data.

    Reference:
        MacKay (1992), "Bayesian interpolation"; Jeffreys (1961), "Theory of probability", appendix B.
    """
    if len(posteriors) < 2:
        raise ValueError(f"expected two or more models to rank, got {len(posteriors)}")
    with warnings.catch_warnings():
        warnings.simplefilter("always", EvidenceWarning)
        evidences = {name: estimator(posterior) for name, posterior in posteriors.items()}
    if len({evidence.digest for evidence in evidences.values()}) > 1:
        raise ValueError("expected evidences of the same observations, got different ones; rank fits of one data set")
    given = [name for name, evidence in evidences.items() if evidence.given]
    if given:
        warnings.warn(
            f"the evidence of {given} is conditional on point estimates and does not pay for fitting them, so that larger "
            "models look better than they are; lift() integrates them",
            EvidenceWarning,
            stacklevel=2,
        )
    sizes = {name: num_parameters(posterior, target_of(posterior)) for name, posterior in posteriors.items()}
    top = max(evidences, key=lambda name: evidences[name].log_z)

    def verdict(name: Hashable) -> Verdict:
        if evidences[top].log_z - evidences[name].log_z < math.log(STRONG_ODDS):
            return Verdict.FITS
        if sizes[name] == sizes[top]:
            return Verdict.FITS  # Another model of the same size: worse, but neither too large nor too small.
        return Verdict.OVERFITS if sizes[name] > sizes[top] else Verdict.UNDERFITS

    return Ladder(top, {name: verdict(name) for name in posteriors}, evidences)
