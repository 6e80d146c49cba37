"""Result of a diagnosis: findings, each with its number, and one verdict."""

import html
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, SupportsFloat


class Verdict(StrEnum):
    """The one-word outcome of a diagnosis."""

    FITS = "fits"
    OVERFITS = "overfits"
    UNDERFITS = "underfits"
    TOO_WIDE = "prior too wide"
    FAILED = "inference failed"


MARK = "†"
"""Mark of a number that rests on an approximation that failed a check, in a diagnosis, a comparison and a report alike."""


class Finding(NamedTuple):
    """Result of one check; `flag` is empty if the check passed, else the verdict it supports or *caution*."""

    name: str
    value: float
    stderr: float
    message: str
    flag: str = ""
    doubt: str = ""
    """Reason why the number is not to be relied on; empty where it is."""
    only_lower: bool = False
    """True for a number that is a lower bound and no estimate."""

    @property
    def number(self) -> str:
        """The value with its error, "≥" before a lower bound and a mark after a number that is not to be relied on."""
        return marked(f"{self.value:.4g}{_error(self.stderr, '.2g')}", self)

    def __str__(self) -> str:
        return f"{'!' if self.flag else ' '} {self.name}: {self.number} — {self.message}"


def marked(number: str, finding: Finding) -> str:
    """The number as text, with the marks that belong to the finding."""
    return f"{'≥ ' if finding.only_lower else ''}{number}{f' {MARK}' if finding.doubt else ''}"


def legend(findings: Iterable[Finding]) -> list[str]:
    """Lines that explain the marks of these findings: the reasons, each once; empty where nothing is marked."""
    reasons = dict.fromkeys(reason for each in findings if each.doubt for reason in each.doubt.split("; "))
    return [f"{MARK} not to be relied on: {'; '.join(reasons)}"] if reasons else []


def _error(stderr: float, form: str) -> str:
    return "" if stderr != stderr else f" ± {stderr:{form}}"


def finding(
    name: str,
    value: SupportsFloat,
    message: str,
    *,
    stderr: SupportsFloat = float("nan"),
    flag: str = "",
    doubt: str = "",
) -> Finding:
    """Make a finding; `stderr` is nan for a value without a standard error."""
    return Finding(name, float(value), float(stderr), message, flag, doubt)


CAUTION = "caution"
"""Flag of a finding that says of a number, its own or another's, that it is not to be relied on; it decides no verdict."""


@dataclass(frozen=True)
class Diagnosis:
    """A verdict and the findings it rests on, in nats where a unit applies."""

    verdict: Verdict
    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        for each in self.findings:
            if each.name == name:
                return each
        raise KeyError(
            f"expected one of {[each.name for each in self.findings]}, got {name!r}; test with `name in diagnosis` first"
        )

    def __contains__(self, name: object) -> bool:
        return any(each.name == name for each in self.findings)

    def __str__(self) -> str:
        return "\n".join([f"verdict: {self.verdict}", *map(str, self.findings), *legend(self.findings)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'⚠' if each.flag else '✓'}</td><td>{html.escape(each.name)}</td>"
            f"<td style='text-align:right'>{each.number}</td><td style='text-align:left'>{html.escape(each.message)}</td></tr>"
            for each in self.findings
        )
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in legend(self.findings))
        return f"<p><b>verdict: {self.verdict}</b></p><table>{rows}</table>{notes}"
