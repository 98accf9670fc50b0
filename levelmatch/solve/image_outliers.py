# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of each image, with all of its pairs, against all other images."""

import numpy as np
from scipy.sparse import diags_array
from scipy.sparse.linalg import splu
from scipy.special import fdtrc

from levelmatch.measure.noise import image_medians
from levelmatch.sky.overlaps import components
from levelmatch.solve.floors import Floors
from levelmatch.solve.gauge import members_of

__all__ = ["find_disagreeing", "find_scattered"]

# Probability of a false alarm in a set.
SIGNIFICANCE = 0.01
# Smallest rms of a wrong image's pairs about their prediction by the others, in standard errors.
MIN_SIGMA = 3.5
# Weight of the pairs' own errors in the scatter of the others, in degrees of freedom.
PRIOR_FREEDOM = 1
# Number of groups that are tested in each round: those with the largest residuals.
MAX_TESTED = 16
# Larger sets are not tested.
MAX_GROUPS = 500
# Largest fraction of a set's images that may be wrong. One image may be wrong in any set.
MAX_WRONG = 0.15
# Largest number of iterations of a floor.
N_FLOORS = 12
# Ridge that makes the normal matrix regular, as a fraction of its diagonal.
RIDGE = 1e-11
# The ratio of an image is the variance of the differences in its overlaps over that of the pixel
# noise. The image is scattered if its ratio exceeds that of the typical image by this factor, and
# by this many spreads of the logarithm.
MIN_RATIO, MIN_SPREADS, LEAST_SPREAD = 8.0, 5.0, 0.2
# Smallest number of images that are compared.
MIN_IMAGES = 4


def find_disagreeing(equations):
    """Return the groups of one pass that disagree with the others of their set, the worst first.

    Each group is left out in turn, and the floor is estimated from the pairs of the others. The
    drop of the weighted sum of squares is compared with the scatter of these pairs (an F test;
    for one observation it is data snooping: Baarda 1968, A testing procedure for use in geodetic
    networks). The worst group is removed before the next round.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs of one pass.

    Returns
    -------
    found : list of tuple
        For each group, its index, and the rms of its differences about their prediction by all
        others, in standard errors.
    """
    ends = np.stack([equations.first, equations.second], axis=1)
    _, component = components(ends, equations.n_groups)
    of_pair = component[equations.first]
    found = []
    size = np.bincount(component)
    for rows in members_of(of_pair):
        if len(rows) and size[of_pair[rows[0]]] <= MAX_GROUPS:
            groups = np.unique(ends[rows])
            search = _Search(equations.part(rows, groups))
            found += [(*test, int(groups[group])) for *test, group in search.run()]
    return [(group, n_sigma) for _, n_sigma, group in sorted(found, key=_worst_first)]


def _worst_first(test):
    """Return the key by which tests (chance, deviation, group) are sorted."""
    chance, n_sigma, group = test
    return chance, -n_sigma, group


class _Search:
    """Tests of the groups of one connected set."""

    def __init__(self, equations):
        self.equations = equations
        n = equations.n_groups
        free = np.ones((n, equations.n_terms), dtype=bool)
        self.floors = Floors(equations, np.zeros(n, dtype=int), free, None)
        self.ends = np.stack([equations.first, equations.second], axis=1)
        self.rank = equations.rank

    def run(self):
        """Return the chance, the deviation and the index of each wrong group.

        The chance is the probability of a larger deviation in a set of this number of groups. The
        deviation is defined as in `find_disagreeing`. The worst group comes first.
        """
        n, found = self.equations.n_groups, []
        counted = np.ones(len(self.ends), dtype=bool)
        while len(found) < max(1, int(MAX_WRONG * n)):
            freedom = self._freedom(counted)
            square, quadratic = self._fit(counted, 0.0)
            if square <= freedom + MIN_SIGMA * np.sqrt(2 * freedom) or freedom < 1:
                break
            candidates = self._candidates(quadratic, counted)
            tests = [(*self._test(g, counted), g) for g in candidates]
            chance, n_sigma, group = min(tests, key=_worst_first)
            if chance > SIGNIFICANCE or n_sigma < MIN_SIGMA:
                break
            found.append((chance, n_sigma, group))
            counted = counted & (self.ends != group).all(axis=1)
        return found

    def _candidates(self, quadratic, counted):
        """Return the groups with the largest mean residuals."""
        n = self.equations.n_groups
        total, number = np.zeros(n), np.zeros(n)
        for end in self.ends.T:
            total += np.bincount(end, np.where(counted, quadratic, 0.0), minlength=n)
            number += np.bincount(end, counted, minlength=n)
        mean = np.divide(total, number, out=np.full(n, -1.0), where=number > 0)
        order = np.argsort(-mean, kind="stable")[:MAX_TESTED]
        return order[mean[order] > 0].tolist()

    def _test(self, group, counted):
        """Return the chance and the deviation of a group."""
        rest = counted & (self.ends != group).all(axis=1)
        freedom = self._freedom(rest)
        terms = self._freedom(counted) - freedom
        if terms < 1:
            return 1.0, 0.0
        floor, square = self._floor(rest, freedom)
        drop = self._fit(counted, floor)[0] - square
        scale = (square + PRIOR_FREEDOM) / (freedom + PRIOR_FREEDOM)
        ratio = max(drop, 0.0) / terms / scale
        chance = float(fdtrc(terms, freedom + PRIOR_FREEDOM, ratio)) * self.equations.n_groups
        return chance, float(np.sqrt(ratio))

    def _floor(self, counted, freedom):
        """Return the floor of the counted pairs, and their weighted sum of squares."""
        floor = 0.0
        square, quadratic = self._fit(counted, floor)
        for _ in range(N_FLOORS):
            if freedom < 1 or square <= freedom:
                break
            own = np.where(counted, quadratic, 0.0)
            new = float(
                np.sqrt(self.floors.moment_squares(own, np.array([freedom]), self.floors.set_of)[0])
            )
            settled = abs(new - floor) <= 1e-2 * new
            floor = new
            square, quadratic = self._fit(counted, floor)
            if settled:
                break
        return floor, square

    def _fit(self, counted, floor):
        """Return the weighted sum of squares of the counted pairs, and the square of each pair."""
        equations = self.equations
        weights = self.floors.precision(np.array([floor])) * counted
        matrix = equations.assemble(weights).tocsc()
        size = matrix.diagonal()
        # Coefficients that the pairs do not determine have a right-hand side of zero.
        ridge = np.where(size > 0, RIDGE * size, 1.0)
        solver = splu((matrix + diags_array(ridge, format="csc")).tocsc())
        coefficients = np.zeros((equations.n_groups, equations.n_terms))
        for _ in range(2):
            left = equations.gradient(weights, coefficients).ravel()
            coefficients = coefficients + solver.solve(left).reshape(coefficients.shape)
        quadratic = equations.quadratic(coefficients)
        return float(np.sum(weights * quadratic)), quadratic

    def _freedom(self, counted):
        """Return the degrees of freedom of the counted pairs."""
        ends = self.ends[counted]
        linked = np.unique(ends)
        if len(linked) == 0:
            return 0
        n_sets, _ = components(np.searchsorted(linked, ends), len(linked))
        unknown = self.equations.n_terms * (len(linked) - n_sets)
        return max(int(self.rank[counted].sum()) - unknown, 0)


def find_scattered(first, second, chi2):
    """Return the images whose overlaps scatter far more than those of the others.

    An image with wrong astrometry, flux scale or PSF, or with artefacts, can agree with all
    others in its level, in particular if it has few neighbours.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of int, shape (n,)
        Images of each pair.
    chi2 : `~numpy.ndarray`, shape (n,)
        Variance of its cells over that expected from pixel noise; NaN if unknown.

    Returns
    -------
    ratios : dict
        Ratio of an image's variance to that of the typical image, by image, the worst first.
        An image's variance is the (lower) median of its pairs.
    """
    good = np.isfinite(chi2) & (chi2 > 0)
    found, own, _ = image_medians(first[good], second[good], np.log(chi2[good]))
    if len(found) < MIN_IMAGES:
        return {}
    typical = np.median(own)
    spread = max(1.4826 * np.median(np.abs(own - typical)), LEAST_SPREAD)
    excess = own - typical
    wrong = (excess > np.log(MIN_RATIO)) & (excess > MIN_SPREADS * spread)
    rows = np.flatnonzero(wrong)[np.argsort(-excess[wrong], kind="stable")]
    return {int(found[r]): float(np.exp(excess[r])) for r in rows}
