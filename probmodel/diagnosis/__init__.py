"""Posterior (+ held-out data) → findings with a verdict."""

from probmodel.diagnosis.diagnose import Ladder, diagnose, diagnose_ladder
from probmodel.diagnosis.findings import Diagnosis, Finding, Verdict

__all__ = ["Diagnosis", "Finding", "Ladder", "Verdict", "diagnose", "diagnose_ladder"]
