"""Whatever is killed, whenever: a folder holds the older or the newer fit, and what is left beside it goes away."""

import os
import sys
import threading
import warnings
from pathlib import Path

import pytest

from probmodel.protocols.errors import CorruptFitError
from probmodel.storage import folder as fit_folder
from probmodel.storage import replacing
from probmodel.storage.folder import ALL_FILES, FILES, read, write

OLDER, NEWER = (dict.fromkeys(FILES, word) for word in (b"older", b"newer"))
WAYS = {"exchange": replacing.exchanged, "two renames": lambda one, other: False}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Both ways of replacing a folder: by the system's exchange, and where there is none."""
    monkeypatch.setattr(replacing, "exchanged", WAYS[request.param])
    return request.param


CHANGES = {"mkdir", "flock", "write", "fsync", "rename", "listdir", "unlink", "rmdir"}
"""Functions that change the disk, and one that comes right after the exchange of two folders."""


def killed_at(call: int, folder: Path, contents: dict[str, bytes]) -> bool:
    """Write a fit in a process of its own that dies before one of its changes of the disk; False if there are fewer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The child only writes files.
        child = os.fork()
    if child == 0:
        count = 0

        def die(frame, event, argument):
            nonlocal count
            if event == "c_call" and argument.__name__ in CHANGES:
                count += 1
                if count == call:
                    os._exit(9)

        try:
            sys.setprofile(die)
            write(folder, contents)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def beside(folder):
    return sorted(path.name for path in folder.parent.iterdir())


@pytest.mark.parametrize("earlier", [None, OLDER])
def test_a_process_killed_at_any_step_leaves_the_older_or_the_newer_fit(earlier, way, tmp_path):
    if earlier is None and way == "two renames":
        pytest.skip("a first fit is put in its place by one rename")
    seen, call, folder = set(), 0, tmp_path / "fit"
    if earlier:
        write(folder, earlier)
    while True:
        call += 1
        killed = killed_at(call, folder, NEWER)
        try:
            found = read(folder)
        except FileNotFoundError:
            found = None
        assert found in (earlier, NEWER)
        seen.add(None if found is None else found[FILES[0]])
        if not killed:
            break
        # The next writer finds the fit, and leaves nothing behind.
        write(folder, earlier or OLDER)
        assert beside(folder) == ["fit"]
        if earlier is None:
            replacing.remove(folder, ALL_FILES)
    assert call > 12 and seen == {None if earlier is None else b"older", b"newer"}
    assert beside(folder) == ["fit"]


@pytest.mark.parametrize("failing_rename", [1, 2, 3])
def test_a_failed_rename_leaves_the_older_fit(failing_rename, tmp_path, monkeypatch):
    calls, rename, folder = [], os.rename, tmp_path / "fit"
    write(folder, OLDER)

    def fail(source, target):
        calls.append(source)
        if len(calls) == failing_rename:
            raise OSError(5, "broken disk")
        rename(source, target)

    monkeypatch.setattr(replacing, "exchanged", WAYS["two renames"])
    monkeypatch.setattr(replacing.os, "rename", fail)
    with pytest.raises(OSError, match="broken disk"):
        write(folder, NEWER)
    assert read(folder) == OLDER
    assert beside(folder) == ["fit"]


@pytest.mark.skipif(not sys.platform.startswith(("linux", "darwin")), reason="the system cannot exchange folders")
def test_two_folders_are_exchanged_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not replacing.exchanged(tmp_path / "a", tmp_path / "b"):
        pytest.skip("the file system cannot exchange folders")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    with pytest.raises(FileNotFoundError):
        replacing.exchanged(tmp_path / "a", tmp_path / "none")


def test_a_reader_sees_the_older_or_the_newer_fit_while_it_is_replaced(way, tmp_path):
    folder, stop = tmp_path / "fit", threading.Event()
    write(folder, OLDER)

    def replace():
        while not stop.is_set():
            write(folder, NEWER)
            write(folder, OLDER)

    found = []
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while len(found) < 300 or (len(set(found)) < 2 and len(found) < 100_000):
            found.append(read(folder)[FILES[0]])
    finally:
        stop.set()
        writer.join()
    assert set(found) == {b"older", b"newer"}


def test_a_reader_whose_fit_is_replaced_under_its_hands_sees_the_newer_one(way, tmp_path, monkeypatch):
    folder, manifest, calls = tmp_path / "fit", fit_folder._manifest, []
    write(folder, OLDER)

    def replaced_afterwards(path, handle):
        found = manifest(path, handle)
        calls.append(1)
        if len(calls) == 1:
            write(folder, NEWER)
        return found

    monkeypatch.setattr(fit_folder, "_manifest", replaced_afterwards)
    assert read(folder) == NEWER


def test_a_reader_between_two_renames_sees_the_older_fit(tmp_path):
    folder = tmp_path / "fit"
    write(folder, OLDER)
    write(tmp_path / "other", NEWER)
    folder.rename(replacing._beside(folder, replacing.OLD))
    assert read(folder) == OLDER
    with pytest.raises(FileNotFoundError, match="got no folder"):
        read(tmp_path / "third")
    replacing.recover(folder)
    assert read(folder) == OLDER and beside(folder) == ["fit", "other"]


def test_a_folder_that_is_corrupt_and_not_replaced_is_said_to_be_corrupt(tmp_path):
    folder = tmp_path / "fit"
    write(folder, OLDER)
    (folder / FILES[0]).write_bytes(b"other")
    with pytest.raises(CorruptFitError, match=r"fit\.json.*SHA-256"):
        read(folder)


def test_what_a_living_writer_or_someone_else_has_beside_is_kept(tmp_path):
    folder = tmp_path / "fit"
    mine = tmp_path / ".fit-notes.part"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    (tmp_path / ".fit-file.part").write_text("mine")
    (tmp_path / ".fit-link.part").symlink_to(mine)
    with replacing.new_part(folder, ALL_FILES) as part:
        write(folder, OLDER)
        assert part.is_dir()
    assert beside(folder) == [".fit-file.part", ".fit-link.part", ".fit-notes.part", "fit"]
    assert (mine / "notes.txt").read_text() == "mine"
    assert fit_folder.read(folder) == OLDER


def test_the_older_fit_of_another_folder_is_never_removed(tmp_path):
    write(tmp_path / "one", OLDER)
    (tmp_path / "one").rename(replacing._beside(tmp_path / "one", replacing.OLD))
    write(tmp_path / "two", NEWER)
    assert read(tmp_path / "one") == OLDER
