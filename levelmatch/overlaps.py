# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Which images overlap, from their outlines alone."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from levelmatch.sampling import convex_overlap

__all__ = ["components", "depth_at", "find_pairs", "overlap_groups"]


def find_pairs(grids):
    """Return the pairs of images whose outlines overlap.

    Parameters
    ----------
    grids : list of `~levelmatch.sky.Grid`
        The images.

    Returns
    -------
    pairs : `~numpy.ndarray` of intp, shape (m, 2)
        Indices, the lower first, in ascending order.
    area : `~numpy.ndarray`, shape (m,)
        Shared area of the outlines, in steradian.
    """
    centres = np.array([grid.centre for grid in grids])
    radii = np.array([grid.radius for grid in grids])
    pairs = _near_pairs(centres, radii)
    vertices = np.ascontiguousarray([grid.polygon for grid in grids])
    area = convex_overlap(vertices, pairs)
    # Outlines are those of pixel centres; images that only touch share no sample.
    return pairs[area > 0], area[area > 0]


def _near_pairs(centres, radii):
    """Pairs of circles on the sphere that touch, shape (m, 2), sorted."""
    # Chords grow with angles: the chord of the sum bounds that of the separation.
    tree = cKDTree(centres)
    reach = np.minimum(radii + radii.max(), np.pi)
    found = tree.query_ball_point(centres, 2 * np.sin(reach / 2) * (1 + 1e-9))
    first = np.repeat(np.arange(len(centres)), [len(f) for f in found])
    second = np.concatenate([np.asarray(f, dtype=np.intp) for f in found])
    keep = first < second
    first, second = first[keep], second[keep]
    chord = np.linalg.norm(centres[first] - centres[second], axis=1)
    touch = chord <= 2 * np.sin(np.minimum(radii[first] + radii[second], np.pi) / 2) * (1 + 1e-9)
    pairs = np.stack([first[touch], second[touch]], axis=1).astype(np.intp)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def components(pairs, n):
    """Return the number of connected sets, and the set of each of ``n`` nodes."""
    pairs = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)


def overlap_groups(grids, *, fraction=0.5):
    """Return a label for each image: those that share more than a fraction of their area.

    The area is that of the smaller of the two.
    """
    pairs, area = find_pairs(grids)
    own = np.array([grid.pixel_area * _pixels(grid) for grid in grids])
    smaller = np.minimum(own[pairs[:, 0]], own[pairs[:, 1]])
    return components(pairs[area > fraction * smaller], len(grids))[1]


def _pixels(grid):
    return (grid.ys[-1] - grid.ys[0]) * (grid.xs[-1] - grid.xs[0])


def depth_at(points, grids):
    """Return how many of the images cover each of the unit vectors, shape (n,)."""
    depth = np.zeros(len(points), dtype=int)
    for grid in grids:
        depth += grid.contains(points)
    return depth
