# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Dense linear algebra of the fronts of a sparse matrix, by the BLAS of scipy.

A front eliminates its own groups. Its boundary consists of the later groups that are linked to
them. Its panel is a matrix with a column for each coefficient of its own groups, and a row for
each coefficient of its own groups and of its boundary. Matrices are stored by columns. Of a
symmetric matrix, only the lower triangle is used.

The functions process a range of fronts. Two threads may process the two halves of a dissection.
"""

import numpy as np

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from scipy.linalg.cython_blas cimport dgemm, dgemv, dsymm, dsyrk, dtrsm, dtrsv
from scipy.linalg.cython_lapack cimport dpotrf, dpotri

__all__ = ["Work", "backward", "eliminate", "forward", "invert", "multiply"]

cdef enum:
    # Number of columns of a panel that are factorised at once.
    WIDTH = 96

cdef double ONE = 1.0, MINUS = -1.0, ZERO = 0.0


cdef class Work:
    """Fronts of a dissection, and the matrices that are passed between them.

    Parameters
    ----------
    dissection : `~levelmatch.solve.dissection.Dissection`
        Fronts.
    k : int
        Number of coefficients of each group.
    """

    cdef Py_ssize_t k, n_fronts, widest
    cdef Py_ssize_t[::1] order, start, later, entries, boundary, place, parent, children, child
    cdef int[::1] source, row, column
    cdef public object offset
    cdef Py_ssize_t[::1] at
    cdef double **handed

    def __cinit__(self, dissection, Py_ssize_t k):
        self.k, self.n_fronts = k, len(dissection.parent)
        self.order = dissection.order
        self.start, self.later = dissection.start, dissection.later
        self.entries, self.source = dissection.entries, dissection.source
        self.row, self.column = dissection.row, dissection.column
        self.boundary, self.place = dissection.boundary, dissection.place
        self.parent = dissection.parent
        self.children, self.child = dissection.children, dissection.child
        own, later = np.diff(dissection.start), np.diff(dissection.later)
        self.widest = k * int(np.max(later, initial=1))
        self.offset = np.concatenate([[0], np.cumsum(k * k * own * (own + later))]).astype(np.intp)
        self.at = self.offset
        self.handed = <double **>calloc(max(self.n_fronts, 1), sizeof(double *))
        if self.handed == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.free_handed()
        free(self.handed)

    def clear(self):
        """Free the matrices that were passed between fronts."""
        self.free_handed()

    cdef void free_handed(self) noexcept nogil:
        cdef Py_ssize_t f
        if self.handed != NULL:
            for f in range(self.n_fronts):
                free(self.handed[f])
                self.handed[f] = NULL

    cdef int n_own(self, Py_ssize_t f) noexcept nogil:
        return <int>(self.k * (self.start[f + 1] - self.start[f]))

    cdef int n_later(self, Py_ssize_t f) noexcept nogil:
        return <int>(self.k * (self.later[f + 1] - self.later[f]))


cdef int cholesky(double *a, int n, int m, double least) noexcept nogil:
    """Factorise a panel of n columns and m rows in place; return 1 if a pivot vanishes."""
    cdef int j = 0, w, rest, failed = 0
    cdef Py_ssize_t i, stride = m
    while j < n:
        w = min(<int>WIDTH, n - j)
        rest = m - j
        if j:
            dgemm("N", "T", &rest, &w, &j, &MINUS, a + j, &m, a + j, &m, &ONE, a + j + j * stride,
                  &m)
        dpotrf("L", &w, a + j + j * stride, &m, &failed)
        if failed:
            return 1
        rest = m - j - w
        if rest:
            dtrsm("R", "L", "T", "N", &rest, &w, &ONE, a + j + j * stride, &m,
                  a + j + w + j * stride, &m)
        j += w
    for i in range(n):
        if a[i + i * stride] * a[i + i * stride] <= least:
            return 1
    return 0


cdef void add(
    const double *matrix, Py_ssize_t n, const Py_ssize_t *place, Py_ssize_t k,
    double *panel, Py_ssize_t n_own, Py_ssize_t n_rows, double *later,
) noexcept nogil:
    """Add the matrix of a child, of n groups, to the panel and the matrix of its parent."""
    cdef Py_ssize_t i, j, c, r, to
    cdef double *out
    for j in range(n):
        for c in range(k):
            to = k * place[j] + c
            if to < n_own:
                out = panel + to * n_rows
            else:
                out = later + (to - n_own) * (n_rows - n_own) - n_own
            if k == 1:
                for i in range(j, n):
                    out[place[i]] += matrix[i]
            else:
                for i in range(j, n):
                    for r in range(k):
                        out[k * place[i] + r] += matrix[k * i + r]
            matrix += k * n


def eliminate(
    Work work, const double[:, :, ::1] own, const double[:, :, ::1] across, double[::1] panels,
    double least, Py_ssize_t first, Py_ssize_t stop,
):
    """Factorise fronts of a matrix. Return whether they are positive definite.

    Parameters
    ----------
    work : `Work`
        Fronts.
    own, across : `~numpy.ndarray`, shape (m, k, k) and (n, k, k)
        Blocks of the matrix, see `~levelmatch.solve.linear.NormalMatrix`.
    panels : `~numpy.ndarray`, shape (work.offset[-1],)
        Zeros. Overwritten by the Cholesky factors.
    least : float
        Smallest pivot of a matrix that counts as positive definite.
    first, stop : int
        First front, and the one after the last.
    """
    cdef Py_ssize_t f
    cdef int failed = 0
    with nogil:
        for f in range(first, stop):
            failed = eliminate_front(work, f, &own[0, 0, 0], &across[0, 0, 0], &panels[0], least)
            if failed:
                break
    if failed == 2:
        raise MemoryError
    return not failed


cdef int eliminate_front(
    Work work, Py_ssize_t f, const double *own, const double *across, double *panels, double least
) noexcept nogil:
    cdef Py_ssize_t k = work.k, e, c, child, i, j, m, g
    cdef int n = work.n_own(f), b = work.n_later(f), n_rows = n + b
    cdef double *panel = panels + work.at[f]
    cdef double *later = NULL
    cdef double *to
    cdef const double *block
    cdef double *beta = &ZERO
    m = n_rows
    for g in range(work.start[f], work.start[f + 1]):
        block = own + k * k * work.order[g]
        to = panel + k * (g - work.start[f]) * (m + 1)
        for j in range(k):
            for i in range(k):
                to[i + j * m] = block[i * k + j]
    for e in range(work.entries[f], work.entries[f + 1]):
        to = panel + k * work.row[e] + k * work.column[e] * m
        if work.source[e] >= 0:
            block = across + k * k * work.source[e]
            for j in range(k):
                for i in range(k):
                    to[i + j * m] = block[i * k + j]
        else:
            block = across + k * k * (-1 - work.source[e])
            for j in range(k):
                for i in range(k):
                    to[i + j * m] = block[j * k + i]
    if b:
        later = <double *>malloc(<size_t>b * b * sizeof(double))
        if later == NULL:
            return 2
        work.handed[f] = later
        if work.children[f + 1] > work.children[f]:
            memset(later, 0, <size_t>b * b * sizeof(double))
            beta = &ONE
    for c in range(work.children[f], work.children[f + 1]):
        child = work.child[c]
        add(work.handed[child], work.later[child + 1] - work.later[child],
            &work.place[work.later[child]], k, panel, n, m, later)
        free(work.handed[child])
        work.handed[child] = NULL
    if cholesky(panel, n, n_rows, least):
        return 1
    if b:
        dsyrk("L", "N", &b, &n, &MINUS, panel + n, &n_rows, beta, later, &b)
    return 0


def forward(
    Work work, const double[::1] panels, double[:, ::1] x, double[:, ::1] added,
    Py_ssize_t first, Py_ssize_t stop,
):
    """Solve with the Cholesky factors of fronts.

    Parameters
    ----------
    work, panels, first, stop
        See `eliminate`.
    x : `~numpy.ndarray`, shape (n, m)
        Right-hand sides in order of elimination. Overwritten.
    added : `~numpy.ndarray`, shape (n_last, m)
        Receives all that is added to the last rows of ``x``.
    """
    cdef Py_ssize_t f, m = x.shape[1], last = (x.shape[0] - added.shape[0]) // work.k
    cdef double *more = &x[0, 0]
    cdef double *between = between_of(work, m)
    if added.shape[0]:
        more = &added[0, 0] - work.k * m * last
    with nogil:
        for f in range(first, stop):
            forward_front(work, f, <double *>&panels[work.at[f]], &x[0, 0], more, last, between,
                          <int>m)
        free(between)


def backward(
    Work work, const double[::1] panels, double[:, ::1] x, Py_ssize_t first, Py_ssize_t stop
):
    """Solve with the transposed Cholesky factors of fronts, the last one first.

    Parameters
    ----------
    work, panels, x, first, stop
        See `forward`.
    """
    cdef Py_ssize_t f, m = x.shape[1]
    cdef double *between = between_of(work, m)
    with nogil:
        for f in range(stop - 1, first - 1, -1):
            backward_front(work, f, <double *>&panels[work.at[f]], &x[0, 0], between, <int>m)
        free(between)


cdef double *between_of(Work work, Py_ssize_t m) except NULL:
    """Return room for the rows of the largest boundary."""
    cdef double *between = <double *>malloc(<size_t>work.widest * m * sizeof(double))
    if between == NULL:
        raise MemoryError
    return between


cdef void forward_front(
    Work work, Py_ssize_t f, double *panel, double *x, double *more, Py_ssize_t last,
    double *between, int m,
) noexcept nogil:
    cdef int n = work.n_own(f), b = work.n_later(f), n_rows = n + b, one = 1
    cdef Py_ssize_t k = work.k, step = k * m, i, c
    cdef double *own = x + step * work.start[f]
    cdef double *to
    if m == 1:
        dtrsv("L", "N", "N", &n, panel, &n_rows, own, &one)
        if b:
            dgemv("N", &b, &n, &MINUS, panel + n, &n_rows, own, &one, &ZERO, between, &one)
    else:
        dtrsm("R", "L", "T", "N", &m, &n, &ONE, panel, &n_rows, own, &m)
        if b:
            dgemm("N", "T", &m, &b, &n, &MINUS, own, &m, panel + n, &n_rows, &ZERO, between, &m)
    for i in range(work.later[f], work.later[f + 1]):
        to = (x if work.boundary[i] < last else more) + step * work.boundary[i]
        for c in range(step):
            to[c] += between[c]
        between += step


cdef void backward_front(
    Work work, Py_ssize_t f, double *panel, double *x, double *between, int m
) noexcept nogil:
    cdef int n = work.n_own(f), b = work.n_later(f), n_rows = n + b, one = 1
    cdef Py_ssize_t k = work.k, step = k * m, i, c
    cdef double *own = x + step * work.start[f]
    cdef double *to = between
    for i in range(work.later[f], work.later[f + 1]):
        memcpy(to, x + step * work.boundary[i], step * sizeof(double))
        to += step
    if m == 1:
        if b:
            dgemv("T", &b, &n, &MINUS, panel + n, &n_rows, between, &one, &ONE, own, &one)
        dtrsv("L", "T", "N", &n, panel, &n_rows, own, &one)
    else:
        if b:
            dgemm("N", "N", &m, &n, &b, &MINUS, between, &m, panel + n, &n_rows, &ONE, own, &m)
        dtrsm("R", "L", "N", "N", &m, &n, &ONE, panel, &n_rows, own, &m)


def invert(
    Work work, const double[::1] panels, double[:, :, ::1] own, double[:, :, ::1] across,
    Py_ssize_t first, Py_ssize_t stop,
):
    """Compute the blocks of the inverse at the places of the nonzero blocks of the matrix.

    The fronts that come after these must be inverted first.

    Parameters
    ----------
    work, panels, first, stop
        See `eliminate`.
    own, across : `~numpy.ndarray`, shape (m, k, k) and (n, k, k)
        Overwritten by the blocks.
    """
    cdef Py_ssize_t f, parent
    cdef int failed = 0
    cdef Py_ssize_t[::1] waiting = np.diff(np.asarray(work.children))
    with nogil:
        for f in range(stop - 1, first - 1, -1):
            failed = invert_front(
                work, f, <double *>&panels[work.at[f]], &own[0, 0, 0], &across[0, 0, 0]
            )
            if failed:
                break
            parent = work.parent[f]
            # Two threads may need the matrix of a later front.
            if 0 <= parent < stop:
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    free(work.handed[parent])
                    work.handed[parent] = NULL
            if waiting[f] == 0:
                free(work.handed[f])
                work.handed[f] = NULL
    if failed:
        raise MemoryError


cdef int invert_front(
    Work work, Py_ssize_t f, double *panel, double *own, double *across
) noexcept nogil:
    """Compute the inverse at the groups of a front. Return 1 if memory is exhausted."""
    cdef Py_ssize_t k = work.k, size, i, j, e, g
    cdef int n = work.n_own(f), b = work.n_later(f), n_rows = n + b, w, rest, failed
    cdef double *whole
    cdef double *below = NULL
    cdef double *to
    size = n_rows
    whole = <double *>malloc(<size_t>size * size * sizeof(double))
    if whole == NULL:
        return 1
    work.handed[f] = whole
    for j in range(n):
        memcpy(whole + j + j * size, panel + j + j * size, (n - j) * sizeof(double))
    dpotri("L", &n, whole, &n_rows, &failed)
    if b:
        take_from_parent(work, f, whole + n + n * size, size)
        below = <double *>malloc(<size_t>b * n * sizeof(double))
        if below == NULL:
            return 1
        for j in range(n):
            memcpy(below + j * b, panel + n + j * size, b * sizeof(double))
        dtrsm("R", "L", "N", "N", &b, &n, &ONE, panel, &n_rows, below, &b)
        dsymm("L", "L", &b, &n, &MINUS, whole + n + n * size, &n_rows, below, &b, &ZERO,
              whole + n, &n_rows)
        j = 0
        while j < n:
            w, rest = <int>min(<Py_ssize_t>WIDTH, n - j), <int>(n - j)
            dgemm("T", "N", &rest, &w, &b, &MINUS, below + j * b, &b, whole + n + j * size,
                  &n_rows, &ONE, whole + j + j * size, &n_rows)
            j += WIDTH
        free(below)
    for g in range(work.start[f], work.start[f + 1]):
        to = whole + k * (g - work.start[f]) * (size + 1)
        for i in range(k):
            for j in range(k):
                own[(k * work.order[g] + i) * k + j] = to[max(i, j) + min(i, j) * size]
    for e in range(work.entries[f], work.entries[f + 1]):
        to = whole + k * work.row[e] + k * work.column[e] * size
        for i in range(k):
            for j in range(k):
                if work.source[e] >= 0:
                    across[(k * work.source[e] + i) * k + j] = to[i + j * size]
                else:
                    across[(k * (-1 - work.source[e]) + j) * k + i] = to[i + j * size]
    return 0


cdef void take_from_parent(Work work, Py_ssize_t f, double *out, Py_ssize_t stride) noexcept nogil:
    """Copy the inverse at the boundary of a front from its parent."""
    cdef Py_ssize_t k = work.k, parent = work.parent[f], n = work.later[f + 1] - work.later[f]
    cdef Py_ssize_t of_parent = work.n_own(parent) + work.n_later(parent), i, j, c, r
    cdef Py_ssize_t *place = &work.place[work.later[f]]
    cdef double *column
    for j in range(n):
        for c in range(k):
            column = work.handed[parent] + (k * place[j] + c) * of_parent
            if k == 1:
                for i in range(j, n):
                    out[i] = column[place[i]]
            else:
                for i in range(j, n):
                    for r in range(k):
                        out[k * i + r] = column[k * place[i] + r]
            out += stride


def multiply(
    const double[:, :, ::1] own, const double[:, :, ::1] across, const int[:, ::1] ends,
    const double[:, ::1] x, double[:, ::1] out,
):
    """Add the product of a symmetric block matrix and vectors to other vectors.

    Parameters
    ----------
    own, across, ends
        See `~levelmatch.solve.linear.NormalMatrix`.
    x, out : `~numpy.ndarray`, shape (m * k, n)
        Vectors, and the vectors to which the product is added.
    """
    cdef Py_ssize_t k = own.shape[1], n = x.shape[1], p, i, j, c, low, high
    cdef double value
    with nogil:
        for p in range(own.shape[0]):
            for i in range(k):
                for j in range(k):
                    value = own[p, i, j]
                    for c in range(n):
                        out[k * p + i, c] += value * x[k * p + j, c]
        if k == 1 and n == 1:
            for p in range(across.shape[0]):
                low, high, value = ends[0, p], ends[1, p], across[p, 0, 0]
                out[low, 0] += value * x[high, 0]
                out[high, 0] += value * x[low, 0]
        else:
            for p in range(across.shape[0]):
                low, high = k * ends[0, p], k * ends[1, p]
                for i in range(k):
                    for j in range(k):
                        value = across[p, i, j]
                        for c in range(n):
                            out[low + i, c] += value * x[high + j, c]
                            out[high + j, c] += value * x[low + i, c]
