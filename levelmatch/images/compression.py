# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Open files that are packed by gzip, bzip2 or xz."""

import bz2
import gzip
import io
import lzma
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from levelmatch.exceptions import FrameError
from levelmatch.images.file_checks import check_regular

__all__ = ["DAMAGED", "damage_of", "open_raw"]

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
# Exceptions that a damaged file raises, compressed or not.
DAMAGED = (OSError, EOFError, UserWarning, zlib.error, lzma.LZMAError)
# Largest compression ratio of gzip.
MOST_PACKED = 1100


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
    return open(path, "rb") if opener is None else _unpacked(path, opener, most)


def damage_of(path: Path, most: int | None = None) -> str:
    """Return the decompression error of a damaged file, or an empty string."""
    try:
        with open_raw(path, most):
            pass
    except DAMAGED as error:
        return str(error)
    return ""


def _unpacked(path: Path, opener, most: int | None) -> io.BytesIO:
    """Return the decompressed content of a file; refuse more bytes than a limit.

    If the size at the end of a gzip file exceeds the limit, nothing is decompressed.
    """
    too_large = FrameError(
        f"{path.name}: the compressed file unpacks to more than the {most} bytes of max_bytes; "
        "raise it if that is right"
    )
    with open(path, "rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
        size = stream.seek(0, 2)
        stream.seek(max(size - 4, 0))
        (declared,) = struct.unpack("<I", stream.read(4).rjust(4, b"\0"))
    content = io.BytesIO()
    # The last bytes of a truncated file are arbitrary.
    if most is not None and is_gzip and most < declared < MOST_PACKED * size:
        raise too_large
    with opener(path, "rb") as packed:
        while part := packed.read(1 << 20):
            content.write(part)
            if most is not None and content.tell() > most:
                raise too_large
    content.seek(0)
    return content
