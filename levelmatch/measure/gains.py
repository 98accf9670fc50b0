# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Relative flux scale of a pair, from the emission that both of its images show.

The two images are compared by their means in the cells of the overlap, with nothing clipped.
Cells are much wider than the PSF and the error of the astrometry. The difference of the means is
fitted by the mean brightness, whose coefficient is the gain, by a quadratic, and by the
brightness's own derivatives: a shift between the images adds its gradient, unequal seeing its
Laplacian.
"""

from dataclasses import dataclass
from functools import cached_property
from math import exp, log

import numpy as np

from levelmatch.measure._gains import median, robust_fit, without_terms

__all__ = ["flux_gain"]


# Cells that it takes, and those for a quadratic.
MIN_CELLS = 16
MIN_QUADRATIC = 30
# More cells than these are compared in blocks. That takes less time, and fewer stars lie on edges.
MANY_CELLS = 1000
# Cells with less than this fraction of the fullest one's samples are left out.
MIN_FILLED = 0.3
# The least correlation of two images' emission.
MIN_CORRELATION = 0.85
# Variance of the brightness over that of the noise of the difference.
MIN_CONTRAST = 40.0
# Prior standard deviations of the coefficients of the gradient and the Laplacian, per cell.
SHIFT = 0.05
BLUR = 0.03
# Scatter of stars' fluxes from image to image, and the fraction that crosses into the next cell.
STAR_SCATTER = 0.05
CROSSING = 0.05
# Error of the gain for a coefficient of the Laplacian.
BLUR_ERROR = 0.7
# Error of the gain for a quadratic: what it lacks of a pattern of low frequency is likely as
# large a fraction of it as for the brightness.
CURVE_ERROR = 0.5
# Columns of the fit from the quadratic terms on, or from the linear ones of few cells.
CURVED = 7
# Standard errors of small sets by leaving out are too small by this factor.
WHITE_ERROR = 1.25
N_STEPS = 4
# Step of the logarithm of the flux ratio up to which the fit is linear in it.
CONVERGED = 0.02
# Blocks of cells that are left out in turn, of two sizes.
BLOCKS = (12, 40)
MIN_BLOCKS = 6
# The residuals' pattern is so much smaller than the pattern, as the fit follows it.
PATTERN_LOST = 1.5
# Of the values that a smooth pattern has in an overlap, so many are fitted.
PATTERN_TERMS = 5
# Significance of the pattern that counts.
PATTERN_SIGMA = 2.0
# Lengths over which a pattern of flats or gradients is alike, as fractions of the overlap.
LENGTHS = (0.15, 0.3)
# Degrees of freedom, and the factor on an error with them for 4 sigma to be as rare as for many.
FREEDOM = [2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50, 100]
INFLATION = [31.4, 8.15, 4.36, 3.07, 2.46, 2.12, 1.9, 1.64, 1.5, 1.37, 1.26, 1.16, 1.09, 1.04]
LOGARITHMS = np.log(FREEDOM), np.log(INFLATION)


@dataclass(frozen=True)
class _Layout:
    """Place of the cells of an overlap: rows and columns from 0, the shape, and their samples.

    The two coordinates on the sky lie between -0.5 and 0.5.
    """

    y: np.ndarray
    x: np.ndarray
    shape: tuple
    count: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, index, count, place):
        y, x = index[:, 0] - index[:, 0].min(), index[:, 1] - index[:, 1].min()
        low, high = place.min(axis=0), place.max(axis=0)
        place = (place - (low + high) / 2) / np.maximum(high - low, 1e-300)
        return cls(y, x, (int(y.max()) + 1, int(x.max()) + 1), count, place)

    @cached_property
    def terms(self):
        """The columns of a quadratic on the sky, or of a plane for few cells."""
        y, x = self.place.T
        columns = [np.ones(len(y)), x, y]
        if len(y) >= MIN_QUADRATIC:
            columns += [x * x, x * y, y * y]
        return np.stack(columns, axis=1)

    def neighbours(self, values):
        """Return the values of the cells right, left, above and below; the own where missing."""
        padded = np.full((self.shape[0] + 2, self.shape[1] + 2), np.nan)
        y, x = self.y + 1, self.x + 1
        padded[y, x] = values
        sides = padded[y, x + 1], padded[y, x - 1], padded[y + 1, x], padded[y - 1, x]
        return [np.where(np.isfinite(side), side, values) for side in sides]

    def blocks(self, number):
        """Return the block of each cell, of about a number of square ones."""
        side = max(np.sqrt(len(self.y) / number), 1.0)
        rows, columns = (max(round(n / side), 1) for n in self.shape)
        block = (self.y * rows // self.shape[0]) * columns + self.x * columns // self.shape[1]
        used = np.bincount(block) > 0
        return (np.cumsum(used) - 1)[block]


def flux_gain(index, count, first, second, place=None):
    """Return the relative difference of the flux scales of two images.

    Parameters
    ----------
    index : `~numpy.ndarray` of int, shape (n, 2)
        Row and column of each cell.
    count : `~numpy.ndarray`, shape (n,)
        Samples in each cell.
    first, second : `~numpy.ndarray`, shape (n,)
        Mean of each image in each cell.
    place : `~numpy.ndarray`, shape (n, 2), or None
        Two coordinates of each cell on the sky, in which planes are linear; by default the
        index.

    Returns
    -------
    gain : float
        Flux of the first image minus that of the second over their mean: below 2 in absolute
        value. NaN where nothing determines it.
    error : float
        Standard error; infinite for NaN. It includes the patterns of flats and gradients that
        the residuals show, and unequal seeing.
    """
    place = index.astype(float) if place is None else place
    if len(count) > MANY_CELLS:
        index, count, first, second, place = _merged(index, count, first, second, place)
    good = count >= MIN_FILLED * count.max()
    spread = float(np.std(first[good]) + np.std(second[good]))
    if good.sum() < MIN_CELLS or not spread > 0:
        return np.nan, np.inf
    layout = _Layout.of(index[good], count[good].astype(float), place[good])
    a, b = first[good] / spread, second[good] / spread
    a, b = a - median(a), b - median(b)
    ratio = _first_ratio(layout, a, b)
    if ratio is None:
        return np.nan, np.inf
    for _ in range(N_STEPS):
        fit = _Fit.of(layout, a, b * np.exp(ratio))
        step = 2 * np.arctanh(np.clip(fit.gain / 2, -0.99, 0.99))
        ratio += step
        if abs(step) < CONVERGED:
            break
    if not fit.contrast > MIN_CONTRAST:
        return np.nan, np.inf
    gain = 2 * np.tanh(ratio / 2)
    return float(gain), float(fit.error() * (1 - gain * gain / 4))


def _merged(index, count, first, second, place):
    """Return blocks of square numbers of cells, about as many as `MANY_CELLS`."""
    side = int(np.ceil(np.sqrt(len(count) / MANY_CELLS)))
    y, x = index.T // side
    block = y * (int(x.max()) + 1) + x
    total = np.bincount(block, count)
    kept = np.flatnonzero(total)
    one, two, u, v = (
        np.bincount(block, count * values)[kept] / total[kept]
        for values in (first, second, *place.T)
    )
    merged = np.stack(np.divmod(kept, int(x.max()) + 1), axis=1)
    return merged, total[kept], one, two, np.stack([u, v], axis=1)


def _first_ratio(layout, a, b):
    """Return the logarithm of the ratio of two images' emission, `None` if it is not alike."""
    terms = layout.terms
    a, b = (without_terms(terms, layout.count, values) for values in (a, b))
    squares = [np.sum(layout.count * c * d) for c, d in ((a, a), (b, b), (a, b))]
    limit = MIN_CORRELATION * np.sqrt(squares[0] * squares[1])
    if not min(squares) > 0 or not squares[2] > limit:
        return None
    return 0.5 * np.log(squares[0] / squares[1])


@dataclass(frozen=True)
class _Fit:
    """Weighted least squares of the difference by brightness, its derivatives and a quadratic.

    Parameters
    ----------
    gain : float
        Coefficient of the brightness.
    curve : float
        Amplitude of the quadratic that the difference has besides, over that of the brightness.
    blur, blur_error : float
        Coefficient of the brightness's Laplacian.
    bright : `~numpy.ndarray`, shape (n,)
        Brightness that no other term follows.
    weight : `~numpy.ndarray`, shape (n,)
        Weights of the cells, robust ones included.
    residual, clipped : `~numpy.ndarray`, shape (n,)
        Residuals: those that the solution counts, and all of them but for outliers' excess.
    contrast : float
        Variance of the brightness over that of the noise.
    """

    layout: _Layout
    gain: float
    curve: float
    blur: float
    blur_error: float
    bright: np.ndarray
    weight: np.ndarray
    residual: np.ndarray
    clipped: np.ndarray
    contrast: float

    @classmethod
    def of(cls, layout, a, b):
        """Return the fit to the means of two images."""
        difference, bright = a - b, (a + b) / 2
        right, left, above, below = layout.neighbours(bright)
        laplacian = right + left + above + below - 4 * bright
        design = np.column_stack(
            [bright, (right - left) / 2, (above - below) / 2, laplacian, layout.terms]
        )
        prior = np.zeros(design.shape[1])
        prior[1:4] = 1 / np.square([SHIFT, SHIFT, BLUR])
        high = without_terms(layout.terms, layout.count, bright)
        step = np.max([np.abs(side - bright) for side in (right, left, above, below)], axis=0)
        own = without_terms(layout.terms, layout.count, difference)
        # Variances of a cell per squared noise, and by its stars.
        parts = (
            median(layout.count) / layout.count,
            (STAR_SCATTER * high) ** 2 + (CROSSING * step) ** 2,
        )
        coefficients, weight, residual, clipped, normal, noise = robust_fit(
            design, difference, prior, *parts, _scatter(own)
        )
        spread, curved = np.std(bright), CURVED if len(coefficients) > CURVED else CURVED - 2
        covariance = np.linalg.inv(normal)
        # By the other terms' fit to the brightness, with the same weights.
        shares = -covariance[1:, 0] / covariance[0, 0]
        bright = bright - np.einsum("ni,i->n", design[:, 1:], shares)
        return cls(
            layout,
            float(coefficients[0]),
            float(np.std(np.einsum("ni,i->n", design[:, curved:], coefficients[curved:])) / spread),
            float(coefficients[3]),
            float(np.sqrt(covariance[3, 3])),
            bright,
            weight,
            residual,
            clipped,
            float(layout.count @ high**2 / layout.count.sum() / (noise**2 / 4)),
        )

    def error(self):
        """Return the standard error of the gain."""
        total = np.sum(self.weight * self.bright**2)
        cells = np.arange(len(self.bright))
        white, n_cells = self._jackknife(cells, total)
        labels = [self.layout.blocks(n) for n in BLOCKS]
        blocks = [self._jackknife(label, total) for label in labels]
        few = [error for error, n in blocks if n >= MIN_BLOCKS]
        white = WHITE_ERROR * max([white * np.sqrt(_inflation(n_cells)), *few])
        pattern = self._pattern_error(labels[1], total) * _inflation(blocks[0][1] - PATTERN_TERMS)
        blur = BLUR_ERROR * max(abs(self.blur) - 1.5 * self.blur_error, 0.0)
        curve = CURVE_ERROR * self.curve
        return float(np.sqrt(white**2 + pattern**2 + blur**2 + curve**2))

    def _jackknife(self, block, total):
        """Return the error by leaving out blocks in turn, and their effective number."""
        score = np.bincount(block, self.weight * self.bright * self.residual)
        share = np.bincount(block, self.weight * self.bright**2) / total
        influence = score / total / (1 - np.minimum(share, 0.95))
        return float(np.sqrt(np.sum(influence**2))), float(1 / np.sum(share**2))

    def _pattern_error(self, block, total):
        """Return the error by a pattern, alike over a length, with the residuals' scatter."""
        weight = np.bincount(block, self.weight)
        mean = np.bincount(block, self.weight * self.clipped) / np.maximum(weight, 1e-300)
        n = len(weight)
        noise = np.mean(self.weight * self.clipped**2)
        # The noise of few blocks varies.
        expected = noise * (1 + PATTERN_SIGMA * np.sqrt(2 / n))
        variance = np.sum(weight * mean**2) / max(n - 6, 1) - expected
        variance *= n / weight.sum()
        if variance <= 0:
            return 0.0
        score = np.bincount(block, self.weight * self.bright)
        n_cells = np.bincount(block)
        y, x = (np.bincount(block, axis) / n_cells for axis in (self.layout.y, self.layout.x))
        lag = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / max(self.layout.shape) ** 2
        most = max(score @ np.exp(-lag / (2 * length**2)) @ score for length in LENGTHS)
        return PATTERN_LOST * float(np.sqrt(variance * max(most, 0.0)) / total)


def _scatter(values):
    """Return the scaled median absolute value, never zero."""
    return 1.4826 * median(np.abs(values)) + 1e-12


def _inflation(number):
    """Return the factor on an error of so many independent values."""
    return exp(np.interp(log(max(number - 1, 1)), *LOGARITHMS))
