# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Entries of the inverse of a factorised matrix, where its factor is not zero."""

import numpy as np

__all__ = ["selected_inverse"]


def selected_inverse(const int[::1] start, const int[::1] row, const double[::1] lower,
                     const double[::1] pivot):
    """Return the inverse of L D L^T in the pattern of L, by Takahashi's recursion.

    Takahashi, Fagan & Chen 1973, 8th PICA Conference, 63; Erisman & Tinney 1975, Comm. ACM 18,
    177. The last column first: each needs only entries of later ones, in the same pattern.

    Parameters
    ----------
    start, row, lower : arrays
        L by columns, its diagonal of ones first in each, then ascending rows.
    pivot : array, shape (n,)
        The diagonal of D.

    Returns
    -------
    inverse : `~numpy.ndarray`, shape of ``lower``
        The entries in the places of L's.
    whole : bool
        Whether the pattern held every entry that the recursion needs; if not, the entries are
        wrong.
    """
    cdef Py_ssize_t n = len(pivot), j, a, b, first, last, k, found
    inverse_array = np.zeros(len(lower))
    sum_array = np.zeros(n)
    place_array = np.full(n, -1, dtype=np.intp)
    cdef double[::1] inverse = inverse_array, total = sum_array
    cdef Py_ssize_t[::1] place = place_array
    cdef double factor, value, across
    cdef bint whole = True
    with nogil:
        for j in range(n - 1, -1, -1):
            first, last = start[j] + 1, start[j + 1]
            for a in range(first, last):
                place[row[a]] = a
                total[row[a]] = 0.0
            for a in range(first, last):
                k = row[a]
                factor = lower[a]
                total[k] += inverse[start[k]] * factor
                found = 0
                across = 0.0
                for b in range(start[k] + 1, start[k + 1]):
                    if place[row[b]] >= 0:
                        value = inverse[b]
                        total[row[b]] += value * factor
                        across += value * lower[place[row[b]]]
                        found += 1
                total[k] += across
                if found != last - a - 1:
                    whole = False
            value = 1.0 / pivot[j]
            for a in range(first, last):
                inverse[a] = -total[row[a]]
                value += total[row[a]] * lower[a]
                place[row[a]] = -1
            inverse[start[j]] = value
    return inverse_array, whole
