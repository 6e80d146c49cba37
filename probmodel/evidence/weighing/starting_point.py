"""The one value that every estimator starts from: a density, and what a fit brings with it."""

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
    """A fit, or a bare target, whose model, data and guide are then None and whose draws are empty."""

    subject: Subject
    model: Model | None = None
    data: Dataset | None = None
    guide: Model | None = None
    draws: Draws = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """The density, recorded once for each subject."""
        return target_of(self.subject)

    @property
    def has_exact_draws(self) -> bool:
        """Whether the draws are independent and of the posterior itself."""
        return bool(self.info.get("exact_draws", False))

    @property
    def has_posterior_draws(self) -> bool:
        """Whether the draws are of the posterior, not of a guide that approximates it."""
        return bool(self.draws) and (self.guide is None or self.has_exact_draws)

    @property
    def description(self) -> str:
        """The kind of subject, for error messages."""
        return "a target" if self.model is None else f"a fit of {type(self.model).__name__}"


@singledispatch
def starting_point(subject: Subject) -> StartingPoint:
    """The starting point of a fit or a target.

    Raises:
        TypeError: for anything else.
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
