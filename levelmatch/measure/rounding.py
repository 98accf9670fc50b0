# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The error of levels due to rounding of the images' values, to whole numbers or other steps."""

import numpy as np

from levelmatch.measure.noise import image_variances
from levelmatch.measure.variance_fit import weakened

__all__ = ["common_steps", "rounding_step", "rounding_variance", "widen_rounded"]

# Values are rounded if at most this fraction of them are distinct.
MAX_DISTINCT = 0.25
# Variances of rounded values below this fraction of the squared step do not determine the noise.
UNTOLD = 0.25
# Number of harmonics of the rounding error.
N_HARMONICS = 50
# Grid of the ratio of noise to step.
NOISES = np.linspace(0, 2, 401)


def rounding_step(pixels):
    """Return the step of which all values of an image are multiples, up to a constant.

    About 4000 pixels spread over the image are tested. The step is 0 if there is none, or if the
    pixels have few equal values.
    """
    rows, columns = (max(n // 64, 1) for n in pixels.shape)
    some = pixels[rows // 2 :: rows, columns // 2 :: columns]
    values, count = np.unique(some[np.isfinite(some)].astype(float), return_counts=True)
    if len(values) < 2 or len(values) > MAX_DISTINCT * count.sum():
        return 0.0
    step = np.diff(values).min()
    # The values' own rounding.
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
    out = []
    for step, sign in zip(steps, (0.5, -0.5), strict=True):
        if step > 0:
            phase = 2j * np.pi * (cells["brightness"] + sign * cells["location"]) / step
            step *= abs(np.average(np.exp(phase), weights=cells["weight"]))
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


def noise_before_rounding(variance, step):
    """Return the scatter of pixels before rounding, from their variance after it.

    On average over evenly spread values, rounding adds step^2 / 12 minus the variance of the mean's
    rounding error.
    """
    square = np.asarray(variance) / step**2
    after = NOISES**2 + 1 / 12 - rounding_variance(NOISES, 1.0)
    many = np.sqrt(np.maximum(square - 1 / 12, 0))
    return step * np.where(square < after[-1], np.interp(square, after, NOISES), many)


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
    square = variance[rounded] / step[rounded] ** 2
    # With little noise, the scatter depends on the position of the level between two steps. To stay
    # on the safe side, the mean over the images counts half an image more, without scatter.
    untold = square < UNTOLD
    square[untold] = square[untold].sum() / (untold.sum() + 0.5)
    error = np.zeros(len(variance))
    error[rounded] = rounding_variance(noise_before_rounding(square, 1.0), 1.0)
    added = np.sum(error[ends] * table.step**2, axis=1)
    return weakened(table, added / table.sigma**2)
