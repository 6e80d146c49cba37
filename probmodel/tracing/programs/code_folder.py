"""The folder of compiled code, which is the user's own: what is loaded from it runs."""

import grp
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR, S_ISLNK, S_ISREG, S_ISVTX, S_IWGRP, S_IWOTH, filemode

from torch._inductor import codecache
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

STATED = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable of PyTorch that states another folder than the user's own."""
PRIVATE = 0o700


def code_folder() -> Path:
    """The folder, for its owner alone: below the one that PyTorch's environment variable states, else the user's cache.

    PyTorch's own default is not taken: it is a folder with a name that anyone can guess where anyone may make one first.

    Raises:
        PermissionError: naming the folder that someone else may change or has made.
    """
    stated = os.environ.get(STATED)
    if stated is None or Path(stated) == Path(default_cache_dir()):
        try:
            folder = _users_cache() / "probmodel"
            folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        except (OSError, RuntimeError):  # No home, or one that cannot be written.
            folder = _temporary()
    else:
        folder = Path(stated).absolute() / "probmodel"
        try:
            folder.mkdir(PRIVATE, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise PermissionError(
                f"expected a folder as {STATED}, got {stated}, which is none; state one, or unset it"
            ) from error
    _check_private(folder)
    return folder


def check_own_file(file: Path) -> None:
    """Raise unless a file is the user's own.

    Raises:
        PermissionError: naming the file.
    """
    status = file.lstat()
    if not S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise _not_own(file, status, "remove it")


@contextmanager
def compiler_in(folder: Path) -> Iterator[None]:
    """Context in which PyTorch's compiler keeps all that it writes and reads again below a folder."""
    names = ("_HEADER_DIR", "_HEADER_LOCK_DIR")  # They are fixed when it is imported, in its default folder.
    headers = folder / "headers"
    before, stated = [getattr(codecache, name) for name in names], os.environ.get(STATED)
    try:
        for name, path in zip(names, (headers, headers / "locks"), strict=True):
            setattr(codecache, name, str(path))
        os.environ[STATED] = str(folder / "compiler")
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(codecache, name, value)
        os.environ.pop(STATED)
        os.environ.update({} if stated is None else {STATED: stated})


def _users_cache() -> Path:
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return stated if stated.is_absolute() else Path.home() / ".cache"


@lru_cache(maxsize=1)
def _temporary() -> Path:
    """A folder of this process's user with a name that cannot be guessed."""
    return Path(tempfile.mkdtemp(prefix="probmodel-"))


def _check_private(folder: Path) -> None:
    status = folder.lstat()
    shared = status.st_mode & (S_IWGRP | S_IWOTH)
    if not S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or shared:
        raise _not_own(folder, status, f"remove it, or set {STATED} to a folder of your own")
    for parent in {*folder.parents, *folder.resolve().parents}:
        _check_parent(parent)
    folder.chmod(PRIVATE)


def _check_parent(folder: Path) -> None:
    """Raise where someone else could put another folder in the place of one inside of this one."""
    status = folder.lstat()
    mine = status.st_uid in (0, os.geteuid())
    shared = status.st_mode & S_IWOTH or (status.st_mode & S_IWGRP and not _is_private_group(status.st_gid))
    if not mine or (shared and not status.st_mode & S_ISVTX and not S_ISLNK(status.st_mode)):
        raise _not_own(folder, status, f"chmod go-w {folder}, or set {STATED} to a folder of your own")


def _is_private_group(number: int) -> bool:
    """Return whether a group is named after the user, as one without other members is."""
    try:
        return grp.getgrgid(number).gr_name == pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False


def _not_own(path: Path, status: os.stat_result, remedy: str) -> PermissionError:
    return PermissionError(
        f"expected {path} to be user {os.geteuid()}'s own, for code that is loaded from it runs, got owner {status.st_uid} "
        f"and mode {filemode(status.st_mode)}; {remedy}"
    )
