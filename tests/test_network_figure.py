"""Pictures of networks: every probable edge is drawn, none that is not."""

import numpy as np
import pytest

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
