# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Short overlaps, pairs that are rejected before solving, and robust weights."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.special import gammaincinv

from levelmatch.sky.overlaps import components

__all__ = [
    "LEAST_WEIGHT",
    "MIN_LOOPS",
    "Reweighting",
    "RobustFit",
    "limits_of",
    "medians",
    "select_pairs",
    "settle_floors",
    "short_overlaps",
    "short_variances",
]


# --------------------------------------------------------------------------------------
# Short overlaps


def limits_of(fit_type, options):
    """Return the options of a pass that limit its pairs; passes of planes keep short overlaps."""
    return replace(options, min_linear=0.0) if _keeps_short(fit_type, options) else options


def _keeps_short(fit_type, options):
    # Only inverse variances can give a short overlap less weight. In passes of levels, stripes make
    # stated errors too small if short overlaps count.
    return fit_type == "level+slope" and options.weights == "ivar"


def short_overlaps(extent, fit_type, options):
    """Return flags of the short overlaps of a pass of planes, shape (n,), or `None` for none.

    Short overlaps do not determine the floor. At the corners of images, they show the same sky as
    longer overlaps, and their loops also close if patterns of the images make the levels wrong.
    """
    short = extent.max(axis=1) < options.min_linear
    if not _keeps_short(fit_type, options) or short.all() or not short.any():
        return None
    return short


def short_variances(table, pass_of, fit_types, options):
    """Return the variances that are added to short overlaps of passes of planes, shape (n,).

    A short overlap has few cells, which hardly show the noise that neighbouring pixels share, and
    averages over little of a pattern. Its variance is therefore at least that of the typical
    scatter of cells, and larger by the squared ratio of ``min_linear`` to its length.

    Parameters
    ----------
    table, pass_of, fit_types
        See `~levelmatch.measure.correlated_errors.pooled_passes`.
    options : `~levelmatch.options.SolveOptions`
        Options of the solution.
    """
    added, length = np.zeros(len(table)), table.extent.max(axis=1)
    for k, fit_type in enumerate(fit_types):
        rows = np.flatnonzero((pass_of == k) & (table.npix > 0) & (length > 0))
        is_short = short_overlaps(table.extent[rows], fit_type, options)
        if is_short is None:
            continue
        typical, short = np.median(table.chi2[rows[~is_short]]), rows[is_short]
        scatter = np.maximum(typical / table.chi2[short], 1.0)
        ratio = scatter * np.square(options.min_linear / length[short])
        added[short] = np.square(table.sigma[short]) * (ratio - 1)
    return added


# --------------------------------------------------------------------------------------
# Rejected pairs

# A scatter below this multiple of the geometric mean is never rejected.
MIN_SCATTER = 1.5
# Nor is a pair with inverse variances whose cells scatter by less than this multiple of the median
# variance: bright stars make pixels scatter, and hardly change the level.
MIN_CHI2 = 4.0


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
    too_large = scatter > most
    if options.weights == "ivar":
        too_large &= table.chi2 > MIN_CHI2 * np.median(table.chi2[measured])
    cuts = [
        (table.npix < least, lambda p: f"area: {table.npix[p]} pixels, under {least:.0f}"),
        (
            table.extent.max(axis=1) < options.min_linear,
            lambda p: (
                f"extent: {table.extent[p].max():.3f} of the side, under {options.min_linear:g}"
            ),
        ),
        (
            too_large,
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


# --------------------------------------------------------------------------------------
# Robust weights

# Tuning constants for 95 % efficiency with normal errors.
HUBER = 1.345
TUKEY = 4.685
# Smallest fraction of its weight that a pair keeps, so that its images stay linked.
LEAST_WEIGHT = 1e-4
# Smallest number of independent loops in which wrong pairs can be found.
MIN_LOOPS = 10
# Largest number of iterations.
N_REWEIGHT = 50
# Weights have converged if at most this fraction of them changes.
UNSETTLED = 1e-4


def medians(labels, values):
    """Return the distinct labels and the median of the values of each."""
    if len(labels) == 0:
        return labels, values
    if labels.min() == labels.max():
        return labels[:1], np.median(values, keepdims=True)
    from scipy.ndimage import median

    found = np.unique(labels)
    return found, median(values, labels, found)


@dataclass(frozen=True, eq=False)
class RobustFit:
    """Consistent floors, robust weights and solution.

    Parameters
    ----------
    floors : `~numpy.ndarray`, shape (n_sets,)
        The floor of each set.
    robust : `~numpy.ndarray`, shape (n,)
        The fraction of its weight that each pair keeps.
    solved : `~levelmatch.solve.solver.WeightedSolution`
        The solution.
    doubt : `~levelmatch.solve.alternatives.Ambiguity` or None
        Ambiguity of the rejected pairs.
    """

    floors: np.ndarray
    robust: np.ndarray
    solved: object
    doubt: object = None


def settle_floors(floors, solve):
    """Return floors and solution in which all pairs keep their weight."""
    robust = np.ones(len(floors.set_of))
    counted = robust > 0
    freedom, full = floors.freedom(counted), lambda values: solve(values, robust)
    found, solved = floors.settle(floors.start, counted, freedom, full)
    return RobustFit(found, robust, solved)


class Reweighting:
    """Iteratively reweighted least squares.

    In sets of at least 10 independent loops, pairs with large residuals lose weight: by
    Huber's weights until these converge, then, with ``"tukey"``, by Tukey's biweight (Huber &
    Ronchetti 2009, Robust Statistics, 2nd ed., ch. 7). If there are few pairs per image, the
    solution follows the pairs of large weight, and the floor is too small.

    Parameters
    ----------
    floors : `~levelmatch.solve.floors.Floors`
        Estimates the floor of each set.
    kind : {"huber", "tukey"}
        The weights.
    """

    def __init__(self, floors, kind):
        self.floors = floors
        self.equations = floors.equations
        self.kind = kind
        self.set_of = floors.set_of
        k = self.equations.n_terms
        everything = np.ones(len(self.set_of), dtype=bool)
        self.freedom = floors.freedom(everything)
        measured = k * floors.sum(floors.long)
        # Mean redundancy of a pair.
        self.left = np.divide(
            self.freedom, measured, out=np.ones(floors.n_sets), where=measured > 0
        )
        self.many = (self.freedom / k >= MIN_LOOPS)[self.set_of]

    def run(self, solve):
        """Return the floors, the robust weights and the solution.

        Parameters
        ----------
        solve : callable
            Returns the solution for given floors, shape (n_sets,), and robust weights, shape (n,).
        """
        robust = np.ones(len(self.set_of))
        if not self.many.any():
            return settle_floors(self.floors, solve)
        floors = self.floors.start
        solved = solve(floors, robust)
        floors, robust, solved = self._iterate(floors, robust, solved, solve, "huber")
        if self.kind == "tukey":
            floors, robust, solved = self._iterate(floors, robust, solved, solve, "tukey")
            if self.floors.fixed is None:
                floors = self._moment_floors(self.equations.quadratic(solved.coefficients), robust)
                solved = solve(floors, robust)
        return RobustFit(floors, robust, solved)

    def _iterate(self, floors, robust, solved, solve, kind):
        """Alternate floors, weights and solution until they converge."""
        for _ in range(N_REWEIGHT):
            before = floors, robust
            quadratic = self.equations.quadratic(solved.coefficients)
            if self.floors.fixed is None and kind == "huber":
                floors = self._moment_floors(quadratic, robust)
                # An outlier changes a median less than a sum of squares.
                floors = self._median_floors(quadratic, floors)
            robust = self._weights(quadratic, floors, kind)
            solved = solve(floors, robust)
            if self._settled(before, floors, robust) or not solved.moved:
                break
        return floors, robust, solved

    def _settled(self, before, floors, robust):
        same = np.abs(floors - before[0]) <= 1e-3 * floors
        changed = np.abs(robust - before[1]) >= 1e-3
        return same.all() and np.count_nonzero(changed) <= UNSETTLED * len(robust)

    def _moment_floors(self, quadratic, robust):
        """Return the floors of the pairs that keep some weight."""
        counted = np.where(self.many, robust > LEAST_WEIGHT, True) & self.floors.long
        number = self.floors.sum(counted)
        target = self.freedom * number / np.maximum(self.floors.sum(self.floors.long), 1)
        quadratic = np.where(counted, quadratic, 0.0)
        return np.sqrt(self.floors.moment_squares(quadratic, target, self.set_of))

    def _median_floors(self, quadratic, floors):
        """Return the floors; in sets of many loops the median residual equals its expectation."""
        own = self.equations.gram[:, 0, 0]
        rows = np.flatnonzero(self.many)
        sets = self.set_of[rows]
        target = 2 * gammaincinv(self.equations.n_terms / 2, 0.5) * self.left[sets]
        # The squared floor with which each pair's residual would equal the expected median.
        square = (quadratic[rows] / target - 1) / own[rows]
        floors = floors.copy()
        found, median = medians(sets, square)
        floors[found] = np.sqrt(np.maximum(median, 0))
        return floors

    def _weights(self, quadratic, floors, kind):
        expected = self.equations.n_terms * np.maximum(self.left[self.set_of], 0.05)
        z = np.sqrt(self.floors.precision(floors) * np.maximum(quadratic, 0) / expected)
        if kind == "huber":
            weight = HUBER / np.maximum(z, HUBER)
        else:
            weight = np.square(np.maximum(1 - np.square(z / TUKEY), 0))
        return np.where(self.many, np.maximum(weight, LEAST_WEIGHT), 1.0)
