# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Copy FITS files byte by byte, with some HDUs replaced, and edit ASDF trees."""

import io
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from levelmatch.results.card_text import CHECKSUM_COMMENT

__all__ = [
    "BLOCK",
    "Parts",
    "Places",
    "Replaced",
    "add_checksums",
    "add_to_asdf",
    "compressed_parts",
    "copy_bytes",
    "image_parts",
    "run_text",
    "remove_from_asdf",
    "splice",
    "splice_places",
    "has_tree",
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
BLOCK_MAGIC = b"\xd3BLK"
BLOCK_INDEX = b"#ASDF BLOCK INDEX"
# Mapping ``meta`` of a tree, in block style.
META = re.compile(
    rb"^(?P<head>meta:(?: !\S+)?[ \t]*\r?\n)(?=(?P<indent> +)\S)(?: +.*\n|\r?\n)+", re.MULTILINE
)
MODEL_TYPE = re.compile(rb"^ +model_type:", re.MULTILINE)
TREE_END = re.compile(rb"^\.\.\.\r?$", re.MULTILINE)


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


def _copy_by_kernel(raw: BinaryIO, stream: BinaryIO, count: int | None) -> int | None:
    """Copy bytes within the kernel; return the number of bytes that remain to be copied.

    `None` means all remaining bytes. Both streams are positioned after the copied bytes. A
    system that cannot copy within the kernel copies nothing.
    """
    if not (isinstance(raw, io.BufferedReader) and isinstance(stream, io.BufferedWriter)):
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


def has_tree(content: bytes) -> bool:
    """Return whether entries can be added to the tree of an ASDF file."""
    if not content.startswith(b"#ASDF") or TREE_END.search(content) is None:
        return False
    start, end = _own_lines(content)
    return start is None or _own_entries(content[start:end]) is not None


def _own_entries(text: bytes) -> list[dict[str, Any]] | None:
    """Return the entries of the list ``levelmatch``, or `None` if another program wrote it."""
    import yaml

    try:
        entries = yaml.safe_load(text)["levelmatch"]
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    is_own = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if is_own else None


def add_to_asdf(content: bytes, entry: dict[str, Any]) -> bytes:
    """Return an ASDF file with an entry added to the list ``levelmatch``.

    A data model also gets a text on the run in ``meta``, which JWST's pipeline copies from the
    first image to a mosaic.

    Parameters
    ----------
    content : bytes
        The file.
    entry : dict
        The entry as plain values.

    Returns
    -------
    content : bytes
        The file. Everything else is unchanged, except for the index of the blocks.
    """
    import yaml

    content = _with_meta(content, entry)
    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True).encode()
    start, end = _own_lines(content)
    if start is None:
        return _put(content, end, end, b"levelmatch:\n" + text)
    return _put(content, end, end, text)


def remove_from_asdf(content: bytes, record: str) -> bytes:
    """Return an ASDF file without a record's entries in the list ``levelmatch``.

    Parameters
    ----------
    content : bytes
        The file.
    record : str
        SHA-256 of the record.

    Returns
    -------
    content : bytes
        The file. Everything else is unchanged, except for the index of the blocks.
    """
    import yaml

    start, end = _own_lines(content)
    if start is None:
        return content
    entries = _own_entries(content[start:end]) or []
    kept = [e for e in entries if e.get("record_sha256") != record]
    if len(kept) == len(entries):
        return content
    text = yaml.safe_dump({"levelmatch": kept}, sort_keys=False, allow_unicode=True).encode()
    content = _put(content, start, end, text if kept else b"")
    return _with_meta(content, kept[-1] if kept else {})


def _with_meta(content: bytes, entry: dict[str, Any]) -> bytes:
    """Return an ASDF file with the text on a run in ``meta``, which replaces an earlier text.

    Only data models get the text. An empty entry removes it.
    """
    last = TREE_END.search(content)
    meta = META.search(content, 0, last.start() if last else 0)
    if meta is None or MODEL_TYPE.search(meta[0]) is None:
        return content
    indent, block = meta["indent"], meta.end("head")
    own = re.compile(rb"^%slevelmatch:.*\n(?:%s +.*\n)*" % (indent, indent), re.MULTILINE)
    old = own.search(content, block, meta.end())
    start, end = old.span() if old else (block, block)
    line = f"levelmatch: {run_text(entry)}\n".encode() if entry else b""
    return _put(content, start, end, indent + line if entry else b"")


def run_text(entry: dict[str, Any]) -> str:
    """Return the text on a run from the entry of an image."""
    text = f"levelmatch {entry['levelmatch']} {entry['created']}"
    return f"{text} record {entry['record']} {entry['record_sha256']}" if entry["record"] else text


def _own_lines(content: bytes) -> tuple[int | None, int]:
    """Return the start (`None` without a list) and the end of the list ``levelmatch``.

    Without a list, the end is the place for a new one.
    """
    last = TREE_END.search(content)
    if last is None:
        msg = "the ASDF extension has no end of its tree"
        raise ValueError(msg)
    end = last.start()
    found = re.search(rb"^levelmatch:", content[:end], re.MULTILINE)
    if found is None:
        return None, end
    after = re.compile(rb"^[^\s#-]", re.MULTILINE).search(content, found.end(), end)
    return found.start(), after.start() if after else end


def _put(content: bytes, start: int, end: int, text: bytes) -> bytes:
    """Return an ASDF file with a section of its tree replaced and its block index shifted."""
    shift = len(text) - (end - start)
    index = content.rfind(BLOCK_INDEX)
    tail = content[end:]
    if index > end and content.find(BLOCK_MAGIC, end) > 0:
        moved = re.sub(rb"(?m)^- (\d+)", lambda m: b"- %d" % (int(m[1]) + shift), content[index:])
        tail = content[end:index] + moved
    return content[:start] + text + tail
