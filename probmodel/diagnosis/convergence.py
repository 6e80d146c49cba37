"""Convergence of the inference: its loss or likelihood, its chains, and the importance weights of its guide."""

import numpy as np

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.guides import guide_findings
from probmodel.draws.diagnostics import R_HAT_LIMIT, ess_bulk, rhat
from probmodel.inference.descent.trend import recent_trend
from probmodel.protocols.evidence import Evidence
from probmodel.protocols.posterior import Posterior

LEAST_ESS = 400
"""Effective sample size below which R-hat itself is not to be trusted (Vehtari et al., 2021)."""
DIVERGENCE_LIMIT = 0.01
"""Fraction of divergent transitions above which the draws leave out part of the posterior (Betancourt, 2017)."""
LEAST_STEPS = 100
"""Number of steps below which losses cannot show that they have leveled off."""
LEAST_EVALUATIONS = 6
"""Number of evaluations of a likelihood from which their trend is judged."""


def convergence(posterior: Posterior, evidence: Evidence | None = None) -> list[Finding]:
    """Findings on the convergence of the inference, flagged *inference failed* if its result cannot be used."""
    return [
        *_interrupted(posterior),
        *optimization_findings(posterior),
        *_likelihoods(posterior),
        *_criterion(posterior),
        *_chains(posterior),
        *guide_findings(posterior, evidence),
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
    message = "mean loss over the last tenth of the steps, nats over the data set"
    found = [finding("loss", tail.mean(), message, stderr=tail.std() / len(tail) ** 0.5)]
    # The first loss is as noisy as each of the last ones: a descent that starts at its minimum does not rise.
    if len(losses) > 1 and tail.mean() > losses[0] + 2 * tail.std() * (1 + 1 / len(tail)) ** 0.5:
        rise = "the loss is higher at the end than at the start"
        found.append(finding("descent", losses[0] - tail.mean(), rise, flag=Verdict.FAILED))
    return [*found, _plateau(losses, posterior)]


def _plateau(losses: np.ndarray, posterior: Posterior) -> Finding:
    recent = recent_trend(losses.tolist(), posterior.data.size)
    if recent.falls:
        return finding("plateau", 0.0, f"the loss still {recent}; raise num_steps", flag=Verdict.FAILED)
    if len(losses) < LEAST_STEPS and not posterior.info.get("plateau", False):
        message = f"{len(losses)} steps cannot show that the loss has leveled off; take {LEAST_STEPS} or more"
        return finding("plateau", 0.0, message, flag=Verdict.FAILED)
    shown = f": it {recent}" if np.isfinite(recent.trend.stderr) else ""
    return finding("plateau", 1.0, f"the loss has leveled off{shown}")


def _likelihoods(posterior: Posterior) -> list[Finding]:
    """Plateau of the likelihoods that were evaluated during learning, in nats per row."""
    values = np.asarray(posterior.info.get("log_likelihood", ()), dtype=float)
    if values.ndim != 1 or len(values) < LEAST_EVALUATIONS or not np.isfinite(values).all():
        return []
    rows = posterior.data.size or posterior.data.num_rows or 1
    recent = recent_trend((-values * rows).tolist(), rows)
    if not recent.falls:
        return [finding("plateau", 1.0, "the log likelihood has leveled off over the last half of its evaluations")]
    message = (
        f"the log likelihood still rose by {recent.trend.size / rows:.2g} ± {recent.trend.stderr / rows:.2g} nats per row in the "
        f"last {recent.num_steps} evaluations; take more steps"
    )
    return [finding("plateau", 0.0, message, flag=Verdict.FAILED)]


def _criterion(posterior: Posterior) -> list[Finding]:
    """Whether an optimizer met its own criterion, for those that have one."""
    if "converged" not in posterior.info:
        return []
    met = bool(posterior.info["converged"])
    message = (
        "the optimizer met its tolerance" if met else "the optimizer stopped before its tolerance; raise max_steps"
    )
    return [finding("converged", float(met), message, flag="" if met else Verdict.FAILED)]


def _chains(posterior: Posterior) -> list[Finding]:
    draws = {name: value.numpy(force=True) for name, value in posterior.draws.items()}
    if not draws or posterior.guide is not None:
        return []
    stuck = [name for name, value in draws.items() if not np.isfinite(value).all() or _never_moves(value)]
    if stuck:
        return [finding("R-hat", np.nan, f"the draws of {stuck} are not finite or all equal", flag=Verdict.FAILED)]
    return [*_stuck_chains(posterior), _r_hat(draws), _ess(draws), *_divergences(posterior, draws)]


def _stuck_chains(posterior: Posterior) -> list[Finding]:
    unmoved = int(posterior.info.get("stuck_chains", 0))
    message = "chains that never move or whose step size collapsed; write a centered hierarchy as a non-centered one"
    return [finding("stuck chains", unmoved, message, flag=Verdict.FAILED)] if unmoved else []


def _r_hat(draws: dict[str, np.ndarray]) -> Finding:
    if next(iter(draws.values())).shape[0] == 1:
        message = "a single chain cannot show whether it has converged; run 4 chains"
        return finding("R-hat", np.nan, message, flag=Verdict.FAILED)
    worst = _worst(np.fmax, rhat(draws))
    message = f"largest R-hat over all sites; chains agree up to {R_HAT_LIMIT}"
    return finding("R-hat", worst, message, flag="" if worst <= R_HAT_LIMIT else Verdict.FAILED)


def _ess(draws: dict[str, np.ndarray]) -> Finding:
    least = _worst(np.fmin, ess_bulk(draws))
    message = f"smallest bulk effective sample size; {LEAST_ESS} or more are enough"
    return finding("ESS", least, message, flag="" if least >= LEAST_ESS else Verdict.FAILED)  # nan for under four draws


def _divergences(posterior: Posterior, draws: dict[str, np.ndarray]) -> list[Finding]:
    chains, count = next(iter(draws.values())).shape[:2]
    fraction = float(posterior.info.get("divergences", 0)) / (chains * count)
    if fraction == 0:
        return []
    limit = f"fraction of divergent transitions; above {DIVERGENCE_LIMIT}"
    message = f"{limit} there are regions that the sampler cannot enter, so reparametrize the model"
    return [finding("divergences", fraction, message, flag=Verdict.FAILED if fraction > DIVERGENCE_LIMIT else "")]


def _worst(pick: np.ufunc, by_site: dict[str, np.ndarray]) -> float:
    return float(pick.reduce(np.concatenate([value.ravel() for value in by_site.values()])))


def _never_moves(draws: np.ndarray) -> bool:
    """Return whether no chain of a site moves.

    Single elements may stay constant, such as the zeros of a triangular matrix.
    """
    return draws.shape[0] * draws.shape[1] > 1 and bool((draws == draws[:, :1]).all()) and draws.shape[1] > 1
