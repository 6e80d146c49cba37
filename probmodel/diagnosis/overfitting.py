"""Does the fit say more about its data than about new rows: gap to held-out rows, overconfidence, leave-one-out."""

import numpy as np
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from probmodel.diagnosis.densities import predicts_one_site, row_findings, some
from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.refitted import refitted
from probmodel.diagnosis.scored import (
    MATERIAL,
    SIGNIFICANT,
    Scored,
    difference,
    paired,
    recalibration_gain,
    refuse_too_few,
    score_findings,
    scored,
)
from probmodel.draws.diagnostics import Loo, loo
from probmodel.evidence.weighing.weights import K_HAT_LIMIT, theta_draws
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import LeavesOneOut
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites
from probmodel.tracing.target import target_of

WAIC_LIMIT = 0.4
"""Variance of a row's log likelihood above which WAIC is not to be trusted (Vehtari, Gelman & Gabry, 2017)."""


def log_likelihood_draws(posterior: Posterior) -> Float[Tensor, "S N"] | None:
    """Log p(y_i | θ_s) of up to 500 draws; None for a model without latents that rows share, or whose rows have one term
    between them: no row can be left out of it by weights.
    """
    target = target_of(posterior)
    with isolated(seed=0):
        found = sites(posterior.model, posterior.data)
    if target.dim == 0 or any(latent.row_dim is not None for latent in found.latents):
        return None
    theta = some(theta_draws(posterior, target))
    with torch.no_grad():
        by_row = target.log_likelihood_by_row(theta)
    return None if found.is_joint(by_row.shape[1]) else by_row


def leave_one_out(posterior: Posterior) -> Loo | None:
    """PSIS-LOO by ArviZ; None where no row can be left out by weights."""
    by_row = log_likelihood_draws(posterior)
    return None if by_row is None else loo(by_row[None].numpy(force=True))


def p_waic(log_likelihood: Float[Tensor, "S N"]) -> Float[Tensor, " N"]:
    """Variance over draws of log p(y_i | θ_s): the effective number of parameters by row, as WAIC counts it.

    Reference:
        Watanabe (2010), "Asymptotic equivalence of Bayes cross validation and WAIC in singular learning theory".
    """
    return log_likelihood.double().var(0)


def overfitting(posterior: Posterior, held_out: Dataset | None = None) -> list[Finding]:
    """Findings on overfitting and underfitting, flagged with the verdict they speak for.

    With held-out rows: the gap of mean log scores with its standard error, and how much a recalibration of the
    predictions, fitted on one half of the held-out rows and scored on the other, gains: predictions that claim more than
    the data hold can be improved without knowing any new row (Harrell's calibration slope; Guo et al., 2017).
    *Overfits* needs both.  A gap alone every fitted model has; it is about p / N a row for p effective parameters.

    Raises:
        ValueError: where there are neither held-out rows nor latents whose draws leave rows out.
    """
    if isinstance(posterior.model, LeavesOneOut):
        found = _by_closed_form(posterior, posterior.model, decisive=held_out is None)
        return found if held_out is None else [*found, *_by_held_out(posterior, held_out)]
    by_row = log_likelihood_draws(posterior)
    if held_out is None and by_row is None:
        raise ValueError(
            "expected held-out data or latents shared by rows, got point estimates alone: their training score says "
            "nothing about new rows; pass diagnose(fit, test)"
        )
    found = [] if by_row is None else _by_loo(by_row, decisive=held_out is None)
    return found if held_out is None else [*found, *_by_held_out(posterior, held_out)]


def _by_closed_form(posterior: Posterior, model: LeavesOneOut, *, decisive: bool) -> list[Finding]:
    """A process leaves rows out in closed form: at each draw of its hyperparameters, or at their point estimates."""
    target = target_of(posterior)
    if target.dim == 0:
        return refitted(posterior, model)
    draws = target.constrain(some(theta_draws(posterior, target)))
    with torch.no_grad(), isolated(seed=0):
        each = [
            poutine.condition(model.log_leave_one_out, {name: value[i] for name, value in draws.items()})(
                posterior.data
            )
            for i in range(len(next(iter(draws.values()))))
        ]
    return _by_loo(torch.stack(each), decisive=decisive)


def _by_loo(by_row: Float[Tensor, "S N"], *, decisive: bool) -> list[Finding]:
    left_out, waic = loo(by_row[None].numpy(force=True)), p_waic(by_row)
    rows = len(left_out.elpd_by_row)
    bad = float(np.mean(left_out.pareto_k > K_HAT_LIMIT))
    trusted = bad == 0
    per_row = left_out.p_loo / rows
    message = f"of {rows} rows; above half of them the model follows single rows"
    flag = Verdict.OVERFITS if decisive and trusted and per_row > 0.5 else CAUTION if per_row > 0.5 else ""
    found = [
        finding(
            "elpd_loo", left_out.elpd, "expected log score of new rows, nats over the data set", stderr=left_out.se
        ),
        finding("p_loo", left_out.p_loo, f"effective number of parameters {message}", flag=flag),
        finding("p_waic", float(waic.sum()), _waic_message(waic)),
    ]
    if not trusted:
        found.append(finding("loo k-hat", bad, f"share of rows whose k-hat exceeds {K_HAT_LIMIT}", flag=CAUTION))
    return found


def _waic_message(waic: Float[Tensor, " N"]) -> str:
    unstable = int((waic > WAIC_LIMIT).sum())
    doubt = f"; {unstable} rows vary by more than {WAIC_LIMIT}, trust p_loo" if unstable else ""
    return f"the same by the variance over draws, as in WAIC{doubt}"


def _by_held_out(posterior: Posterior, held_out: Dataset) -> list[Finding]:
    if not predicts_one_site(posterior):
        return row_findings(posterior, held_out)
    train, test = scored(posterior, posterior.data), scored(posterior, held_out)
    refuse_too_few(test.log_score)
    gap, gap_error = difference(train.log_score, test.log_score)
    broken = not (torch.isfinite(train.log_score).all() and torch.isfinite(test.log_score).all())
    if broken:
        message = "nats a row: a row has probability zero or a prediction that is no number"
        return [finding("held-out log score", float(test.log_score.mean()), message, flag=Verdict.FAILED)]
    (gain, gain_error), too_narrow = recalibration_gain(test)
    null = baseline(train, test)
    train_gain, train_error = paired(train.log_score - null[0])
    test_gain, test_error = paired(test.log_score - null[1])
    material = gain > max(MATERIAL, SIGNIFICANT * gain_error)
    overconfident = gap > SIGNIFICANT * gap_error and material and too_narrow
    doubtful = CAUTION if material or gain != gain else ""
    worse = test_gain < -SIGNIFICANT * test_error and train_gain > SIGNIFICANT * train_error
    blind = _has_features(posterior.data, train.observed) and train_gain < SIGNIFICANT * train_error
    return [
        *score_findings(train.log_score, test.log_score, Verdict.OVERFITS if overconfident else ""),
        finding(
            "overconfidence",
            gain,
            f"nats a row that {'widening' if too_narrow else 'sharpening'} the held-out predictions gains",
            stderr=gain_error,
            flag=Verdict.OVERFITS if overconfident else doubtful,
        ),
        finding(
            "gain over base rate",
            test_gain,
            "held-out nats a row over a prediction that knows no features",
            stderr=test_error,
            flag=Verdict.OVERFITS if worse else Verdict.UNDERFITS if blind else "",
        ),
    ]


def _has_features(data: Dataset, observed: Tensor) -> bool:
    """Whether the call holds anything by row beside what was observed; else no prediction can beat the base rate."""
    by_row = [tensor for tensor in data.tensors() if tensor.dim() and len(tensor) == data.num_rows]
    return any(tensor.shape != observed.shape or not torch.equal(tensor, observed) for tensor in by_row)


def baseline(train: Scored, test: Scored) -> tuple[Float[Tensor, " N"], Float[Tensor, " M"]]:
    """Log scores by row of a prediction without features: frequencies in the training rows, or their mean and variance.

    Frequencies, each value counted once more than seen, serve discrete observations that take no more values than there
    are rows: a density could not be set against the probabilities of the fit.
    """
    observed = [train.observed, test.observed]
    largest = int(max(y.max() for y in observed)) if _is_discrete(train.prediction.by_draw) else len(train.log_score)
    null: Distribution
    if largest < len(train.log_score):
        observed = [y.long() for y in observed]
        counts = torch.bincount(observed[0].reshape(-1), minlength=largest + 1).double() + 1
        null = Categorical(probs=counts / counts.sum())
    else:
        y = train.observed.double()
        null = Normal(y.mean(0), y.std(0).clamp_min(1e-6))
    scores = [null.log_prob(y).double() for y in observed]
    return scores[0].reshape(len(scores[0]), -1).sum(-1), scores[1].reshape(len(scores[1]), -1).sum(-1)


def _is_discrete(distribution: Distribution) -> bool:
    support = distribution.support
    return support is not None and support.is_discrete
