"""Result of a diagnosis: findings, each with its number, and one verdict."""

import html
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


class Finding(NamedTuple):
    """Result of one check; `flag` is empty if the check passed, else the verdict it supports or *caution*."""

    name: str
    value: float
    stderr: float
    message: str
    flag: str = ""

    def __str__(self) -> str:
        error = "" if self.stderr != self.stderr else f" ± {self.stderr:.2g}"
        return f"{'!' if self.flag else ' '} {self.name}: {self.value:.4g}{error} — {self.message}"


def finding(
    name: str, value: SupportsFloat, message: str, *, stderr: SupportsFloat = float("nan"), flag: str = ""
) -> Finding:
    """Make a finding; `stderr` is nan for a value without a standard error."""
    return Finding(name, float(value), float(stderr), message, flag)


CAUTION = "caution"
"""Flag of a finding that reduces the trust in a number without deciding the verdict."""


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
        return "\n".join([f"verdict: {self.verdict}", *map(str, self.findings)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'⚠' if each.flag else '✓'}</td><td>{html.escape(each.name)}</td>"
            f"<td style='text-align:right'>{each.value:.4g}</td><td style='text-align:left'>{html.escape(each.message)}</td></tr>"
            for each in self.findings
        )
        return f"<p><b>verdict: {self.verdict}</b></p><table>{rows}</table>"
