"""Every error and warning of the package, under one base each: `ProbmodelError` and `ProbmodelWarning`.

An argument that is out of range or of the wrong shape raises Python's own ValueError or TypeError.
"""


class ProbmodelError(Exception):
    """Base of the package's own errors."""


class NotConjugateError(ProbmodelError, ValueError):
    """The posterior is in no family that can be integrated in closed form."""


class NonFiniteError(ProbmodelError, ArithmeticError):
    """The loss or its gradient is NaN or infinite; the message names the first bad site."""


class NotPositiveDefiniteError(ProbmodelError, ValueError):
    """A covariance has no Cholesky factor, whatever jitter of its schedule is added."""


class LeavesNormalsError(ProbmodelError, ValueError):
    """A natural-gradient step ends at a covariance that is not positive definite."""


class UndescribableError(ProbmodelError, ValueError):
    """A value that no file format without code can hold; the message names where it was found."""


class CorruptFitError(ProbmodelError, ValueError):
    """A fit's folder is not as it was written; the message names the file."""


class ProbmodelWarning(UserWarning):
    """Base of the package's own warnings."""


class TracingWarning(ProbmodelWarning):
    """A model could not be traced and runs eagerly; the numbers are the same, the speed is not."""


class CompilingWarning(ProbmodelWarning):
    """A graph could not be compiled faithfully and runs uncompiled; the numbers are the same, the speed is not."""


class ConvergenceWarning(ProbmodelWarning):
    """Draws or estimates that should not be trusted as they stand, since the method had not converged."""


class EvidenceWarning(ProbmodelWarning):
    """An evidence that should not be trusted as it stands, or takes long; the message says why and what to try."""


class MixingWarning(ProbmodelWarning):
    """Chains over orders or partitions disagree, or there is only one."""


class SlowSearchWarning(ProbmodelWarning):
    """So many families that to score them may take hours."""


class EMWarning(ProbmodelWarning):
    """The log posterior of expectation maximization was still rising at the last step."""
