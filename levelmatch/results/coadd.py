# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Combine images on one grid, section by section, and write the mosaic."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits

from levelmatch.exceptions import NoOverlapError
from levelmatch.results.layers import Box, Layers, reproject_layer

__all__ = ["MosaicHDU", "coadd_layers", "mosaic_hdus"]


# Largest memory of the reprojected images of a median, in bytes.
STACK = 1 << 29


def coadd_layers(
    outputs: Sequence[Any],
    layers: Layers,
    combine: str = "mean",
    tile: tuple[int, int] | None = None,
    progress_bar: Callable | None = None,
) -> None:
    """Fill a mosaic and its coverage with the combined images, tile by tile.

    Parameters
    ----------
    outputs : pair of 2D `~numpy.ndarray` or `~levelmatch.results.coadd.MosaicHDU`
        The mosaic, and its coverage: the number of images or the sum of their weights.
    layers : `Layers`
        The images.
    combine : {"mean", "median"}
        How images are combined.
    tile : tuple of int or None
        Shape (ny, nx) of a tile; by default the mosaic is one tile.
    progress_bar : callable or None
        Wraps an iterable over the tiles.

    Raises
    ------
    NoOverlapError
        If no image has a good pixel on the grid.
    """
    tiles = list(_tiles(layers.grid.shape, tile or layers.grid.shape))
    function = {"mean": _mean, "median": _median}[combine]
    found = False
    for box in tiles if progress_bar is None else progress_bar(tiles):
        for part in _parts(box, layers) if combine == "median" else [box]:
            y0, y1, x0, x1 = part
            combined, coverage = function(part, layers)
            outputs[0][y0:y1, x0:x1] = combined
            outputs[1][y0:y1, x0:x1] = coverage
            found |= bool(coverage.any())
    if not found:
        msg = (
            f"none of the {len(layers.frames)} images has a good pixel on the mosaic's grid; "
            "look at wcs or pixel_scale, and at the images' masks and weights"
        )
        raise NoOverlapError(msg)


def _tiles(shape: tuple[int, int], tile: tuple[int, int]) -> Iterator[Box]:
    """Yield the tiles in alternating directions, so that successive tiles share images."""
    columns = range(0, shape[1], tile[1])
    for row, y in enumerate(range(0, shape[0], tile[0])):
        for x in columns if row % 2 == 0 else reversed(columns):
            yield y, min(y + tile[0], shape[0]), x, min(x + tile[1], shape[1])


class _Some(Sequence):
    """Sequence of some of the images, which loads an image when indexed."""

    def __init__(self, layers: Layers, members: list[int]) -> None:
        self.layers = layers
        self.members = members

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i):
        return self.layers.load(self.members[i])


def _mean(box: Box, layers: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the images on a section, and its coverage."""
    from reproject.mosaicking import reproject_and_coadd

    members = list(layers.touching(box))
    shape = box[1] - box[0], box[3] - box[2]
    if not members:
        return np.full(shape, np.nan), np.zeros(shape)
    return reproject_and_coadd(
        _Some(layers, members),
        layers.grid.part(box),
        shape_out=shape,
        reproject_function=reproject_layer,
        combine_function="mean",
        blank_pixel_value=np.nan,
    )


def _parts(box: Box, layers: Layers) -> Iterator[Box]:
    """Yield a tile, or its sections if its median would need too much memory."""
    y0, y1, x0, x1 = box
    boxes = layers.touching(box).values()
    if y1 - y0 > 1 and sum((b[1] - b[0]) * (b[3] - b[2]) for b in boxes) * 4 > STACK:
        middle = (y0 + y1) // 2
        yield from _parts((y0, middle, x0, x1), layers)
        yield from _parts((middle, y1, x0, x1), layers)
        return
    yield box


def _median(box: Box, layers: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the images on a section, and its coverage.

    reproject cannot compute a median.
    """
    shape = box[1] - box[0], box[3] - box[2]
    images = []
    coverage = np.zeros(shape, dtype=int)
    for k, covered in layers.touching(box).items():
        y0, y1, x0, x1 = covered
        y, x = slice(y0 - box[0], y1 - box[0]), slice(x0 - box[2], x1 - box[2])
        grid = layers.grid.part(covered)
        values, _ = reproject_layer(layers.load(k), grid, (y1 - y0, x1 - x0))
        images.append((y, x, values.astype(np.float32)))
        coverage[y, x] += np.isfinite(values)
    median = np.full(shape, np.nan, dtype=np.float32)
    for row in range(shape[0]):
        _median_row(median[row], coverage[row], images, row)
    return median, coverage


def _median_row(out: np.ndarray, count: np.ndarray, images: list, row: int) -> None:
    """Fill one row with the medians of the images that cover it."""
    rows = [(x, values[row - y.start]) for y, x, values in images if y.start <= row < y.stop]
    stack = np.full((len(rows), len(out)), np.nan, dtype=np.float32)
    for k, (x, values) in enumerate(rows):
        stack[k, x] = values
    # Sorting puts NaN at the end.
    stack.sort(axis=0)
    x = np.flatnonzero(count)
    low, high = stack[(count[x] - 1) // 2, x], stack[count[x] // 2, x]
    out[x] = low + (high - low) / 2


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


def mosaic_hdus(stream: BinaryIO, path: Path, headers: list[fits.Header]) -> list[MosaicHDU]:
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
    outputs : list of `MosaicHDU`
        The pixels of each HDU, to be written.

    Raises
    ------
    OSError
        If the disk has no space.
    """
    outputs = []
    for header in headers:
        stream.write(header.tostring().encode("ascii"))
        shape = header["NAXIS2"], header["NAXIS1"]
        kind = np.dtype(">f4" if header["BITPIX"] < 0 else ">i4")
        outputs.append(MosaicHDU(stream, stream.tell(), shape, kind))
        stream.seek(-(-shape[0] * shape[1] * kind.itemsize // 2880) * 2880, 1)
    _reserve(stream, path)
    return outputs


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
