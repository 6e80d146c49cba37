"""Compiled code is kept in, and loaded from, a folder that nobody else can write to; another one is refused by name."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
import torch
from problems.pyro_models import noise
from torch._inductor import codecache

from probmodel.protocols.errors import CompilingWarning
from probmodel.tracing.programs.code_folder import STATED, check_own_file, code_folder, compiler_in
from probmodel.tracing.programs.compiling import Native


@pytest.fixture
def stated(tmp_path, monkeypatch):
    monkeypatch.setenv(STATED, str(tmp_path / "stated"))
    return tmp_path / "stated"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_private_whatever_the_mask_of_the_process(stated):
    before = os.umask(0)
    try:
        stated.mkdir(0o755)
        folder = code_folder()
    finally:
        os.umask(before)
    assert folder == stated / "probmodel" and mode(folder) == 0o700
    folder.chmod(0o755)  # As earlier releases made it.
    assert mode(code_folder()) == 0o700


@pytest.mark.parametrize("set_to", [None, "default"])
def test_without_a_stated_folder_it_is_in_the_users_cache_and_no_shared_one(set_to, tmp_path, monkeypatch):
    """PyTorch states its own default, below a folder of all users, as soon as it is asked for one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(STATED, raising=False)
    if set_to == "default":
        monkeypatch.setenv(STATED, codecache.default_cache_dir())
    assert code_folder() == tmp_path / "probmodel"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert code_folder() == tmp_path / "home" / ".cache" / "probmodel"


def test_without_a_home_it_is_a_folder_whose_name_cannot_be_guessed(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(STATED, raising=False)
    folder = code_folder()
    assert folder == code_folder() and folder.parent == Path(tempfile.gettempdir()) and mode(folder) == 0o700
    folder.rmdir()


def open_to_all(folder):
    folder.mkdir()
    folder.chmod(0o777)


def open_inside(folder):
    (folder / "probmodel").mkdir(parents=True)
    (folder / "probmodel").chmod(0o770)


def linked(folder):
    folder.mkdir()
    (folder / "else").mkdir()
    (folder / "probmodel").symlink_to(folder / "else")


@pytest.mark.parametrize("prepared", [open_to_all, open_inside, linked])
def test_a_folder_that_others_can_change_is_refused_by_name(prepared, stated):
    prepared(stated)
    with pytest.raises(PermissionError, match=rf"expected {stated}.*got owner .* and mode .*; .*{STATED}"):
        code_folder()
    native = Native(lambda x: (2 * x,), (noise(3),))
    with pytest.warns(CompilingWarning, match=f"expected {stated}"):
        assert not native.on_disk()
    with pytest.warns(CompilingWarning, match=f"expected {stated}"):
        Native(lambda x: (2 * x,), (noise(3),)).compile()
    assert not native.compiled
    assert torch.equal(native(noise(3))[0], 2 * noise(3))


@pytest.mark.parametrize("level", ["stated", "inside"])
def test_a_folder_of_another_user_is_refused_by_name(level, stated, monkeypatch):
    code_folder()
    other = stated if level == "stated" else stated / "probmodel"
    lstat = Path.lstat

    def owned_by_another(path):
        found = lstat(path)
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:])) if path == other else found

    monkeypatch.setattr(Path, "lstat", owned_by_another)
    with pytest.raises(PermissionError, match=rf"expected {other} to be user {os.geteuid()}'s own"):
        code_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_library_of_another_user_is_never_loaded(stated):
    native = Native(lambda x: (2 * x,), (noise(3),))
    native.path.parent.mkdir(parents=True)
    native.path.write_bytes(b"code")
    os.chown(native.path, 12_345, 12_345)
    with pytest.raises(PermissionError, match="got owner 12345"):
        check_own_file(native.path)
    with pytest.warns(CompilingWarning, match="got owner 12345"):
        native.compile()
    assert not native.compiled


def test_a_link_is_no_file_of_ones_own(tmp_path):
    (tmp_path / "file").touch()
    check_own_file(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(PermissionError, match="link"):
        check_own_file(tmp_path / "link")


def test_the_compiler_writes_below_the_folder_and_the_environment_comes_back(stated, tmp_path):
    before = dict(os.environ), codecache._HEADER_DIR
    with pytest.raises(KeyError), compiler_in(tmp_path):
        assert Path(codecache.cache_dir()).is_relative_to(tmp_path)
        assert Path(codecache._HEADER_DIR).is_relative_to(tmp_path)
        raise KeyError
    assert (dict(os.environ), codecache._HEADER_DIR) == before


@pytest.mark.compiles
def test_a_build_leaves_nothing_outside_of_the_folder(stated, tmp_path, monkeypatch):
    """The compiler's own folders are those of its default as well, unless it is told otherwise."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    native = Native(lambda x: (x.sin() * 1.2345,), (noise(3),))
    native.compile()
    assert native.compiled and native.path.is_relative_to(stated / "probmodel")
    assert not list((tmp_path / "temporary").glob("torchinductor*"))
    assert [path.name for path in stated.iterdir()] == ["probmodel"]
