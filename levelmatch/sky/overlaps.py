# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Overlaps of images, computed from their outlines."""

from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from levelmatch.sky._geometry import convex_overlap, count_inside
from levelmatch.sky.grid import N_VERTICES, Footprint

__all__ = [
    "DepthMap",
    "components",
    "find_outline_pairs",
    "find_pairs",
    "overlap_groups",
    "thin_pairs",
]


# Largest number of images for which the nodes of all grids are kept in memory.
MANY = 1000
# Number of circles on the sky that are compared with the others at a time.
CHUNK = 50_000

# Smallest ratio of the mean to the largest overlap of an image for nearly equal overlaps.
NEARLY_EQUAL = 0.6
# Smallest number of pairs kept for an image with nearly equal overlaps. On 64 dithers of one
# field, the errors with this number are within 2 % of the errors with more.
ENOUGH = 8


def find_pairs(grids):
    """Return the pairs of images whose outlines overlap.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.grid.Grid`
        The images.

    Returns
    -------
    pairs : `~numpy.ndarray` of intp, shape (m, 2)
        Indices of the images in ascending order, the lower index first.
    area : `~numpy.ndarray`, shape (m,)
        Shared area of the outlines, in steradian.
    """
    centres, radii = np.zeros((len(grids), 3)), np.zeros(len(grids))
    outlines = np.zeros((len(grids), N_VERTICES, 3))
    for k, grid in enumerate(grids):
        centres[k], radii[k], outlines[k] = grid.centre, grid.radius, grid.polygon
        if len(grids) > MANY:
            grid.forget()
    return find_outline_pairs(centres, radii, outlines)


def find_outline_pairs(centres, radii, outlines):
    """Return the pairs of convex outlines on the sky that overlap.

    Circles around the outlines are compared with trees of their centres. A chunk of circles is
    compared at a time, which bounds the memory for candidate pairs. Circles of different size
    are compared separately, so that one large outline does not make all pairs candidates.

    Parameters
    ----------
    centres : `~numpy.ndarray`, shape (n, 3)
        Unit vectors of the outlines' centres.
    radii : `~numpy.ndarray`, shape (n,)
        Angle from each centre to its farthest vertex, in radian.
    outlines : `~numpy.ndarray`, shape (n, k, 3), k at most 32
        Unit vectors of the vertices, counter-clockwise as seen from outside the sphere.

    Returns
    -------
    pairs : `~numpy.ndarray` of intp, shape (m, 2)
        Indices of the outlines in ascending order, the lower index first.
    area : `~numpy.ndarray`, shape (m,)
        Shared area of the outlines, in steradian.
    """
    outlines = np.ascontiguousarray(outlines)
    chunks = [(np.zeros((0, 2), dtype=np.intp), np.zeros(0))]
    for pairs in _near_pairs(centres, radii):
        area = convex_overlap(outlines, pairs)
        # Outlines pass through pixel centres, so images that only touch share no sample.
        chunks.append((pairs[area > 0], area[area > 0]))
    pairs, area = (np.concatenate(columns) for columns in zip(*chunks, strict=True))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], area[order]


def _near_pairs(centres, radii):
    """Yield pairs of circles on the sphere that touch, shape (m, 2), the lower index first."""
    # Radii of one class lie within a factor of two. Each chunk covers a strip of the sky.
    octave = np.floor(np.log2(np.maximum(radii, 1e-12))).astype(int)
    classes = [np.flatnonzero(octave == k) for k in np.unique(octave)]
    trees = [cKDTree(centres[members]) for members in classes]
    for a, large in enumerate(classes):
        order = large[np.lexsort((centres[large, 0], np.round(centres[large, 2], 2)))]
        for start in range(0, len(order), CHUNK):
            part = order[start : start + CHUNK]
            tree = cKDTree(centres[part])
            for b in range(a + 1):
                small = classes[b]
                reach = _chord(radii[part].max() + radii[small].max())
                near = tree.sparse_distance_matrix(trees[b], reach, output_type="ndarray")
                first, second = part[near["i"]], small[near["j"]]
                touch = near["v"] <= _chord(radii[first] + radii[second])
                # Within one class each pair is found twice.
                touch &= (first < second) if a == b else (first != second)
                pairs = np.stack([first[touch], second[touch]], axis=1).astype(np.intp)
                yield np.ascontiguousarray(np.sort(pairs, axis=1))


def _chord(angle):
    """Return the chord of an angle, slightly increased against rounding errors."""
    return 2 * np.sin(np.minimum(angle, np.pi) / 2) * (1 + 1e-9)


def components(pairs, n):
    """Return the number of connected sets, and the index of the set of each of ``n`` nodes."""
    pairs = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)


def overlap_groups(grids, *, fraction=0.5, exposure=None):
    """Group images that share more than a fraction of their area.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.grid.Grid`
        The images.
    fraction : float
        Fraction of the smaller area of two images.
    exposure : `~numpy.ndarray` of int, shape (n,), or None
        Index of the exposure of each image. The images of one exposure count as one image with
        the sum of their areas. By default each image is an exposure.

    Returns
    -------
    label : `~numpy.ndarray` of int, shape (n,)
        Label of the group of each image.
    """
    pairs, area = find_pairs(grids)
    each = np.repeat(np.arange(len(grids), dtype=np.intp)[:, None], 2, axis=1)
    total = convex_overlap(np.ascontiguousarray([grid.polygon for grid in grids]), each)
    if exposure is not None:
        n = int(exposure.max()) + 1
        ends = np.sort(exposure[pairs], axis=1)
        code, place = np.unique(ends[:, 0] * n + ends[:, 1], return_inverse=True)
        area = np.bincount(place.ravel(), area, minlength=len(code))
        pairs, total = np.stack([code // n, code % n], axis=1), np.bincount(exposure, total)
    smaller = np.minimum(total[pairs[:, 0]], total[pairs[:, 1]])
    label = components(pairs[area > fraction * smaller], len(total))[1]
    return label if exposure is None else label[exposure]


class DepthMap:
    """Number of images that cover each cell of an image's grid.

    Parameters
    ----------
    grid : `~levelmatch.sky.grid.Grid`
        The image.
    others : list of `~levelmatch.sky.grid.Grid`
        The images that may overlap it.
    """

    def __init__(self, grid, others):
        self.grid = grid
        self.others = others

    @cached_property
    def _normals(self):
        return np.array([other.normals for other in self.others]).reshape(-1, N_VERTICES, 3)

    @cached_property
    def cells(self):
        """Number of images at the middle of each cell, including the image itself."""
        middles = self.grid.middles
        return self._count(middles.reshape(-1, 3)).reshape(middles.shape[:2])

    def _count(self, points):
        return 1 + count_inside(np.ascontiguousarray(points), self._normals)

    def placed(self, grid):
        """Return a map on the grid of an opened image, if this map has the outline of a catalogue.

        Other maps are returned unchanged.
        """
        if not isinstance(self.grid, Footprint):
            return self
        placed = DepthMap(grid, ())
        placed._normals = self._normals
        return placed

    def __getstate__(self):
        """Return the state for another process: the outlines of the others, not their grids."""
        state = {"grid": self.grid, "_normals": self._normals, "others": ()}
        # An outline of a catalogue has no cells.
        return state | ({} if isinstance(self.grid, Footprint) else {"cells": self.cells})

    def at(self, grid, index, vectors):
        """Return the number of images at cells of a grid.

        Parameters
        ----------
        grid : `~levelmatch.sky.grid.Grid`
            The grid of the cells: the grid of this map, or another grid.
        index : `~numpy.ndarray` of intp, shape (n, 2)
            Indices (y, x) of the cells, used with the grid of this map.
        vectors : `~numpy.ndarray`, shape (n, 3)
            Unit vectors of the cells, used with another grid.
        """
        if grid is self.grid:
            return self.cells[index[:, 0], index[:, 1]]
        return self._count(vectors)


def thin_pairs(pairs, area, n, budget):
    """Select the pairs to measure, at most about ``budget`` for each image.

    The selection starts with the pairs of the largest overlaps that connect all images. It
    continues with the largest overlaps, up to half of the budget, and then with other pairs in a
    pseudo-random order, which keeps the paths between images short. For an image with nearly
    equal overlaps, two thirds of the budget suffice, but at least 8 pairs.

    Parameters
    ----------
    pairs : `~numpy.ndarray` of int, shape (m, 2)
        All pairs.
    area : `~numpy.ndarray`, shape (m,)
        Overlaps of the pairs.
    n : int
        Number of images.
    budget : int
        Largest number of pairs for each image. The connecting pairs may exceed it.

    Returns
    -------
    keep : `~numpy.ndarray` of bool, shape (m,)
        True for the pairs to measure.
    fraction : `~numpy.ndarray`, shape (m,)
        Kept fraction of the pairs of an image, averaged over the two images of each pair.
    """
    full = np.bincount(pairs.ravel(), minlength=n)
    if full.max(initial=0) <= budget:
        return np.ones(len(pairs), dtype=bool), np.ones(len(pairs))
    keep = _spanning_forest(pairs, area, n)
    degree = np.bincount(pairs[keep].ravel(), minlength=n)
    by_area = np.lexsort((pairs[:, 1], pairs[:, 0], -area))
    shuffled = np.argsort((pairs[:, 0] * 2654435761 + pairs[:, 1] * 40503) % 2**32, kind="stable")
    enough = min(budget, max(-(-2 * budget // 3), ENOUGH))
    most = np.where(_nearly_equal(pairs, area, full), enough, budget)
    for order, limit in ((by_area, np.full(n, budget // 2)), (shuffled, most)):
        _fill(pairs, order[~keep[order]], limit, keep, degree)
    kept_part = degree / np.maximum(full, 1)
    return keep, 0.5 * (kept_part[pairs[:, 0]] + kept_part[pairs[:, 1]])


def _nearly_equal(pairs, area, full):
    """Return for each image whether its mean overlap is close to its largest, shape (n,)."""
    total, largest = np.zeros((2, len(full)))
    for side in pairs.T:
        np.add.at(total, side, area)
        np.maximum.at(largest, side, area)
    return total > NEARLY_EQUAL * largest * full


def _fill(pairs, order, limit, keep, degree):
    """Keep pairs in the given order, in place, while both images are below their limits."""
    count, limit = degree.tolist(), limit.tolist()
    for p, (i, j) in zip(order.tolist(), pairs[order].tolist(), strict=True):
        if count[i] < limit[i] and count[j] < limit[j]:
            keep[p] = True
            count[i] += 1
            count[j] += 1
    degree[:] = count


def _spanning_forest(pairs, area, n):
    """Return whether each pair belongs to the spanning forest of the largest overlaps."""
    # scipy computes minimum trees of positive weights.
    cost = 2 - area / area.max()
    # Older releases of scipy require this type of indices.
    ends = pairs.astype(np.int32)
    graph = coo_array((cost, (ends[:, 0], ends[:, 1])), shape=(n, n)).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    code = pairs[:, 0].astype(np.int64) * n + pairs[:, 1]
    low, high = np.minimum(tree.row, tree.col), np.maximum(tree.row, tree.col)
    return np.isin(code, low.astype(np.int64) * n + high)
