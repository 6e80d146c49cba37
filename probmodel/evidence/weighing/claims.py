"""Bounds that an estimate may claim: none where the joint is no density, since the evidence has no defined value."""

import math
from typing import NamedTuple

from probmodel.protocols.errors import EvidenceWarning, warn
from probmodel.protocols.posterior import Target


class Claim(NamedTuple):
    """Bounds in nats, infinite on a side without one, and the statement of when they hold."""

    lower: float
    upper: float
    certified: str


def claimed(
    method: str, target: Target, *, lower: float = -math.inf, upper: float = math.inf, certified: str = ""
) -> Claim:
    """Return the bounds, or infinite ones with a warning if the prior of a latent is improper."""
    if not target.improper:
        return Claim(lower, upper, certified)
    warn(f"{method}: {improper_finding(target)}", EvidenceWarning)
    return Claim(-math.inf, math.inf, "neither side: the prior is improper")


def improper_finding(target: Target) -> str:
    """Statement of which latents have an improper prior, with a remedy."""
    names = ", ".join(target.improper)
    return f"improper prior of {names}: the evidence is defined up to a constant; give it a normalized prior"
