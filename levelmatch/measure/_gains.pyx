# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Least squares of the flux scale of a pair, compiled: numpy's calls would take most of the time."""

import numpy as np

from libc.math cimport fabs, sqrt
from libc.stdlib cimport free, malloc

cdef extern from "_median.h" nogil:
    double lm_median(double *, Py_ssize_t)

__all__ = ["median", "robust_fit", "without_terms"]

cdef enum:
    MAX_TERMS = 16
    # Huber's weights first, then Tukey's.
    N_ROBUST = 5
    N_HUBER = 2
# Cells farther off than this many sigma lose weight.
cdef double CLIP = 5.0
# Added to the diagonal of normal matrices, as a fraction of their trace, so that none is singular.
cdef double RIDGE = 1e-10


cdef void _normal(const double *design, const double *weight, const double *values, Py_ssize_t n,
                  Py_ssize_t k, double *normal, double *right) noexcept nogil:
    """Normal matrix and right-hand side of weighted least squares."""
    cdef Py_ssize_t c, i, j
    cdef double w, trace = 0.0
    cdef const double *row
    for i in range(k * k):
        normal[i] = 0.0
    for i in range(k):
        right[i] = 0.0
    for c in range(n):
        row = design + k * c
        for i in range(k):
            w = weight[c] * row[i]
            right[i] += w * values[c]
            for j in range(i + 1):
                normal[k * i + j] += w * row[j]
    for i in range(k):
        trace += normal[k * i + i]
    for i in range(k):
        normal[k * i + i] += RIDGE * trace
        for j in range(i):
            normal[k * j + i] = normal[k * i + j]


cdef void _solve(const double *normal, const double *right, Py_ssize_t k, double *x) noexcept nogil:
    """Solve a positive definite system, by Cholesky's factors."""
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
    """Scaled median absolute value, never zero."""
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


def _check(const double[:, ::1] design, *columns):
    if not 0 < design.shape[1] <= MAX_TERMS or any(len(c) != len(design) for c in columns):
        msg = f"design: {design.shape[0]} x {design.shape[1]} with columns of other lengths"
        raise ValueError(msg)


def without_terms(const double[:, ::1] design, const double[::1] weight, const double[::1] values):
    """Return values minus the terms fitted to them by weighted least squares, shape (n,).

    Parameters
    ----------
    design : `~numpy.ndarray`, shape (n, k)
        The terms of each value.
    weight, values : `~numpy.ndarray`, shape (n,)
        The values, and their weights.
    """
    _check(design, weight, values)
    cdef Py_ssize_t n = design.shape[0], k = design.shape[1], c, i
    cdef double normal[MAX_TERMS * MAX_TERMS]
    cdef double right[MAX_TERMS]
    cdef double x[MAX_TERMS]
    out_array = np.array(values)
    cdef double[::1] out = out_array
    with nogil:
        _normal(&design[0, 0], &weight[0], &values[0], n, k, normal, right)
        _solve(normal, right, k, x)
        for c in range(n):
            for i in range(k):
                out[c] -= design[c, i] * x[i]
    return out_array


def robust_fit(const double[:, ::1] design, const double[::1] values, const double[::1] prior,
               const double[::1] white, const double[::1] stars, double noise):
    """Fit values by terms, with weights by Huber first and by Tukey in the end.

    Cells that only one of the images shows, and saturated stars, get no weight.

    Parameters
    ----------
    design : `~numpy.ndarray`, shape (n, k)
        The terms of each value.
    values : `~numpy.ndarray`, shape (n,)
        The values.
    prior : `~numpy.ndarray`, shape (k,)
        Inverse variances of the coefficients.
    white, stars : `~numpy.ndarray`, shape (n,)
        Variances of the values: per squared noise, and besides.
    noise : float
        First estimate of the noise.

    Returns
    -------
    coefficients, weight, residual, clipped, normal : `~numpy.ndarray`
        The fit; the residuals times the robust weights, and clipped; and the normal matrix.
    noise : float
        The noise.
    """
    _check(design, values, white, stars)
    cdef Py_ssize_t n = design.shape[0], k = design.shape[1], c, i, step
    out = [np.empty(k), np.empty(n), np.empty(n), np.empty(n), np.empty((k, k))]
    cdef double[::1] coefficients = out[0]
    cdef double[::1] weight = out[1]
    cdef double[::1] residual = out[2]
    cdef double[::1] sigmas = out[3]
    cdef double[:, ::1] normal = out[4]
    cdef double right[MAX_TERMS]
    cdef double scale
    cdef double *buffer = <double *> malloc(3 * n * sizeof(double))
    if buffer == NULL:
        raise MemoryError
    cdef double *robust = buffer
    cdef double *variance = buffer + n
    cdef double *work = buffer + 2 * n
    with nogil:
        for c in range(n):
            robust[c] = 1.0
        for step in range(N_ROBUST):
            for c in range(n):
                variance[c] = noise * noise * white[c] + stars[c]
                weight[c] = robust[c] / variance[c]
            _normal(&design[0, 0], &weight[0], &values[0], n, k, &normal[0, 0], right)
            for i in range(k):
                normal[i, i] += prior[i]
            _solve(&normal[0, 0], right, k, &coefficients[0])
            for c in range(n):
                residual[c] = values[c]
                for i in range(k):
                    residual[c] -= design[c, i] * coefficients[i]
            noise = _scatter(&residual[0], n, work)
            for c in range(n):
                sigmas[c] = fabs(residual[c]) / sqrt(variance[c])
                work[c] = sigmas[c]
            scale = 1 / (CLIP * max(1.4826 * lm_median(work, n), 0.3))
            for c in range(n):
                sigmas[c] *= scale
                if step < N_HUBER:
                    robust[c] = 1 / max(sigmas[c], 1.0)
                else:
                    robust[c] = max(1 - sigmas[c] * sigmas[c], 0.0) ** 2
        for c in range(n):
            sigmas[c] = residual[c] / max(sigmas[c], 1.0)
            residual[c] *= robust[c]
    free(buffer)
    return (*out, noise)
