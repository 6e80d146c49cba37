"""Rules that take several findings together: single rows that point estimates follow, smaller models, and doubtful numbers."""

import math
from collections.abc import Hashable, Mapping, Sequence

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.guides import BAD_FRACTION
from probmodel.diagnosis.scored import SIGNIFICANT, is_material
from probmodel.protocols.evidence import Evidence

P_LOO_RATIO = 1.5
"""Ratio of p_loo to the effective dimension above which single rows move the fit more than its curvature implies."""
LOST_LIMIT = 0.5
"""Fraction of the training rows' gain over the base rate that new rows may lack."""
DIMENSION_LIMIT = 0.5
"""Effective dimension per row above which point estimates can follow single rows."""
RESTS_ON_FIT = frozenset(
    {
        "log evidence",
        "effective dimension",
        "elpd_loo",
        "p_loo",
        "p_waic",
        "p_loo ratio",
        "train log score",
        "held-out log score",
        "gap",
        "overconfidence",
        "gain over base rate",
        "lost gain",
    }
)
"""Findings whose number is no better than the inference that it is made of."""
OF_ONE_NUMBER = frozenset({"loo k-hat", "agreement", "evidence bounds"})
"""Checks of one number, whose failure says nothing of the others."""


def p_loo_ratio(found: Sequence[Finding]) -> list[Finding]:
    """Ratio of the effective parameters by leave-one-out to the effective dimension by curvature: 1 for a true model."""
    values = {each.name: each.value for each in found}
    if not values.keys() >= {"p_loo", "effective dimension"} or not values["effective dimension"] > 0:
        return []
    ratio = values["p_loo"] / values["effective dimension"]
    message = f"ratio of p_loo to the effective dimension; above {P_LOO_RATIO} a symptom, which a smaller model has to confirm"
    return [finding("p_loo ratio", ratio, message)]


def follows_rows(found: Sequence[Finding], num_rows: int | None) -> list[Finding]:
    """Flag the gap of point estimates that follow single rows, though no recalibration of the predictions helps.

    So it is if the gap is significant and material, the data determine more directions than half the number of rows, and new
    rows lack more than half of what the training rows gain over the base rate.
    """
    by_name = {each.name: each for each in found}
    if not num_rows or not by_name.keys() >= {"gap", "lost gain", "effective dimension"}:
        return list(found)
    gap, dimension = by_name["gap"], by_name["effective dimension"].value
    overfits = (
        is_material(gap.value, gap.stderr)
        and dimension > DIMENSION_LIMIT * num_rows
        and by_name["lost gain"].value > LOST_LIMIT
    )
    if not overfits:
        return list(found)
    said = (
        f"; {dimension:.0f} directions for {num_rows} rows, which lose {by_name['lost gain'].value:.0%} of their gain"
    )
    flagged = gap._replace(flag=Verdict.OVERFITS, message=gap.message + said)
    return [flagged if each is gap else each for each in found]


def overfits_already(found: Sequence[Finding]) -> list[Finding]:
    """Let *overfits* stand for an optimizer that stopped before its tolerance.

    The estimate is what predicts, and more steps only follow its rows further.
    """
    if all(each.flag != Verdict.OVERFITS for each in found):
        return list(found)
    return [
        each._replace(
            flag=CAUTION, message="the optimizer stopped before its tolerance, and the estimate overfits already"
        )
        if each.name == "converged" and each.flag == Verdict.FAILED
        else each
        for each in found
    ]


def doubted(found: Sequence[Finding]) -> list[Finding]:
    """Mark the numbers that rest on a fit whose inference has failed."""
    failed = [each.name for each in found if each.flag == Verdict.FAILED and each.name not in OF_ONE_NUMBER]
    if not failed:
        return list(found)
    reason = f"inference failed ({', '.join(failed)})"
    return [
        each._replace(doubt="; ".join(filter(None, (reason, each.doubt)))) if each.name in RESTS_ON_FIT else each
        for each in found
    ]


def against_smaller(
    found: Sequence[Finding], conditional: Evidence | None, smaller: Mapping[Hashable, Evidence]
) -> list[Finding]:
    """Settle the symptoms of overfitting by the conditional evidence of smaller models.

    Symptoms are findings flagged *overfits*, p_loo above 1.5 times the effective dimension, and k-hat above 0.7 on
    more than 5 % of rows.  If a smaller model has the higher conditional evidence, by more than twice the error of the
    difference, they are flagged *overfits*; otherwise they support no verdict, because the data support the parameters.
    Without smaller models each finding keeps its flag.

    Raises:
        ValueError: for evidences other than conditional evidences of the same rows given the same rows.
    """
    if conditional is None and not smaller:
        return list(found)
    if conditional is None:
        raise ValueError(
            "expected the model's own conditional evidence together with those of smaller models, got None; pass conditional="
        )
    check_conditional({"this model": conditional, **smaller})
    shown = finding("conditional evidence", conditional.log_z, _given_rows(conditional), stderr=conditional.stderr)
    if not smaller:
        return [*found, shown]
    name = max(smaller, key=lambda name: smaller[name].log_z)
    lead = smaller[name].log_z - conditional.log_z
    stderr = math.hypot(smaller[name].stderr, conditional.stderr)
    ahead = has_higher_evidence(smaller[name], conditional)
    settled = [_confirmed(each, confirmed=ahead) for each in found]
    overfits = any(each.flag == Verdict.OVERFITS for each in settled)
    message = f"conditional evidence of the smaller model {name} minus that of this model, nats"
    flag = Verdict.OVERFITS if overfits else ""
    return [*settled, shown, finding("smaller model", lead, message, stderr=stderr, flag=flag)]


def check_conditional(evidences: Mapping[Hashable, Evidence]) -> None:
    """Raise ValueError unless all are conditional evidences of the same rows, given the same rows."""
    split = {name: (each.digest, each.info.get("num_rows")) for name, each in evidences.items()}
    if None in {rows for _, rows in split.values()} or len(set(split.values())) > 1:
        raise ValueError(
            "expected conditional evidences of the same rows given the same rows, got (data, rows given) "
            f"{split}; compute all of them with conditional_evidence(model, data, num_rows)"
        )


def has_higher_evidence(a: Evidence, b: Evidence) -> bool:
    """Return whether `a` exceeds `b` by more than twice the standard error of their difference."""
    stderr = math.hypot(a.stderr, b.stderr)
    return a.log_z - b.log_z > (0.0 if math.isnan(stderr) else SIGNIFICANT * stderr)


def _given_rows(conditional: Evidence) -> str:
    return f"log probability of the later rows given the first {conditional.info['num_rows']}, nats"


def _confirmed(each: Finding, *, confirmed: bool) -> Finding:
    if not _is_symptom(each):
        return each
    return each._replace(flag=Verdict.OVERFITS if confirmed else CAUTION if each.name == "loo k-hat" else "")


def _is_symptom(each: Finding) -> bool:
    if each.name == "p_loo ratio":
        return each.value > P_LOO_RATIO
    if each.name == "loo k-hat":
        return each.value > BAD_FRACTION
    return each.flag == Verdict.OVERFITS
