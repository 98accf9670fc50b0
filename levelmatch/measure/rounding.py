# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The error of levels due to rounding of the images' values, to whole numbers or other steps."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from levelmatch.measure.noise import image_variances, widened

__all__ = [
    "Rounding",
    "common_steps",
    "rounding_of",
    "rounding_step",
    "rounding_variance",
    "squared_errors",
    "widen_rounded",
]

# Values are rounded if at most this fraction of them are distinct.
MAX_DISTINCT = 0.25
# Variances of rounded values below this fraction of the squared step do not determine the noise.
UNTOLD = 0.35
# Trial values of the noise, and of the position of a level between two steps.
NOISES, POSITIONS = np.linspace(0.02, 0.6, 59), np.linspace(0, 0.5, 26)
# Smallest and relative uncertainty of the variance of an image, and likelihood of a wrong one.
LEAST_WIDTH, WIDTH, WRONG = 0.01, 0.2, 0.05
# Fractions of neighbours above this one occur with noise of at least 0.6 of a step, whose rounding
# errors are negligible.
MUCH_NOISE = 0.54
# Smallest and relative uncertainty of such a fraction.
FRACTION_WIDTH, FRACTION_PART = 0.01, 0.03
# Blocks of 3 x 3 pixels whose values differ by more than this number of steps contain stars; number
# of the others from which the background is known.
MOST_STEPS, MIN_BLOCKS = 2, 100
# Smallest fraction of blocks with stars.
FEW_STARS = 0.01
# Fraction of neighbours in other blocks above which blocks of equal values are filled.
FILLED = 0.4
# Noise, in steps, and the noise of which the table of errors has those of the kernel: it clips
# outliers of differences, whose values are few.
NOISE, ACTS_AS = (0.06, 0.4, 0.5, 0.6), (0.02, 0.36, 0.5, 0.6)
# Number of harmonics of the rounding error.
N_HARMONICS = 50
# Number of images whose likelihoods are in memory at once.
BLOCK = 1000


def rounding_step(pixels):
    """Return the step of which all values of an image are multiples, up to a constant.

    About 4000 pixels spread over the image are tested; all of them if these have one value. The
    step is 0 if there is none, or if the pixels have few equal values.
    """
    rows, columns = (max(n // 64, 1) for n in pixels.shape)
    some = pixels[rows // 2 :: rows, columns // 2 :: columns]
    for part in (some, pixels):
        values, count = np.unique(part[np.isfinite(part)].astype(float), return_counts=True)
        if len(values) != 1:
            break
    if len(values) < 2 or len(values) > MAX_DISTINCT * count.sum():
        return 0.0
    step = np.diff(values).min()
    # Rounding error of the values themselves.
    error = np.finfo(pixels.dtype).eps * np.abs(values).max() / step
    steps = (values - values[0]) / step
    return float(step) if np.abs(steps - np.round(steps)).max() < 0.01 + 2 * error < 0.1 else 0.0


class Rounding(NamedTuple):
    """The rounding of an image's values, and its pixels beside stars.

    Parameters
    ----------
    step : float
        Step to which the values are rounded, 0 for none.
    neighbours : float
        Fraction of neighbouring pixels beside stars that differ by a step, of those that differ by
        no more. Noise and the position of the level between two steps determine it. NaN for images
        with few such pixels.
    coherence : float
        Modulus of the mean of exp(2 pi i level / step): 1 if the levels of all pixels are equal, 0
        if they spread evenly over a step. 0 for images without stars, whose cells tell.
    """

    step: float = 0.0
    neighbours: float = np.nan
    coherence: float = 0.0


def rounding_of(pixels, step):
    """Return the `Rounding` of an image.

    About 4000 blocks of 3 x 3 pixels spread over the image are taken, without those that contain
    stars or bad pixels.

    Parameters
    ----------
    pixels : 2D `~numpy.ndarray`
        The image, NaN where bad.
    step : float
        Step of its values, 0 for none.
    """
    if not step > 0 or min(pixels.shape) < 3:
        return Rounding(step)
    rows, columns = (max(n // 64, 1) for n in pixels.shape)
    blocks = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3))
    blocks = blocks[rows // 2 :: rows, columns // 2 :: columns].reshape(-1, 9).astype(float)
    number = np.count_nonzero(np.isfinite(blocks).all(axis=1))
    blocks = blocks[np.ptp(blocks, axis=1) < (MOST_STEPS + 0.5) * step]
    if len(blocks) < MIN_BLOCKS:
        return Rounding(step)
    has_stars = len(blocks) < (1 - FEW_STARS) * number
    blocks = (blocks - blocks[0, 0]) / step
    varied = blocks[np.ptp(blocks, axis=1) > 0.5]
    if _neighbours(varied) > FILLED and len(varied) >= MIN_BLOCKS:
        # Noise leaves hardly any block of equal values: these are filled.
        blocks = varied
    coherence = 0.0
    if has_stars:
        # The noise of the mean of a block turns its phase.
        noise = np.var(blocks, axis=1, ddof=1) / 9
        turns = np.exp(2j * np.pi * blocks.mean(axis=1) + 2 * np.pi**2 * noise)
        coherence = min(float(np.abs(np.mean(turns))), 1.0)
    return Rounding(step, _neighbours(blocks), coherence)


def _neighbours(blocks):
    """Return the fraction of neighbours of blocks, shape (n, 9), whose step is one."""
    change = np.abs(blocks[:, [1, 3, 5, 7]] - blocks[:, 4:5])
    one, equal = np.count_nonzero(np.abs(change - 1) < 0.5), np.count_nonzero(change < 0.5)
    return one / max(one + equal, 1)


def common_steps(cells, roundings):
    """Return the steps of two images, reduced if the brightness spreads over several steps.

    That of stars does not count: most of the pixels about them have the level of the background.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `~levelmatch.measure._summary.PAIR_CELL`, shape (n,)
        The measured cells of the pair.
    roundings : tuple of `Rounding`
        Those of the first and of the second image.
    """
    out, weight = [], cells["weight"]
    for step, _, coherence in roundings:
        if step > 0:
            phase = 2 * np.pi * cells["brightness"] / step
            # The noise of a brightness, a mean of two, is half that of their difference.
            noise = (np.pi / step) ** 2 * cells["variance"]
            spread = weight @ np.exp(1j * phase)
            expected = weight @ np.exp(-noise / 2)
            if abs(spread) < expected:
                step *= max(abs(spread) / expected, coherence)
        out.append(step)
    return out


def rounding_variance(noise, step):
    """Return the variance of the rounding error of the mean of many equal pixels.

    The rounding error of a value is a saw-tooth. Noise of scatter s averages it: harmonic k is
    multiplied by exp(-2 pi^2 k^2 s^2 / step^2). Over evenly spread values, the variance of the sum
    is (step / pi)^2 / 2 sum(exp(-4 pi^2 k^2 s^2 / step^2) / k^2).

    Parameters
    ----------
    noise : float or `~numpy.ndarray`
        Scatter of the pixels before they are rounded.
    step : float or `~numpy.ndarray`
        Step to which they are rounded.
    """
    k = np.arange(1, N_HARMONICS + 1)
    ratio = np.asarray(noise, dtype=float) / step
    terms = np.exp(-4 * np.pi**2 * (k * ratio[..., None]) ** 2) / k**2
    return (np.asarray(step) / np.pi) ** 2 / 2 * terms.sum(axis=-1)


def squared_errors(variance, neighbours=None):
    """Return the expected square of the rounding error of the level of each image, in steps.

    The variance of rounded pixels depends on their noise and on the position of the level between
    two steps. The variances of all images determine the probability of each position, and of the
    noise, which the images share. The prior of the noise, a scale, is 1 / noise. An image
    whose variance determines its noise is treated by itself.

    Stars add to variances. Where the fractions of neighbours are known, they take their place.

    Parameters
    ----------
    variance : `~numpy.ndarray`, shape (n,)
        Variance of the rounded pixels of each image, in squared steps.
    neighbours : `~numpy.ndarray`, shape (n,), optional
        Fraction of neighbours of each image, see `Rounding`; NaN where unknown.

    Returns
    -------
    squared : `~numpy.ndarray`, shape (n,)
        Expected squares, in squared steps.
    """
    out = rounding_variance(np.sqrt(np.maximum(variance - 1 / 12, 0)), 1.0)
    neighbours = np.full(len(variance), np.nan) if neighbours is None else neighbours
    known = ~np.isnan(neighbours)
    untold = np.where(known, neighbours < MUCH_NOISE, variance < UNTOLD)
    if not untold.any():
        return out
    of_variance, of_neighbours, error = _rounded()
    if known[untold].any():
        rows = np.interp(np.interp(NOISES, NOISE, ACTS_AS), NOISES, np.arange(len(NOISES)))
        error = error[np.round(rows).astype(int)]
    chance, positions = -np.log(NOISES)[:, None], np.zeros(error.shape)
    # An image has 12 kB of likelihoods.
    for rows in np.array_split(np.flatnonzero(untold), -(-np.count_nonzero(untold) // BLOCK)):
        likelihood = np.where(
            known[rows, None, None],
            _density(neighbours[rows], of_neighbours, FRACTION_WIDTH, FRACTION_PART),
            _density(variance[rows], of_variance, LEAST_WIDTH, WIDTH),
        )
        likelihood += WRONG
        of_noise = likelihood.mean(axis=-1, keepdims=True)
        chance = chance + np.log(of_noise).sum(axis=0)
        positions += (likelihood / of_noise).sum(axis=0)
    # The mean over the images: few pairs do not determine the variance of each.
    out[untold] = np.average(error**2, weights=positions * np.exp(chance - chance.max()))
    return out


def _density(found, expected, least, part):
    """Return the probability density of values, shape (n, 59, 26)."""
    width = least + part * expected
    return np.exp(-0.5 * ((found[:, None, None] - expected) / width) ** 2) / width


def _rounded():
    """Return the variance of rounded pixels, fractions of neighbours, and errors of clipped means.

    They are in steps, by noise and position, shape (59, 26). Pixels beyond 3 sigma of the
    difference of two images are clipped. These are the pixels of a rare value.
    """
    steps = np.arange(-4, 5)
    edges = (np.arange(-4, 6) - 0.5 - POSITIONS[:, None]) / NOISES[:, None, None]
    chance = np.diff(ndtr(edges), axis=-1)
    mean = chance @ steps
    variance = np.maximum(chance @ steps**2 - mean**2, 0)
    equal = np.sum(chance**2, axis=-1)
    one = 2 * np.sum(chance[..., 1:] * chance[..., :-1], axis=-1)
    chance *= np.abs(steps - mean[..., None]) <= 3 * np.sqrt(2 * variance)[..., None] + 1e-9
    return variance, one / (equal + one), chance @ steps / chance.sum(axis=-1) - POSITIONS


def widen_rounded(table):
    """Return the pair table with errors that include the rounding of the images' values.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs. Their steps are zero for images that are not rounded, and reduced if the
        brightness spreads over several steps, because rounding errors then cancel.
    """
    if not (table.step > 0).any():
        return table
    ends = np.stack([table.first, table.second], axis=1)
    variance = np.nan_to_num(image_variances(table))
    step = np.zeros(len(variance))
    np.maximum.at(step, ends, table.step)
    rounded = step > 0
    error = np.zeros(len(variance))
    neighbours = _mean_neighbours(table, ends, len(variance))
    error[rounded] = squared_errors(variance[rounded] / step[rounded] ** 2, neighbours[rounded])
    added = np.sum(error[ends] * table.step**2, axis=1)
    return widened(table, added / table.sigma**2)


def _mean_neighbours(table, ends, n):
    """Return the mean fraction of neighbours of each image, shape (n,); NaN where unknown."""
    known = ~np.isnan(table.neighbours) & (table.npix > 0)[:, None]
    weight = np.where(known, table.npix[:, None], 0).ravel()
    total = np.bincount(ends.ravel(), weight * np.nan_to_num(table.neighbours).ravel(), n)
    size = np.bincount(ends.ravel(), weight, n)
    return np.divide(total, size, out=np.full(n, np.nan), where=size > 0)
