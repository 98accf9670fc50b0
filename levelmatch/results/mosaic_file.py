# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of a FITS file that are written in sections."""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits

__all__ = ["MosaicHDU", "file_planes"]


class MosaicHDU:
    """Pixels of an image HDU in a file that is being written.

    The pixels are not memory-mapped: a mapped file counts as memory of the process, and a full
    disk would kill the process.

    Parameters
    ----------
    stream : binary file
        The file.
    offset : int
        Position of the first pixel.
    shape : tuple of int
        Shape of the image.
    dtype : `~numpy.dtype`
        Type of its pixels.
    """

    def __init__(
        self, stream: BinaryIO, offset: int, shape: tuple[int, int], dtype: np.dtype
    ) -> None:
        self.stream = stream
        self.offset = offset
        self.shape = shape
        self.dtype = dtype

    def __setitem__(self, box: tuple[slice, slice], values: np.ndarray) -> None:
        rows, columns = box
        values = np.ascontiguousarray(values, dtype=self.dtype)
        for y, row in zip(range(rows.start, rows.stop), values, strict=True):
            place = (y * self.shape[1] + columns.start) * self.dtype.itemsize
            self.stream.seek(self.offset + place)
            self.stream.write(row.tobytes())


def file_planes(stream: BinaryIO, path: Path, headers: list[fits.Header]) -> list[MosaicHDU]:
    """Write the headers of image HDUs to a file, and reserve space for their pixels.

    Parameters
    ----------
    stream : binary file
        The empty file.
    path : `~pathlib.Path`
        Path of the final file, for error messages.
    headers : list of `~astropy.io.fits.Header`
        The headers of the HDUs.

    Returns
    -------
    planes : list of `MosaicHDU`
        The pixels of each HDU, to be written.

    Raises
    ------
    OSError
        If the disk has no space.
    """
    planes = []
    for header in headers:
        stream.write(header.tostring().encode("ascii"))
        shape = header["NAXIS2"], header["NAXIS1"]
        kind = np.dtype(">f4" if header["BITPIX"] < 0 else ">i4")
        planes.append(MosaicHDU(stream, stream.tell(), shape, kind))
        stream.seek(-(-shape[0] * shape[1] * kind.itemsize // 2880) * 2880, 1)
    _reserve(stream, path)
    return planes


def _reserve(stream: BinaryIO, path: Path) -> None:
    """Reserve space up to the position in a file; fail before any pixel if the disk is full."""
    size = stream.tell()
    stream.truncate()
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(stream.fileno(), 0, size)
    except OSError as error:
        msg = f"{path}: {error.strerror}; the mosaic needs {size} bytes"
        raise OSError(error.errno, msg) from error
