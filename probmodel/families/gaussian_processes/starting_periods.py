"""Starting values of the periods of a kernel, whose likelihood has a maximum near each of many periods."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from gpytorch.kernels import AdditiveKernel, CosineKernel, Kernel, PeriodicKernel, ProductKernel, ScaleKernel
from jaxtyping import Float
from torch import Tensor

from probmodel.families.gaussian_processes.covariances import covariance, mean_at, noise_by_row
from probmodel.families.gaussian_processes.periods import candidate_periods
from probmodel.families.gaussian_processes.positive_definite import upper_factor
from probmodel.families.gaussian_processes.starting_values import Parts, Values, constrained, some_rows

NUM_PEAKS = 10
"""Number of peaks of the spectrum whose periods are tried."""
NUM_STARTS = 3
"""Number of starts that a search from their periods is worth."""
RANGE_IN_LENGTHSCALES = 4.0
"""Range of x in lengthscales of a kernel without a period, at the second of its two starts beside one with a period."""
LESS_NOISE = 100.0
"""Ratio of the noise variance at a start to that of a second setting, under which a small wave beside a trend is seen."""
SCANNED_ROWS = 250
"""Largest number of rows, drawn at random, at which a period is tried."""
WAVES: Mapping[type, float] = {PeriodicKernel: 1.0, CosineKernel: 0.5}
"""Kernels with a period, and their parameter in units of that period."""


class _Wave(NamedTuple):
    """One number of a kernel's periods, and the columns of x that it may be a period of."""

    name: str
    position: int
    columns: Sequence[int]
    unit: float


class _Scanned(NamedTuple):
    """Rows at which periods are tried."""

    x: Tensor
    residual: Tensor
    rows: Tensor
    y: Tensor
    """Observations of all rows."""


class _Tried(NamedTuple):
    log_density: float
    values: Values


def period_starts(parts: Parts, x: Float[Tensor, "n D"], y: Float[Tensor, " n"]) -> list[Values]:
    """Values of the kernel's periods with the highest likelihoods at some rows, best first, at the other parameters.

    Candidates are the peaks of the spectrum of y along each column; several periods are chosen one after the other.
    None where the kernel has no period at its default.

    Args:
        parts: mean, kernel and likelihood, which are left unchanged.
        x: inputs of the kernel, float64.
        y: observations, float64.
    """
    waves = [wave for wave in _waves(parts, x.shape[1]) if wave.name in parts.free]
    if not waves:
        return []
    best = [_Tried(-math.inf, values) for values in _settings(parts, x)]
    before = parts.values({*(wave.name for wave in waves), *best[-1].values})
    rows = some_rows(len(x), SCANNED_ROWS)
    scanned = _Scanned(x[rows], (y - mean_at(parts.mean, x))[rows], rows, y)
    for wave in waves:
        periods = torch.cat([candidate_periods(x[:, i], y - y.mean(), NUM_PEAKS) for i in wave.columns]) * wave.unit
        tried = []
        for one in best:
            parts.place({**before, **one.values})
            tried += [_tried(parts, wave, period, one, scanned) for period in periods]
        tried.sort(key=lambda each: each.log_density, reverse=True)
        best = tried[:NUM_STARTS] or best
    parts.place(before)
    return [each.values for each in best if math.isfinite(each.log_density)]


def _settings(parts: Parts, x: Tensor) -> list[Values]:
    """Other parameters at which periods are tried: the present ones, less noise, long lengthscales of a trend, and both."""
    quiet: dict[str, Tensor | None] = {}
    smooth: dict[str, Tensor | None] = {}
    for name in sorted(parts.free):
        module, _, raw = name.rpartition(".")
        owner: Any = parts.get_submodule(module)
        parameter = parts.get_parameter(name)
        if raw == "raw_noise":
            present = owner.constraint_for_parameter_name(raw).transform(parameter)
            quiet[name] = constrained(owner, raw, present / LESS_NOISE)
        if raw == "raw_lengthscale" and type(owner) not in WAVES:
            # So long that what repeats is left to the kernels with a period.
            length = (x.max(0).values - x.min(0).values).mean() / RANGE_IN_LENGTHSCALES
            smooth[name] = constrained(owner, raw, length.expand_as(parameter))
    less, long = ({name: raw.clone() for name, raw in each.items() if raw is not None} for each in (quiet, smooth))
    return [{}, *([less] if less else []), *([long, {**less, **long}] if long else [])]


def _tried(parts: Parts, wave: _Wave, period: Tensor, before: _Tried, at: _Scanned) -> _Tried:
    module, _, raw = wave.name.rpartition(".")
    value, parameter = constrained(parts.get_submodule(module), raw, period), parts.get_parameter(wave.name)
    kept = parameter.clone()
    if value is not None:
        parameter.view(-1)[wave.position] = value
    found = _Tried(_log_density(parts, at), {**before.values, wave.name: parameter.clone()})
    parameter.copy_(kept)
    return found


def _log_density(parts: Parts, at: _Scanned) -> float:
    """Log density of the residual in nats, but for a constant; −∞ where its covariance has no Cholesky factor."""
    noise = noise_by_row(parts.likelihood, at.y)[at.rows]
    upper = upper_factor(covariance(parts.kernel, at.x) + torch.diag_embed(noise))
    white = torch.linalg.solve_triangular(upper.mT, at.residual[:, None], upper=False)
    return float((-0.5 * white.square().sum() - upper.diagonal().log().sum()).nan_to_num(nan=-torch.inf))


def _waves(parts: Parts, width: int) -> Iterator[_Wave]:
    for kernel, columns in _periodic(parts.kernel, range(width)):
        name = parts.name_of(kernel, "raw_period_length")
        count = parts.get_parameter(name).numel()
        for position in range(count):
            yield _Wave(
                name, position, columns if count == 1 else columns[position : position + 1], WAVES[type(kernel)]
            )


def _periodic(kernel: Kernel, columns: Sequence[int]) -> Iterator[tuple[Kernel, Sequence[int]]]:
    """Kernels with a period, and the columns that each reads."""
    own = columns if kernel.active_dims is None else [columns[i] for i in kernel.active_dims.tolist()]
    # GPyTorch gives the columns of the inner kernel to the outer one, which selects them once.
    while type(kernel) is ScaleKernel:
        kernel = kernel.base_kernel
    if type(kernel) in (AdditiveKernel, ProductKernel):
        for part in kernel.kernels:
            yield from _periodic(part, own)
    elif type(kernel) in WAVES:
        yield kernel, own
