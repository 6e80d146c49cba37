"""All errors and warnings of the package, with one base class each: `ProbmodelError` and `ProbmodelWarning`.

An argument that is out of range or of the wrong shape raises Python's own ValueError or TypeError.
"""

import inspect
import os
import warnings
from pathlib import Path

import jaxtyping

_INSIDE = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(jaxtyping.__file__).parent))
"""Folders of the package, and of what checks the shapes of its arguments around a call."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the call into the package, however deep in it the reason was found."""
    frame, level, outermost = inspect.currentframe(), 1, 1  # Level 1 is this function, 2 the one that calls it.
    while frame is not None:
        outermost = level if frame.f_code.co_filename.startswith(_INSIDE) else outermost
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=outermost + 1)


class ProbmodelError(Exception):
    """Base class of the package's own errors."""


class NotConjugateError(ProbmodelError, ValueError):
    """The posterior belongs to no family that can be integrated in closed form."""


class NonFiniteError(ProbmodelError, ArithmeticError):
    """The loss or its gradient is NaN or infinite; the message names the first site that causes it."""


class NotPositiveDefiniteError(ProbmodelError, ValueError):
    """A covariance matrix has no Cholesky factor with any jitter of the schedule."""


class NotNormalError(ProbmodelError, ValueError):
    """A natural-gradient step leads to a covariance matrix that is not positive definite."""


class NotSerializableError(ProbmodelError, ValueError):
    """A value cannot be stored in a file format free of code; the message names where it was found."""


class CorruptFitError(ProbmodelError, ValueError):
    """The folder of a fit is not as it was written; the message names the file."""


class ProbmodelWarning(UserWarning):
    """Base class of the package's own warnings."""


class TracingWarning(ProbmodelWarning):
    """A model could not be traced and runs eagerly: more slowly, with the same results."""


class CompilingWarning(ProbmodelWarning):
    """A graph could not be compiled faithfully and runs uncompiled: more slowly, with the same results."""


class SettingsWarning(ProbmodelWarning):
    """Settings that do not suit the data and were replaced; the message states by what."""


class DataWarning(ProbmodelWarning):
    """Data of which some part carries no information, such as a constant column."""


class SlowRunWarning(ProbmodelWarning):
    """A run that takes longer than it could; its result is the same."""


class ConvergenceWarning(ProbmodelWarning):
    """Draws or estimates are not reliable, since the method had not converged."""


class InterruptedWarning(ProbmodelWarning):
    """A fit was interrupted, and is returned with what it had found by then; `info["interrupted"]` is True."""


class EvidenceWarning(ProbmodelWarning):
    """An evidence estimate is not reliable, or takes long; the message states the reason and what to try."""


class MixingWarning(ProbmodelWarning):
    """Markov chains over orders or partitions disagree, or there is only one chain."""


class SlowSearchWarning(ProbmodelWarning):
    """There are so many families to score that the search may take hours."""


class EMWarning(ProbmodelWarning):
    """The log posterior of expectation maximization was still rising at the last step."""
