"""Posterior (+ held-out data) → findings with a verdict; what the evidence says of overfitting."""

from probmodel.diagnosis.conditional import conditional_evidence
from probmodel.diagnosis.diagnose import diagnose
from probmodel.diagnosis.findings import Diagnosis, Finding, Verdict
from probmodel.diagnosis.gaps import Gaps, inference_gaps
from probmodel.diagnosis.ladder import Ladder, diagnose_ladder
from probmodel.diagnosis.prequential import Block, Prequential, prequential
from probmodel.diagnosis.prior_sensitivity import PriorSensitivity, prior_sensitivity
from probmodel.diagnosis.widened import Widened, widened

__all__ = [
    "Block",
    "Diagnosis",
    "Finding",
    "Gaps",
    "Ladder",
    "Prequential",
    "PriorSensitivity",
    "Verdict",
    "Widened",
    "conditional_evidence",
    "diagnose",
    "diagnose_ladder",
    "inference_gaps",
    "prequential",
    "prior_sensitivity",
    "widened",
]
