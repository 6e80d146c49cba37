"""Folder of a fit on disk: written completely or not at all, with a manifest that reveals any later change."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError

from probmodel.protocols.errors import CorruptFitError

FORMAT, VERSION = "probmodel fit", 1

MANIFEST, STRUCTURE, TENSORS, DRAWS_FILE = "manifest.json", "fit.json", "tensors.safetensors", "draws.nc"
FILES = (STRUCTURE, TENSORS, DRAWS_FILE)

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


def write(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write all files of a fit, then replace an earlier fit, if any, by renaming.

    The parent folder holds a `.fit-*.part` meanwhile, and for a moment the earlier fit as `.fit-*.old`; a killed process
    leaves them there.

    Args:
        folder: target folder: absent, empty, or an earlier fit.
        writers: file name → function that writes that file to a path; one for each of `FILES`.

    Raises:
        FileExistsError: where the folder holds anything else; it stays as it was.
    """
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".fit-{uuid4().hex}.part"
    part.mkdir()
    try:
        for name, write_file in writers.items():
            write_file(part / name)
        files = {name: _fingerprint((part / name).read_bytes()) for name in writers}
        manifest = {"format": FORMAT, "version": VERSION, "files": files}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2))
        for path in (*part.iterdir(), part):
            _sync(path)
        _put_in_place(part, folder)
    except BaseException:
        _remove(part)
        raise
    _sync(folder.parent)


def read(folder: Path) -> dict[str, bytes]:
    """Contents of the files of a fit by name, verified by its manifest.

    Raises:
        FileNotFoundError: where there is no folder.
        CorruptFitError: naming the file that is missing, changed, unexpected, a link, or of an unknown format.
    """
    if folder.is_symlink():
        raise _corrupt(folder, "a folder", "a symbolic link", "pass the folder it points to")
    if not folder.is_dir():
        raise FileNotFoundError(f"expected the folder of a fit, got no folder at {folder}; save one there first")
    entries = _manifest(folder)
    surplus = sorted({path.name for path in folder.iterdir()} - {MANIFEST, *FILES})
    if surplus:
        raise _corrupt(folder / surplus[0], "only the files of a fit", "this one as well", "remove it")
    return {name: _contents(folder / name, entries[name]) for name in FILES}


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    with corrupt_on_failure(path, "the manifest of a fit"):
        _check_regular(path)
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT or manifest["version"] != VERSION:
            got = f"{manifest['format']!r} {manifest['version']!r}"
            raise _corrupt(path, f"{FORMAT!r} {VERSION}", got, "load it with the release that wrote it")
        if sorted(manifest["files"]) != sorted(FILES):
            raise _corrupt(path, f"the files {sorted(FILES)}", str(sorted(manifest["files"])))
        return {name: {"bytes": e["bytes"], "sha256": e["sha256"]} for name, e in manifest["files"].items()}


def _contents(path: Path, entry: Mapping[str, Any]) -> bytes:
    with corrupt_on_failure(path, "a readable file"):
        size = _check_regular(path)
        if size != entry["bytes"]:
            raise _corrupt(path, f"{entry['bytes']} bytes", str(size))
        contents = path.read_bytes()
    got = _fingerprint(contents)
    if got != entry:
        raise _corrupt(path, f"SHA-256 {entry['sha256']}", str(got["sha256"]))
    return contents


def _check_regular(path: Path) -> int:
    """Size in bytes of a file that is neither a link nor a device."""
    if not path.is_symlink() and not path.exists():
        raise _corrupt(path, "a file", "none: the folder is incomplete")
    status = path.lstat()
    if not S_ISREG(status.st_mode):
        raise _corrupt(path, "a regular file", "a link, a folder or a device")
    return status.st_size


def _fingerprint(contents: bytes) -> dict[str, Any]:
    return {"bytes": len(contents), "sha256": hashlib.sha256(contents).hexdigest()}


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise FileExistsError(f"expected a fit or a new folder, got a file or link at {folder}; choose another folder")
    paths = list(folder.iterdir())
    unexpected = sorted(path.name for path in paths if path.name not in (MANIFEST, *FILES) or not path.is_file())
    try:
        if unexpected:
            raise CorruptFitError(str(unexpected))
        if paths:
            _manifest(folder)
    except CorruptFitError as error:
        raise FileExistsError(
            f"expected a fit or a new folder, got a folder with other contents at {folder} ({error}); choose another "
            "folder, or empty this one"
        ) from error


def _put_in_place(part: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(part, folder)
        return
    old = folder.parent / f".fit-{uuid4().hex}.old"
    os.rename(folder, old)
    try:
        os.rename(part, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    _remove(old)


def _remove(folder: Path) -> None:
    """Remove the files of a fit and their folder, if it exists."""
    if not folder.exists():
        return
    for name in (MANIFEST, *FILES):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
