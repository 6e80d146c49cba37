"""Evidence of a model as a value: estimate, standard error, bounds, and the agreement of several estimators."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from probmodel.protocols.html_tables import html_table
from probmodel.protocols.structural import Structural


class Estimate(NamedTuple):
    """Log evidence by one estimator, in a table of several, in nats."""

    method: str
    log_z: float
    stderr: float
    """Monte Carlo standard error; nan where the draws cannot reveal the error."""
    relative_ess: float = float("nan")
    """Relative ESS: effective sample size as a fraction of the number of draws (Kong, 1992)."""
    k_hat: float = float("nan")
    """Pareto k-hat of the weights (Vehtari et al., 2024)."""
    seconds: float = float("nan")
    caveat: str = ""
    """Reason why the estimate is left out of the test of agreement; empty where it is included."""


@dataclass(frozen=True)
class Agreement:
    """Several estimates of one log evidence, and a test of whether they agree.

    Args:
        estimates: one estimate per method.
        p_value: p-value of the chi-square test that all estimates without a caveat share one value; nan for fewer than
            two.
    """

    estimates: tuple[Estimate, ...] = ()
    p_value: float = float("nan")

    def __getitem__(self, method: str) -> Estimate:
        for each in self.estimates:
            if each.method == method:
                return each
        raise KeyError(
            f"expected one of {[each.method for each in self.estimates]}, got {method!r}; pass a method of the table"
        )

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __str__(self) -> str:
        lines = [_ROW.format("method", "log Z", "stderr", "ESS", "k-hat", "seconds", "caveat")]
        lines += [_ROW.format(*_cells(each)) for each in self.estimates]
        return "\n".join([*lines, f"agreement: chi-square p = {self.p_value:.3g}"])

    def _repr_html_(self) -> str:
        table = html_table(Estimate._fields, map(_cells, self.estimates))
        return f"{table}<p>agreement: chi-square p = {self.p_value:.3g}</p>"


_ROW = "{:<22}{:>12}{:>11}{:>9}{:>7}{:>9}  {}"


def _cells(estimate: Estimate) -> list[str]:
    """The fields of an estimate as text; a dash for nan."""
    formats = ("{}", "{:.4f}", "{:.4f}", "{:.1%}", "{:.2f}", "{:.2f}", "{}")
    return ["–" if value != value else form.format(value) for form, value in zip(formats, estimate, strict=True)]


@dataclass(frozen=True)
class Evidence:
    """Log marginal likelihood of the data, in nats.

    Args:
        log_z: estimate of the log evidence, in nats.
        stderr: its Monte Carlo standard error; 0 where exact, nan where the draws cannot reveal the error of the method.
        lower, upper: bounds at `level`; infinite on a side that the method does not bound.
        level: probability with which a bound holds.
        method: name of the estimator.
        given: names of the parameters the evidence is conditional on (point estimates that were not integrated).
        digest: fingerprint of the observed values; the evidence of different data cannot be compared.
        agreement: estimates of the same log evidence by several methods.
        info: diagnostics of the estimate (effective sample size, k-hat …).
        certified: sides on which the bound holds at finite sample size, and under what condition; empty for neither.
    """

    log_z: float
    stderr: float
    lower: float = float("-inf")
    upper: float = float("inf")
    level: float = 0.95
    method: str = ""
    given: tuple[str, ...] = ()
    digest: str = ""
    agreement: Agreement = Agreement()
    info: Mapping[str, Any] = field(default_factory=dict)
    certified: str = ""

    def __str__(self) -> str:
        given = f", given {len(self.given)} point-estimated tensor{'s' * (len(self.given) > 1)}" if self.given else ""
        error = "" if math.isnan(self.stderr) else f" ± {self.stderr:.2g}"
        return f"log Z = {self.log_z:.4f}{error} nats ({self.method}{given})"

    def _repr_html_(self) -> str:
        rows = [
            ("log Z, nats", f"{self.log_z:.4f}"),
            ("standard error", "–" if math.isnan(self.stderr) else f"{self.stderr:.2g}"),
            (f"bounds at {self.level:.0%}", f"{_bound(self.lower)} … {_bound(self.upper)}"),
            ("method", self.method),
            (
                "conditional on",
                f"{len(self.given)} point-estimated tensors" if self.given else "no point estimates",
            ),
            ("certified", self.certified or "–"),
        ]
        table = html_table(["evidence", ""], rows)
        return table + (self.agreement._repr_html_() if len(self.agreement) else "")


def _bound(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.4f}"


class OwnEstimators(NamedTuple):
    """Estimators of the evidence made for one model, used instead of the general ones."""

    exact: Callable[..., Evidence]
    """(fit, seed) → the evidence in closed form or by enumeration."""
    best: Callable[..., Evidence]
    """(fit, seed) → the estimate that is used when no estimator is named."""
    sandwich: Callable[..., Evidence]
    """(fit, seed, level) → the evidence with its bounds, several estimators side by side."""


@runtime_checkable
class SuppliesEstimators(Protocol, metaclass=Structural):
    """A model with its own estimators of the evidence, such as a sum over discrete structures."""

    def evidence_estimators(self) -> OwnEstimators:
        """Estimators that are used instead of the general ones."""
        ...
