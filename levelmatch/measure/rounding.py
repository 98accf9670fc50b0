# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The error of levels by the rounding of the images' values, to whole numbers or other steps."""

import numpy as np

from levelmatch.measure.noise import image_variances
from levelmatch.measure.variances import weakened

__all__ = ["common_steps", "rounding_step", "rounding_variance", "widen_rounded"]

# Values are rounded if no more than this fraction of them are distinct.
MAX_DISTINCT = 0.25
# The largest variance of rounded values, over the squared step, that says nothing of the noise.
UNTOLD = 0.25
# Harmonics of the error of rounding.
N_HARMONICS = 50
# Noise over the step, where it is looked up.
NOISES = np.linspace(0, 2, 401)


def rounding_step(pixels):
    """Return the step of which all values of an image are multiples, but for a constant.

    Of about 4000 pixels spread over it; 0 if there is none, or if next to none are equal.
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
    """Return two images' steps; less where the brightness spreads over several of them.

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
    """Return the variance of the error that rounding makes in the mean of many equal pixels.

    Noise of a scatter s averages the error of rounding of a value, a saw-tooth. Its
    harmonics k become fainter by exp(-2 pi^2 k^2 s^2 / step^2). Over values spread evenly the
    variance of their sum is (step / pi)^2 / 2 sum(exp(-4 pi^2 k^2 s^2 / step^2) / k^2).

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
    """Return the scatter of pixels before they are rounded, from their variance after it.

    On average over values spread evenly, rounding adds step^2 / 12 less the variance of its error
    in the mean.
    """
    square = np.asarray(variance) / step**2
    after = NOISES**2 + 1 / 12 - rounding_variance(NOISES, 1.0)
    many = np.sqrt(np.maximum(square - 1 / 12, 0))
    return step * np.where(square < after[-1], np.interp(square, after, NOISES), many)


def widen_rounded(table):
    """Return the pair table with errors that cover the rounding of the images' values.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs. Their steps are zero where images are not rounded, and less than the images'
        steps where the brightness spreads over several: rounding then errs both ways.
    """
    if not (table.step > 0).any():
        return table
    ends = np.stack([table.first, table.second], axis=1)
    variance = np.nan_to_num(image_variances(table))
    step = np.zeros(len(variance))
    np.maximum.at(step, ends, table.step)
    rounded = step > 0
    square = variance[rounded] / step[rounded] ** 2
    # Of less noise than a step the scatter depends on the place of the level between two steps. The
    # mean over few images is lowered, as if half an image more had none.
    untold = square < UNTOLD
    square[untold] = square[untold].sum() / (untold.sum() + 0.5)
    error = np.zeros(len(variance))
    error[rounded] = rounding_variance(noise_before_rounding(square, 1.0), 1.0)
    added = np.sum(error[ends] * table.step**2, axis=1)
    return weakened(table, added / table.sigma**2)
