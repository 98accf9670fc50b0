# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The error of levels due to rounding of the images' values, to whole numbers or other steps."""

import numpy as np
from scipy.special import ndtr

from levelmatch.measure.noise import image_variances, widened

__all__ = ["common_steps", "rounding_step", "rounding_variance", "squared_errors", "widen_rounded"]

# Values are rounded if at most this fraction of them are distinct.
MAX_DISTINCT = 0.25
# Variances of rounded values below this fraction of the squared step do not determine the noise.
UNTOLD = 0.35
# Trial values of the noise, and of the position of a level between two steps.
NOISES, POSITIONS = np.linspace(0.02, 0.6, 59), np.linspace(0, 0.5, 26)
# Smallest and relative uncertainty of the variance of an image, and likelihood of a wrong one.
LEAST_WIDTH, WIDTH, WRONG = 0.01, 0.2, 0.05
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


def common_steps(cells, steps):
    """Return the steps of two images, reduced if the brightness spreads over several steps.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `~levelmatch.measure._summary.PAIR_CELL`, shape (n,)
        The measured cells of the pair.
    steps : tuple of float
        Steps of the first and of the second image.
    """
    out, weight = [], cells["weight"]
    for step in steps:
        if step > 0:
            phase = 2 * np.pi * cells["brightness"] / step
            # The noise of a brightness, a mean of two, is half that of their difference.
            noise = (np.pi / step) ** 2 * cells["variance"]
            spread = weight @ np.exp(1j * phase)
            expected = weight @ np.exp(-noise / 2)
            if abs(spread) < expected:
                step *= abs(spread) / expected
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


def squared_errors(variance):
    """Return the expected square of the rounding error of the level of each image, in steps.

    The variance of rounded pixels depends on their noise and on the position of the level between
    two steps. The variances of all images determine the probability of each position, and of the
    noise, which the images share. The prior of the noise, a scale, is 1 / noise. An image
    whose variance determines its noise is treated by itself.

    Parameters
    ----------
    variance : `~numpy.ndarray`, shape (n,)
        Variance of the rounded pixels of each image, in squared steps.

    Returns
    -------
    squared : `~numpy.ndarray`, shape (n,)
        Expected squares, in squared steps.
    """
    out = rounding_variance(np.sqrt(np.maximum(variance - 1 / 12, 0)), 1.0)
    untold = variance < UNTOLD
    if not untold.any():
        return out
    expected, error = _rounded()
    width = LEAST_WIDTH + WIDTH * expected
    chance, positions = -np.log(NOISES)[:, None], np.zeros(expected.shape)
    # An image has 12 kB of likelihoods.
    for part in np.array_split(variance[untold], -(-np.count_nonzero(untold) // BLOCK)):
        likelihood = np.exp(-0.5 * ((part[:, None, None] - expected) / width) ** 2) / width
        likelihood += WRONG
        of_noise = likelihood.mean(axis=-1, keepdims=True)
        chance = chance + np.log(of_noise).sum(axis=0)
        positions += (likelihood / of_noise).sum(axis=0)
    # The mean over the images: few pairs do not determine the variance of each.
    out[untold] = np.average(error**2, weights=positions * np.exp(chance - chance.max()))
    return out


def _rounded():
    """Return the variance of rounded pixels and the error of their clipped mean.

    Both are in steps, by noise and position, shape (59, 26). Pixels beyond 3 sigma of the
    difference of two images are clipped. These are the pixels of a rare value.
    """
    steps = np.arange(-4, 5)
    edges = (np.arange(-4, 6) - 0.5 - POSITIONS[:, None]) / NOISES[:, None, None]
    chance = np.diff(ndtr(edges), axis=-1)
    mean = chance @ steps
    variance = np.maximum(chance @ steps**2 - mean**2, 0)
    chance *= np.abs(steps - mean[..., None]) <= 3 * np.sqrt(2 * variance)[..., None] + 1e-9
    return variance, chance @ steps / chance.sum(axis=-1) - POSITIONS


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
    error[rounded] = squared_errors(variance[rounded] / step[rounded] ** 2)
    added = np.sum(error[ends] * table.step**2, axis=1)
    return widened(table, added / table.sigma**2)
