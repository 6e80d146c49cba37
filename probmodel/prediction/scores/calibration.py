"""Calibration of predicted probabilities, with the error that a calibrated forecaster would show (Vaicenavicius et al., 2019)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probmodel.prediction.scores.scoring_rules import MAX_ELEMENTS, PROBABILITY_ROUNDING, check_probs, check_rows
from probmodel.protocols.arguments.checks import checks_arguments


class Calibration(NamedTuple):
    """Calibration error, and its null distribution: mean and sd under perfect calibration with the same confidences.

    The null's mean is above 0, as finite data never match exactly; `p_value` is the probability of an error this large.
    """

    ece: float
    null_mean: float
    null_sd: float
    p_value: float


class Reliability(NamedTuple):
    """Number of rows, mean confidence and fraction correct (both NaN without rows) per bin (lower, upper]."""

    lower: Float[Tensor, " K"]
    upper: Float[Tensor, " K"]
    num_rows: Int[Tensor, " K"]
    confidence: Float[Tensor, " K"]
    accuracy: Float[Tensor, " K"]


@checks_arguments
def reliability(confidence: Float[Tensor, " N"], correct: Bool[Tensor, " N"], *, num_bins: int = 15) -> Reliability:
    """Table behind a reliability diagram.

    >>> reliability(torch.tensor([0.4, 0.9, 0.7]), torch.tensor([False, True, False]), num_bins=2).accuracy
    tensor([0.0000, 0.5000])

    Args:
        confidence, correct, num_bins: as in `calibration`.

    Raises:
        ValueError: for no rows, shapes that differ, confidences outside [0, 1], or fewer than one bin.
    """
    p, hit, member = _bins(confidence, correct, num_bins)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=p.dtype, device=p.device)
    num = member.sum(0)
    return Reliability(edges[:-1], edges[1:], num.long(), p @ member / num, hit @ member / num)


@checks_arguments
def calibration(
    confidence: Float[Tensor, " N"],
    correct: Bool[Tensor, " N"],
    *,
    num_bins: int = 15,
    num_samples: int = 2000,
    seed: int = 0,
) -> Calibration:
    """Expected calibration error and its null distribution.

    ECE = Σ_b (n_b / N) |accuracy_b - confidence_b| over bins of equal width. The null simulates correct_n ~
    Bernoulli(confidence_n): for N = 1000 uniform confidences in 15 bins it is 0.038 ± 0.008, not 0.

    Args:
        confidence, correct: probability given to each row's prediction, and whether it came true.
        num_bins: number of bins, 15 as in Guo et al.
        num_samples: number of simulations; the p-value is at least 1 / (1 + num_samples).
        seed: seed of the simulation; no global random state is touched.

    Raises:
        ValueError: as in `reliability`, or for fewer than two simulations.

    Reference:
        Guo, Pleiss, Sun & Weinberger (2017), On calibration of modern neural networks, ICML.
        Vaicenavicius et al. (2019), Evaluating model calibration in classification, AISTATS.
    """
    p, hit, member = _bins(confidence, correct, num_bins)
    hits = torch.cat([(hit @ member).unsqueeze(0), _simulated_hits(p, member, num_samples, seed)])
    ece = (hits - p @ member).abs().sum(1) / len(p)
    p_value = (ece >= ece[0]).float().mean()  # The observed error counts as one of the draws.
    return Calibration(float(ece[0]), float(ece[1:].mean()), float(ece[1:].std()), float(p_value))


@checks_arguments
def expected_calibration_error(
    probs: Float[Tensor, "N K"], y: Int[Tensor, " N"], *, num_bins: int = 15, num_samples: int = 2000, seed: int = 0
) -> Calibration:
    """Calibration error, and its null distribution, of the probability given to the most probable class.

    Args:
        probs: predictive probabilities of the classes, the latents integrated out.
        y: class of each row.
        num_bins, num_samples, seed: as in `calibration`.

    Raises:
        ValueError: as in `brier` and `calibration`.
    """
    check_probs(probs, y)
    confidence, predicted = probs.max(1)
    return calibration(confidence, predicted == y, num_bins=num_bins, num_samples=num_samples, seed=seed)


def _bins(confidence: Tensor, correct: Tensor, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence (N,), correct (N,) and membership (N, K) in a dtype that counts exactly."""
    check_rows(confidence, correct.shape, "correct")
    if not ((correct == 0) | (correct == 1)).all():
        raise ValueError(
            f"expected correct as True or False, got values from {correct.min()} to {correct.max()}; pass predicted == y"
        )
    if num_bins < 1 or confidence.min() < 0 or confidence.max() > 1 + PROBABILITY_ROUNDING:
        got = f"{num_bins} bins, confidences in [{confidence.min():.4g}, {confidence.max():.4g}]"
        raise ValueError(f"expected one bin or more and confidences in [0, 1], got {got}; give probabilities")
    p = confidence.to(torch.promote_types(confidence.dtype, torch.float32))
    inner = torch.linspace(0, 1, num_bins + 1, dtype=p.dtype, device=p.device)[1:-1]
    member = torch.nn.functional.one_hot(torch.bucketize(p, inner), num_bins)
    return p, correct.to(p.dtype), member.to(p.dtype)


def _simulated_hits(p: Tensor, member: Tensor, num_samples: int, seed: int) -> Float[Tensor, "S K"]:
    if num_samples < 2:
        raise ValueError(f"expected two simulations or more, got {num_samples}; pass num_samples=2000, the default")
    # A stream other than the caller's with the same seed, which the confidences may come from.
    generator = torch.Generator(p.device).manual_seed(seed ^ 0x9E3779B9)
    size = max(1, MAX_ELEMENTS // len(p))
    shapes = [(min(size, num_samples - start), len(p)) for start in range(0, num_samples, size)]
    draws = (torch.rand(shape, generator=generator, dtype=p.dtype, device=p.device) for shape in shapes)
    return torch.cat([(u < p).to(p.dtype) @ member for u in draws])
