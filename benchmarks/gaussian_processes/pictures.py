"""Pictures of the motorcycle data and of two crossing functions under one process and under a mixture."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

import probmodel as pb
from benchmarks.gaussian_processes.crossing import crossing, crossing_mixture
from benchmarks.gaussian_processes.models import motorcycle
from benchmarks.gaussian_processes.motorcycle import FITS

LEAST = 0.05
"""Fraction of the highest density in a column above which a mode is shown."""


def draw(folder: Path) -> None:
    """Write motorcycle.png and crossing.png."""
    folder.mkdir(parents=True, exist_ok=True)
    _motorcycle(folder / "motorcycle.png")
    _crossing(folder / "crossing.png")


def density(axes: Axes, fit: pb.Posterior, grid: Tensor, levels: Tensor, to_x: Any, to_y: Any) -> None:
    """Draw the predictive density of each column as shades, relative to its maximum, and its modes as dots."""
    found = pb.predict(fit, grid[:, None], num_samples=400).distribution
    shape = (len(levels), *found.batch_shape, *found.event_shape)
    p = found.log_prob(levels.reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)).exp().numpy()
    axes.pcolormesh(
        to_x(grid.numpy()), to_y(levels.numpy()), p / p.max(0), cmap="Blues", shading="auto", rasterized=True
    )
    # A predictive distribution by Monte Carlo has spurious modes.
    exact = isinstance(fit.model, pb.gp.GPMixture | pb.GaussianProcess)
    peaks = pb.gp.modes(found, least=LEAST) if exact else found.mean.reshape(-1, 1)
    for value, row in zip(grid, peaks, strict=True):
        axes.plot(np.repeat(to_x(float(value)), len(row)), to_y(row.numpy()), ".", color="tab:red", markersize=2)


def _motorcycle(path: Path) -> None:
    times, accelerations = motorcycle()
    center, width, level, unit = times.mean(), times.std(), accelerations.mean(), accelerations.std()
    x, y = torch.as_tensor((times - center) / width), torch.as_tensor((accelerations - level) / unit)
    data = pb.Dataset((x[:, None],), {"y": y})
    grid = torch.linspace(float(x.min()) - 0.2, float(x.max()) + 0.2, 300, dtype=x.dtype)
    levels = torch.linspace(-3.2, 3.0, 400, dtype=x.dtype)
    figure, panels = plt.subplots(1, len(FITS), figsize=(5 * len(FITS), 4), sharey=True, layout="constrained")
    for axes, (name, fit) in zip(panels, FITS.items(), strict=True):
        density(axes, fit(data, 0), grid, levels, lambda v: v * width + center, lambda v: v * unit + level)
        axes.plot(times, accelerations, "k.", markersize=4)
        axes.set(title=name, xlabel="milliseconds after the impact")
    panels[0].set_ylabel("acceleration of the head, g")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _crossing(path: Path) -> None:
    data, c, _ = crossing(200, 0)
    fit = pb.VariationalEM()(crossing_mixture(), data, seed=0)
    grid, levels = torch.linspace(-1.1, 1.1, 300).double(), torch.linspace(-1.6, 1.6, 400).double()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    density(axes, fit, grid, levels, lambda v: v, lambda v: v)
    for which, marker in ((0, "o"), (1, "x")):
        axes.plot(data.args[0][c == which, 0], data.kwargs["y"][c == which], marker, color="k", markersize=3)
    axes.set(xlabel="x", ylabel="y", title=f"{fit.info['num_experts']} of 4 experts hold rows")
    figure.savefig(path, dpi=110)
    plt.close(figure)
