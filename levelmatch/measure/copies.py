# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images that show the same exposure, and count twice."""

from functools import cache
from numbers import Real

import numpy as np

from levelmatch.exceptions import FrameError, warn_user
from levelmatch.images.file_headers import readable_value
from levelmatch.sky.grid import are_at_one_place
from levelmatch.text import list_names

__all__ = ["warn_copies"]

# Largest scatter of a difference, relative to the noise, of two images with the same noise.
SAME_NOISE = 0.25
# Approximate number of pixels from which the noise of an image is found.
SAMPLE = 1_000_000
# Side of the blocks in which the noise is found, and the fraction of them without stars.
BLOCK, CALM = 8, 0.1
# Standard deviation of normal values whose absolute values have a median of 1.
NORMAL = 1.4826
# Keywords of the time of an exposure, and the largest difference, in days, of equal times.
TIMES = ("DATE-OBS", "TIME-OBS", "DATE-BEG", "MJD-OBS", "EXPSTART")
SAME_TIME = 1e-5


def warn_copies(frames, measured):
    """Warn of images that are copies of others, or made from the same exposure.

    Examples are a file and its compressed copy, or two calibrations of an exposure.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images.
    measured : `~levelmatch.measure.table.PairTable`
        Their pairs.

    Warns
    -----
    LevelMatchWarning
        If all differences of two images at one place are zero. Also if they scatter much less than
        the noise of each image and than the other differences of both, unless the headers give
        different times.
    """
    equal = (measured.scatter == 0) & (measured.level == 0) & (measured.npix > 0)
    copies = [_both(frames, pair) for pair in _at_one_place(frames, measured, equal)]
    if copies:
        msg = (
            f"images have equal pixels at one place: {list_names(copies)}. Copies count twice, and "
            "the errors are too small; leave out one of each"
        )
        warn_user(msg)
    quiet = ~equal & (measured.scatter < SAME_NOISE * _typical_scatter(measured, len(frames)))
    noise = cache(lambda k: _noise(frames[k]))
    # In crowded fields, stars look like noise, and images at one place have the same stars.
    versions = [
        _both(frames, pair)
        for pair in _at_one_place(frames, measured, quiet)
        if not _differ_in_time(*(frames[k].meta for k in pair[:2]))
        and all(measured.scatter[pair[2]] < SAME_NOISE * noise(k) for k in pair[:2])
    ]
    if versions:
        msg = (
            f"images show the same noise at one place: {list_names(versions)}. Versions of one "
            "exposure count twice, and the errors are too small; leave out one of each"
        )
        warn_user(msg)


def _both(frames, pair):
    return f"{frames[pair[0]].name} and {frames[pair[1]].name}"


def _at_one_place(frames, measured, chosen):
    """Return the two images and the index of each chosen pair whose images are at one place."""
    return [
        (measured.first[k], measured.second[k], k)
        for k in np.flatnonzero(chosen)
        if are_at_one_place(frames[measured.first[k]].grid, frames[measured.second[k]].grid)
    ]


def _differ_in_time(first, second):
    """Return whether two headers give different times of their exposures."""
    for key in TIMES:
        a, b = readable_value(first, key), readable_value(second, key)
        if isinstance(a, Real) and isinstance(b, Real):
            if abs(a - b) > SAME_TIME:
                return True
        elif isinstance(a, str) and isinstance(b, str) and a != b:
            return True
    return False


def _typical_scatter(measured, n):
    """Return the smaller of the mean scatters of the pairs of both images, for each pair."""
    ends = np.concatenate([measured.first, measured.second])
    known = np.isfinite(measured.scatter) & (measured.npix > 0)
    total = np.bincount(ends, np.tile(np.where(known, measured.scatter, 0), 2), minlength=n)
    mean = total / np.maximum(np.bincount(ends, np.tile(known, 2), minlength=n), 1)
    return np.minimum(mean[measured.first], mean[measured.second])


def _noise(frame):
    """Return the noise of an image beside its stars; NaN without pixels.

    It is found from differences of neighbours in a row, in the blocks where they are small.
    """
    try:
        data = frame.load()
    except FrameError:
        return np.nan
    bands = len(data) // BLOCK
    rows = np.arange(bands * BLOCK).reshape(bands, BLOCK)[:: 1 + data.size // SAMPLE]
    steps = np.abs(np.diff(data[rows], axis=2))
    steps = steps[:, :, : steps.shape[2] // BLOCK * BLOCK].reshape(len(rows), BLOCK, -1, BLOCK)
    # Sorting puts NaN at the end.
    blocks = np.sort(steps.swapaxes(1, 2).reshape(-1, BLOCK**2), axis=1)
    known = np.count_nonzero(np.isfinite(blocks), axis=1)
    blocks, known = blocks[known > BLOCK**2 // 2], known[known > BLOCK**2 // 2]
    if not len(blocks):
        return np.nan
    medians = np.take_along_axis(blocks, known[:, None] // 2, axis=1)
    return float(np.quantile(medians, CALM)) * NORMAL / np.sqrt(2)
