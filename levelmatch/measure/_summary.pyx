# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The numbers of a pair from its cells, compiled: so small that numpy would be all overhead."""

import numpy as np

from libc.math cimport atan2, cos, fabs, hypot, sin, sqrt
from libc.stdlib cimport free, malloc

cdef extern from "_median.h" nogil:
    double lm_median(double *, Py_ssize_t)

__all__ = ["summarise_cells"]

cdef double ARCMIN = 180 * 60 / 3.141592653589793
# Weight, in cells, of the belief that the cells scatter as their pixels say.
cdef double PRIOR_CELLS = 10
# Cells farther than this many sigma from the pair's plane are left out, if there are
# enough to tell.
cdef double CELL_CLIP = 4.0
cdef enum:
    MIN_ROBUST = 6
    N_ROBUST = 8
    N_ABSOLUTE = 4
# Number of samples a coarser pixel from which on its noise is told from the finer's.
cdef double MIN_COARSE = 1.5

cdef inline double _value(const double *term, const double *plane) noexcept nogil:
    return plane[0] + term[1] * plane[1] + term[2] * plane[2]


cdef void _normal(const double *terms, const double *values, const double *weight, Py_ssize_t n,
                  double *gram, double *rhs) noexcept nogil:
    """Normal matrix (3 x 3) and right-hand side of a plane."""
    cdef Py_ssize_t c, i, j
    cdef double w
    for i in range(9):
        gram[i] = 0.0
    for i in range(3):
        rhs[i] = 0.0
    for c in range(n):
        for i in range(3):
            w = weight[c] * terms[3 * c + i]
            rhs[i] += w * values[c]
            for j in range(i + 1):
                gram[3 * i + j] += w * terms[3 * c + j]
    gram[1] = gram[3]
    gram[2] = gram[6]
    gram[5] = gram[7]


cdef double _determinant(const double *m) noexcept nogil:
    return (m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6])
            + m[2] * (m[3] * m[7] - m[4] * m[6]))


cdef void _solve(double *m, double *x) noexcept nogil:
    """Solve a positive definite 3 x 3 system in place, by Cholesky's factors."""
    cdef Py_ssize_t i, j, k
    for i in range(3):
        for j in range(i + 1):
            for k in range(j):
                m[3 * i + j] -= m[3 * i + k] * m[3 * j + k]
            if i == j:
                m[3 * i + i] = sqrt(max(m[3 * i + i], 1e-300))
            else:
                m[3 * i + j] /= m[3 * j + j]
    for i in range(3):
        for k in range(i):
            x[i] -= m[3 * i + k] * x[k]
        x[i] /= m[3 * i + i]
    for i in range(2, -1, -1):
        for k in range(i + 1, 3):
            x[i] -= m[3 * k + i] * x[k]
        x[i] /= m[3 * i + i]


cdef void _solve_singular(double *m, double *x) noexcept nogil:
    """The solution of least norm of a symmetric 3 x 3 system, by Jacobi's rotations."""
    cdef Py_ssize_t sweep, i, j, k, p, q
    cdef double v[9]
    cdef double y[3]
    cdef double theta, t, c, s, one, two, largest = 0.0
    for i in range(9):
        v[i] = 1.0 if i % 4 == 0 else 0.0
    for sweep in range(30):
        for k in range(3):
            p = 0 if k < 2 else 1
            q = k + 1 if k < 2 else 2
            if fabs(m[3 * p + q]) < 1e-300:
                continue
            theta = 0.5 * (m[3 * q + q] - m[3 * p + p]) / m[3 * p + q]
            t = (1.0 if theta >= 0 else -1.0) / (fabs(theta) + hypot(theta, 1.0))
            c = 1.0 / hypot(t, 1.0)
            s = t * c
            for i in range(3):
                one = m[3 * i + p]
                two = m[3 * i + q]
                m[3 * i + p] = c * one - s * two
                m[3 * i + q] = s * one + c * two
            for i in range(3):
                one = m[3 * p + i]
                two = m[3 * q + i]
                m[3 * p + i] = c * one - s * two
                m[3 * q + i] = s * one + c * two
                one = v[3 * i + p]
                two = v[3 * i + q]
                v[3 * i + p] = c * one - s * two
                v[3 * i + q] = s * one + c * two
    for i in range(3):
        largest = max(largest, fabs(m[4 * i]))
        y[i] = v[i] * x[0] + v[3 + i] * x[1] + v[6 + i] * x[2]
    for i in range(3):
        y[i] = y[i] / m[4 * i] if fabs(m[4 * i]) > 1e-12 * largest else 0.0
    for i in range(3):
        x[i] = v[3 * i] * y[0] + v[3 * i + 1] * y[1] + v[3 * i + 2] * y[2]


cdef void _fit(const double *terms, const double *values, const double *weight, Py_ssize_t n,
               double *plane) noexcept nogil:
    """Weighted least squares by the scaled normal equations; the least norm where singular."""
    cdef double gram[9]
    cdef double size[3]
    cdef Py_ssize_t i, j
    _normal(terms, values, weight, n, gram, plane)
    for i in range(3):
        size[i] = sqrt(max(gram[4 * i], 1e-300))
    for i in range(3):
        plane[i] /= size[i]
        for j in range(3):
            gram[3 * i + j] /= size[i] * size[j]
    if _determinant(gram) > 1e-9:
        _solve(gram, plane)
    else:
        _solve_singular(gram, plane)
    for i in range(3):
        plane[i] /= size[i]


cdef Py_ssize_t _agree(const double *terms, const double *location, const double *root,
                       const double *plane, Py_ssize_t n, double *z, double *keep,
                       double *work, double *middle) noexcept nogil:
    """Which cells agree with a plane, and how many; ``z`` is how far they are off."""
    cdef Py_ssize_t c, count = 0
    cdef double limit
    for c in range(n):
        z[c] = root[c] * fabs(location[c] - _value(terms + 3 * c, plane))
        work[c] = z[c]
    middle[0] = lm_median(work, n)
    # Never tighter than the pixels' own noise allows.
    limit = CELL_CLIP * max(1.4826 * middle[0], 1.0)
    for c in range(n):
        keep[c] = 1.0 if z[c] <= limit else 0.0
        count += z[c] <= limit
    return count


cdef void _robust_plane(const double *terms, const double *location, const double *weight,
                        Py_ssize_t n, double *keep, double *plane, double *work) noexcept nogil:
    """Fit a plane to the cells that agree on it, and tell which do; ``work`` is of 5 n."""
    cdef double *root = work
    cdef double *z = work + n
    cdef double *other = work + 2 * n
    cdef double *scratch = work + 3 * n
    cdef double *before = work + 4 * n
    cdef double middle
    cdef Py_ssize_t c, step, count
    cdef bint same
    for c in range(n):
        root[c] = sqrt(weight[c])
    _fit(terms, location, weight, n, plane)
    count = _agree(terms, location, root, plane, n, z, keep, scratch, &middle)
    if n < MIN_ROBUST or count == n:
        for c in range(n):
            keep[c] = 1.0
        return
    # Least absolute deviations first: many cells with one wrong level would carry
    # least squares with them; a few do not.
    for step in range(N_ABSOLUTE if count < 0.95 * n else 0):
        for c in range(n):
            other[c] = weight[c] / max(z[c], middle / 4 + 1e-300)
        _fit(terms, location, other, n, plane)
        count = _agree(terms, location, root, plane, n, z, keep, scratch, &middle)
    for step in range(N_ROBUST):
        for c in range(n):
            before[c] = keep[c]
            other[c] = weight[c] * keep[c]
        _fit(terms, location, other, n, plane)
        count = _agree(terms, location, root, plane, n, z, keep, scratch, &middle)
        same = True
        for c in range(n):
            same = same and before[c] == keep[c]
        if same:
            break


cdef void _tangent_axes(double *axes) noexcept nogil:
    """East and North at the centre, which is the first three numbers, made a unit vector."""
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


cdef double _shared_noise(double chi2, double coarseness, double own_part) noexcept nogil:
    """Variance of the mean of many cells over that of as many independent ones.

    The pixels of a much coarser image are told from the finer's by what they add to the
    scatter of the cells: their noise is alike in all samples of one of them.
    """
    cdef double most = coarseness * own_part, coarse
    if most < MIN_COARSE:
        return 1 / own_part
    coarse = min(max((chi2 - 1) / (most - 1), 0.0), 1.0)
    return (1 - coarse + coarseness * coarse) / (1 - coarse + most * coarse)


def summarise_cells(
    const double[:, ::1] vectors, const double[::1] location, const double[::1] variance,
    const double[::1] scatter, const double[::1] npix, const double[::1] depth,
    const double[::1] excess, double coarseness, double own_part,
):
    """The numbers of a pair from its cells.

    Parameters
    ----------
    vectors : `~numpy.ndarray`, shape (n, 3)
        Unit vectors of the cells' centroids; n is 1 or more.
    location, variance, scatter, npix : `~numpy.ndarray`, shape (n,)
        Level of each cell, its variance, the scatter of the pixels and their number.
    depth : `~numpy.ndarray`, shape (n,)
        Number of images that cover each cell.
    excess : `~numpy.ndarray`, shape (n,)
        What a median adds to the variance, of that of a mean.
    coarseness, own_part : float
        Pixel scale of the coarser image over that of the finer, squared, and the part of
        its noise in a cell's variance that the cell has to itself.

    Returns
    -------
    numbers : `~numpy.ndarray`, shape (25,)
        Normal matrix (9), right-hand side (3), axes (9), standard error, scatter, chi2, pixels.
    """
    cdef Py_ssize_t n = location.shape[0], c, i
    cdef double plane[3]
    cdef double w, residual, n_used = 0.0, squares = 0.0, chi2, chi2_all, total = 0.0, own = 0.0
    cdef double kept = 0.0, spread = 0.0
    out_array = np.zeros(25)
    cdef double[::1] out = out_array
    cdef double *buffer = <double *> malloc(11 * n * sizeof(double))
    if buffer == NULL:
        raise MemoryError
    cdef double *terms = buffer
    cdef double *weight = buffer + 3 * n
    cdef double *robust = buffer + 4 * n
    cdef double *used = buffer + 5 * n
    cdef double *work = buffer + 6 * n
    cdef double *axes = &out[12]
    with nogil:
        for c in range(n):
            weight[c] = 1 / variance[c]
            for i in range(3):
                axes[i] += weight[c] * vectors[c, i]
        _tangent_axes(axes)
        for c in range(n):
            terms[3 * c] = 1.0
            for i in range(1, 3):
                terms[3 * c + i] = ARCMIN * (
                    vectors[c, 0] * axes[3 * i] + vectors[c, 1] * axes[3 * i + 1]
                    + vectors[c, 2] * axes[3 * i + 2])
        _robust_plane(terms, &location[0], weight, n, robust, plane, work)
        for c in range(n):
            residual = location[c] - _value(terms + 3 * c, plane)
            w = robust[c] * weight[c]
            n_used += robust[c]
            squares += w * residual * residual
            total += w
            own += w * w * variance[c]
            kept += robust[c] * npix[c]
            spread += robust[c] * npix[c] * (scatter[c] * scatter[c] + residual * residual)
        chi2 = (PRIOR_CELLS + squares) / (PRIOR_CELLS + max(n_used - 3, 0.0))
        chi2_all = chi2 * _shared_noise(chi2, coarseness, own_part)
        for c in range(n):
            used[c] = (robust[c] * weight[c] * (2 / depth[c]) / chi2_all
                       * (1 + excess[c]) / (1 + excess[c] * 2 / depth[c]))
        _normal(terms, &location[0], used, n, &out[0], &out[9])
        out[21] = sqrt(chi2_all * own) / total
        out[22] = sqrt(spread / kept)
        out[23] = chi2
        out[24] = kept
    free(buffer)
    return out_array
