# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The compiled kernel: two images differenced over their overlap, cell by cell.

Both images are sampled bilinearly at the point midway, on the sky, between a
pixel of the first and the nearest pixel of the second.  The two are smoothed
alike, so neither skewed noise nor the curvature of an undersampled star
changes its sign with the direction of the comparison.
"""

import numpy as np

from libc.math cimport exp, fabs, floor, ilogb, ldexp, log, sqrt
from libc.stdlib cimport free, malloc

cdef extern from "_loops.h" nogil:
    ctypedef struct lm_weight:
        double start
        double along
        double up
        double twist
    enum:
        LM_ROUGH
    float LM_BAD_f
    double LM_BAD_d
    int lm_run_f(const float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t, int,
                 float, float, float, float, float, float, float, float, float *, float *, int *)
    int lm_run_d(const double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                 int, double, double, double, double, double, double, double, double,
                 double *, double *, int *)
    int lm_block_f(const float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                   Py_ssize_t, Py_ssize_t, int, int, const lm_weight *, float *, float *,
                   double *, double *)
    int lm_block_d(const double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                   Py_ssize_t, Py_ssize_t, int, int, const lm_weight *, double *, double *,
                   double *, double *)
    int lm_good_f(const float *, Py_ssize_t, int, int)
    int lm_good_d(const double *, Py_ssize_t, int, int)
    float lm_middle_f(const float *, int)
    double lm_middle_d(const double *, int)
    void lm_excess_f(const float *, const float *, int, float, float, double *)
    void lm_excess_d(const double *, const double *, int, double, double, double *)
    void lm_moments_f(const float *, const float *, int, float, float, float, float, double *)
    void lm_moments_d(const double *, const double *, int, double, double, double, double,
                      double *)
    int lm_counted_f(const float *, int, float)
    int lm_counted_d(const double *, int, double)

cdef extern from "_median.h" nogil:
    double lm_median(double *, Py_ssize_t)

__all__ = [
    "difference_cells",
    "difference_samples",
]

ctypedef fused pixel:
    float
    double

# Below this fraction of a pixel a position counts as the pixel's centre, so
# images on one grid need no neighbours.
cdef double SNAP = 1e-3
cdef enum:
    N_ITER = 12
    # Rows and columns, at least, of what is sampled at once.
    MIN_BLOCK = 8
# How far a map's Jacobian may be from one, all elements together, for that to be tried.
cdef double ALIKE = 0.1
# Counts that are farther out than this many typical ones are outliers.
cdef double FAR = 20.0


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
    # Samples whose pixels exist, those of them that are good, and those kept.
    Py_ssize_t samples
    Py_ssize_t good
    Py_ssize_t kept


cdef struct Place:
    # Rows and columns of an image, those of the part of it that is in memory, the upper ones
    # excluded, and from one row in memory to the next.
    Py_ssize_t ny
    Py_ssize_t nx
    Py_ssize_t y0
    Py_ssize_t y1
    Py_ssize_t x0
    Py_ssize_t x1
    Py_ssize_t step


cdef struct Map:
    # Pixel coordinates in the second image, bilinear over a cell: at its first pixel,
    # their changes with the column and the row, and with both.
    double x
    double y
    double dxx
    double dyx
    double dxy
    double dyy
    double twist_x
    double twist_y
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


cdef inline bint _stays(double first, double last, double reach) noexcept nogil:
    """Whether a linear function keeps its sign, and within reach."""
    return (first < 0.0) == (last < 0.0) and -reach < last < reach


cdef inline Py_ssize_t _side(double first, double last, Py_ssize_t stride) noexcept nogil:
    """Offset of the neighbour to interpolate with; 0 where all weights are next to nothing."""
    if fabs(first) < SNAP and fabs(last) < SNAP:
        return 0
    return stride if first + last > 0 else -stride


cdef Py_ssize_t _sample_row(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y, Py_ssize_t x0, Py_ssize_t x1, double t, const Map *m,
    pixel *diff, pixel *bright, int *at_x, Cell *cell,
) noexcept nogil:
    """Fill the buffers with the differences of one row of a cell; return how many.

    The row falls into runs in which the nearest pixel of the second image moves
    along with that of the first, and all neighbours lie on the same side.
    """
    cdef Py_ssize_t x = x0, n = 0, run, rx, ry, k0, k1, i
    cdef Py_ssize_t a_right, a_up, b_right, b_up, lowest
    cdef double start_x = m.x + t * m.dxy, start_y = m.y + t * m.dyy
    cdef double along_x = m.dxx + t * m.twist_x, along_y = m.dyx + t * m.twist_y
    cdef double qx, qy, fx, fy, ax, ay, dax, day, last, sx, sy, middle
    cdef int places, count
    # Within a run the nearest pixel moves by one column a step, and by no row.
    cdef double dfx = along_x - 1.0, dfy = along_y
    dax = -(m.ixx * dfx + m.ixy * dfy)
    day = -(m.iyx * dfx + m.iyy * dfy)
    while x < x1:
        qx = start_x + (x - x0) * along_x
        qy = start_y + (x - x0) * along_y
        if not (qx > -1.0 and qy > -1.0 and qx < in_b.nx and qy < in_b.ny):
            x += 1
            continue
        # Rounding by truncation, for positions above -1.
        rx = <Py_ssize_t> (qx + 1.5) - 1
        ry = <Py_ssize_t> (qy + 1.5) - 1
        fx = qx - rx
        fy = qy - ry
        ax = -(m.ixx * fx + m.ixy * fy)
        ay = -(m.iyx * fx + m.iyy * fy)
        run = x1 - x
        last = run - 1
        if not (
            _stays(fx, fx + last * dfx, 0.5) and _stays(fy, fy + last * dfy, 0.5)
            and _stays(ax, ax + last * dax, 1.0) and _stays(ay, ay + last * day, 1.0)
        ):
            run = min(run, _steps(fx, dfx, -0.5 if fx < 0 else 0.0, 0.0 if fx < 0 else 0.5))
            run = min(run, _steps(fy, dfy, -0.5 if fy < 0 else 0.0, 0.0 if fy < 0 else 0.5))
            run = min(run, _steps(ax, dax, -1.0 if ax < 0 else 0.0, 0.0 if ax < 0 else 1.0))
            run = min(run, _steps(ay, day, -1.0 if ay < 0 else 0.0, 0.0 if ay < 0 else 1.0))
        last = run - 1
        a_right = _side(ax, ax + last * dax, 1)
        a_up = _side(ay, ay + last * day, in_a.step)
        b_right = _side(fx, fx + last * dfx, 1)
        b_up = _side(fy, fy + last * dfy, in_b.step)
        # The part of the run whose neighbours exist.
        k0 = max(0, -min(rx, rx + b_right))
        k0 = max(k0, -(x + a_right))
        k1 = min(run, in_b.nx - max(rx, rx + b_right))
        k1 = min(k1, in_a.nx - max(x, x + a_right))
        lowest = min(y * in_a.step + a_up, (ry if ry < 0 else 0) * in_b.step)
        if (
            ry >= 0 and ry < in_b.ny and ry * in_b.step + b_up >= 0
            and ry * in_b.step + b_up < in_b.ny * in_b.step
            and lowest >= 0 and y * in_a.step + a_up < in_a.ny * in_a.step and k1 > k0
        ):
            middle = 0.5 * (k0 + k1 - 1)
            cell.shift_x += (k1 - k0) * (ax + middle * dax)
            cell.shift_y += (k1 - k0) * (ay + middle * day)
            sx = -1.0 if a_right < 0 else (1.0 if a_right > 0 else 0.0)
            sy = -1.0 if a_up < 0 else (1.0 if a_up > 0 else 0.0)
            cell.smooth += (k1 - k0) * _variance(
                sx * (ax + middle * dax), sy * (ay + middle * day))
            ax = sx * (ax + k0 * dax)
            ay = sy * (ay + k0 * day)
            dax *= sx
            day *= sy
            places = 0
            count = _sample_run(
                a + y * in_a.step + x + k0, b + ry * in_b.step + rx + k0, a_right, a_up, b_right, b_up,
                k1 - k0, ax, ay, fx + k0 * dfx, fy + k0 * dfy, dax, day, dfx, dfy,
                1.0 - m.half, diff + n, bright + n, &places, cell,
            )
            dax = -(m.ixx * dfx + m.ixy * dfy)
            day = -(m.iyx * dfx + m.iyy * dfy)
            cell.good += count
            cell.x += count * <double> (x + k0) + places
            cell.y += count * <double> y
            if at_x != NULL:
                for i in range(k1 - k0):
                    at_x[n + i] = x + k0 + i
            n += k1 - k0
        x += run
    return n


cdef inline double _variance(double wx, double wy) noexcept nogil:
    """Sum of the squared weights of a bilinear sample."""
    return (1.0 - 2.0 * wx * (1.0 - wx)) * (1.0 - 2.0 * wy * (1.0 - wy))


cdef inline int _sample_run(
    const pixel *a, const pixel *b, Py_ssize_t a_right, Py_ssize_t a_up,
    Py_ssize_t b_right, Py_ssize_t b_up, Py_ssize_t n, double ax, double ay, double fx, double fy,
    double dax, double day, double dfx, double dfy, double share,
    pixel *diff, pixel *bright, int *places, Cell *cell,
) noexcept nogil:
    """Difference consecutive pixels; the second image's weights are a share of the offsets."""
    cdef double sx = -share if b_right < 0 else (share if b_right > 0 else 0.0)
    cdef double sy = -share if b_up < 0 else (share if b_up > 0 else 0.0)
    cdef double middle = 0.5 * (n - 1)
    cell.smooth += n * _variance(sx * (fx + middle * dfx), sy * (fy + middle * dfy))
    cell.samples += 2 * n
    if pixel is float:
        return lm_run_f(a, b, a_right, a_up, b_right, b_up, n, ax, ay, sx * fx, sy * fy,
                        dax, day, sx * dfx, sy * dfy, diff, bright, places)
    else:
        return lm_run_d(a, b, a_right, a_up, b_right, b_up, n, ax, ay, sx * fx, sy * fy,
                        dax, day, sx * dfx, sy * dfy, diff, bright, places)


cdef inline double _sign(Py_ssize_t step) noexcept nogil:
    return -1.0 if step < 0 else (1.0 if step > 0 else 0.0)


cdef inline bint _one_side(const double *w, double reach, double *low, double *high) noexcept nogil:
    """Whether four corners' offsets are all of one sign and within reach; and their range."""
    low[0] = min(min(w[0], w[1]), min(w[2], w[3]))
    high[0] = max(max(w[0], w[1]), max(w[2], w[3]))
    return (low[0] >= 0.0 or high[0] <= 0.0) and low[0] >= -reach and high[0] <= reach


cdef bint _sample_block(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1, const Map *m,
    pixel *diff, pixel *bright, Cell *cell,
) noexcept nogil:
    """Fill the buffers with a block of pixels at once; return whether that could be done.

    That is where the two images' pixels are so much alike that over the block the
    nearest pixel stays the same step away, and all neighbours on their sides.
    """
    cdef Py_ssize_t nx = x1 - x0, ny = y1 - y0, rx, ry, a_right, a_up, b_right, b_up, k
    cdef double right = nx - 1, top = ny - 1, low, high, sx, sy, share = 1.0 - m.half, t
    cdef double fx[4]
    cdef double fy[4]
    cdef double ax[4]
    cdef double ay[4]
    cdef lm_weight w[4]
    cdef lm_weight ox, oy
    cdef double x_sum = 0.0, y_sum = 0.0
    cdef int good
    if not (fabs(m.x) < 1e9 and fabs(m.y) < 1e9):
        return False
    ox.start = m.x
    ox.along = m.dxx - 1.0
    ox.up = m.dxy
    ox.twist = m.twist_x
    oy.start = m.y
    oy.along = m.dyx
    oy.up = m.dyy - 1.0
    oy.twist = m.twist_y
    rx = <Py_ssize_t> floor(_weight(&ox, 0.5 * right, 0.5 * top) + 0.5)
    ry = <Py_ssize_t> floor(_weight(&oy, 0.5 * right, 0.5 * top) + 0.5)
    ox.start -= rx
    oy.start -= ry
    for k in range(4):
        fx[k] = _weight(&ox, right * (k % 2), top * (k // 2))
        fy[k] = _weight(&oy, right * (k % 2), top * (k // 2))
        ax[k] = -(m.ixx * fx[k] + m.ixy * fy[k])
        ay[k] = -(m.iyx * fx[k] + m.iyy * fy[k])
    # Each pixel's neighbours, as the runs of a row have them.
    if not _one_side(fx, 0.5, &low, &high):
        return False
    b_right = _side(low, high, 1)
    if not _one_side(fy, 0.5, &low, &high):
        return False
    b_up = _side(low, high, 1)
    if not _one_side(ax, 1.0, &low, &high):
        return False
    a_right = _side(low, high, 1)
    if not _one_side(ay, 1.0, &low, &high):
        return False
    a_up = _side(low, high, 1)
    if (
        x0 + min(a_right, 0) < 0 or x1 + max(a_right, 0) > in_a.nx
        or y0 + min(a_up, 0) < 0 or y1 + max(a_up, 0) > in_a.ny
        or rx + min(b_right, 0) < 0 or rx + nx + max(b_right, 0) > in_b.nx
        or ry + min(b_up, 0) < 0 or ry + ny + max(b_up, 0) > in_b.ny
    ):
        return False
    sx = _sign(a_right)
    sy = _sign(a_up)
    w[0] = _mix(-sx * m.ixx, &ox, -sx * m.ixy, &oy)
    w[1] = _mix(-sy * m.iyx, &ox, -sy * m.iyy, &oy)
    w[2] = _mix(share * _sign(b_right), &ox, 0.0, &oy)
    w[3] = _mix(0.0, &ox, share * _sign(b_up), &oy)
    if pixel is float:
        good = lm_block_f(
            a + y0 * in_a.step + x0, b + ry * in_b.step + rx, a_right, a_up * in_a.step,
            in_a.step, b_right, b_up * in_b.step, in_b.step, ny, nx, w, diff, bright,
            &x_sum, &y_sum)
    else:
        good = lm_block_d(
            a + y0 * in_a.step + x0, b + ry * in_b.step + rx, a_right, a_up * in_a.step,
            in_a.step, b_right, b_up * in_b.step, in_b.step, ny, nx, w, diff, bright,
            &x_sum, &y_sum)
    cell.samples += 2 * nx * ny
    cell.good += good
    cell.x += x_sum + good * <double> x0
    cell.y += y_sum + good * <double> y0
    cell.shift_x -= nx * ny * (m.ixx * _weight(&ox, 0.5 * right, 0.5 * top)
                               + m.ixy * _weight(&oy, 0.5 * right, 0.5 * top))
    cell.shift_y -= nx * ny * (m.iyx * _weight(&ox, 0.5 * right, 0.5 * top)
                               + m.iyy * _weight(&oy, 0.5 * right, 0.5 * top))
    # Over the rows by Simpson's rule: the weights are linear along each.
    for k in range(3):
        t = 0.5 * k * top
        cell.smooth += nx * ny * (4.0 if k == 1 else 1.0) / 6.0 * (
            _variance(_weight(&w[0], 0.5 * right, t), _weight(&w[1], 0.5 * right, t))
            + _variance(_weight(&w[2], 0.5 * right, t), _weight(&w[3], 0.5 * right, t)))
    return True


cdef inline double _weight(const lm_weight *w, double x, double y) noexcept nogil:
    return w.start + x * w.along + y * w.up + x * y * w.twist


cdef inline lm_weight _mix(double s, const lm_weight *a, double t, const lm_weight *b) noexcept nogil:
    """The weighted sum of two bilinear functions."""
    cdef lm_weight out
    out.start = s * a.start + t * b.start
    out.along = s * a.along + t * b.along
    out.up = s * a.up + t * b.up
    out.twist = s * a.twist + t * b.twist
    return out


cdef bint _make_map(Map *m, double height, double width,
                    const double *x, const double *y) noexcept nogil:
    """Map of a cell from the second image's coordinates at its corners; whether it has any."""
    cdef double jxx, jxy, jyx, jyy, det
    jxx = 0.5 * (x[1] - x[0] + x[3] - x[2]) / width
    jxy = 0.5 * (x[2] - x[0] + x[3] - x[1]) / height
    jyx = 0.5 * (y[1] - y[0] + y[3] - y[2]) / width
    jyy = 0.5 * (y[2] - y[0] + y[3] - y[1]) / height
    det = jxx * jyy - jxy * jyx
    # Also false for NaN corners: where the second image's WCS is not defined.
    if not fabs(det) > 1e-12:
        return False
    # Half of the way, or less where the second image's pixels are so much larger that half
    # would reach beyond the first one's next pixel.
    m.half = min(0.5, 2 * fabs(det) / max(fabs(jyy) + fabs(jxy), fabs(jyx) + fabs(jxx)))
    m.ixx = m.half * jyy / det
    m.ixy = -m.half * jxy / det
    m.iyx = -m.half * jyx / det
    m.iyy = m.half * jxx / det
    m.x = x[0]
    m.y = y[0]
    m.dxx = (x[1] - x[0]) / width
    m.dyx = (y[1] - y[0]) / width
    m.dxy = (x[2] - x[0]) / height
    m.dyy = (y[2] - y[0]) / height
    m.twist_x = (x[3] - x[2] - x[1] + x[0]) / (width * height)
    m.twist_y = (y[3] - y[2] - y[1] + y[0]) / (width * height)
    return True


cdef inline Map _moved(const Map *m, double x, double y) noexcept nogil:
    """The map from another first pixel on, some columns and rows away."""
    cdef Map out = m[0]
    out.x += x * m.dxx + y * m.dxy + x * y * m.twist_x
    out.y += x * m.dyx + y * m.dyy + x * y * m.twist_y
    out.dxx += y * m.twist_x
    out.dyx += y * m.twist_y
    out.dxy += x * m.twist_x
    out.dyy += x * m.twist_y
    return out


cdef Py_ssize_t _sample_part(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1, const Map *m,
    pixel *diff, pixel *bright, int *at_x, int *at_y, Cell *cell,
) noexcept nogil:
    """Fill the buffers with a part of a cell; return how many.

    At once if that can be, else quarter by quarter, and what is small row by row.
    """
    cdef Py_ssize_t n = 0, i, y, row, ym = (y0 + y1) // 2, xm = (x0 + x1) // 2, top, bottom
    cdef Py_ssize_t left, right
    cdef Map part
    cdef bint alike = (fabs(m.dxx - 1.0) + fabs(m.dxy) + fabs(m.dyx) + fabs(m.dyy - 1.0)) < ALIKE
    if alike and _sample_block(
        a, in_a, b, in_b, y0, y1, x0, x1, m, diff, bright, cell
    ):
        n = (y1 - y0) * (x1 - x0)
        if at_x != NULL:
            for i in range(n):
                at_x[i] = x0 + i % (x1 - x0)
                at_y[i] = y0 + i // (x1 - x0)
        return n
    if alike and y1 - y0 >= 2 * MIN_BLOCK and x1 - x0 >= 2 * MIN_BLOCK:
        for i in range(4):
            bottom = ym if i // 2 else y0
            top = y1 if i // 2 else ym
            left = xm if i % 2 else x0
            right = x1 if i % 2 else xm
            part = _moved(m, left - x0, bottom - y0)
            n += _sample_part(
                a, in_a, b, in_b, bottom, top, left, right, &part, diff + n,
                bright + n, at_x + n if at_x != NULL else NULL,
                at_y + n if at_y != NULL else NULL, cell,
            )
        return n
    for y in range(y0, y1):
        row = _sample_row(
            a, in_a, b, in_b, y, x0, x1, y - y0, m, diff + n, bright + n,
            at_x + n if at_x != NULL else NULL, cell,
        )
        if at_y != NULL:
            for i in range(n, n + row):
                at_y[i] = y
        n += row
    return n


cdef Py_ssize_t _sample_cell(
    const pixel *a, const Place *in_a, const pixel *b, const Place *in_b,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1,
    double height, double width, const double *corner_x, const double *corner_y,
    pixel *diff, pixel *bright, int *at_x, int *at_y, Cell *cell,
) noexcept nogil:
    """Fill the buffers with the differences of one cell; return how many, bad ones included.

    ``at_x`` and ``at_y`` may be NULL.  The corners hold the second image's pixel coordinates
    at the cell's corners: (y0, x0), (y0, x1), (y1, x0), (y1, x1).
    """
    cdef Py_ssize_t n
    cdef Map m
    cell.x = 0.0
    cell.y = 0.0
    cell.smooth = 0.0
    cell.shift_x = 0.0
    cell.shift_y = 0.0
    cell.samples = 0
    cell.good = 0
    if not _make_map(&m, height, width, corner_x, corner_y):
        return 0
    n = _sample_part(a, in_a, b, in_b, y0, y1, x0, x1, &m, diff, bright, at_x, at_y,
                     cell)
    cell.smooth = cell.smooth / cell.samples if cell.samples else 1.0
    if cell.good > 0:
        # Samples lie midway between the two images' pixels, not on the first's.
        cell.x = cell.x / cell.good + 2 * cell.shift_x / cell.samples
        cell.y = cell.y / cell.good + 2 * cell.shift_y / cell.samples
    return n


cdef int _any_good(
    const pixel *image, const Place *place,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1, Py_ssize_t margin,
) noexcept nogil:
    """Whether the part of a block that lies on the image has a good pixel.

    -1 if any of it, or of the image about it, is not in memory.
    """
    cdef Py_ssize_t low_y = max(y0 - margin, 0), low_x = max(x0 - margin, 0)
    cdef Py_ssize_t high_y = min(y1 + margin, place.ny), high_x = min(x1 + margin, place.nx)
    if high_y <= low_y or high_x <= low_x:
        return False
    if (low_y < place.y0 or low_x < place.x0 or high_y > place.y1 or high_x > place.x1):
        return -1
    y0 = max(y0, 0)
    x0 = max(x0, 0)
    y1 = min(y1, place.ny)
    x1 = min(x1, place.nx)
    if y1 <= y0 or x1 <= x0:
        return False
    if pixel is float:
        return lm_good_f(image + y0 * place.step + x0, place.step, y1 - y0, x1 - x0)
    else:
        return lm_good_d(image + y0 * place.step + x0, place.step, y1 - y0, x1 - x0)


cdef Place _place(const pixel[:, ::1] image, part) except *:
    """Where what is in memory lies in an image: its first pixel and the image's shape."""
    cdef Place out
    out.step = image.shape[1]
    out.y0, out.x0 = (0, 0) if part is None else part[:2]
    out.ny, out.nx = (image.shape[0], image.shape[1]) if part is None else part[2:]
    out.y1 = out.y0 + image.shape[0]
    out.x1 = out.x0 + image.shape[1]
    if not (0 <= out.y0 <= out.y1 <= out.ny and 0 <= out.x0 <= out.x1 <= out.nx):
        msg = f"part {part}: not of an image of {out.ny} x {out.nx} pixels"
        raise ValueError(msg)
    return out


cdef inline Py_ssize_t _lowest(const double *corner) noexcept nogil:
    """First pixel that samples between four corners may touch; 0 where undefined."""
    cdef double low = min(min(corner[0], corner[1]), min(corner[2], corner[3]))
    return <Py_ssize_t> low - 2 if fabs(low) < 1e9 else 0


cdef inline Py_ssize_t _highest(const double *corner) noexcept nogil:
    """One more than the last pixel that samples between four corners may touch."""
    cdef double high = max(max(corner[0], corner[1]), max(corner[2], corner[3]))
    return <Py_ssize_t> high + 3 if fabs(high) < 1e9 else 0


cdef inline bint _is_bad(pixel value) noexcept nogil:
    if pixel is float:
        return value == LM_BAD_f
    else:
        return value == LM_BAD_d


cdef int _even_subset(const pixel *values, Py_ssize_t n, Py_ssize_t good,
                      pixel *work) noexcept nogil:
    """Write down at most `LM_ROUGH` good values from all over; return how many, two at least."""
    cdef Py_ssize_t i, m = n if n < LM_ROUGH else LM_ROUGH, seen = 0
    cdef int kept = 0
    for i in range(m):
        work[kept] = values[i * n // m]
        kept += not _is_bad(work[kept])
    if 2 * kept < m and kept < good:
        # Most are bad, and may be so in a pattern: every so many of the good ones.
        m = good if good < LM_ROUGH else LM_ROUGH
        kept = 0
        for i in range(n):
            if not _is_bad(values[i]):
                if seen * m // good == kept:
                    work[kept] = values[i]
                    kept += 1
                seen += 1
                if kept == m:
                    break
    # Of an even number the middle is soon found.
    return kept if kept < 3 else kept - kept % 2


cdef bint _rough(const pixel *values, Py_ssize_t n, Py_ssize_t good, pixel *work,
                 double *centre, double *scale) noexcept nogil:
    """Median and scaled median absolute deviation of an even subset of the good values.

    Returns whether they are counts: many of them equal, so that neither tells much.
    """
    cdef Py_ssize_t i
    cdef int m = _even_subset(values, n, good, work)
    cdef pixel middle
    cdef bint counted
    if pixel is float:
        middle = lm_middle_f(work, m)
        counted = lm_counted_f(work, m, middle)
    else:
        middle = lm_middle_d(work, m)
        counted = lm_counted_d(work, m, middle)
    for i in range(m):
        work[i] = work[i] - middle if work[i] > middle else middle - work[i]
    centre[0] = middle
    if pixel is float:
        scale[0] = 1.482602218505602 * lm_middle_f(work, m)
    else:
        scale[0] = 1.482602218505602 * lm_middle_d(work, m)
    return counted


cdef double _typical_step(const pixel *values, Py_ssize_t n, double centre) noexcept nogil:
    """Geometric mean of the distances from the centre of the values that are not there."""
    cdef Py_ssize_t i, number = 0
    cdef double total = 0.0, step
    for i in range(n):
        step = 0.0 if _is_bad(values[i]) else fabs(values[i] - centre)
        if step > 0:
            total += log(step)
            number += 1
    return exp(total / number) if number else 0.0


cdef inline double _power_of_two(double value) noexcept nogil:
    """One near a positive value, within the range of floats."""
    return ldexp(1.0, min(max(ilogb(value), -120), 120)) if value > 0 else 1.0


cdef void _locate(const pixel *diff, const pixel *bright, Py_ssize_t n, double clip,
                  double truncation, bint use_median, pixel *rough, double *work,
                  Cell *cell) noexcept nogil:
    """Clip the differences about their own centre, and describe what is kept.

    Counts, of which many are equal, are kept but for far outliers: to clip them by their
    scatter would be to take the most frequent for their mean.
    """
    cdef Py_ssize_t i, kept = 0, before = -1
    cdef double centre, exact, scale, low, high, mean, unit
    cdef double sums[4]
    cdef bint counted = _rough(diff, n, cell.good, rough, &centre, &scale)
    exact = centre
    if counted:
        truncation = 1.0
        use_median = False
        clip = FAR
        scale = _typical_step(diff, n, centre)
    unit = _power_of_two(scale)
    for i in range(N_ITER):
        if i == 0 or not counted:
            low = centre - clip * scale
            high = centre + clip * scale
        if pixel is float:
            lm_moments_f(diff, bright, n, low, high, centre, unit, sums)
        else:
            lm_moments_d(diff, bright, n, low, high, centre, unit, sums)
        kept = <Py_ssize_t> sums[0]
        if kept == before or kept < 2:
            break
        before = kept
        mean = sums[1] / kept
        scale = truncation * sqrt(max(sums[2] / kept - mean * mean, 0.0) * kept / (kept - 1.0))
        exact = centre + mean
        # As the sums see it: rounded to the images' precision.
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
        cell.location = lm_median(work, kept)


def difference_cells(
    const pixel[:, ::1] a, const pixel[:, ::1] b,
    const Py_ssize_t[::1] ys, const Py_ssize_t[::1] xs,
    const double[:, ::1] map_x, const double[:, ::1] map_y,
    const Py_ssize_t[:, ::1] cells, double clip, double truncation, bint use_median,
    part_a=None, part_b=None,
):
    """Robust difference of two images in each of the given cells of the first.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad, or those parts of them that the cells reach; both float32
        or both float64, C-contiguous.
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
    part_a, part_b : tuple of int or None
        Of a part, where its first pixel lies in the image, (y, x), and the image's shape.

    Returns
    -------
    cells : `~numpy.ndarray`, shape (n, 10)
        Location, scatter, brightness (mean of the two images), mean x, mean y,
        variance of a sample over that of a pixel, number kept, number sampled; and, of
        all samples, the sum of the differences less the location and that of the
        brightness less the cell's: what stars, clipped from the rest, add.

    Raises
    ------
    IndexError
        If a cell reaches beyond a part.
    """
    cdef Py_ssize_t n_cells = cells.shape[0], i, iy, ix, y0, y1, x0, x1, n, size = 1
    cdef double corner_x[4]
    cdef double corner_y[4]
    cdef Cell cell
    cdef double *work
    cdef pixel *diff
    cdef pixel rough[LM_ROUGH + 1]
    cdef Place in_a = _place(a, part_a), in_b = _place(b, part_b)
    # As if the whole of the images were there.
    cdef const pixel *first = &a[0, 0] - (in_a.y0 * in_a.step + in_a.x0)
    cdef const pixel *second = &b[0, 0] - (in_b.y0 * in_b.step + in_b.x0)
    cdef int good_a = 0, good_b = 0
    for i in range(ys.shape[0] - 1):
        size = max(size, ys[i + 1] - ys[i] + 1)
    n = 1
    for i in range(xs.shape[0] - 1):
        n = max(n, xs[i + 1] - xs[i] + 1)
    size *= n
    result_array = np.zeros((n_cells, 10))
    cdef double[:, ::1] result = result_array
    work = <double *> malloc((size + 1) * sizeof(double))
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
            good_a = _any_good(first, &in_a, y0, y1, x0, x1, 1)
            good_b = _any_good(
                second, &in_b, _lowest(corner_y), _highest(corner_y), _lowest(corner_x),
                _highest(corner_x), 0,
            ) if good_a > 0 else 0
            if good_a < 0 or good_b < 0:
                break
            if not (good_a and good_b):
                continue
            n = _sample_cell(
                first, &in_a, second, &in_b,
                y0, y1, x0, x1, ys[iy + 1] - y0, xs[ix + 1] - x0, corner_x, corner_y,
                diff, diff + size, NULL, NULL, &cell,
            )
            cell.kept = 0
            if cell.good > 0:
                _locate(diff, diff + size, n, clip, truncation, use_median, rough, work, &cell)
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
            result[i, 7] = cell.good
    free(work)
    free(diff)
    if good_a < 0 or good_b < 0:
        msg = f"part_{'a' if good_a < 0 else 'b'}: cell {i} reaches beyond the part in memory"
        raise IndexError(msg)
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
    cdef Place in_a = _place(a, None), in_b = _place(b, None)
    n = _sample_cell(
        &a[0, 0], &in_a, &b[0, 0], &in_b,
        ys[iy], y1, xs[ix], x1, ys[iy + 1] - ys[iy], xs[ix + 1] - xs[ix], corner_x, corner_y,
        &value[0, 0], &value[1, 0], &place[0, 0], &place[1, 0], &cell,
    )
    if pixel is float:
        good = values[0, :n] != LM_BAD_f
    else:
        good = values[0, :n] != LM_BAD_d
    values, places = values[:, :n][:, good], places[:, :n][:, good]
    return values[0], 0.5 * values[1], places[0], places[1]
