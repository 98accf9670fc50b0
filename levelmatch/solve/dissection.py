# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Order in which the groups of a sparse system are eliminated: nested dissection of the sky.

A set of groups is cut in two along its longest side. The groups beside the cut, which alone link
the two halves, are eliminated last, and the halves are cut in turn (George 1973, SIAM J. Numer.
Anal. 10, 345).
"""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Dissection", "Front"]

# Levels of the dissection that an integer of 64 bits can tell apart.
MAX_DEPTH = 38


@dataclass(slots=True, eq=False)
class Front:
    """Groups that are eliminated at once.

    Groups are numbered in the order of elimination.

    Parameters
    ----------
    start, stop : int
        The groups.
    entries : slice
        Entries of the matrix in the columns of these groups, see `Dissection.source`.
    boundary : `~numpy.ndarray` of int, shape (b,)
        Later groups that the elimination links, ascending.
    parent : int
        Front in which the first of the boundary is eliminated, -1 for none.
    children : list of int
        Fronts whose parent this one is.
    into_parent : `~numpy.ndarray` of int, shape (b,)
        Places of the boundary among the parent's groups and its boundary.
    n_shared : int
        Number of groups of the boundary that the parent eliminates.
    """

    start: int
    stop: int
    entries: slice
    boundary: np.ndarray | None = None
    parent: int = -1
    children: list = field(default_factory=list)
    into_parent: np.ndarray | None = None
    n_shared: int = 0


class Dissection:
    """Fronts of a symmetric sparse matrix, in the order of their elimination.

    Parameters
    ----------
    row, column : `~numpy.ndarray` of int, shape (n,)
        Places of the entries, or blocks, of the matrix.
    centres : `~numpy.ndarray`, shape (m, 3)
        Unit vectors of the groups.
    largest : int
        Sets of at most so many groups are not cut.

    Attributes
    ----------
    order : `~numpy.ndarray` of int, shape (m,)
        The groups as they are eliminated.
    fronts : list of `Front`
        Each after its children.
    source : `~numpy.ndarray` of int, shape (s,)
        Entries on and below the diagonal of the reordered matrix, by fronts.
    row, column : `~numpy.ndarray` of int, shape (s,)
        Their places within the groups of the front and its boundary.
    """

    def __init__(self, row, column, centres, largest):
        key = _dissect(row, column, centres, largest)
        self.order = np.argsort(key, kind="stable")
        place = np.empty(len(key), dtype=np.intp)
        place[self.order] = np.arange(len(key))
        start = np.flatnonzero(np.diff(key[self.order], prepend=-1))
        front_of = np.repeat(np.arange(len(start)), np.diff(start, append=len(key)))
        row, column = place[row], place[column]
        source = np.flatnonzero(row >= column)
        row, column = row[source], column[source]
        front = front_of[column]
        by_front = np.lexsort((row, front))
        self.source = source[by_front]
        self.row, front = row[by_front], front[by_front]
        self.column = column[by_front] - start[front]
        ends = np.searchsorted(front, np.arange(len(start) + 1)).tolist()
        stop = np.append(start, len(key)).tolist()
        self.fronts = [
            Front(stop[f], stop[f + 1], slice(ends[f], ends[f + 1])) for f in range(len(start))
        ]
        for f, own in enumerate(self.fronts):
            self._link(f, own, front_of)

    def _link(self, f, front, front_of):
        """Find the boundary of a front, and its parent, after those of its children."""
        row = self.row[front.entries]
        inside, n_own = np.searchsorted(row, front.stop), front.stop - front.start
        children = [self.fronts[child] for child in front.children]
        for child in children:
            child.n_shared = int(np.searchsorted(child.boundary, front.stop))
        later = [row[inside:], *(child.boundary[child.n_shared :] for child in children)]
        boundary = np.sort(np.concatenate(later))
        front.boundary = boundary[np.diff(boundary, prepend=-1) > 0]
        if len(boundary):
            front.parent = int(front_of[boundary[0]])
            self.fronts[front.parent].children.append(f)
        row[:inside] -= front.start
        row[inside:] = n_own + np.searchsorted(front.boundary, row[inside:])
        for child in children:
            place = child.boundary - front.start
            later = child.boundary[child.n_shared :]
            place[child.n_shared :] = n_own + np.searchsorted(front.boundary, later)
            child.into_parent = place


def _dissect(row, column, centres, largest):
    """Return a key for each group: equal in a front, and ascending as fronts are eliminated."""
    key = np.empty(len(centres), dtype=np.int64)
    place = np.full(len(centres), -1)
    once = row < column
    row, column = row[once], column[once]
    # The two halves of a set, and what separates them, are its digits 0, 1 and 2.
    groups, part, digits = np.arange(len(centres)), np.zeros(len(centres), dtype=np.intp), [0]
    for depth in range(MAX_DEPTH, -1, -1):
        digits = np.asarray(digits, dtype=np.int64)
        key[groups] = digits[part] + 2 * 3**depth
        count = np.bincount(part, minlength=len(digits))
        if count.max() <= largest:
            break
        upper = _halved(part, count, centres[groups])
        place[groups] = np.arange(len(groups))
        row_at, column_at = place[row], place[column]
        left = ~_separators(part, upper, row_at, column_at) & (count > largest)[part]
        kept = left[row_at] & left[column_at] & (upper[row_at] == upper[column_at])
        row, column = row[kept], column[kept]
        groups, half = groups[left], (2 * part + upper)[left]
        if len(groups) == 0:
            break
        halves, part = np.unique(half, return_inverse=True)
        digits = digits[halves // 2] + (halves % 2) * 3**depth
    return key


def _halved(part, count, points):
    """Return the flags of the upper half of each set along its longest side."""
    first = np.cumsum(count) - count
    by_part = points[np.argsort(part, kind="stable")]
    extent = np.maximum.reduceat(by_part, first) - np.minimum.reduceat(by_part, first)
    along = points[np.arange(len(points)), extent.argmax(axis=1)[part]]
    order = np.lexsort((along, part))
    rank = np.empty(len(points), dtype=np.intp)
    rank[order] = np.arange(len(points))
    return rank - first[part] >= (count // 2)[part]


def _separators(part, upper, row, column):
    """Return the flags of the groups of one half of each set that have a link to the other."""
    cut = np.flatnonzero(upper[row] != upper[column])
    row, column = row[cut], column[cut]
    beside = np.zeros((2, len(part)), dtype=bool)
    beside[upper[row].astype(int), row] = True
    beside[upper[column].astype(int), column] = True
    low, high = (np.bincount(part, side, minlength=int(part.max()) + 1) for side in beside)
    return np.where((high <= low)[part], beside[1], beside[0])
