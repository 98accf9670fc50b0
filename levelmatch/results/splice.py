# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""FITS files with some of their HDUs replaced, the rest copied byte by byte."""

import io
import re
import shutil

import numpy as np
from astropy.io import fits

from levelmatch.images.packing import open_raw

__all__ = [
    "add_to_asdf",
    "compressed_bytes",
    "image_bytes",
    "remove_from_asdf",
    "splice",
    "table_bytes",
]


BLOCK = 2880
BLOCK_MAGIC = b"\xd3BLK"
BLOCK_INDEX = b"#ASDF BLOCK INDEX"


def splice(source, hdus, replaced, stream):
    """Write a FITS file's bytes with some of its HDUs replaced.

    Parameters
    ----------
    source : `~pathlib.Path`
        The file.
    hdus : `~astropy.io.fits.HDUList`
        The same file, open.
    replaced : dict of int to bytes
        What comes instead of which HDUs.
    stream : binary file
        Where to.
    """
    with open_raw(source) as raw:
        position = 0
        for index in sorted(replaced):
            info = hdus[index].fileinfo()
            _copy(raw, stream, info["hdrLoc"] - position)
            stream.write(replaced[index])
            position = info["datLoc"] + info["datSpan"]
            raw.seek(position)
        shutil.copyfileobj(raw, stream, 1 << 20)


def _copy(raw, stream, count):
    while count > 0:
        part = raw.read(min(count, 1 << 20))
        if not part:
            return
        stream.write(part)
        count -= len(part)


def image_bytes(header, data):
    """Return the bytes of an image HDU with a header and data, its checksum renewed if it had one.

    Parameters
    ----------
    header : `~astropy.io.fits.Header`
        That of an image; its ``BITPIX`` is set to that of the data.
    data : 2D `~numpy.ndarray`
        The pixels, of floats or integers. What FITS has no type for it stores less an offset,
        which the header then tells.

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
    return _with_checksum(kind, header, big.tobytes())


def _with_offset(header, data):
    """Return data as FITS stores them, and put their offset into the header."""
    dtype = data.dtype
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype == np.float16:
        msg = f"data: FITS has no type for {dtype}; convert them"
        raise TypeError(msg)
    if dtype.kind == "f" or (dtype.kind == "u") == (dtype.itemsize == 1):
        return data
    other = ("u" if dtype.kind == "i" else "i") + str(dtype.itemsize)
    half = 1 << (8 * dtype.itemsize - 1)
    # To subtract half of the range, or to add it, is to turn the highest bit.
    data = np.ascontiguousarray(data, dtype.newbyteorder("="))
    turned = data.view(f"u{dtype.itemsize}") ^ np.uint64(half).astype(f"u{dtype.itemsize}")
    header["BSCALE"], header["BZERO"] = 1, half if dtype.kind == "u" else -half
    return turned.view(other)


def table_bytes(header, content):
    """Return the bytes of a table of one row and one column of bytes, as ASDF's extension is."""
    header = header.copy()
    header["NAXIS1"], header["TFORM1"] = len(content), f"{len(content)}B"
    return _with_checksum(fits.BinTableHDU, header, content)


def _with_checksum(kind, header, content):
    padded = content + bytes(-len(content) % BLOCK)
    keys = [key for key in ("CHECKSUM", "DATASUM") if key in header]
    if keys:
        hdu = kind.fromstring(header.tostring().encode("ascii") + padded)
        hdu.add_datasum() if keys == ["DATASUM"] else hdu.add_checksum()
        header = hdu.header
    return header.tostring().encode("ascii") + padded


def compressed_bytes(hdu):
    """Return the bytes of a compressed image HDU."""
    buffer = io.BytesIO()
    checksum = "CHECKSUM" in hdu.header
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(
        buffer, output_verify="ignore", checksum=checksum
    )
    return buffer.getvalue()[BLOCK:]


def add_to_asdf(content, entry):
    """Return an ASDF file's bytes with an entry added to its tree's list ``levelmatch``.

    Parameters
    ----------
    content : bytes
        The file. All of it but for that list stays as it is, byte by byte.
    entry : dict
        Plain values.
    """
    import yaml

    text = yaml.safe_dump([entry], sort_keys=False, allow_unicode=True).encode()
    start, end = _own_lines(content)
    if start is None:
        return _put(content, end, end, b"levelmatch:\n" + text)
    return _put(content, end, end, text)


def remove_from_asdf(content, record):
    """Return an ASDF file's bytes without the entries of a record in its list ``levelmatch``."""
    import yaml

    start, end = _own_lines(content)
    if start is None:
        return content
    entries = yaml.safe_load(content[start:end])["levelmatch"]
    kept = [e for e in entries if e.get("record_sha256") != record]
    if len(kept) == len(entries):
        return content
    text = yaml.safe_dump({"levelmatch": kept}, sort_keys=False, allow_unicode=True).encode()
    return _put(content, start, end, text if kept else b"")


def _own_lines(content):
    """Where the list begins (`None` if there is none) and ends, or where it would be put."""
    end = re.search(rb"^\.\.\.\r?$", content, re.MULTILINE).start()
    found = re.search(rb"^levelmatch:", content[:end], re.MULTILINE)
    if found is None:
        return None, end
    after = re.compile(rb"^[^\s#-]", re.MULTILINE).search(content, found.end(), end)
    return found.start(), after.start() if after else end


def _put(content, start, end, text):
    """Return an ASDF file's bytes with a part of its tree replaced, and its block index moved."""
    shift = len(text) - (end - start)
    index = content.rfind(BLOCK_INDEX)
    tail = content[end:]
    if index > end and content.find(BLOCK_MAGIC, end) > 0:
        moved = re.sub(rb"(?m)^- (\d+)", lambda m: b"- %d" % (int(m[1]) + shift), content[index:])
        tail = content[end:index] + moved
    return content[:start] + text + tail
