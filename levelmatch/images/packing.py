# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Compressed files."""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["UNREADABLE", "open_raw", "read_to_end"]

OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
# What an unreadable FITS file raises, compressed or not.
UNREADABLE = (
    OSError,
    EOFError,
    TypeError,
    ValueError,
    IndexError,
    UserWarning,
    zlib.error,
    lzma.LZMAError,
)


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
