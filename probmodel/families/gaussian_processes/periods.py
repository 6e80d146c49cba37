"""Candidate periods of a series by the least-squares spectrum of unevenly spaced rows (Lomb, 1976; Scargle, 1982).

Reference:
    Lomb (1976), Least-squares frequency analysis of unequally spaced data; Zechmeister & Kürster (2009), The generalised
    Lomb-Scargle periodogram, Astronomy & Astrophysics 496.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

OVERSAMPLING = 8
"""Number of frequencies per resolved one, 1 / range: a peak between two of them loses less than 2 % of its height."""
MOST_FREQUENCIES = 20_000
"""Largest number of frequencies tried."""
BLOCK_NUMBERS = 4_000_000
"""Largest number of cosines held at a time."""
TREND = 2
"""Degree of the polynomial in x that is removed with each frequency."""
MULTIPLES = (2.0, 3.0)
"""Multiples of the strongest periods that are candidates too: of a wave with harmonics a harmonic may be the strongest."""


def candidate_periods(x: Float[Tensor, " n"], y: Float[Tensor, " n"], number: int) -> Float[Tensor, " c"]:
    """Periods of the highest peaks of the spectrum, in units of x, highest first; then multiples of the highest ones.

    Each frequency explains a fraction of the sum of squares of y about a quadratic trend; frequencies range from one
    period in the range of x to the mean sampling rate's half.

    Args:
        x: positions, not necessarily evenly spaced or in order.
        y: values.
        number: number of peaks, at most.

    Returns:
        Periods, none where fewer than six positions differ.
    """
    distinct, width = len(torch.unique(x)), float(x.max() - x.min())
    if distinct < 2 * (TREND + 1) or not width > 0:
        return x.new_zeros(0)
    highest = (distinct - 1) / 2
    count = min(MOST_FREQUENCIES, max(2, math.ceil(OVERSAMPLING * (highest - 1))))
    cycles = torch.linspace(1.0, highest, count, dtype=x.dtype, device=x.device)
    power = _explained((x - x.min()) / width, y, cycles)
    peaks = _peaks(cycles, power, number)
    longer = [multiple * width / peak for peak in peaks[:2] for multiple in MULTIPLES]
    return x.new_tensor([width / peak for peak in peaks] + [period for period in longer if period <= width])


def _explained(t: Tensor, y: Tensor, cycles: Tensor) -> Tensor:
    """Sum of squares that each frequency explains beyond the trend."""
    trend = torch.linalg.qr(torch.stack([t**degree for degree in range(TREND + 1)], 1)).Q
    r = y - trend @ (trend.mT @ y)
    found = []
    for block in cycles.split(max(1, BLOCK_NUMBERS // len(t))):
        angle = 2 * math.pi * block[:, None] * t
        c, s = (wave - (wave @ trend) @ trend.mT for wave in (angle.cos(), angle.sin()))
        cc, ss, cs = (c * c).sum(1), (s * s).sum(1), (c * s).sum(1)
        cy, sy = c @ r, s @ r
        # At half the sampling rate one of the two waves may vanish.
        determinant = (cc * ss - cs * cs).clamp(min=1e-6 * len(t) ** 2)
        found.append((cy * cy * ss - 2 * cy * sy * cs + sy * sy * cc) / determinant)
    return torch.cat(found)


def _peaks(cycles: Tensor, power: Tensor, number: int) -> list[float]:
    """Frequencies of the highest local maxima, at least one cycle apart."""
    padded = torch.cat([power[:1] - 1, power, power[-1:] - 1])
    tops = ((power >= padded[:-2]) & (power >= padded[2:])).nonzero()[:, 0]
    chosen: list[float] = []
    for frequency in cycles[tops[power[tops].argsort(descending=True)]].tolist():
        if len(chosen) < number and all(abs(frequency - other) >= 1.0 for other in chosen):
            chosen.append(frequency)
    return chosen
