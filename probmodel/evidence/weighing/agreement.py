"""Chi-square test of homogeneity for several estimates of one evidence (Cochran, 1954)."""

import numpy as np
from scipy.stats import chi2

from probmodel.protocols.evidence import Estimate

DISAGREEMENT = 1e-5
"""p-value below which estimators disagree.  It is small since their errors have heavier tails than a normal; a missed
mode, a difference of log 2 with standard errors of 0.1, goes far below it."""


def agreement_p_value(estimates: list[Estimate]) -> float:
    """Chi-square p-value that the estimates without a caveat share one value; nan for fewer than two."""
    kept = [each for each in estimates if not each.caveat and each.stderr == each.stderr]
    if len(kept) < 2:
        return float("nan")
    values = np.array([each.log_z for each in kept])
    # A standard error below rounding errors would let a closed form refute everything.
    errors = np.array([max(each.stderr, 1e-6 * max(1.0, abs(each.log_z))) for each in kept])
    precision = errors**-2.0
    mean = (precision * values).sum() / precision.sum()
    return float(chi2.sf((precision * (values - mean) ** 2).sum(), len(kept) - 1))
