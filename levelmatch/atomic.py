# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files that appear under their name complete, or not at all."""

import bz2
import errno
import gzip
import lzma
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "NO_SPACE",
    "atomic_path",
    "atomic_stream",
    "refuse_existing",
    "remove_parts",
    "space_errors",
]

# Errors of a disk or a quota that is full.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Names of temporary files.
PART = re.compile(r"\.levelmatch-[0-9a-f]{16}")
# The temporary files of this process.
_PARTS: set[Path] = set()
# Folder in which Linux shows the open files of a process.
OWN_FILES = "/proc/self/fd"


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to replace a file, unless that is asked for.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        msg = f"{path} exists; overwrite=True replaces it"
        raise FileExistsError(msg)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give the name of a temporary file, which replaces ``path`` on success.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to write.

    Yields
    ------
    part : `~pathlib.Path`
        An empty file in the same folder; removed if an exception is raised.
    """
    _remove_left(path.parent)
    part = _new_name(path)
    # The permissions follow the user's umask, which those of tempfile do not.
    handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    _PARTS.add(part)
    try:
        # Until this process ends, however it does.
        _lock(handle)
        with space_errors(path):
            yield part
        os.replace(part, path)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)
        _PARTS.discard(part)


def remove_parts() -> None:
    """Remove the temporary files of this process, which is about to end."""
    for part in list(_PARTS):
        part.unlink(missing_ok=True)


def _lock(handle: int) -> bool:
    """Lock an open file; return whether that was possible."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        flock(handle, LOCK_EX | LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _remove_left(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for path in folder.glob(".levelmatch-*"):
        if not PART.fullmatch(path.name) or path.is_symlink():
            continue
        with suppress(OSError):
            handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            try:
                # The file of a process that is alive is locked.
                if _lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


@contextmanager
def space_errors(path: Path) -> Iterator[None]:
    """Give errors of a full disk the name of the file that was written."""
    try:
        yield
    except OSError as error:
        is_named = error.filename is not None or str(path) in str(error)
        if error.errno in NO_SPACE and not is_named:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def atomic_stream(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces ``path`` on success.

    On Linux the file has no name until then, so that even a killed process leaves no
    partial file. The content is compressed if the name ends in .gz, .bz2 or .xz.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to write.

    Yields
    ------
    stream : binary file
        Open for writing.
    """
    try:
        # The file gets its name through this folder.
        os.stat(OWN_FILES)
        handle = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except (AttributeError, OSError):
        with atomic_path(path) as part, open(part, "wb") as raw, _compressor(path, raw) as stream:
            yield stream
        return
    with space_errors(path), os.fdopen(handle, "wb") as raw:
        with _compressor(path, raw) as stream:
            yield stream
        raw.flush()
        _give_name(handle, path)


def _new_name(path: Path) -> Path:
    """Return an unused name in the same folder, short whatever the length of the name."""
    return path.with_name(f".levelmatch-{secrets.token_hex(8)}")


def _compressor(path: Path, stream: BinaryIO):
    """Return the stream, or one that compresses into it without a time or a name."""
    if path.name.endswith(".gz"):
        return gzip.GzipFile("", "wb", 6, stream, mtime=0)
    if path.name.endswith(".bz2"):
        return bz2.open(stream, "wb")
    if path.name.endswith(".xz"):
        return lzma.open(stream, "wb")
    return nullcontext(stream)


def _give_name(handle: int, path: Path) -> None:
    """Give an unnamed file a name, replacing any file of that name."""
    try:
        _link(handle, path)
    except FileExistsError:
        name = _new_name(path)
        _link(handle, name)
        try:
            os.replace(name, path)
        finally:
            name.unlink(missing_ok=True)
    except OSError:
        # Some file systems have no hard links.
        with atomic_path(path) as part:
            shutil.copyfile(f"{OWN_FILES}/{handle}", part)


def _link(handle: int, path: Path) -> None:
    root = os.open("/", os.O_RDONLY)
    try:
        # Python follows the symbolic link only where a folder is given.
        os.link(f"{OWN_FILES}/{handle}", path, src_dir_fd=root, follow_symlinks=True)
    finally:
        os.close(root)
