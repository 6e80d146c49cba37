"""Pictures of networks: every probable edge is drawn, none that is not."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from probmodel.families.bayesian_networks.figure import KNOWN, MISSED, NEW, PLAIN, plot

NAMES = ("rain", "sprinkler", "grass", "alone")
EDGES = np.zeros((4, 4))
EDGES[0, 2], EDGES[1, 2], EDGES[0, 1], EDGES[1, 0] = 0.999, 0.5, 0.3, 0.05


def colors(figure):
    return [patch.get_edgecolor() for patch in figure.axes[0].patches]


def texts(figure):
    return {text.get_text() for text in figure.axes[0].texts}


def test_probable_edges_are_drawn_with_their_probabilities():
    figure = plot(EDGES, NAMES)
    assert len(colors(figure)) == 3
    assert texts(figure) == {*NAMES, ">.99", ".50", ".30"}
    widths = sorted(patch.get_linewidth() for patch in figure.axes[0].patches)
    assert widths == pytest.approx([0.6 + 2.4 * p for p in (0.3, 0.5, 0.999)])


def test_edges_taken_for_known_are_told_apart():
    figure = plot(EDGES, NAMES, known={("rain", "grass"), ("grass", "alone")})
    found = [tuple(np.round(np.array(color[:3]) * 255).astype(int)) for color in colors(figure)]
    wanted = {c: tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (KNOWN, NEW, MISSED, PLAIN)}
    assert found.count(wanted[KNOWN]) == 1
    assert found.count(wanted[NEW]) == 2
    assert found.count(wanted[MISSED]) == 1


def test_one_graph_has_no_probabilities_written():
    assert texts(plot((EDGES > 0.2).astype(float), NAMES)) == set(NAMES)


def boxes_of(figure, names):
    FigureCanvasAgg(figure).draw()
    return {
        text.get_text(): text.get_bbox_patch().get_window_extent()
        for text in figure.axes[0].texts
        if text.get_text() in names
    }


CAPITALS = [f"HYPOWMVOLEMIA {i}" for i in range(25)]


@pytest.mark.parametrize(
    "names", [*([f"variable {i}" for i in range(n)] for n in (1, 2, 9, 25, 37)), CAPITALS, ["w" * 120, "i"]]
)
def test_no_name_lies_on_another_or_outside(names):
    n = len(names)
    rng = np.random.default_rng(n)
    edges = np.triu(rng.random((n, n)), 1) * (rng.random((n, n)) < 2.5 / n)
    figure = plot(edges, names, known={(names[0], names[-1])} if n > 1 else None)
    boxes = list(boxes_of(figure, names).values())
    picture = figure.bbox
    for i, box in enumerate(boxes):
        assert picture.x0 <= box.x0 and box.x1 <= picture.x1 and picture.y0 <= box.y0 and box.y1 <= picture.y1
        assert not any(Bbox.intersection(box, other) for other in boxes[:i])
        assert not any(Bbox.intersection(box, legend.get_window_extent()) for legend in figure.legends)


def test_parts_without_an_edge_between_them_keep_their_shape():
    names = [f"{part}{i}" for part in "ab" for i in range(5)]
    edges = np.zeros((10, 10))
    for first in (0, 5):
        edges[range(first, first + 4), range(first + 1, first + 5)] = 0.7
    boxes = boxes_of(plot(edges, names), names)
    middles = {name: np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2]) for name, box in boxes.items()}
    for part in "ab":
        of_part = np.array([middles[f"{part}{i}"] for i in range(5)])
        assert np.ptp(of_part, axis=0).max() > 150  # Of 720 and 640 pixels.
        steps = np.linalg.norm(np.diff(of_part, axis=0), axis=1)
        assert steps.max() < 4 * steps.min()  # Each axis fills the picture, which stretches steps.


@pytest.mark.parametrize("both_ways", [False, True], ids=["straight", "bent"])
@pytest.mark.parametrize("num_nodes", [2, 4])
def test_every_arrow_joins_the_borders_of_its_nodes(both_ways, num_nodes):
    names = ["a node with a long name", "another node of that kind", "third", "4"][:num_nodes]
    edges = np.triu(np.full((num_nodes, num_nodes), 0.9), 1)
    figure = plot(edges + edges.T * both_ways, names)
    boxes = boxes_of(figure, names)
    pairs = sorted((a, b) for i, a in enumerate(names) for j, b in enumerate(names) if (i != j if both_ways else i < j))
    arrows = figure.axes[0].patches
    assert len(arrows) == len(pairs)
    for (start, end), arrow in zip(pairs, arrows, strict=True):
        line = arrow.get_tightbbox(figure.canvas.get_renderer())
        for name in (start, end):
            box = boxes[name]
            away = np.hypot(max(line.x0 - box.x1, box.x0 - line.x1, 0), max(line.y0 - box.y1, box.y0 - line.y1, 0))
            assert away < 12  # Two points, and letters narrower than the room for them.


@pytest.mark.parametrize(
    ("edges", "names", "known", "words"),
    [
        (EDGES, NAMES[:3], None, "one row and column per name"),
        (EDGES * 2, NAMES, None, "between 0 and 1"),
        (EDGES, NAMES, {("rain", "snow")}, "snow"),
    ],
)
def test_bad_input_is_named(edges, names, known, words):
    with pytest.raises(ValueError, match=words):
        plot(edges, names, known=known)
