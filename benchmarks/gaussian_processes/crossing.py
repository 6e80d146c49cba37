"""Rows of two functions that cross, assigned to experts of a mixture of processes."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import probmodel as pb
from benchmarks.gaussian_processes.models import DOUBLE, alternating, known_experts, process
from benchmarks.rows import Row, row


def rows(*, quick: bool, only: str) -> Iterator[Row]:
    """Rows of both sizes, if "crossing" contains the text."""
    if only in "crossing":
        yield from _crossing(quick)


def crossing(count: int, seed: int) -> tuple[pb.Dataset, torch.Tensor, torch.Tensor]:
    """Rows of two smooth functions that cross, the function of each row, and whether the functions differ there."""
    with pb.isolated(seed):
        x = torch.rand(count, 1, dtype=DOUBLE) * 2 - 1
        c = (torch.rand(count) < 0.5).long()
        f = torch.stack([torch.sin(2.5 * x[:, 0]), 0.3 * x[:, 0] ** 2 - torch.sin(2.5 * x[:, 0])])
        y = f.gather(0, c[None])[0] + 0.1 * torch.randn(count, dtype=DOUBLE)
    return pb.Dataset((x,), {"y": y}), c, (f[0] - f[1]).abs() > 0.6


def crossing_mixture() -> pb.gp.GPMixture:
    """Mixture of four experts under stick breaking, twice as many as there are functions."""
    return pb.gp.GPMixture([process(0.5, 1.0, 0.02) for _ in range(4)], pb.gp.StickBreakingGate(4))


def _crossing(quick: bool) -> Iterator[Row]:
    yield from _twelve()
    for seed in range(1 if quick else 3):
        agree, experts = _recovered(200, seed)
        title = f"crossing, 200 points, seed {seed}"
        yield row(f"{title}, rows given to the right function, where they are apart", agree, "", at_least=0.98)
        yield row(f"{title}, experts of 4 that hold rows", experts, "", at_least=2, at_most=2)


def _twelve() -> Iterator[Row]:
    """Assignments at known hyperparameters, which twelve rows cannot identify, and the number of experts by evidence."""
    data, truth = alternating(), torch.arange(12) % 2
    fit = pb.CollapsedGibbs(num_samples=500)(known_experts(2), data, seed=0)
    draws = fit.draws["assignments"].flatten(0, 1)
    together = (draws[:, :, None] == draws[:, None]).double().mean(0)
    apart = data.kwargs["y"].abs() > 0.3
    pairs = torch.ones(12, 12).triu(1).bool() & apart & apart[:, None]
    right = (together > 0.5) == (truth[:, None] == truth)
    title = "crossing, 12 points"
    yield row(
        f"{title}, pairs of rows told together or apart rightly", float(right[pairs].double().mean()), "", at_least=0.98
    )
    log_z = [pb.evidence.exact(pb.Posterior(known_experts(k), data, {}, {})).log_z for k in (1, 2, 3, 4)]
    yield row(f"{title}, experts of highest evidence", float(np.argmax(log_z) + 1), "", at_least=2, at_most=2)


def _recovered(count: int, seed: int) -> tuple[float, float]:
    data, c, apart = crossing(count, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = pb.VariationalEM()(crossing_mixture(), data, seed=seed)
    r: Any = fit.model.responsibilities[0]
    first = (r.argmax(1) == r.sum(0).argmax()).long()[apart]
    agree = float((first == c[apart]).double().mean())
    return max(agree, 1 - agree), fit.info["num_experts"]
