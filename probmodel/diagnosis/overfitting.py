"""Overfitting and underfitting of a fit: gap to held-out rows, overconfidence, leave-one-out cross-validation."""

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from probmodel.diagnosis.densities import predicts_one_site, row_findings, some
from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.leave_one_out import loo_findings, row_draws
from probmodel.diagnosis.refitted import refitted
from probmodel.diagnosis.scored import (
    SIGNIFICANT,
    Gain,
    Scored,
    data_by_row,
    difference,
    is_material,
    overconfidence_verdict,
    paired,
    recalibration_gain,
    refuse_too_few,
    score_findings,
    scored,
)
from probmodel.evidence.weighing.weights import theta_draws
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import HasLeaveOneOut
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.randomness import isolated
from probmodel.tracing.target import target_of

PASS_ROWS = "pass held-out rows, as in diagnose(fit, test)"


def overfitting(posterior: Posterior, held_out: Dataset | None = None) -> list[Finding]:
    """Findings on overfitting and underfitting, flagged with the verdict they support.

    With held-out rows they are the gap of the mean log scores with its standard error, and the gain from a recalibration
    of the predictions that is fitted on one half of the held-out rows and scored on the other: overconfident predictions
    can be improved without further rows (Harrell's calibration slope; Guo et al., 2017).
    A gap alone every fitted model has, of about p / N nats per row for p effective parameters.  Without held-out rows
    PSIS-LOO takes their place; where it cannot, a finding says so, and supports no verdict.

    Args:
        posterior: fit by any inference.
        held_out: rows that the fit has not used.

    Raises:
        ValueError: for point estimates alone, if no held-out rows are given.
    """
    if isinstance(posterior.model, HasLeaveOneOut):
        found = _by_closed_form(posterior, posterior.model, decisive=held_out is None)
        return found if held_out is None else [*found, *_by_held_out(posterior, held_out)]
    by_row, reason = row_draws(posterior)
    if held_out is None and by_row is None:
        if not posterior.draws:
            raise ValueError(f"expected held-out data or latents shared by rows, got {reason}; {PASS_ROWS}")
        message = f"not checked, since the model has {reason}; {PASS_ROWS}"
        return [finding("new rows", float("nan"), message, flag=CAUTION)]
    found = [] if by_row is None else loo_findings(by_row, decisive=held_out is None)
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
    return loo_findings(torch.stack(each), decisive=decisive)


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
    null = baseline(train, test)
    learned, learned_error = paired(train.log_score - null[0])
    held, held_error = paired(test.log_score - null[1])
    has_learned = learned > SIGNIFICANT * learned_error
    blind = _has_features(posterior.data, train.observed) and not has_learned
    worse = held < -SIGNIFICANT * held_error and has_learned
    recalibrated = _recalibration(train, test, gap_is_significant=gap > SIGNIFICANT * gap_error)
    overconfident = Verdict.OVERFITS if recalibrated.flag == Verdict.OVERFITS else ""
    lost = gap / learned if has_learned else float("nan")
    return [
        *score_findings(train.log_score, test.log_score, overconfident, train.doubt or test.doubt),
        recalibrated,
        finding(
            "gain over base rate",
            held,
            f"held-out nats per row over a prediction that uses no features; {learned:.3g} on the training rows",
            stderr=held_error,
            flag=Verdict.OVERFITS if worse else Verdict.UNDERFITS if blind else "",
        ),
        finding("lost gain", lost, "fraction of the training rows' gain over the base rate that new rows do not show"),
    ]


def _recalibration(train: Scored, test: Scored, *, gap_is_significant: bool) -> Finding:
    (mean, stderr), too_narrow = recalibration_gain(test)
    (on_train, train_error), train_narrow = recalibration_gain(train)
    gain = Gain(mean, stderr, is_material(on_train, train_error) and train_narrow == too_narrow)
    message = f"nats per row that {'widening' if too_narrow else 'sharpening'} the held-out predictions gains"
    flag = overconfidence_verdict(gain, gap_is_significant=gap_is_significant, narrow=too_narrow)
    return finding("overconfidence", mean, message, stderr=stderr, flag=CAUTION if mean != mean else flag)


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
