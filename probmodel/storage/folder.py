"""Folder of a fit on disk: written completely or not at all, with a manifest that reveals any later change.

A folder and its files are opened once: what was verified is what is read, whatever happens to their names meanwhile.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any, BinaryIO

from safetensors import SafetensorError

from probmodel.protocols.errors import CorruptFitError
from probmodel.storage.replacing import FOLDER_FLAGS, new_part, older, put_in_place, recover, remove_leftovers

FORMAT, VERSION = "probmodel fit", 1

MANIFEST, STRUCTURE, TENSORS, DRAWS_FILE = "manifest.json", "fit.json", "tensors.safetensors", "draws.nc"
FILES = (STRUCTURE, TENSORS, DRAWS_FILE)
ALL_FILES = (MANIFEST, *FILES)

LARGEST_MANIFEST = 2**16
"""Bytes of a manifest, at most: it names three files."""
LEFT_BY_FILE_MANAGERS = (".DS_Store", "Thumbs.db", "desktop.ini", ".directory")
REMOVABLE = (*ALL_FILES, *LEFT_BY_FILE_MANAGERS)
"""Names of the files that are removed with a fit."""
MAX_READS = 100
"""Times that a fit is read anew because another process has replaced it meanwhile, at most."""

_REMEDY = "restore the folder from a copy, or fit again"
_PARSING = (
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    OSError,
    SafetensorError,
)
"""Errors that parsers raise for malformed bytes."""


@contextmanager
def corrupt_on_failure(path: Path, expected: str) -> Iterator[None]:
    """Context that turns any failure to read `path` into a CorruptFitError that states what was expected there."""
    try:
        yield
    except CorruptFitError:
        raise
    except _PARSING as error:
        raise _corrupt(path, expected, f"{type(error).__name__}: {error}") from error


def _corrupt(path: Path, expected: str, got: str, remedy: str = _REMEDY) -> CorruptFitError:
    return CorruptFitError(f"{path}: expected {expected}, got {got}; {remedy}")


def write(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files of a fit, then put them in the place of an earlier fit, if any, in one step.

    Meanwhile the parent folder holds a hidden one.  Those of processes that were killed are removed by the next call.

    Args:
        folder: target folder: absent, empty, or an earlier fit.
        contents: file name → bytes; one for each of `FILES`.

    Raises:
        FileExistsError: where the folder holds anything else; it stays as it was.
        OSError: where the disk is full or cannot be written; an earlier fit stays as it was.
    """
    recover(folder)
    _check_replaceable(folder)
    files = {name: _fingerprint(data) for name, data in contents.items()}
    manifest = json.dumps({"format": FORMAT, "version": VERSION, "files": files}, indent=2).encode()
    with _said_if_not_written(folder, sum(map(len, contents.values()))):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder, REMOVABLE)
        with new_part(folder, REMOVABLE) as part:
            for name, data in {**contents, MANIFEST: manifest}.items():
                (part / name).write_bytes(data)
            for path in (*part.iterdir(), part):
                _sync(path)
            put_in_place(part, folder, REMOVABLE)
        _sync(folder.parent)


@contextmanager
def _said_if_not_written(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = (
            f"expected to write {size:,} bytes to {folder}, got {error}; free space there or choose another folder: an "
            "earlier fit in it is as it was"
        )
        raise (OSError(message) if error.errno is None else OSError(error.errno, message)) from error


def read(folder: Path) -> dict[str, bytes]:
    """Contents of the files of a fit by name, verified by its manifest; while it is replaced, of the older or newer fit.

    Raises:
        FileNotFoundError: where there is no folder.
        CorruptFitError: naming the file that is missing, changed, unexpected, a link, or of an unknown format.
    """
    for _ in range(MAX_READS):
        place = _place(folder)
        try:
            handle = os.open(place, FOLDER_FLAGS)
        except FileNotFoundError:
            continue  # Another process has replaced it since.
        try:
            return _verified(folder, handle)
        except CorruptFitError:
            if _is_still(place, handle):
                raise
        finally:
            os.close(handle)
    raise _corrupt(folder, "a fit", f"one that was replaced {MAX_READS} times while it was read", "load it again")


def _place(folder: Path) -> Path:
    """The folder, or that of its older fit while it is replaced by two renames."""
    if folder.is_symlink():
        raise _corrupt(folder, "a folder", "a symbolic link", "pass the folder it points to")
    if folder.is_dir():
        return folder
    old = older(folder)
    if old is None and not folder.is_dir():
        raise FileNotFoundError(f"expected the folder of a fit, got no folder at {folder}; save one there first")
    return old or folder


def _is_still(place: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(place))
    except FileNotFoundError:
        return False


def _verified(folder: Path, handle: int) -> dict[str, bytes]:
    entries = _manifest(folder, handle)
    surplus = sorted(_seen(handle) - {*ALL_FILES})
    if surplus:
        raise _corrupt(folder / surplus[0], "only the files of a fit", "this one as well", "remove it")
    return {name: _contents(folder / name, handle, entries[name]) for name in FILES}


def _seen(handle: int) -> set[str]:
    """Names in an open folder, without the files that file managers leave in it."""
    return set(os.listdir(handle)) - {*LEFT_BY_FILE_MANAGERS}


def _manifest(folder: Path, handle: int) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    with corrupt_on_failure(path, "the manifest of a fit"), _opened(path, handle) as (stream, size):
        if size > LARGEST_MANIFEST:
            raise _corrupt(path, f"up to {LARGEST_MANIFEST:,} bytes", f"{size:,}")
        manifest = json.loads(stream.read(LARGEST_MANIFEST))
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            got = f"{manifest['format']!r} {manifest['version']!r}"
            raise _corrupt(path, f"{FORMAT!r} {VERSION}", got, "load it with the release that wrote it")
        if sorted(manifest["files"]) != sorted(FILES):
            raise _corrupt(path, f"the files {sorted(FILES)}", str(sorted(manifest["files"])))
        return {name: {"bytes": e["bytes"], "sha256": e["sha256"]} for name, e in manifest["files"].items()}


def _contents(path: Path, handle: int, entry: Mapping[str, Any]) -> bytes:
    with corrupt_on_failure(path, "a readable file"), _opened(path, handle) as (stream, size):
        if size != entry["bytes"]:
            raise _corrupt(path, f"{entry['bytes']} bytes", str(size))
        contents = stream.read(size)
    got = _fingerprint(contents)
    if got != entry:
        raise _corrupt(path, f"SHA-256 {entry['sha256']}", str(got["sha256"]))
    return contents


@contextmanager
def _opened(path: Path, folder: int) -> Iterator[tuple[BinaryIO, int]]:
    """A file of an open folder, and its size in bytes; neither a link nor a device is ever read."""
    try:
        handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError as error:
        raise _corrupt(path, "a file", "none: the folder is incomplete") from error
    except OSError as error:
        raise _corrupt(path, "a regular file", f"a link, a device, or one that cannot be read ({error})") from error
    with open(handle, "rb") as stream:
        status = os.fstat(handle)
        if not S_ISREG(status.st_mode):
            raise _corrupt(path, "a regular file", "a link, a folder or a device")
        yield stream, status.st_size


def _fingerprint(contents: bytes) -> dict[str, Any]:
    return {"bytes": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise FileExistsError(f"expected a fit or a new folder, got a file or link at {folder}; choose another folder")
    handle = os.open(folder, FOLDER_FLAGS)
    try:
        names = _seen(handle)
        unexpected = sorted(name for name in names if name not in ALL_FILES or not (folder / name).is_file())
        if unexpected:
            raise CorruptFitError(str(unexpected))
        if names:
            _manifest(folder, handle)
    except CorruptFitError as error:
        if not _is_still(folder, handle):
            return  # Another process has replaced it since, by a fit.
        raise FileExistsError(
            f"expected a fit or a new folder, got a folder with other contents at {folder} ({error}); choose another "
            "folder, or empty this one"
        ) from error
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
