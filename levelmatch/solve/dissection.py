# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Order the elimination of groups by nested dissection of the sky.

A set of groups is split into halves across its longest side. A separator, the groups of one half
with links to the other, is eliminated last. The halves are split in the same way (George 1973,
SIAM J. Numer. Anal. 10, 345).
"""

import numpy as np

from levelmatch.solve._fronts import link

__all__ = ["Dissection"]

# Largest depth of the dissection for which keys fit in an integer of 64 bits.
MAX_DEPTH = 38


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
    """

    def __init__(self, low, high, centres, largest):
        key = _dissect(low, high, centres, largest)
        self.order = np.argsort(key, kind="stable")
        number = np.empty(len(key), dtype=np.intc)
        number[self.order] = np.arange(len(key))
        start = np.flatnonzero(np.diff(key[self.order], prepend=-1))
        fronts = np.arange(len(start), dtype=np.intc)
        front_of = np.repeat(fronts, np.diff(start, append=len(key)))
        ends = number[low], number[high]
        row, column = np.maximum(*ends), np.minimum(*ends)
        front = front_of[column]
        by_front = np.lexsort((row, front))
        turned = (ends[0] < ends[1])[by_front]
        self.source = np.where(turned, -1 - by_front, by_front).astype(np.intc)
        self.row, front = row[by_front], front[by_front]
        self.column = (column[by_front] - start[front]).astype(np.intc)
        self.entries = np.searchsorted(front, np.arange(len(start) + 1))
        self.start = np.append(start, len(key))
        self._link(front_of)

    def _link(self, front_of):
        """Find the boundary, the parent and the children of each front."""
        n = len(self.entries) - 1
        self.boundary, self.later, self.parent = link(self.start, self.entries, self.row, front_of)
        parent = self.parent
        self.child = np.argsort(parent, kind="stable")[np.count_nonzero(parent < 0) :]
        self.children = np.searchsorted(parent[self.child], np.arange(n + 1))
        size = np.diff(self.later)
        row = self._places(self.row, np.repeat(np.arange(n), np.diff(self.entries)))
        self.row = row.astype(np.intc)
        # A front without a parent has an empty boundary.
        self.place = self._places(self.boundary, np.repeat(parent, size))

    def _places(self, groups, front):
        """Return the places of groups among the groups and boundaries of fronts."""
        n_groups, n = len(self.order) + 1, len(self.parent)
        owner = np.repeat(np.arange(n), np.diff(self.later))
        code = owner * n_groups + self.boundary
        later = np.searchsorted(code, front * n_groups + groups) - self.later[front]
        inside, stop = groups - self.start[front], self.start[front + 1]
        return np.where(groups < stop, inside, stop - self.start[front] + later)


def _dissect(row, column, centres, largest):
    """Return a key for each group: the same in each front, ascending in order of elimination."""
    key = np.empty(len(centres), dtype=np.int64)
    place = np.full(len(centres), -1)
    # A key has one ternary digit per split: 0 and 1 for the halves, 2 for the separator.
    groups, part, digits = np.arange(len(centres)), np.zeros(len(centres), dtype=np.intp), [0]
    for depth in range(MAX_DEPTH, -1, -1):
        digits = np.asarray(digits, dtype=np.int64)
        key[groups] = digits[part] + 2 * 3**depth
        count = np.bincount(part, minlength=len(digits))
        if count.max() <= largest:
            break
        order, upper = _halved(part, count, centres[groups])
        groups = groups[order]
        place[groups] = np.arange(len(groups))
        row_at, column_at = place[row], place[column]
        left = ~_separators(part, upper, row_at, column_at) & (count > largest)[part]
        kept = left[row_at] & left[column_at] & (upper[row_at] == upper[column_at])
        row, column = row[kept], column[kept]
        groups, half = groups[left], (2 * part + upper)[left]
        if len(groups) == 0:
            break
        new = np.diff(half, prepend=-1) > 0
        halves, part = half[new], np.cumsum(new) - 1
        digits = digits[halves // 2] + (halves % 2) * 3**depth
    return key


def _halved(part, count, points):
    """Sort the points of each set along its longest side. Return the order and the upper halves.

    Points are sorted by sets before and after.
    """
    first = np.cumsum(count) - count
    extent = np.maximum.reduceat(points, first) - np.minimum.reduceat(points, first)
    along = points[np.arange(len(points)), extent.argmax(axis=1)[part]]
    # Coordinates are between -1 and 1, so this keeps the order of sets.
    order = np.argsort(part + 0.25 * along, kind="stable")
    return order, np.arange(len(points)) - first[part] >= (count // 2)[part]


def _separators(part, upper, row, column):
    """Return whether each group is in the separator of its set.

    Of the groups with links to the other half, the separator consists of those of the half that has
    fewer of them.
    """
    cut = np.flatnonzero(upper[row] != upper[column])
    row, column = row[cut], column[cut]
    beside = np.zeros((2, len(part)), dtype=bool)
    beside[upper[row].astype(int), row] = True
    beside[upper[column].astype(int), column] = True
    low, high = (np.bincount(part, side, minlength=int(part.max()) + 1) for side in beside)
    return np.where((high <= low)[part], beside[1], beside[0])
