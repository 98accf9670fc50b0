# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tables made from images: catalogues of outlines, and healpix cells."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Table
from astropy_healpix import nside_to_pixel_area, xyz_to_healpix
from scipy.ndimage import median

from levelmatch.docstrings import share_parameters
from levelmatch.exceptions import FrameError
from levelmatch.images.catalogue import PLANNED
from levelmatch.images.collection import without_lyot
from levelmatch.images.corrections import Correction
from levelmatch.images.frame import Frame
from levelmatch.images.inputs import collect_frames
from levelmatch.images.notes import Notes
from levelmatch.images.sky_cells import SkyCells, cell_vectors, is_resolution
from levelmatch.images.sources import FileSource
from levelmatch.images.table_files import write_table
from levelmatch.option_values import as_path, check_names
from levelmatch.options import ReadOptions
from levelmatch.sky.vectors import lonlat

__all__ = ["make_sky_cells", "write_catalogue"]


@share_parameters
def write_catalogue(
    images,
    path: str | Path,
    *,
    keywords=(),
    read: ReadOptions | None = None,
    overwrite: bool = False,
) -> Table:
    """Write a catalogue of the outlines of images, an input that needs no headers.

    A run on the catalogue finds overlaps and plans its passes without opening files. It opens a
    file to measure its pixels and to write its corrected image.

    Parameters
    ----------
    <<images>>
        The images must be in files.
    path : str or `~pathlib.Path`
        The catalogue: .ecsv, .fits or .parquet.
    keywords : iterable of str
        Additional header keywords to store, such as a keyword of ``group_by``. Keywords used by
        default are always stored.
    read : `ReadOptions` or None
        How images are read.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    catalogue : `~astropy.table.Table`
        One row per image. ``file`` is its path, relative to the catalogue if it lies in the same
        folder. ``hdu`` is the index of the image. ``extension`` is its label if several images of
        the file are matched. ``ra`` and ``dec``, of shape (16,), are the vertices of its convex
        outline in degrees. ``ra_centre`` and ``dec_centre`` are the position of its middle pixel.
        ``ny`` and ``nx`` are its shape. ``unit`` and ``tile`` are its unit and tile. Other
        columns have the names of header keywords.

    Raises
    ------
    FrameError
        If an image cannot be used, or is in memory; the message names it.
    FileExistsError
        If the file exists and ``overwrite`` is not set.
    ValueError
        If the name has another suffix.
    """
    folder = as_path("path", path).absolute().parent
    table = _table(collect_frames(images, read), check_names("keywords", keywords))
    table["file"] = [
        str(Path(f).relative_to(folder)) if Path(f).is_relative_to(folder) else f
        for f in table["file"].tolist()
    ]
    write_table(table, path, overwrite=overwrite)
    return table


def _table(frames: list[Frame], keywords) -> Table:
    """Return the catalogue of frames, with absolute paths."""
    polygons = np.array([frame.grid.polygon for frame in frames])
    ra, dec = lonlat(polygons)
    middle = lonlat(np.array([frame.whole_grid.axes[0] for frame in frames]))
    for frame in frames:
        if not isinstance(frame.source, FileSource):
            msg = f"{frame.name}: a catalogue lists files, and this image is in memory"
            raise FrameError(msg)
    table = Table(
        {
            "file": [str(frame.source.path.absolute()) for frame in frames],
            "hdu": [frame.source.hdu for frame in frames],
            "extension": [frame.extension for frame in frames],
            "ra": ra,
            "dec": dec,
            "ra_centre": middle[0],
            "dec_centre": middle[1],
            "ny": [frame.shape[0] for frame in frames],
            "nx": [frame.shape[1] for frame in frames],
            "unit": ["" if frame.unit is None else str(frame.unit) for frame in frames],
            "tile": [frame.tile for frame in frames],
        }
    )
    for key in dict.fromkeys((*PLANNED, *keywords)):
        values = [frame.meta.get(key) for frame in frames]
        if any(value is not None for value in values):
            table[key] = _column(values)
    return table


def _column(values):
    """Return header values as a column of numbers if all are numbers, otherwise of text."""
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return values if numbers else ["" if value is None else str(value) for value in values]


# --------------------------------------------------------------------------------------
# Cells

# Largest number of pixels of a cell by default. In larger cells stars and gradients cost accuracy.
PIXELS = 100
# Largest number of rounds of clipping.
N_CLIP = 5
# Limit of clipping in sigma. Stars stay in the cells, because all images show them alike. A cell
# that is wrong in one image only is clipped later, from the pairs of that image.
CLIP = 5.0
# Ratio of the variances of the median and the mean of many normally distributed values.
OF_MEDIAN = np.pi / 2


@share_parameters
def make_sky_cells(
    images,
    *,
    nside: int | None = None,
    statistic: str = "mean",
    keywords=(),
    read: ReadOptions | None = None,
) -> list[SkyCells]:
    """Return the sky values of images in healpix cells.

    Parameters
    ----------
    <<images>>
    nside : int or None
        Resolution of the cells, a power of two. By default a cell has 25 to 100 pixels of
        the image with the median pixel area.
    statistic : {"mean", "median"}
        Value of a cell. The mean is the value, at the middle of the cell, of a plane fitted to
        its good pixels, clipped at 5 sigma. The median is taken after the slopes of that plane
        are subtracted; its error is 1.25 times larger.
    keywords : iterable of str
        Additional header keywords to keep, such as a keyword of ``group_by``. Keywords used by
        default are always kept.
    read : `ReadOptions` or None
        How images are read.

    Returns
    -------
    cells : list of `SkyCells`
        The cells of each image. The error of a cell is computed from the scatter of its pixels.

    Raises
    ------
    ValueError
        If the statistic is unknown, or ``nside`` is not a power of two.
    FrameError
        If an image cannot be used.
    """
    if statistic not in ("mean", "median"):
        msg = f"statistic: {statistic!r} is neither 'mean' nor 'median'"
        raise ValueError(msg)
    if nside is not None and not is_resolution(nside):
        msg = f"nside: {nside!r} is not a power of two up to 2**29"
        raise ValueError(msg)
    notes = Notes()
    frames = without_lyot(collect_frames(images, read, notes), notes, True)
    notes.warn()
    if nside is None:
        nside = _resolution(np.median([frame.grid.pixel_area for frame in frames]))
    kept = dict.fromkeys((*PLANNED, *check_names("keywords", keywords)))
    return [_cells(frame, nside, statistic, kept) for frame in frames]


def _resolution(pixel_area):
    """Return the nside of cells that have at most `PIXELS` pixels of this solid angle."""
    ratio = nside_to_pixel_area(1).to_value(u.sr) / (PIXELS * pixel_area)
    return 1 << int(np.clip(np.ceil(0.5 * np.log2(ratio)), 0, 29))


def _cells(frame, nside, statistic, keywords):
    data, grid = frame.load(), frame.whole_grid
    ny, nx = frame.shape
    y, x = np.nonzero(np.isfinite(data))
    # Interpolate the unit vectors of all pixels between nodes, as for corrections.
    vectors = (Correction(0.0, axis).evaluate(grid)[y, x] for axis in np.eye(3))
    cell = np.asarray(xyz_to_healpix(*vectors, nside, order="nested"), dtype=np.int64)
    order = np.argsort(cell, kind="stable")
    index, count = np.unique(cell[order], return_counts=True)
    middle = grid.to_pixel(cell_vectors(index, nside), 50)
    y, x, place = y[order], x[order], np.repeat(np.arange(len(index)), count)
    offsets = x - middle[0][place], y - middle[1][place]
    value, error = _cell_values(data[y, x].astype(float), *offsets, place, statistic)
    edges = [(-0.5, -0.5), (nx - 0.5, -0.5), (nx - 0.5, ny - 0.5), (-0.5, ny - 0.5)]
    corners = np.stack(lonlat(frame.transform.to_sky(*np.transpose(edges))), axis=-1)
    meta = {key: frame.meta[key] for key in keywords if frame.meta.get(key) is not None}
    keys = {} if frame.detector == "" else {"DETECTOR": frame.detector}
    good = np.isfinite(value) & np.isfinite(error)
    return SkyCells(
        index[good],
        value[good],
        error[good],
        count[good],
        nside=nside,
        name=frame.name,
        unit=frame.unit,
        corners=corners if np.isfinite(corners).all() else None,
        meta=meta | keys,
    )


def _cell_values(data, x, y, place, statistic):
    """Return the value of each cell of an image at the middle of the cell, and its error.

    A plain mean would refer to the mean position of the pixels, which differs between images and
    biases differences where the sky has a gradient.

    Parameters
    ----------
    data : `~numpy.ndarray`, shape (n,)
        Values of the pixels, sorted by cell.
    x, y : `~numpy.ndarray`, shape (n,)
        Offsets from the middle of the pixel's cell, in pixels.
    place : `~numpy.ndarray` of intp, shape (n,)
        Place of each pixel's cell among the cells, ascending.
    statistic : {"mean", "median"}
        See `make_sky_cells`.
    """
    if len(data) == 0:
        return np.zeros(0), np.zeros(0)
    cells = np.arange(int(place.max()) + 1)
    residual = np.abs(data - median(data, place, cells)[place])
    # 1.4826 times the median absolute deviation estimates sigma.
    limit = 1.4826 * CLIP * median(residual, place, cells)
    for _ in range(N_CLIP):
        kept = (residual <= limit[place]).astype(float)
        planes, variance, freedom = _fit_planes(data, x, y, place, kept)
        fitted = planes[:, 0][place] + planes[:, 1][place] * x
        fitted += planes[:, 2][place] * y
        residual = np.abs(data - fitted)
        square = np.bincount(place, kept * residual**2) / np.maximum(freedom, 1)
        scatter = np.where(freedom > 0, np.sqrt(square), np.nan)
        if np.array_equal(kept, residual <= (CLIP * scatter)[place]):
            break
        limit = CLIP * scatter
    error = scatter * np.sqrt(variance)
    if statistic == "mean":
        return planes[:, 0], error
    level = data - planes[:, 1][place] * x
    level -= planes[:, 2][place] * y
    return median(level, place, cells), error * np.sqrt(OF_MEDIAN)


def _fit_planes(data, x, y, place, kept):
    """Return the planes, the variances of their values and their degrees of freedom.

    The variances are in units of the variance of one pixel. Pixels have the weights ``kept``.
    """
    terms, n_cells = (np.ones(len(data)), x, y), int(place.max(initial=-1)) + 1
    gram, rhs = np.empty((n_cells, 3, 3)), np.empty((n_cells, 3))
    for i in range(3):
        weighted = kept * terms[i]
        rhs[:, i] = np.bincount(place, weighted * data)
        for j in range(i + 1):
            gram[:, i, j] = gram[:, j, i] = np.bincount(place, weighted * terms[j])
    freedom = gram[:, 0, 0] - 3
    # Pixels along a line do not determine a plane.
    scale = np.sqrt(np.maximum(np.einsum("nii->ni", gram), 1e-300))
    scaled = gram / (scale[:, :, None] * scale[:, None, :])
    good = (freedom > 0) & (np.linalg.det(scaled) > 1e-6)
    gram[~good] = np.eye(3)
    inverse = np.linalg.inv(gram)
    planes = np.einsum("nij,nj->ni", inverse, rhs)
    planes[~good] = np.nan
    return planes, inverse[:, 0, 0], np.where(good, freedom, 0)
