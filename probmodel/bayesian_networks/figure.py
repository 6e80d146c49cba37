"""Picture of a network: edges as wide and dark as they are probable, beside a graph that is taken for known."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from probmodel.bayesian_networks.dag import refuse_twice

PLAIN, KNOWN, NEW, MISSED = "#334155", "#059669", "#dc2626", "#94a3b8"
NODE = "#e2e8f0"
BEND = 0.16
"""Of an edge beside its reverse, or past another node."""
NEAR = 0.47
"""Inches of a node from an edge: there the edge has to bend."""
SHOWN = 0.1
WIDE, HIGH, FEW = 7.2, 6.4, 10
"""Inches of a picture of few nodes; one of more nodes grows with the root of their number."""
LETTER, LINE, MARGIN, LABEL = 0.075, 0.24, 0.16, 0.25
"""Inches: width of a letter, height of a node, what is around its name and between two nodes, width of a probability."""


class _Edge(NamedTuple):
    start: str
    end: str
    probability: float
    colour: str
    bent: bool


def plot(
    edges: Float[np.ndarray, "n n"],
    names: Sequence[str],
    *,
    known: Collection[tuple[str, str]] | None = None,
    least: float = SHOWN,
) -> Figure:
    """Nodes on a plane, joined by arrows whose width and darkness are their probability.

    Args:
        edges: probability of an edge from i to j, such as `GraphPosterior.edges`; of one graph 0 and 1.
        names: of the nodes.
        known: edges (from, to) taken for known: those among them are green, others red, missing ones dashed.
        least: probability from which on an edge is drawn.

    Raises:
        ValueError: for another number of names, values outside [0, 1], or known edges of other nodes.
    """
    n = len(names)
    refuse_twice(list(names))
    if not n or edges.shape != (n, n):
        raise ValueError(
            f"expected probabilities ({n}, {n}), one row and column a name, got {edges.shape}; name each node once"
        )
    if not bool(((edges >= 0) & (edges <= 1)).all()):
        raise ValueError("expected probabilities between 0 and 1, got others or NaN; pass the edges of a posterior")
    unknown = sorted({node for edge in known or () for node in edge} - set(names))
    if unknown:
        raise ValueError(f"expected known edges among {list(names)}, got {unknown}")
    drawn = _drawn(edges, names, known, least)
    larger = max(1.0, math.sqrt(n / FEW))
    wide, high = WIDE * larger, HIGH * larger
    places = _places(names, drawn, wide, high)
    drawn = [edge._replace(bent=edge.bent or _passes_a_node(edge, places)) for edge in drawn]
    certain = set(np.unique(edges)) <= {0.0, 1.0}
    figure = Figure(figsize=(wide, high), layout="constrained")
    axes = figure.subplots()
    for edge in drawn:
        axes.add_patch(_arrow(edge, places))
        if edge.probability >= least and not certain:
            x, y = _label_place(edge, places)
            background = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
            axes.text(x, y, _text(edge.probability), fontsize=7, ha="center", va="center", bbox=background, zorder=3)
    for name, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": NODE, "edgecolor": PLAIN, "linewidth": 0.8}
        axes.text(x, y, name, ha="center", va="center", fontsize=9, bbox=box, zorder=4)
    axes.set(xlim=(0, wide), ylim=(0, high), aspect="equal")
    axes.axis("off")
    if known is not None:
        figure.legend(handles=_legend(least), frameon=False, fontsize=8, loc="outside lower center", ncols=3)
    return figure


def _drawn(
    edges: Float[np.ndarray, "n n"], names: Sequence[str], known: Collection[tuple[str, str]] | None, least: float
) -> list[_Edge]:
    """Probable edges, and known ones that are not."""
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
        colour = (
            PLAIN if known is None else NEW if (start, end) not in taken else KNOWN if probability >= least else MISSED
        )
        found.append(_Edge(start, end, probability, colour, (end, start) in shown))
    return found


def _places(names: Sequence[str], drawn: Sequence[_Edge], wide: float, high: float) -> dict[str, tuple[float, float]]:
    """Inches of nodes: joined ones near, others apart (Kamada & Kawai, 1989), from a circle in the order of names."""
    graph = nx.Graph()
    graph.add_nodes_from(names)
    graph.add_edges_from((edge.start, edge.end) for edge in drawn)
    # Nodes without an edge would fly off: a weak tie to all keeps them in the picture.
    graph.add_weighted_edges_from(
        (lone, other, 3.0) for lone in list(nx.isolates(graph)) for other in names if other != lone
    )
    found = nx.kamada_kawai_layout(graph, pos=nx.circular_layout(graph)) if len(names) > 1 else {names[0]: (0.0, 0.0)}
    plane = np.array([found[name] for name in names], dtype=float)
    half = np.array([[0.5 * (LETTER * len(name) + MARGIN), 0.5 * (LINE + MARGIN)] for name in names])
    low, up = half, np.array([wide, high]) - half
    extent = np.ptp(plane, axis=0)
    share = np.where(extent > 1e-6, (plane - plane.min(0)) / np.where(extent > 1e-6, extent, 1.0), 0.5)
    placed = _apart(low + share * (up - low), half, low, up)
    return {name: (float(x), float(y)) for name, (x, y) in zip(names, placed, strict=True)}


def _apart(
    places: Float[np.ndarray, "n 2"],
    half: Float[np.ndarray, "n 2"],
    low: Float[np.ndarray, "n 2"],
    up: Float[np.ndarray, "n 2"],
) -> Float[np.ndarray, "n 2"]:
    """Rectangles pushed off each other along the shorter way, as far as the picture has room."""
    order = np.sign(np.arange(len(places))[:, None] - np.arange(len(places)))
    for _ in range(300):
        gap = places[:, None] - places
        over = half[:, None] + half - np.abs(gap)
        touching = (over > 1e-3).all(-1) & (order != 0)
        if not touching.any():
            break
        shorter = over == over.min(-1, keepdims=True)
        way = np.where(gap == 0, order[..., None], np.sign(gap))
        places = np.clip(places + 0.3 * (way * over * (shorter & touching[..., None])).sum(1), low, up)
    return places


def _arrow(edge: _Edge, places: dict[str, tuple[float, float]]) -> FancyArrowPatch:
    missed = edge.colour == MISSED
    start, middle, end = (np.array(place) for place in (places[edge.start], _bend(edge, places), places[edge.end]))
    return FancyArrowPatch(
        places[edge.start],
        places[edge.end],
        arrowstyle="-|>",
        mutation_scale=11,
        connectionstyle=f"arc3,rad={BEND if edge.bent else 0.0}",
        shrinkA=_to_border(edge.start, middle - start),
        shrinkB=_to_border(edge.end, middle - end),
        linestyle="--" if missed else "-",
        linewidth=0.9 if missed else 0.6 + 2.4 * edge.probability,
        color=edge.colour,
        alpha=0.9 if missed else 0.25 + 0.75 * edge.probability,
        zorder=2,
    )


def _bend(edge: _Edge, places: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """The point that an edge leaves for and comes from: the middle, aside where the edge is bent."""
    (x0, y0), (x1, y1) = places[edge.start], places[edge.end]
    rad = BEND if edge.bent else 0.0
    return 0.5 * (x0 + x1) + rad * (y1 - y0), 0.5 * (y0 + y1) - rad * (x1 - x0)


def _to_border(name: str, way: Float[np.ndarray, " 2"]) -> float:
    """Points from the middle of a node to its border and a little on."""
    half = 0.5 * np.array([LETTER * len(name) + MARGIN / 2, LINE])
    return float(72 * np.linalg.norm(way) * (half / np.maximum(np.abs(way), 1e-9)).min()) + 2


def _label_place(edge: _Edge, places: dict[str, tuple[float, float]]) -> tuple[float, float]:
    """On the edge (a quadratic Bézier curve), nearer to the end than to the start where no node lies over it."""
    points = np.array([places[edge.start], _bend(edge, places), places[edge.end]])
    along = [np.array([(1 - t) ** 2, 2 * t * (1 - t), t**2]) @ points for t in (0.55, 0.45, 0.65, 0.35)]
    half = {name: 0.5 * np.array([LETTER * len(name) + LABEL + MARGIN, 2 * LINE]) for name in places}
    free = [p for p in along if not any((abs(p - places[name]) < half[name]).all() for name in places)]
    x, y = (free or along)[0]
    return float(x), float(y)


def _passes_a_node(edge: _Edge, places: dict[str, tuple[float, float]]) -> bool:
    """Whether the straight line between two nodes runs over a third."""
    start, end = (np.array(places[node]) for node in (edge.start, edge.end))
    along = end - start
    for node, place in places.items():
        share = float((np.array(place) - start) @ along / max(along @ along, 1e-12))
        if node not in (edge.start, edge.end) and 0 < share < 1 and np.hypot(*(start + share * along - place)) < NEAR:
            return True
    return False


def _text(probability: float) -> str:
    """Two digits; nothing is certain."""
    return ">.99" if probability >= 0.995 else f"{probability:.2f}"[1:]


def _legend(least: float) -> list[Line2D]:
    return [
        Line2D([], [], color=KNOWN, linewidth=2.5, label="probable and known"),
        Line2D([], [], color=NEW, linewidth=2.5, label="probable, not known"),
        Line2D([], [], color=MISSED, linewidth=1, linestyle="--", label=f"known, below {least:g}"),
    ]
