"""Folders beside that of a fit: written in full, put in its place by one step, and removed where their writer has died.

They are named after the folder that they are meant for: `.part` while a fit is written and, for a moment, the older fit; `.old`
for the older fit where the file system cannot exchange two folders.  A writer holds a lock on its own as long as it lives.
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

PREFIX, PART, OLD = ".fit-", ".part", ".old"

EXCHANGE = 2
"""Flag of the system's call that exchanges two files, of Linux (`renameat2`) and macOS (`renamex_np`) alike."""
HERE = -100
"""Handle of the current folder, to which Linux refers relative paths."""
NOT_SUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})
"""Errors of a system, or a file system, that cannot exchange two folders."""
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def new_part(folder: Path, files: Iterable[str]) -> Iterator[Path]:
    """A new folder beside `folder` that is locked in the context, and removed with its files after it."""
    part = _beside(folder, PART)
    handle: int | None = None
    try:
        while handle is None:
            part.mkdir(exist_ok=True)
            handle = _locked(part, required=False)
        yield part
    finally:
        remove(part, files)
        if handle is not None:
            os.close(handle)


def put_in_place(part: Path, folder: Path, files: Iterable[str]) -> None:
    """Give a folder the contents of `part`, and `part` those of an older fit, at once or at least so that none is lost."""
    try:
        os.rename(part, folder)  # Where there is none yet, or an empty one.
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not exchanged(part, folder):
        _by_two_renames(part, folder, files)


def exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot."""
    library, paths = ctypes.CDLL(None, use_errno=True), (os.fsencode(one), os.fsencode(other))
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*paths, EXCHANGE)
        else:
            failed = library.renameat2(HERE, paths[0], HERE, paths[1], EXCHANGE)
    except AttributeError:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _by_two_renames(part: Path, folder: Path, files: Iterable[str]) -> None:
    """Rename the older fit and then the newer one; `older` finds the older one in between."""
    old, handle = _beside(folder, OLD), _locked(folder, required=False)
    try:
        os.rename(folder, old)
        os.rename(part, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    finally:
        if handle is not None:
            os.close(handle)
    remove(old, files)


def older(folder: Path) -> Path | None:
    """The older fit of a folder that is missing, because its writer is, or was stopped, between two renames."""
    found = [path for path in _leftovers(folder, OLD) if path.name.startswith(PREFIX + _tag(folder))]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def recover(folder: Path) -> None:
    """Put the older fit of a missing folder back where its writer has died."""
    old = None if folder.exists() else older(folder)
    handle = None if old is None else _locked(old, required=True)
    if old is None or handle is None:
        return
    try:
        os.rename(old, folder)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, files: Iterable[str]) -> None:
    """Remove what dead writers have left beside a folder: unfinished fits, and older ones of this folder."""
    paths = list(_leftovers(folder, PART))
    if folder.exists():
        paths += [path for path in _leftovers(folder, OLD) if path.name.startswith(PREFIX + _tag(folder))]
    for path in paths:
        handle = _locked(path, required=True)
        if handle is None:
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                remove(path, files)
        finally:
            os.close(handle)


def remove(folder: Path, files: Iterable[str]) -> None:
    """Remove the files of a fit and their folder, as far as they exist; anything else in it stays, and so does the folder."""
    with suppress(OSError):
        handle = os.open(folder, FOLDER_FLAGS)
        try:
            for name in files:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=handle)
        finally:
            os.close(handle)
        os.rmdir(folder)


def _beside(folder: Path, suffix: str) -> Path:
    return folder.parent / f"{PREFIX}{_tag(folder)}-{uuid4().hex}{suffix}"


def _tag(folder: Path) -> str:
    """Short digest of a folder's name, which itself may be as long as names can be."""
    return hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:16]


def _leftovers(folder: Path, suffix: str) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from (path for path in folder.parent.iterdir() if path.name.startswith(PREFIX) and path.suffix == suffix)


def _locked(folder: Path, *, required: bool) -> int | None:
    """Handle of a folder with its lock; None where it is gone or locked, or, if required, cannot be locked at all."""
    try:
        handle = os.open(folder, FOLDER_FLAGS)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), os.lstat(folder)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # A file system without locks.
        if not required:
            return handle
    os.close(handle)
    return None
