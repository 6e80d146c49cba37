"""The picture of an evidence: what each mark says, and what a refusal, a missing error and an outlier look like."""

import io
import math

import matplotlib.pyplot as plt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from probmodel import Evidence
from probmodel.evidence.figure import BLUE, GRAY, RED, plot
from probmodel.protocols.evidence import Agreement, Estimate

AIS = Estimate("ais", -31.317, 0.003)
REVERSE = Estimate("reverse ais", -31.278, 0.020)
NO_ERROR = Estimate("bic", -31.30, math.nan)
CAVEAT = "approximation, off by -5.75"
LAPLACE = Estimate("laplace", -37.08, math.nan, caveat=CAVEAT)
FAILED = ("estimators disagree (p = 1e-05): a mode may be missing; run more chains", "the bounds cross")
CERTIFIED = "the lower bound holds at finite sample size: schedule and kernels were frozen after the pilot run; " * 2


def evidence(*estimates, **changes):
    settings = {
        "lower": -31.326,
        "upper": -31.220,
        "method": "sandwich",
        "agreement": Agreement(estimates or (AIS, REVERSE, LAPLACE), 0.05),
        "certified": CERTIFIED,
    }
    return Evidence(-31.3167, 0.0029, **(settings | changes))


def refused(*estimates, unchecked=(-31.326, -31.220), failed=FAILED):
    info = {"failed": failed, "unchecked_bounds": unchecked}
    certified = "neither side: a check has failed"
    return evidence(*estimates, lower=-math.inf, upper=math.inf, info=info, certified=certified)


def axes_of(found):
    (axes,) = plot(found).axes
    return axes


def bands(axes):
    return [(patch.get_x(), patch.get_x() + patch.get_width(), patch) for patch in axes.patches]


def mark(axes, place):
    """The mark in a row: position, face and edge color, shape."""
    (found,) = [
        line
        for line in axes.lines
        if line.get_marker() in "o<>" and len(line.get_ydata()) and line.get_ydata()[0] == place
    ]
    return found


def bar(axes, place):
    """Ends of the error bar in a row."""
    for container in axes.containers:
        line, _, bars = container.lines
        if line.get_ydata()[0] == place and bars:
            return tuple(bars[0].get_segments()[0][:, 0])
    return None


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend(axes):
    return [text.get_text().replace("\n", " ") for text in axes.get_legend().get_texts()]


def caption(found):
    return plot(found).get_supxlabel()


def test_a_row_is_an_estimator_in_the_order_of_the_table_from_the_top():
    axes = axes_of(evidence())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ais", "reverse ais", "laplace"]
    bottom, top = axes.get_ylim()
    assert bottom > 2 and top < 0


def test_a_point_carries_its_error_bar_of_1_96_standard_errors():
    axes = axes_of(evidence())
    for place, each in enumerate((AIS, REVERSE)):
        assert mark(axes, place).get_xdata()[0] == each.log_z
        assert bar(axes, place) == pytest.approx(
            (each.log_z - 1.96 * each.stderr, each.log_z + 1.96 * each.stderr), 1e-5
        )


def test_without_a_standard_error_there_is_no_bar_and_the_mark_is_hollow():
    axes = axes_of(evidence(AIS, NO_ERROR))
    assert bar(axes, 1) is None
    assert mark(axes, 1).get_markerfacecolor() == "white"
    assert mark(axes, 0).get_markerfacecolor() == BLUE


def test_an_estimate_with_a_caveat_is_gray_and_says_it():
    axes = axes_of(evidence(AIS, Estimate("importance", -31.30, 0.01, caveat="k-hat 0.91 > 0.7")))
    assert mark(axes, 1).get_color() == GRAY
    assert "k-hat 0.91 > 0.7" in texts(axes)


def test_the_band_runs_from_bound_to_bound_and_names_its_level():
    axes = axes_of(evidence())
    ((lower, upper, patch),) = bands(axes)
    assert (lower, upper) == pytest.approx((-31.326, -31.220))
    assert patch.get_hatch() is None
    assert "95 % bound [−31.326, −31.220]" in legend(axes)


def test_another_level_is_named_without_rounding():
    assert any(text.startswith("97.5 % bound") for text in legend(axes_of(evidence(level=0.975))))


def test_a_line_stands_at_the_combined_value():
    (line,) = [line for line in axes_of(evidence()).lines if line.get_label() == "log Z"]
    assert list(line.get_xdata()) == [-31.3167, -31.3167]


def test_an_outlier_with_a_caveat_is_an_arrow_at_the_edge_with_its_value_and_squashes_nothing():
    axes = axes_of(evidence())
    left, right = axes.get_xlim()
    assert right - left < 0.3
    assert (mark(axes, 2).get_marker(), mark(axes, 2).get_xdata()[0]) == ("<", left)
    assert "−37.08" in texts(axes)
    assert CAVEAT in texts(axes)


def test_an_outlier_above_points_the_other_way():
    axes = axes_of(evidence(AIS, REVERSE, Estimate("laplace", -20.0, math.nan, caveat="approximation")))
    assert (mark(axes, 2).get_marker(), mark(axes, 2).get_xdata()[0]) == (">", axes.get_xlim()[1])


def test_a_near_estimate_with_a_caveat_is_shown_where_it_is():
    axes = axes_of(evidence(AIS, REVERSE, Estimate("laplace", -31.36, math.nan, caveat="approximation")))
    assert (mark(axes, 2).get_marker(), mark(axes, 2).get_xdata()[0]) == ("o", -31.36)


def test_estimates_without_a_caveat_are_all_inside_however_far_apart():
    axes = axes_of(refused(AIS, Estimate("smc", -29.0, 0.05)))
    left, right = axes.get_xlim()
    assert left < -31.317 and right > -29.0
    assert mark(axes, 1).get_marker() == "o"


def test_a_long_error_bar_runs_out_of_the_picture():
    axes = axes_of(evidence(AIS, REVERSE, Estimate("smc", -31.3, 2.0)))
    left, right = axes.get_xlim()
    assert right - left < 0.5
    assert bar(axes, 2)[0] < left < right < bar(axes, 2)[1]


def test_beside_a_closed_form_an_error_bar_is_shown_whole():
    axes = axes_of(evidence(Estimate("exact", -31.3167, 0.0), REVERSE, lower=-31.3167, upper=-31.3167))
    left, right = axes.get_xlim()
    assert left < bar(axes, 1)[0] and bar(axes, 1)[1] < right


def test_a_refused_evidence_shows_the_unchecked_bounds_hatched_with_the_first_failed_check():
    figure = plot(refused())
    (axes,) = figure.axes
    ((lower, upper, patch),) = bands(axes)
    assert (lower, upper) == pytest.approx((-31.326, -31.220))
    assert patch.get_hatch()
    assert "refused: estimators disagree (p = 1e-05): a mode may be missing" in legend(axes)
    assert not any("% bound" in text for text in legend(axes))
    assert figure.get_suptitle().startswith("refused")
    assert to_hex(figure._suptitle.get_color()) == RED


def test_crossed_bounds_are_hatched_between_them():
    ((lower, upper, _),) = bands(axes_of(refused(unchecked=(-5.39, -6.11))))
    assert (lower, upper) == pytest.approx((-6.11, -5.39))


def test_a_refusal_without_finite_bounds_is_still_a_picture():
    figure = plot(refused(unchecked=(-math.inf, math.inf)))
    assert bands(figure.axes[0]) == []
    assert figure.get_suptitle().startswith("refused")


def test_the_caption_holds_the_p_value_and_what_is_certified_wrapped():
    said = caption(evidence())
    assert "p = 0.05" in said
    assert CERTIFIED.strip(" ") in said.replace("\n", " ")
    assert max(map(len, said.splitlines())) <= 130
    assert "p < 1e-10" in caption(evidence(agreement=Agreement((AIS,), 0.0)))
    assert "p " not in caption(evidence(agreement=Agreement((AIS,)), certified=""))


def test_one_estimator_alone_is_a_row_with_its_one_sided_bound():
    axes = axes_of(Evidence(-31.33, 0.026, lower=-31.6, method="smc", certified="the lower bound holds"))
    ((lower, upper, _),) = bands(axes)
    assert (lower, upper) == pytest.approx((-31.6, axes.get_xlim()[1]))
    assert mark(axes, 0).get_xdata()[0] == -31.33
    assert any(text.startswith("95 % lower bound −31.6") for text in legend(axes))


def test_an_estimate_that_is_no_number_says_so_and_moves_no_axis():
    axes = axes_of(evidence(AIS, REVERSE, Estimate("laplace", math.nan, math.nan, caveat="no maximum: flat")))
    assert "no finite value: nan" in texts(axes)
    assert axes.get_xlim()[1] - axes.get_xlim()[0] < 0.3


@pytest.mark.parametrize("value", [-12345.678901, 0.0, 3e-7])
def test_a_closed_form_has_a_band_of_no_width_and_still_an_axis(value):
    found = Evidence(value, 0.0, lower=value, upper=value, level=1.0, method="exact")
    axes = axes_of(found)
    left, right = axes.get_xlim()
    assert left < value < right
    assert mark(axes, 0).get_xdata()[0] == value
    assert any(text.startswith("100 % bound") for text in legend(axes))


@pytest.mark.parametrize("found", [evidence(), refused(), Evidence(math.nan, math.nan), Evidence(-1e6, 3.0)])
def test_every_picture_can_be_drawn_with_nothing_left_in_pyplot(found):
    figure, file = plot(found), io.BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    assert file.getvalue().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_nothing_written_overlaps():
    figure = plot(refused())
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    legend_box = axes.get_legend().get_window_extent(renderer)
    title_box = figure._suptitle.get_window_extent(renderer)
    caption_box = figure._supxlabel.get_window_extent(renderer)
    label_box = axes.xaxis.label.get_window_extent(renderer)
    assert title_box.y0 >= legend_box.y1 - 2
    assert caption_box.y1 <= label_box.y0 + 2
    for box in (legend_box, title_box, caption_box):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
