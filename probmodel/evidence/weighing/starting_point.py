"""Value that every estimator of the evidence starts from: a target density, with the contents of a fit, if any."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any

from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import Model
from probmodel.protocols.posterior import Draws, Posterior, Subject, Target
from probmodel.tracing.target import target_of


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """Contents of a fit, or of a target alone, for which model, data and guide are None and draws are empty."""

    subject: Subject
    model: Model | None = None
    data: Dataset | None = None
    guide: Model | None = None
    draws: Draws = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """Target density, traced once per subject."""
        return target_of(self.subject)

    @property
    def has_exact_draws(self) -> bool:
        """True if the draws are independent and of the posterior itself."""
        return bool(self.info.get("exact_draws", False))

    @property
    def has_posterior_draws(self) -> bool:
        """True if the draws are of the posterior, not of a guide that approximates it."""
        return bool(self.draws) and (self.guide is None or self.has_exact_draws)

    @property
    def description(self) -> str:
        """Kind of subject in words, for error messages."""
        return "a target" if self.model is None else f"a fit of {type(self.model).__name__}"


@singledispatch
def starting_point(subject: object) -> StartingPoint:
    """Return the starting point of a fit or a target.

    Raises:
        TypeError: if the subject is neither.
    """
    raise TypeError(
        f"expected a fit or a target, got {type(subject).__name__}; pass a Posterior, or target(model, data)"
    )


@starting_point.register
def _(subject: Target) -> StartingPoint:
    return StartingPoint(subject)


@starting_point.register
def _(subject: Posterior) -> StartingPoint:
    return StartingPoint(subject, subject.model, subject.data, subject.guide, subject.draws, subject.info)
