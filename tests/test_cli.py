"""The commands print what they find, write what can be read again, and say what to do instead of a traceback."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import probmodel as pb
from probmodel import cli
from probmodel.cli import main
from probmodel.demo import studies


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Output of the quick demo of every fourth row, and its comparisons; the first notebook takes all rows."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cli, "studies", fewer)
        return folder, *recorded(["demo", "--quick", "--out", str(folder)])


def fewer(**settings):
    """The demo's own models and held-out rows, fitted to every fourth of the rows."""
    planned, test = studies(**settings)
    return {name: with_fewer_rows(study) for name, study in planned.items()}, test


def with_fewer_rows(study):
    data = fourth(study.data)
    return study._replace(data=data, inference=replace(study.inference, batch_size=min(50, data.size)))


def fourth(data):
    rows = data.rows(slice(None, None, 4))
    return rows._replace(size=len(rows.args[0]))


def recorded(arguments):
    """Exit status of a command and the comparisons it reported."""
    made = {}
    with pytest.MonkeyPatch.context() as patched:
        report = cli.report

        def keep(comparisons, path, **settings):
            made.update(comparisons)
            return report(comparisons, path, **settings)

        patched.setattr(cli, "report", keep)
        return main(arguments), made


def fails(arguments, capsys, *parts):
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"probmodel {arguments[0]}: ")
    assert "Traceback" not in said
    for part in ("expected", "got", *parts):
        assert part in said
    assert ";" in said, "no remedy"


def test_info_prints_the_versions_as_json(capsys):
    assert main(["info"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(cli.PACKAGES) <= set(info)
    assert info["devices"][0] == "cpu"
    assert info["threads"] == torch.get_num_threads()


def test_the_demo_writes_a_report_and_its_four_fits(demo):
    folder, status, comparisons = demo
    assert status == 0
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    fits = sorted(path.name for path in (folder / "fits").iterdir() if path.is_dir())
    assert fits == ["bayesian_cnn", "cnn_dnn", "cnn_vae", "too_large_200_rows"]
    names = sorted(row.name for comparison in comparisons.values() for row in comparison.rows)
    assert names == ["bayesian cnn", "cnn → dnn", "cnn → vae", "too large, 200 rows"]
    assert all(pb.load(folder / "fits" / name).info["method"] == "SVI" for name in fits)


def test_a_report_of_the_folders_finds_the_same_numbers(demo, tmp_path):
    folder, _, before = demo
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "report.html").unlink()
    status, after = recorded(["report", str(copy)])
    assert status == 0
    assert (copy / "report.html").exists()

    def numbers(comparisons):
        return {
            cli._file_name(row.name): (
                row.evidence.log_z,
                row.evidence.digest,
                str(row.diagnosis.verdict),
                float(row.held_out.log_score.mean()),
            )
            for comparison in comparisons.values()
            for row in comparison.rows
        }

    first, again = numbers(before), numbers(after)
    assert len(first) == 4
    assert set(first) == set(again)
    for name, expected in first.items():
        assert again[name] == pytest.approx(expected), name


def test_a_changed_fit_is_refused(demo, tmp_path, capsys):
    folder, _, _ = demo
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "report.html").write_text("old")
    tensors = copy / "fits" / "cnn_vae" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    fails(["report", str(copy)], capsys, "tensors.safetensors")
    assert (copy / "report.html").read_text() == "old"


def test_a_half_written_fit_is_refused(demo, tmp_path, capsys):
    folder, _, _ = demo
    copy = tmp_path / "copy"
    shutil.copytree(folder / "fits", copy)
    (copy / "cnn_dnn" / "manifest.json").unlink()
    fails(["report", str(copy)], capsys, "manifest.json")


def test_corrupt_held_out_rows_are_refused(demo, tmp_path, capsys):
    folder, _, _ = demo
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "fits" / cli.HELD_OUT_FILE).write_bytes(b"not a tensor")
    fails(["report", str(copy)], capsys, cli.HELD_OUT_FILE)


def test_no_folder_is_an_error_that_says_what_to_do(tmp_path, capsys):
    fails(["report", str(tmp_path / "nowhere")], capsys, "nowhere", "probmodel demo")


def test_a_folder_without_fits_is_an_error_that_says_what_to_do(tmp_path, capsys):
    fails(["report", str(tmp_path)], capsys, str(tmp_path), "probmodel.save")


def test_a_folder_of_other_things_is_an_error(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"\x89PNG")
    fails(["report", str(tmp_path)], capsys, "photos")


@pytest.mark.parametrize("arguments", [["no-such-command"], [], ["report"], ["demo", "--seed", "one"]])
def test_unknown_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: probmodel" in capsys.readouterr().err
