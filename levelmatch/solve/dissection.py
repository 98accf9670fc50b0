# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Order the elimination of groups by nested dissection of the sky.

A set of groups is split into halves across its longest side. A separator, the groups of one half
with links to the other, is eliminated last. The halves are split in the same way (George 1973,
SIAM J. Numer. Anal. 10, 345).
"""

import numpy as np

from levelmatch.solve._dissection import dissect, link_fronts, places, sort_links

__all__ = ["Dissection"]

# Smallest number of groups of a dissection with halves.
MANY = 10_000


class Dissection:
    """Fronts of a symmetric sparse matrix, in the order of their elimination.

    Parameters
    ----------
    low, high : `~numpy.ndarray` of intc, shape (n,)
        Groups of each link: row and column of a block of the matrix.
    centres : `~numpy.ndarray`, shape (m, 3)
        Unit vectors to the groups.
    largest : int
        Largest number of groups of a set that is not split.

    Attributes
    ----------
    order : `~numpy.ndarray` of int, shape (m,)
        Groups in order of elimination.
    start : `~numpy.ndarray` of int, shape (f + 1,)
        Index in ``order`` of the first group of each front. The groups of a front are eliminated
        together.
    source : `~numpy.ndarray` of intc, shape (n,)
        Index of each link, sorted by fronts. For a link n whose ``high`` group is eliminated
        after its ``low`` group, it is -1 - n: its transpose is in the lower triangle of the
        reordered matrix.
    entries : `~numpy.ndarray` of int, shape (f + 1,)
        Index in ``source`` of the first link of each front.
    row, column : `~numpy.ndarray` of intc, shape (n,)
        Places of each link among the groups of its front and the boundary of its front.
    boundary : `~numpy.ndarray` of int, shape (b,)
        Boundaries of all fronts. The boundary of a front consists of the later groups that its
        elimination links, in ascending order.
    later : `~numpy.ndarray` of int, shape (f + 1,)
        Index in ``boundary`` of the first group of the boundary of each front.
    parent : `~numpy.ndarray` of int, shape (f,)
        Front that eliminates the first group of the boundary; -1 without a boundary.
    place : `~numpy.ndarray` of int, shape (b,)
        Place of each group of ``boundary`` among the groups of the parent and its boundary.
    child, children : `~numpy.ndarray` of int, shape (c,) and (f + 1,)
        Fronts sorted by their parents, and the index in ``child`` of the first child of each
        front.
    halves : tuple of tuple of int
        First front, and the one after the last, of two ranges that are not linked to each other.
        Empty for small dissections.
    last_fronts : tuple of int
        The range of the fronts that follow.
    """

    def __init__(self, low, high, centres, largest):
        centres = np.ascontiguousarray(centres)
        self.order, self.start = dissect(low, high, centres, largest)
        n = len(self.start) - 1
        number = np.empty(len(centres), dtype=np.intc)
        number[self.order] = np.arange(len(centres))
        front_of = np.repeat(np.arange(n, dtype=np.intc), np.diff(self.start))
        found = sort_links(low, high, number, front_of, self.start)
        self.source, self.entries, self.column, self.row = found
        found = link_fronts(self.start, self.entries, self.row, front_of)
        self.boundary, self.later, self.parent = found
        self.child = np.argsort(self.parent, kind="stable")[np.count_nonzero(self.parent < 0) :]
        self.children = np.searchsorted(self.parent[self.child], np.arange(n + 1))
        self.place = places(self, self.row)
        self.halves = self._halves() if len(centres) >= MANY else ()
        self.last_fronts = (self.halves[1][1] if self.halves else 0), n

    def _halves(self):
        """Return two ranges of fronts of about equal work that only the last front links."""
        last = len(self.parent) - 1
        if last == 0:
            return ()
        # A front is linked to its ancestors alone.
        reach = np.maximum.accumulate(np.where(self.parent < last, self.parent, -1)[:last])
        ends = 1 + np.flatnonzero(reach <= np.arange(last))
        own, later = np.diff(self.start), np.diff(self.later)
        work = np.cumsum(own * np.square(own + later, dtype=float))
        middle = int(ends[np.argmin(np.abs(work[ends - 1] - work[last - 1] / 2))])
        return (0, middle), (middle, last)
