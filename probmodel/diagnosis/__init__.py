"""Checks of a fitted model: findings, a verdict, and tests of overfitting by the evidence (`pb.diagnosis`).

Verdict on one fit: diagnose, Diagnosis, Finding, Verdict.
Overfitting judged by the evidence: conditional_evidence, prequential, Prequential, Block, diagnose_ladder, Ladder.
Error of a variational approximation: inference_gaps, Gaps.
Sensitivity to the prior: prior_sensitivity, PriorSensitivity; recalibrated, Recalibrated multiply the prior scales.
"""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.diagnosis.diagnose import diagnose
    from probmodel.diagnosis.experiments.conditional import conditional_evidence
    from probmodel.diagnosis.experiments.gaps import Gaps, inference_gaps
    from probmodel.diagnosis.experiments.ladder import Ladder, diagnose_ladder
    from probmodel.diagnosis.experiments.prequential import Block, Prequential, prequential
    from probmodel.diagnosis.experiments.prior_sensitivity import PriorSensitivity, prior_sensitivity
    from probmodel.diagnosis.experiments.recalibrated import Recalibrated, recalibrated
    from probmodel.diagnosis.findings import Diagnosis, Finding, Verdict

on_first_use(__name__)

__all__ = [
    "Block",
    "Diagnosis",
    "Finding",
    "Gaps",
    "Ladder",
    "Prequential",
    "PriorSensitivity",
    "Verdict",
    "Recalibrated",
    "conditional_evidence",
    "diagnose",
    "diagnose_ladder",
    "inference_gaps",
    "prequential",
    "prior_sensitivity",
    "recalibrated",
]
