# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure the difference of two images."""

from dataclasses import dataclass, replace
from functools import cached_property
from logging import getLogger

import numpy as np

from levelmatch.measure._cells import (
    Clipping,
    Lattice,
    difference_cells,
    peak_map,
    rough_scatter,
)
from levelmatch.measure._summary import (
    pair_cells,
    set_other_frame,
    summarise_cells,
)
from levelmatch.measure.gains import EMISSION, emission_of
from levelmatch.measure.rounding import Rounding, common_steps, rounding_of, rounding_step
from levelmatch.measure.table import empty_pair
from levelmatch.sky._geometry import balance_map, cell_vectors, map_error, reached_cells
from levelmatch.sky.grid import MAP_TOLERANCE, Grid
from levelmatch.sky.transform import SkyTransform

__all__ = [
    "Image",
    "as_cells",
    "clipping_of",
    "map_cells",
    "measure_cells",
    "measure_pair",
    "needed_box",
    "second_has_cells",
    "summarise",
]


logger = getLogger(__name__)
# Smallest sampled fraction of a cell. The scatter of other cells is too uncertain.
MIN_FILLED = 0.02
# Growth of the noise that neighbouring cells share with the ratio of the pixel scales of the two
# images, and smallest fraction, per axis, of noise that is not shared.
LOST_COARSE = 0.5
MIN_OWN = 0.3
# Largest error of interpolation in the map of a pair, in pixels, and that of a map whose nodes are
# moved so that the errors of a cell nearly cancel.
MAP_ERROR = 2 * MAP_TOLERANCE
BALANCED_ERROR = 0.017
# Error of a refined map, expected from that of the coarser one, below which it is not tested.
MAP_EXPECTED = 1.8 * MAP_TOLERANCE
# Relative difference of pixel areas, and distance in pixels, that are due to rounding.
SAME_AREA = 1e-6
SAME_PLACE = 1e-3
# An image is coarser than another if its pixels are wider by this factor.
COARSE = 1.7
# Rows and columns of a block of a map of sources, as in `_cells.pyx`.
BLOCK = 4
# Margin, in pixels, around a cell that contains all pixels from which its samples are interpolated.
MARGIN = 8


@dataclass(frozen=True)
class _Cells:
    """The measured cells of one pair, an array of `PAIR_CELL`, and their geometry.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `PAIR_CELL`, shape (n,)
        The cells, without their depth.
    grid : `~levelmatch.sky.grid.Grid`
        The grid of the cells.
    samples : `~numpy.ndarray` of int, shape (n,)
        Number of good samples of each cell before clipping.
    extent : tuple of float
        Longest side of the overlap divided by the longest side of the first and the second image.
    coarseness, own_part : float
        See `~levelmatch.measure._summary.summarise_cells`.
    swapped : bool
        Whether the cells belong to the second image.
    turn : float
        Angle in degrees, 0 to 90, between the rows of the two images.
    roundings : tuple of `~levelmatch.measure.rounding.Rounding`
        Rounding of the values of the first and of the second image.
    """

    cells: np.ndarray
    grid: Grid
    samples: np.ndarray
    extent: tuple = (1.0, 1.0)
    coarseness: float = 1.0
    own_part: float = 1.0
    swapped: bool = False
    turn: float = 0.0
    roundings: tuple = (Rounding(), Rounding())

    @property
    def index(self):
        """Index (y, x) of each cell in the grid, shape (n, 2)."""
        return np.stack([self.cells["y"], self.cells["x"]], axis=1)


@dataclass(frozen=True, eq=False)
class Image:
    """An image in memory, or the section of it that is still needed.

    Parameters
    ----------
    pixels : 2D `~numpy.ndarray`
        NaN where bad.
    grid : `~levelmatch.sky.grid.Grid`
        Position of the whole image.
    maps : tuple of `~levelmatch.sky.overlaps.DepthMap`
        Maps of the number of images that cover it; one for each set of images that share noise.
    section : tuple of int or None
        For a section, the place of its first pixel in the image, (y, x), and the image's shape.
    fills : tuple of `~levelmatch.images.fill.Fill`
        Fill values found in the image.
    digests : dict or None
        Digests of the pixels of a file, see `~levelmatch.images.digests.pixel_digests`.
    known_peaks : 2D `~numpy.ndarray` or None
        Map of the sources; for a section, its blocks of that of the whole image. By default it is
        made of the pixels.
    known_rounding : `~levelmatch.measure.rounding.Rounding` or None
        For a section, that of the whole image.
    """

    pixels: np.ndarray
    grid: Grid
    maps: tuple = ()
    section: tuple | None = None
    fills: tuple = ()
    digests: dict | None = None
    known_peaks: np.ndarray | None = None
    known_rounding: Rounding | None = None

    @cached_property
    def peaks(self):
        """Map of the sources in the pixels, see `~levelmatch.measure._cells.peak_map`."""
        return peak_map(self.pixels) if self.known_peaks is None else self.known_peaks

    @cached_property
    def rounding(self):
        """Rounding of the values."""
        return self.known_rounding or rounding_of(self.pixels, rounding_step(self.pixels))

    def cut(self, box):
        """Return a copy of a section with the rows and columns (y0, y1, x0, x1)."""
        y0, y1, x0, x1 = box
        pixels = self.pixels[y0:y1, x0:x1].copy()
        section = (y0, x0, *self.pixels.shape)
        # Blocks that begin in the section, and those that reach into it.
        peaks = self.peaks[y0 // BLOCK : -(-y1 // BLOCK), x0 // BLOCK : -(-x1 // BLOCK)].copy()
        known = {"known_peaks": peaks, "known_rounding": self.rounding}
        return replace(self, pixels=pixels, section=section, **known)


def needed_box(grid, others):
    """Return the section of an image that is needed to compare it with others.

    Parameters
    ----------
    grid : `~levelmatch.sky.grid.Grid`
        The image.
    others : list of `~levelmatch.sky.grid.Grid`
        The others.

    Returns
    -------
    box : tuple of int
        Limits ``(y0, y1, x0, x1)``, the upper ones excluded, of all cells that reach the other
        images, with a margin for the cells of the other images.
    """
    ny, nx = grid.shape
    box = [ny, 0, nx, 0]
    for other in others:
        cells = _near_cells(grid, other)
        if len(cells) == 0:
            return 0, ny, 0, nx
        # Cells of the other image may extend beyond the grid of this image. Within the grid they
        # end where the cells of this image end.
        beyond = 1.5 * other.spacing * np.sqrt(other.pixel_area / grid.pixel_area)
        axes = zip((grid.ys, grid.xs), cells.min(axis=0), cells.max(axis=0) + 1, strict=True)
        for axis, (nodes, low, high) in enumerate(axes):
            before = MARGIN + (beyond if low == 0 else 0)
            after = MARGIN + (beyond if high == len(nodes) - 1 else 0)
            first, last = int(nodes[low] - before), int(nodes[high] + after) + 1
            box[2 * axis] = min(box[2 * axis], max(first, 0))
            box[2 * axis + 1] = max(box[2 * axis + 1], min(last, grid.shape[axis]))
    return tuple(box)


def _near_cells(grid, other):
    """Return the cells of a grid within two pixels of another image, and perhaps some more.

    The exact map of the other image is not needed yet: its fit takes a while.
    """
    scale = np.sqrt(grid.pixel_area / other.pixel_area)
    about = 2 * (1 + scale)
    x, y, error = other.near_pixel(grid.nodes, 1.5 * grid.spacing * scale + about)
    y0, y1, x0, x1 = other.box
    about += error
    return reached_cells(x, y, y0 - about, y1 + about, x0 - about, x1 + about)


def measure_pair(a, b, depth_maps, options):
    """Measure the difference of two images.

    Parameters
    ----------
    a, b : `Image`
        The images.
    depth_maps : tuple of `~levelmatch.sky.overlaps.DepthMap`
        Number of images that share their noise, on each of the two.
    options : `MeasureOptions`
        How to measure.

    Returns
    -------
    row : `~numpy.void` of `~levelmatch.measure.table.PAIR`
        The measured quantities.
    """
    if options.method == "direct":
        cells = _direct_cells(a, b, options)
    else:
        cells = _reprojected_cells(a.pixels, b.pixels, a.grid, b.grid, options)
    if cells is None:
        return empty_pair()
    cells = replace(cells, roundings=(a.rounding, b.rounding))
    own = depth_maps[1] if cells.swapped else depth_maps[0]
    depth = own.at(cells.grid, cells.index, np.ascontiguousarray(cells.cells["vector"]))
    return summarise(cells, np.maximum(depth, 2))


def _direct_cells(a, b, options):
    """Return the cells of one image, sampled in both images; `None` without any."""
    swap = second_has_cells(a.grid, b.grid)
    if swap:
        a, b = b, a
    grid_a, grid_b = a.grid, b.grid
    grid, map_x, map_y, cells = map_cells(grid_a, grid_b)
    if len(cells) == 0:
        return None
    measured = measure_cells(a, b, grid, (map_x, map_y), cells, options)
    if measured is None:
        return None
    _, values = measured
    scale = np.sqrt(grid_a.pixel_area / grid_b.pixel_area)
    side = max(np.ptp(values["y"]) + grid.cell[0], np.ptp(values["x"]) + grid.cell[1])
    extent = (min(side / grid_a.side, 1.0), min(side * scale / grid_b.side, 1.0))
    eps = least_step(a.pixels, b.pixels)
    cells = as_cells(measured, grid, options, eps, swap=swap, scale=scale)
    height, width = grid_b.cell
    turn = set_other_frame(cells.cells, map_x, map_y, width, height)
    return replace(cells, extent=extent[::-1] if swap else extent, turn=turn)


def second_has_cells(a, b):
    """Return whether the cells of a pair are those of the second image, not of the first.

    The finer image has the cells. If both have the same scale, it is the one whose centre lies
    farther along a fixed direction of the pixels. Neither the names of the images nor their place
    on the sky matter. If the offset does not tell, as for images turned by 180 degrees, the first
    image has the cells.

    Parameters
    ----------
    a, b : `~levelmatch.sky.grid.Grid`
        The images.
    """
    finer = a.pixel_area - b.pixel_area
    if abs(finer) > SAME_AREA * b.pixel_area:
        return bool(finer > 0)
    return bool(a.direction @ b.centre - b.direction @ a.centre > SAME_PLACE)


def as_cells(measured, grid, options, eps, *, swap=False, scale=1.0):
    """Return the measured cells of a pair from the kernel's values.

    Parameters
    ----------
    measured : tuple of `~numpy.ndarray`
        Index and values of the cells, see `measure_cells`.
    grid : `~levelmatch.sky.grid.Grid`
        The grid of the cells.
    options : `MeasureOptions`
        How to measure.
    eps : float
        Rounding error of the images, as a fraction of their values.
    swap : bool
        Whether the cells belong to the second image.
    scale : float
        Pixel scale of the finer image divided by the pixel scale of the coarser image.
    """
    index, values = measured
    vectors = centroid_vectors(grid, index, values)
    use_median = options.location != "mean"
    cells, smooth = pair_cells(
        values, index, vectors, -1 if swap else 1, eps, use_median, options.structure
    )
    return _Cells(
        cells,
        grid,
        values["good"],
        coarseness=1 / scale**2,
        own_part=_own_part(grid, scale, smooth),
        swapped=swap,
    )


def least_step(a, b):
    """Return the rounding error of the differences of two images, as a fraction of their values."""
    coarse = any(image.dtype == np.float32 for image in (a, b))
    # Rounding errors of doubles are equal for many pixels, so a few steps more are allowed.
    return 1e-7 if coarse else 16 * float(np.finfo(float).eps)


def _own_part(grid, scale, smooth):
    """Return the fraction of a cell's noise from the coarser image that other cells do not share.

    Samples on both sides of a border between cells use the same pixels of the coarser image,
    because of interpolation, and because the border cuts pixels. Along each axis, neighbouring
    cells therefore share the fraction ``lost / width`` of the variance.
    """
    lost = (1 - np.sqrt(smooth)) * (1 + LOST_COARSE * min(1 / scale - 1, 1.0))
    height, width = (side * scale for side in grid.cell)
    return float(max(1 - lost / height, MIN_OWN) * max(1 - lost / width, MIN_OWN))


def map_cells(grid_a, grid_b):
    """Return a refined first grid, its nodes in pixels of the second image, and overlapping cells.

    The grid is refined until the error of bilinear interpolation is less than `MAP_ERROR`, or
    less than `BALANCED_ERROR` after the nodes are moved, see
    `~levelmatch.sky._geometry.balance_map`.
    """
    grid, expected = grid_a, np.inf
    while True:
        x, y, cells = _reached(grid, grid_b)
        if len(cells) == 0 or grid.spacing <= 4 or expected < MAP_EXPECTED:
            break
        exact = grid_b.to_pixel(grid.middles[cells[:, 0], cells[:, 1]], _margin(grid, grid_b))
        error = map_error(x, y, cells, *exact)
        if error < MAP_ERROR:
            break
        if grid_a.is_smooth and grid_b.is_smooth:
            # This moves the nodes x, y.
            left = balance_map(x, y, cells, *exact)
            if left < BALANCED_ERROR:
                break
            # The error comes from the second derivatives, so half the spacing has a quarter of it.
            # A test at the middles of the finer grid would take as long as the pair.
            expected = error / 4
        logger.debug("map error %.3f pixel at spacing %d: refined", error, grid.spacing)
        grid = grid.refined
    return grid, x, y, cells


def _margin(grid, other):
    """Return the distance beyond another image, in its pixels, at which a cell may have nodes."""
    return 1.5 * grid.spacing * np.sqrt(grid.pixel_area / other.pixel_area)


def _reached(grid, other):
    """Return the nodes of a grid in pixels of another image, and the cells that overlap it."""
    x, y = other.to_pixel(grid.nodes, _margin(grid, other))
    y0, y1, x0, x1 = other.box
    return x, y, reached_cells(x, y, y0, y1, x0, x1)


def clipping_of(options, scatter):
    """Return the parameters of clipping, a `~levelmatch.measure._cells.Clipping`."""
    return Clipping(options.clip, options.truncation, options.location == "median", scatter)


def same_type(a, b):
    """Return two arrays converted to a common type, as the kernel requires."""
    if a.dtype != b.dtype:
        return a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    return a, b


def measure_cells(a, b, grid, maps, cells, options):
    """Measure the cells of a grid.

    Parameters
    ----------
    a, b : `Image`
        The images; the first one has the cells.
    grid : `~levelmatch.sky.grid.Grid`
        The grid of the first image.
    maps : tuple of 2D `~numpy.ndarray`
        Pixel coordinates x and y of the grid's nodes in the second image.
    cells : `~numpy.ndarray` of intp, shape (n, 2)
        Index (y, x) of the cells.
    options : `MeasureOptions`
        How to measure.

    Returns
    -------
    index : `~numpy.ndarray` of intp, shape (m, 2)
        Index of the cells with enough good samples.
    values : `~numpy.ndarray` of `~levelmatch.measure._cells.CELL`, shape (m,)
        Values of these cells. Without any such cell, `None` is returned.
    """
    lattice = Lattice(grid.ys, grid.xs, *maps)
    pixels = same_type(a.pixels, b.pixels)
    sections = a.section, b.section
    # A star covers one much larger pixel, like a cosmic ray. The finer image distinguishes them.
    coarse = b.grid.pixel_area > COARSE**2 * a.grid.pixel_area
    peaks = a.peaks, None if coarse else b.peaks
    scatter = rough_scatter(*pixels, lattice, cells, peaks, sections)
    clipping = clipping_of(options, scatter)
    values = difference_cells(*pixels, lattice, cells, clipping, peaks, sections)
    size = grid.cell[0] * grid.cell[1]
    keep = values["kept"] >= max(2, MIN_FILLED * size)
    return (cells[keep], values[keep]) if keep.any() else None


def centroid_vectors(grid, index, values):
    """Return unit vectors to the centroids of the cells, shape (n, 3)."""
    y, x = np.ascontiguousarray(values["y"]), np.ascontiguousarray(values["x"])
    return cell_vectors(grid.nodes, grid.ys, grid.xs, index, y, x)


def _reprojected_cells(a, b, grid_a, grid_b, options):
    """Return the cells of a grid to which both images are reprojected; `None` without any."""
    from levelmatch.sky.reprojection import common_grid, reproject_to

    common = common_grid([grid_a, grid_b], overlap=True)
    if common is None:
        return None
    header_wcs, shape = common
    spacing = grid_a.spacing
    grid = Grid(SkyTransform(header_wcs, "common grid"), shape, (0, shape[0], 0, shape[1]), spacing)
    images = [
        Image(np.ascontiguousarray(reproject_to(image, g, header_wcs, shape, options.method)), grid)
        for image, g in ((a, grid_a), (b, grid_b))
    ]
    maps = tuple(m.astype(float) for m in np.meshgrid(grid.xs, grid.ys))
    cells = np.ascontiguousarray(
        np.argwhere(np.ones((len(grid.ys) - 1, len(grid.xs) - 1), dtype=bool))
    )
    measured = measure_cells(*images, grid, maps, cells, options)
    if measured is None:
        return None
    _, values = measured
    side = max(np.ptp(values["y"]) + spacing, np.ptp(values["x"]) + spacing)
    extent = tuple(
        min(side * np.sqrt(grid.pixel_area / g.pixel_area) / g.side, 1.0) for g in (grid_a, grid_b)
    )
    eps = least_step(*(image.pixels for image in images))
    return replace(as_cells(measured, grid, options, eps), extent=extent)


def summarise(cells, depth):
    """Return the row of a pair, with the normal equations of the cells that agree on a plane.

    Parameters
    ----------
    cells : `_Cells`
        The cells.
    depth : `~numpy.ndarray`, shape (n,)
        Number of images that cover each cell.

    Returns
    -------
    row : `~numpy.void` of `~levelmatch.measure.table.PAIR`
        The measured quantities.

    Notes
    -----
    The weight of a cell is the inverse variance of its location times 2 / depth. All pairs of n
    images of one patch of sky then have the information of a joint fit of sky and levels,
    identity - 1/n. The additional variance of a median is not shared between pairs, and is not
    scaled.
    """
    values = cells.cells.copy()
    values["depth"] = depth
    rows, agree = summarise_cells(values, cells.coarseness, cells.own_part)
    rows["extent"] = cells.extent
    rows["turn"] = cells.turn
    rows["step"] = common_steps(cells.cells, cells.roundings)
    rows["neighbours"] = [rounding.neighbours for rounding in cells.roundings]
    if cells.swapped:
        rows["strips"] = rows["strips"][:, [2, 3, 0, 1, 4, 5, 6, 7]]
    found = emission_of(cells.cells, cells.samples, agree)
    for name, value in zip(EMISSION, found, strict=True):
        rows[name] = value
    return rows[0]
