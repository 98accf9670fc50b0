# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The compiled kernel: two images differenced over their overlap, cell by cell.

Both images are sampled bilinearly at the point midway, on the sky, between a
pixel of the first and the nearest pixel of the second.  The two are smoothed
alike, so neither skewed noise nor the curvature of an undersampled star
changes its sign with the direction of the comparison.
"""

import numpy as np

from libc.math cimport fabs, sqrt
from libc.stdlib cimport free, malloc

cdef extern from "_loops.h" nogil:
    void lm_run_f(const float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int,
                  float, float, float, float, float, float, float, float, float *, float *)
    void lm_run_d(const double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                  int, double, double, double, double, double, double, double, double,
                  double *, double *)
    int lm_good_f(const float *, Py_ssize_t, int, int)
    int lm_good_d(const double *, Py_ssize_t, int, int)
    int lm_compact_f(float *, float *, int *, int, int, double *)
    int lm_compact_d(double *, double *, int *, int, int, double *)
    void lm_excess_f(const float *, const float *, int, float, float, double *)
    void lm_excess_d(const double *, const double *, int, double, double, double *)
    void lm_moments_f(const float *, const float *, int, float, float, float, double *)
    void lm_moments_d(const double *, const double *, int, double, double, double, double *)

__all__ = [
    "convex_overlap",
    "difference_cells",
    "difference_samples",
    "reached_cells",
    "sky_to_pixel",
]

ctypedef fused pixel:
    float
    double

# Below this fraction of a pixel a position counts as the pixel's centre, so
# images on one grid need no neighbours.
cdef double SNAP = 1e-3
# Values from which the first, rough, median and scatter of a cell are found.
cdef enum:
    N_ROUGH = 96
    N_ITER = 12


cdef inline double _select(double *values, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Return the k-th smallest value; the array is reordered (Hoare's quickselect)."""
    cdef Py_ssize_t low = 0, high = n - 1, i, j
    cdef double pivot, swap
    while low < high:
        pivot = values[(low + high) // 2]
        i = low
        j = high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                swap = values[i]
                values[i] = values[j]
                values[j] = swap
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


cdef inline double _median(double *values, Py_ssize_t n) noexcept nogil:
    """Return the median; the array is reordered."""
    cdef Py_ssize_t i, half = n // 2
    cdef double upper = _select(values, n, half)
    cdef double lower
    if n % 2:
        return upper
    lower = values[0]
    for i in range(1, half):
        if values[i] > lower:
            lower = values[i]
    return 0.5 * (lower + upper)


cdef struct Cell:
    double shift_x
    double shift_y
    double location
    double scatter
    double brightness
    double excess_diff
    double excess_flux
    double x
    double y
    double smooth
    Py_ssize_t samples
    Py_ssize_t kept


cdef struct Map:
    # Pixel coordinates in the second image, linear along each row of a cell.
    double x
    double y
    double dx
    double dy
    # The first image's share of the way between the two pixels, and that times the inverse
    # Jacobian: offsets of its samples.
    double half
    double ixx
    double ixy
    double iyx
    double iyy


cdef inline Py_ssize_t _steps(double value, double step, double low, double high) noexcept nogil:
    """Steps, at least one, that a linear function stays within (low, high)."""
    cdef double n = 1e9
    if step > 0:
        n = (high - value) / step
    elif step < 0:
        n = (low - value) / step
    # The bound comes before the cast: a tiny step gives more than an integer holds.
    return <Py_ssize_t> min(n, 1e9) + 1 if n > 0 else 1


cdef inline Py_ssize_t _side(double first, double last, Py_ssize_t stride) noexcept nogil:
    """Offset of the neighbour to interpolate with; 0 where all weights are next to nothing."""
    if fabs(first) < SNAP and fabs(last) < SNAP:
        return 0
    return stride if first + last > 0 else -stride


cdef Py_ssize_t _sample_row(
    const pixel *a, Py_ssize_t a_ny, Py_ssize_t a_nx,
    const pixel *b, Py_ssize_t b_ny, Py_ssize_t b_nx,
    Py_ssize_t y, Py_ssize_t x0, Py_ssize_t x1, Map m,
    pixel *diff, pixel *bright, int *at_x, Cell *cell,
) noexcept nogil:
    """Fill the buffers with the differences of one row of a cell; return how many.

    The row falls into runs in which the nearest pixel of the second image moves
    along with that of the first, and all neighbours lie on the same side.
    """
    cdef Py_ssize_t x = x0, n = 0, run, rx, ry, k0, k1
    cdef Py_ssize_t a_right, a_up, b_right, b_up, lowest
    cdef double qx, qy, fx, fy, ax, ay, dax, day, last, sx, sy, middle
    # Within a run the nearest pixel moves by one column a step, and by no row.
    cdef double dfx = m.dx - 1.0, dfy = m.dy
    dax = -(m.ixx * dfx + m.ixy * dfy)
    day = -(m.iyx * dfx + m.iyy * dfy)
    while x < x1:
        qx = m.x + (x - x0) * m.dx
        qy = m.y + (x - x0) * m.dy
        if not (qx > -1.0 and qy > -1.0 and qx < b_nx and qy < b_ny):
            x += 1
            continue
        # Rounding by truncation, for positions above -1.
        rx = <Py_ssize_t> (qx + 1.5) - 1
        ry = <Py_ssize_t> (qy + 1.5) - 1
        fx = qx - rx
        fy = qy - ry
        ax = -(m.ixx * fx + m.ixy * fy)
        ay = -(m.iyx * fx + m.iyy * fy)
        run = min(x1 - x, _steps(fx, dfx, -0.5 if fx < 0 else 0.0, 0.0 if fx < 0 else 0.5))
        run = min(run, _steps(fy, dfy, -0.5 if fy < 0 else 0.0, 0.0 if fy < 0 else 0.5))
        run = min(run, _steps(ax, dax, -1.0 if ax < 0 else 0.0, 0.0 if ax < 0 else 1.0))
        run = min(run, _steps(ay, day, -1.0 if ay < 0 else 0.0, 0.0 if ay < 0 else 1.0))
        last = run - 1
        a_right = _side(ax, ax + last * dax, 1)
        a_up = _side(ay, ay + last * day, a_nx)
        b_right = _side(fx, fx + last * dfx, 1)
        b_up = _side(fy, fy + last * dfy, b_nx)
        # The part of the run whose neighbours exist.
        k0 = max(0, -min(rx, rx + b_right))
        k0 = max(k0, -(x + a_right))
        k1 = min(run, b_nx - max(rx, rx + b_right))
        k1 = min(k1, a_nx - max(x, x + a_right))
        lowest = min(y * a_nx + a_up, (ry if ry < 0 else 0) * b_nx)
        if (
            ry >= 0 and ry < b_ny and ry * b_nx + b_up >= 0 and ry * b_nx + b_up < b_ny * b_nx
            and lowest >= 0 and y * a_nx + a_up < a_ny * a_nx and k1 > k0
        ):
            middle = 0.5 * (k0 + k1 - 1)
            cell.shift_x += (k1 - k0) * (ax + middle * dax)
            cell.shift_y += (k1 - k0) * (ay + middle * day)
            sx = -1.0 if a_right < 0 else (1.0 if a_right > 0 else 0.0)
            sy = -1.0 if a_up < 0 else (1.0 if a_up > 0 else 0.0)
            ax = sx * (ax + k0 * dax)
            ay = sy * (ay + k0 * day)
            middle = 0.5 * (k1 - k0 - 1)
            cell.smooth += (k1 - k0) * _variance(ax + middle * sx * dax, ay + middle * sy * day)
            _sample_run(
                a + y * a_nx + x + k0, b + ry * b_nx + rx + k0, a_right, a_up, b_right, b_up,
                k1 - k0, ax, ay, fx + k0 * dfx, fy + k0 * dfy, sx * dax, sy * day, dfx, dfy,
                1.0 - m.half, diff + n, bright + n, cell,
            )
            if pixel is float:
                n += lm_compact_f(diff + n, bright + n, at_x + n if at_x != NULL else NULL,
                                  k1 - k0, x + k0, &cell.x)
            else:
                n += lm_compact_d(diff + n, bright + n, at_x + n if at_x != NULL else NULL,
                                  k1 - k0, x + k0, &cell.x)
        x += run
    return n


cdef inline double _variance(double wx, double wy) noexcept nogil:
    """Sum of the squared weights of a bilinear sample."""
    return (1.0 - 2.0 * wx * (1.0 - wx)) * (1.0 - 2.0 * wy * (1.0 - wy))


cdef inline void _sample_run(
    const pixel *a, const pixel *b, Py_ssize_t a_right, Py_ssize_t a_up,
    Py_ssize_t b_right, Py_ssize_t b_up, Py_ssize_t n, double ax, double ay, double fx, double fy,
    double dax, double day, double dfx, double dfy, double share,
    pixel *diff, pixel *bright, Cell *cell,
) noexcept nogil:
    """Difference consecutive pixels; the second image's weights are a share of the offsets."""
    cdef double sx = -share if b_right < 0 else (share if b_right > 0 else 0.0)
    cdef double sy = -share if b_up < 0 else (share if b_up > 0 else 0.0)
    cdef double middle = 0.5 * (n - 1)
    cell.smooth += n * _variance(sx * (fx + middle * dfx), sy * (fy + middle * dfy))
    cell.samples += 2 * n
    if pixel is float:
        lm_run_f(a, b, a_right, a_up, b_right, b_up, n, ax, ay, sx * fx, sy * fy,
                 dax, day, sx * dfx, sy * dfy, diff, bright)
    else:
        lm_run_d(a, b, a_right, a_up, b_right, b_up, n, ax, ay, sx * fx, sy * fy,
                 dax, day, sx * dfx, sy * dfy, diff, bright)


cdef Py_ssize_t _sample_cell(
    const pixel *a, Py_ssize_t a_ny, Py_ssize_t a_nx,
    const pixel *b, Py_ssize_t b_ny, Py_ssize_t b_nx,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1,
    double height, double width, const double *corner_x, const double *corner_y,
    pixel *diff, pixel *bright, int *at_x, int *at_y, Cell *cell,
) noexcept nogil:
    """Fill the buffers with the differences of one cell; return how many.

    ``at_x`` and ``at_y`` may be NULL.  The corners hold the second image's pixel coordinates
    at the cell's corners: (y0, x0), (y0, x1), (y1, x0), (y1, x1).
    """
    cdef Py_ssize_t y, i, n = 0, row
    cdef double jxx, jxy, jyx, jyy, det, t, y_sum = 0.0
    cdef Map m
    cell.x = 0.0
    cell.smooth = 0.0
    cell.shift_x = 0.0
    cell.shift_y = 0.0
    cell.samples = 0
    jxx = 0.5 * (corner_x[1] - corner_x[0] + corner_x[3] - corner_x[2]) / width
    jxy = 0.5 * (corner_x[2] - corner_x[0] + corner_x[3] - corner_x[1]) / height
    jyx = 0.5 * (corner_y[1] - corner_y[0] + corner_y[3] - corner_y[2]) / width
    jyy = 0.5 * (corner_y[2] - corner_y[0] + corner_y[3] - corner_y[1]) / height
    det = jxx * jyy - jxy * jyx
    # Also false for NaN corners: where the second image's WCS is not defined.
    if not fabs(det) > 1e-12:
        return 0
    # Half of the way, or less where the second image's pixels are so much larger that half
    # would reach beyond the first one's next pixel.
    m.half = min(0.5, 2 * fabs(det) / max(fabs(jyy) + fabs(jxy), fabs(jyx) + fabs(jxx)))
    m.ixx = m.half * jyy / det
    m.ixy = -m.half * jxy / det
    m.iyx = -m.half * jyx / det
    m.iyy = m.half * jxx / det
    for y in range(y0, y1):
        t = (y - y0) / height
        m.x = corner_x[0] + t * (corner_x[2] - corner_x[0])
        m.y = corner_y[0] + t * (corner_y[2] - corner_y[0])
        m.dx = (corner_x[1] + t * (corner_x[3] - corner_x[1]) - m.x) / width
        m.dy = (corner_y[1] + t * (corner_y[3] - corner_y[1]) - m.y) / width
        row = _sample_row(
            a, a_ny, a_nx, b, b_ny, b_nx, y, x0, x1, m, diff + n, bright + n,
            at_x + n if at_x != NULL else NULL, cell,
        )
        if at_y != NULL:
            for i in range(n, n + row):
                at_y[i] = y
        y_sum += row * <double> y
        n += row
    cell.smooth = cell.smooth / cell.samples if cell.samples else 1.0
    if n > 0:
        # Samples lie midway between the two images' pixels, not on the first's.
        cell.x = cell.x / n + 2 * cell.shift_x / cell.samples
        cell.y = y_sum / n + 2 * cell.shift_y / cell.samples
    return n


cdef bint _any_good(
    const pixel *image, Py_ssize_t ny, Py_ssize_t nx,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1,
) noexcept nogil:
    """Whether the part of a block that lies on the image has a good pixel."""
    y0 = max(y0, 0)
    x0 = max(x0, 0)
    y1 = min(y1, ny)
    x1 = min(x1, nx)
    if y1 <= y0 or x1 <= x0:
        return False
    if pixel is float:
        return lm_good_f(image + y0 * nx + x0, nx, y1 - y0, x1 - x0)
    else:
        return lm_good_d(image + y0 * nx + x0, nx, y1 - y0, x1 - x0)


cdef inline Py_ssize_t _lowest(const double *corner) noexcept nogil:
    """First pixel that samples between four corners may touch; 0 where undefined."""
    cdef double low = min(min(corner[0], corner[1]), min(corner[2], corner[3]))
    return <Py_ssize_t> low - 2 if fabs(low) < 1e9 else 0


cdef inline Py_ssize_t _highest(const double *corner) noexcept nogil:
    """One more than the last pixel that samples between four corners may touch."""
    cdef double high = max(max(corner[0], corner[1]), max(corner[2], corner[3]))
    return <Py_ssize_t> high + 3 if fabs(high) < 1e9 else 0


cdef void _rough(const pixel *values, Py_ssize_t n, double *work,
                 double *centre, double *scale) noexcept nogil:
    """Median and scaled median absolute deviation of an even subset of the values."""
    cdef Py_ssize_t i, m = n if n < N_ROUGH else N_ROUGH
    cdef double total
    for i in range(m):
        work[i] = values[i * n // m]
    centre[0] = _median(work, m)
    for i in range(m):
        work[i] = fabs(work[i] - centre[0])
    scale[0] = 1.482602218505602 * _median(work, m)
    if scale[0] == 0.0:
        # Quantised values: more than half of them are equal.
        total = 0.0
        for i in range(n):
            total += fabs(values[i] - centre[0])
        scale[0] = 1.2533141373155001 * total / n


cdef void _locate(const pixel *diff, const pixel *bright, Py_ssize_t n, double clip,
                  double truncation, bint use_median, double *work, Cell *cell) noexcept nogil:
    """Clip the differences about their own centre, and describe what is kept."""
    cdef Py_ssize_t i, kept = 0, before = -1
    cdef double centre, exact, scale, low, high, mean
    cdef double sums[4]
    _rough(diff, n, work, &centre, &scale)
    # As the sums see it: rounded to the images' precision.
    centre = <pixel> centre
    exact = centre
    for i in range(N_ITER):
        low = centre - clip * scale
        high = centre + clip * scale
        if pixel is float:
            lm_moments_f(diff, bright, n, low, high, centre, sums)
        else:
            lm_moments_d(diff, bright, n, low, high, centre, sums)
        kept = <Py_ssize_t> sums[0]
        if kept == before or kept < 2:
            break
        before = kept
        mean = sums[1] / kept
        scale = truncation * sqrt(max(sums[2] / kept - mean * mean, 0.0) * kept / (kept - 1.0))
        exact = centre + mean
        centre = <pixel> exact
    cell.kept = kept
    if kept == 0:
        return
    cell.location = exact
    cell.scatter = scale
    cell.brightness = 0.5 * sums[3] / kept
    mean = sums[3] / kept
    if pixel is float:
        lm_excess_f(diff, bright, n, centre, mean, sums)
    else:
        lm_excess_d(diff, bright, n, centre, mean, sums)
    cell.excess_diff = sums[0]
    cell.excess_flux = 0.5 * sums[1]
    if use_median:
        kept = 0
        for i in range(n):
            work[kept] = diff[i]
            kept += (diff[i] >= low) & (diff[i] <= high)
        cell.location = _median(work, kept)


def difference_cells(
    const pixel[:, ::1] a, const pixel[:, ::1] b,
    const Py_ssize_t[::1] ys, const Py_ssize_t[::1] xs,
    const double[:, ::1] map_x, const double[:, ::1] map_y,
    const Py_ssize_t[:, ::1] cells, double clip, double truncation, bint use_median,
):
    """Robust difference of two images in each of the given cells of the first.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad; both float32 or both float64, C-contiguous.
    ys, xs : 1D `~numpy.ndarray` of intp
        Rows and columns of ``a`` at which the grid's nodes lie, ascending; the
        last of each is the last row or column of the image.
    map_x, map_y : 2D `~numpy.ndarray`, shape (len(ys), len(xs))
        Pixel coordinates in ``b`` of the nodes; between them bilinear.
    cells : 2D `~numpy.ndarray` of intp, shape (n, 2)
        The (y, x) index of the lower node of each cell to measure.
    clip : float
        Differences farther than this many sigma from the cell's centre are left out.
    truncation : float
        Scatter of a normal variable over that of one clipped so.
    use_median : bool
        The location is the median of what is kept, not its mean.

    Returns
    -------
    cells : `~numpy.ndarray`, shape (n, 10)
        Location, scatter, brightness (mean of the two images), mean x, mean y,
        variance of a sample over that of a pixel, number kept, number sampled; and, of
        all samples, the sum of the differences less the location and that of the
        brightness less the cell's: what stars, clipped from the rest, add.
    """
    cdef Py_ssize_t n_cells = cells.shape[0], i, iy, ix, y0, y1, x0, x1, n, size = 1
    cdef double corner_x[4]
    cdef double corner_y[4]
    cdef Cell cell
    cdef double *work
    cdef pixel *diff
    for i in range(ys.shape[0] - 1):
        size = max(size, ys[i + 1] - ys[i] + 1)
    n = 1
    for i in range(xs.shape[0] - 1):
        n = max(n, xs[i + 1] - xs[i] + 1)
    size *= n
    result_array = np.zeros((n_cells, 10))
    cdef double[:, ::1] result = result_array
    work = <double *> malloc((size + N_ROUGH) * sizeof(double))
    diff = <pixel *> malloc(2 * size * sizeof(pixel))
    if work == NULL or diff == NULL:
        free(work)
        free(diff)
        raise MemoryError
    with nogil:
        for i in range(n_cells):
            iy = cells[i, 0]
            ix = cells[i, 1]
            y0 = ys[iy]
            x0 = xs[ix]
            # A node's row belongs to the cell above it, but for the last one.
            y1 = ys[iy + 1] + (iy == ys.shape[0] - 2)
            x1 = xs[ix + 1] + (ix == xs.shape[0] - 2)
            corner_x[0] = map_x[iy, ix]
            corner_x[1] = map_x[iy, ix + 1]
            corner_x[2] = map_x[iy + 1, ix]
            corner_x[3] = map_x[iy + 1, ix + 1]
            corner_y[0] = map_y[iy, ix]
            corner_y[1] = map_y[iy, ix + 1]
            corner_y[2] = map_y[iy + 1, ix]
            corner_y[3] = map_y[iy + 1, ix + 1]
            if not (
                _any_good(&a[0, 0], a.shape[0], a.shape[1], y0, y1, x0, x1)
                and _any_good(
                    &b[0, 0], b.shape[0], b.shape[1], _lowest(corner_y), _highest(corner_y),
                    _lowest(corner_x), _highest(corner_x),
                )
            ):
                continue
            n = _sample_cell(
                &a[0, 0], a.shape[0], a.shape[1], &b[0, 0], b.shape[0], b.shape[1],
                y0, y1, x0, x1, ys[iy + 1] - y0, xs[ix + 1] - x0, corner_x, corner_y,
                diff, diff + size, NULL, NULL, &cell,
            )
            cell.kept = 0
            if n > 0:
                _locate(diff, diff + size, n, clip, truncation, use_median, work, &cell)
            if cell.kept > 0:
                result[i, 0] = cell.location
                result[i, 1] = cell.scatter
                result[i, 2] = cell.brightness
                result[i, 8] = cell.excess_diff
                result[i, 9] = cell.excess_flux
                result[i, 3] = cell.x
                result[i, 4] = cell.y
            result[i, 5] = cell.smooth
            result[i, 6] = cell.kept
            result[i, 7] = n
    free(work)
    free(diff)
    return result_array


def difference_samples(
    const pixel[:, ::1] a, const pixel[:, ::1] b,
    const Py_ssize_t[::1] ys, const Py_ssize_t[::1] xs,
    const double[:, ::1] map_x, const double[:, ::1] map_y, Py_ssize_t iy, Py_ssize_t ix,
):
    """Every difference of one cell, for plots and for the tests of `difference_cells`.

    Returns
    -------
    difference, brightness : `~numpy.ndarray` of the images' type, shape (n,)
        First image less second, and their mean.
    x, y : `~numpy.ndarray` of intc, shape (n,)
        The pixel of the first image.
    """
    cdef double corner_x[4]
    cdef double corner_y[4]
    cdef Cell cell
    cdef Py_ssize_t n, y1, x1, size, k
    y1 = ys[iy + 1] + (iy == ys.shape[0] - 2)
    x1 = xs[ix + 1] + (ix == xs.shape[0] - 2)
    size = (y1 - ys[iy]) * (x1 - xs[ix])
    dtype = np.float32 if pixel is float else np.float64
    values, places = np.empty((2, size), dtype), np.empty((2, size), np.intc)
    cdef pixel[:, ::1] value = values
    cdef int[:, ::1] place = places
    for k in range(4):
        corner_x[k] = map_x[iy + k // 2, ix + k % 2]
        corner_y[k] = map_y[iy + k // 2, ix + k % 2]
    n = _sample_cell(
        &a[0, 0], a.shape[0], a.shape[1], &b[0, 0], b.shape[0], b.shape[1],
        ys[iy], y1, xs[ix], x1, ys[iy + 1] - ys[iy], xs[ix + 1] - xs[ix], corner_x, corner_y,
        &value[0, 0], &value[1, 0], &place[0, 0], &place[1, 0], &cell,
    )
    return values[0, :n], 0.5 * values[1, :n], places[0, :n], places[1, :n]


def sky_to_pixel(
    const double[:, ::1] vectors, const double[:, ::1] axes, const double[:, ::1] affine,
    const double[:, :, ::1] coefficients, const double[::1] middle, const double[::1] half,
    double reach,
):
    """Pixel coordinates of unit vectors by an affine map and a polynomial on top of it.

    Parameters
    ----------
    vectors : `~numpy.ndarray`, shape (n, 3)
        Unit vectors.
    axes : `~numpy.ndarray`, shape (3, 3)
        Centre and two tangents of the gnomonic projection.
    affine : `~numpy.ndarray`, shape (2, 3)
        From (1, xi, eta) to nearly (p, q): pixels from the middle, in half sides.
    coefficients : `~numpy.ndarray`, shape (2, k, k), k at most 16
        From products of Chebyshev polynomials of the affine map's values to (p, q).
    middle, half : `~numpy.ndarray`, shape (2,)
        The middle and the half sides, (x, y), in pixels.
    reach : float
        Values of the affine map beyond which the result is NaN.

    Returns
    -------
    x, y : `~numpy.ndarray`, shape (n,)
        Pixel coordinates; NaN behind the centre too.
    """
    cdef Py_ssize_t n = vectors.shape[0], k = coefficients.shape[1], m, i, j
    cdef double w, u, v, p, q, first, second
    cdef double in_p[16]
    cdef double in_q[16]
    if k > 16:
        msg = f"coefficients: of degree 15 at most, not {k - 1}"
        raise ValueError(msg)
    out_array = np.full((2, n), np.nan)
    cdef double[:, ::1] out = out_array
    with nogil:
        for m in range(n):
            w = (vectors[m, 0] * axes[0, 0] + vectors[m, 1] * axes[0, 1]
                 + vectors[m, 2] * axes[0, 2])
            if not w > 0.05:
                continue
            u = (vectors[m, 0] * axes[1, 0] + vectors[m, 1] * axes[1, 1]
                 + vectors[m, 2] * axes[1, 2]) / w
            v = (vectors[m, 0] * axes[2, 0] + vectors[m, 1] * axes[2, 1]
                 + vectors[m, 2] * axes[2, 2]) / w
            p = affine[0, 0] + affine[0, 1] * u + affine[0, 2] * v
            q = affine[1, 0] + affine[1, 1] * u + affine[1, 2] * v
            if not (fabs(p) <= reach and fabs(q) <= reach):
                continue
            in_p[0] = 1.0
            in_q[0] = 1.0
            if k > 1:
                in_p[1] = p
                in_q[1] = q
            for i in range(2, k):
                in_p[i] = 2 * p * in_p[i - 1] - in_p[i - 2]
                in_q[i] = 2 * q * in_q[i - 1] - in_q[i - 2]
            first = 0.0
            second = 0.0
            for i in range(k):
                # The rest of the coefficients are zero: the total degree is limited.
                for j in range(k - i):
                    w = in_p[i] * in_q[j]
                    first = first + coefficients[0, i, j] * w
                    second = second + coefficients[1, i, j] * w
            out[0, m] = middle[0] + half[0] * first
            out[1, m] = middle[1] + half[1] * second
    return out_array[0], out_array[1]


def reached_cells(
    const double[:, ::1] map_x, const double[:, ::1] map_y,
    double y0, double y1, double x0, double x1,
):
    """Indices (y, x) of the cells, all four corners defined, that reach into a box.

    Parameters
    ----------
    map_x, map_y : `~numpy.ndarray`, shape (ny, nx)
        Coordinates of the cells' corners; NaN where undefined.
    y0, y1, x0, x1 : float
        The box, its upper ends excluded.

    Returns
    -------
    cells : `~numpy.ndarray` of intp, shape (n, 2)
        In order.
    """
    cdef Py_ssize_t iy, ix, n = 0
    cells_array = np.empty(((map_x.shape[0] - 1) * (map_x.shape[1] - 1), 2), dtype=np.intp)
    cdef Py_ssize_t[:, ::1] cells = cells_array
    with nogil:
        for iy in range(map_x.shape[0] - 1):
            for ix in range(map_x.shape[1] - 1):
                # Comparisons with NaN are false.
                if (
                    _spans(map_x[iy, ix], map_x[iy, ix + 1], map_x[iy + 1, ix],
                           map_x[iy + 1, ix + 1], x0 - 1, x1)
                    and _spans(map_y[iy, ix], map_y[iy, ix + 1], map_y[iy + 1, ix],
                               map_y[iy + 1, ix + 1], y0 - 1, y1)
                ):
                    cells[n, 0] = iy
                    cells[n, 1] = ix
                    n += 1
    return cells_array[:n]


cdef inline bint _spans(double a, double b, double c, double d, double low, double high) noexcept nogil:
    """Whether the range of four numbers, none NaN, meets [low, high]."""
    if not (a == a and b == b and c == c and d == d):
        return False
    return min(min(a, b), min(c, d)) <= high and max(max(a, b), max(c, d)) >= low


cdef enum:
    MAX_VERTICES = 64


cdef double _clip_area(const double *subject, Py_ssize_t n, const double *window,
                       Py_ssize_t m) noexcept nogil:
    """Area of the intersection of two convex counter-clockwise polygons (Sutherland-Hodgman)."""
    cdef double now[2 * MAX_VERTICES]
    cdef double new[2 * MAX_VERTICES]
    cdef Py_ssize_t i, j, k, count = n, kept
    cdef double ax, ay, ex, ey, side, last, px, py, qx, qy, t, area = 0.0
    for i in range(2 * n):
        now[i] = subject[i]
    for k in range(m):
        ax = window[2 * k]
        ay = window[2 * k + 1]
        ex = window[2 * ((k + 1) % m)] - ax
        ey = window[2 * ((k + 1) % m) + 1] - ay
        kept = 0
        if count == 0:
            return 0.0
        px = now[2 * count - 2]
        py = now[2 * count - 1]
        last = ex * (py - ay) - ey * (px - ax)
        for j in range(count):
            # More vertices than convex outlines can have: a guard, not a case.
            if kept + 2 > MAX_VERTICES:
                break
            qx = now[2 * j]
            qy = now[2 * j + 1]
            side = ex * (qy - ay) - ey * (qx - ax)
            if (side >= 0) != (last >= 0):
                t = last / (last - side)
                new[2 * kept] = px + t * (qx - px)
                new[2 * kept + 1] = py + t * (qy - py)
                kept += 1
            if side >= 0:
                new[2 * kept] = qx
                new[2 * kept + 1] = qy
                kept += 1
            px = qx
            py = qy
            last = side
        count = kept
        for j in range(2 * count):
            now[j] = new[j]
    for j in range(1, count - 1):
        area += (now[2 * j] - now[0]) * (now[2 * j + 3] - now[1]) - (
            now[2 * j + 2] - now[0]) * (now[2 * j + 1] - now[1])
    return 0.5 * area if area > 0 else 0.0


def convex_overlap(const double[:, :, ::1] vertices, const Py_ssize_t[:, ::1] pairs):
    """Area that two convex footprints on the sphere share, for each of many pairs.

    Each pair is projected gnomonically about the middle of its two footprints:
    great circles become straight lines, so no polygon of the sphere is built
    and identical or sliver footprints are ordinary cases.

    Parameters
    ----------
    vertices : `~numpy.ndarray`, shape (n, k, 3), k at most 32
        Unit vectors of the vertices, counter-clockwise as seen from outside the sphere.
    pairs : `~numpy.ndarray` of intp, shape (m, 2)
        Which footprints to compare.

    Returns
    -------
    area : `~numpy.ndarray`, shape (m,)
        Shared area in steradian; 0 where the two are more than a hemisphere apart.
    """
    cdef Py_ssize_t n_pairs = pairs.shape[0], k = vertices.shape[1], p, q, i
    cdef double c[3]
    cdef double e[3]
    cdef double f[3]
    cdef double flat[2][2 * MAX_VERTICES]
    cdef double norm, w
    cdef bint behind
    if k > MAX_VERTICES // 2:
        msg = f"vertices: at most {MAX_VERTICES // 2} a footprint, not {k}"
        raise ValueError(msg)
    area_array = np.zeros(n_pairs)
    cdef double[::1] area = area_array
    with nogil:
        for p in range(n_pairs):
            for i in range(3):
                c[i] = 0.0
                for q in range(k):
                    c[i] += vertices[pairs[p, 0], q, i] + vertices[pairs[p, 1], q, i]
            norm = sqrt(c[0] * c[0] + c[1] * c[1] + c[2] * c[2])
            if norm == 0.0:
                continue
            for i in range(3):
                c[i] /= norm
            # Two axes tangent at the centre, away from its largest component.
            if fabs(c[2]) < 0.9:
                e[0] = -c[1]
                e[1] = c[0]
                e[2] = 0.0
            else:
                e[0] = 0.0
                e[1] = -c[2]
                e[2] = c[1]
            norm = sqrt(e[0] * e[0] + e[1] * e[1] + e[2] * e[2])
            for i in range(3):
                e[i] /= norm
            f[0] = c[1] * e[2] - c[2] * e[1]
            f[1] = c[2] * e[0] - c[0] * e[2]
            f[2] = c[0] * e[1] - c[1] * e[0]
            behind = False
            for i in range(2):
                for q in range(k):
                    w = (vertices[pairs[p, i], q, 0] * c[0] + vertices[pairs[p, i], q, 1] * c[1]
                         + vertices[pairs[p, i], q, 2] * c[2])
                    behind = behind or w < 1e-3
                    flat[i][2 * q] = (
                        vertices[pairs[p, i], q, 0] * e[0] + vertices[pairs[p, i], q, 1] * e[1]
                        + vertices[pairs[p, i], q, 2] * e[2]) / w
                    flat[i][2 * q + 1] = (
                        vertices[pairs[p, i], q, 0] * f[0] + vertices[pairs[p, i], q, 1] * f[1]
                        + vertices[pairs[p, i], q, 2] * f[2]) / w
            if not behind:
                area[p] = _clip_area(flat[0], k, flat[1], k)
    return area_array
