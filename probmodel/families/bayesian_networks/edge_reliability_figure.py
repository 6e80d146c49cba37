"""Reliability diagram of the edge probabilities of Bayesian networks."""

import numpy as np
from matplotlib.figure import Figure

from probmodel.families.bayesian_networks.edge_calibration import EdgeReliability


def edge_reliability_figure(found: EdgeReliability) -> Figure:
    """Frequency of edges against their probability, with two standard errors and the diagonal of calibration."""
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axes = figure.subplots()
    filled = found.num_edges > 0
    x, y, error = (values[filled] for values in (found.probability, found.frequency, found.stderr))
    axes.plot([0, 1], [0, 1], color="#94a3b8", lw=1, label="calibrated")
    axes.errorbar(x, y, yerr=2 * error, fmt="none", ecolor="#2563eb", capsize=3)
    fraction = found.num_edges[filled] / found.num_edges.sum()
    axes.scatter(x, y, s=15 + 120 * np.sqrt(fraction), color="#2563eb", alpha=0.8, label="edges, by probability")
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("posterior probability of an edge")
    axes.set_ylabel("fraction of them in the true graph (± 2 standard errors)")
    axes.set_title(f"{found.num_edges.sum():,} pairs of nodes; calibrated: p = {found.p_value:.2g}", fontsize=10)
    axes.legend(frameon=False, loc="upper left")
    return figure
