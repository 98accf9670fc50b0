# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The quantities of a pair from its cells, compiled: with so few cells numpy is all overhead."""

import numpy as np

from levelmatch.measure.table import PAIR

from libc.math cimport (
    INFINITY, NAN, asinh, atan2, cos, exp, fabs, floor, hypot, isfinite, log, sin, sqrt)
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

cdef extern from "_median.h" nogil:
    double lm_median(double *, Py_ssize_t)

__all__ = [
    "PAIR_CELL",
    "cell_means",
    "pair_cells",
    "set_other_frame",
    "summarise_cells",
    "summarise_pairs",
]

cdef double ARCMIN = 180 * 60 / 3.141592653589793
# Weight, in cells, of the prior that the cells scatter as their pixels' noise predicts.
cdef double PRIOR_CELLS = 10
# Cells farther than this many sigma from the pair's plane are left out, if they are at least
# MIN_ROBUST, unless their neighbours make up for them to within COMPENSATED sigma.
cdef double CELL_CLIP = 4.0
cdef double COMPENSATED = 3.0
# Around cells farther than FAR_CLIP sigma, as trails leave them, cells that are off in the same
# direction by more than NEAR_CLIP sigma are left out, too.
cdef double FAR_CLIP = 5.0
cdef double NEAR_CLIP = 1.5
cdef enum:
    MIN_ROBUST = 6
    N_ROBUST = 8
    N_ABSOLUTE = 4
    # Families of strips: rows and columns of both images, then blocks of 2, 4, 8 and 16 cells.
    N_LINES = 4
    N_FAMILIES = 8
# Smallest scatter, for images of zeros: the smallest normal float32.
cdef double LEAST = 1.1754943508222875e-38
# Least number of samples per coarser pixel from which its noise is told from the finer's.
cdef double MIN_COARSE = 1.5

# A cell as `summarise_cells` takes it.
PAIR_CELL = np.dtype(
    [
        # Unit vector of the centroid.
        ("vector", "f8", (3,)),
        # The cell's level, that of a plain clip, and the brightness.
        ("location", "f8"),
        ("clipped", "f8"),
        ("brightness", "f8"),
        # Weight of the cell in the pair, and variance of its location.
        ("weight", "f8"),
        ("variance", "f8"),
        # Variance of a difference, from noise, and the measured scatter.
        ("pixel_variance", "f8"),
        ("scatter", "f8"),
        # Number of differences, and of the images that cover the cell.
        ("npix", "f8"),
        ("depth", "f8"),
        # Sums of what is clipped from the cell's differences, and from its brightness.
        ("star_diff", "f8"),
        ("star_flux", "f8"),
        # What a median adds to the variance, as a fraction of that of a mean.
        ("excess", "f8"),
        # Index in the grid.
        ("y", "i8"),
        ("x", "i8"),
        # Row and column of the other image, in its own cells.
        ("other_y", "i8"),
        ("other_x", "i8"),
        # Whether both images show a source.
        ("source", "i8"),
    ]
)

cdef packed struct CellRow:
    double vector[3]
    double location
    double clipped
    double brightness
    double weight
    double variance
    double pixel_variance
    double scatter
    double npix
    double depth
    double star_diff
    double star_flux
    double excess
    long long y
    long long x
    long long other_y
    long long other_x
    long long source


cdef packed struct PairRow:
    double gram[3][3]
    double rhs[3]
    double axes[3][3]
    double sigma
    double scatter
    double chi2
    long long npix
    double extent[2]
    double gain
    double gain_error
    double shift
    double shift_error
    double bright
    float strips[8][9]
    double turn
    double step[2]
    double neighbours[2]
    double wings
    double wings_error
    double wings_term
    double wings_light
    double wide_wings
    double wide_wings_error
    double wide_wings_term


include "_measured.pxi"
include "_plane.pxi"


# --------------------------------------------------------------------------------------
# The cells of a pair


def pair_cells(const MeasuredCell[::1] values, const Py_ssize_t[:, ::1] index,
               const double[:, ::1] vectors, double sign, double eps, bint use_median,
               bint structure):
    """Return the cells of a pair from the cells of the kernel.

    Parameters
    ----------
    values : `~numpy.ndarray` of `~levelmatch.measure._cells.CELL`, shape (n,)
        The kernel's cells; n is 1 or more.
    index : `~numpy.ndarray` of intp, shape (n, 2)
        Row and column of each cell in the grid.
    vectors : `~numpy.ndarray`, shape (n, 3)
        Unit vectors of the centroids.
    sign : float
        Sign of the differences, -1 if the kernel's first image is the pair's second.
    eps : float
        Rounding error of the images, as a fraction of their values.
    use_median : bool
        Whether the locations are medians.
    structure : bool
        Whether each cell has its own noise; otherwise all cells have the typical noise.

    Returns
    -------
    cells : `~numpy.ndarray` of `PAIR_CELL`, shape (n,)
        The cells, without their depth and their place in the other image.
    smooth : float
        Median over the cells of the variance of a sample over that of a pixel.
    """
    cdef Py_ssize_t n = values.shape[0], c, i
    cells_array = np.zeros(n, PAIR_CELL)
    cdef CellRow[::1] cells = cells_array
    cdef double[::1] work = np.empty(n)
    cdef double typical, smooth, least, noise, brightest = 0.0
    cdef const MeasuredCell *value
    cdef CellRow *cell
    if index.shape[0] != n or vectors.shape[0] != n:
        msg = f"index: {index.shape[0]} and {vectors.shape[0]} vectors for {n} cells"
        raise ValueError(msg)
    with nogil:
        for c in range(n):
            value = &values[c]
            cell = &cells[c]
            # The noise of a mean is that of the pixels, whatever the smoothing of the samples.
            cell.scatter = value.scatter / sqrt(value.smooth)
            brightest = max(brightest, fabs(value.brightness))
            work[c] = cell.scatter
        typical = lm_median(&work[0], n)
        # A cell of a few equal values must not take all of the weight. Images that are copies of
        # each other differ by nothing, but are known no better than their rounding.
        least = max(0.25 * typical, max(eps * brightest, LEAST))
        for c in range(n):
            value = &values[c]
            cell = &cells[c]
            for i in range(3):
                cell.vector[i] = vectors[c, i]
            cell.location = sign * value.location
            cell.clipped = sign * value.clipped
            cell.star_diff = sign * value.star_diff
            cell.brightness = value.brightness
            cell.star_flux = value.star_flux
            cell.excess = (0.5 * 3.141592653589793 - 1) * value.smooth if use_median else 0.0
            noise = max(cell.scatter if structure else typical, least)
            cell.pixel_variance = (1 + cell.excess) * noise * noise
            cell.weight = value.weight / cell.pixel_variance
            cell.variance = cell.pixel_variance * value.square / (value.weight * value.weight)
            cell.npix = value.kept
            cell.y = cell.other_y = index[c, 0]
            cell.x = cell.other_x = index[c, 1]
            cell.source = value.square < value.weight * (1 - 1e-6)
            work[c] = value.smooth
        smooth = lm_median(&work[0], n)
    return cells_array, smooth


def cell_means(const CellRow[::1] cells, const long long[:] samples):
    """Return the means of all samples of two images in the cells of a pair, nothing clipped.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `PAIR_CELL`, shape (n,)
        The cells; n is 1 or more.
    samples : `~numpy.ndarray` of int64, shape (n,)
        Number of good samples of each cell.

    Returns
    -------
    index : `~numpy.ndarray` of intp, shape (n, 2)
        Row and column of each cell.
    count, first, second : `~numpy.ndarray`, shape (n,)
        Number of differences, and the mean of each image. `None` instead of all if a mean is not
        finite: sums of pixels near the largest number overflow.
    place : `~numpy.ndarray`, shape (n, 2)
        Coordinates of the cells on the plane that touches the sky at their centre.
    """
    cdef Py_ssize_t n = cells.shape[0], c, i
    cdef double difference, bright
    cdef double axes[9]
    cdef bint finite = True
    if samples.shape[0] != n:
        msg = f"samples: {samples.shape[0]} for {n} cells"
        raise ValueError(msg)
    index_array, means_array = np.empty((n, 2), np.intp), np.empty((3, n))
    place_array = np.empty((n, 2))
    cdef Py_ssize_t[:, ::1] index = index_array
    cdef double[:, ::1] means = means_array
    cdef double[:, ::1] place = place_array
    with nogil:
        memset(axes, 0, sizeof(axes))
        for c in range(n):
            difference = cells[c].clipped + cells[c].star_diff / samples[c]
            bright = cells[c].brightness + cells[c].star_flux / samples[c]
            index[c, 0] = cells[c].y
            index[c, 1] = cells[c].x
            means[0, c] = cells[c].npix
            means[1, c] = bright + difference / 2
            means[2, c] = bright - difference / 2
            finite = finite and isfinite(means[1, c]) and isfinite(means[2, c])
            for i in range(3):
                axes[i] += cells[c].vector[i]
        _tangent_axes(axes)
        for c in range(n):
            for i in range(2):
                place[c, i] = (cells[c].vector[0] * axes[3 * i + 3]
                               + cells[c].vector[1] * axes[3 * i + 4]
                               + cells[c].vector[2] * axes[3 * i + 5])
    return (index_array, *means_array, place_array) if finite else None


def set_other_frame(CellRow[::1] cells, const double[:, ::1] map_x, const double[:, ::1] map_y,
                    double width, double height):
    """Set the rows and columns of cells in the other image; return the angle between rows.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `PAIR_CELL`, shape (n,)
        The cells; n is 1 or more.
    map_x, map_y : 2D `~numpy.ndarray`
        Pixel coordinates of the grid's nodes in the other image.
    width, height : float
        Size of the other image's cells, in pixels.

    Returns
    -------
    turn : float
        The angle in degrees, 0 to 90.
    """
    cdef Py_ssize_t n = cells.shape[0], c, y, x
    cdef double left_x, right_x, left_y, right_y
    cdef double[:, ::1] step = np.empty((2, n))
    with nogil:
        for c in range(n):
            y = cells[c].y
            x = cells[c].x
            left_x = map_x[y, x] + map_x[y + 1, x]
            right_x = map_x[y, x + 1] + map_x[y + 1, x + 1]
            left_y = map_y[y, x] + map_y[y + 1, x]
            right_y = map_y[y, x + 1] + map_y[y + 1, x + 1]
            cells[c].other_x = <long long> floor((left_x + right_x) / 4 / width)
            cells[c].other_y = <long long> floor((left_y + right_y) / 4 / height)
            step[0, c] = right_x - left_x
            step[1, c] = right_y - left_y
        right_x = fabs(lm_median(&step[0, 0], n))
        right_y = fabs(lm_median(&step[1, 0], n))
    return atan2(right_y, right_x) * (180 / 3.141592653589793)


# --------------------------------------------------------------------------------------
# The cells that agree on a plane


cdef struct Fit:
    # The cells, their terms (1, u, v), locations and weights.
    const CellRow *cells
    Py_ssize_t n
    double *terms
    double *location
    double *weight
    # The plane, which cells agree with it, how far they are off in sigma, and room for n values.
    double plane[3]
    double *keep
    double *z
    double *work
    double middle
    # Number of each cell, plus one, on the grid with a margin of one; rows and columns of it.
    int *number
    Py_ssize_t ny
    Py_ssize_t nx


cdef double _off(const Fit *fit, Py_ssize_t c) noexcept nogil:
    """How far a cell is off the plane."""
    return fit.location[c] - _value(fit.terms + 3 * c, fit.plane)


cdef int _about(const Fit *fit, Py_ssize_t c, Py_ssize_t *found) noexcept nogil:
    """Find a cell and its neighbours, at most nine; return how many."""
    cdef Py_ssize_t at = (fit.cells[c].y + 1) * fit.nx + fit.cells[c].x + 1, dy, dx, k
    cdef int n = 0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            k = fit.number[at + dy * fit.nx + dx] - 1
            if k >= 0:
                found[n] = k
                n += 1
    return n


cdef Py_ssize_t _agree(Fit *fit) noexcept nogil:
    """Find the cells that agree with the plane; return how many."""
    cdef Py_ssize_t c, count = 0
    cdef double limit
    for c in range(fit.n):
        fit.z[c] = fabs(_off(fit, c)) / sqrt(fit.cells[c].variance)
        fit.work[c] = fit.z[c]
    fit.middle = lm_median(fit.work, fit.n)
    # Never tighter than the pixels' own noise allows.
    limit = CELL_CLIP * max(1.4826 * fit.middle, 1.0)
    for c in range(fit.n):
        fit.keep[c] = 1.0 if fit.z[c] <= limit else 0.0
        fit.work[c] = 0.0
    for c in range(fit.n):
        if fit.z[c] > limit and fit.cells[c].source and _compensated(fit, c):
            _keep_about(fit, c)
    _leave_out_about(fit, limit / CELL_CLIP)
    for c in range(fit.n):
        count += fit.keep[c] > 0
    return count


cdef void _leave_out_about(Fit *fit, double unit) noexcept nogil:
    """Leave out neighbours of cells far off which are off in the same direction.

    Neighbours of sources that both images show stay. The unit is that of the distances in sigma.
    """
    cdef Py_ssize_t found[9]
    cdef Py_ssize_t c, k
    cdef int i
    for c in range(fit.n):
        if fit.keep[c] > 0 or fit.z[c] <= FAR_CLIP * unit or fit.cells[c].source:
            continue
        for i in range(_about(fit, c, found)):
            k = found[i]
            if fit.work[k] == 0 and fit.z[k] > NEAR_CLIP * unit and _off(fit, k) * _off(fit, c) > 0:
                fit.keep[k] = 0.0


cdef bint _compensated(const Fit *fit, Py_ssize_t c) noexcept nogil:
    """Whether a cell's residual and those of its neighbours add up to nothing but noise.

    So they do where a source, seen through two PSFs, reaches from the cell into its neighbours.
    """
    cdef Py_ssize_t found[9]
    cdef Py_ssize_t k
    cdef int i
    cdef double total = 0.0, variance = 0.0
    for i in range(_about(fit, c, found)):
        k = found[i]
        total += fit.weight[k] * _off(fit, k)
        variance += fit.weight[k] * fit.weight[k] * fit.cells[k].variance
    return total * total <= COMPENSATED * COMPENSATED * variance


cdef void _keep_about(Fit *fit, Py_ssize_t c) noexcept nogil:
    """Keep a cell and its neighbours."""
    cdef Py_ssize_t found[9]
    cdef int i
    for i in range(_about(fit, c, found)):
        fit.keep[found[i]] = fit.work[found[i]] = 1.0


cdef void _robust_plane(Fit *fit, double *other, double *before) noexcept nogil:
    """Fit a plane to the cells that agree on it, and find those; the buffers hold n values."""
    cdef Py_ssize_t c, step, count
    cdef bint same
    _fit(fit.terms, fit.location, fit.weight, fit.n, fit.plane)
    count = _agree(fit)
    if fit.n < MIN_ROBUST or count == fit.n:
        for c in range(fit.n):
            fit.keep[c] = 1.0
        return
    # Least absolute deviations first: many cells with one wrong level would carry
    # least squares with them; a few do not.
    for step in range(N_ABSOLUTE if count < 0.95 * fit.n else 0):
        for c in range(fit.n):
            other[c] = fit.weight[c] / max(fit.z[c], fit.middle / 4 + 1e-300)
        _fit(fit.terms, fit.location, other, fit.n, fit.plane)
        count = _agree(fit)
    for step in range(N_ROBUST):
        for c in range(fit.n):
            before[c] = fit.keep[c]
            other[c] = fit.weight[c] * fit.keep[c]
        _fit(fit.terms, fit.location, other, fit.n, fit.plane)
        count = _agree(fit)
        same = True
        for c in range(fit.n):
            same = same and before[c] == fit.keep[c]
        if same:
            break


include "_inflation.pxi"
include "_strips.pxi"
include "_wings.pxi"


# --------------------------------------------------------------------------------------
# The pair


cdef void _tangent_axes(double *axes) noexcept nogil:
    """Find East and North at the centre, the first three numbers, and make it a unit vector."""
    cdef double norm = sqrt(axes[0] * axes[0] + axes[1] * axes[1] + axes[2] * axes[2])
    cdef double lon, lat
    cdef Py_ssize_t i
    for i in range(3):
        axes[i] /= norm
    lon = atan2(axes[1], axes[0])
    lat = atan2(axes[2], hypot(axes[0], axes[1]))
    axes[3] = -sin(lon)
    axes[4] = cos(lon)
    axes[5] = 0.0
    axes[6] = -sin(lat) * cos(lon)
    axes[7] = -sin(lat) * sin(lon)
    axes[8] = cos(lat)


cdef void _set_terms(const CellRow *cells, Py_ssize_t n, double *axes, double *terms) noexcept nogil:
    """Find the axes at the weighted centre of the cells, and the cells' terms about it."""
    cdef Py_ssize_t c, i
    for c in range(n):
        for i in range(3):
            axes[i] += cells[c].weight * cells[c].vector[i]
    _tangent_axes(axes)
    for c in range(n):
        terms[3 * c] = 1.0
        for i in range(1, 3):
            terms[3 * c + i] = ARCMIN * (
                cells[c].vector[0] * axes[3 * i] + cells[c].vector[1] * axes[3 * i + 1]
                + cells[c].vector[2] * axes[3 * i + 2])


cdef double _shared_noise(double chi2, double coarseness, double own_part) noexcept nogil:
    """Return the variance of the mean of many cells over that of as many independent ones.

    The noise of a coarser image's pixel is the same in all samples of it. Its share of the noise
    follows from what it adds to the scatter of the cells.
    """
    cdef double most = coarseness * own_part, coarse
    if most < MIN_COARSE:
        return 1 / own_part
    coarse = min(max((chi2 - 1) / (most - 1), 0.0), 1.0)
    return (1 - coarse + coarseness * coarse) / (1 - coarse + most * coarse)


cdef void _set_level(Fit *fit, double coarseness, double own_part, double *used,
                     PairRow *row) noexcept nogil:
    """Set the normal equations, the error and the scatter of a pair."""
    cdef Py_ssize_t c
    cdef const CellRow *cell
    cdef double w, residual, n_used = 0.0, squares = 0.0, total = 0.0, own = 0.0
    cdef double kept = 0.0, spread = 0.0, variance, fourth = 0.0, freedom
    for c in range(fit.n):
        cell = fit.cells + c
        residual = _off(fit, c)
        w = fit.keep[c] * fit.weight[c]
        n_used += fit.keep[c]
        squares += w * w * residual * residual
        total += w
        own += w * w * cell.variance
        fourth += (w * w * cell.variance) ** 2
        kept += fit.keep[c] * cell.npix
        spread += fit.keep[c] * cell.npix * (cell.scatter * cell.scatter + residual * residual)
    row.chi2 = 1.0
    if n_used > 3:
        # Of cells with unequal weights fewer count; the plane takes three.
        freedom = own * own / fourth * (n_used - 3) / n_used
        row.chi2 = PRIOR_CELLS + freedom * squares / own * n_used / (n_used - 3)
        row.chi2 /= PRIOR_CELLS + freedom
    variance = row.chi2 * _shared_noise(row.chi2, coarseness, own_part) * own / (total * total)
    for c in range(fit.n):
        cell = fit.cells + c
        used[c] = (fit.keep[c] * fit.weight[c] / (variance * total) * (2 / cell.depth)
                   * (1 + cell.excess) / (1 + cell.excess * 2 / cell.depth))
    _normal(fit.terms, fit.location, used, fit.n, &row.gram[0][0], row.rhs)
    row.sigma = sqrt(variance)
    row.scatter = sqrt(spread / kept)
    row.npix = <long long> kept


cdef Py_ssize_t _summarise(const CellRow *cells, Py_ssize_t n, double coarseness, double own_part,
                           double *keep, PairRow *row) noexcept nogil:
    """Fill the row of a pair, and which of its n cells count; -1 for no memory."""
    cdef Fit fit
    cdef Bounds bounds
    cdef Py_ssize_t c, enough = -1
    fit.cells = cells
    fit.n = n
    fit.ny = 0
    fit.nx = 0
    for c in range(n):
        fit.ny = max(fit.ny, cells[c].y + 3)
        fit.nx = max(fit.nx, cells[c].x + 3)
    cdef double *buffer = <double *> malloc(10 * n * sizeof(double))
    fit.number = <int *> calloc(fit.ny * fit.nx, sizeof(int))
    if buffer != NULL and fit.number != NULL:
        fit.terms = buffer
        fit.location = buffer + 3 * n
        fit.weight = buffer + 4 * n
        fit.z = buffer + 5 * n
        fit.work = buffer + 6 * n
        fit.keep = keep
        for c in range(n):
            fit.location[c] = cells[c].location
            fit.weight[c] = cells[c].weight
            fit.number[(cells[c].y + 1) * fit.nx + cells[c].x + 1] = c + 1
        _set_terms(fit.cells, n, &row.axes[0][0], fit.terms)
        _robust_plane(&fit, buffer + 8 * n, buffer + 9 * n)
        _set_level(&fit, coarseness, own_part, buffer + 7 * n, row)
        row.gain = NAN
        row.gain_error = INFINITY
        row.shift = NAN
        row.shift_error = INFINITY
        row.bright = 0.0
        _set_bounds(&fit, &bounds)
        enough = _set_strips(&fit, &bounds, buffer + 7 * n, row)
        if enough == 0:
            enough = _set_wings(&fit, &bounds, buffer + 8 * n, row)
    free(buffer)
    free(fit.number)
    return enough


def summarise_cells(const CellRow[::1] cells, double coarseness, double own_part):
    """Summarise the cells of a pair.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `PAIR_CELL`, shape (n,)
        The cells; n is 1 or more.
    coarseness : float
        Pixel scale of the coarser image over that of the finer, squared.
    own_part : float
        Fraction of the coarser image's noise in a cell's variance that no other cell shares.

    Returns
    -------
    row : `~numpy.ndarray` of `~levelmatch.measure.table.PAIR`, shape (1,)
        The pair; its extent is zero.
    agree : `~numpy.ndarray` of bool, shape (n,)
        Which cells agree with the plane, and count.
    """
    row_array = np.zeros(1, PAIR)
    keep_array = np.empty(cells.shape[0])
    cdef PairRow[::1] rows = row_array
    cdef double[::1] keep = keep_array
    cdef Py_ssize_t enough
    with nogil:
        enough = _summarise(&cells[0], cells.shape[0], coarseness, own_part, &keep[0], &rows[0])
    if enough < 0:
        raise MemoryError
    return row_array, keep_array > 0


def summarise_pairs(const CellRow[::1] cells, const Py_ssize_t[::1] starts):
    """Summarise the cells of many pairs of one pixel scale.

    Parameters
    ----------
    cells : `~numpy.ndarray` of `PAIR_CELL`, shape (n,)
        The cells, those of a pair one after another.
    starts : `~numpy.ndarray` of intp, shape (m + 1,)
        First cell of each pair, and n; each pair has 1 or more.

    Returns
    -------
    rows : `~numpy.ndarray` of `~levelmatch.measure.table.PAIR`, shape (m,)
        The pairs; their extents are zero.
    """
    cdef Py_ssize_t m = starts.shape[0] - 1, p, enough = 0
    row_array = np.zeros(m, PAIR)
    keep_array = np.empty(cells.shape[0])
    cdef PairRow[::1] rows = row_array
    cdef double[::1] keep = keep_array
    with nogil:
        for p in range(m):
            enough = _summarise(&cells[starts[p]], starts[p + 1] - starts[p], 1.0, 1.0,
                                &keep[starts[p]], &rows[p])
            if enough < 0:
                break
    if enough < 0:
        raise MemoryError
    return row_array
