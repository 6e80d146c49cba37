"""When does a symptom of overfitting count: once a smaller model predicts the later rows better from the earlier ones."""

import math
from collections.abc import Hashable, Mapping, Sequence

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.scored import SIGNIFICANT
from probmodel.protocols.evidence import Evidence

P_LOO_RATIO = 1.5
"""p_loo over effective dimension from which single rows move the fit more than its own curvature says."""
BAD_FRACTION = 0.05
"""Share of rows with k-hat above .7 from which they are no outliers but a pattern."""


def p_loo_ratio(found: Sequence[Finding]) -> list[Finding]:
    """Effective parameters by leave-one-out over effective dimension by curvature: 1 where the model is true."""
    values = {each.name: each.value for each in found}
    if not values.keys() >= {"p_loo", "effective dimension"} or not values["effective dimension"] > 0:
        return []
    ratio = values["p_loo"] / values["effective dimension"]
    message = f"p_loo over effective dimension; above {P_LOO_RATIO} single rows move the fit"
    return [finding("p_loo ratio", ratio, message, flag=CAUTION if ratio > P_LOO_RATIO else "")]


def against_smaller(
    found: Sequence[Finding], conditional: Evidence | None, smaller: Mapping[Hashable, Evidence]
) -> list[Finding]:
    """Settle the symptoms of overfitting by the conditional evidence of smaller models.

    Symptoms are findings flagged *overfits*, p_loo above 1.5 times the effective dimension, and k-hat above .7 on more
    than 5 % of rows.  Where a smaller model has the higher conditional evidence, by more than twice its error, they speak
    for *overfits*; where none has, they are cautions: the data support the parameters.  Without smaller models each
    keeps the flag it has.

    Raises:
        ValueError: for evidences that are not conditional ones of the same rows given the same rows.
    """
    if conditional is None and not smaller:
        return list(found)
    if conditional is None:
        raise ValueError(
            "expected the model's own conditional evidence beside those of smaller ones; pass conditional="
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
    message = f"nats of conditional evidence that the smaller model {name} is {'ahead' if lead > 0 else 'behind'}"
    flag = Verdict.OVERFITS if overfits else ""
    return [*settled, shown, finding("smaller model", lead, message, stderr=stderr, flag=flag)]


def check_conditional(evidences: Mapping[Hashable, Evidence]) -> None:
    """Raise ValueError unless all are conditional evidences of the same rows, given the same rows."""
    split = {name: (each.digest, each.info.get("num_rows")) for name, each in evidences.items()}
    if None in {rows for _, rows in split.values()} or len(set(split.values())) > 1:
        raise ValueError(
            "expected conditional evidences of the same rows given the same rows, got (data, rows given) "
            f"{split}; make all with conditional_evidence(model, data, num_rows)"
        )


def has_higher_evidence(a: Evidence, b: Evidence) -> bool:
    """Whether one evidence is above another by more than twice the error of their difference."""
    stderr = math.hypot(a.stderr, b.stderr)
    return a.log_z - b.log_z > (0.0 if math.isnan(stderr) else SIGNIFICANT * stderr)


def _given_rows(conditional: Evidence) -> str:
    return f"log probability of the later rows given the first {conditional.info['num_rows']}, nats"


def _confirmed(each: Finding, *, confirmed: bool) -> Finding:
    if not _is_symptom(each):
        return each
    return each._replace(flag=Verdict.OVERFITS if confirmed else CAUTION)


def _is_symptom(each: Finding) -> bool:
    if each.name == "p_loo ratio":
        return each.value > P_LOO_RATIO
    if each.name == "loo k-hat":
        return each.value > BAD_FRACTION
    return each.flag == Verdict.OVERFITS
