# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Compressed files."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from levelmatch.images.intake import check_regular, unpacked

__all__ = ["DAMAGED", "damage_of", "open_raw"]

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
# Exceptions of a damaged file, compressed or not.
DAMAGED = (OSError, EOFError, UserWarning, zlib.error, lzma.LZMAError)


def open_raw(path: Path, most: int | None = None) -> BinaryIO:
    """Open a file for reading its bytes, decompressed.

    A compressed file is unpacked into memory as a whole: readers go back and forth in it, and
    its checksum is at its end.

    Parameters
    ----------
    path : `~pathlib.Path`
        The file.
    most : int or None
        The most bytes after unpacking; by default any number.

    Raises
    ------
    FrameError
        If it is not a regular file, or unpacks to more.
    OSError, EOFError, ``zlib.error``, ``lzma.LZMAError``
        If a compressed file is damaged.
    """
    check_regular(path)
    with open(path, "rb") as stream:
        magic = stream.read(2)
    opener = OPENERS.get(magic)
    return open(path, "rb") if opener is None else unpacked(path, opener, most)


def damage_of(path: Path, most: int | None = None) -> str:
    """Return the damage of a compressed file, blank without any."""
    try:
        with open_raw(path, most):
            pass
    except DAMAGED as error:
        return str(error)
    return ""
