# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Relative flux scale and shift of a pair, from the emission that both of its images show.

The two images are compared by their means in the cells of the overlap, with nothing clipped.
Cells are much wider than the PSF and the error of the astrometry. The difference of the means is
fitted by the mean brightness, whose coefficient is the gain, by a quadratic, and by the
brightness's own derivatives: a shift between the images adds its gradient, unequal seeing its
Laplacian.
"""

import numpy as np

from levelmatch.measure._gains import deviation, gain_of_cells
from levelmatch.measure._summary import cell_means

__all__ = ["EMISSION", "compare_emission", "emission_of"]


# More cells than these are compared in blocks. That takes less time, and fewer stars lie on edges.
MANY_CELLS = 1000
# The fraction 1 / FAINT of the cells is faint.
FAINT = 50
# Smallest scatter of the cells' brightness without stars, as a fraction of that with stars, for
# which extended emission determines the flux scales.
EXTENDED = 0.6
# Columns of a pair that depend on the emission in its overlap.
EMISSION = ("gain", "gain_error", "shift", "shift_error", "bright")


def emission_of(cells, samples, agree):
    """Return the quantities of a pair that depend on its emission, see `PairTable`.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `~levelmatch.measure._summary.PAIR_CELL`, shape (n,)
        The cells of the pair.
    samples : `~numpy.ndarray` of int64, shape (n,)
        Number of good samples of each cell.
    agree : `~numpy.ndarray` of bool, shape (n,)
        Cells that count for the level.
    """
    # Use the means of all samples, because stars are clipped from the locations.
    means = cell_means(cells, samples)
    if means is None:
        return np.nan, np.inf, np.nan, np.inf, 0.0
    index, count, first, second, place = means
    smooth = np.ascontiguousarray(cells["brightness"])
    found = compare_emission(index, count, (first, second, smooth, cells["weight"] / count), place)
    bright = _brightness(smooth, cells["weight"] * agree)
    # Stars determine the gain if they cause most of the scatter.
    by_stars = np.isnan(found[0]) or (deviation(smooth) < EXTENDED / 2 * deviation(first + second))
    return *found, -bright if by_stars else bright


def _brightness(bright, weight):
    """Return the mean brightness in the level above that of the faintest cells.

    The brightness of the faintest is unknown. Stars weigh less in the level, or not at all.
    """
    faint = len(bright) // FAINT
    return max(float(weight @ bright / weight.sum() - np.partition(bright, faint)[faint]), 0.0)


def compare_emission(index, count, columns, place):
    """Return the relative difference of the flux scales of two images, and the effect of a shift.

    Parameters
    ----------
    index : `~numpy.ndarray` of int, shape (n, 2)
        Row and column of each cell.
    count : `~numpy.ndarray`, shape (n,)
        Samples in each cell.
    columns : tuple of four `~numpy.ndarray`, shape (n,)
        Means of the first and of the second image in each cell, mean brightness without the cores
        of stars, all in the common unit, and weight of a sample of each cell in the level.
    place : `~numpy.ndarray`, shape (n, 2)
        Two coordinates of each cell on the sky, in which planes are linear.

    Returns
    -------
    gain : float
        Flux of the first image minus that of the second over their mean: below 2 in absolute
        value. NaN where nothing determines it.
    error : float
        Standard error; infinite for NaN. It includes the patterns of flats and gradients that
        the residuals show, and unequal seeing.
    shift : float
        Difference of the levels due to a shift between the images: the fitted shift times the mean
        gradient of the brightness without stars, in the common unit. NaN where nothing determines
        it.
    shift_error : float
        Standard error; infinite for NaN.
    """
    if len(count) > MANY_CELLS:
        index, count, columns, place = _merged(index, count, columns, place)
    values = (v.astype(float, copy=False) for v in (count, *columns, place))
    return gain_of_cells(np.ascontiguousarray(index, np.intp), *map(np.ascontiguousarray, values))


def _merged(index, count, columns, place):
    """Return blocks of square numbers of cells, about as many as `MANY_CELLS`."""
    side = int(np.ceil(np.sqrt(len(count) / MANY_CELLS)))
    y, x = index.T // side
    block = y * (int(x.max()) + 1) + x
    total = np.bincount(block, count)
    kept = np.flatnonzero(total)
    *means, u, v = (
        np.bincount(block, count * values)[kept] / total[kept] for values in (*columns, *place.T)
    )
    merged = np.stack(np.divmod(kept, int(x.max()) + 1), axis=1)
    return merged, total[kept], means, np.stack([u, v], axis=1)
