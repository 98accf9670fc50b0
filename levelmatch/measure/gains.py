# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Relative flux scale of a pair, from the emission that both of its images show.

The two images are compared by their means in the cells of the overlap, with nothing clipped.
Cells are much wider than the PSF and the error of the astrometry. The difference of the means is
fitted by the mean brightness, whose coefficient is the gain, by a quadratic, and by the
brightness's own derivatives: a shift between the images adds its gradient, unequal seeing its
Laplacian.
"""

import numpy as np

from levelmatch.measure._gains import gain_of_cells

__all__ = ["flux_gain"]


# More cells than these are compared in blocks. That takes less time, and fewer stars lie on edges.
MANY_CELLS = 1000


def flux_gain(index, count, first, second, place=None):
    """Return the relative difference of the flux scales of two images.

    Parameters
    ----------
    index : `~numpy.ndarray` of int, shape (n, 2)
        Row and column of each cell.
    count : `~numpy.ndarray`, shape (n,)
        Samples in each cell.
    first, second : `~numpy.ndarray`, shape (n,)
        Mean of each image in each cell.
    place : `~numpy.ndarray`, shape (n, 2), or None
        Two coordinates of each cell on the sky, in which planes are linear; by default the
        index.

    Returns
    -------
    gain : float
        Flux of the first image minus that of the second over their mean: below 2 in absolute
        value. NaN where nothing determines it.
    error : float
        Standard error; infinite for NaN. It includes the patterns of flats and gradients that
        the residuals show, and unequal seeing.
    """
    place = index.astype(float) if place is None else place
    if len(count) > MANY_CELLS:
        index, count, first, second, place = _merged(index, count, first, second, place)
    columns = (values.astype(float, copy=False) for values in (count, first, second, place))
    return gain_of_cells(np.ascontiguousarray(index, np.intp), *map(np.ascontiguousarray, columns))


def _merged(index, count, first, second, place):
    """Return blocks of square numbers of cells, about as many as `MANY_CELLS`."""
    side = int(np.ceil(np.sqrt(len(count) / MANY_CELLS)))
    y, x = index.T // side
    block = y * (int(x.max()) + 1) + x
    total = np.bincount(block, count)
    kept = np.flatnonzero(total)
    one, two, u, v = (
        np.bincount(block, count * values)[kept] / total[kept]
        for values in (first, second, *place.T)
    )
    merged = np.stack(np.divmod(kept, int(x.max()) + 1), axis=1)
    return merged, total[kept], one, two, np.stack([u, v], axis=1)
