# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Compressed files."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["DAMAGED", "UNREADABLE", "damage_of", "open_raw", "read_to_end"]

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
# Exceptions of a damaged file, compressed or not.
DAMAGED = (OSError, EOFError, UserWarning, zlib.error, lzma.LZMAError)
# Exceptions of a FITS file whose pixels cannot be read.
UNREADABLE = (*DAMAGED, TypeError, ValueError, IndexError)


def open_raw(path: Path) -> BinaryIO:
    """Open a file for reading its bytes, decompressed."""
    with open(path, "rb") as stream:
        magic = stream.read(2)
    return OPENERS.get(magic, open)(path, "rb")


def read_to_end(stream: BinaryIO) -> None:
    """Read a decompressed stream to its end, where its checksum is.

    Raises
    ------
    OSError, EOFError, ``zlib.error``, ``lzma.LZMAError``
        If the compressed file is damaged.
    """
    if isinstance(stream, gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile):
        while stream.read(1 << 20):
            pass


def damage_of(path: Path) -> str:
    """Return the damage of a compressed file, blank without any."""
    try:
        with open_raw(path) as stream:
            read_to_end(stream)
    except DAMAGED as error:
        return str(error)
    return ""
