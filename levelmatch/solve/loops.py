# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Loops of overlapping images: their differences must add up to zero."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from levelmatch.sky.overlaps import components

__all__ = ["find_closures"]


def find_closures(first, second, level, sigma):
    """Return the independent loops of a graph of pairs.

    A breadth-first tree spans each connected set. Each pair outside of the tree closes one loop
    with it. The tree starts at the node with most pairs, which keeps loops short.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of int, shape (n,)
        The nodes of each pair.
    level, sigma : `~numpy.ndarray`, shape (n,)
        Difference, first minus second, and its standard error.

    Returns
    -------
    nodes : list of list of int
        The nodes of each loop, in order. Number of loops = pairs - nodes + connected sets.
    pairs : list of `~numpy.ndarray` of int
        The pairs of each loop.
    closure, sigma : `~numpy.ndarray`, shape (n_loops,)
        The sum of the differences around each loop, and its standard error for independent pairs.
    """
    n = int(max(first.max(initial=-1), second.max(initial=-1))) + 1
    if n == 0:
        return [], [], np.zeros(0), np.zeros(0)
    parent, depth = _trees(first, second, n)
    by_ends = {}
    for p, ends in enumerate(zip(first.tolist(), second.tolist(), strict=True)):
        by_ends.setdefault(ends, p)
        by_ends.setdefault(ends[::-1], p)
    in_tree = {by_ends[child, up] for child, up in enumerate(parent.tolist()) if up >= 0}
    nodes, pairs, closure, variance = [], [], [], []
    for p in range(len(first)):
        if p in in_tree:
            continue
        loop = _loop(int(first[p]), int(second[p]), parent, depth)
        edges = [by_ends[a, b] for a, b in zip(loop[:-1], loop[1:], strict=True)]
        signs = [1 if first[e] == a else -1 for e, a in zip(edges, loop[:-1], strict=True)]
        # Along the tree from the pair's first node to its second, then back by the pair.
        closure.append(np.dot(signs, level[edges]) - level[p])
        variance.append(np.sum(sigma[edges] ** 2) + sigma[p] ** 2)
        nodes.append(loop)
        pairs.append(np.array([*edges, p]))
    return nodes, pairs, np.array(closure), np.sqrt(np.array(variance))


def _trees(first, second, n):
    """Return parent (or -1) and depth of each node in the breadth-first trees of all sets."""
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n, n)).tocsr()
    degree = np.bincount(first, minlength=n) + np.bincount(second, minlength=n)
    n_sets, label = components(np.stack([first, second], axis=1), n)
    parent, depth = np.full(n, -1), np.zeros(n, dtype=int)
    for s in range(n_sets):
        members = np.flatnonzero(label == s)
        root = members[np.argmax(degree[members])]
        order, before = breadth_first_order(graph, root, directed=False)
        for node in order[1:]:
            parent[node] = before[node]
            depth[node] = depth[before[node]] + 1
    return parent, depth


def _loop(a, b, parent, depth):
    """Return the nodes along the tree from one node to another, both included."""
    left, right = [a], [b]
    while left[-1] != right[-1]:
        if depth[left[-1]] >= depth[right[-1]]:
            left.append(int(parent[left[-1]]))
        else:
            right.append(int(parent[right[-1]]))
    return left + right[-2::-1]
