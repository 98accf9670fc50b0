# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The errors of pairs by noise that rows, columns or large blocks of pixels share.

The scatter of the cells of an overlap tells the error of its level only if the cells are
independent. Sums over strips and blocks of cells tell how much more they vary together. In one
pair there are few strips, but the pattern of an image enters all of its pairs: the variance of the
strips' offsets is fitted to all pairs as a sum over their two images.
"""

from dataclasses import replace

import numpy as np

from levelmatch.measure.noise import weigh_depths
from levelmatch.measure.rounding import widen_rounded
from levelmatch.measure.variances import BOTH, fit_images, weakened
from levelmatch.options import fit_terms

__all__ = ["pooled", "pooled_passes"]

# Offsets count if their variance is above zero by so many standard errors.
MIN_SIGMA = 2.5
# The strips of a pair allow a variance of so many standard errors more than their own.
MAX_SIGMA = 3.0
# Families of strips: rows and columns of both images; the others are blocks.
N_LINES = 4
# Strips count if the fit of the pair leaves more than this fraction of their variance.
MIN_LEFT = 0.15
# Standard errors below this fraction of the level are those of copies.
COPIES = 1e-10
# Cells along an overlap: at an angle, a row crosses others there.
LENGTH = 24
# The most that a variance is taken to grow beyond the largest blocks, twice.
MAX_GROWTH = 2.0
# Variances of pairs count up to so many times their median in the mean of a pass.
MOST_ALIKE = 4.0
# Elements of the lower triangle of a symmetric matrix.
LOWER = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def pooled_passes(table, used, fit_types, area):
    """Return the pair table with the errors and weights that follow from all pairs.

    The errors of each pass's pairs include the offsets that strips and blocks share, and the
    rounding of the images' values; the weights allow for images of unequal noise.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The measured pairs.
    used : `~numpy.ndarray` of int, shape (n,)
        The pass of each pair, -1 for none.
    fit_types : list of str
        What each pass fits.
    area : `~numpy.ndarray`, shape (n_images,)
        Area of a pixel of each image.

    Returns
    -------
    table : `~levelmatch.measure.table.PairTable`
        Normal equations and errors as the solution takes them.
    """
    columns = {name: getattr(table, name).copy() for name in ("gram", "rhs", "sigma")}
    for k, fit_type in enumerate(fit_types):
        rows = np.flatnonzero((used == k) & (table.npix > 0))
        if len(rows):
            part = table.take(rows)
            if fit_type != "level+slope":
                # Planes extrapolate: a floor that is smaller for the widened errors would let few
                # pairs tilt an image.
                part = pooled(part, planes=fit_terms(fit_type) > 1)
            part = weigh_depths(widen_rounded(part), area)
            for name, column in columns.items():
                column[rows] = getattr(part, name)
    return replace(table, **columns)


def pooled(table, *, planes=False):
    """Return the pair table with normal equations and errors that allow for common offsets.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        Measured pairs.
    planes : bool
        Whether planes are fitted: else a slope of the differences is a pattern, too.

    Returns
    -------
    table : `~levelmatch.measure.table.PairTable`
        With weaker normal equations where offsets are significant: levels and slopes that a pair
        asks for stay nearly the same.
    """
    weight = table.sigma**-2.0
    share = table.gram[:, 0, 0] / weight
    spread = _matrices(table.strips[:, :, 3:].astype(float))
    spread = spread / share[:, None, None, None]
    excess, response, most = _excess(table, spread, weight, planes)
    lines = np.minimum(_line_variances(table, excess, response), most[:, :N_LINES])
    blocks = np.minimum(_block_variances(table, excess, response), most[:, N_LINES:])
    level = blocks * spread[:, N_LINES:, 0, 0]
    of_blocks = np.max(level, axis=1)
    of_lines = np.sum(lines * spread[:, :N_LINES, 0, 0], axis=1)
    larger = of_lines > of_blocks
    added = weight * np.where(larger, of_lines, of_blocks * _growth(level))
    # The pairs are widened alike, and keep their relative weights: the variances of few strips are
    # too uncertain for weights, which would cost more than they gain.
    typical = np.mean(np.minimum(added, MOST_ALIKE * np.median(added)))
    return weakened(table, np.full(len(added), typical))


def _matrices(lower):
    """Return symmetric matrices, shape (..., 3, 3), of their lower triangles, shape (..., 6)."""
    out = np.zeros((*lower.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(LOWER):
        out[..., i, j] = out[..., j, i] = lower[..., k]
    return out


def _excess(table, spread, weight, planes):
    """Return how much more strips vary than cells say, and their response to offsets.

    Of the residuals about the mean, or about the plane, shape (n, 8) each.
    """
    squares, expected, response = (table.strips[:, :, k].astype(float) for k in range(3))
    if not planes:
        # Add the slopes, which the kernel took away, and their expectation.
        slope, inverse = _slopes(table)
        squares = squares + np.einsum("pi,pkij,pj->pk", slope, spread, slope) * weight[:, None]
        expected = expected + np.einsum("pij,pkij->pk", inverse * weight[:, None, None], spread)
        level = spread[:, :, 0, 0]
        response = level * np.maximum(1 - level, 0)
    # Of copies, levels are known no better than numbers are.
    copies = table.sigma < COPIES * np.abs(table.level)
    known = (expected > MIN_LEFT) & (response > 0) & ~copies[:, None]
    excess = np.where(known, squares - expected, 0) * weight[:, None]
    response = np.where(known, response, 0) * weight[:, None] ** 2
    expected = expected * weight[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = expected**2 / response
        allowed = (excess + expected) * _upper_factor(freedom)
        most = np.where(known, np.maximum(allowed - expected, 0) / response, np.inf)
    return excess, response, most


def _upper_factor(freedom):
    """Return the upper limit of a variance over its estimate with so many degrees of freedom.

    For lines by the approximation of Wilson and Hilferty (1931, PNAS 17, 684) to the distribution
    of chi squared. Blocks are fewer, and their patterns less alike from pair to pair: a lower one.
    """
    least = 2 / (9 * freedom[:, :N_LINES])
    least = np.maximum(1 - least - MAX_SIGMA * np.sqrt(least), 0) ** 3
    return np.hstack([1 / least, 1 + MAX_SIGMA * np.sqrt(2 / freedom[:, N_LINES:])])


def _slopes(table):
    """Return the slopes of each pair, shape (n, 3), and their own covariance, (n, 3, 3)."""
    size = np.sqrt(np.maximum(np.einsum("pii->pi", table.gram), 1e-300))
    scaled = table.gram / (size[:, :, None] * size[:, None, :])
    inverse = np.linalg.pinv(scaled, rcond=1e-9, hermitian=True)
    inverse /= size[:, :, None] * size[:, None, :]
    slope = np.einsum("pij,pj->pi", inverse, table.rhs)
    slope[:, 0] = 0
    share = table.gram[:, 0, 0] * table.sigma**2
    inverse *= share[:, None, None]
    inverse[:, 0] = inverse[:, :, 0] = 0
    return slope, inverse


def _line_variances(table, excess, response):
    """Return the variances of the rows' and columns' offsets of both images, shape (n, 4)."""
    turn = np.radians(table.turn)
    along, across = (1 / (1 + LENGTH * np.abs(np.tan(t))) for t in (turn, np.pi / 2 - turn))
    # The rows of an image also show the offsets of the other image's rows, or columns.
    families = [
        ([(side, kind)], [(1 - side, kind, along), (1 - side, 1 - kind, across)])
        for side in (0, 1)
        for kind in (0, 1)
    ]
    found = _image_variances(table, excess[:, :N_LINES], response[:, :N_LINES], families)
    return found.reshape(len(table), N_LINES)


def _block_variances(table, excess, response):
    """Return the variances of the offsets of blocks of each size, shape (n, n_sizes)."""
    found = [
        _image_variances(table, excess[:, [k]], response[:, [k]], BOTH).sum(axis=(1, 2))
        for k in range(N_LINES, excess.shape[1])
    ]
    return np.stack(found, axis=1)


def _growth(level):
    """Return the factor on the variance by blocks, for patterns larger than the largest blocks.

    The means of such blocks correlate, and vary the less about their mean. Where from one size of
    blocks to the next the variance still grows, so it would beyond.
    """
    last = level[:, -1] / np.where(level[:, -2] > 0, level[:, -2], np.inf)
    return np.clip(last, 1.0, MAX_GROWTH) ** 2


def _image_variances(table, excess, response, families):
    """Return the significant variances of both images of each pair, shape (n, 2, n_kinds)."""
    ends = np.stack([table.first, table.second])
    shape = int(ends.max()) + 1, 1 + max(kind for own, _ in families for _, kind in own)
    counts = _significant(ends, excess, response, families, shape)
    found = np.zeros(shape)
    if counts.any():
        found[counts] = fit_images(table, excess, response, families)[counts]
    return np.stack([found[end] for end in ends], axis=1)


def _significant(ends, excess, response, families, shape):
    """Return which images' offsets are significant, of each kind."""
    total, size, square = np.zeros((3, *shape))
    for k, (own, _) in enumerate(families):
        for side, kind in own:
            for out, values in ((total, excess), (size, response), (square, response**2)):
                out[:, kind] += np.bincount(ends[side], values[:, k], minlength=shape[0])
    # The squares of two pairs of an image that show the same noise of it correlate by a quarter.
    number = size**2 / np.maximum(square, 1e-300)
    return total > MIN_SIGMA * np.sqrt(2 * size * (1 + 0.25 * (number - 1)))
