"""Pictures of networks: every probable edge is drawn, none that is not."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from probmodel.bayesian_networks.figure import KNOWN, MISSED, NEW, PLAIN, plot

NAMES = ("rain", "sprinkler", "grass", "alone")
EDGES = np.zeros((4, 4))
EDGES[0, 2], EDGES[1, 2], EDGES[0, 1], EDGES[1, 0] = 0.999, 0.5, 0.3, 0.05


def colours(figure):
    return [patch.get_edgecolor() for patch in figure.axes[0].patches]


def texts(figure):
    return {text.get_text() for text in figure.axes[0].texts}


def test_probable_edges_are_drawn_with_their_probabilities():
    figure = plot(EDGES, NAMES)
    assert len(colours(figure)) == 3
    assert texts(figure) == {*NAMES, ">.99", ".50", ".30"}
    widths = sorted(patch.get_linewidth() for patch in figure.axes[0].patches)
    assert widths == pytest.approx([0.6 + 2.4 * p for p in (0.3, 0.5, 0.999)])


def test_edges_taken_for_known_are_told_apart():
    figure = plot(EDGES, NAMES, known={("rain", "grass"), ("grass", "alone")})
    found = [tuple(np.round(np.array(colour[:3]) * 255).astype(int)) for colour in colours(figure)]
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


@pytest.mark.parametrize("n", [2, 9, 25, 37])
def test_no_name_lies_on_another_or_outside(n):
    rng = np.random.default_rng(n)
    names = [f"variable {i}" for i in range(n)]
    edges = np.triu(rng.random((n, n)), 1) * (rng.random((n, n)) < 2.5 / n)
    figure = plot(edges, names, known={(names[0], names[-1])})
    boxes = list(boxes_of(figure, names).values())
    picture = figure.bbox
    for i, box in enumerate(boxes):
        assert picture.x0 <= box.x0 and box.x1 <= picture.x1 and picture.y0 <= box.y0 and box.y1 <= picture.y1
        assert not any(Bbox.intersection(box, other) for other in boxes[:i])
        assert Bbox.intersection(box, figure.legends[0].get_window_extent()) is None


def test_every_arrow_ends_at_the_border_of_its_node():
    names = ["a node with a long name", "another node of that kind"]
    figure = plot(np.array([[0.0, 0.9], [0.0, 0.0]]), names)
    end = boxes_of(figure, names)[names[1]]
    (arrow,) = figure.axes[0].patches
    tip = arrow.get_window_extent()
    assert Bbox.intersection(end, tip) is None
    assert min(abs(tip.x1 - end.x0), abs(tip.x0 - end.x1), abs(tip.y1 - end.y0), abs(tip.y0 - end.y1)) < 20


@pytest.mark.parametrize(
    ("edges", "names", "known", "words"),
    [
        (EDGES, NAMES[:3], None, "one row and column a name"),
        (EDGES * 2, NAMES, None, "between 0 and 1"),
        (EDGES, NAMES, {("rain", "snow")}, "snow"),
    ],
)
def test_bad_input_is_named(edges, names, known, words):
    with pytest.raises(ValueError, match=words):
        plot(edges, names, known=known)
