"""Consistency of the evidence: its estimators have to agree and its bounds must not cross, or inference has failed."""

import math

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.evidence.weighing.agreement import DISAGREEMENT
from probmodel.protocols.evidence import Evidence

AGREEMENT_ROUNDING = 1e-9
"""Relative amount by which a lower bound may exceed an upper one through float64 rounding errors alone."""


def evidence_findings(evidence: Evidence | None) -> list[Finding]:
    """Findings on the evidence, its bounds, the agreement of its estimators, and the estimates that were refused.

    They are flagged *inference failed* if the estimators disagree or the bounds cross.
    """
    if evidence is None:
        return []
    given = f", given {len(evidence.given)} point-estimated tensors" if evidence.given else ""
    message = f"log marginal likelihood by {evidence.method}, nats{given}"
    found = [finding("log evidence", evidence.log_z, message, stderr=evidence.stderr)]
    return [*found, *_bounds(evidence), *_agreement(evidence), *_left_out(evidence), *_refused(evidence)]


def _bounds(evidence: Evidence) -> list[Finding]:
    width = evidence.upper - evidence.lower
    if not math.isfinite(width) and not evidence.lower > evidence.upper:
        return []
    crossed = width < -AGREEMENT_ROUNDING * max(1.0, abs(evidence.log_z))
    message = (
        "the lower bound is above the upper bound" if crossed else f"nats between the bounds at {evidence.level:.0%}"
    )
    return [finding("evidence bounds", width, message, flag=Verdict.FAILED if crossed else "")]


def _agreement(evidence: Evidence) -> list[Finding]:
    p_value = evidence.agreement.p_value
    if math.isnan(p_value):
        return []
    failed = p_value < DISAGREEMENT
    compared = [each.method for each in evidence.agreement if not each.caveat]
    message = f"p-value of the hypothesis that {', '.join(compared)} estimate the same number" + (
        ": rejected" if failed else ""
    )
    return [finding("agreement", p_value, message, flag=Verdict.FAILED if failed else "")]


def _left_out(evidence: Evidence) -> list[Finding]:
    """Errors of the estimates that take no part in the comparison, such as WBIC (Watanabe, 2013) and BIC."""
    return [
        finding(f"{each.method} error", each.log_z - evidence.log_z, f"nats above log evidence; {each.caveat}")
        for each in evidence.agreement
        if each.caveat
    ]


def _refused(evidence: Evidence) -> list[Finding]:
    failed = tuple(evidence.info.get("failed", ()))
    if not failed:
        return []
    return [finding("refused estimates", len(failed), "; ".join(failed), flag=CAUTION)]
