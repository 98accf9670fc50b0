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

__all__ = ["convex_overlap", "difference_cells", "difference_samples"]

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


cdef inline double _bilinear(
    const pixel *image, Py_ssize_t ny, Py_ssize_t nx, double x, double y,
    double *smooth, bint *inside,
) noexcept nogil:
    """Return the image at (x, y); a bad pixel among the neighbours gives NaN.

    ``smooth`` is set to the sum of the squared weights: the variance of the
    sample relative to that of one pixel.
    """
    cdef Py_ssize_t ix, iy, dx, dy
    cdef double fx, fy, top, bottom
    cdef const pixel *base
    x += SNAP
    y += SNAP
    inside[0] = False
    if not (x >= 0 and y >= 0 and x < nx and y < ny):
        return 0.0
    ix = <Py_ssize_t> x
    iy = <Py_ssize_t> y
    fx = x - ix - SNAP
    fy = y - iy - SNAP
    dx = fx > SNAP
    dy = fy > SNAP
    if ix + dx >= nx or iy + dy >= ny:
        return 0.0
    inside[0] = True
    if not dx:
        fx = 0.0
    if not dy:
        fy = 0.0
    base = image + iy * nx + ix
    bottom = base[0] + fx * (<double> base[dx] - base[0])
    base += dy * nx
    top = base[0] + fx * (<double> base[dx] - base[0])
    smooth[0] = (1.0 - 2.0 * fx * (1.0 - fx)) * (1.0 - 2.0 * fy * (1.0 - fy))
    return bottom + fy * (top - bottom)


cdef struct Cell:
    double location
    double scatter
    double brightness
    double x
    double y
    double smooth
    Py_ssize_t kept
    Py_ssize_t sampled


cdef Py_ssize_t _sample_cell(
    const pixel *a, Py_ssize_t a_ny, Py_ssize_t a_nx,
    const pixel *b, Py_ssize_t b_ny, Py_ssize_t b_nx,
    Py_ssize_t y0, Py_ssize_t y1, Py_ssize_t x0, Py_ssize_t x1,
    double height, double width, const double *corner_x, const double *corner_y,
    double *diff, double *bright, double *at_x, double *at_y, Cell *cell,
) noexcept nogil:
    """Fill the buffers with the differences of one cell; return how many.

    ``at_x`` and ``at_y`` may be NULL.  The corners hold the second image's pixel coordinates at the cell's
    corners: (y0, x0), (y0, x1), (y1, x0), (y1, x1).
    """
    cdef Py_ssize_t x, y, n = 0
    cdef double jxx, jxy, jyx, jyy, det, ixx, ixy, iyx, iyy
    cdef double qx, qy, dqx, dqy, t, left_x, left_y, fx, fy, va, vb, value, ka, kb
    cdef double k_sum = 0.0, x_sum = 0.0, y_sum = 0.0
    cdef bint inside
    cell.smooth = 1.0
    jxx = 0.5 * (corner_x[1] - corner_x[0] + corner_x[3] - corner_x[2]) / width
    jxy = 0.5 * (corner_x[2] - corner_x[0] + corner_x[3] - corner_x[1]) / height
    jyx = 0.5 * (corner_y[1] - corner_y[0] + corner_y[3] - corner_y[2]) / width
    jyy = 0.5 * (corner_y[2] - corner_y[0] + corner_y[3] - corner_y[1]) / height
    det = jxx * jyy - jxy * jyx
    # Also false for NaN corners: where the second image's WCS is not defined.
    if not fabs(det) > 1e-12:
        return 0
    ixx = 0.5 * jyy / det
    ixy = -0.5 * jxy / det
    iyx = -0.5 * jyx / det
    iyy = 0.5 * jxx / det
    for y in range(y0, y1):
        t = (y - y0) / height
        left_x = corner_x[0] + t * (corner_x[2] - corner_x[0])
        left_y = corner_y[0] + t * (corner_y[2] - corner_y[0])
        dqx = (corner_x[1] + t * (corner_x[3] - corner_x[1]) - left_x) / width
        dqy = (corner_y[1] + t * (corner_y[3] - corner_y[1]) - left_y) / width
        for x in range(x0, x1):
            qx = left_x + (x - x0) * dqx
            qy = left_y + (x - x0) * dqy
            if not (qx > -1.0 and qy > -1.0 and qx < b_nx and qy < b_ny):
                continue
            # Rounding by truncation, for positions above -1: a call of floor costs more
            # than the sample.
            fx = qx + 1.0 - <Py_ssize_t> (qx + 1.5)
            fy = qy + 1.0 - <Py_ssize_t> (qy + 1.5)
            vb = _bilinear(b, b_ny, b_nx, qx - 0.5 * fx, qy - 0.5 * fy, &kb, &inside)
            if not inside or vb != vb:
                continue
            va = _bilinear(
                a, a_ny, a_nx, x - (ixx * fx + ixy * fy), y - (iyx * fx + iyy * fy), &ka, &inside
            )
            if not inside:
                continue
            value = va - vb
            # False for NaN, and for the infinity that an overflow would give.
            if not fabs(value) < 1e300:
                continue
            diff[n] = value
            bright[n] = 0.5 * (va + vb)
            if at_x != NULL:
                at_x[n] = x
                at_y[n] = y
            x_sum += x
            y_sum += y
            k_sum += ka + kb
            n += 1
    if n > 0:
        cell.smooth = 0.5 * k_sum / n
        cell.x = x_sum / n
        cell.y = y_sum / n
    return n


cdef void _rough(const double *values, Py_ssize_t n, double *work,
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


cdef void _locate(const double *diff, const double *bright, Py_ssize_t n, double clip,
                  double truncation, bint use_median, double *work, Cell *cell) noexcept nogil:
    """Clip the differences about their own centre, and describe what is kept."""
    cdef Py_ssize_t i, kept, before = -1
    cdef double centre, scale, low, high, total, square, value, b
    _rough(diff, n, work, &centre, &scale)
    kept = n
    for i in range(N_ITER):
        low = centre - clip * scale
        high = centre + clip * scale
        _moments(diff, n, low, high, centre, &kept, &total, &square)
        if kept == before or kept < 2:
            break
        before = kept
        value = total / kept
        scale = truncation * sqrt(max(square / kept - value * value, 0.0) * kept / (kept - 1.0))
        centre += value
    b = 0.0
    kept = 0
    for i in range(n):
        if low <= diff[i] <= high:
            work[kept] = diff[i]
            b += bright[i]
            kept += 1
    cell.kept = kept
    if kept == 0:
        return
    cell.location = _median(work, kept) if use_median else centre
    cell.scatter = scale
    cell.brightness = b / kept


cdef void _moments(const double *values, Py_ssize_t n, double low, double high, double centre,
                   Py_ssize_t *kept, double *total, double *square) noexcept nogil:
    """Count, sum and sum of squares, about the centre, of the values within the bounds."""
    cdef Py_ssize_t i
    cdef double value, weight, count = 0.0, first = 0.0, second = 0.0
    for i in range(n):
        value = values[i]
        # Arithmetic, not a branch: half of the branches would be mispredicted.
        weight = <double> ((value >= low) & (value <= high))
        value = (value - centre) * weight
        count += weight
        first += value
        second += value * value
    kept[0] = <Py_ssize_t> count
    total[0] = first
    square[0] = second


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
    cells : `~numpy.ndarray`, shape (n, 8)
        Location, scatter, brightness (mean of the two images), mean x, mean y,
        variance of a sample over that of a pixel, number kept, number sampled.
    """
    cdef Py_ssize_t n_cells = cells.shape[0], i, iy, ix, y0, y1, x0, x1, n, size = 1
    cdef double corner_x[4]
    cdef double corner_y[4]
    cdef Cell cell
    cdef double *buffer
    for i in range(ys.shape[0] - 1):
        size = max(size, ys[i + 1] - ys[i] + 1)
    n = 1
    for i in range(xs.shape[0] - 1):
        n = max(n, xs[i + 1] - xs[i] + 1)
    size *= n
    result_array = np.zeros((n_cells, 8))
    cdef double[:, ::1] result = result_array
    buffer = <double *> malloc((3 * size + N_ROUGH) * sizeof(double))
    if buffer == NULL:
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
            n = _sample_cell(
                &a[0, 0], a.shape[0], a.shape[1], &b[0, 0], b.shape[0], b.shape[1],
                y0, y1, x0, x1, ys[iy + 1] - y0, xs[ix + 1] - x0, corner_x, corner_y,
                buffer, buffer + size, NULL, NULL, &cell,
            )
            cell.kept = 0
            if n > 0:
                _locate(buffer, buffer + size, n, clip, truncation, use_median,
                        buffer + 2 * size, &cell)
            if cell.kept > 0:
                result[i, 0] = cell.location
                result[i, 1] = cell.scatter
                result[i, 2] = cell.brightness
                result[i, 3] = cell.x
                result[i, 4] = cell.y
            result[i, 5] = cell.smooth
            result[i, 6] = cell.kept
            result[i, 7] = n
    free(buffer)
    return result_array


def difference_samples(
    const pixel[:, ::1] a, const pixel[:, ::1] b,
    const Py_ssize_t[::1] ys, const Py_ssize_t[::1] xs,
    const double[:, ::1] map_x, const double[:, ::1] map_y, Py_ssize_t iy, Py_ssize_t ix,
):
    """Every difference of one cell, for plots and for the tests of `difference_cells`.

    Returns
    -------
    samples : `~numpy.ndarray`, shape (n, 4)
        Difference, brightness, x, y.
    """
    cdef double corner_x[4]
    cdef double corner_y[4]
    cdef Cell cell
    cdef Py_ssize_t n, y1, x1, size, k
    y1 = ys[iy + 1] + (iy == ys.shape[0] - 2)
    x1 = xs[ix + 1] + (ix == xs.shape[0] - 2)
    size = (y1 - ys[iy]) * (x1 - xs[ix])
    samples = np.empty((4, size))
    cdef double[:, ::1] view = samples
    for k in range(4):
        corner_x[k] = map_x[iy + k // 2, ix + k % 2]
        corner_y[k] = map_y[iy + k // 2, ix + k % 2]
    n = _sample_cell(
        &a[0, 0], a.shape[0], a.shape[1], &b[0, 0], b.shape[0], b.shape[1],
        ys[iy], y1, xs[ix], x1, ys[iy + 1] - ys[iy], xs[ix + 1] - xs[ix], corner_x, corner_y,
        &view[0, 0], &view[1, 0], &view[2, 0], &view[3, 0], &cell,
    )
    return samples[:, :n].T


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
        Unit vectors of the vertices, counter-clockwise as seen from inside the sphere.
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
