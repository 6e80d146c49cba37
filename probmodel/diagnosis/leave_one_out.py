"""Leave-one-out cross-validation of a fit from its draws (Vehtari, Gelman & Gabry, 2017).

Latents local to a row are integrated for the row given the shared latents (Merkle, Furr & Rabe-Hesketh, 2019): its own
observations have moved their draws, so that those of the others do not tell what the row left out would be.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probmodel.diagnosis.densities import some
from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.guides import BAD_FRACTION
from probmodel.diagnosis.integrated import integrated_log_likelihood
from probmodel.draws.diagnostics import Loo, loo
from probmodel.evidence.weighing.weights import K_HAT_LIMIT, theta_draws
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.target import target_of

WAIC_LIMIT = 0.4
"""Posterior variance of a row's log likelihood above which WAIC is not to be trusted (Vehtari, Gelman & Gabry, 2017)."""
P_LOO_LIMIT = 0.5
"""Effective parameters per row above which a fit follows single rows."""


class RowDraws(NamedTuple):
    """Log likelihood of each row at draws of the shared latents, or the reason why no row can be left out."""

    log_likelihood: Float[Tensor, "S N"] | None
    reason: str = ""


def row_draws(posterior: Posterior) -> RowDraws:
    """Log p(y_i | θ_s) in nats for up to 500 draws, with the latents that are local to row i integrated.

    There is none for a model without latents shared by rows, with one joint term for all of its rows, or whose local
    latents cannot be integrated; the reason says which.
    """
    target = target_of(posterior)
    latents = target.sites.latents
    if not latents:
        return RowDraws(None, "point estimates alone, whose training score says nothing about new rows")
    if all(latent.row_dim is not None for latent in latents):
        names = [latent.name for latent in latents]
        return RowDraws(None, f"latents local to a row ({', '.join(names)}) and none that rows share")
    theta = some(theta_draws(posterior, target))
    if any(latent.row_dim is not None for latent in latents):
        return RowDraws(*integrated_log_likelihood(posterior, target, theta))
    with torch.no_grad():
        by_row = target.log_likelihood_by_row(theta)
    if target.sites.is_joint(by_row.shape[1]):
        return RowDraws(None, "one joint term for all rows, of which none can be left out")
    return RowDraws(by_row)


def log_likelihood_draws(posterior: Posterior) -> Float[Tensor, "S N"] | None:
    """Log p(y_i | θ_s) in nats for up to 500 draws; None if no row can be left out by importance weights."""
    return row_draws(posterior).log_likelihood


def leave_one_out(posterior: Posterior) -> Loo | None:
    """PSIS-LOO by ArviZ; None if no row can be left out by importance weights."""
    by_row = log_likelihood_draws(posterior)
    return None if by_row is None else loo(by_row[None].numpy(force=True))


def p_waic(log_likelihood: Float[Tensor, "S N"]) -> Float[Tensor, " N"]:
    """Variance over draws of log p(y_i | θ_s): the effective number of parameters per row as WAIC counts it.

    Reference:
        Watanabe (2010), "Asymptotic equivalence of Bayes cross validation and WAIC in singular learning theory".
    """
    return log_likelihood.double().var(0)


def loo_findings(by_row: Float[Tensor, "S N"], *, decisive: bool) -> list[Finding]:
    """Findings of PSIS-LOO; `decisive` where no held-out rows are given, so that the verdict rests on them.

    p_loo above half the number of rows overfits.  With k-hat above 0.7 on more than 5 % of rows nothing is left to tell
    whether the fit predicts new rows.
    """
    left_out, waic = loo(by_row[None].numpy(force=True)), p_waic(by_row)
    rows = len(left_out.elpd_by_row)
    bad = float(np.mean(left_out.pareto_k > K_HAT_LIMIT))
    follows = left_out.p_loo / rows > P_LOO_LIMIT
    message = f"for {rows} rows; above half their number the model follows single rows"
    doubt = f"leave-one-out: k-hat above {K_HAT_LIMIT} on {bad:.1%} of the rows" if bad > 0 else ""
    score = "expected log predictive density by PSIS-LOO, nats over the data set"
    flag = Verdict.OVERFITS if decisive and follows else ""
    found = [
        finding("elpd_loo", left_out.elpd, score, stderr=left_out.se, doubt=doubt),
        finding("p_loo", left_out.p_loo, f"effective number of parameters {message}", flag=flag, doubt=doubt),
        finding("p_waic", float(waic.sum()), _waic_message(waic)),
    ]
    return [*found, _k_hats(bad, decisive=decisive and not follows)] if bad > 0 else found


def _k_hats(bad: float, *, decisive: bool) -> Finding:
    failed = decisive and bad > BAD_FRACTION
    message = f"fraction of rows whose k-hat exceeds {K_HAT_LIMIT}" + (
        f"; above {BAD_FRACTION} nothing tells how the fit predicts new rows: pass held-out rows" if failed else ""
    )
    return finding("loo k-hat", bad, message, flag=Verdict.FAILED if failed else CAUTION)


def _waic_message(waic: Float[Tensor, " N"]) -> str:
    unstable = int((waic > WAIC_LIMIT).sum())
    doubt = f"; {unstable} rows have a variance above {WAIC_LIMIT}, so trust p_loo" if unstable else ""
    return f"effective number of parameters by the variance over draws, as in WAIC{doubt}"
