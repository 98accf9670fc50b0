# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sums over the pairs, compiled: numpy would pass millions of pairs through memory many times."""

import numpy as np

from libc.math cimport INFINITY

ctypedef fused index:
    int
    Py_ssize_t

__all__ = [
    "excess_of",
    "level_diagonal",
    "level_gradient",
    "level_links",
    "level_squares",
    "links_in_series",
    "moments",
]


def level_gradient(
    const index[:] first, const index[:] second, const double[:] gram,
    const double[:] rhs, const double[:] weights, const double[:] levels,
):
    """Return the residual of the normal equations of levels, shape (m,).

    Parameters
    ----------
    first, second : `~numpy.ndarray` of intp, shape (n,)
        Groups of each pair.
    gram, rhs : `~numpy.ndarray`, shape (n,)
        Normal equation of each pair.
    weights : `~numpy.ndarray`, shape (n,)
        Factors on the pairs' normal equations.
    levels : `~numpy.ndarray`, shape (m,)
        Level of each group.
    """
    cdef Py_ssize_t p
    cdef double value
    array = np.zeros(levels.shape[0])
    cdef double[::1] out = array
    with nogil:
        for p in range(first.shape[0]):
            value = weights[p] * (rhs[p] - gram[p] * (levels[first[p]] - levels[second[p]]))
            out[first[p]] += value
            out[second[p]] -= value
    return array


def level_diagonal(
    const index[:] first, const index[:] second, const double[:] gram,
    const double[:] weights, Py_ssize_t n_groups,
):
    """Return the diagonal of the normal matrix of levels, shape (m,). See `level_gradient`."""
    cdef Py_ssize_t p
    cdef double value
    array = np.zeros(n_groups)
    cdef double[::1] out = array
    with nogil:
        for p in range(first.shape[0]):
            value = weights[p] * gram[p]
            out[first[p]] += value
            out[second[p]] += value
    return array


def level_links(
    const index[:] first, const index[:] second, const double[:] gram,
    const double[:] weights, const double[:] scale,
):
    """Return the element of the scaled normal matrix of levels of each pair, shape (n,).

    Parameters
    ----------
    first, second, gram, weights
        See `level_gradient`.
    scale : `~numpy.ndarray`, shape (m,)
        Factor of each row and column.
    """
    cdef Py_ssize_t p
    array = np.empty(first.shape[0])
    cdef double[::1] out = array
    with nogil:
        for p in range(first.shape[0]):
            out[p] = -weights[p] * gram[p] * scale[first[p]] * scale[second[p]]
    return array


def level_squares(
    const index[:] first, const index[:] second, const double[:] gram,
    const double[:] measured, const double[:] levels,
):
    """Return the squared residuals of pairs over their own variances, shape (n,).

    Parameters
    ----------
    first, second, gram, levels
        See `level_gradient`.
    measured : `~numpy.ndarray`, shape (n,)
        Difference of each pair.
    """
    cdef Py_ssize_t p
    cdef double left
    array = np.empty(first.shape[0])
    cdef double[::1] out = array
    with nogil:
        for p in range(first.shape[0]):
            left = measured[p] - (levels[first[p]] - levels[second[p]])
            out[p] = left * (gram[p] * left)
    return array


def links_in_series(
    const index[:] first, const index[:] second, const double[:] gram,
    const double[:] factor, Py_ssize_t n_groups,
):
    """Return the weight of the links around each pair's groups, in series, shape (n,).

    Parameters
    ----------
    first, second : `~numpy.ndarray` of intp, shape (n,)
        Groups of each pair.
    gram, factor : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level, and a factor on it.
    n_groups : int
        Number of groups.
    """
    cdef Py_ssize_t p
    cdef double weight, one, two
    total_array, array = np.zeros(n_groups), np.empty(first.shape[0])
    cdef double[::1] total = total_array, out = array
    with nogil:
        for p in range(first.shape[0]):
            weight = factor[p] * gram[p]
            total[first[p]] += weight
            total[second[p]] += weight
        for p in range(first.shape[0]):
            weight = factor[p] * gram[p]
            one, two = total[first[p]] - weight, total[second[p]] - weight
            # Beyond its rounding errors, so that the only link has the ratio of its own weight.
            out[p] = one * two / (one + two + weight) + 1e-6 * weight
    return array


def moments(
    const double[:] quadratic, const double[:] own, const double[:] known,
    const index[:] label, const double[:] square,
):
    """Return the weighted sums of squares for squared floors, and minus their derivatives.

    Parameters
    ----------
    quadratic : `~numpy.ndarray`, shape (n,)
        Squared residuals over the pairs' own variances; negative ones count as zero.
    own, known : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level, and a variance that adds to the squared floor.
    label : `~numpy.ndarray` of intp, shape (n,)
        Label of each pair; pairs of one label share a floor.
    square : `~numpy.ndarray`, shape (n_labels,)
        Squared floors.
    """
    cdef Py_ssize_t p
    cdef double factor, weighted
    values, slopes = np.zeros((2, square.shape[0]))
    cdef double[::1] value = values, slope = slopes
    with nogil:
        for p in range(label.shape[0]):
            if quadratic[p] <= 0:
                continue
            factor = 1 / (1 + (square[label[p]] + known[p]) * own[p])
            weighted = quadratic[p] * factor
            value[label[p]] += weighted
            slope[label[p]] += weighted * factor * own[p]
    return values, slopes


def excess_of(
    const double[:] square, const signed char[:] terms, const unsigned char[:] counted,
    const index[:] set_of, const double[:] own, const double[:] total,
    const double[:] freedom, const double[:] floor_squares,
):
    """Return squared studentised deleted residuals, and the freedom of their scales, shape (n,).

    Parameters
    ----------
    square, terms : `~numpy.ndarray`, shape (n,)
        Squared distances and their degrees of freedom, see
        `~levelmatch.solve.outlier_tests.studentised`.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs whose squares are in the sums of their sets.
    set_of : `~numpy.ndarray` of intp, shape (n,)
        Set of each pair.
    own : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level.
    total, freedom, floor_squares : `~numpy.ndarray`, shape (n_sets,)
        Sum of squares, degrees of freedom and squared floor of each set.
    """
    cdef Py_ssize_t p, s
    cdef double scale, least
    array, left = np.zeros((2, square.shape[0]))
    cdef double[::1] out = array, others = left
    with nogil:
        for p in range(square.shape[0]):
            s, scale = set_of[p], INFINITY
            # A pair that does not count is not in the sum.
            others[p] = freedom[s] - (max(terms[p], 1) if counted[p] else 0)
            if others[p] > 0:
                scale = (total[s] - (square[p] if counted[p] else 0)) / others[p]
            least = 1 / (1 + floor_squares[s] * own[p])
            if terms[p] > 0:
                out[p] = square[p] / terms[p] / (least if scale < least else scale)
    return array, left
