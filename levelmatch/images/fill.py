# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fill values: one exact value in large regions where an image has no data."""

from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from levelmatch.images._decode import may_have_fill

__all__ = [
    "Fill",
    "find_fill",
    "mask_fill",
    "masked_values",
    "mostly_bad",
    "quick_test",
    "scattered_zeros",
]

# Largest distance, in pixels, between samples in the search for fill values.
STRIDE = 16
# Other pixels of a square of 3 by 3 than its first.
OTHERS = [(dy, dx) for dy in range(3) for dx in range(3) if dy or dx]
# Side, in cells, of the coarse image in which solid squares are sought.
CELLS = 256
# Expected number of solid squares that noise makes in an image.
CHANCE = 1e-6
# Smallest fraction of an image that the regions of a fill value cover.
MIN_FRACTION = 1e-3
# Smallest fraction of an image in each region, if no region reaches the border.
MIN_ENCLOSED = 1e-2
# Smallest fraction of an image in regions of the largest value that reach the border. Smaller
# or enclosed regions of the largest value are saturated.
MIN_LARGEST = 5e-2
# Largest number of fill values. More are blocks of an enlarged image, or rounded data.
MOST_VALUES = 2
# Largest ratio to the other values of a rounding error of zero.
ROUNDING = 1e-12
# Largest fraction of scattered pixels with the value for which regions grow to connected pixels.
FEW = 0.2
# Lower limit of the probability that a pixel has the value by chance.
LEAST_CHANCE = 1e-4
# Fraction of the pixels that have values and are masked, above which a mask may be inverted.
MASKED = 0.75
# Approximate number of pixels of which that fraction is found.
SAMPLE = 1_000_000
# Smallest number of sampled zeros and of others, and fraction of zeros that may be without data.
LEAST_ZEROS, ZEROS = 8, 5e-3
# Largest ratios of the number of pixels with another value to that of zeros, and to that of all
# other pixels. Counts and rounded values have more pixels of one value.
LIKE_ZEROS, OF_OTHERS = 0.1, 0.1
# Smallest number of values next to zero, and largest ratio of the 5th percentile of their sizes to
# the median if rounding leaves no gap about zero. It is about 0.1 then.
NEAR_ZERO, NO_STEP = 40, 0.4
# Fraction of either sign below which an image has one sign, and the fraction of its zeros above
# which photons are so few that clipping biases them.
ONE_SIGN, FEW_PHOTONS = 0.01, 0.2


@dataclass(frozen=True)
class Fill:
    """Fill value of an image.

    Parameters
    ----------
    value : float
        The value; NaN for masked pixels with other values than fill values.
    fraction : float
        Fraction of the image's pixels that lie in regions of the value, or are masked.
    alone : bool
        Whether all good pixels have fill values.
    scattered : bool
        Whether the pixels are scattered and count as data, see `scattered_zeros`.
    """

    value: float
    fraction: float
    alone: bool = False
    scattered: bool = False


def mask_fill(data: np.ndarray, blank: object = None) -> tuple[Fill, ...]:
    """Set missing pixels to NaN, in place.

    Parameters
    ----------
    data : 2D `~numpy.ndarray` of float
        The pixels, NaN where bad.
    blank : None, False, float or list of float
        Values of missing pixels: `None` to find fill values, `False` for none.

    Returns
    -------
    fills : tuple of `Fill`
        The fill values found; empty if ``blank`` is given. If all good pixels have fill values,
        the pixels are left unchanged.
    """
    fills, missing = find_fill(data, blank)
    if missing is not None and not (fills and fills[0].alone):
        data[missing] = np.nan
    return fills


def masked_values(data: np.ndarray, bad: np.ndarray) -> tuple[Fill, ...]:
    """Return a `Fill` of NaN if most pixels of an image have values and are masked.

    Masks of pixels without data hide NaN or one exact value. Of large images, a sample is used.

    Parameters
    ----------
    data : 2D `~numpy.ndarray` of float
        The pixels.
    bad : 2D `~numpy.ndarray` of bool
        The mask, True at bad pixels.
    """
    data, bad = (array[_sample_of(array.size)] for array in (data, bad))
    if np.count_nonzero(bad) <= MASKED * bad.size:
        return ()
    values = data[bad]
    counts = np.unique(values[np.isfinite(values)], return_counts=True)[1]
    n = int(counts.sum() - counts.max(initial=0))
    return (Fill(np.nan, n / bad.size),) if n > MASKED * bad.size else ()


def mostly_bad(data: np.ndarray) -> bool:
    """Return whether so many pixels of an image are NaN that its mask may be inverted."""
    sample = data[_sample_of(data.size)]
    return bool(np.count_nonzero(np.isnan(sample)) > MASKED * sample.size)


def scattered_zeros(data: np.ndarray, blank: object = None) -> tuple[Fill, ...]:
    """Return a `Fill` of 0 if scattered pixels are exactly 0, and harm the levels.

    They are bad pixels of some pipelines, or rates of few photons. Integers and rounded values
    with zeros are matched well. A sample of the pixels is used.

    Parameters
    ----------
    data, blank
        See `mask_fill`, which has set regions without data to NaN.
    """
    # An odd step does not follow the channels of a detector.
    step = isqrt(data.size) // 64 | 1
    sample = data[::step, ::step]
    n = int(np.count_nonzero(sample == 0))
    if blank is not None or n < max(LEAST_ZEROS, ZEROS * sample.size):
        return ()
    others = sample[np.isfinite(sample) & (sample != 0)]
    fraction, most = n / (n + len(others)), OF_OTHERS * len(others)
    repeated = int(np.unique(others, return_counts=True)[1].max(initial=1))
    if len(others) < LEAST_ZEROS or repeated > max(1, min(LIKE_ZEROS * n, most)):
        return ()
    if ONE_SIGN < np.mean(others < 0) < 1 - ONE_SIGN:
        # Values of few steps, over a flat field or compressed by tiles, are zero or a step away.
        size = np.sort(np.abs(others))[: max(NEAR_ZERO, min(2 * n, len(others) // 10))]
        if size[len(size) // 20] > NO_STEP * size[len(size) // 2]:
            return ()
    elif fraction < FEW_PHOTONS:
        # More photon counts lie below three quarters of the median than at zero.
        size = np.abs(others)
        if np.count_nonzero(size < 0.75 * np.median(size)) >= n:
            return ()
    return (Fill(0.0, fraction, scattered=True),)


def _sample_of(size: int) -> tuple[slice, slice]:
    """Return the rows and columns of a sample of an image with a number of pixels."""
    step = max(1, isqrt(size // SAMPLE))
    return slice(None, None, step), slice(None, None, step)


def find_fill(data: np.ndarray, blank: object = None) -> tuple[tuple[Fill, ...], np.ndarray | None]:
    """Return the fill values of an image and the mask of its missing pixels.

    Parameters
    ----------
    data, blank
        See `mask_fill`.

    Returns
    -------
    fills : tuple of `Fill`
        The fill values found.
    missing : 2D `~numpy.ndarray` of bool, or None
        True for missing pixels; `None` without any.

    Notes
    -----
    A value is a fill value if it covers squares that are too large for chance: noise makes an
    expected number of less than 1e-6 such squares. The probability of a pixel to have the value
    by chance is estimated from the pixels close to pixels of other values. The many zeros of a
    photon-counting image are therefore data. Regions at the border and large enclosed regions
    are missing.
    """
    if blank is False:
        return (), None
    if blank is not None:
        values = np.atleast_1d(np.asarray(blank)).astype(data.dtype)
        return (), np.isin(data, values)
    fills, missing = [], None
    tiny = None
    for value in _candidates(data):
        tiny = _tiny(data) if tiny is None else tiny
        equal = np.abs(data) <= tiny if abs(value) <= tiny else data == value
        region = _fill_region(data, equal)
        if region is not None:
            fills.append(Fill(float(value), float(np.count_nonzero(region) / data.size)))
            missing = region if missing is None else missing | region
    if missing is None or len(fills) > MOST_VALUES:
        return (), None
    rest = data[np.isfinite(data) & ~missing]
    if np.isin(rest, [fill.value for fill in fills]).all():
        fills = [replace(fill, alone=True) for fill in fills]
    return tuple(fills), missing


def _tiny(data):
    """Return the largest absolute value that counts as a rounding error of zero."""
    sample = np.abs(data[:: _stride(data.size), :: _stride(data.size)])
    sample = sample[np.isfinite(sample)]
    return ROUNDING * float(np.quantile(sample, 0.99)) if sample.size else 0.0


def _stride(size):
    """Return the distance between samples of an image with a number of pixels."""
    return min(max(isqrt(size) // 64, 1), STRIDE)


def quick_test(shape: tuple[int, int]) -> tuple[int, float]:
    """Return the step and the rounding of the quick test for fill values.

    Parameters
    ----------
    shape : tuple of int
        Shape of the image.

    Returns
    -------
    step : int
        Distance between samples; 0 for an image that is too small for fill values.
    rounding : float
        Largest ratio of a rounding error of zero to the largest sample.
    """
    # The margin is for the rounding of the ratio.
    step = 0 if min(shape) < 3 else _stride(shape[0] * shape[1])
    return step, 2 * ROUNDING


def _candidates(data):
    """Return the values of sampled squares of 3 by 3 equal pixels, most frequent first.

    The list is empty if there are too many values for fill values.
    """
    step, rounding = quick_test(data.shape)
    if not step:
        return []
    if data.dtype.kind == "f" and data.dtype.itemsize == 4 and data.flags["C_CONTIGUOUS"]:
        # Most images fail this quick test.
        stored = data.dtype.str == ">f4"
        if not may_have_fill(data.view("u4"), step, rounding, stored):
            return []
    # The last sample lies at the upper border.
    rows, columns = np.ix_(*(np.append(np.arange(0, n - 3, step), n - 3) for n in data.shape))
    corner = data[rows, columns]
    equal = np.isfinite(corner)
    for dy, dx in OTHERS:
        if not equal.any():
            return _rounding_candidate(data, rows, columns)
        equal &= data[rows + dy, columns + dx] == corner
    if not equal.any():
        return _rounding_candidate(data, rows, columns)
    values, counts = np.unique(corner[equal], return_counts=True)
    values = values[np.argsort(-counts, kind="stable")]
    return values[: MOST_VALUES + 2].tolist() if len(values) <= 8 * MOST_VALUES else []


def _rounding_candidate(data, rows, columns):
    """Return the candidate zero if a sampled square holds rounding errors, else an empty list."""
    sample = np.abs(data[:: _stride(data.size), :: _stride(data.size)])
    largest = np.max(sample, where=np.isfinite(sample), initial=0.0)
    corner = np.abs(data[rows, columns])
    # Rounding errors are smaller than the rounding error of the largest value. Most images fail
    # this quick test.
    if not (corner <= ROUNDING * largest).any():
        return []
    tiny = _tiny(data)
    if not tiny > 0:
        return []
    small = corner <= tiny
    if not small.any():
        return []
    for dy, dx in ((1, 1), (2, 2), (0, 2), (2, 0)):
        small &= np.abs(data[rows + dy, columns + dx]) <= tiny
    return [0.0] if small.any() else []


def _fill_region(data, equal):
    """Return the mask of missing pixels of one value, or `None` if the value is data."""
    # Few images need this import.
    from scipy.ndimage import label

    cells = _solid_cells(data, equal)
    if cells is None:
        return None
    solid, step, scattered = cells
    seeds = solid.repeat(step, axis=0)[: data.shape[0]].repeat(step, axis=1)[:, : data.shape[1]]
    seeds &= equal
    if scattered > FEW:
        labels, n = label(seeds)
    else:
        # Bad pixels connect regions, and are then removed.
        labels, n = label(equal | np.isnan(data))
        labels[~equal] = 0
    keep = np.zeros(n + 1, bool)
    keep[labels[seeds]] = True
    return _large(data, labels, keep)


def _solid_cells(data, equal):
    """Return the cells of squares of equal pixels that are too large for chance, or `None`.

    Returns
    -------
    solid : 2D `~numpy.ndarray` of bool
        True for cells in such squares.
    step : int
        Side of a cell, in pixels.
    scattered : float
        Fraction of pixels with the value outside of such squares: its 10 % quantile over the
        pixels of other values.
    """
    from scipy.ndimage import maximum_filter

    step = max(int(np.sqrt(data.size)) // CELLS, 1)
    same = _cell_sums(equal, step)
    other = _cell_sums(np.isfinite(data) & ~equal, step)
    side = -(-3 // step)
    for _ in range(8):
        empty = _box_sums(other, side) == 0
        full = _box_sums(same, side) >= 0.5 * (side * step) ** 2
        solid = maximum_filter(empty & full, side, origin=-((side + 1) % 2), mode="constant")
        if not solid.any():
            return None
        window = 2 * side + 1
        a, b = _box_sums(same, window), _box_sums(other, window)
        near = maximum_filter(solid, window, mode="constant")
        share = a / np.maximum(a + b, 1)
        chance = max(_quantile(share, other * near, 0.9), LEAST_CHANCE)
        needed = np.sqrt(np.log(data.size / CHANCE) / -np.log(chance)) / step
        if needed <= side:
            return solid, step, _quantile(share, other, 0.1)
        side = int(np.ceil(needed))
        if side > min(solid.shape):
            return None
    return None


def _cell_sums(mask, step):
    """Return the number of true pixels per cell; cells at the upper borders may be smaller."""
    if step == 1:
        return mask.astype(np.float32)
    rows, columns = (np.arange(0, n, step) for n in mask.shape)
    lines = np.add.reduceat(mask, rows, axis=0, dtype=np.uint16)
    return np.add.reduceat(lines, columns, axis=1, dtype=np.uint32).astype(np.float32)


def _box_sums(cells, side):
    """Return the sums over squares of cells; cells beyond the border are empty."""
    from scipy.ndimage import uniform_filter

    sums = uniform_filter(cells.astype(np.float64), side, mode="constant") * side**2
    return np.round(sums)


def _quantile(values, weights, q):
    """Return a quantile of weighted values, or 0 without positive weights."""
    keep = weights > 0
    if not keep.any():
        return 0.0
    values, weights = values[keep], weights[keep]
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, q * total[-1])])


def _large(data, labels, keep):
    """Return the mask of regions that are large enough to be missing, or `None` without any."""
    size = np.bincount(labels.ravel(), minlength=len(keep))
    size[0], keep[0] = 0, False
    border = np.zeros(len(keep), bool)
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        border[line] = True
    outside = keep & border
    if not outside.any():
        keep &= size >= MIN_ENCLOSED * data.size
    fraction = size[keep].sum() / data.size
    if fraction < MIN_FRACTION:
        return None
    region = keep[labels]
    if _is_saturated(data, region) and not (outside.any() and fraction >= MIN_LARGEST):
        return None
    return region


def _is_saturated(data, region):
    """Return whether a region has the largest value of the image and other pixels come close."""
    rest = np.where(region | ~np.isfinite(data), -np.inf, data)
    value, largest = data[region].max(), rest.max()
    if not largest > -np.inf:
        return False
    sample = rest[:: _stride(data.size), :: _stride(data.size)]
    sample = sample[sample > -np.inf]
    middle = np.median(sample) if sample.size else largest
    return value >= largest and largest > middle + 0.5 * (value - middle)
