"""A report is one HTML file that needs nothing else, says all that was found, and is written whole or not at all."""

import html
import re
from functools import lru_cache

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import probmodel as pb
from probmodel.comparison.report import figures, page

HOSTILE = "<script>alert('a & b')</script> \"é\" $x_1"


def line(x, y=None):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def rows(count, seed):
    with pb.isolated(seed):
        x = torch.randn(count, 3, dtype=torch.float64)
        return pb.Dataset((x,), {"y": x.sum(-1) + 0.5 * torch.randn(count, dtype=torch.float64)}, count)


def images(count, seed):
    with pb.isolated(seed):
        y = torch.arange(count) % 3
        return pb.Dataset((torch.randn(count, 1, 4, 4) + y[:, None, None, None],), {"y": y}, count)


@lru_cache
def regressions():
    """Fits without losses, and with."""
    data, test = rows(30, 0), rows(20, 1)
    methods = {
        "exact": pb.Exact(100),
        HOSTILE: pb.NUTS(30, 30, 2, progress=False),
        "svi": pb.SVI(60, num_samples=60, progress=False, compile=False),
    }
    fits = {name: method(line, data, seed=0) for name, method in methods.items()}
    return pb.compare(fits, test), test


@lru_cache
def classifiers():
    data, test = images(40, 0), images(30, 1)
    with pb.isolated(0):
        models = {
            "dnn": pb.Pipeline(pb.CNN(1, 4, channels=(2,)), pb.DNN(4, 3, hidden=()), pb.Classify(3, 3)),
            "vae": pb.Pipeline(pb.CNN(1, 4, channels=(2,)), pb.VAE(4, 2), pb.Classify(2, 3)),
        }
    method = pb.SVI(60, num_samples=30, progress=False, compile=False)
    fits = {name: method(model, data, seed=0) for name, model in models.items()}
    return pb.compare(fits, test), test


@lru_cache
def without_held_out():
    return pb.compare({"exact": pb.Exact(100)(line, rows(30, 0), seed=0)}), None


CASES = {"regressions": regressions, "classifiers": classifiers, "without held-out rows": without_held_out}


def written(case, folder):
    comparison, test = CASES[case]()
    path = pb.report({f"{case} {HOSTILE}": comparison}, folder / "new" / "report.html", held_out=test, title=HOSTILE)
    return comparison, path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_a_report_needs_no_other_file_and_runs_no_code(case, tmp_path):
    _, path, text = written(case, tmp_path)
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    assert not re.search(r"https?://|<script|<link|<iframe|javascript:|@import|url\(", text, re.IGNORECASE)
    sources = re.findall(r"""(?:src|href)\s*=\s*['"]?([^'"\s>]*)""", text)
    assert sources
    assert all(each.startswith("data:image/png;base64,") for each in sources)
    assert not re.search(r"<[^>]*\son\w+\s*=", text)


@pytest.mark.parametrize("case", CASES)
def test_a_report_says_everything_that_was_found(case, tmp_path):
    comparison, _, text = written(case, tmp_path)
    missing = [note for note in comparison.notes if html.escape(note) not in text]
    for row in comparison.rows:
        _, chapter = text.split(f"<h4>{html.escape(row.name)} ")  # One chapter a model.
        chapter = chapter.split("<h4>")[0]
        parts = [f">{row.diagnosis.verdict}</span>"]
        for each in row.diagnosis.findings:
            parts += [f"<td>{html.escape(each.name)}</td><td>{each.number}", html.escape(each.message)]
        missing += [part for part in parts if part not in chapter]
        assert chapter.count("<tr") == len(row.diagnosis.findings)
    # A list of what is missing; pytest would compare the whole page with each part.
    assert not missing


@pytest.mark.parametrize("case", CASES)
def test_names_cannot_open_a_tag(case, tmp_path):
    _, _, text = written(case, tmp_path)
    assert text.count("<script") == 0
    assert text.count("&lt;script&gt;") >= 3  # the page's title twice, the heading


def test_a_failing_figure_leaves_the_old_report(tmp_path, monkeypatch):
    comparison, test = classifiers()
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(_):
        raise RuntimeError("no figure")

    monkeypatch.setattr(page.figures, "gaps", fail)
    with pytest.raises(RuntimeError, match="no figure"):
        pb.report({"digits": comparison}, path, held_out=test)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_failing_disk_leaves_the_old_report(tmp_path, monkeypatch):
    comparison, _ = without_held_out()
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(page.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        pb.report({"rows": comparison}, path)
    assert path.read_text() == "old"


def test_a_bare_comparison_is_reported_under_one_heading(tmp_path):
    comparison, _ = without_held_out()
    bare, named = tmp_path / "bare.html", tmp_path / "named.html"
    pb.report(comparison, bare)
    pb.report({"Models": comparison}, named)
    assert "<h2>Models</h2>" in bare.read_text() and bare.read_text() == named.read_text()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("draw", [figures.scores, figures.losses, figures.gaps])
def test_a_figure_is_complete_and_held_by_nothing(case, draw):
    comparison, _ = CASES[case]()
    figure = draw(comparison)
    assert isinstance(figure, Figure)
    assert figure.axes
    if draw is figures.gaps and case == "without held-out rows":
        assert not any(axes.has_data() for axes in figure.axes)
    elif draw is not figures.losses:
        assert all(axes.has_data() for axes in figure.axes)
    else:
        shown = {
            text.get_text() for axes in figure.axes for text in (axes.get_legend() or plt.Text()).findobj(plt.Text)
        }
        fitted = {row.name for row in comparison.rows if len(row.posterior.info.get("losses", ())) > 1}
        assert {name.replace("$", "") for name in fitted} <= {text.replace("$", "") for text in shown}
    assert plt.get_fignums() == []


def test_pictures_of_classifiers_show_their_predictions():
    comparison, test = classifiers()
    calibration = figures.calibration(comparison)
    assert [axes.get_title() for axes in calibration.axes] == [row.name for row in comparison.rows]
    assert all(axes.has_data() for axes in calibration.axes)
    hardest = figures.hardest_rows(comparison.rows[0], test.args[0])
    assert len(hardest.axes) == figures.WORST_ROWS
    assert all(axes.images for axes in hardest.axes)
    assert plt.get_fignums() == []


def test_the_hardest_rows_are_those_scored_worst():
    comparison, test = classifiers()
    row = comparison.rows[0]
    worst = row.held_out.log_score.argsort()[: figures.WORST_ROWS]
    titles = [axes.get_title() for axes in figures.hardest_rows(row, test.args[0]).axes]
    assert [int(title[-1]) for title in titles] == test.kwargs["y"][worst].tolist()


def test_rows_that_are_no_images_have_no_pictures():
    comparison, test = regressions()
    assert figures.hardest_rows(comparison.rows[0], test.args[0]) is None


def test_a_figure_without_data_is_left_out(tmp_path):
    _, _, text = written("without held-out rows", tmp_path)
    assert text.count("<h3>Evidence and prediction</h3>") == 1
    assert text.count("<h3>Training against held-out rows</h3>") == 0
    assert text.count("<h3>Descent of the loss</h3>") == 0


@lru_cache
def both_kinds():
    """A fit whose weights are integrated and one whose weights are estimated, of the same rows."""
    with pb.isolated(0):
        network = pb.Pipeline(pb.Identity(), pb.DNN(3, 2, hidden=()), pb.Regress(2)).double()
    data, test = rows(30, 0), rows(20, 1)
    fits = {
        "integrated": pb.Exact(100)(line, data, seed=0),
        "estimated": pb.MaximumLikelihood(max_steps=500)(network, data, seed=0),
    }
    return pb.compare(fits, test)


def test_full_evidences_and_those_given_estimates_have_an_axis_each():
    labels = [axes.get_xlabel() for axes in figures.scores(both_kinds()).axes]
    assert labels == [
        "log evidence\n(nats)",
        "log evidence given\npoint estimates* (nats)",
        "held-out log score\n(nats per row)",
    ]
    for axes, name in zip(figures.scores(both_kinds()).axes, ("integrated", "estimated"), strict=False):
        (shown,) = {float(bars.lines[0].get_xdata()[0]) for bars in axes.containers}
        assert shown == both_kinds().frame.loc[name, "log evidence"]


def test_the_figure_of_evidences_draws_doubtful_numbers_hollow_and_lower_bounds_as_arrows():
    comparison, _ = regressions()
    (evidence, *_) = figures.scores(comparison).axes
    drawn = dict(zip([row.name for row in comparison.rows], evidence.containers, strict=True))
    assert any(row.diagnosis["log evidence"].doubt for row in comparison.rows)
    assert not all(row.diagnosis["log evidence"].doubt for row in comparison.rows)
    for row in comparison.rows:
        found, point = row.diagnosis["log evidence"], drawn[row.name].lines[0]
        assert (point.get_markerfacecolor() == "white") == bool(found.doubt)
        assert (point.get_marker() == ">") == found.only_lower


def test_a_report_is_not_written_onto_a_folder(tmp_path):
    comparison, _ = without_held_out()
    with pytest.raises(ValueError, match=r"expected the path of a file, got the folder .*report\.html"):
        pb.report(comparison, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected comparisons by heading, got none"):
        pb.report({}, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
