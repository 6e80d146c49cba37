"""Predictions of rows set against what was observed: log scores, and what recalibrating them would gain (Guo et al., 2017)."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

from probmodel.gaussian_processes.normal_mixture import NormalMixture
from probmodel.placing import beside
from probmodel.predict import Prediction, predict_rows
from probmodel.protocols import Dataset, Posterior
from probmodel.sites import sites
from probmodel.tracing import isolated

SIGNIFICANT = 2.0
"""Standard errors beyond which a difference counts."""
MATERIAL = 0.05
"""Nats a row that a recalibrated prediction must gain before overconfidence counts as overfitting."""
TEMPERATURES = torch.logspace(-1, 1.5, 101, dtype=torch.float64)


class Scored(NamedTuple):
    """Prediction of some rows and the log score of what was observed, nats by row."""

    prediction: Prediction
    observed: Tensor
    log_score: Float[Tensor, " N"]


def scored(posterior: Posterior, data: Dataset, *, seed: int = 0) -> Scored:
    """Predict rows and score the observations in them."""
    data = beside(data, posterior.data)
    with isolated(seed):
        observations = sites(posterior.model, data).observations
    if not observations:
        raise ValueError("expected rows with what was observed in them, got none; pass Dataset((x,), {'y': y}, len(x))")
    observed = observations[-1]  # After the codes, of a model that is a density of them too.
    prediction = predict_rows(posterior, data, seed=seed)
    log_score = prediction.distribution.log_prob(observed).double()
    return Scored(prediction, observed, log_score.reshape(len(log_score), -1).sum(-1))


def recalibration_gain(test: Scored) -> tuple[tuple[float, float], bool]:
    """Cross-fitted gain of the best temperature, and whether it widens: chosen on the even rows, scored on the odd ones,
    and the reverse.
    """
    scores = _tempered(test)
    even = torch.arange(scores.shape[1], device=scores.device) % 2 == 0
    gained = torch.zeros(scores.shape[1], dtype=scores.dtype, device=scores.device)
    unchanged = _tempered(test, torch.ones(1, dtype=scores.dtype))[0]
    chosen = []
    for fitted, scored_rows in ((even, ~even), (~even, even)):
        best = scores[:, fitted].mean(1).argmax()
        chosen.append(float(TEMPERATURES[best]))
        gained[scored_rows] = scores[best, scored_rows] - unchanged[scored_rows]
    return paired(gained), min(chosen) > 1


def _tempered(test: Scored, temperatures: Float[Tensor, " T"] = TEMPERATURES) -> Float[Tensor, "T N"]:
    """Log scores by row at each temperature: probabilities to the power 1/T, or normal predictions T times as wide."""
    distribution, observed = test.prediction.distribution, test.observed
    if isinstance(distribution, Categorical):
        log_probs = distribution.logits.double()
        return torch.stack([Categorical(logits=log_probs / float(t)).log_prob(observed) for t in temperatures])
    if isinstance(distribution, Bernoulli):
        logits = distribution.logits.double()
        return torch.stack([Bernoulli(logits=logits / float(t)).log_prob(observed.double()) for t in temperatures])
    if isinstance(distribution, NormalMixture):
        return torch.stack([_widened(distribution, float(t)).log_prob(observed).double() for t in temperatures])
    mean, sd = distribution.mean.double(), distribution.variance.double().sqrt()
    if not torch.isfinite(mean + sd).all():  # Tails too heavy for moments: nothing to widen.
        return torch.full((len(temperatures), len(test.log_score)), torch.nan, dtype=torch.float64)
    scores = [Normal(mean, float(t) * sd).log_prob(observed.double()) for t in temperatures]
    return torch.stack([score.reshape(len(score), -1).sum(-1) for score in scores])


def _widened(mixture: NormalMixture, temperature: float) -> NormalMixture:
    """Of the same shape around its mean, so many times as wide."""
    mean = mixture.mean[..., None]
    return NormalMixture(mixture.logits, mean + temperature * (mixture.loc - mean), temperature * mixture.scale)


def difference(a: Float[Tensor, " N"], b: Float[Tensor, " M"]) -> tuple[float, float]:
    return float(a.mean() - b.mean()), float((a.var() / len(a) + b.var() / len(b)).sqrt())


def paired(values: Float[Tensor, " N"]) -> tuple[float, float]:
    return float(values.mean()), error_of(values)


def error_of(values: Float[Tensor, " N"]) -> float:
    return float(values.std() / len(values) ** 0.5)
