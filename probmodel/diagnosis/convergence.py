"""Convergence of the inference: plateau of the loss, R-hat, effective sample size, divergences, and k-hat of a guide."""

import numpy as np
import torch

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.draws.diagnostics import ess_bulk, rhat
from probmodel.evidence.weighing.weights import K_HAT_LIMIT, guide_weights, weighted_mean
from probmodel.inference.descent.trend import loss_trend
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior

R_HAT_LIMIT = 1.01
"""Largest R-hat of chains that agree (Vehtari et al., 2021)."""
R_HAT_FAILURE = 1.1
"""R-hat above which the chains sample different distributions: Gelman & Rubin's limit."""
LEAST_ESS = 400
"""Effective sample size below which R-hat itself is not to be trusted (Vehtari et al., 2021)."""
K_HAT_DRAWS = 300
UNFINISHED = 0.05
"""Nats per row: a loss that falls by more than this in the last tenth of the steps is far from its minimum."""


def convergence(posterior: Posterior, evidence: Evidence | None = None) -> list[Finding]:
    """Findings on the convergence of the inference, flagged *inference failed* if its result cannot be used."""
    return [
        *_interrupted(posterior),
        *optimization_findings(posterior),
        *_chains(posterior),
        *_guide(posterior, evidence),
    ]


def _interrupted(posterior: Posterior) -> list[Finding]:
    if not posterior.info.get("interrupted"):
        return []
    message = "the fit was interrupted before its steps or draws were done; fit again for all of them"
    return [finding("interrupted", 1.0, message, flag=CAUTION)]


def optimization_findings(posterior: Posterior) -> list[Finding]:
    """Findings on the losses of an optimization in `info`; empty for inference without losses."""
    losses = np.asarray(posterior.info.get("losses", ()))
    if losses.size == 0:
        return []
    if not np.isfinite(losses).all():
        return [finding("loss", np.nan, "the loss is not finite", flag=Verdict.FAILED)]
    tail = losses[-max(len(losses) // 10, 1) :]
    stderr = tail.std() / len(tail) ** 0.5
    found = [
        finding(
            "loss", tail.mean(), "mean loss over the last tenth of the steps, nats over the data set", stderr=stderr
        )
    ]
    if len(losses) > 1 and tail.mean() > losses[0] + 2 * stderr:
        found.append(
            finding(
                "descent",
                losses[0] - tail.mean(),
                "the loss is higher at the end than at the start",
                flag=Verdict.FAILED,
            )
        )
    if posterior.info.get("plateau", True):
        return [*found, finding("plateau", 1.0, "the loss has leveled off")]
    fell = loss_trend(tail.tolist())
    error = f" ± {fell.stderr:.1f}" if np.isfinite(fell.stderr) else ""
    more = ": more steps would lower it" if fell.exceeds(0.0) else ""
    size = f"{max(0.0, fell.size):.1f}{error}"
    message = f"the loss has not leveled off; it fell by {size} nats in the last tenth of the steps{more}"
    far = fell.exceeds(max(1.0, UNFINISHED * (posterior.data.size or 0)))
    return [*found, finding("plateau", 0.0, message, flag=Verdict.FAILED if far else CAUTION)]


def _chains(posterior: Posterior) -> list[Finding]:
    draws = {name: value.numpy(force=True) for name, value in posterior.draws.items()}
    if not draws or posterior.guide is not None:
        return []
    stuck = [name for name, value in draws.items() if not np.isfinite(value).all() or _never_moves(value)]
    if stuck:
        return [finding("R-hat", np.nan, f"the draws of {stuck} are not finite or all equal", flag=Verdict.FAILED)]
    found = []
    unmoved = int(posterior.info.get("stuck_chains", 0))
    if unmoved:
        message = (
            "chains that never move or whose step size collapsed; write a centered hierarchy as a non-centered one"
        )
        found.append(finding("stuck chains", unmoved, message, flag=CAUTION))
    worst = float(np.fmax.reduce(np.concatenate([value.ravel() for value in rhat(draws).values()])))
    if next(iter(draws.values())).shape[0] > 1:
        flag = Verdict.FAILED if worst > R_HAT_FAILURE else "" if worst <= R_HAT_LIMIT else CAUTION
        found.append(
            finding("R-hat", worst, f"largest R-hat over all sites; chains agree below {R_HAT_LIMIT}", flag=flag)
        )
    else:
        found.append(
            finding("R-hat", np.nan, "a single chain cannot show whether it has converged; run 4 chains", flag=CAUTION)
        )
    ess = float(np.fmin.reduce(np.concatenate([value.ravel() for value in ess_bulk(draws).values()])))
    flag = "" if ess >= LEAST_ESS else CAUTION  # ESS is nan for fewer than four draws.
    found.append(finding("ESS", ess, f"smallest bulk effective sample size; {LEAST_ESS} or more is enough", flag=flag))
    total = next(iter(draws.values())).shape[0] * next(iter(draws.values())).shape[1]
    fraction = float(posterior.info.get("divergences", 0)) / total
    if fraction > 0:
        message = (
            "fraction of divergent transitions: there are regions the sampler cannot enter; reparametrize the model"
        )
        found.append(finding("divergences", fraction, message, flag=Verdict.FAILED if fraction > 0.1 else CAUTION))
    return found


def _never_moves(draws: np.ndarray) -> bool:
    """Return whether no chain of a site moves.

    Single elements may stay constant, such as the zeros of a triangular matrix.
    """
    return draws.shape[0] * draws.shape[1] > 1 and bool((draws == draws[:, :1]).all()) and draws.shape[1] > 1


def _guide(posterior: Posterior, evidence: Evidence | None) -> list[Finding]:
    if posterior.guide is None or not posterior.draws:
        return []
    k_hat = None if evidence is None else evidence.info.get("k_hat")
    if k_hat is None:
        with torch.no_grad():
            k_hat = weighted_mean(guide_weights(posterior, K_HAT_DRAWS, 0)).k_hat
    untrusted = k_hat > K_HAT_LIMIT
    message = (
        "the guide misses part of the posterior (Yao et al., 2018): its evidence is only a lower bound"
        if untrusted
        else "the guide covers the posterior: its importance weights can be trusted"
    )
    return [finding("k-hat", k_hat, message, flag=CAUTION if untrusted else "")]
