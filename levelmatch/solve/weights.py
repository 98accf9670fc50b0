# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Weights of the pairs, and pairs that are rejected before solving."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from levelmatch.sky.overlaps import components

__all__ = ["pair_weights", "select_pairs"]


def pair_weights(equations, weights, floor, npix, scatter):
    """Return the factor on each pair's normal matrix, shape (n,).

    The floor is a number, or an array with a number for each pair. With ``"ivar"``, the level of a
    pair has the weight 1 / (sigma**2 + floor**2). With the other weights, those of PJPipe, it has
    the weight 1, the number of pixels, or 1 / scatter**2.
    """
    own = equations.gram[:, 0, 0]
    if weights == "ivar":
        return 1 / (1 + np.square(floor) * own)
    value = {"equal": 1.0, "npix": npix, "rms": 1 / np.maximum(scatter, 1e-300) ** 2}[weights]
    return value / own


# --------------------------------------------------------------------------------------
# Rejected pairs

# A scatter below this multiple of the geometric mean is never rejected.
MIN_SCATTER = 1.5


def select_pairs(table, group, options):
    """Reject pairs by the three limits; keep the only link of two sets.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs of one pass.
    group : `~numpy.ndarray` of int, shape (n_images,)
        The group of each image.
    options : `~levelmatch.options.SolveOptions`
        The limits.

    Returns
    -------
    kept : `~numpy.ndarray` of bool, shape (n,)
        Flags of the pairs that count.
    reason : list of str
        Why a pair is rejected, or kept although it exceeds a limit; empty for others.
    """
    measured = (table.npix > 0) & (table.gram[:, 0, 0] > 0)
    kept = measured.copy()
    reason = ["" if ok else "no common good pixel" for ok in measured]
    if not measured.any():
        return kept, reason
    least = options.min_area * table.npix[measured].mean()
    # The limit applies to logarithms, as the scatters of a set differ by factors of up to 1000.
    scatter = np.log(np.maximum(table.scatter[measured], 1e-300))
    most = scatter.mean() + max(options.rms_limit * scatter.std(), np.log(MIN_SCATTER))
    scatter = np.log(np.maximum(table.scatter, 1e-300, where=measured, out=np.ones(len(table))))
    cuts = [
        (table.npix < least, lambda p: f"area: {table.npix[p]} pixels, under {least:.0f}"),
        (
            table.extent.max(axis=1) < options.min_linear,
            lambda p: (
                f"extent: {table.extent[p].max():.3f} of the side, under {options.min_linear:g}"
            ),
        ),
        (
            scatter > most,
            lambda p: f"scatter: {table.scatter[p]:.4g}, over {np.exp(min(most, 700)):.4g}",
        ),
    ]
    for failed, words in cuts:
        for p in np.flatnonzero(failed & kept):
            kept[p] = False
            reason[p] = words(p)
    _restore_links(table, group, measured, kept, reason)
    return kept, reason


def _restore_links(table, group, measured, kept, reason):
    """Put back rejected pairs that alone join two sets, in place; the largest first."""
    first, second = group[table.first], group[table.second]
    ends = np.stack([first, second], axis=1)
    n = int(group.max()) + 1
    if components(ends[measured], n)[0] == components(ends[kept], n)[0]:
        return
    n_sets, label = components(ends[kept], n)
    rejected = np.flatnonzero(measured & ~kept)
    rejected = rejected[np.argsort(-table.npix[rejected], kind="stable")]
    low, high = np.sort(label[ends[rejected]], axis=1).T
    # The largest pair between each two sets comes first.
    _, largest = np.unique(low.astype(np.int64) * n_sets + high, return_index=True)
    largest = np.sort(largest[low[largest] != high[largest]])
    low, high = low[largest], high[largest]
    rank = np.arange(1, len(largest) + 1)
    tree = minimum_spanning_tree(coo_array((rank, (low, high)), shape=(n_sets, n_sets)).tocsr())
    for p in rejected[largest[np.sort(tree.data.astype(np.intp)) - 1]]:
        kept[p] = True
        reason[p] = f"kept as the only link, although {reason[p]}"
