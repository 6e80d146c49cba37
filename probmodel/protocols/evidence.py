"""The evidence as a value: estimates, whether they agree, bounds."""

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """One estimator's answer in a table of several, nats."""

    method: str
    log_z: float
    stderr: float
    """Monte Carlo standard error; nan where no draw can show the error."""
    relative_ess: float = float("nan")
    """Effective share of the draws (Kong, 1992)."""
    k_hat: float = float("nan")
    """Pareto k-hat of the weights (Vehtari et al., 2024)."""
    seconds: float = float("nan")
    caveat: str = ""
    """Why the estimate is left out of the comparison; empty where it takes part."""


@dataclass(frozen=True)
class Agreement:
    """Several estimates of one number, and whether they agree.

    Args:
        estimates: one a method.
        p_value: of the chi-square test that all estimates without a caveat share one value; nan for fewer than two.
    """

    estimates: tuple[Estimate, ...] = ()
    p_value: float = float("nan")

    def __getitem__(self, method: str) -> Estimate:
        for each in self.estimates:
            if each.method == method:
                return each
        raise KeyError(f"expected one of {[each.method for each in self.estimates]}, got {method!r}")

    def __iter__(self) -> Iterator[Estimate]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __str__(self) -> str:
        lines = [_ROW.format("method", "log Z", "stderr", "ESS", "k-hat", "seconds", "caveat")]
        lines += [_ROW.format(*_cells(each)) for each in self.estimates]
        return "\n".join([*lines, f"agreement: chi-square p = {self.p_value:.3g}"])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in Estimate._fields)
        rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(each)) for each in self.estimates)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><tr>{head}</tr>{body}</table><p>agreement: chi-square p = {self.p_value:.3g}</p>"


_ROW = "{:<22}{:>12}{:>11}{:>9}{:>7}{:>9}  {}"


def _cells(estimate: Estimate) -> list[str]:
    """The numbers of an estimate as text; a dash where there is none."""
    formats = ("{}", "{:.4f}", "{:.4f}", "{:.1%}", "{:.2f}", "{:.2f}", "{}")
    return ["–" if value != value else form.format(value) for form, value in zip(formats, estimate, strict=True)]


@dataclass(frozen=True)
class Evidence:
    """Log marginal likelihood of the data, in nats.

    Args:
        log_z: the estimate.
        stderr: its Monte Carlo standard error; 0 where exact, nan where the method has an error no draw can show.
        lower, upper: bound at `level`; infinite on a side the method does not bound.
        method: name of the estimator.
        given: names of the parameters the evidence is conditional on (point estimates that were not integrated).
        digest: fingerprint of the observed values; evidences of different data cannot be compared.
        agreement: the estimates of the same number by several methods.
        info: diagnostics of the estimate (effective sample size, k-hat …).
        certified: which side of the bound holds at finite sample size, and under what condition; empty for neither.
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
