"""Proper scoring rules, accuracy and error of predictions (Gneiting & Raftery, 2007)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from probmodel.protocols.arguments.checks import checks_arguments

MAX_ELEMENTS = 2**24
"""Largest number of elements of an intermediate tensor; more rows or simulations are processed in chunks."""

PROBABILITY_ROUNDING = 1e-3
"""Largest deviation of probabilities from [0, 1], and of their sum from 1: float16 keeps three digits."""


@checks_arguments
def accuracy(predicted: Int[Tensor, " N"], y: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """Fraction of rows whose class is predicted correctly.

    >>> accuracy(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 2, 1]))
    tensor(0.7500)

    Raises:
        ValueError: for no rows, or shapes that differ.
    """
    check_rows(y, predicted.shape, "predicted")
    return (predicted == y).float().mean()


@checks_arguments
def rmse(predicted: Float[Tensor, " N"], y: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Root mean squared error, in the unit of y.

    >>> rmse(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0]))
    tensor(3.5355)

    Raises:
        ValueError: for no rows, shapes that differ, NaN or infinite values.
    """
    check_rows(y, predicted.shape, "predicted")
    _check_finite(predicted, "predicted")
    predicted, y = _numbers(predicted), _numbers(y)
    return (predicted - y).square().mean().sqrt()


@checks_arguments
def log_score_by_row(predictive: Distribution, y: Tensor) -> Float[Tensor, " N"]:
    """Log density log p(y_n) under the predictive distribution, in nats per row; higher is better.

    >>> log_score_by_row(torch.distributions.Categorical(torch.tensor([[0.5, 0.5]])), torch.tensor([1]))
    tensor([-0.6931])

    Args:
        predictive: batch of N distributions, with the latents integrated out.
        y: one observation for each of them.

    Raises:
        ValueError: for no rows, NaN or infinite y, or a y whose shape differs from that of the distributions.
    """
    if len(predictive.batch_shape) != 1:
        got = tuple(predictive.batch_shape)
        raise ValueError(f"expected batch_shape (N,), got {got}; wrap other axes by Independent")
    check_rows(y, predictive.batch_shape + predictive.event_shape, "predictive")
    return predictive.log_prob(_numbers(y))


@checks_arguments
def log_score_per_datum(predictive: Distribution, y: Tensor) -> Float[Tensor, ""]:
    """Mean of `log_score_by_row` over the rows, in nats per datum; higher is better.

    >>> log_score_per_datum(torch.distributions.Categorical(torch.tensor([[0.5, 0.5]])), torch.tensor([1]))
    tensor(-0.6931)
    """
    return log_score_by_row(predictive, y).mean()


@checks_arguments
def brier(probs: Float[Tensor, "N K"], y: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Brier score per row, Σ_k (p_k - 1[y = k])²: 0 is best, 2 worst.

    >>> brier(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
    tensor([0.5000, 0.0000])

    Raises:
        ValueError: for no rows, shapes that differ, rows of probs that are no probabilities, or labels out of range.

    Reference:
        Brier (1950), Verification of forecasts expressed in terms of probability, Monthly Weather Review 78.
    """
    check_probs(probs, y)
    return (probs - torch.nn.functional.one_hot(y.long(), probs.shape[1])).square().sum(1)


@checks_arguments
def crps_normal_mixture(
    means: Float[Tensor, "S N"], sds: Float[Tensor, "S N"], y: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Continuous ranked probability score per row, of a mixture of normals with equal weights, in the unit of y.

    CRPS = mean_s A(y - μ_s, σ_s²) - ½ mean_st A(μ_s - μ_t, σ_s² + σ_t²),  A(μ, σ²) = 2σ φ(μ/σ) + μ (2Φ(μ/σ) - 1).

    >>> crps_normal_mixture(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1))
    tensor([0.2337])

    Args:
        means: means of the S components, such as one per posterior draw.
        sds: standard deviations of the components, positive.
        y: observations.

    Raises:
        ValueError: for no rows, shapes that differ, NaN or infinite values, or sds that are not positive.

    Reference:
        Grimit, Gneiting, Berrocal & Johnson (2006), The CRPS for circular variables, QJRMS 132.
    """
    _check_draws(means, y, "means")
    _check_draws(sds, y, "sds")
    y = _numbers(y)
    if sds.shape != means.shape or sds.min() <= 0:
        got = f"shape {tuple(sds.shape)}, smallest {sds.min():.4g}"
        raise ValueError(f"expected positive sds of shape {tuple(means.shape)}, got {got}; give standard deviations")
    size = max(1, MAX_ELEMENTS // len(means) ** 2)  # Pairs of components take S² elements per row.
    chunks = zip(means.split(size, 1), sds.split(size, 1), y.split(size), strict=True)
    return torch.cat([_crps_normal_mixture(*chunk) for chunk in chunks])


@checks_arguments
def crps_samples(samples: Float[Tensor, "S N"], y: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Continuous ranked probability score per row, from draws, in the unit of y; lower is better.

    The fair estimate is unbiased at any S:  mean_s |x_s - y| - Σ_{s<t} |x_s - x_t| / (S (S - 1)).

    >>> crps_samples(torch.tensor([[0.0], [2.0]]), torch.tensor([3.0]))
    tensor([1.])

    Args:
        samples: S ≥ 2 draws of the prediction per row.
        y: observations.

    Raises:
        ValueError: for no rows, fewer than two draws, shapes that differ, NaN or infinite values.

    Reference:
        Ferro (2014), Fair scores for ensemble forecasts, QJRMS 140.
    """
    _check_draws(samples, y, "samples")
    samples, y = _numbers(samples), _numbers(y)
    x, num = (samples - y).sort(0).values, len(samples)
    if num < 2:
        raise ValueError(f"expected at least two draws, got {num}; draw more from the predictive distribution")
    # Σ_{s<t} |x_s - x_t| = Σ_s (2s - S - 1) x_(s): sorted, the pairs cost S log S.
    rank = torch.arange(1, num + 1, dtype=x.dtype, device=x.device).unsqueeze(1)
    return x.abs().mean(0) - ((2 * rank - num - 1) * x).sum(0) / (num * (num - 1))


def _crps_normal_mixture(means: Tensor, sds: Tensor, y: Tensor) -> Tensor:
    to_y = _absolute(y - means, sds).mean(0)
    between = _absolute(means.unsqueeze(0) - means.unsqueeze(1), torch.hypot(sds.unsqueeze(0), sds.unsqueeze(1)))
    return to_y - between.mean((0, 1)) / 2


def _absolute(mean: Tensor, sd: Tensor) -> Tensor:
    """Mean absolute value A(μ, σ²) = E|x| of x ~ N(μ, σ²)."""
    z = mean / sd
    return sd * math.sqrt(2 / math.pi) * (-z.square() / 2).exp() + mean * (z / math.sqrt(2)).erf()


def _check_finite(x: Tensor, name: str) -> None:
    bad = x.numel() - int(x.isfinite().sum())
    if bad:
        raise ValueError(f"expected finite {name}, got {bad} of {x.numel()} NaN or infinite; drop or impute these rows")


def _numbers(y: Tensor) -> Tensor:
    """True and False as 1 and 0, numbers as they are."""
    return y.to(torch.get_default_dtype()) if y.dtype == torch.bool else y


def check_rows(y: Tensor, shape: torch.Size, name: str) -> None:
    """Raise ValueError unless y has this shape, that of the argument `name`, and at least one row, all finite."""
    if y.shape != shape or y.dim() == 0:
        raise ValueError(f"expected shape {tuple(y.shape)}, got {tuple(shape)}; give {name} and y for the same rows")
    if y.numel() == 0:
        raise ValueError("expected at least one row, got none; check how the data were read")
    _check_finite(y, "values")


def check_probs(probs: Tensor, y: Tensor) -> None:
    """Raise ValueError unless probs has a row of probabilities per label, and the labels are in range."""
    check_rows(y, probs.shape[:1], "probs")
    _check_finite(probs, "probs")
    sums = probs.reshape(len(probs), -1).sum(1)
    if probs.dim() != 2 or (probs < 0).any() or ((sums - 1).abs() > PROBABILITY_ROUNDING).any():
        got = f"shape {tuple(probs.shape)}, {int((probs < 0).sum())} below 0, sums from {sums.min():.4g}"
        raise ValueError(f"expected rows (N, K) of probabilities that sum to 1, got {got}; take the softmax of logits")
    if y.min() < 0 or y.max() >= probs.shape[1]:
        got = f"{int(y.min())} … {int(y.max())}"
        raise ValueError(f"expected labels in 0 … {probs.shape[1] - 1}, got {got}; number the classes from 0")


def _check_draws(x: Tensor, y: Tensor, name: str) -> None:
    _check_finite(x, name)
    if x.dim() != 2 or len(x) == 0:
        raise ValueError(f"expected {name} of shape (S, {len(y)}), got {tuple(x.shape)}; put the draws first")
    check_rows(y, x.shape[1:], name)
