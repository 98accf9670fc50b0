# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Compressed files."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from levelmatch.images.file_checks import check_regular, unpacked

__all__ = ["DAMAGED", "damage_of", "open_raw"]

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
# Exceptions that a damaged file raises, compressed or not.
DAMAGED = (OSError, EOFError, UserWarning, zlib.error, lzma.LZMAError)


def open_raw(path: Path, most: int | None = None) -> BinaryIO:
    """Open a file to read its decompressed bytes.

    A compressed file is unpacked into memory, because readers seek in it, and because its
    checksum lies at its end.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    most : int or None
        Largest number of bytes after unpacking; by default no limit.

    Returns
    -------
    stream : binary file
        The open file, or the unpacked content.

    Raises
    ------
    FrameError
        If the file is not regular, or unpacks to more bytes.
    OSError, EOFError, ``zlib.error``, ``lzma.LZMAError``
        If a compressed file is damaged.
    """
    check_regular(path)
    with open(path, "rb") as stream:
        magic = stream.read(2)
    opener = OPENERS.get(magic)
    return open(path, "rb") if opener is None else unpacked(path, opener, most)


def damage_of(path: Path, most: int | None = None) -> str:
    """Return the decompression error of a damaged file, or an empty string."""
    try:
        with open_raw(path, most):
            pass
    except DAMAGED as error:
        return str(error)
    return ""
