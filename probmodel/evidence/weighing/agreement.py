"""Chi-square test of homogeneity for several estimates of one evidence (Cochran, 1954)."""

import numpy as np
from scipy.stats import chi2

from probmodel.protocols.evidence import Estimate

DISAGREEMENT = 1e-5
"""p-value below which estimators disagree.  It is small since their errors have heavier tails than a normal; a missed
mode, a difference of log 2 with standard errors of 0.1, goes far below it."""

DOUBTFUL = 0.05
"""p-value below which the standard error is widened by what estimators differ by."""


def agreement_p_value(estimates: list[Estimate]) -> float:
    """Chi-square p-value that the estimates without a caveat share one value; nan for fewer than two."""
    chi_square, count = _chi_square(estimates)
    return float(chi2.sf(chi_square, count - 1)) if count > 1 else float("nan")


def birge_ratio(estimates: list[Estimate]) -> float:
    """Factor √(chi-square / degrees of freedom), at least 1, by which standard errors are too small (Birge, 1932)."""
    chi_square, count = _chi_square(estimates)
    return max(1.0, (chi_square / (count - 1)) ** 0.5) if count > 1 else 1.0


def _chi_square(estimates: list[Estimate]) -> tuple[float, int]:
    """Weighted sum of squared distances from the common mean, and the number of estimates without a caveat."""
    kept = [each for each in estimates if not each.caveat and each.stderr == each.stderr]
    if not kept:
        return 0.0, 0
    values = np.array([each.log_z for each in kept])
    # A standard error below rounding errors would let a closed form refute everything.
    errors = np.array([max(each.stderr, 1e-6 * max(1.0, abs(each.log_z))) for each in kept])
    precision = errors**-2.0
    mean = (precision * values).sum() / precision.sum()
    return float((precision * (values - mean) ** 2).sum()), len(kept)
