"""Overfitting and underfitting of a fit: gap to held-out rows, overconfidence, leave-one-out cross-validation."""

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
    data_by_row,
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
from probmodel.protocols.model import HasLeaveOneOut
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

WAIC_LIMIT = 0.4
"""Posterior variance of a row's log likelihood above which WAIC is not to be trusted (Vehtari, Gelman & Gabry, 2017)."""


def log_likelihood_draws(posterior: Posterior) -> Float[Tensor, "S N"] | None:
    """Log p(y_i | θ_s) in nats for up to 500 draws; None if no row can be left out by importance weights.

    That is so for a model without latents, with latents local to a row, or with one joint term for all of its rows.
    """
    target = target_of(posterior)
    found = target.sites
    if target.dim == 0 or any(latent.row_dim is not None for latent in found.latents):
        return None
    theta = some(theta_draws(posterior, target))
    with torch.no_grad():
        by_row = target.log_likelihood_by_row(theta)
    return None if found.is_joint(by_row.shape[1]) else by_row


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


def overfitting(posterior: Posterior, held_out: Dataset | None = None) -> list[Finding]:
    """Findings on overfitting and underfitting, flagged with the verdict they support.

    With held-out rows they are the gap of the mean log scores with its standard error, and the gain from a recalibration
    of the predictions that is fitted on one half of the held-out rows and scored on the other: overconfident predictions
    can be improved without further rows (Harrell's calibration slope; Guo et al., 2017).
    *Overfits* requires both, since every fitted model has a gap, of about p / N nats per row for p effective parameters.

    Args:
        posterior: fit by any inference.
        held_out: rows that the fit has not used.

    Raises:
        ValueError: for a model without latents whose draws can leave rows out, if no held-out rows are given.
    """
    if isinstance(posterior.model, HasLeaveOneOut):
        found = _by_closed_form(posterior, posterior.model, decisive=held_out is None)
        return found if held_out is None else [*found, *_by_held_out(posterior, held_out)]
    by_row = log_likelihood_draws(posterior)
    if held_out is None and by_row is None:
        raise ValueError(
            "expected held-out data or latents shared by rows, got point estimates alone, whose training score says "
            "nothing about new rows; pass held-out rows, as in diagnose(fit, test)"
        )
    found = [] if by_row is None else _by_loo(by_row, decisive=held_out is None)
    return found if held_out is None else [*found, *_by_held_out(posterior, held_out)]


def _by_closed_form(posterior: Posterior, model: HasLeaveOneOut, *, decisive: bool) -> list[Finding]:
    """Leave rows out of a Gaussian process in closed form, per draw of its hyperparameters or at their point estimates."""
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
    message = f"for {rows} rows; above half their number the model follows single rows"
    flag = Verdict.OVERFITS if decisive and trusted and per_row > 0.5 else CAUTION if per_row > 0.5 else ""
    found = [
        finding(
            "elpd_loo",
            left_out.elpd,
            "expected log predictive density by PSIS-LOO, nats over the data set",
            stderr=left_out.se,
        ),
        finding("p_loo", left_out.p_loo, f"effective number of parameters {message}", flag=flag),
        finding("p_waic", float(waic.sum()), _waic_message(waic)),
    ]
    if not trusted:
        found.append(finding("loo k-hat", bad, f"fraction of rows whose k-hat exceeds {K_HAT_LIMIT}", flag=CAUTION))
    return found


def _waic_message(waic: Float[Tensor, " N"]) -> str:
    unstable = int((waic > WAIC_LIMIT).sum())
    doubt = f"; {unstable} rows have a variance above {WAIC_LIMIT}, so trust p_loo" if unstable else ""
    return f"effective number of parameters by the variance over draws, as in WAIC{doubt}"


def _by_held_out(posterior: Posterior, held_out: Dataset) -> list[Finding]:
    if not predicts_one_site(posterior):
        return row_findings(posterior, held_out)
    train, test = scored(posterior, data_by_row(posterior)), scored(posterior, held_out)
    refuse_too_few(test.log_score)
    gap, gap_error = difference(train.log_score, test.log_score)
    broken = not (torch.isfinite(train.log_score).all() and torch.isfinite(test.log_score).all())
    if broken:
        message = "nats per row; not finite: a row has probability zero or a prediction that is NaN"
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
            f"nats per row that {'widening' if too_narrow else 'sharpening'} the held-out predictions gains",
            stderr=gain_error,
            flag=Verdict.OVERFITS if overconfident else doubtful,
        ),
        finding(
            "gain over base rate",
            test_gain,
            "held-out nats per row over a prediction that uses no features",
            stderr=test_error,
            flag=Verdict.OVERFITS if worse else Verdict.UNDERFITS if blind else "",
        ),
    ]


def _has_features(data: Dataset, observed: Tensor) -> bool:
    """Return whether the data hold a tensor per row besides the observations; else no prediction can beat the base rate."""
    by_row = [tensor for tensor in data.tensors() if tensor.dim() and len(tensor) == data.num_rows]
    return any(tensor.shape != observed.shape or not torch.equal(tensor, observed) for tensor in by_row)


def baseline(train: Scored, test: Scored) -> tuple[Float[Tensor, " N"], Float[Tensor, " M"]]:
    """Log scores per row of a prediction without features: frequencies in the training rows, or their mean and variance.

    Frequencies, with one added to each count, are used for discrete observations that take fewer values than there are
    rows: a density could not be compared with the probabilities of the fit.

    Returns:
        Log scores of the training rows and of the held-out rows, nats per row.
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
