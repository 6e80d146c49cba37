"""Drawing of a network with edges as wide and dark as they are probable, compared with a known graph."""

import math
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.textpath import TextPath

from probmodel.families.bayesian_networks.dag import refuse_duplicates
from probmodel.protocols.arguments.checks import checks_arguments

PLAIN, KNOWN, NEW, MISSED = "#334155", "#059669", "#dc2626", "#94a3b8"
NODE = "#e2e8f0"
BEND = 0.16
"""Curvature of an edge that runs beside its reverse or past another node."""
LEAST_PROBABILITY = 0.1
WIDTH, HEIGHT, FEW_NODES = 7.2, 6.4, 10
"""Width and height in inches of a figure of up to FEW_NODES nodes; larger ones grow with the root of the number of nodes."""
FONT_SIZE, PADDING = 9, 0.35
"""Font size of a name in points, and the padding around it as a fraction of the font size."""
NODE_DISTANCE, LABEL, LEGEND = 0.1, 0.35, 0.35
"""Inches between two nodes, extra inches where a labeled edge joins them, and the height of the legend."""
COMPONENT_DISTANCE = 3.0
"""Distance between connected components in the layout, where an edge has length 1."""

Places = dict[str, Float[np.ndarray, " 2"]]
"""Node → position in inches from the lower left corner."""


class _Edge(NamedTuple):
    start: str
    end: str
    probability: float
    color: str
    bent: bool


@checks_arguments
def plot(
    edges: Float[np.ndarray, "n n"],
    names: Sequence[str],
    *,
    known: Collection[tuple[str, str]] | None = None,
    least: float = LEAST_PROBABILITY,
) -> Figure:
    """Draw nodes joined by arrows whose width and darkness show the probability of the edge.

    Args:
        edges: probability of an edge from i to j, such as `GraphPosterior.edges`; 0 and 1 for a single graph.
        names: names of the nodes.
        known: edges (from, to) of a known graph: probable edges are green if known and red otherwise, improbable known
            edges are dashed.
        least: smallest probability of an edge that counts as probable and is drawn.

    Raises:
        ValueError: if the number of names differs, values lie outside [0, 1], or known edges have other nodes.
    """
    n = len(names)
    refuse_duplicates(list(names))
    if not n or edges.shape != (n, n):
        raise ValueError(
            f"expected probabilities ({n}, {n}), one row and column per name, got {edges.shape}; name each node once"
        )
    if not bool(((edges >= 0) & (edges <= 1)).all()):
        raise ValueError("expected probabilities between 0 and 1, got others or NaN; pass the edges of a posterior")
    known = None if known is None else frozenset((start, end) for start, end in known)
    unknown = sorted({node for edge in known or () for node in edge} - set(names))
    if unknown:
        raise ValueError(f"expected known edges among {list(names)}, got {unknown}; drop those edges or add the names")
    drawn = _drawn(edges, names, known, least)
    larger = max(1.0, math.sqrt(n / FEW_NODES))
    half = {name: _half_size(name) for name in names}
    wide, high = max(WIDTH * larger, 4 * max(float(size[0]) for size in half.values())), HEIGHT * larger
    places = _places(half, drawn, np.array([wide, high]))
    drawn = [edge._replace(bent=edge.bent or _passes_a_node(edge, places, half)) for edge in drawn]
    certain = set(np.unique(edges)) <= {0.0, 1.0}
    legend = 0.0 if known is None else LEGEND
    figure = Figure(figsize=(wide, high + legend))
    axes = figure.add_axes((0.0, legend / (high + legend), 1.0, high / (high + legend)))
    for edge in drawn:
        axes.add_patch(_arrow(edge, places, half))
        if edge.probability >= least and not certain:
            x, y = _label_place(edge, places, half)
            background = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
            axes.text(x, y, _text(edge.probability), fontsize=7, ha="center", va="center", bbox=background, zorder=3)
    for name, (x, y) in places.items():
        box = {"boxstyle": f"round,pad={PADDING}", "facecolor": NODE, "edgecolor": PLAIN, "linewidth": 0.8}
        axes.text(x, y, name, ha="center", va="center", fontsize=FONT_SIZE, bbox=box, zorder=4)
    axes.set(xlim=(0, wide), ylim=(0, high))
    axes.axis("off")
    if known is not None:
        figure.legend(handles=_legend(least), frameon=False, fontsize=8, loc="lower center", ncols=3)
    return figure


def _drawn(
    edges: Float[np.ndarray, "n n"], names: Sequence[str], known: Collection[tuple[str, str]] | None, least: float
) -> list[_Edge]:
    """Edges to draw: the probable ones, and known ones that are not probable."""
    taken = set(known or ())
    shown = {
        (names[i], names[j])
        for i in range(len(names))
        for j in range(len(names))
        if i != j and (edges[i, j] >= least or (names[i], names[j]) in taken)
    }
    found = []
    for start, end in sorted(shown):
        probability = float(edges[names.index(start), names.index(end)])
        color = (
            PLAIN if known is None else NEW if (start, end) not in taken else KNOWN if probability >= least else MISSED
        )
        found.append(_Edge(start, end, probability, color, (end, start) in shown))
    return found


def _half_size(name: str) -> Float[np.ndarray, " 2"]:
    """Half the width and half the height of a node, in inches."""
    # On a screen letters are an integer number of pixels wide, up to 8 % more than on paper.
    width = 1.08 * TextPath((0, 0), name, size=FONT_SIZE).get_extents().width if name.strip() else 0.0
    return (0.5 * np.array([width, 1.2 * FONT_SIZE]) + PADDING * FONT_SIZE) / 72


def _places(half: Places, drawn: Sequence[_Edge], size: Float[np.ndarray, " 2"]) -> Places:
    """Positions with joined nodes close together (Kamada & Kawai, 1989), from a circle in the order of names."""
    names = list(half)
    joined = nx.Graph()
    joined.add_nodes_from(names)
    joined.add_edges_from((edge.start, edge.end) for edge in drawn)
    # Connected components would drift apart: edges between one node of each keep them in the figure.
    middles = [max(sorted(part), key=joined.degree) for part in nx.connected_components(joined)]
    tied = joined.copy()
    tied.add_weighted_edges_from((a, b, COMPONENT_DISTANCE) for a, b in combinations(middles, 2))
    found = nx.kamada_kawai_layout(tied, pos=nx.circular_layout(tied)) if len(names) > 1 else {names[0]: (0.0, 0.0)}
    plane = np.array([found[name] for name in names], dtype=float)
    sides = np.array([half[name] for name in names]) + NODE_DISTANCE / 2
    extent = np.ptp(plane, axis=0)
    straight = extent <= 0.05 * extent.max()  # A straight line has no extent across it to stretch.
    fraction = np.where(straight, 0.5, (plane - plane.min(0)) / np.where(straight, 1.0, extent))
    extra = LABEL * nx.to_numpy_array(joined, nodelist=names)
    placed = _without_overlap(sides + fraction * (size - 2 * sides), sides, extra, size)
    return dict(zip(names, placed, strict=True))


def _without_overlap(
    places: Float[np.ndarray, "n 2"],
    half: Float[np.ndarray, "n 2"],
    extra: Float[np.ndarray, "n n"],
    size: Float[np.ndarray, " 2"],
) -> Float[np.ndarray, "n 2"]:
    """Positions with overlapping rectangles pushed apart along the axis of least overlap, within the figure."""
    order = np.sign(np.arange(len(places))[:, None] - np.arange(len(places)))
    for _ in range(300):
        gap = places[:, None] - places
        over = half[:, None] + half + extra[..., None] - np.abs(gap)
        touching = (over > 1e-3).all(-1) & (order != 0)
        if not touching.any():
            break
        shorter = over == over.min(-1, keepdims=True)
        way = np.where(gap == 0, order[..., None], np.sign(gap))
        places = np.clip(places + 0.3 * (way * over * (shorter & touching[..., None])).sum(1), half, size - half)
    return places


def _arrow(edge: _Edge, places: Places, half: Places) -> FancyArrowPatch:
    missed = edge.color == MISSED
    start, middle, end = places[edge.start], _bend(edge, places), places[edge.end]
    return FancyArrowPatch(
        tuple(start),
        tuple(end),
        arrowstyle="-|>",
        mutation_scale=11,
        connectionstyle=f"arc3,rad={BEND if edge.bent else 0.0}",
        shrinkA=_to_border(half[edge.start], middle - start),
        shrinkB=_to_border(half[edge.end], middle - end),
        linestyle="--" if missed else "-",
        linewidth=0.9 if missed else 0.6 + 2.4 * edge.probability,
        color=edge.color,
        alpha=0.9 if missed else 0.25 + 0.75 * edge.probability,
        zorder=2,
    )


def _bend(edge: _Edge, places: Places) -> Float[np.ndarray, " 2"]:
    """Control point of an edge: its midpoint, shifted sideways where the edge is bent."""
    start, end = places[edge.start], places[edge.end]
    across = np.array([end[1] - start[1], start[0] - end[0]])
    return 0.5 * (start + end) + (BEND if edge.bent else 0.0) * across


def _to_border(half: Float[np.ndarray, " 2"], way: Float[np.ndarray, " 2"]) -> float:
    """Distance from the center of a node to its border plus a margin, in points."""
    return float(72 * np.linalg.norm(way) * (half / np.maximum(np.abs(way), 1e-9)).min()) + 2


def _label_place(edge: _Edge, places: Places, half: Places) -> Float[np.ndarray, " 2"]:
    """Position of a label on the edge (a quadratic Bézier curve), near its middle and where no node covers it."""
    points = np.array([places[edge.start], _bend(edge, places), places[edge.end]])
    along = [np.array([(1 - t) ** 2, 2 * t * (1 - t), t**2]) @ points for t in (0.55, 0.45, 0.65, 0.35)]
    around = np.array([0.13, 0.07])
    free = [p for p in along if not any((abs(p - places[name]) < half[name] + around).all() for name in places)]
    return (free or along)[0]


def _passes_a_node(edge: _Edge, places: Places, half: Places) -> bool:
    """True if the straight line between two nodes crosses a third one."""
    start, way = places[edge.start], places[edge.end] - places[edge.start]
    way = np.where(np.abs(way) < 1e-9, 1e-9, way)
    for node, place in places.items():
        sides = np.array([place - half[node] - 0.05, place + half[node] + 0.05])
        crossings = np.sort((sides - start) / way, axis=0)
        if node not in (edge.start, edge.end) and max(crossings[0].max(), 0.0) < min(crossings[1].min(), 1.0):
            return True
    return False


def _text(probability: float) -> str:
    """Probability in two digits, never shown as 1."""
    return ">.99" if probability >= 0.995 else f"{probability:.2f}"[1:]


def _legend(least: float) -> list[Line2D]:
    return [
        Line2D([], [], color=KNOWN, linewidth=2.5, label="probable and known"),
        Line2D([], [], color=NEW, linewidth=2.5, label="probable, not known"),
        Line2D([], [], color=MISSED, linewidth=1, linestyle="--", label=f"known, below {least:g}"),
    ]
