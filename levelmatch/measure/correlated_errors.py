# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Standard errors of pairs with noise that rows, columns or large blocks of pixels share.

The scatter of the cells of an overlap gives the standard error of its level only if the cells are
independent. The scatter of sums over strips and blocks of cells shows correlated noise. One pair
has few strips, but the noise of an image enters all of its pairs. The variance of the strips'
offsets is therefore fitted to all pairs, as a sum of the variances of their two images.
"""

from dataclasses import replace

import numpy as np

from levelmatch.measure.noise import BOTH, fit_images, image_medians, weigh_depths, widened
from levelmatch.measure.rounding import widen_rounded
from levelmatch.options import fit_terms
from levelmatch.sky.overlaps import components
from levelmatch.sky.vectors import transfer_matrix

__all__ = ["pooled", "pooled_passes", "shared_by_planes", "shared_noise"]

# Smallest significance of the variance of offsets, in standard errors.
MIN_SIGMA = 2.5
# Largest variance of a pair: its own estimate plus this number of standard errors.
MAX_SIGMA = 3.0
# The first families of strips are rows and columns of both images; the others are blocks.
N_LINES = 4
# Strips count if the residuals of the pair keep more than this fraction of their variance.
MIN_LEFT = 0.15
# Slopes are zero in directions in which the eigenvalue of the scaled normal matrix is smaller: the
# strips have the precision of 32-bit floats.
LEAST_SLOPE = 1e-5
# Pairs with standard errors below this fraction of the level are copies of one image.
COPIES = 1e-10
# Smallest error of a pair, as a fraction of the median of pairs that are no copies.
LEAST_ERROR = 1e-3
# Typical length of an overlap, in cells. A row rotated by an angle crosses LENGTH * tan(angle)
# rows of the other image.
LENGTH = 24
# Limit of the growth factor of a variance from one block size to the next; it is applied squared.
MAX_GROWTH = 2.0
# Limit of a pair's variance in the mean of a pass, in units of the median.
MOST_ALIKE = 4.0
# A pattern may have this many times the variance that it has without its slopes. More is that of
# gradients of the images.
MOST_SLOPED = 4.0
# Differences of this fraction of the emission's brightness may be due to its astrometry or flux.
OF_EMISSION = 0.02
# Smallest number of pairs of an image whose own variance counts.
MANY_PAIRS = 5
# Cells may balance if their variance is this many times that of their pixels' noise; what balance
# takes from the variance of a pair at most.
UNEVEN, MOST_BALANCE = 1.1, 0.5
# Number of cells of the smallest blocks.
CELLS_OF_BLOCK = 4
# Smallest variance of strips beyond that of their cells, as a fraction.
LEAST_PART = 0.3
# Number of pairs whose matrices of strips are in memory at once.
BLOCK = 20_000
# Elements of the lower triangle of a symmetric matrix.
LOWER = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


def shared_by_planes(table, pass_of, fit_types, weighted):
    """Return the `shared_noise` of the passes of planes, shape (n, 3, 3), or `None` without any.

    Parameters
    ----------
    table, pass_of, fit_types
        See `pooled_passes`.
    weighted : `~levelmatch.measure.table.PairTable`
        The pairs with the normal equations that the solution uses.
    """
    out = None
    for k, fit_type in enumerate(fit_types):
        rows = np.flatnonzero((pass_of == k) & (table.npix > 0))
        if fit_type != "level+slope" or len(rows) == 0:
            continue
        part = table.take(rows)
        noise = shared_noise(part)
        if noise is not None:
            if out is None:
                out = np.zeros(table.gram.shape)
            factor = weighted.gram[rows, 0, 0] / part.gram[:, 0, 0]
            out[rows] = factor[:, None, None] * noise
    return out


@np.errstate(under="ignore")
def pooled_passes(table, pass_of, fit_types, grids):
    """Return the pair table with errors and weights that all pairs together determine.

    The errors of each pass's pairs include correlated noise and the rounding of the images'
    values. The weights allow for images of unequal noise.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The measured pairs.
    pass_of : `~numpy.ndarray` of int, shape (n,)
        The pass of each pair, -1 for none.
    fit_types : list of str
        Fit type of each pass.
    grids : list of `~levelmatch.sky.grid.Grid`
        Position of each image on the sky.

    Returns
    -------
    table : `~levelmatch.measure.table.PairTable`
        With the normal equations and errors that the solution uses.
    """
    area = np.array([grid.pixel_area for grid in grids])
    columns = {name: getattr(table, name).copy() for name in ("gram", "rhs", "sigma")}
    for k, fit_type in enumerate(fit_types):
        rows = np.flatnonzero((pass_of == k) & (table.npix > 0))
        if len(rows):
            part = table.take(rows)
            if fit_type != "level+slope":
                # Passes of planes are not widened: wider errors make the floor smaller, and a few
                # pairs could then tilt an image.
                part = pooled(part, grids, planes=fit_terms(fit_type) > 1)
            part = _bound_copies(weigh_depths(widen_rounded(part), area))
            for name, column in columns.items():
                column[rows] = getattr(part, name)
    return replace(table, **columns)


def _copies(table):
    """Return flags of pairs of copies of one image, whose differences have no noise."""
    return table.sigma < COPIES * np.abs(table.level)


def _bound_copies(table):
    """Return the pair table with a smallest error of copies, as rounding errors grow without."""
    copies = _copies(table)
    if copies.all():
        return table
    least = LEAST_ERROR * np.median(table.sigma[~copies])
    small = table.sigma < least
    if not small.any():
        return table
    added = np.square(least / np.maximum(table.sigma, np.finfo(float).tiny)) - 1
    return widened(table, np.where(small, added, 0))


def pooled(table, grids=None, *, planes=False):
    """Return the pair table with normal equations and errors that include correlated noise.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        Measured pairs.
    grids : list of `~levelmatch.sky.grid.Grid`, optional
        Position of each image on the sky. A gradient of an image changes the level of a pair by the
        distance of the overlap from the image's centre, and slopes count no more than this.
    planes : bool
        Whether planes are fitted; else a slope of the differences counts as noise.

    Returns
    -------
    table : `~levelmatch.measure.table.PairTable`
        With smaller normal equations if offsets are significant. The level and slopes of each pair
        alone stay the same.
    """
    if not table.strips.any():
        return table
    added, excess, response, share = _added(table, planes)
    if not added.any():
        return widened(table, np.full(len(table), _balance(table, excess, response, share)))
    # All pairs are widened by the same factor: the variances of few strips are too uncertain for
    # weights.
    typical = np.mean(np.minimum(added, MOST_ALIKE * np.median(added)))
    if grids is not None and not planes:
        of_gradients = np.mean(_of_gradients(table, grids))
        if of_gradients < typical:
            typical = min(typical, of_gradients + np.mean(_of_others(table)))
    return widened(table, np.maximum(typical, _unlike(table, added)))


def _added(table, planes):
    """Return the variance that offsets add to each pair, and what `_balance` needs besides.

    Variances are in units of the pair's own.
    """
    weight = table.sigma**-2.0
    share, excess, response, lines, blocks = _offset_variances(table, planes)
    level = blocks * share[:, N_LINES:]
    of_blocks = np.max(level, axis=1)
    of_lines = np.sum(lines * share[:, :N_LINES], axis=1)
    larger = of_lines > of_blocks
    added = weight * np.where(larger, of_lines, of_blocks * _growth(level))
    return added, excess, response, weight[:, None] * share


def _of_others(table):
    """Return an upper limit of what patterns other than gradients add, in units of the pair's own.

    Without its slopes, the variance of a pattern is at least the upper limit for blocks from all
    pairs.
    """
    added, excess, response, share = _added(table, True)
    total, size, square = (x[:, N_LINES:].sum(axis=0) for x in (excess, response, response**2))
    limit = np.maximum(total, 0) + MIN_SIGMA * _chance(size, square)
    limit = np.divide(limit, size, out=np.zeros(len(size)), where=size > 0)
    added = np.maximum(added, np.max(limit * share[:, N_LINES:].mean(axis=0)))
    return MOST_SLOPED * added + np.square(OF_EMISSION * table.bright / table.sigma)


def _of_gradients(table, grids):
    """Return the variance that gradients of the images add to each pair, in units of its own.

    Let both images have gradients of the same variance in all directions. The slope of their
    difference has the sum of the two variances, and the gradient of each image changes the level
    by its lever: the vector from the image's centre to the overlap's. The levels of n images that
    all overlap are those of a joint fit, to which the whole of each image contributes: 2/n of the
    variance is left. The noise of the slope is not subtracted.
    """
    slope, _ = _slopes(table)
    middle = table.gram[:, 0, 1:] / table.gram[:, [0], 0]
    levers = [
        transfer_matrix(table.axes, axes)[:, 0, 1:] - middle
        for end in (table.first, table.second)
        for axes in [np.array([grids[k].axes for k in end])]
    ]
    square = np.sum(np.square(levers), axis=(0, 2))
    variance = np.sum(np.square(slope), axis=1) * square / 4
    # Weights of pairs are divided by n/2.
    return _few_images(table) * table.gram[:, 0, 0] * variance


def _few_images(table):
    """Return the factor on a variance from the gradients of few images, for pulls of unit rms.

    It is the mean of the inverse of chi squared, relative to its degrees of freedom: two for each
    image but one of each connected set. It is huge for one pair.
    """
    images, ends = np.unique([table.first, table.second], return_inverse=True)
    n_sets, _ = components(ends.reshape(2, -1).T, len(images))
    freedom = 2 * (len(images) - n_sets)
    return freedom / max(freedom - 2, 1e-9)


def _unlike(table, added):
    """Return the added variance of the pairs of images that vary far more than others.

    Such an image has a ghost or a bad region, for example. It would widen the errors of all
    others, or have a pattern that the typical pair lacks. Other pairs get a negative infinity.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs.
    added : `~numpy.ndarray`, shape (n,)
        Variance of the offsets of strips, in units of the pair's own.
    """
    images, median, count = image_medians(table.first, table.second, added)
    own = np.zeros(int(images[-1]) + 1)
    own[images] = median
    own[images[count < MANY_PAIRS]] = 0
    own[own <= MOST_ALIKE * (1 + np.median(added))] = -np.inf
    return np.maximum(own[table.first], own[table.second])


def _offset_variances(table, planes):
    """Return the levels' share in the strips, their excess and response, and offsets' variances.

    The share, shape (n, 8), is that of the matrices A. The variances are those of the lines,
    shape (n, 4), and of the blocks, shape (n, 4).
    """
    parts = []
    # The matrices of a pair take more memory than all else of it.
    for start in range(0, len(table), BLOCK):
        part = table.take(slice(start, start + BLOCK))
        spread = _spread(part)
        parts.append((spread[:, :, 0, 0].copy(), *_excess(part, spread, part.sigma**-2.0, planes)))
    share, excess, response, most = map(np.concatenate, zip(*parts, strict=True))
    lines = np.minimum(_line_variances(table, excess, response), most[:, :N_LINES])
    blocks = np.minimum(_block_variances(table, excess, response), most[:, N_LINES:])
    return share, excess, response, lines, blocks


def _spread(table):
    """Return the matrices A of the strips for the weights of the pairs, shape (n, 8, 3, 3)."""
    share = table.gram[:, 0, 0] * table.sigma**2
    return _matrices(table.strips[:, :, 3:].astype(float)) / share[:, None, None, None]


def shared_noise(table, *, with_blocks=True):
    """Return the covariance that shared noise adds to the right-hand sides of planes, or `None`.

    Rows, columns or blocks of pixels share it. The variances of their offsets are those of
    `pooled`. Weights and floors of planes exclude it, and the covariance of the solution includes
    it (a sandwich: White 1980, Econometrica 48, 817).

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        Measured pairs.
    with_blocks : bool
        Whether the noise may be that of blocks; else `None` if blocks explain more than rows and
        columns.

    Returns
    -------
    covariance : `~numpy.ndarray`, shape (n, 3, 3), or None
        `None` if no offsets are significant.
    """
    weight = np.where(_copies(table), 0.0, table.sigma**-2.0)
    share, _, _, lines, blocks = _offset_variances(table, True)
    if not (lines.any() or blocks.any()):
        return None
    spread, level = _spread(table), blocks * share[:, N_LINES:]
    # The few strips of one image may show too little.
    typical = np.median(lines.reshape(-1, 2, N_LINES // 2), axis=(0, 1))
    lines = np.maximum(lines, np.tile(typical, 2))
    of_lines = _of_lines(table, lines, spread)
    k, rows = np.argmax(level, axis=1), np.arange(len(level))
    if np.mean(of_lines[:, 0, 0] * weight) > np.mean(level[rows, k] * weight):
        added = of_lines
    elif not with_blocks:
        return None
    else:
        added = (blocks[rows, k] * _growth(level))[:, None, None] * spread[rows, N_LINES + k]
    return (table.gram[:, 0, 0] * weight)[:, None, None] * added


def _of_lines(table, lines, spread):
    """Return the covariance that the offsets of rows and columns add to planes, shape (n, 3, 3).

    The scatter of the cells contains the offsets, too. It is reduced by them, since the offsets of
    rows do not change the slope along the rows.
    """
    one = spread[:, N_LINES, 0, 0, None] / CELLS_OF_BLOCK
    several = spread[:, :N_LINES, 0, 0]
    part = np.clip(1 - one / np.where(several > 0, several, np.inf), LEAST_PART, 1)
    lines = lines / part
    weight = table.sigma**-2.0
    less = weight * (lines * one).sum(axis=1)
    less = np.minimum(less, 1 - 1 / np.maximum(table.chi2, 1))
    own = (less / weight / table.gram[:, 0, 0])[:, None, None] * table.gram
    return np.einsum("pk,pkij->pij", lines, spread[:, :N_LINES]) - own


def _balance(table, excess, response, share):
    """Return the variance that pairs lose, below zero, as neighbouring cells balance; else zero.

    At the border of two cells, a source seen through two PSFs adds to one cell what it subtracts
    from the other. The cells then scatter more than the noise of their pixels, and more than blocks
    of cells.
    """
    if np.median(table.chi2) < UNEVEN:
        return 0.0
    small = slice(N_LINES, N_LINES + 3)
    size = excess[:, small].sum(axis=0) / np.maximum(response[:, small].sum(axis=0), 1e-300)
    return float(np.clip(np.mean(size * share[:, small].mean(axis=0)), -MOST_BALANCE, 0.0))


def _matrices(lower):
    """Return the symmetric matrices (..., 3, 3) that have these lower triangles (..., 6)."""
    out = np.zeros((*lower.shape[:-1], 3, 3))
    for k, (i, j) in enumerate(LOWER):
        out[..., i, j] = out[..., j, i] = lower[..., k]
    return out


def _excess(table, spread, weight, planes):
    """Return the excess variance of the strips over that of independent cells, shape (n, 8).

    Also return its response to a unit variance of the offsets, and the upper limit of that
    variance. The residuals are those about the mean, or about the plane if planes are fitted.
    """
    squares, expected, response = (table.strips[:, :, k].astype(float) for k in range(3))
    left = expected
    if not planes:
        # Add the slopes, which the kernel subtracted, and their expectation.
        slope, inverse = _slopes(table)
        squares = squares + np.einsum("pi,pkij,pj->pk", slope, spread, slope) * weight[:, None]
        expected = expected + np.einsum("pij,pkij->pk", inverse * weight[:, None, None], spread)
        level = spread[:, :, 0, 0]
        left = np.maximum(1 - level, 0)
        response = level * left
    known = (left > MIN_LEFT) & (response > 0) & ~_copies(table)[:, None]
    excess = np.where(known, squares - expected, 0) * weight[:, None]
    response = np.where(known, response, 0) * weight[:, None] ** 2
    expected = expected * weight[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = expected**2 / response
        allowed = (excess + expected) * _upper_factor(freedom)
        most = np.where(known, np.maximum(allowed - expected, 0) / response, np.inf)
    return excess, response, most


def _upper_factor(freedom):
    """Return the upper limit of a variance over its estimate, given its degrees of freedom.

    Lines use the approximation of Wilson and Hilferty (1931, PNAS 17, 684) to chi squared. Blocks
    are fewer, and their patterns differ more between pairs: their limit is lower.
    """
    least = 2 / (9 * freedom[:, :N_LINES])
    least = np.maximum(1 - least - MAX_SIGMA * np.sqrt(least), 0) ** 3
    return np.hstack([1 / least, 1 + MAX_SIGMA * np.sqrt(2 / freedom[:, N_LINES:])])


def _slopes(table):
    """Return the slopes of each pair, shape (n, 3), and their own covariance, (n, 3, 3)."""
    size = np.sqrt(np.maximum(np.einsum("pii->pi", table.gram), 1e-300))
    scaled = table.gram / (size[:, :, None] * size[:, None, :])
    inverse = np.linalg.pinv(scaled, rcond=LEAST_SLOPE, hermitian=True)
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
    # Sums along the rows of an image also contain offsets of the other image's rows or columns.
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

    If the variance grows from one block size to the next, it is taken to grow by the same factor
    twice more.
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
    """Return the flags of images with significant offsets, by kind."""
    total, size, square = np.zeros((3, *shape))
    for k, (own, _) in enumerate(families):
        for side, kind in own:
            for out, values in ((total, excess), (size, response), (square, response**2)):
                out[:, kind] += np.bincount(ends[side], values[:, k], minlength=shape[0])
    return total > MIN_SIGMA * _chance(size, square)


def _chance(size, square):
    """Return the standard error of a sum of excesses, from the sums of responses and squares."""
    # Squares of two pairs that share an image have a correlation of 1/4.
    number = size**2 / np.maximum(square, 1e-300)
    return np.sqrt(2 * size * (1 + 0.25 * (number - 1)))
