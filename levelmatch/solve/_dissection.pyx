# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Nested dissection of linked points on the sky, and the links between its fronts."""

import numpy as np

from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcpy

__all__ = ["dissect", "link_fronts", "places", "sort_links"]

cdef struct Point:
    double at[3]
    Py_ssize_t group

cdef struct Link:
    int low, high

cdef struct Cut:
    # Points and links, sorted by the fronts of the part that is cut; points of the last cut.
    Point *points
    Point *moved
    Link *links
    # Half of each group, 0 or 1; plus 2 with links to the other half.
    unsigned char *half
    Py_ssize_t largest
    Py_ssize_t *start
    Py_ssize_t n_fronts


def dissect(const int[::1] low, const int[::1] high, const double[:, ::1] centres, int largest):
    """Order the elimination of groups.

    Parameters
    ----------
    low, high, centres, largest
        See `~levelmatch.solve.dissection.Dissection`.

    Returns
    -------
    order, start : `~numpy.ndarray` of int
        See `~levelmatch.solve.dissection.Dissection`.
    """
    cdef Py_ssize_t m = centres.shape[0], n = low.shape[0], i
    order_array, start_array = np.empty(m, dtype=np.intp), np.empty(m + 1, dtype=np.intp)
    cdef Py_ssize_t[::1] order = order_array, start = start_array
    cdef Cut cut
    cut.largest, cut.start, cut.n_fronts = max(largest, 1), &start[0], 0
    cut.points = <Point *>malloc((2 * m + 1) * sizeof(Point))
    cut.moved = cut.points + m
    cut.links = <Link *>malloc((n + 1) * sizeof(Link))
    cut.half = <unsigned char *>malloc(m + 1)
    try:
        if cut.points == NULL or cut.links == NULL or cut.half == NULL:
            raise MemoryError
        with nogil:
            for i in range(m):
                cut.points[i].group = i
                memcpy(cut.points[i].at, &centres[i, 0], 3 * sizeof(double))
            for i in range(n):
                cut.links[i].low, cut.links[i].high = low[i], high[i]
            divide(&cut, 0, m, 0, n)
            for i in range(m):
                order[i] = cut.points[i].group
    finally:
        free(cut.points)
        free(cut.links)
        free(cut.half)
    start[cut.n_fronts] = m
    return order_array, start_array[: cut.n_fronts + 1].copy()


cdef void divide(
    Cut *cut, Py_ssize_t first, Py_ssize_t stop, Py_ssize_t link, Py_ssize_t last
) noexcept nogil:
    """Sort a set of points and the links between them by fronts, in order of elimination."""
    cdef Py_ssize_t middle = first + (stop - first) // 2, i, lower, upper, between
    cdef Py_ssize_t n_beside[2]
    cdef unsigned char *half = cut.half
    cdef unsigned char separator
    cdef Link edge
    if stop - first <= cut.largest:
        add_front(cut, first, stop)
        return
    halve(cut.points + first, stop - first, middle - first)
    for i in range(first, stop):
        half[cut.points[i].group] = i >= middle
    n_beside[0] = n_beside[1] = 0
    for i in range(link, last):
        edge = cut.links[i]
        if (half[edge.low] ^ half[edge.high]) & 1:
            mark(&half[edge.low], n_beside)
            mark(&half[edge.high], n_beside)
    # Of the groups with links to the other half, those of the half that has fewer of them.
    separator = 3 if n_beside[1] <= n_beside[0] else 2
    lower, between = first, stop
    upper = middle - (n_beside[0] if separator == 2 else 0)
    memcpy(cut.moved + first, cut.points + first, (stop - first) * sizeof(Point))
    for i in range(first, stop):
        if half[cut.moved[i].group] == separator:
            between -= 1
            cut.points[between] = cut.moved[i]
        elif i < middle:
            cut.points[lower] = cut.moved[i]
            lower += 1
        else:
            cut.points[upper] = cut.moved[i]
            upper += 1
    i = gather(cut, link, last, 0, separator)
    last = gather(cut, i, last, 1, separator)
    divide(cut, first, lower, link, i)
    divide(cut, lower, upper, i, last)
    add_front(cut, upper, stop)


cdef void mark(unsigned char *half, Py_ssize_t *n_beside) noexcept nogil:
    """Mark a group that has links to the other half."""
    if half[0] < 2:
        n_beside[half[0]] += 1
        half[0] += 2


cdef Py_ssize_t gather(
    Cut *cut, Py_ssize_t first, Py_ssize_t stop, unsigned char side, unsigned char separator
) noexcept nogil:
    """Move the links within a half, without the separator, to the front; return their end."""
    cdef Py_ssize_t i
    cdef unsigned char one, two
    cdef Link edge
    for i in range(first, stop):
        edge = cut.links[i]
        one, two = cut.half[edge.low], cut.half[edge.high]
        if one != separator and two != separator and one & 1 == side and two & 1 == side:
            cut.links[i], cut.links[first] = cut.links[first], edge
            first += 1
    return first


cdef void add_front(Cut *cut, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
    if stop > first:
        qsort(cut.points + first, stop - first, sizeof(Point), by_group)
        cut.start[cut.n_fronts] = first
        cut.n_fronts += 1


cdef int by_group(const void *one, const void *other) noexcept nogil:
    cdef Py_ssize_t a = (<const Point *>one).group, b = (<const Point *>other).group
    return (a > b) - (a < b)


cdef void halve(Point *points, Py_ssize_t n, Py_ssize_t middle) noexcept nogil:
    """Sort points, so that the first of them are the lower ones along the longest side."""
    cdef double low[3]
    cdef double high[3]
    cdef double value
    cdef Py_ssize_t i, j, first = 0, last = n - 1
    cdef int axis = 0, c
    for c in range(3):
        low[c] = high[c] = points[0].at[c]
        for i in range(n):
            low[c], high[c] = min(low[c], points[i].at[c]), max(high[c], points[i].at[c])
        if high[c] - low[c] > high[axis] - low[axis]:
            axis = c
    # Quickselect (Hoare 1961, Comm. ACM 4, 321).
    while first < last:
        value = points[first + (last - first) // 2].at[axis]
        i, j = first, last
        while i <= j:
            while points[i].at[axis] < value:
                i += 1
            while points[j].at[axis] > value:
                j -= 1
            if i <= j:
                points[i], points[j] = points[j], points[i]
                i, j = i + 1, j - 1
        if middle <= j:
            last = j
        elif middle >= i:
            first = i
        else:
            break


def sort_links(
    const int[::1] low, const int[::1] high, const int[::1] number, const int[::1] front_of,
    const Py_ssize_t[::1] start,
):
    """Sort links by the fronts of their groups that are eliminated first.

    Parameters
    ----------
    low, high : `~numpy.ndarray` of intc, shape (n,)
        Groups of each link.
    number : `~numpy.ndarray` of intc, shape (m,)
        Place of each group in the order of elimination.
    front_of : `~numpy.ndarray` of intc, shape (m,)
        Front of each place.
    start : `~numpy.ndarray` of int, shape (f + 1,)
        First place of each front.

    Returns
    -------
    source, entries, column : `~numpy.ndarray`
        See `~levelmatch.solve.dissection.Dissection`.
    later : `~numpy.ndarray` of intc, shape (n,)
        Place of the other group of each link in the order of elimination.
    """
    cdef Py_ssize_t n = start.shape[0] - 1, e, f, to
    cdef int one, two
    entries_array = np.zeros(n + 1, dtype=np.intp)
    source_array, column_array, later_array = np.empty((3, low.shape[0]), dtype=np.intc)
    cdef Py_ssize_t[::1] entries = entries_array
    cdef int[::1] source = source_array, column = column_array, later = later_array
    with nogil:
        for e in range(low.shape[0]):
            entries[front_of[min(number[low[e]], number[high[e]])]] += 1
        for f in range(1, n + 1):
            entries[f] += entries[f - 1]
        # The end of each front moves to its start.
        for e in range(low.shape[0] - 1, -1, -1):
            one, two = number[low[e]], number[high[e]]
            f = front_of[min(one, two)]
            entries[f] -= 1
            to = entries[f]
            source[to] = <int>(-1 - e if one < two else e)
            later[to], column[to] = max(one, two), <int>(min(one, two) - start[f])
    return source_array, entries_array, column_array, later_array


def link_fronts(
    const Py_ssize_t[::1] start, const Py_ssize_t[::1] entries, const int[::1] row,
    const int[::1] front_of,
):
    """Find the boundary and the parent of each front.

    Children come before their parents.

    Parameters
    ----------
    start, entries, row, front_of
        See `sort_links`. Here, ``row`` holds the places of the later groups.

    Returns
    -------
    boundary, later, parent : `~numpy.ndarray`
        See `~levelmatch.solve.dissection.Dissection`.
    """
    cdef Py_ssize_t n = entries.shape[0] - 1, f, e, child, size = 0, room = 1024
    later_array = np.zeros(n + 1, dtype=np.intp)
    parent_array, first_array, next_array = np.full((3, n), -1, dtype=np.intp)
    seen_array = np.full(front_of.shape[0], -1, dtype=np.intc)
    cdef Py_ssize_t[::1] later = later_array, parent = parent_array
    cdef Py_ssize_t[::1] first = first_array, following = next_array
    cdef int[::1] seen = seen_array
    cdef Py_ssize_t *found = <Py_ssize_t *>malloc(room * sizeof(Py_ssize_t))
    cdef Py_ssize_t *larger
    if found == NULL:
        raise MemoryError
    try:
        for f in range(n):
            # A boundary is at most as long as the number of later groups.
            if room - size < start[n] - start[f + 1]:
                room = 2 * room + start[n] - start[f + 1]
                larger = <Py_ssize_t *>realloc(found, room * sizeof(Py_ssize_t))
                if larger == NULL:
                    raise MemoryError
                found = larger
            for e in range(entries[f], entries[f + 1]):
                size = note(row[e], start[f + 1], f, &seen[0], found, size)
            child = first[f]
            while child >= 0:
                for e in range(later[child], later[child + 1]):
                    size = note(found[e], start[f + 1], f, &seen[0], found, size)
                child = following[child]
            later[f + 1] = size
            if size > later[f]:
                qsort(found + later[f], size - later[f], sizeof(Py_ssize_t), ascending)
                parent[f] = front_of[found[later[f]]]
                following[f], first[parent[f]] = first[parent[f]], f
        boundary = np.array(<Py_ssize_t[:size]>found) if size else np.zeros(0, dtype=np.intp)
    finally:
        free(found)
    return boundary, later_array, parent_array


def places(dissection, int[::1] row):
    """Return the places of boundaries in their parents; replace rows by places in their fronts.

    Parameters
    ----------
    dissection : `~levelmatch.solve.dissection.Dissection`
        Fronts, with their boundaries and parents.
    row
        See `link_fronts`. Overwritten.
    """
    cdef const Py_ssize_t[::1] start = dissection.start, entries = dissection.entries
    cdef const Py_ssize_t[::1] boundary = dissection.boundary, later = dissection.later
    cdef const Py_ssize_t[::1] child = dissection.child, children = dissection.children
    cdef Py_ssize_t f, i, e, c, n_own
    at_array = np.empty(dissection.order.shape, dtype=np.intc)
    place_array = np.empty(dissection.boundary.shape, dtype=np.intp)
    cdef int[::1] at = at_array
    cdef Py_ssize_t[::1] place = place_array
    with nogil:
        for f in range(entries.shape[0] - 1):
            n_own = start[f + 1] - start[f]
            for i in range(n_own):
                at[start[f] + i] = <int>i
            for i in range(later[f + 1] - later[f]):
                at[boundary[later[f] + i]] = <int>(n_own + i)
            for e in range(entries[f], entries[f + 1]):
                row[e] = at[row[e]]
            for c in range(children[f], children[f + 1]):
                for i in range(later[child[c]], later[child[c] + 1]):
                    place[i] = at[boundary[i]]
    return place_array


cdef Py_ssize_t note(
    Py_ssize_t group, Py_ssize_t stop, Py_ssize_t front, int *seen, Py_ssize_t *found,
    Py_ssize_t size,
) noexcept nogil:
    """Append a group to the boundary of a front if it is new and eliminated later."""
    if group < stop or seen[group] == front:
        return size
    seen[group] = <int>front
    found[size] = group
    return size + 1


cdef int ascending(const void *one, const void *other) noexcept nogil:
    cdef Py_ssize_t a = (<const Py_ssize_t *>one)[0], b = (<const Py_ssize_t *>other)[0]
    return (a > b) - (a < b)
