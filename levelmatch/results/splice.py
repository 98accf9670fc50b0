# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Copy FITS files byte by byte, with some HDUs replaced."""

import io
import os
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from levelmatch.images._decode import reserve
from levelmatch.results.card_text import CHECKSUM_COMMENT

__all__ = [
    "BLOCK",
    "Parts",
    "Places",
    "Replaced",
    "add_checksums",
    "compressed_parts",
    "copy_bytes",
    "image_parts",
    "splice",
    "splice_places",
    "table_parts",
]

# Bytes of an HDU in parts. They are never joined, because images are large.
Parts = tuple[bytes | memoryview, ...]
# New bytes of HDUs, or functions that write them to a stream, by index of the HDU.
Replaced = dict[int, Parts | Callable[[BinaryIO], object]]
# Positions of the header, of the data and of the end of HDUs, by index of the HDU.
Places = dict[int, tuple[int, int, int]]

BLOCK = 2880
# Number of bytes that are copied at once.
COPIED = 1 << 20


def splice(
    raw: BinaryIO,
    hdus: fits.HDUList,
    replaced: Replaced,
    stream: BinaryIO,
    headers: Mapping[int, bytes] | None = None,
) -> None:
    """Write a copy of a FITS file with some HDUs, or headers alone, replaced.

    Parameters
    ----------
    raw : binary file
        The file, open for reading.
    hdus : `~astropy.io.fits.HDUList`
        The same file, open.
    replaced, stream, headers
        See `splice_places`.
    """
    places = {}
    for index in {*replaced, *(headers or {})}:
        info = hdus[index].fileinfo()
        places[index] = info["hdrLoc"], info["datLoc"], info["datLoc"] + info["datSpan"]
    splice_places(raw, places, replaced, stream, headers)


def splice_places(
    raw: BinaryIO,
    places: Places,
    replaced: Replaced,
    stream: BinaryIO,
    headers: Mapping[int, bytes] | None = None,
) -> None:
    """Write a copy of a FITS file with some HDUs, or headers alone, replaced.

    Parameters
    ----------
    raw : binary file
        The file, open for reading.
    places : dict of int to tuple of int
        Positions of the header, of the data and of the end of each changed HDU.
    replaced : dict of int to tuple of bytes or callable
        New bytes of HDUs in parts, or functions that write them to a stream, by index of the HDU.
    stream : binary file
        The copy, open for writing.
    headers : mapping of int to bytes, or None
        New headers of HDUs with unchanged data, by index of the HDU.
    """
    if _are_files(raw, stream):
        reserve(stream.fileno(), os.fstat(raw.fileno()).st_size)
    position = 0
    headers = headers or {}
    for index in sorted({*replaced, *headers}):
        start, data, stop = places[index]
        copy_bytes(raw, stream, position, start)
        if index in replaced:
            content = replaced[index]
            if isinstance(content, tuple):
                stream.writelines(content)
            else:
                content(stream)
            position = stop
        else:
            stream.write(headers[index])
            position = data
    copy_bytes(raw, stream, position, None)
    if _are_files(raw, stream):
        # Space beyond the end is freed.
        stream.truncate()


def copy_bytes(raw: BinaryIO, stream: BinaryIO, start: int, stop: int | None) -> None:
    """Copy bytes between two positions, or to the end (`None`), from one stream to another."""
    if start == stop:
        return
    raw.seek(start)
    count = _copy_by_kernel(raw, stream, None if stop is None else stop - start)
    while count is None or count > 0:
        part = raw.read(COPIED if count is None else min(count, COPIED))
        if not part:
            return
        stream.write(part)
        count = None if count is None else count - len(part)


def _are_files(raw: BinaryIO, stream: BinaryIO) -> bool:
    """Return whether both streams are those of files, without compression."""
    return isinstance(raw, io.BufferedReader) and isinstance(stream, io.BufferedWriter)


def _copy_by_kernel(raw: BinaryIO, stream: BinaryIO, count: int | None) -> int | None:
    """Copy bytes within the kernel; return the number of bytes that remain to be copied.

    `None` means all remaining bytes. Both streams are positioned after the copied bytes. A
    system that cannot copy within the kernel copies nothing.
    """
    if not _are_files(raw, stream):
        return count
    stream.flush()
    start = raw.tell()
    end = os.fstat(raw.fileno()).st_size if count is None else start + count
    done = start
    try:
        while done < end:
            copied = os.copy_file_range(raw.fileno(), stream.fileno(), end - done, done)
            if not copied:
                break
            done += copied
    except (AttributeError, OSError):
        pass
    raw.seek(done)
    return None if count is None else count - (done - start)


def image_parts(header: fits.Header, data: np.ndarray) -> Parts:
    """Return the bytes of an image HDU; update checksums that the header has.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Header of the image. ``BITPIX`` is set according to the data.
    data : `~numpy.ndarray`
        The pixels, floats or integers. Integer types that FITS lacks are stored with an offset,
        which is added to the header.

    Returns
    -------
    parts : tuple of bytes and memoryview
        The header and the data, padded to whole blocks.

    Raises
    ------
    TypeError
        If FITS cannot hold the data's type.
    """
    header = header.copy()
    data = _with_offset(header, data)
    header["BITPIX"] = data.dtype.itemsize * (-8 if data.dtype.kind == "f" else 8)
    big = np.ascontiguousarray(data, dtype=data.dtype.newbyteorder(">"))
    kind = fits.ImageHDU if "XTENSION" in header else fits.PrimaryHDU
    return _with_checksum(kind, header, big.reshape(-1).view(np.uint8).data)


def _with_offset(header: fits.Header, data: np.ndarray) -> np.ndarray:
    """Return data in a type that FITS can store; add their offset to the header."""
    dtype = data.dtype
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype == np.float16:
        msg = f"data: FITS has no type for {dtype}; convert them"
        raise TypeError(msg)
    if dtype.kind == "f" or (dtype.kind == "u") == (dtype.itemsize == 1):
        return data
    other = ("u" if dtype.kind == "i" else "i") + str(dtype.itemsize)
    half = 1 << (8 * dtype.itemsize - 1)
    # Flipping the highest bit adds or subtracts half of the range.
    data = np.ascontiguousarray(data, dtype.newbyteorder("="))
    flipped = data.view(f"u{dtype.itemsize}") ^ np.uint64(half).astype(f"u{dtype.itemsize}")
    header["BSCALE"], header["BZERO"] = 1, half if dtype.kind == "u" else -half
    return flipped.view(other)


def table_parts(header: fits.Header, content: bytes) -> Parts:
    """Return the bytes of a table HDU with one value, such as the ASDF extension of JWST.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        Header of a table with one row and one column.
    content : bytes
        The value.

    Returns
    -------
    parts : tuple of bytes
        The header and the data, padded to whole blocks.
    """
    header = header.copy()
    header["NAXIS1"], header["TFORM1"] = len(content), f"{len(content)}B"
    return _with_checksum(fits.BinTableHDU, header, content)


def _with_checksum(kind: Any, header: fits.Header, content: bytes | memoryview) -> Parts:
    """Return the bytes of an HDU in parts; update checksums that the header has."""
    padding = bytes(-len(content) % BLOCK)
    if "CHECKSUM" in header or "DATASUM" in header:
        hdu = kind.fromstring(header.tostring().encode("ascii") + bytes(content) + padding)
        header = add_checksums(hdu)
    return header.tostring().encode("ascii"), content, padding


def add_checksums(hdu: Any) -> fits.Header:
    """Update the checksums that the header of an HDU has, in place; return the header."""
    if "CHECKSUM" in hdu.header:
        hdu.add_checksum(CHECKSUM_COMMENT)
    elif "DATASUM" in hdu.header:
        hdu.add_datasum(CHECKSUM_COMMENT)
    return hdu.header


def compressed_parts(hdu: fits.CompImageHDU) -> Parts:
    """Return the bytes of a compressed image HDU.

    Parameters
    ----------
    hdu : `~astropy.io.fits.CompImageHDU`
        The HDU.

    Returns
    -------
    parts : tuple of memoryview
        The header and the data, padded to whole blocks.
    """
    buffer = io.BytesIO()
    checksum = "CHECKSUM" in hdu.header
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(
        buffer, output_verify="ignore", checksum=checksum
    )
    return (buffer.getbuffer()[BLOCK:],)
