"""Comparison of models of one data set by evidence, predictive scores, calibration, complexity and verdict."""

import html
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from probmodel.diagnosis import Diagnosis, diagnose
from probmodel.diagnosis.densities import predicts_one_site
from probmodel.diagnosis.findings import legend, marked
from probmodel.diagnosis.scored import Scored, scored
from probmodel.evidence import best
from probmodel.prediction.averages import has_classes
from probmodel.prediction.scores.calibration import Calibration, expected_calibration_error
from probmodel.prediction.scores.scoring_rules import accuracy, rmse
from probmodel.protocols.arguments.checks import checks_arguments
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import EvidenceWarning
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.methods import Estimator
from probmodel.protocols.posterior import Posterior
from probmodel.protocols.session.progress import shows_progress, stage
from probmodel.tracing.target import target_of

NAN = float("nan")
SHOWN = ("log evidence", "elpd_loo", "held-out log score", "effective dimension")
"""Findings whose numbers stand in the table."""


class Row(NamedTuple):
    """Measurements on one model, and the warnings of its evidence."""

    name: str
    posterior: Posterior
    evidence: Evidence
    diagnosis: Diagnosis
    held_out: Scored | None
    calibration: Calibration | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Table of models; `frame` has its numbers as a pandas DataFrame, in nats where a unit applies."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def frame(self) -> pd.DataFrame:
        """Numbers with one row per model, best first."""
        return pd.DataFrame([_numbers(row) for row in self.rows]).set_index("model")

    @property
    def best(self) -> str:
        """Name of the model of greatest held-out log score, or of greatest evidence if no rows were held out."""
        return self.rows[0].name

    def __str__(self) -> str:
        return "\n".join([self._text().to_string(), *(f"* {note}" for note in self.notes)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"{self._text().to_html(border=0, classes='comparison')}<ul>{notes}</ul>"

    def _text(self) -> pd.DataFrame:
        table = pd.DataFrame([_cells(row) for row in self.rows]).set_index("model")
        return table.loc[:, (table != "–").any()]


@checks_arguments
@shows_progress
def compare(
    posteriors: Mapping[str, Posterior],
    held_out: Dataset | None = None,
    *,
    estimator: Estimator = best,
    notice: Callable[[str], None] = lambda _: None,
    progress: bool = True,
) -> Comparison:
    """Score and diagnose each fit and collect the results in one table.

    Args:
        posteriors: name → fit, all of the same observations.
        held_out: rows that no fit has used.
        estimator: estimator of the evidence.
        notice: function called with each name before its computation starts, for a progress bar.
        progress: whether to show what is being computed.

    Returns:
        Comparison, best held-out log score first, since an evidence given point estimates is not comparable with a full
        one.  Without held-out rows, full evidences come before conditional ones and the best comes first.

    Raises:
        ValueError: for no fits, fits of different observations (their evidences are of different quantities), or no
            held-out rows for a fit of point estimates alone, from which no row can be left out.

    Reference:
        MacKay (1992), "Bayesian interpolation"; Vehtari, Gelman & Gabry (2017) for elpd_loo.
    """
    if not posteriors:
        raise ValueError("expected one or more fits, got none; pass {'name': fit}")
    _refuse_mix(posteriors)
    rows = []
    for name, posterior in posteriors.items():
        notice(name)
        stage(str(name))
        rows.append(_row(name, posterior, held_out, estimator))
    rows.sort(key=_rank)
    return Comparison(tuple(rows), tuple(_notes(rows)))


def _refuse_mix(posteriors: Mapping[str, Posterior]) -> None:
    digests = {name: target_of(posterior).digest for name, posterior in posteriors.items()}
    if len(set(digests.values())) > 1:
        raise ValueError(
            f"expected evidences of the same observations, got different ones: {digests}; fit every model to the same rows "
            "and the same y (an evidence of x and y together and one of y given x have different observations too)"
        )


def _rank(row: Row) -> tuple[bool, float, float]:
    """Sort key: best first; without held-out rows full evidences before conditional ones; NaN last."""
    if "held-out log score" in row.diagnosis:
        return False, _or_last(-row.diagnosis["held-out log score"].value), _or_last(-row.evidence.log_z)
    return bool(row.evidence.given), _or_last(-row.evidence.log_z), 0.0


def _or_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _row(name: str, posterior: Posterior, held_out: Dataset | None, estimator: Estimator) -> Row:
    held_out = None if held_out is None else held_out.in_columns_of(posterior.data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EvidenceWarning)
        evidence = estimator(posterior)
        if not isinstance(evidence, Evidence):
            raise TypeError(
                f"expected an estimator that returns an Evidence, got {type(evidence).__name__}; pass one of pb.evidence, or a "
                "function that returns what it returns"
            )
        diagnosis = diagnose(posterior, held_out, evidence=evidence)
    said = tuple(str(w.message) for w in caught if issubclass(w.category, EvidenceWarning))
    for other in (w for w in caught if not issubclass(w.category, EvidenceWarning)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    test = None if held_out is None or not predicts_one_site(posterior) else scored(posterior, held_out)
    calibrated = None
    if test is not None and has_classes(test.prediction.distribution):
        calibrated = expected_calibration_error(test.prediction.distribution.probs, test.observed)
    return Row(name, posterior, evidence, diagnosis, test, calibrated, said)


def _numbers(row: Row) -> dict[str, Any]:
    found = row.diagnosis
    test, calibrated = row.held_out, row.calibration
    classes = test is not None and has_classes(test.prediction.distribution)
    loo, held = _finding(found, "elpd_loo"), _finding(found, "held-out log score")
    return {
        "model": row.name,
        "log evidence": row.evidence.log_z,
        "± evidence": row.evidence.stderr,
        "evidence given": len(row.evidence.given),
        "elpd_loo": loo[0],
        "± elpd_loo": loo[1],
        "held-out log score": held[0],
        "± held-out": held[1],
        "accuracy": _accuracy(test) if test is not None and classes else NAN,
        "rmse": _rmse(test) if test is not None and not classes else NAN,
        "ECE": NAN if calibrated is None else calibrated.ece,
        "ECE null": NAN if calibrated is None else calibrated.null_mean,
        "ECE p": NAN if calibrated is None else calibrated.p_value,
        "parameters": _finding(found, "parameters")[0],
        "effective dimension": _finding(found, "effective dimension")[0],
        "evidence k-hat": float(row.evidence.info.get("k_hat", NAN)),
        "guide k-hat": _finding(found, "guide k-hat")[0],
        "seconds": float(row.posterior.info.get("seconds", NAN)),
        "verdict": str(found.verdict),
    }


def _accuracy(test: Scored) -> float:
    """Fraction of rows whose most probable class is the observed one, whatever the costs of actions."""
    return float(accuracy(test.prediction.distribution.probs.argmax(-1), test.observed))  # type: ignore[attr-defined]


def _rmse(test: Scored) -> float:
    mean = test.prediction.distribution.mean.reshape(-1)
    return float(rmse(mean, test.observed.reshape(-1).to(mean.dtype)))


def _finding(diagnosis: Diagnosis, name: str) -> tuple[float, float]:
    return (diagnosis[name].value, diagnosis[name].stderr) if name in diagnosis else (NAN, NAN)


def _cells(row: Row) -> dict[str, str]:
    n, found = _numbers(row), row.diagnosis
    given = "*" if row.evidence.given else ""
    cells = {
        "model": row.name,
        "log evidence": _pm(found, "log evidence", 1, given),
        "elpd_loo": _pm(found, "elpd_loo", 1),
        "held-out log score": _pm(found, "held-out log score", 3),
        "accuracy": _number(n["accuracy"], "{:.1%}"),
        "RMSE": _number(n["rmse"], "{:.3g}"),
        "ECE (null)": "–" if math.isnan(n["ECE"]) else f"{n['ECE']:.3f} ({n['ECE null']:.3f})",
        "parameters": f"{n['parameters']:,.0f}",
        "eff. dim.": _marked(found, "effective dimension", _number(n["effective dimension"], "{:,.0f}")),
        "evidence k-hat": "–" if not math.isfinite(n["evidence k-hat"]) else f"{n['evidence k-hat']:.2f}",
        "guide k-hat": "–" if not math.isfinite(n["guide k-hat"]) else f"{n['guide k-hat']:.2f}",
        "seconds": _number(n["seconds"], "{:.1f}"),
        "verdict": n["verdict"],
    }
    return cells


def _pm(found: Diagnosis, name: str, digits: int, after: str = "") -> str:
    """Number of a finding with its error and the marks that a diagnosis gives it."""
    value, error = _finding(found, name)
    if math.isnan(value):
        return "–"
    number = f"{value:.{digits}f}" if math.isnan(error) else f"{value:.{digits}f} ± {error:.{digits}f}"
    return _marked(found, name, number + after)


def _marked(found: Diagnosis, name: str, number: str) -> str:
    return marked(number, found[name]) if name in found else number


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else form.format(value)


def _notes(rows: Sequence[Row]) -> list[str]:
    conditional = [row.name for row in rows if row.evidence.given]
    notes = []
    if conditional:
        notes.append(
            f"evidence of {', '.join(conditional)} is conditional on point-estimated parameters (log p(y | x, estimates)): "
            "it does not penalize fitting them and must not be compared with a full evidence; integrate them with lift()"
        )
    if any(row.diagnosis["log evidence"].only_lower for row in rows):
        notes.append("an evidence after ≥ is a lower bound and no estimate")
    for row in rows:
        shown = [row.diagnosis[name] for name in SHOWN if name in row.diagnosis]
        notes += [f"{row.name}: {line}" for line in legend(shown)]
    notes += [f"{row.name}: {said}" for row in rows for said in row.warnings]
    if all("held-out log score" not in row.diagnosis for row in rows):
        notes.append("no held-out rows were given")
    return notes
