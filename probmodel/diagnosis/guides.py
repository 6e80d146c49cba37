"""Whether a guide covers the posterior, by the Pareto k-hat of its importance weights (Yao et al., 2018)."""

import math
from typing import NamedTuple

import numpy as np
import torch

from probmodel.diagnosis.findings import Finding, Verdict, finding
from probmodel.draws.pareto import pareto_k
from probmodel.evidence.weighing.verdict import untrusted
from probmodel.evidence.weighing.weights import K_HAT_LIMIT, guide_weights, point_estimates
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of

GUIDE_DRAWS = 1_000
"""Draws of the guide whose weights are judged: those of the evidence by `iwae`, whose k-hat is then the same number."""
BAD_FRACTION = 0.05
"""Fraction of rows with k-hat above 0.7 beyond which they are a pattern rather than outliers."""
WORST_ROWS = 50


class Coverage(NamedTuple):
    """How well a guide covers the posterior."""

    k_hat: float
    """Pareto k-hat of the guide's weights, of the worst row where rows are independent."""
    untrusted: float
    """Fraction of rows whose weights are not to be trusted; 0 or 1 where all latents are weighed together."""


def guide_findings(posterior: Posterior, evidence: Evidence | None = None) -> list[Finding]:
    """k-hat of a guide with latents, flagged *inference failed* where it misses part of the posterior."""
    if posterior.guide is None or not posterior.draws:
        return []
    points = point_estimates(posterior)
    if points:
        message = (
            f"the guide has point estimates of {list(points)} in place of densities; use pb.Laplace, or another guide"
        )
        return [finding("guide k-hat", math.inf, message, flag=Verdict.FAILED)]
    k_hat, fraction = coverage(posterior, evidence)
    failed = fraction > BAD_FRACTION
    some = f" on {fraction:.0%} of the rows" if 0 < fraction < 1 else ""
    message = (
        f"above {K_HAT_LIMIT}{some}: the guide misses part of the posterior; use a richer guide, or NUTS"
        if failed
        else f"above {K_HAT_LIMIT}{some} only, at most {BAD_FRACTION:.0%}: the guide covers the posterior"
        if some
        else "the guide covers the posterior: its importance weights can be trusted"
    )
    return [finding("guide k-hat", k_hat, message, flag=Verdict.FAILED if failed else "")]


def coverage(posterior: Posterior, evidence: Evidence | None = None) -> Coverage:
    """Coverage of the posterior by its guide, from the weights of `evidence` where that is made of the guide's draws."""
    by_row = target_of(posterior).sites.row_local
    if evidence is not None and evidence.method == "iwae" and not by_row:
        k_hat = float(evidence.info["k_hat"])
        return Coverage(k_hat, float(bool(untrusted(float(evidence.info["relative_ess"]), k_hat))))
    with torch.no_grad():
        log_w = guide_weights(posterior, GUIDE_DRAWS, 0).double()
    relative = torch.exp(log_w - (torch.logsumexp(log_w, 0) - math.log(len(log_w))))
    ess = 1 / (relative**2).mean(0)
    rows = len(ess)
    worst = torch.argsort(ess)[: max(WORST_ROWS, math.ceil(BAD_FRACTION * rows) + 1)].tolist()
    k_hats = [pareto_k(log_w[:, row].cpu().numpy()) for row in worst]
    bad = sum(bool(untrusted(float(ess[row]), k_hat)) for row, k_hat in zip(worst, k_hats, strict=True))
    return Coverage(float(np.max(k_hats[:WORST_ROWS])), bad / rows)
