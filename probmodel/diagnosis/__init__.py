"""Posterior (+ held-out data) → findings with a verdict (`pb.diagnosis`); what the evidence says of overfitting.

Verdict on one fit: diagnose, Diagnosis, Finding, Verdict.
Overfitting by the evidence: conditional_evidence, prequential, Prequential, Block, diagnose_ladder, Ladder.
How far the approximation is off: inference_gaps, Gaps.  Priors: prior_sensitivity, PriorSensitivity.
Recalibrated approximation: recalibrated, Recalibrated.
"""

from probmodel.diagnosis.diagnose import diagnose
from probmodel.diagnosis.experiments.conditional import conditional_evidence
from probmodel.diagnosis.experiments.gaps import Gaps, inference_gaps
from probmodel.diagnosis.experiments.ladder import Ladder, diagnose_ladder
from probmodel.diagnosis.experiments.prequential import Block, Prequential, prequential
from probmodel.diagnosis.experiments.prior_sensitivity import PriorSensitivity, prior_sensitivity
from probmodel.diagnosis.experiments.recalibrated import Recalibrated, recalibrated
from probmodel.diagnosis.findings import Diagnosis, Finding, Verdict

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
