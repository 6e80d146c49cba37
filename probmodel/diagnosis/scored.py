"""Log scores of predictions and the gain from recalibrating them (Guo et al., 2017)."""

import math
from functools import singledispatch
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from probmodel.diagnosis.findings import Finding, Verdict, finding
from probmodel.diagnosis.integrated import integrated_at_new_rows
from probmodel.families.draw_mixture import moments
from probmodel.families.normal_mixture import NormalMixture
from probmodel.prediction.predictive import Prediction, predict_rows
from probmodel.protocols.dataset import Dataset
from probmodel.protocols.model import KnowsRows
from probmodel.protocols.posterior import Posterior
from probmodel.tracing.devices import on_device_of
from probmodel.tracing.randomness import isolated
from probmodel.tracing.sites import sites
from probmodel.tracing.target import target_of

SIGNIFICANT = 2.0
"""Number of standard errors above which a difference is significant."""
MATERIAL = 0.05
"""Nats per row that a recalibrated prediction must gain before overconfidence counts as overfitting."""
NUM_SCORED_DRAWS = 200
"""Draws of the shared latents over which the score of a row with local latents is averaged, as many as a prediction's."""
TEMPERATURES = torch.logspace(-1, 1.5, 101, dtype=torch.float64)
"""Temperatures tried by the recalibration."""


class Scored(NamedTuple):
    """Prediction of some rows and the log score of their observations, nats per row."""

    prediction: Prediction
    observed: Tensor
    log_score: Float[Tensor, " N"]
    doubt: str = ""
    """Reason why the log scores are not to be relied on; empty where they are."""


def scored(posterior: Posterior, data: Dataset, *, seed: int = 0) -> Scored:
    """Predict rows and score the observations in them.

    Continuous latents local to a row are integrated for the score: few of the draws from their prior, which the prediction
    averages, explain an observation far out.  Where they cannot be integrated, the average stays, with a doubt.

    Raises:
        ValueError: for rows without observations, or with one joint term for all of them.
    """
    data = on_device_of(data, posterior.data)
    with isolated(seed):
        observations = sites(posterior.model, data).observations
    if not observations:
        raise ValueError("expected rows with observations, got rows without any; pass Dataset((x,), {'y': y}, len(x))")
    observed = observations[-1]  # A model that is also a density of its codes observes the codes first.
    prediction = predict_rows(posterior, data, seed=seed)
    by_row, doubt = _integrated(posterior, data)
    if by_row is not None:
        return Scored(prediction, observed, by_row)
    log_score = prediction.distribution.log_prob(observed).double()
    if not log_score.dim():
        raise ValueError(
            "expected observations with a term for each row, got one joint term for all of them, of which no row can be scored; "
            "leave the held-out rows out, or give the model a plate over independent series"
        )
    return Scored(prediction, observed, log_score.reshape(len(log_score), -1).sum(-1), doubt)


def _integrated(posterior: Posterior, data: Dataset) -> tuple[Tensor | None, str]:
    """Log scores of rows with their local latents integrated, or the reason for a doubt about their average."""
    found = target_of(posterior).sites
    if all(latent.row_dim is None for latent in found.latents):
        return None, ""
    if len(found.observed) != 1:
        return None, "held-out scores average draws of the latents local to a row"
    each = integrated_at_new_rows(posterior, data, NUM_SCORED_DRAWS)
    if each.log_likelihood is None:
        return None, f"held-out scores average draws of {each.reason}"
    return torch.logsumexp(each.log_likelihood.double(), 0) - math.log(len(each.log_likelihood)), ""


def data_by_row(posterior: Posterior) -> Dataset:
    """The data of a fit with what its model knows of each row as tensors of their own."""
    model = posterior.model
    return model.known_by_row(posterior.data) if isinstance(model, KnowsRows) else posterior.data


class Gain(NamedTuple):
    """Nats per row that another prediction gains on held-out rows, and whether it gains on the training rows too."""

    mean: float
    stderr: float
    on_training_rows: bool

    @property
    def material(self) -> bool:
        """True if the gain is above 0.05 nats per row and above two standard errors."""
        return is_material(self.mean, self.stderr)


def is_material(difference: float, stderr: float) -> bool:
    """Return whether a difference is above 0.05 nats per row and above two standard errors."""
    return difference > max(MATERIAL, SIGNIFICANT * stderr)


def overconfidence_verdict(gain: Gain, *, gap_is_significant: bool, narrow: bool) -> str:
    """Verdict on a gain from wider predictions, or from a mixture with the base rate; empty if it is not material.

    Predictions that are too narrow for new rows only, or with a significant gap, overfit.  What is wrong on the training
    rows alike, or too wide, is a spread that the model does not describe: it underfits.
    """
    if not gain.material:
        return ""
    overfits = narrow and (gap_is_significant or not gain.on_training_rows)
    return Verdict.OVERFITS if overfits else Verdict.UNDERFITS


def recalibration_gain(test: Scored) -> tuple[tuple[float, float], bool]:
    """Cross-fitted gain of the best temperature in nats per row with its standard error, and whether it widens.

    The temperature is chosen on the even rows and scored on the odd ones, and the reverse.
    """
    scores = _tempered(test)
    found, chosen = cross_fitted(scores)
    unchanged = _tempered(test, torch.ones(1, dtype=scores.dtype))[0]
    return paired(found - unchanged), min(float(TEMPERATURES[best]) for best in chosen) > 1


def cross_fitted(scores: Float[Tensor, "T N"]) -> tuple[Float[Tensor, " N"], list[int]]:
    """Scores of the odd rows with the candidate that is best for the even ones, and the reverse; indices of both candidates."""
    even = torch.arange(scores.shape[1], device=scores.device) % 2 == 0
    found, chosen = torch.zeros_like(scores[0]), []
    for fitted, left in ((even, ~even), (~even, even)):
        best = int(scores[:, fitted].mean(1).argmax())
        chosen.append(best)
        found[left] = scores[best, left]
    return found, chosen


def score_findings(train: Float[Tensor, " N"], test: Float[Tensor, " M"], flag: str, doubt: str = "") -> list[Finding]:
    """Mean log scores of training and held-out rows, and their gap, flagged with `flag` and marked by a doubt."""
    gap, gap_error = difference(train, test)
    return [
        finding("train log score", float(train.mean()), "nats per row", stderr=error_of(train), doubt=doubt),
        finding("held-out log score", float(test.mean()), "nats per row", stderr=error_of(test), doubt=doubt),
        finding(
            "gap", gap, "training minus held-out log score, nats per row", stderr=gap_error, flag=flag, doubt=doubt
        ),
    ]


def refuse_too_few(test: Float[Tensor, " M"]) -> None:
    """Raise ValueError for fewer held-out rows than a standard error needs."""
    if len(test) < 2:
        raise ValueError(f"expected at least 2 held-out rows, got {len(test)}; hold out more rows")


def _tempered(test: Scored, temperatures: Float[Tensor, " T"] = TEMPERATURES) -> Float[Tensor, "T N"]:
    """Log scores per row at each temperature: probabilities to the power 1/T, or normal predictions T times as wide."""
    return torch.stack([_tempered_scores(test.prediction.distribution, test.observed, float(t)) for t in temperatures])


@singledispatch
def _tempered_scores(distribution: Distribution, observed: Tensor, temperature: float) -> Float[Tensor, " N"]:
    """Log scores per row of a prediction at one temperature; NaN where it has no moments."""
    mean, variance = (moment.double() for moment in moments(distribution))
    sd = variance.sqrt()
    if not torch.isfinite(mean + sd).all():  # Without moments there is no width to multiply.
        return torch.full((len(observed),), torch.nan, dtype=torch.float64)
    score = Normal(mean, temperature * sd).log_prob(observed.double())
    return score.reshape(len(score), -1).sum(-1)


@_tempered_scores.register
def _(distribution: Categorical, observed: Tensor, temperature: float) -> Float[Tensor, " N"]:
    return Categorical(logits=distribution.logits.double() / temperature).log_prob(observed)


@_tempered_scores.register
def _(distribution: Bernoulli, observed: Tensor, temperature: float) -> Float[Tensor, " N"]:
    return Bernoulli(logits=distribution.logits.double() / temperature).log_prob(observed.double())


@_tempered_scores.register
def _(distribution: NormalMixture, observed: Tensor, temperature: float) -> Float[Tensor, " N"]:
    return _widened(distribution, temperature).log_prob(observed).double()


def _widened(mixture: NormalMixture, temperature: float) -> NormalMixture:
    """Mixture of the same shape and mean, `temperature` times as wide."""
    mean = mixture.mean[..., None]
    return NormalMixture(mixture.logits, mean + temperature * (mixture.loc - mean), temperature * mixture.scale)


def difference(a: Float[Tensor, " N"], b: Float[Tensor, " M"]) -> tuple[float, float]:
    """Difference of the means of two independent samples and its standard error."""
    return float(a.mean() - b.mean()), float((a.var() / len(a) + b.var() / len(b)).sqrt())


def paired(values: Float[Tensor, " N"]) -> tuple[float, float]:
    """Mean of paired differences and its standard error."""
    return float(values.mean()), error_of(values)


def error_of(values: Float[Tensor, " N"]) -> float:
    """Standard error of the mean."""
    return float(values.std() / len(values) ** 0.5)
