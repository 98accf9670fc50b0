# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Fill values: large regions of one exact value, where an image has no data."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Fill", "find_fill", "mask_fill"]

# Pixels between the samples that are searched for a fill value, at most.
STRIDE = 16
# Sides, in cells, to which the search coarsens an image.
CELLS = 256
# The expected number of solid squares that noise makes in an image.
CHANCE = 1e-6
# Smallest fraction of the image that a fill value covers: of all, and of each region
# enclosed by data if no region reaches the border.
MIN_FRACTION = 1e-3
MIN_ENCLOSED = 1e-2
# A plateau at the largest value is saturated, unless it reaches the border and covers this
# fraction of the image.
MIN_LARGEST = 5e-2
# More values than this are the blocks of an enlarged image, or steps of rounded data.
MOST_VALUES = 2
# Values below this fraction of the others are rounding errors of zero.
ROUNDING = 1e-12
# Fraction of scattered pixels with the value up to which regions include connected pixels.
FEW = 0.2
# Least probability of a pixel to have the value by chance.
LEAST_CHANCE = 1e-4


@dataclass(frozen=True)
class Fill:
    """A fill value of an image.

    Parameters
    ----------
    value : float
        The value.
    fraction : float
        Fraction of the image's pixels in its regions.
    alone : bool
        Whether no other pixel is good.
    """

    value: float
    fraction: float
    alone: bool = False


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
        The fill values found; empty if ``blank`` is given. Pixels that all have one value
        stay as they are.
    """
    fills, missing = find_fill(data, blank)
    if missing is not None and not (fills and fills[0].alone):
        data[missing] = np.nan
    return fills


def find_fill(data: np.ndarray, blank: object = None) -> tuple[tuple[Fill, ...], np.ndarray | None]:
    """Return the fill values of an image, and where it is missing.

    Parameters
    ----------
    data, blank
        See `mask_fill`.

    Returns
    -------
    fills : tuple of `Fill`
        The fill values found.
    missing : 2D `~numpy.ndarray` of bool, or None
        The missing pixels.

    Notes
    -----
    A value is a fill value if it covers squares that are too large for chance: the expected
    number of such squares in the noise around them is below 1e-6. The noise is judged by
    the fraction of pixels with the value close to other pixels, so that the many zeros of a
    photon-counting image are data. Regions at the border are missing, and large ones within.
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
    """Return the largest absolute value of rounding errors of zero."""
    sample = np.abs(data[:: _stride(data), :: _stride(data)])
    sample = sample[np.isfinite(sample)]
    return ROUNDING * float(np.quantile(sample, 0.99)) if sample.size else 0.0


def _stride(data):
    return int(np.clip(np.sqrt(data.size) // 64, 1, STRIDE))


def _candidates(data):
    """Return the values of sampled squares of 3 by 3 equal pixels; none if they are many."""
    if min(data.shape) < 3:
        return []
    step = _stride(data)
    # Including squares at the upper borders.
    rows, columns = ([*range(0, n - 3, step), n - 3] for n in data.shape)
    corner = data[np.ix_(rows, columns)]
    equal = np.isfinite(corner)
    for dy in range(3):
        lines = data[np.add(rows, dy)]
        for dx in range(3):
            if dy or dx:
                equal &= lines[:, np.add(columns, dx)] == corner
        if not equal.any():
            break
    values, counts = np.unique(corner[equal], return_counts=True)
    if not equal.any():
        return _rounding_candidate(data, rows, columns)
    values = values[np.argsort(-counts, kind="stable")]
    return values[: MOST_VALUES + 2].tolist() if len(values) <= 8 * MOST_VALUES else []


def _rounding_candidate(data, rows, columns):
    """Return zero where sampled squares are rounding errors of it, else nothing."""
    tiny = _tiny(data)
    if not tiny > 0:
        return []
    small = np.abs(data[np.ix_(rows, columns)]) <= tiny
    if not small.any():
        return []
    for dy, dx in ((1, 1), (2, 2), (0, 2), (2, 0)):
        small &= np.abs(data[np.ix_(np.add(rows, dy), np.add(columns, dx))]) <= tiny
    return [0.0] if small.any() else []


def _fill_region(data, equal):
    """Return where pixels equal to one value are missing, `None` if they are data."""
    # Imported where needed, which few images do.
    from scipy.ndimage import label

    found = _solid_cells(data, equal)
    if found is None:
        return None
    solid, step, scattered = found
    seeds = solid.repeat(step, axis=0)[: data.shape[0]].repeat(step, axis=1)[:, : data.shape[1]]
    seeds &= equal
    if scattered > FEW:
        labels, n = label(seeds)
    else:
        # Pixels that are bad anyway do not separate regions.
        labels, n = label(equal | np.isnan(data))
        labels[~equal] = 0
    keep = np.zeros(n + 1, bool)
    keep[labels[seeds]] = True
    return _large(data, labels, keep)


def _solid_cells(data, equal):
    """Return the cells of squares of equal pixels that are too large for chance.

    Returns
    -------
    solid : 2D `~numpy.ndarray` of bool
        The cells.
    step : int
        Pixels along a cell.
    scattered : float
        Fraction of pixels with the value where there are few.
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
    """Return the number of true pixels in cells of a side; those at the upper borders smaller."""
    if step == 1:
        return mask.astype(np.float32)
    rows, columns = (np.arange(0, n, step) for n in mask.shape)
    lines = np.add.reduceat(mask, rows, axis=0, dtype=np.uint16)
    return np.add.reduceat(lines, columns, axis=1, dtype=np.uint32).astype(np.float32)


def _box_sums(cells, side):
    """Return the sums over squares of a side, those beyond the border counted as empty."""
    from scipy.ndimage import uniform_filter

    sums = uniform_filter(cells.astype(np.float64), side, mode="constant") * side**2
    return np.round(sums)


def _quantile(values, weights, q):
    """Return a quantile of weighted values, 0 without any."""
    keep = weights > 0
    if not keep.any():
        return 0.0
    values, weights = values[keep], weights[keep]
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, q * total[-1])])


def _large(data, labels, keep):
    """Return the regions that are large enough to be missing, `None` if none are."""
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
    """Return whether a region has the largest value, and others come close to it."""
    rest = np.where(region | ~np.isfinite(data), -np.inf, data)
    value, largest = data[region].max(), rest.max()
    if not largest > -np.inf:
        return False
    sample = rest[:: _stride(data), :: _stride(data)]
    sample = sample[sample > -np.inf]
    middle = np.median(sample) if sample.size else largest
    return value >= largest and largest > middle + 0.5 * (value - middle)
