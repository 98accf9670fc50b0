# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The noise of each image, from the scatter of its pairs, and the weights of unequal images.

Let w be the inverse variance per area of an image. The pairs of n images of one patch of sky hold
the information of a joint fit of sky and levels if each has the weight w_i w_j / sum(w). The kernel
knows n, but not w: its weight is 2 w_i w_j / (n (w_i + w_j)), which is the same for images of equal
noise.
"""

from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array

__all__ = [
    "BOTH",
    "fit_images",
    "image_medians",
    "image_variances",
    "widened",
    "weigh_depths",
]

# Smallest variance of an image, as a fraction of that of each of its pairs, or of the mean.
LEAST = 0.01
# No image has a smaller fraction of a pair's variance.
NEGLIGIBLE = 1.01 * LEAST
# Weights are changed only if each pair's variance agrees with the sum of its images' variances
# within this factor.
FACTOR = 2.0


def image_variances(table):
    """Return the variance of a pixel of each image; a pair has the sum of two.

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
    # For very unequal images, the fit may give all of a pair's variance to one image.
    least = np.full(len(found), np.inf)
    for end in (part.first, part.second):
        np.minimum.at(least, end, square)
    seen = np.flatnonzero(np.isfinite(least))
    out[seen] = np.maximum(found[seen], LEAST * least[seen])
    return out


def image_medians(first, second, values):
    """Return the images of pairs, and the lower median and the number of their pairs' values.

    The lower of two middle values: a pair with another wrong image does not count.
    """
    ends, values = np.concatenate([first, second]), np.tile(values, 2)
    order = np.lexsort((values, ends))
    images, start, count = np.unique(ends[order], return_index=True, return_counts=True)
    return images, values[order][start + (count - 1) // 2], count


def _explains(variance, table):
    """Return whether the noise of the images explains the scatter of each pair.

    It does not if images share noise, as parts of one scan do, or if sources add scatter: those of
    unequal flux scales do.
    """
    seen = table.npix > 0
    one, two = variance[table.first[seen]], variance[table.second[seen]]
    square = table.scatter[seen] ** 2
    # The fit gives an image almost no noise if the scatter comes from something else.
    likely = np.minimum(one, two) > NEGLIGIBLE * square
    agree = (square < FACTOR * (one + two)) & (one + two < FACTOR * square)
    return bool(np.all(likely & agree))


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
        With normal equations times (w_i + w_j) / (2 mean(w)), the mean being over all images that
        cover the pair. Unchanged if the noise does not explain the scatter of all pairs.
    """
    variance = image_variances(table)
    if not np.nanmax(variance, initial=0.0) > 0 or not _explains(variance, table):
        return table
    variance = np.maximum(variance, LEAST * np.nanmean(variance))
    weight = np.nan_to_num(1 / (variance * area[: len(variance)] / np.mean(area)))
    own = weight[table.first] + weight[table.second]
    # Number of images that cover the pair, from the weights of the kernel.
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.nan_to_num(2 / (table.gram[:, 0, 0] * table.sigma**2), nan=2.0, posinf=2.0)
        more = np.maximum(depth - 2, 0)
        others = _others(table, weight)
        mean = (own + more * np.where(np.isfinite(others), others, own / 2)) / (2 + more)
        factor = np.where(mean > 0, own / (2 * mean), 1.0)
    return replace(table, gram=table.gram * factor[:, None, None], rhs=table.rhs * factor[:, None])


def _others(table, weight):
    """Return the mean weight of the images that overlap both images of a pair; NaN without any."""
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


# --------------------------------------------------------------------------------------
# Fit of variances of images

# One family, in which the variance of a pair is the sum of its two images' variances.
BOTH: list = [([(0, 0), (1, 0)], [])]
# Number of steps of the fit.
N_STEPS = 40


def fit_images(table, excess, response, families):
    """Fit a non-negative variance of each image to the variances of the pairs.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    excess, response : `~numpy.ndarray`, shape (n, n_families)
        Excess of each pair, and its response to a unit variance.
    families : list of tuple
        For each family, a list of its own offsets, (image, kind) with image 0 or 1; and a list of
        other offsets that it contains, (image, kind, fraction of their variance).

    Returns
    -------
    variances : `~numpy.ndarray`, shape (n_images, n_kinds)
        Variance of each image.
    """
    ends = np.stack([table.first, table.second])
    shape = int(ends.max()) + 1, 1 + max(kind for own, _ in families for _, kind in own)
    shown = [
        [(side, kind, np.ones(len(table))) for side, kind in own] + others
        for own, others in families
    ]

    def collect(values):
        """Return the sums of the families' values for each image and kind."""
        total = np.zeros(shape)
        for k, terms in enumerate(shown):
            for side, kind, part in terms:
                total[:, kind] += np.bincount(ends[side], part * values[:, k], minlength=shape[0])
        return total

    def expect(variances):
        return np.stack(
            [sum(part * variances[ends[side], kind] for side, kind, part in t) for t in shown],
            axis=1,
        )

    alike = response * expect(np.ones(shape))
    size = np.maximum(collect(alike), 1e-300)
    found = np.full(shape, max(excess.sum() / max(alike.sum(), 1e-300), 0.0))
    for _ in range(N_STEPS):
        found = np.maximum(found + collect(excess - response * expect(found)) / size, 0.0)
    return found


def widened(table, added):
    """Return the pair table with a variance added to that of each pair.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    added : `~numpy.ndarray`, shape (n,)
        Added variance in units of the pair's own. Level and slopes are scaled alike.
    """
    part = 1 / (1 + added)
    return replace(
        table,
        gram=table.gram * part[:, None, None],
        rhs=table.rhs * part[:, None],
        sigma=table.sigma / np.sqrt(part),
    )
