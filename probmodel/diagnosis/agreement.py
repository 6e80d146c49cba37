"""Trust in the evidence: its estimators have to agree, its bounds must not cross, and its weights must be even enough."""

import math

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.evidence.weighing.agreement import DISAGREEMENT
from probmodel.evidence.weighing.verdict import untrusted
from probmodel.evidence.weighing.weights import K_HAT_LIMIT
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of

AGREEMENT_ROUNDING = 1e-9
"""Relative amount by which a lower bound may exceed an upper one through float64 rounding errors alone."""


def check_same_observations(posterior: Posterior, evidence: Evidence | None) -> None:
    """Raise ValueError for an evidence of other observations than those of the fit."""
    own = target_of(posterior).digest
    if evidence is not None and evidence.digest not in ("", own):
        raise ValueError(
            f"expected the evidence of the observations of this fit ({own}), got one of others ({evidence.digest}); "
            "compute it from this fit"
        )


def evidence_findings(evidence: Evidence | None) -> list[Finding]:
    """Findings on the evidence, its bounds, the agreement of its estimators, and the estimates that were refused.

    They are flagged *inference failed* if the estimators disagree or the bounds cross.  An evidence by weights that are not
    to be trusted, or with refused estimates, is marked.
    """
    if evidence is None:
        return []
    given = f", given {len(evidence.given)} point-estimated tensors" if evidence.given else ""
    message = f"log marginal likelihood by {evidence.method}, nats{given}"
    doubt = f"evidence: {reason}" if (reason := reason_against(evidence)) else ""
    log_z = finding("log evidence", evidence.log_z, message, stderr=evidence.stderr, doubt=doubt)
    log_z = log_z._replace(only_lower=is_only_lower(evidence))
    parts = (_k_hat, _bounds, _agreement, _left_out, _refused)
    return [log_z, *(each for part in parts for each in part(evidence))]


def reason_against(evidence: Evidence) -> str:
    """Reason why the log evidence is not to be relied on; empty where nothing speaks against it."""
    k_hat, ess = _weights(evidence)
    reasons = [
        untrusted(ess, k_hat),
        "its estimators disagree" if evidence.agreement.p_value < DISAGREEMENT else "",
        "its bounds cross" if _crossed(evidence) else "",
        "; ".join(evidence.info.get("failed", ())),
        "neither bound is certified" if evidence.certified.startswith("neither") else "",
        "not a number" if math.isnan(evidence.log_z) else "",
    ]
    return ", ".join(reason for reason in reasons if reason)


def is_only_lower(evidence: Evidence) -> bool:
    """Return whether the number bounds log Z from below without estimating it.

    So it is with a finite lower bound, no upper one, and weights that are not to be trusted, or none at all (an ELBO).
    """
    if not math.isfinite(evidence.lower) or math.isfinite(evidence.upper):
        return False
    k_hat, ess = _weights(evidence)
    weighed = "k_hat" in evidence.info or evidence.certified
    return not weighed or bool(untrusted(ess, k_hat))


def _weights(evidence: Evidence) -> tuple[float, float]:
    """k-hat and relative ESS of the weights; those of perfectly even ones where the method has none."""
    return float(evidence.info.get("k_hat", -math.inf)), float(evidence.info.get("relative_ess", 1.0))


def _k_hat(evidence: Evidence) -> list[Finding]:
    k_hat, ess = _weights(evidence)
    if k_hat == -math.inf:
        return []
    message = f"k-hat of the weights of the evidence by {evidence.method}; up to {K_HAT_LIMIT} they are to be trusted"
    return [finding("evidence k-hat", k_hat, message, flag=CAUTION if untrusted(ess, k_hat) else "")]


def _crossed(evidence: Evidence) -> bool:
    return evidence.upper - evidence.lower < -AGREEMENT_ROUNDING * max(1.0, abs(evidence.log_z))


def _bounds(evidence: Evidence) -> list[Finding]:
    width = evidence.upper - evidence.lower
    if not math.isfinite(width) and not evidence.lower > evidence.upper:
        return []
    crossed = _crossed(evidence)
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
