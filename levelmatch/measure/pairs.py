# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Measure the difference of two images."""

from dataclasses import dataclass, replace
from logging import getLogger

import numpy as np

from levelmatch.measure._cells import difference_cells
from levelmatch.measure._summary import summarise_cells
from levelmatch.measure.gains import flux_gain
from levelmatch.sky._geometry import cell_vectors, map_error, reached_cells
from levelmatch.sky.grid import MAP_TOLERANCE, Grid
from levelmatch.sky.overlaps import DepthMap
from levelmatch.sky.transform import SkyTransform

__all__ = [
    "Image",
    "as_cells",
    "map_cells",
    "measure_pair",
    "measure_row",
    "needed_box",
    "summarise",
]


logger = getLogger(__name__)
# Cells with less than this part of their pixels sampled tell too little of their scatter.
MIN_FILLED = 0.02
# How much more of a cell's noise its neighbours share if its pixels are much finer than those
# of the other image, and the least part, along an axis, that it has to itself.
LOST_COARSE = 0.5
MIN_OWN = 0.3
# The least scatter, of images that are zero.
LEAST = float(np.finfo(np.float32).tiny)
# Pixels about a cell that its samples may be interpolated from, and some more.
MARGIN = 8


@dataclass(frozen=True)
class _Cells:
    """The measured cells of one pair."""

    location: np.ndarray
    brightness: np.ndarray
    # Mean difference and brightness of all samples minus those of the samples that are kept.
    star_diff: np.ndarray
    star_flux: np.ndarray
    variance: np.ndarray
    scatter: np.ndarray
    npix: np.ndarray
    vectors: np.ndarray
    grid: object
    index: np.ndarray
    extent: tuple
    # What a median adds to the variance, of that of a mean; it is not shared between pairs.
    excess: np.ndarray
    # Pixel scale of the coarser image over that of the finer, squared, and the part of
    # its noise in a cell's variance that the cell has to itself.
    coarseness: float
    own_part: float


@dataclass(frozen=True, eq=False)
class Image:
    """An image in memory, or the part of it that is still needed.

    Parameters
    ----------
    pixels : 2D `~numpy.ndarray`
        NaN where bad.
    grid : `~levelmatch.sky.grid.Grid`
        Where the whole image lies.
    maps : tuple of `~levelmatch.sky.overlaps.DepthMap`
        How many images cover it, if different pairs share noise with different ones.
    part : tuple of int or None
        Of a part, where its first pixel lies in the image, (y, x), and the image's shape.
    fills : tuple of `~levelmatch.images.fill.Fill`
        Fill values found in the image.
    """

    pixels: np.ndarray
    grid: Grid
    maps: tuple = ()
    part: tuple | None = None
    fills: tuple = ()

    def cut(self, box):
        """Return a copy of the rows and columns (y0, y1, x0, x1) alone."""
        y0, y1, x0, x1 = box
        pixels = self.pixels[y0:y1, x0:x1].copy()
        return replace(self, pixels=pixels, part=(y0, x0, *self.pixels.shape))


def needed_box(grid, others):
    """Return the rows and columns of an image that its comparison with others takes.

    Parameters
    ----------
    grid : `~levelmatch.sky.grid.Grid`
        The image.
    others : list of `~levelmatch.sky.grid.Grid`
        The others.

    Returns
    -------
    box : tuple of int
        ``(y0, y1, x0, x1)``, the upper ones excluded: all cells that reach the others,
        and about them as far as the others' own cells may.
    """
    ny, nx = grid.shape
    box = [ny, 0, nx, 0]
    for other in others:
        _, _, cells = _reached(grid, other, about=2)
        if len(cells) == 0:
            return 0, ny, 0, nx
        # Beyond the image's own grid its pixels are next to the other's cells, which it
        # may be part of; within it they end where the other's do.
        beyond = 1.5 * other.spacing * np.sqrt(other.pixel_area / grid.pixel_area)
        axes = zip((grid.ys, grid.xs), cells.min(axis=0), cells.max(axis=0) + 1, strict=True)
        for axis, (nodes, low, high) in enumerate(axes):
            before = MARGIN + (beyond if low == 0 else 0)
            after = MARGIN + (beyond if high == len(nodes) - 1 else 0)
            first, last = int(nodes[low] - before), int(nodes[high] + after) + 1
            box[2 * axis] = min(box[2 * axis], max(first, 0))
            box[2 * axis + 1] = max(box[2 * axis + 1], min(last, grid.shape[axis]))
    return tuple(box)


def measure_pair(a, b, grid_a, grid_b, others, options):
    """Measure the difference of two images.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad.
    grid_a, grid_b : `~levelmatch.sky.grid.Grid`
        Where they lie.
    others : list of `~levelmatch.sky.grid.Grid`
        The other images that share their noise.
    options : `MeasureOptions`
        How.

    Returns
    -------
    row : dict
        The columns of `PairTable` that `ROW` names.
    """
    maps = DepthMap(grid_a, [grid_b, *others]), DepthMap(grid_b, [grid_a, *others])
    return measure_row(Image(a, grid_a), Image(b, grid_b), maps, options)


def measure_row(a, b, depth_maps, options):
    """`measure_pair` of two `Image`, with the depth maps of the two."""
    if options.method == "direct":
        cells = _direct_cells(a, b, options)
    else:
        cells = _reprojected_cells(a.pixels, b.pixels, a.grid, b.grid, options)
    if cells is None:
        return _empty_row()
    own = depth_maps[1] if cells.grid is b.grid else depth_maps[0]
    return summarise(cells, np.maximum(own.at(cells.grid, cells.index, cells.vectors), 2))


def _empty_row():
    return {
        "gram": np.zeros((3, 3)),
        "rhs": np.zeros(3),
        "axes": np.full((3, 3), np.nan),
        "sigma": np.nan,
        "scatter": np.nan,
        "chi2": np.nan,
        "npix": 0,
        "extent": np.zeros(2),
        "gain": np.nan,
        "gain_error": np.inf,
    }


def _direct_cells(a, b, options):
    """Cells of the finer image, mapped straight into the coarser one; `None` if none."""
    swap = a.grid.pixel_area > b.grid.pixel_area * (1 + 1e-6)
    if swap:
        a, b = b, a
    grid_a, grid_b = a.grid, b.grid
    grid, map_x, map_y, cells = map_cells(grid_a, grid_b)
    if len(cells) == 0:
        return None
    parts = a.part, b.part
    measured = run_kernel(a.pixels, b.pixels, grid, map_x, map_y, cells, options, *parts)
    if measured is None:
        return None
    keep, values = measured
    cells = cells[keep]
    vectors = centroid_vectors(grid, cells, values)
    scale = np.sqrt(grid_a.pixel_area / grid_b.pixel_area)
    side = max(
        np.ptp(values[:, 4]) + grid.cell[0],
        np.ptp(values[:, 3]) + grid.cell[1],
    )
    extent = (min(side / grid_a.side, 1.0), min(side * scale / grid_b.side, 1.0))
    eps = least_step(a.pixels, b.pixels)
    return as_cells(values, vectors, grid, cells, extent, swap, options, scale, eps)


def as_cells(values, vectors, grid, index, extent, swap, options, scale, eps):
    """Return the measured cells of a pair from the kernel's values."""
    location, scatter, bright, _, _, smooth, kept, good, star_diff, star_flux = values.T
    # The noise of a mean is that of the pixels, whatever the smoothing of the samples.
    excess = 0 * smooth if options.location == "mean" else (np.pi / 2 - 1) * smooth
    scatter = scatter / np.sqrt(smooth)
    typical = np.median(scatter)
    # Images that are copies of each other differ by nothing; their type tells no less than this.
    rounding = eps * np.abs(bright).max()
    # A cell of a few equal values must not take all of the weight.
    floor = np.maximum(
        scatter if options.structure else typical, max(0.25 * typical, rounding, LEAST)
    )
    sign = -1 if swap else 1
    return _Cells(
        location=sign * location,
        brightness=bright,
        star_diff=sign * star_diff / good,
        star_flux=star_flux / good,
        variance=(1 + excess) * floor**2 / kept,
        scatter=scatter,
        npix=kept.astype(int),
        vectors=vectors,
        grid=grid,
        index=index,
        extent=extent[::-1] if swap else extent,
        excess=excess,
        coarseness=1 / scale**2,
        own_part=_own_part(grid, scale, np.median(smooth)),
    )


def least_step(a, b):
    """What rounding may add to differences, as a part of two images' values."""
    coarse = any(image.dtype == np.float32 for image in (a, b))
    # That of doubles is not noise, and the same for many pixels: some steps more.
    return 1e-7 if coarse else 16 * float(np.finfo(float).eps)


def _own_part(grid, scale, smooth):
    """Part of the coarser image's noise in a cell's variance that no other cell shares.

    Samples to both sides of a cell's border use the same pixels of the coarser image, by
    interpolation and as the border runs through pixels: along an axis that takes from the cell the
    part ``lost / width`` of the variance that it has in the mean of many cells.
    """
    lost = (1 - np.sqrt(smooth)) * (1 + LOST_COARSE * min(1 / scale - 1, 1.0))
    height, width = (side * scale for side in grid.cell)
    return float(max(1 - lost / height, MIN_OWN) * max(1 - lost / width, MIN_OWN))


def map_cells(grid_a, grid_b):
    """Pixel coordinates in the second image of the first's nodes, and the cells that reach it.

    The grid is refined until bilinear interpolation in it is exact to
    `~levelmatch.sky.grid.MAP_TOLERANCE` pixel.
    """
    grid = grid_a
    while True:
        x, y, cells = _reached(grid, grid_b)
        if len(cells) == 0 or grid.spacing <= 4:
            break
        error = _map_error(grid, grid_b, x, y, cells)
        if error < 2 * MAP_TOLERANCE:
            break
        logger.debug("map error %.3f pixel at spacing %d: refined", error, grid.spacing)
        grid = grid.refined
    return grid, x, y, cells


def _reached(grid, other, about=0):
    """Pixel coordinates in another image of a grid's nodes, and the cells that reach it.

    Or that come as near to it as some pixels of both.
    """
    scale = np.sqrt(grid.pixel_area / other.pixel_area)
    about = about * (1 + scale)
    x, y = other.to_pixel(grid.nodes, 1.5 * grid.spacing * scale + about)
    y0, y1, x0, x1 = other.box
    return x, y, reached_cells(x, y, y0 - about, y1 + about, x0 - about, x1 + about)


def _map_error(grid, grid_b, x, y, cells):
    """Largest error, in pixels, of bilinear interpolation at the cells' middles in the box."""
    exact = grid_b.to_pixel(grid.middles[cells[:, 0], cells[:, 1]])
    return map_error(x, y, cells, *exact)


def run_kernel(a, b, grid, map_x, map_y, cells, options, part_a=None, part_b=None):
    """Run the kernel on images or parts; return which cells were filled enough, their values."""
    if a.dtype != b.dtype:
        a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    values = difference_cells(
        a,
        b,
        grid.ys,
        grid.xs,
        map_x,
        map_y,
        cells,
        options.clip,
        options.truncation,
        options.location == "median",
        part_a,
        part_b,
    )
    size = grid.cell[0] * grid.cell[1]
    keep = values[:, 6] >= max(2, MIN_FILLED * size)
    return (keep, values[keep]) if keep.any() else None


def centroid_vectors(grid, cells, values):
    """Unit vectors of the cells' centroids."""
    y, x = np.ascontiguousarray(values[:, 4]), np.ascontiguousarray(values[:, 3])
    return cell_vectors(grid.nodes, grid.ys, grid.xs, cells, y, x)


def _reprojected_cells(a, b, grid_a, grid_b, options):
    """Cells of a common grid that both images are reprojected to; `None` if none."""
    from levelmatch.sky.reprojection import common_grid, reproject_to

    common = common_grid([grid_a, grid_b], overlap=True)
    if common is None:
        return None
    header_wcs, shape = common
    planes = [
        np.ascontiguousarray(reproject_to(image, grid, header_wcs, shape, options.method))
        for image, grid in ((a, grid_a), (b, grid_b))
    ]
    spacing = grid_a.spacing
    grid = Grid(SkyTransform(header_wcs, "common grid"), shape, (0, shape[0], 0, shape[1]), spacing)
    map_x, map_y = (m.astype(float) for m in np.meshgrid(grid.xs, grid.ys))
    cells = np.ascontiguousarray(
        np.argwhere(np.ones((len(grid.ys) - 1, len(grid.xs) - 1), dtype=bool))
    )
    measured = run_kernel(*planes, grid, map_x, map_y, cells, options)
    if measured is None:
        return None
    keep, values = measured
    cells = cells[keep]
    vectors = centroid_vectors(grid, cells, values)
    side = max(np.ptp(values[:, 4]) + spacing, np.ptp(values[:, 3]) + spacing)
    extent = tuple(
        min(side * np.sqrt(grid.pixel_area / g.pixel_area) / g.side, 1.0) for g in (grid_a, grid_b)
    )
    eps = least_step(*planes)
    return as_cells(values, vectors, grid, cells, extent, False, options, 1.0, eps)


def summarise(cells, depth):
    """Return the row of a pair: its normal equations, from cells that agree on a plane.

    Parameters
    ----------
    cells : `_Cells`
        The cells.
    depth : `~numpy.ndarray`, shape (n,)
        Number of images that cover each cell.

    Returns
    -------
    row : dict
        See `measure_pair`.

    Notes
    -----
    Each cell's weight is the inverse variance of its location, times 2 / depth:
    the information of all pairs of n images of one patch of sky then adds up
    to that of the joint fit of sky and levels, identity - 1/n. What a median adds to the
    variance is not shared between pairs, and so goes down as they are averaged.
    """
    columns = (
        cells.vectors,
        cells.location,
        cells.variance,
        cells.scatter,
        cells.npix,
        depth,
        cells.excess,
    )
    numbers = summarise_cells(
        *(np.ascontiguousarray(column, dtype=float) for column in columns),
        cells.coarseness,
        cells.own_part,
    )
    gain, gain_error = _flux_gain(cells)
    return {
        "gram": numbers[:9].reshape(3, 3),
        "rhs": numbers[9:12],
        "axes": numbers[12:21].reshape(3, 3),
        "sigma": numbers[21],
        "scatter": numbers[22],
        "chi2": numbers[23],
        "npix": int(numbers[24]),
        "extent": np.array(cells.extent),
        "gain": gain,
        "gain_error": gain_error,
    }


def _flux_gain(cells):
    """Return the relative difference of the flux scales of a pair, and its error."""
    # Means of all samples: stars are clipped from the cells' locations.
    difference = cells.location + cells.star_diff
    bright = cells.brightness + cells.star_flux
    means = bright + difference / 2, bright - difference / 2
    # The two axes along which the cells lie apart the most.
    offsets = cells.vectors - cells.vectors.mean(axis=0)
    axes = np.linalg.eigh(np.einsum("ni,nj->ij", offsets, offsets))[1][:, 1:]
    place = np.einsum("ni,ij->nj", offsets, axes)
    return flux_gain(cells.index, cells.npix.astype(float), *means, place)
