# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Atomic writing: a file appears under its name complete, or not at all."""

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

from levelmatch.option_values import check_flag

__all__ = [
    "atomic_path",
    "atomic_stream",
    "refuse_data",
    "refuse_existing",
    "remove_parts",
    "space_errors",
    "write_content",
]

# Error numbers of a full disk or quota.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# First bytes of FITS, ASDF, gzip, bzip2 and xz files.
DATA = (b"SIMPLE", b"#ASDF", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
# Pattern of the names of temporary files.
PART = re.compile(r"\.levelmatch-[0-9a-f]{16}")
# Temporary files of this process.
_PARTS: set[Path] = set()
# Folder that lists the open files of a process on Linux.
OWN_FILES = "/proc/self/fd"


def refuse_existing(path: Path, *, overwrite: bool, is_data: bool = False) -> None:
    """Refuse an existing file unless it may be replaced.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to write.
    overwrite : bool
        Whether it may be replaced.
    is_data : bool
        Whether the file to write is an image or a record. A table or a text replaces neither.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced.
    TypeError
        If ``overwrite`` is neither true nor false.
    """
    check_flag("overwrite", overwrite)
    if path.exists() and not overwrite:
        msg = f"{path} exists; overwrite=True replaces it"
        raise FileExistsError(msg)
    if not is_data:
        refuse_data(path)


def refuse_data(path: Path) -> None:
    """Refuse to write a table or a text to an image or a record.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to write.

    Raises
    ------
    FileExistsError
        If the file is an image or a record.
    """
    if not path.is_file():
        return
    with open(path, "rb") as stream:
        head = stream.read(1 << 16)
    is_table = head[2880:].startswith(b"XTENSION= 'BINTABLE'") and b"ZIMAGE" not in head
    if head.startswith(DATA) and not is_table:
        msg = f"{path} is an image or a record; name another file"
        raise FileExistsError(msg)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file, which replaces ``path`` on success.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to write.

    Yields
    ------
    part : `~pathlib.Path`
        An empty file in the same folder. It is removed if an exception is raised.
    """
    _remove_left(path.parent)
    part, handle = _new_part(path)
    try:
        with space_errors(path):
            yield part
        os.replace(part, path)
    finally:
        os.close(handle)
        part.unlink(missing_ok=True)
        _PARTS.discard(part)


def remove_parts() -> None:
    """Remove the temporary files of this process before it is ended."""
    for part in list(_PARTS):
        part.unlink(missing_ok=True)


def _new_part(path: Path) -> tuple[Path, int]:
    """Return a new temporary file beside another file, open and locked.

    The lock lasts until the process ends in any way, see `_remove_left`.
    """
    while True:
        part = _new_name(path)
        # Unlike files of tempfile, this file follows the user's umask.
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        _PARTS.add(part)
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink > 0:
            return part, handle
        # Another thread or process has removed the file before it was locked.
        os.close(handle)
        _PARTS.discard(part)


def _lock(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file; return whether this was possible."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        flock(handle, LOCK_EX if wait else LOCK_EX | LOCK_NB)
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
                # The file of a running process is locked.
                if _lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


@contextmanager
def space_errors(path: Path) -> Iterator[None]:
    """Add the name of the written file to errors of a full disk."""
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

    On Linux, the file has no name until it is complete, so that even a killed process leaves no
    partial file. The content is compressed if the name ends in .gz, .bz2 or .xz.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file to write.

    Yields
    ------
    stream : binary file
        The stream, open for writing.
    """
    try:
        # Without this folder, the file cannot get its name.
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


def write_content(path: Path, content: bytes) -> None:
    """Write a file atomically, see `atomic_stream`; create its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_stream(path) as stream:
        stream.write(content)


def _new_name(path: Path) -> Path:
    """Return a short, unused name in the same folder."""
    return path.with_name(f".levelmatch-{secrets.token_hex(8)}")


def _compressor(path: Path, stream: BinaryIO):
    """Return the stream, or a compressing stream that stores neither time nor name."""
    if path.name.endswith(".gz"):
        return gzip.GzipFile("", "wb", 6, stream, mtime=0)
    if path.name.endswith(".bz2"):
        return bz2.open(stream, "wb")
    if path.name.endswith(".xz"):
        return lzma.open(stream, "wb")
    return nullcontext(stream)


def _give_name(handle: int, path: Path) -> None:
    """Give an unnamed file a name; replace an existing file."""
    try:
        _link_or_replace(handle, path)
    except OSError:
        # Some file systems lack hard links.
        with atomic_path(path) as part:
            shutil.copyfile(f"{OWN_FILES}/{handle}", part)


def _link_or_replace(handle: int, path: Path) -> None:
    """Link an open file to a path, in place of an existing file."""
    try:
        _link(handle, path)
    except FileExistsError:
        name = _new_name(path)
        _link(handle, name)
        try:
            os.replace(name, path)
        finally:
            name.unlink(missing_ok=True)


def _link(handle: int, path: Path) -> None:
    """Link an open file to a path."""
    root = os.open("/", os.O_RDONLY)
    try:
        # Python follows the symbolic link only if src_dir_fd is given.
        os.link(f"{OWN_FILES}/{handle}", path, src_dir_fd=root, follow_symlinks=True)
    finally:
        os.close(root)
