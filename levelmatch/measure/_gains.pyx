# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The flux scale of a pair from the means of its cells, compiled."""

import numpy as np

from libc.math cimport INFINITY, NAN, atanh, exp, fabs, log, rint, sqrt, tanh
from libc.string cimport memset

cdef extern from "_median.h" nogil:
    double lm_median(double *, Py_ssize_t)

cdef extern from "_normal.h" nogil:
    enum:
        LM_MOST_TERMS
    void lm_normal(const double *, const double *, const double *, Py_ssize_t, Py_ssize_t,
                   double *, double *)

__all__ = ["deviation", "gain_of_cells", "median"]

cdef enum:
    # Number of terms of the fit: the brightness, its derivatives and a quadratic.
    MAX_TERMS = LM_MOST_TERMS
    N_DERIVATIVES = 4
    # Smallest number of cells for a fit, and for a fit with a quadratic.
    MIN_CELLS = 16
    MIN_QUADRATIC = 30
    # Number of iterations, and of those that use Huber's weights, before Tukey's.
    N_ROBUST = 5
    N_HUBER = 2
    N_STEPS = 4
    # Approximate number of blocks of cells that are left out in turn, for two sizes of blocks.
    LARGE_BLOCKS = 12
    SMALL_BLOCKS = 40
    MIN_BLOCKS = 6
    # Number of independent values of a smooth pattern in an overlap that the fit takes up.
    PATTERN_TERMS = 5
# Cells with less than this fraction of the fullest one's samples are left out.
cdef double MIN_FILLED = 0.3
# Cells with residuals of more than this many sigma lose weight.
cdef double CLIP = 5.0
# Fraction of their trace that is added to the diagonal of normal matrices: none is singular.
cdef double RIDGE = 1e-10
# Smallest correlation of the emission of two images.
cdef double MIN_CORRELATION = 0.85
# Smallest variance of the brightness over that of the noise of the difference.
cdef double MIN_CONTRAST = 40.0
# Prior standard deviations of the coefficients of the gradient and the Laplacian, per cell.
cdef double SHIFT = 0.05
cdef double BLUR = 0.03
# Scatter of stars' fluxes from image to image, and the fraction that crosses into the next cell.
cdef double STAR_SCATTER = 0.05
cdef double CROSSING = 0.05
# Error of the gain for a coefficient of the Laplacian.
cdef double BLUR_ERROR = 0.7
# Error of the gain for a quadratic. The part of a smooth pattern that a quadratic lacks is taken to
# be as large a fraction of the pattern as of the brightness.
cdef double CURVE_ERROR = 0.5
# Factor by which jackknife errors of small sets are too small.
cdef double WHITE_ERROR = 1.25
# Largest step of the logarithm of the flux ratio for which the fit is linear.
cdef double CONVERGED = 0.02
# Factor by which the fit reduces a pattern in the residuals.
cdef double PATTERN_LOST = 1.5
# Smallest significance of a pattern that enters the error.
cdef double PATTERN_SIGMA = 2.0
# Correlation lengths of patterns of flats or gradients, as fractions of the overlap.
cdef double[2] LENGTHS = [0.15, 0.3]

include "_inflation.pxi"


cdef void _normal(const double *design, const double *weight, const double *values, Py_ssize_t n,
                  Py_ssize_t k, double *normal, double *right) noexcept nogil:
    """Set the normal matrix and the right-hand side of weighted least squares."""
    cdef double trace = 0.0
    cdef Py_ssize_t i
    lm_normal(design, weight, values, n, k, normal, right)
    for i in range(k):
        trace += normal[k * i + i]
    for i in range(k):
        normal[k * i + i] += RIDGE * trace


cdef void _solve(const double *normal, const double *right, Py_ssize_t k, double *x) noexcept nogil:
    """Solve a positive definite system by Cholesky factorisation."""
    cdef double m[MAX_TERMS * MAX_TERMS]
    cdef Py_ssize_t i, j, l
    for i in range(k):
        x[i] = right[i]
        for j in range(i + 1):
            m[k * i + j] = normal[k * i + j]
            for l in range(j):
                m[k * i + j] -= m[k * i + l] * m[k * j + l]
            if i == j:
                m[k * i + i] = sqrt(max(m[k * i + i], 1e-300))
            else:
                m[k * i + j] /= m[k * j + j]
    for i in range(k):
        for l in range(i):
            x[i] -= m[k * i + l] * x[l]
        x[i] /= m[k * i + i]
    for i in range(k - 1, -1, -1):
        for l in range(i + 1, k):
            x[i] -= m[k * l + i] * x[l]
        x[i] /= m[k * i + i]


cdef double _scatter(const double *values, Py_ssize_t n, double *work) noexcept nogil:
    """Return the scaled median absolute value, never zero."""
    cdef Py_ssize_t c
    for c in range(n):
        work[c] = fabs(values[c])
    return 1.4826 * lm_median(work, n) + 1e-12


def median(const double[::1] values):
    """Return the median of at least one value.

    Parameters
    ----------
    values : `~numpy.ndarray`, shape (n,)
        The values, none of them NaN.
    """
    cdef double found
    cdef double[::1] work = np.array(values)
    cdef Py_ssize_t n = work.shape[0]
    if n == 0:
        msg = "values: there are none"
        raise ValueError(msg)
    with nogil:
        found = lm_median(&work[0], n)
    return found


cdef double _deviation(const double *values, Py_ssize_t n) noexcept nogil:
    """Return the standard deviation."""
    cdef Py_ssize_t c
    cdef double mean = 0.0, square = 0.0
    for c in range(n):
        mean += values[c]
    mean /= n
    for c in range(n):
        square += (values[c] - mean) * (values[c] - mean)
    return sqrt(square / n)


def deviation(const double[::1] values):
    """Return the standard deviation of at least one value, as `numpy.std` does.

    Parameters
    ----------
    values : `~numpy.ndarray`, shape (n,)
        The values.
    """
    return _deviation(&values[0], values.shape[0])


# --------------------------------------------------------------------------------------
# Fits to the cells of a pair


cdef struct Layout:
    # Numbers of cells, rows and columns of the overlap; row and column of each cell.
    Py_ssize_t n
    Py_ssize_t ny
    Py_ssize_t nx
    int *y
    int *x
    # Number of the cell, plus one, at each place of the grid with a margin of one.
    int *number
    # Terms of a quadratic on the sky, or of a plane for few cells; samples of each cell.
    Py_ssize_t k
    double *terms
    double *count
    # Brightness of each cell without the cores of stars, and a sample's weight in the level.
    double *smooth
    double *share
    # Room for one value of each cell.
    double *work


cdef struct Fit:
    # Coefficients of brightness and Laplacian; rms of the fitted quadratic over that of the
    # brightness.
    double gain
    double blur
    double blur_error
    double curve
    # Mean over the cells of what a shift between the images adds, without the cores of stars, and
    # its error.
    double shift
    double shift_error
    # Variance of the brightness over that of the noise.
    double contrast
    # For each cell: terms; brightness, and the brightness without its fit by other terms; weight
    # with the robust weight; residual times the robust weight, and clipped residual.
    double *design
    double *bright
    double *alone
    double *weight
    double *residual
    double *clipped
    # Room for values of each cell.
    double *difference
    double *high
    double *stars
    double *variance
    double *robust


cdef double _median_of(const double *values, Py_ssize_t n, double *work) noexcept nogil:
    cdef Py_ssize_t c
    for c in range(n):
        work[c] = values[c]
    return lm_median(work, n)


cdef void _without_terms(const Layout *layout, const double *values, double *out) noexcept nogil:
    """Subtract the terms of the layout, fitted with the counts of the cells as weights."""
    cdef double normal[MAX_TERMS * MAX_TERMS]
    cdef double right[MAX_TERMS]
    cdef double x[MAX_TERMS]
    cdef Py_ssize_t c, i, k = layout.k
    _normal(layout.terms, layout.count, values, layout.n, k, normal, right)
    _solve(normal, right, k, x)
    for c in range(layout.n):
        out[c] = values[c]
        for i in range(k):
            out[c] -= layout.terms[k * c + i] * x[i]


cdef double _first_ratio(const Layout *layout, const double *a, const double *b, double *one,
                         double *two) noexcept nogil:
    """Return the logarithm of the ratio of the emission of two images, NaN if uncorrelated."""
    cdef double square_a = 0.0, square_b = 0.0, product = 0.0
    cdef Py_ssize_t c
    _without_terms(layout, a, one)
    _without_terms(layout, b, two)
    for c in range(layout.n):
        square_a += layout.count[c] * one[c] * one[c]
        square_b += layout.count[c] * two[c] * two[c]
        product += layout.count[c] * one[c] * two[c]
    if not (square_a > 0 and square_b > 0
            and product > MIN_CORRELATION * sqrt(square_a) * sqrt(square_b)):
        return NAN
    return 0.5 * log(square_a / square_b)


cdef void _robust_fit(const Layout *layout, Fit *fit, Py_ssize_t k, double noise,
                      double *coefficients, double *normal, double *last_noise) noexcept nogil:
    """Fit the design to the difference, with Huber's weights first, and then Tukey's.

    Sources that only one image shows, and saturated stars, get no weight.
    """
    cdef double right[MAX_TERMS]
    cdef double typical = _median_of(layout.count, layout.n, layout.work), scale, sigma
    cdef Py_ssize_t c, i, step, n = layout.n
    for c in range(n):
        fit.robust[c] = 1.0
    for step in range(N_ROBUST):
        for c in range(n):
            fit.variance[c] = noise * noise * typical / layout.count[c] + fit.stars[c]
            fit.weight[c] = fit.robust[c] / fit.variance[c]
        _normal(fit.design, fit.weight, fit.difference, n, k, normal, right)
        for i in range(1, N_DERIVATIVES):
            normal[k * i + i] += 1 / (BLUR * BLUR if i == 3 else SHIFT * SHIFT)
        _solve(normal, right, k, coefficients)
        for c in range(n):
            fit.residual[c] = fit.difference[c]
            for i in range(k):
                fit.residual[c] -= fit.design[k * c + i] * coefficients[i]
        noise = _scatter(fit.residual, n, layout.work)
        for c in range(n):
            fit.clipped[c] = fabs(fit.residual[c]) / sqrt(fit.variance[c])
        scale = 1 / (CLIP * max(1.4826 * _median_of(fit.clipped, n, layout.work), 0.3))
        for c in range(n):
            sigma = fit.clipped[c] * scale
            fit.clipped[c] = fit.residual[c] / max(sigma, 1.0)
            if step < N_HUBER:
                fit.robust[c] = 1 / max(sigma, 1.0)
            else:
                fit.robust[c] = max(1 - sigma * sigma, 0.0) ** 2
    for c in range(n):
        fit.residual[c] *= fit.robust[c]
    last_noise[0] = noise


cdef void _set_design(const Layout *layout, const double *a, const double *b, double factor,
                      Fit *fit) noexcept nogil:
    """Set the difference, the brightness, its derivatives, and the variance due to stars."""
    cdef Py_ssize_t c, i, at, k = N_DERIVATIVES + layout.k, width = layout.nx + 2
    cdef double right, left, above, below, own, step
    cdef double *row
    for c in range(layout.n):
        fit.difference[c] = a[c] - factor * b[c]
        fit.bright[c] = 0.5 * (a[c] + factor * b[c])
    _without_terms(layout, fit.bright, fit.high)
    for c in range(layout.n):
        at = (layout.y[c] + 1) * width + layout.x[c] + 1
        own = fit.bright[c]
        # Missing neighbours get the brightness of the cell.
        right = _value_at(layout, fit.bright, at + 1, own)
        left = _value_at(layout, fit.bright, at - 1, own)
        above = _value_at(layout, fit.bright, at + width, own)
        below = _value_at(layout, fit.bright, at - width, own)
        step = max(max(fabs(right - own), fabs(left - own)),
                   max(fabs(above - own), fabs(below - own)))
        fit.stars[c] = (STAR_SCATTER * fit.high[c]) ** 2 + (CROSSING * step) ** 2
        row = fit.design + k * c
        row[0] = own
        row[1] = 0.5 * (right - left)
        row[2] = 0.5 * (above - below)
        row[3] = right + left + above + below - 4 * own
        for i in range(layout.k):
            row[N_DERIVATIVES + i] = layout.terms[layout.k * c + i]


cdef inline double _value_at(const Layout *layout, const double *values, Py_ssize_t at,
                             double missing) noexcept nogil:
    cdef int number = layout.number[at]
    return values[number - 1] if number > 0 else missing


cdef void _mean_gradient(const Layout *layout, double *out) noexcept nogil:
    """Set the mean gradient, along x and y, of the brightness without the cores of stars."""
    cdef Py_ssize_t c, i, at, width = layout.nx + 2
    cdef Py_ssize_t[2] steps = [1, width]
    cdef double own, step, weight, total = 0.0
    out[0] = out[1] = 0.0
    for c in range(layout.n):
        at = (layout.y[c] + 1) * width + layout.x[c] + 1
        own = layout.smooth[c]
        weight = layout.count[c] * layout.share[c]
        total += weight
        for i in range(2):
            step = _value_at(layout, layout.smooth, at + steps[i], own)
            step -= _value_at(layout, layout.smooth, at - steps[i], own)
            out[i] += 0.5 * weight * step
    if total > 0:
        out[0] /= total
        out[1] /= total


cdef void _fit(const Layout *layout, const double *a, const double *b, double factor,
               Fit *fit) noexcept nogil:
    """Fit the brightness, its derivatives and a quadratic to the difference."""
    cdef double coefficients[MAX_TERMS]
    cdef double normal[MAX_TERMS * MAX_TERMS]
    cdef double unit[MAX_TERMS]
    cdef double of_gain[MAX_TERMS]
    cdef double of_blur[MAX_TERMS]
    cdef double of_shift[MAX_TERMS]
    cdef double noise = 0.0, signal = 0.0, total = 0.0
    cdef Py_ssize_t c, i, k = N_DERIVATIVES + layout.k
    # Index of the first quadratic term, or of the first linear term for few cells.
    cdef Py_ssize_t curved = N_DERIVATIVES + (3 if layout.k > 3 else 1)
    _set_design(layout, a, b, factor, fit)
    _without_terms(layout, fit.difference, fit.alone)
    _robust_fit(layout, fit, k, _scatter(fit.alone, layout.n, layout.work), coefficients, normal,
                &noise)
    for i in range(k):
        unit[i] = 1.0 if i == 0 else 0.0
    _solve(normal, unit, k, of_gain)
    for i in range(k):
        unit[i] = 1.0 if i == 3 else 0.0
    _solve(normal, unit, k, of_blur)
    unit[3] = 0.0
    _mean_gradient(layout, unit + 1)
    _solve(normal, unit, k, of_shift)
    for c in range(layout.n):
        # Brightness minus the fit of the other terms, with the same weights.
        fit.alone[c] = fit.bright[c]
        for i in range(1, k):
            fit.alone[c] += fit.design[k * c + i] * of_gain[i] / of_gain[0]
        layout.work[c] = 0.0
        for i in range(curved, k):
            layout.work[c] += fit.design[k * c + i] * coefficients[i]
        signal += layout.count[c] * fit.high[c] * fit.high[c]
        total += layout.count[c]
    fit.gain = coefficients[0]
    fit.curve = _deviation(layout.work, layout.n) / _deviation(fit.bright, layout.n)
    fit.blur = coefficients[3]
    fit.blur_error = sqrt(of_blur[3])
    fit.shift = unit[1] * coefficients[1] + unit[2] * coefficients[2]
    fit.shift_error = sqrt(unit[1] * of_shift[1] + unit[2] * of_shift[2])
    fit.contrast = signal / total / (noise * noise / 4)


# --------------------------------------------------------------------------------------
# The error of the gain


cdef struct Block:
    # Sums over the cells of a block: weight; weight times brightness, squared brightness, residual
    # times brightness, and clipped residual; number of cells, rows and columns.
    double weight
    double bright
    double square
    double score
    double clipped
    double n
    double y
    double x


cdef Py_ssize_t _sum_blocks(const Layout *layout, const Fit *fit, Py_ssize_t number,
                            Block *blocks) noexcept nogil:
    """Sum over the cells of about ``number`` square blocks; return the number of blocks used."""
    cdef double side = max(sqrt(layout.n / <double> number), 1.0), w
    cdef Py_ssize_t rows = <Py_ssize_t> max(rint(layout.ny / side), 1.0)
    cdef Py_ssize_t columns = <Py_ssize_t> max(rint(layout.nx / side), 1.0), c, used = 0
    cdef Block *block
    memset(blocks, 0, rows * columns * sizeof(Block))
    for c in range(layout.n):
        block = blocks + (layout.y[c] * rows // layout.ny) * columns
        block += layout.x[c] * columns // layout.nx
        w = fit.weight[c]
        block.weight += w
        block.bright += w * fit.alone[c]
        block.square += w * fit.alone[c] * fit.alone[c]
        block.score += w * fit.alone[c] * fit.residual[c]
        block.clipped += w * fit.clipped[c]
        block.n += 1
        block.y += layout.y[c]
        block.x += layout.x[c]
    for c in range(rows * columns):
        if blocks[c].n > 0:
            blocks[used] = blocks[c]
            used += 1
    return used


cdef double _jackknife(const Block *blocks, Py_ssize_t n, double total,
                       double *number) noexcept nogil:
    """Return the jackknife error over blocks, and set their effective number."""
    cdef double square = 0.0, shares = 0.0, share, influence
    cdef Py_ssize_t i
    for i in range(n):
        share = blocks[i].square / total
        influence = blocks[i].score / total / (1 - min(share, 0.95))
        square += influence * influence
        shares += share * share
    number[0] = 1 / shares
    return sqrt(square)


cdef double _pattern_error(const Layout *layout, const Fit *fit, const Block *blocks,
                           Py_ssize_t n, double total) noexcept nogil:
    """Return the error due to a correlated pattern of the size of the residuals' scatter."""
    cdef double noise = 0.0, weight = 0.0, square = 0.0, variance, most = 0.0, product, lag
    cdef Py_ssize_t c, i, j, length, longest = max(layout.ny, layout.nx)
    for c in range(layout.n):
        noise += fit.weight[c] * fit.clipped[c] * fit.clipped[c]
    for i in range(n):
        weight += blocks[i].weight
        square += blocks[i].clipped * blocks[i].clipped / max(blocks[i].weight, 1e-300)
    # The noise of few blocks is uncertain, so a pattern must exceed it.
    variance = square / max(n - 6, 1)
    variance -= noise / layout.n * (1 + PATTERN_SIGMA * sqrt(2.0 / n))
    variance *= n / weight
    if not variance > 0:
        return 0.0
    for length in range(2):
        product = 0.0
        for i in range(n):
            product += blocks[i].bright * blocks[i].bright
            for j in range(i):
                lag = ((blocks[i].y / blocks[i].n - blocks[j].y / blocks[j].n) ** 2
                       + (blocks[i].x / blocks[i].n - blocks[j].x / blocks[j].n) ** 2)
                lag /= longest * longest * 2 * LENGTHS[length] * LENGTHS[length]
                product += 2 * blocks[i].bright * blocks[j].bright * exp(-lag)
        most = max(most, product)
    return PATTERN_LOST * sqrt(variance * most) / total


cdef double _error(const Layout *layout, const Fit *fit, Block *blocks) noexcept nogil:
    """Return the standard error of the gain."""
    cdef double total = 0.0, squares = 0.0, shares = 0.0, white, number, share, influence, error
    cdef double pattern, blur, curve
    cdef Py_ssize_t c, n
    for c in range(layout.n):
        total += fit.weight[c] * fit.alone[c] * fit.alone[c]
    for c in range(layout.n):
        share = fit.weight[c] * fit.alone[c] * fit.alone[c] / total
        influence = fit.weight[c] * fit.alone[c] * fit.residual[c] / total
        influence /= 1 - min(share, 0.95)
        squares += influence * influence
        shares += share * share
    white = sqrt(squares) * sqrt(_inflation(1 / shares))
    n = _sum_blocks(layout, fit, SMALL_BLOCKS, blocks)
    error = _jackknife(blocks, n, total, &number)
    if number >= MIN_BLOCKS:
        white = max(white, error)
    pattern = _pattern_error(layout, fit, blocks, n, total)
    n = _sum_blocks(layout, fit, LARGE_BLOCKS, blocks)
    error = _jackknife(blocks, n, total, &number)
    if number >= MIN_BLOCKS:
        white = max(white, error)
    white *= WHITE_ERROR
    pattern *= _inflation(number - PATTERN_TERMS)
    blur = BLUR_ERROR * max(fabs(fit.blur) - 1.5 * fit.blur_error, 0.0)
    curve = CURVE_ERROR * fit.curve
    return sqrt(white * white + pattern * pattern + blur * blur + curve * curve)


# --------------------------------------------------------------------------------------
# The gain


cdef void _set_terms(Layout *layout, const double *place) noexcept nogil:
    """Set the terms from two coordinates of each cell, scaled to -0.5 to 0.5."""
    cdef Py_ssize_t c, i
    cdef double low[2]
    cdef double high[2]
    cdef double at[2]
    cdef double *row
    for i in range(2):
        low[i] = high[i] = place[i]
        for c in range(layout.n):
            low[i] = min(low[i], place[2 * c + i])
            high[i] = max(high[i], place[2 * c + i])
    for c in range(layout.n):
        for i in range(2):
            at[i] = place[2 * c + i] - (low[i] + high[i]) / 2
            at[i] /= max(high[i] - low[i], 1e-300)
        row = layout.terms + layout.k * c
        row[0] = 1.0
        row[1] = at[1]
        row[2] = at[0]
        if layout.k > 3:
            row[3] = at[1] * at[1]
            row[4] = at[1] * at[0]
            row[5] = at[0] * at[0]


cdef double _gain(const Layout *layout, double *a, double *b, Fit *fit, Block *blocks,
                  double *error) noexcept nogil:
    """Return the gain, NaN if the cells do not determine it, and set its error."""
    cdef double spread = _deviation(a, layout.n) + _deviation(b, layout.n)
    cdef double low_a, low_b, ratio, step, gain
    cdef Py_ssize_t c, n = layout.n
    error[0] = INFINITY
    if not spread > 0:
        return NAN
    for c in range(n):
        a[c] /= spread
        b[c] /= spread
    low_a = _median_of(a, n, layout.work)
    low_b = _median_of(b, n, layout.work)
    for c in range(n):
        a[c] -= low_a
        b[c] -= low_b
    ratio = _first_ratio(layout, a, b, fit.alone, fit.high)
    if ratio != ratio:
        return NAN
    for c in range(N_STEPS):
        _fit(layout, a, b, exp(ratio), fit)
        step = 2 * atanh(min(max(fit.gain / 2, -0.99), 0.99))
        ratio += step
        if fabs(step) < CONVERGED:
            break
    if not fit.contrast > MIN_CONTRAST:
        return NAN
    gain = 2 * tanh(ratio / 2)
    error[0] = _error(layout, fit, blocks) * (1 - gain * gain / 4)
    return gain


def gain_of_cells(const Py_ssize_t[:, ::1] index, const double[::1] count,
                  const double[::1] first, const double[::1] second, const double[::1] smooth,
                  const double[::1] share, const double[:, ::1] place):
    """Return the relative difference of the flux scales of two images, and the effect of a shift.

    Parameters
    ----------
    index : `~numpy.ndarray` of intp, shape (n, 2)
        Row and column of each cell.
    count : `~numpy.ndarray`, shape (n,)
        Samples in each cell.
    first, second : `~numpy.ndarray`, shape (n,)
        Mean of each image in each cell.
    smooth : `~numpy.ndarray`, shape (n,)
        Mean brightness of each cell without the cores of stars.
    share : `~numpy.ndarray`, shape (n,)
        Weight of a sample of each cell in the level.
    place : `~numpy.ndarray`, shape (n, 2)
        Two coordinates of each cell on the sky.

    Returns
    -------
    gain, error, shift, shift_error : float
        See `~levelmatch.measure.gains.compare_emission`.
    """
    cdef Py_ssize_t n = 0, c, i, k, columns
    cdef Py_ssize_t low[2]
    cdef Py_ssize_t high[2]
    cdef Layout layout
    cdef Fit fit
    cdef double gain, error, most = 0.0
    if len({len(index), len(count), len(first), len(second), len(smooth), len(share),
            len(place)}) > 1:
        msg = f"count: {len(count)} for columns of other lengths"
        raise ValueError(msg)
    for c in range(count.shape[0]):
        most = max(most, count[c])
    for c in range(count.shape[0]):
        if not count[c] >= MIN_FILLED * most:
            continue
        for i in range(2):
            low[i] = min(low[i], index[c, i]) if n else index[c, i]
            high[i] = max(high[i], index[c, i]) if n else index[c, i]
        n += 1
    if n < MIN_CELLS:
        return np.nan, np.inf, np.nan, np.inf
    k = 6 if n >= MIN_QUADRATIC else 3
    layout.n, layout.k = n, k
    layout.ny = high[0] - low[0] + 1
    layout.nx = high[1] - low[1] + 1
    columns = 2 * k + N_DERIVATIVES + 19
    cdef double[::1] room = np.empty(columns * n)
    cdef int[::1] places = np.empty(2 * n, np.intc)
    cdef int[::1] number = np.zeros((layout.ny + 2) * (layout.nx + 2), np.intc)
    # A block has at least one cell on a side, so the grid has room for all blocks.
    cdef char[::1] blocks = np.empty(layout.ny * layout.nx * sizeof(Block), np.int8)
    cdef double *buffer = &room[0]
    cdef double *a = buffer
    cdef double *b = buffer + n
    cdef double *where = buffer + (2 * k + N_DERIVATIVES + 17) * n
    cdef double **ends[14]
    ends[:] = [
        &layout.count, &layout.work, &fit.bright, &fit.alone, &fit.weight, &fit.residual,
        &fit.clipped, &fit.difference, &fit.high, &fit.stars, &fit.variance, &fit.robust,
        &layout.smooth, &layout.share]
    for c in range(14):
        ends[c][0] = buffer + (c + 2) * n
    layout.terms = buffer + 16 * n
    fit.design = layout.terms + k * n
    layout.y, layout.x, layout.number = &places[0], &places[n], &number[0]
    with nogil:
        n = 0
        for c in range(count.shape[0]):
            if not count[c] >= MIN_FILLED * most:
                continue
            layout.y[n] = index[c, 0] - low[0]
            layout.x[n] = index[c, 1] - low[1]
            layout.number[(layout.y[n] + 1) * (layout.nx + 2) + layout.x[n] + 1] = n + 1
            layout.count[n] = count[c]
            a[n] = first[c]
            b[n] = second[c]
            layout.smooth[n] = smooth[c]
            layout.share[n] = share[c]
            where[2 * n] = place[c, 0]
            where[2 * n + 1] = place[c, 1]
            n += 1
        _set_terms(&layout, where)
        gain = _gain(&layout, a, b, &fit, <Block *> &blocks[0], &error)
    if gain != gain:
        return gain, error, np.nan, np.inf
    return gain, error, fit.shift, fit.shift_error
