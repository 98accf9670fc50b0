# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Geometry of footprints and maps between pixel grids, compiled."""

import numpy as np

from libc.math cimport fabs, sqrt

cdef extern from "_map.h" nogil:
    enum:
        LM_POLYNOMIALS
    ctypedef struct lm_map:
        const double *axes
        const double *affine
        const double *coefficients
        Py_ssize_t k
        const double *middle
        const double *half
        double reach
    void lm_sky_to_pixel(const lm_map *, const double *, Py_ssize_t, double *, double *)
    void lm_project(const double *, const double *, Py_ssize_t, double *, double *)
    void lm_products(const double *, const double *, Py_ssize_t, Py_ssize_t, int, Py_ssize_t, double *)

__all__ = [
    "balance_map",
    "cell_vectors",
    "convex_overlap",
    "count_inside",
    "map_error",
    "polynomial_sums",
    "project",
    "reached_cells",
    "sky_to_pixel",
]


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
    cdef Py_ssize_t n = vectors.shape[0], k = coefficients.shape[1]
    cdef lm_map used
    if not 0 < k <= LM_POLYNOMIALS:
        msg = f"coefficients: of degree {LM_POLYNOMIALS - 1} at most, not {k - 1}"
        raise ValueError(msg)
    out_array = np.empty((2, n))
    cdef double[:, ::1] out = out_array
    if n:
        used.axes, used.affine, used.coefficients = &axes[0, 0], &affine[0, 0], &coefficients[0, 0, 0]
        used.k, used.middle, used.half, used.reach = k, &middle[0], &half[0], reach
        with nogil:
            lm_sky_to_pixel(&used, &vectors[0, 0], n, &out[0, 0], &out[1, 0])
    return out_array[0], out_array[1]


def project(const double[:, ::1] vectors, const double[:, ::1] axes):
    """Gnomonic coordinates of unit vectors.

    Parameters
    ----------
    vectors : `~numpy.ndarray`, shape (n, 3)
        Unit vectors.
    axes : `~numpy.ndarray`, shape (3, 3)
        Centre and two tangents of the projection.

    Returns
    -------
    flat : `~numpy.ndarray`, shape (2, n)
        The coordinates; NaN beyond the horizon.
    """
    cdef Py_ssize_t n = vectors.shape[0]
    out_array = np.empty((2, n))
    cdef double[:, ::1] out = out_array
    if n:
        with nogil:
            lm_project(&axes[0, 0], &vectors[0, 0], n, &out[0, 0], &out[1, 0])
    return out_array


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


def count_inside(const double[:, ::1] points, const double[:, :, ::1] normals):
    """Number of convex outlines on the sphere that each point lies in.

    Parameters
    ----------
    points : `~numpy.ndarray`, shape (n, 3)
        Unit vectors; one that is NaN lies nowhere.
    normals : `~numpy.ndarray`, shape (m, k, 3)
        Inward normals of the planes through the edges of each outline; zero where there is none.

    Returns
    -------
    count : `~numpy.ndarray` of intp, shape (n,)
        Points on an edge, but for rounding, count.
    """
    cdef Py_ssize_t n = points.shape[0], i, j, k
    cdef bint inside
    out_array = np.zeros(n, np.intp)
    cdef Py_ssize_t[::1] out = out_array
    with nogil:
        for j in range(normals.shape[0]):
            for i in range(n):
                inside = True
                for k in range(normals.shape[1]):
                    if not (points[i, 0] * normals[j, k, 0] + points[i, 1] * normals[j, k, 1]
                            + points[i, 2] * normals[j, k, 2] >= -1e-15):
                        inside = False
                        break
                out[i] += inside
    return out_array


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


def cell_vectors(
    const double[:, :, ::1] nodes, const Py_ssize_t[::1] ys, const Py_ssize_t[::1] xs,
    const Py_ssize_t[:, ::1] cells, const double[::1] y, const double[::1] x,
):
    """Unit vectors of pixel positions within cells, bilinear between the nodes.

    Parameters
    ----------
    nodes : `~numpy.ndarray`, shape (len(ys), len(xs), 3)
        Unit vectors at the nodes.
    ys, xs : `~numpy.ndarray` of intp
        Rows and columns of the nodes.
    cells : `~numpy.ndarray` of intp, shape (n, 2)
        The (y, x) index of each cell.
    y, x : `~numpy.ndarray`, shape (n,)
        The positions.

    Returns
    -------
    vectors : `~numpy.ndarray`, shape (n, 3)
        Unit vectors.
    """
    cdef Py_ssize_t n = cells.shape[0], c, i, iy, ix
    cdef double t, s, norm
    out_array = np.empty((n, 3))
    cdef double[:, ::1] out = out_array
    with nogil:
        for c in range(n):
            iy = cells[c, 0]
            ix = cells[c, 1]
            t = (y[c] - ys[iy]) / (ys[iy + 1] - ys[iy])
            s = (x[c] - xs[ix]) / (xs[ix + 1] - xs[ix])
            norm = 0.0
            for i in range(3):
                out[c, i] = (
                    (1 - t) * ((1 - s) * nodes[iy, ix, i] + s * nodes[iy, ix + 1, i])
                    + t * ((1 - s) * nodes[iy + 1, ix, i] + s * nodes[iy + 1, ix + 1, i]))
                norm += out[c, i] * out[c, i]
            for i in range(3):
                out[c, i] /= sqrt(norm)
    return out_array


def map_error(
    const double[:, ::1] map_x, const double[:, ::1] map_y, const Py_ssize_t[:, ::1] cells,
    const double[::1] x, const double[::1] y,
):
    """Largest error of bilinear interpolation at the middles of cells.

    Parameters
    ----------
    map_x, map_y : `~numpy.ndarray`, shape (ny, nx)
        Coordinates at the nodes.
    cells : `~numpy.ndarray` of intp, shape (n, 2)
        The (y, x) index of each cell.
    x, y : `~numpy.ndarray`, shape (n,)
        Exact coordinates at their middles; NaN where not known, which is left out.
    """
    cdef Py_ssize_t c
    cdef double error = 0.0
    with nogil:
        for c in range(cells.shape[0]):
            # Comparisons with NaN are false.
            error = _larger(error, x[c] - _middle(map_x, cells[c, 0], cells[c, 1]))
            error = _larger(error, y[c] - _middle(map_y, cells[c, 0], cells[c, 1]))
    return error


def balance_map(
    double[:, ::1] map_x, double[:, ::1] map_y, const Py_ssize_t[:, ::1] cells,
    const double[::1] x, const double[::1] y,
):
    """Move the nodes of a bilinear map by half its error at the middles of the cells about them.

    Interpolation between exact nodes of a curved map errs to one side. After the move, the errors
    at the nodes and at the middles are about equal, of opposite sign, and half as large.

    Parameters
    ----------
    map_x, map_y : `~numpy.ndarray`, shape (ny, nx)
        Exact coordinates at the nodes. They are changed.
    cells : `~numpy.ndarray` of intp, shape (n, 2)
        The (y, x) index of each cell.
    x, y : `~numpy.ndarray`, shape (n,)
        Exact coordinates at their middles; NaN where not known.

    Returns
    -------
    error : float
        Largest error left, at the nodes of these cells and at their middles.
    """
    cdef Py_ssize_t ny = map_x.shape[0], nx = map_x.shape[1], c, k, iy, ix
    cdef double[:, :, ::1] sums = np.zeros((ny, nx, 3))
    cdef double off_x, off_y, error = 0.0
    cdef double *node
    with nogil:
        for c in range(cells.shape[0]):
            off_x = x[c] - _middle(map_x, cells[c, 0], cells[c, 1])
            off_y = y[c] - _middle(map_y, cells[c, 0], cells[c, 1])
            if off_x != off_x or off_y != off_y:
                continue
            for k in range(4):
                node = &sums[cells[c, 0] + k // 2, cells[c, 1] + k % 2, 0]
                node[0] += 0.5 * off_x
                node[1] += 0.5 * off_y
                node[2] += 1.0
        for iy in range(ny):
            for ix in range(nx):
                if sums[iy, ix, 2] > 0:
                    off_x = sums[iy, ix, 0] / sums[iy, ix, 2]
                    off_y = sums[iy, ix, 1] / sums[iy, ix, 2]
                    map_x[iy, ix] += off_x
                    map_y[iy, ix] += off_y
                    error = _larger(_larger(error, off_x), off_y)
        for c in range(cells.shape[0]):
            # Comparisons with NaN are false.
            error = _larger(error, x[c] - _middle(map_x, cells[c, 0], cells[c, 1]))
            error = _larger(error, y[c] - _middle(map_y, cells[c, 0], cells[c, 1]))
    return error


cdef inline double _middle(const double[:, ::1] nodes, Py_ssize_t iy, Py_ssize_t ix) noexcept nogil:
    """Bilinear interpolation at the middle of a cell."""
    return 0.25 * (nodes[iy, ix] + nodes[iy, ix + 1] + nodes[iy + 1, ix] + nodes[iy + 1, ix + 1])


cdef inline double _larger(double error, double off) noexcept nogil:
    return fabs(off) if fabs(off) > error else error


def polynomial_sums(
    const double[:, ::1] linear, const double[:, ::1] values, int degree, Py_ssize_t step,
):
    """Sums of products of terms and values, for the fit of two functions by polynomials.

    The terms are the products of Chebyshev polynomials of two coordinates up to a total degree,
    in the order of the degrees in the first, then in the second.

    Parameters
    ----------
    linear : `~numpy.ndarray`, shape (2, n)
        The coordinates, from -1 to 1.
    values : `~numpy.ndarray`, shape (2, n)
        The functions.
    degree : int
        The degree, 1 to 15.
    step : int
        Distance between the positions that count.

    Returns
    -------
    sums : `~numpy.ndarray`, shape (k + 2, k + 2)
        Sums of the products of the k terms and the two values, symmetric.
    """
    cdef Py_ssize_t n = linear.shape[1], k = (degree + 1) * (degree + 2) // 2 + 2, i, j
    if not 1 <= degree < LM_POLYNOMIALS or values.shape[1] != n:
        msg = f"degree {degree}, {n} positions and {values.shape[1]} values"
        raise ValueError(msg)
    sums_array = np.zeros((k, k))
    cdef double[:, ::1] sums = sums_array
    if n:
        with nogil:
            lm_products(&linear[0, 0], &values[0, 0], n, step, degree, k, &sums[0, 0])
            for i in range(k):
                for j in range(i):
                    sums[i, j] = sums[j, i]
    return sums_array
