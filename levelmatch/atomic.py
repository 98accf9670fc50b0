# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Files that appear under their name complete, or not at all."""

import bz2
import gzip
import lzma
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

__all__ = ["atomic_path", "atomic_stream"]

# Folder in which Linux shows the open files of a process.
OWN_FILES = "/proc/self/fd"


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
    part = _new_name(path)
    # The permissions follow the user's umask, which those of tempfile do not.
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
    with os.fdopen(handle, "wb") as raw:
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
