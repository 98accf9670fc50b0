# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redundancies and studentised residuals of pairs, and tests of pairs and images."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import chdtri, erf, fdtrc, fdtri, gammainc

from levelmatch.solve._pairs import excess_of
from levelmatch.solve.equations import times
from levelmatch.solve.linear import inverses
from levelmatch.solve.weights import LEAST_WEIGHT

__all__ = [
    "Agreement",
    "Fit",
    "SIGNIFICANCE",
    "SUSPICION",
    "redundancy",
    "studentised",
]


# Redundancy below which a term of a pair cannot be tested, because the pair is nearly the only link
# between two sets.
LEAST_REDUNDANCY = 1e-3
# Leverages are reused for other weights if only a few weights differ by more than this factor.
MAX_CHANGE = 5.0


def redundancy(solved):
    """Return the redundancy of each pair: the fraction of its error left in its residual.

    The redundancy is I - H, shape (n, k, k), where H is the pair's block of the hat matrix of
    differences in units of their standard errors. If the weights are inverse variances, it is the
    covariance of the pair's residual. Its trace is the redundancy number (Baarda 1968, A testing
    procedure for use in geodetic networks): k for a pair among many, 0 for the only link between
    two sets. In a large system, the redundancy for earlier weights is reused. It is corrected for
    the change of the weights of the pair and of the links around it, to about 1 %.

    Parameters
    ----------
    solved : `~levelmatch.solve.solver.WeightedSolution`
        Solution.
    """
    n_terms = solved.equations.n_terms
    one = np.eye(n_terms)
    others = [] if solved.inverted else solved.served_by()
    known = next((s for s in others if solved.near(s, MAX_CHANGE)), None)
    if known is None:
        return one - solved.hat
    # Change of the weight of the pair over the change of the weight of the links around its images.
    ratio = solved.factor / known.factor
    ratio *= known.around
    ratio /= solved.links_around()
    left = one - known.hat
    inverse, _ = inverses(ratio[:, None, None] * known.hat + left)
    return np.multiply(inverse, left, out=left) if n_terms == 1 else inverse @ left


def studentised(solved, left, precision, counted):
    """Return the distance of each pair's difference from its prediction by all other pairs.

    Parameters
    ----------
    solved : `~levelmatch.solve.solver.WeightedSolution`
        Solution.
    left : `~numpy.ndarray`, shape (n, k, k)
        Redundancies, from `redundancy`.
    precision : `~numpy.ndarray`, shape (n,)
        Factors by which normal matrices of pairs become inverse covariances.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs with full weight in the solution. The others are treated as without weight.

    Returns
    -------
    square : `~numpy.ndarray`, shape (n,)
        Squared Mahalanobis distance. For a pair that is part of the solution, the decrease of the
        weighted sum of squares without this pair.
    terms : `~numpy.ndarray` of int, shape (n,)
        Degrees of freedom: number of terms that can be tested; 0 for the only link of two sets.
    """
    equations = solved.equations
    if not counted.all():
        # The variances of a pair without weight and of its prediction add up.
        one, without = np.eye(equations.n_terms), np.flatnonzero(~counted)
        ratio = precision[without] / solved.factor[without]
        left = left.copy()
        left[without] = one + ratio[:, None, None] * (one - left[without])
    if equations.n_terms == 1:
        square = precision * equations.quadratic(solved.coefficients)
        square, terms = _seen_squares(left[:, 0], square[:, None])
    else:
        residual = times(equations.root, equations.residuals(solved.coefficients))
        square, terms = _squares(left, np.sqrt(precision)[:, None] * residual)
    # Terms that the pair does not measure have no residual.
    return square, np.minimum(terms, equations.rank)


def _squares(variance, residual):
    """Return the squared Mahalanobis distances of residuals, and their degrees of freedom."""
    inverse, least = inverses(variance)
    # Rounding errors can make squares negative.
    square = np.maximum(np.einsum("pi,pij,pj->p", residual, inverse, residual), 0.0)
    terms = np.full(square.shape, residual.shape[1], dtype=np.int8)
    rows = np.flatnonzero(~(least > LEAST_REDUNDANCY))
    size, turn = np.linalg.eigh(variance[rows])
    part = np.einsum("pij,pi->pj", turn, residual[rows])
    square[rows], terms[rows] = _seen_squares(size, np.square(part))
    return square, terms


def _seen_squares(size, square):
    """Return the sums of squares over terms that can be tested, and the numbers of terms."""
    seen = (size > LEAST_REDUNDANCY) & np.isfinite(size)
    square = square / np.where(seen, size, np.inf)
    return np.einsum("pk->p", square), seen.sum(axis=1, dtype=np.int8)


# --------------------------------------------------------------------------------------
# Tests

# Probability of a false alarm in a set: that any right pair, or image, is taken for wrong.
SIGNIFICANCE = 0.01
# A set is searched if a p-value, times the number of pairs or images, is below this.
SUSPICION = 0.2
# Units of two tests of normality: the excess kurtosis over its standard error, and the
# Kolmogorov-Smirnov distance times the root of the degrees of freedom.
KURTOSIS = 3.0
DISTANCE = 1.15
# Limit of the sum of both tests in these units: 998 of 1000 sets of normal errors are below it.
MAX_BOTH = 1.7
# Degrees of freedom from which on the tests find no smaller deviations. With more, deviations would
# be significant that make no large difference natural.
MAX_FREEDOM = 1000
# Squared studentised residuals below this are never significant.
LEAST_EXCESS = 1.0
# Smallest redundancy of an image that is tested.
LEAST_OF_IMAGE = 0.5


@dataclass(frozen=True, eq=False)
class Fit:
    """A solution with converged floors, and its tests.

    Parameters
    ----------
    floors : `~numpy.ndarray`, shape (n_sets,)
        The floor of each set.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs that are not rejected.
    extra : `~numpy.ndarray`, shape (n,)
        Variance that wrong images add to their pairs.
    solved : `~levelmatch.solve.solver.WeightedSolution` or None
        The solution; of all sets, not of a part of them.
    left : `~numpy.ndarray`, shape (n, k, k)
        See `~levelmatch.solve.outlier_tests.redundancy`.
    distance, terms : `~numpy.ndarray`, shape (n,)
        Squared distance of each pair from its prediction by the others, and its degrees of freedom,
        see `studentised`.
    residual : `~numpy.ndarray`, shape (n,)
        Weighted squared residual of each pair. Rejected pairs have their full weight here.
    square, freedom : `~numpy.ndarray`, shape (n_sets,)
        Sum of these squares, and degrees of freedom, of the pairs that determine the floor.
    """

    floors: np.ndarray
    counted: np.ndarray
    extra: np.ndarray
    solved: object
    left: np.ndarray
    distance: np.ndarray
    terms: np.ndarray
    residual: np.ndarray
    square: np.ndarray
    freedom: np.ndarray

    @property
    def sound(self):
        """Flags of the pairs that determine the floor, shape (n,)."""
        return self.counted & (self.extra == 0)

    def part(self, rows, chosen):
        """Return the fit of chosen sets, given flags of the sets and the rows of their pairs."""
        return replace(
            self,
            floors=self.floors[chosen],
            counted=self.counted[rows],
            extra=self.extra[rows],
            solved=None,
            left=self.left[rows],
            distance=self.distance[rows],
            terms=self.terms[rows],
            residual=self.residual[rows],
            square=self.square[chosen],
            freedom=self.freedom[chosen],
        )


class Agreement:
    """Fits to selected pairs, and the tests of pairs and images by these fits.

    Parameters
    ----------
    floors : `~levelmatch.solve.floors.Floors`
        Estimates the floor of each set.
    solver : `~levelmatch.solve.solver.Solver`
        Solves the equations of the pairs.
    """

    def __init__(self, floors, solver):
        self.floors = floors
        self.equations = floors.equations
        self.set_of = floors.set_of
        self.number = np.maximum(floors.sum(np.ones(len(self.set_of))), 1)
        # Smaller values are not even suspicious, however few degrees of freedom are left.
        k = self.equations.n_terms
        self._least = np.maximum(chdtri(k, SUSPICION / self.number) / k, LEAST_EXCESS)
        self.solver = solver

    def robust(self, floors, counted, extra):
        """Return the fraction of its weight that each pair keeps, shape (n,)."""
        robust = np.where(counted, 1.0, LEAST_WEIGHT)
        if extra.any():
            robust *= self.floors.precision(floors, extra) / self.floors.precision(floors)
        return np.maximum(robust, LEAST_WEIGHT, out=robust)

    def _solve(self, floors, counted, extra):
        weights = self.robust(floors, counted, extra)
        weights *= self.floors.precision(floors)
        return self.solver.solve(weights)

    def fit(self, start, counted, extra=None, **steps):
        """Return the `Fit` to the counted pairs, its floors iterated from ``start``."""
        extra = np.broadcast_to(0.0, len(counted)) if extra is None else extra
        sound = counted & (extra == 0)
        freedom = self.floors.freedom(sound)
        floors, solved = self.floors.settle(
            start,
            sound,
            freedom,
            lambda floors: self._solve(floors, counted, extra),
            **steps,
        )
        precision = self.floors.precision(floors, extra if extra.any() else 0.0)
        left = redundancy(solved)
        distances = studentised(solved, left, precision, counted)
        residual = self.equations.quadratic(solved.coefficients)
        residual *= precision
        square = self.floors.sum(np.where(sound & self.floors.long, residual, 0.0))
        return Fit(floors, counted, extra, solved, left, *distances, residual, square, freedom)

    def excess(self, fit):
        """Return the squared studentised deleted residuals, shape (n,), and their p-values.

        Each residual is divided by the scatter of the other pairs, or by the pair's own
        standard error if that is larger. P-values that are not suspicious are one.
        """
        own = self.equations.gram[:, 0, 0]
        squares = np.square(fit.floors) * (self.floors.fixed is None)
        counted = (fit.counted & self.floors.long).view(np.uint8)
        # Without any pair, sums are integers.
        sums = (values.astype(float) for values in (fit.square, fit.freedom, squares))
        excess, others = excess_of(fit.distance, fit.terms, counted, self.set_of, own, *sums)
        p_value = np.ones(len(excess))
        rows = np.flatnonzero(excess > self.floors.of_pairs(self._least))
        p_value[rows] = fdtrc(fit.terms[rows], np.maximum(others[rows], 1), excess[rows])
        return excess, p_value

    def significant(self, p_value):
        """Return flags of significant pairs, by Bonferroni's correction in each set, (n,)."""
        return p_value * self.floors.of_pairs(self.number) < SIGNIFICANCE

    def critical(self, fit):
        """Return the smallest excess that is significant in each set, shape (n_sets,)."""
        freedom = np.maximum(fit.freedom, 1)
        return fdtri(self.equations.n_terms, freedom, 1 - SIGNIFICANCE / self.number)

    def not_normal(self, fit):
        """Return flags of sets whose sound pairs are not normally distributed, (2, n_sets).

        The test adds their excess kurtosis (Mardia 1970, Biometrika 57, 519) and the
        Kolmogorov-Smirnov distance of their distribution from the expected one. The second flags
        are those of long tails, as wrong pairs cause that hide each other: they add to the scatter
        by which each is judged.
        """
        k = self.equations.n_terms
        rows = np.flatnonzero(fit.sound & (fit.terms == k))
        label, square = self.set_of[rows], fit.distance[rows]
        n_sets = self.floors.n_sets
        number = np.maximum(np.bincount(label, minlength=n_sets), 1)
        mean = np.bincount(label, square, n_sets) / number / k
        square = square / np.where(mean > 0, mean, 1.0)[label]
        freedom = np.clip(fit.freedom / k, 1, MAX_FREEDOM)
        kurtosis = np.bincount(label, square**2, n_sets) / number - k * (k + 2)
        kurtosis /= np.sqrt(8 * k * (k + 2) / freedom)
        if n_sets == 1:
            square = np.sort(square)
        else:
            order = np.lexsort((square, label))
            label, square = label[order], square[order]
        # The error function is the faster of the two.
        expected = erf(np.sqrt(square / 2)) if k == 1 else gammainc(k / 2, square / 2)
        found, start, count = np.unique(label, return_index=True, return_counts=True)
        rank = np.arange(len(rows)) - np.repeat(start, count)
        # The largest distance is at one of the two ends of a step.
        expected -= (rank + 0.5) / np.repeat(count, count)
        distance = np.zeros(n_sets)
        if len(found):
            distance[found] = np.maximum.reduceat(np.abs(expected), start) + 0.5 / count
        distance *= np.sqrt(freedom)
        flags = np.maximum(kurtosis, 0) / KURTOSIS + distance / DISTANCE > MAX_BOTH
        return flags, flags & (kurtosis > 0)

    def images(self, fit):
        """Return the p-value of each image: of the scatter of its pairs against all others, (m,).

        An F test compares two sums of weighted squared residuals, each divided by its
        expectation, the sum of the redundancies.
        """
        own = np.trace(fit.left, axis1=1, axis2=2)
        freedom = self._at_images(np.where(fit.sound, own, 0.0))
        square = self._at_images(np.where(fit.sound, fit.residual, 0.0))
        component = self.floors.component
        others = fit.freedom[component] - freedom
        scale = (fit.square[component] - square) / np.maximum(others, 1e-9)
        least = 0.0 if self.floors.fixed is None else 1.0
        # Without a floor, the pairs scatter by their own errors.
        least = np.where(fit.floors[component] > 0, least, 1.0)
        ratio = square / np.maximum(freedom, 1e-9) / np.maximum(scale, np.maximum(least, 1e-9))
        p_value = fdtrc(np.maximum(freedom, LEAST_OF_IMAGE), np.maximum(others, 1.0), ratio)
        return np.where((freedom > LEAST_OF_IMAGE) & (others > 1), p_value, 1.0)

    def _at_images(self, values):
        """Return the sum of the values of each image's pairs, shape (m,)."""
        n = self.equations.n_groups
        ends = (self.equations.first, self.equations.second)
        return sum(np.bincount(side, values, minlength=n) for side in ends)

    def degree(self, chosen):
        """Return the number of chosen pairs of each image, shape (m,)."""
        return self._at_images(chosen.astype(float)).astype(int)
