# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Mean of a mosaic over a disc, and its error."""

import numpy as np

__all__ = ["disc_mean"]

# Largest distance of correlated noise in the mosaic, distance at which only smooth sky correlates,
# in pixels, and smallest number of pixels of a disc whose curvature is fitted.
NEAR, FAR, LEAST_CURVED = 2, 4, 24
# Clipping of pixels around a place, in standard deviations.
PLACE_CLIP = 4.0


def disc_mean(
    values: np.ndarray, inside: np.ndarray, centre: tuple[float, float]
) -> tuple[float, float]:
    """Return the clipped mean of a mosaic over a disc, and its variance.

    A gradient of the sky adds to the scatter of the values, but not to the error of their mean.
    The noise of neighbouring pixels is correlated, because the mosaic is resampled: the variance
    grows by the sum of the correlations, measured over the surroundings of the disc.

    Parameters
    ----------
    values : 2D `~numpy.ndarray`
        The mosaic, NaN where it has no data.
    inside : 2D `~numpy.ndarray` of bool
        Pixels of the disc.
    centre : tuple of float
        Position (y, x) of the centre of the disc.

    Returns
    -------
    mean, variance : float
        The mean at the centre, and its variance.
    """
    y, x = np.nonzero(inside)
    margin = max(int(np.ptp(x)) // 2, 8)
    # The rest of the mosaic is not needed.
    top, left = max(int(y.min()) - margin, 0), max(int(x.min()) - margin, 0)
    box = np.s_[top : int(y.max()) + margin + 1, left : int(x.max()) + margin + 1]
    values, inside = values[box], inside[box]
    correlation = _correlation(_flattened(values, np.isfinite(values), 2))
    degree = 2 if np.count_nonzero(inside) >= LEAST_CURVED else 1
    own = _flattened(values, inside & np.isfinite(values), degree)
    kept = np.isfinite(own)
    n = int(np.count_nonzero(kept))
    # Each term of the fit uses up one independent value: as many pixels as are correlated.
    free = max(n - 3 * degree * correlation, 0.3 * n)
    variance = float(np.sum(own[kept] ** 2)) / free * min(correlation, n) / n
    # The pixels of the disc are not centred on the place, which matters in a gradient.
    offsets = np.argwhere(kept) - (centre[0] - top, centre[1] - left)
    basis = np.column_stack([np.ones(n), offsets])
    slopes = np.linalg.lstsq(basis, values[kept], rcond=None)[0][1:]
    return float(np.mean(values[kept]) - slopes @ offsets.mean(axis=0)), variance


def _correlation(residual: np.ndarray) -> float:
    """Return the sum of the correlations of a pixel with its neighbours, at least 1.

    The correlation at the largest distance comes from smooth sky, and does not count.
    """
    good = np.isfinite(residual)
    filled = np.where(good, residual, 0.0)

    def mean_product(dy: int, dx: int) -> float:
        return _lagged(filled, dy, dx) / max(_lagged(good * 1.0, dy, dx), 1.0)

    near = range(-NEAR, NEAR + 1)
    smooth = float(
        np.mean([mean_product(*d) for d in ((FAR, 0), (0, FAR), (FAR, FAR), (FAR, -FAR))])
    )
    noise = float(sum(mean_product(dy, dx) - smooth for dy in near for dx in near))
    own = mean_product(0, 0) - smooth
    return max(noise / own, 1.0) if own > 0 else 1.0


def _flattened(values: np.ndarray, where: np.ndarray, degree: int) -> np.ndarray:
    """Return values less a fitted polynomial of the pixels, NaN elsewhere and where clipped."""
    y, x = np.nonzero(where)
    y, x = y - y.mean(), x - x.mean()
    basis = np.stack([np.ones_like(x), x, y, x**2, x * y, y**2][: 3 * degree], axis=1)
    own, kept = values[where], np.ones(len(x), dtype=bool)
    for _ in range(4):
        residual = own - basis @ np.linalg.lstsq(basis[kept], own[kept], rcond=None)[0]
        # `mad_std` would subtract the median of few residuals, whose mean is zero.
        sigma = 1.4826 * np.median(np.abs(residual[kept]))
        close = kept & (np.abs(residual) <= PLACE_CLIP * sigma)
        if np.count_nonzero(close) < 6 * degree:
            break
        kept = close
    out = np.full(values.shape, np.nan)
    out[where] = np.where(kept, residual, np.nan)
    return out


def _lagged(values: np.ndarray, dy: int, dx: int) -> float:
    """Return the sum of the products of values with those of pixels at a distance."""
    ny, nx = values.shape
    first = values[max(dy, 0) : ny + min(dy, 0), max(dx, 0) : nx + min(dx, 0)]
    second = values[max(-dy, 0) : ny + min(-dy, 0), max(-dx, 0) : nx + min(-dx, 0)]
    return float(np.sum(first * second))
