# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The noise of each image, from the scatter of its pairs, and the weights that follow.

All pairs of n images of one patch of sky hold the information of the joint fit of sky and levels if
each weighs w_i w_j / sum(w), with w the inverse variance of an image's noise per area. The
kernel knows the number of images that cover a patch, but not their noise: it sets
2 w_i w_j / (n (w_i + w_j)), the same for images of equal noise.
"""

from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array

from levelmatch.measure.variances import BOTH, fit_images

__all__ = ["image_variances", "weigh_depths"]

# An image's variance is at least this fraction of that of each of its pairs, or of the mean.
LEAST = 0.01
# The scatter of each pair is that of its images' noise within this factor, else weights stay.
FACTOR = 2.0


def image_variances(table):
    """Return the variance of a pixel of each image: those of pairs are sums of two.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.

    Returns
    -------
    variance : `~numpy.ndarray`, shape (n_images,)
        NaN for images without a measured pair.
    """
    out = np.full(int(max(table.first.max(), table.second.max())) + 1, np.nan)
    part = table.take(np.flatnonzero(table.npix > 0))
    if len(part) == 0:
        return out
    square = part.scatter**2
    size = square.mean()
    response = part.npix / (1 + square / size) ** 2 if size > 0 else np.ones(len(part))
    found = fit_images(part, (response * square)[:, None], response[:, None], BOTH)[:, 0]
    # Of very unequal images the fit may give all of a pair's variance to one.
    least = np.full(len(found), np.inf)
    for end in (part.first, part.second):
        np.minimum.at(least, end, square)
    seen = np.flatnonzero(np.isfinite(least))
    out[seen] = np.maximum(found[seen], LEAST * least[seen])
    return out


def _explains(variance, table):
    """Return whether the images' noise explains the scatter of each of their pairs.

    It does not where images share noise, as parts of one scan do, or where sources add scatter.
    """
    seen = table.npix > 0
    expected = variance[table.first[seen]] + variance[table.second[seen]]
    square = table.scatter[seen] ** 2
    return bool(np.all((square < FACTOR * expected) & (expected < FACTOR * square)))


def weigh_depths(table, area):
    """Return the pair table with weights that allow for the images' unequal noise.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    area : `~numpy.ndarray`, shape (n_images,)
        Area of a pixel of each image.

    Returns
    -------
    table : `~levelmatch.measure.table.PairTable`
        With normal equations times (w_i + w_j) over twice the mean w of the images there;
        unchanged if the images' noise does not explain the scatter of all pairs.
    """
    variance = image_variances(table)
    if not np.nanmax(variance, initial=0.0) > 0 or not _explains(variance, table):
        return table
    variance = np.maximum(variance, LEAST * np.nanmean(variance))
    weight = np.nan_to_num(1 / (variance * area[: len(variance)] / np.mean(area)))
    own = weight[table.first] + weight[table.second]
    # Number of images that cover the pair, from the weights that the kernel gave.
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.nan_to_num(2 / (table.gram[:, 0, 0] * table.sigma**2), nan=2.0, posinf=2.0)
        more = np.maximum(depth - 2, 0)
        others = _others(table, weight)
        mean = (own + more * np.where(np.isfinite(others), others, own / 2)) / (2 + more)
        factor = np.where(mean > 0, own / (2 * mean), 1.0)
    return replace(table, gram=table.gram * factor[:, None, None], rhs=table.rhs * factor[:, None])


def _others(table, weight):
    """Return the mean weight of the images that overlap both of a pair's, NaN where none does."""
    n = len(weight)
    most = np.zeros(n)
    for end in (table.first, table.second):
        np.maximum.at(most, end, table.npix)
    part = table.npix / np.maximum(np.minimum(most[table.first], most[table.second]), 1)
    ends = (
        np.concatenate([table.first, table.second]),
        np.concatenate([table.second, table.first]),
    )
    overlap = coo_array((np.tile(part, 2), ends), shape=(n, n)).tocsr()
    with np.errstate(divide="ignore", invalid="ignore"):
        total, number = (
            np.asarray((overlap.multiply(w[None, :]).tocsr() @ overlap)[table.first, table.second])
            for w in (weight, np.ones(n))
        )
        return total.ravel() / number.ravel()
