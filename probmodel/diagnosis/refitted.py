"""Overfitting of hyperparameters, or of a kernel's network, to single rows (Ober, Rasmussen & van der Wilk, 2021).

A row can be left out of a Gaussian process in closed form, but not out of the fit of its hyperparameters.  Two refits show
the difference: to part of the rows, scored on the others, and to permuted observations, which should not be predictable.
"""

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from gpytorch.utils.warnings import NumericalWarning
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from probmodel.diagnosis.findings import CAUTION, Finding, Verdict, finding
from probmodel.diagnosis.scored import MATERIAL, SIGNIFICANT, Scored, data_by_row, paired, recalibration_gain, scored
from probmodel.inference import MaximumLikelihood
from probmodel.prediction.predictive import Prediction
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.errors import ConvergenceWarning
from probmodel.protocols.model import HasLeaveOneOut
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.ownership import parameters
from probmodel.tracing.randomness import isolated, spawn
from probmodel.tracing.target import target_of

NUM_FOLDS = 5
FEWEST_STEPS = 50
"""Steps allowed to a refit at least: a fit that started near its optimum took fewer than a refit needs."""
CLAIMED = 0.5
"""Fraction of the gain over the base rate beyond which the gain on permuted observations counts as overfitting."""


def refitted(posterior: Posterior, model: HasLeaveOneOut, *, seed: int = 0) -> list[Finding]:
    """Findings on a Gaussian process without latents, flagged *overfits* if its score rests on fitting the hyperparameters.

    Fitting p hyperparameters to n rows raises the score per row by about p / n nats (Akaike, 1974); if that is below 0.05
    nothing is refitted.  Refits start from the fitted values, which a large network may keep; the permuted observations
    reveal such a case.

    Args:
        posterior: fit with point estimates alone.
        model: the model of `posterior`.
        seed: random seed of the folds, the permutation and the refits.

    Reference:
        Ober, Rasmussen & van der Wilk (2021), The Promises and Pitfalls of Deep Kernel Learning, UAI; Zhang et al. (2017),
        Understanding Deep Learning Requires Rethinking Generalization, ICLR; Sundararajan & Keerthi (2001), Predictive
        Approaches for Choosing Hyperparameters in Gaussian Processes.
    """
    with isolated(seed), torch.no_grad():
        left_out = model.log_leave_one_out(posterior.data)
    n, count = len(left_out), sum(leaf.numel() for leaf in parameters(posterior.model).values())
    error = float(left_out.std() * n**0.5) if n > 1 else float("nan")
    message = "log score of each row given all others in closed form, hyperparameters fitted to all rows; nats over the data set"
    found = [finding("elpd_loo", float(left_out.sum()), message, stderr=error)]
    if count <= MATERIAL * n or n < 2 * NUM_FOLDS:
        return found
    whole = replace(posterior, data=data_by_row(posterior))
    return [*found, *_by_folds(whole, seed), _by_permutation(whole, left_out, seed)]


def _by_folds(posterior: Posterior, seed: int) -> list[Finding]:
    held, fitted = _folds(posterior, seed, refit=False), _folds(posterior, seed, refit=True)
    loss, error = paired(held.log_score - fitted.log_score)
    (gain, gain_error), too_narrow = recalibration_gain(fitted)
    doubtful = loss > max(MATERIAL, SIGNIFICANT * error)
    overfits = doubtful and gain > max(MATERIAL, SIGNIFICANT * gain_error) and too_narrow
    verdict = Verdict.OVERFITS if overfits else ""
    message = f"nats per row that {NUM_FOLDS}-fold scores lose when each fold is left out of the hyperparameter fit too"
    widening = f"nats per row that {'widening' if too_narrow else 'sharpening'} those predictions gains"
    return [
        finding("refitting", loss, message, stderr=error, flag=verdict or (CAUTION if doubtful else "")),
        finding("refitted overconfidence", gain, widening, stderr=gain_error, flag=verdict),
    ]


def _folds(posterior: Posterior, seed: int, *, refit: bool) -> Scored:
    """Predictions of each fold from the others, with hyperparameters kept or refitted to the others."""
    data = posterior.data
    n = len(data.tensors()[0])
    with isolated(spawn(seed, 1)):
        fold = torch.randperm(n, device=data.tensors()[0].device) % NUM_FOLDS
    parts = []
    for number in range(NUM_FOLDS):
        rest, rows = _rows(data, fold != number), _rows(data, fold == number)
        fit = _refit(posterior, rest, seed) if refit else Posterior(posterior.model, rest, {}, {})
        parts.append(scored(fit, rows))
    mean, deviation = (torch.cat(each) for each in zip(*map(_moments, parts), strict=True))
    normal = Normal(mean, deviation)
    observed = torch.cat([part.observed for part in parts])
    order = torch.cat([(fold == number).nonzero()[:, 0] for number in range(NUM_FOLDS)]).argsort()
    log_score = torch.cat([part.log_score for part in parts])[order]
    prediction = Prediction(Normal(mean[order], deviation[order]), mean[order], normal)
    return Scored(prediction, observed[order], log_score)


def _by_permutation(posterior: Posterior, left_out: Float[Tensor, " n"], seed: int) -> Finding:
    with isolated(spawn(seed, 2)):
        order = torch.randperm(len(left_out), device=left_out.device)
    y = target_of(posterior).sites.observations[-1]
    data = posterior.data.map(lambda t: t[order] if t.shape == y.shape and torch.equal(t, y) else t)
    model: Any = _refit(posterior, data, seed).model
    with isolated(seed), torch.no_grad():
        by_row = model.log_leave_one_out(data)
    y = y[order].double()
    base = Normal(y.mean(), y.std()).log_prob(y)
    claim, error = paired(by_row - base)
    gain, _ = paired(left_out[order] - base)
    material = claim > max(MATERIAL, SIGNIFICANT * error)
    flag = Verdict.OVERFITS if material and claim > CLAIMED * gain else CAUTION if material else ""
    message = (
        f"nats per row over the base rate that a refit gains on permuted observations; {gain:.3g} on the real ones"
    )
    return finding("permuted", claim, message, stderr=error, flag=flag)


class _Moments(NamedTuple):
    mean: Tensor
    deviation: Tensor


def _moments(part: Scored) -> _Moments:
    found = part.prediction.distribution
    return _Moments(found.mean.double(), found.variance.double().sqrt())


def _refit(posterior: Posterior, data: Dataset, seed: int) -> Posterior:
    """Refit in at most as many steps as the fit took; warnings of convergence and jitter are left to the fit itself."""
    most = max(int(posterior.info.get("num_steps", 0)), FEWEST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        return MaximumLikelihood(max_steps=most)(posterior.model, data, seed=seed)


def _rows(data: Dataset, kept: Tensor) -> Dataset:
    return data._replace(size=len(kept)).rows(kept.nonzero()[:, 0])._replace(size=None)
