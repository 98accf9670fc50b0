# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The floor: the systematic scatter of the pairs of each connected set."""

import numpy as np
from scipy.special import betaincinv, chdtri, ndtr

from levelmatch.solve._pairs import moments
from levelmatch.solve.outlier_tests import redundancy
from levelmatch.solve.solver import Solver
from levelmatch.solve.weights import MIN_LOOPS, medians

__all__ = ["Floors", "LARGE", "error_inflation"]


# Sets of more pairs are large.
LARGE = 2000
# A pair is far off if its residual exceeds the largest one of normal errors by this factor. At most
# this fraction of a set's pairs counts as far off.
FAR = 3.0
MOST_FAR = 0.1

# Largest number of Newton steps to a floor.
N_NEWTON = 100
# Largest number of alternations between floors and solution.
N_SETTLE = 50


class Floors:
    """Estimates of the floor of each connected set.

    With the floor added to the standard errors in quadrature, the weighted sum of squared
    residuals equals its degrees of freedom: the number of the pairs' coefficients minus that of
    the groups'. This is the method of moments for random effects (Paule & Mandel 1982, J. Res.
    Natl. Bur. Stand. 87, 377).

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs.
    component : `~numpy.ndarray` of int, shape (m,)
        The set of each group.
    free : `~numpy.ndarray` of bool, shape (m, k)
        Coefficients that are solved for.
    fixed : float or None
        The floor of all sets, or `None` to estimate each.
    """

    def __init__(self, equations, component, free, fixed):
        self.equations = equations
        self.n_sets = int(component.max()) + 1
        self.fixed = fixed
        self.component = component
        self.free = free
        self.set_of = component[equations.first]
        short = equations.short
        self.long = np.ones(len(self.set_of), dtype=bool) if short is None else ~short
        # Pairs of large sets that are far off, by a rough solution.
        self.far = np.zeros(len(self.set_of), dtype=bool)
        # First floors of an iteration.
        self.start = np.full(self.n_sets, 0.0 if fixed is None else fixed)

    def part(self, chosen, counted=True):
        """Return the same of some sets alone, and the rows of their pairs.

        Parameters
        ----------
        chosen : `~numpy.ndarray` of bool, shape (n_sets,)
            The sets.
        counted : `~numpy.ndarray` of bool, shape (n,)
            Pairs that are taken; by default all.
        """
        rows = np.flatnonzero(chosen[self.set_of] & counted)
        groups = np.flatnonzero(chosen[self.component])
        taken = self.equations.part(rows, groups)
        component = (np.cumsum(chosen) - 1)[self.component[groups]]
        return Floors(taken, component, self.free[groups], self.fixed), rows

    def of_pairs(self, values):
        """Return the values of sets, shape (n_sets,), at their pairs; one value for one set."""
        return values if self.n_sets == 1 else values[self.set_of]

    def sum(self, values):
        """Return the sum over the pairs of each set, shape (n_sets,)."""
        if self.n_sets == 1:
            return np.sum(values, dtype=float, keepdims=True)
        return np.bincount(self.set_of, values, minlength=self.n_sets)

    def freedom(self, counted):
        """Return the degrees of freedom of each set with the counted pairs, shape (n_sets,)."""
        equations, linked = self.equations, np.zeros(len(self.component), dtype=bool)
        counted = counted & self.long
        linked[equations.first[counted]] = linked[equations.second[counted]] = True
        unknown = np.where(linked, self.free.sum(axis=1), 0)
        measured = self.sum(equations.rank * counted)
        return np.maximum(measured - np.bincount(self.component, unknown, self.n_sets), 0)

    def precision(self, floors, extra=0.0):
        """Return the factor on each pair's normal matrix that makes it an inverse covariance, (n,).

        ``extra`` is a variance that adds to the squared floor, shape (n,).
        """
        square = np.square(self.of_pairs(floors)) + extra
        variance = square * self.equations.gram[:, 0, 0]
        variance += 1
        return np.reciprocal(variance, out=variance)

    def start_from(self, solved):
        """Take first floors, and the pairs far off, from a rough solution."""
        quadratic = self.equations.quadratic(solved.coefficients)
        k, own = self.equations.n_terms, self.equations.gram[:, 0, 0]
        found, square = medians(self.set_of, (quadratic / chdtri(k, 0.5) - 1) / own)
        self.start = np.zeros(self.n_sets)
        self.start[found] = np.sqrt(np.maximum(square, 0))
        self.far = self._far_off(self.precision(self.start) * quadratic)

    def _far_off(self, square):
        """Return flags of pairs of large sets with weighted squares that are far off, (n,)."""
        k, counted = self.equations.n_terms, np.ones(len(square), dtype=bool)
        number = self.sum(counted)
        # The largest of n normal errors is about sqrt(2 log n).
        most = k * FAR**2 * 2 * np.log(np.maximum(number, 2))
        most[(number <= LARGE) | (self.freedom(counted) < k * MIN_LOOPS)] = np.inf
        far = square > most[self.set_of]
        # A wrong pair adds to the residuals around it: the largest of an image is the wrong one.
        ends = self.equations.first, self.equations.second
        largest = np.zeros(self.equations.n_groups)
        for end in ends:
            np.maximum.at(largest, end[far], square[far])
        far &= (square >= largest[ends[0]]) & (square >= largest[ends[1]])
        return far & (self.sum(far) <= MOST_FAR * number)[self.set_of]

    def typical_errors(self):
        """Return the median standard error of the pairs of each set, shape (n_sets,)."""
        found, error = medians(self.set_of, 1 / np.sqrt(self.equations.gram[:, 0, 0]))
        out = np.zeros(self.n_sets)
        out[found] = error
        return out

    def shown(self, solved, counted, freedom):
        """Return the floors with which the sums of squares equal the degrees of freedom."""
        quadratic = self.equations.quadratic(solved.coefficients)
        quadratic[~(counted & self.long)] = 0.0
        return np.sqrt(self.moment_squares(quadratic, freedom, self.set_of))

    def settle(self, floors, counted, freedom, solve, n_steps=N_SETTLE):
        """Alternate floors and solution until they converge, and return both.

        Parameters
        ----------
        floors : `~numpy.ndarray`, shape (n_sets,)
            The first floors.
        counted : `~numpy.ndarray` of bool, shape (n,)
            Pairs that determine the floor.
        freedom : `~numpy.ndarray`, shape (n_sets,)
            Degrees of freedom of each set with these pairs.
        solve : callable
            Returns the solution for given floors.
        n_steps : int
            Largest number of solutions.
        """
        solved = solve(floors)
        if self.fixed is not None or not freedom.any():
            return floors, solved
        for _ in range(n_steps):
            before = floors
            floors = self.shown(solved, counted, freedom)
            if (np.abs(floors - before) <= 1e-3 * floors).all():
                return before, solved
            solved = solve(floors)
            if not solved.moved:
                break
        return floors, solved

    def moment_squares(self, quadratic, target, label, known=0.0):
        """Return the squared floors with which the weighted sums of squares equal their targets.

        Newton's method finds the root of the inverse of the sum. It is concave in the squared
        floor, so the steps from zero do not overshoot.

        Parameters
        ----------
        quadratic : `~numpy.ndarray`, shape (n,)
            Squared residuals over the pairs' own variances.
        target : `~numpy.ndarray`, shape (n_labels,)
            The targets.
        label : `~numpy.ndarray` of int, shape (n,)
            Label of each pair; pairs of one label share a floor.
        known : float or `~numpy.ndarray`, shape (n,)
            Variance that adds to the squared floor.
        """
        own = self.equations.gram[:, 0, 0]
        known, square = np.broadcast_to(known, own.shape), np.zeros(len(target))
        for _ in range(N_NEWTON):
            value, slope = moments(quadratic, own, known, label, square)
            more = (value > target) & (target > 0)
            step = np.zeros(len(target))
            step[more] = (value[more] / target[more] - 1) * value[more] / slope[more]
            square += step
            if (step <= 1e-10 * square).all():
                break
        return square


# --------------------------------------------------------------------------------------
# Standard errors of sets with few loops

# The errors of sets with more degrees of freedom are unchanged.
MAX_FREEDOM = 60
# Prior probability that there is no floor, and number of values of the fraction of sets with one.
NO_FLOOR, N_FRACTIONS = 0.35, 100
# The prior of a floor is uniform in its logarithm: from LEAST_FLOOR times the pairs' standard
# errors to USUAL_FLOOR times their scatter. It decreases from there to MOST_FLOOR.
LEAST_FLOOR = 1.25
USUAL_FLOOR = 3.0
MOST_FLOOR = 300.0
# Posterior probability of a floor above which errors are widened, and steepness of the transition.
# With these values, and a floor of 3 standard errors, 93 to 99 % of the 95 % intervals of sets
# with one to four loops contain the truth.
LIKELY = 0.325
SHARPNESS = 8
# Number of floors of the grid.
N_FLOORS = 20
# Smaller floors, in units of the pairs' errors, from which the likelihood is integrated.
BELOW = np.array([0.0, 0.4, 0.8, 1.1])
# Half width of the 95 % interval of a normal variable.
NORMAL_95 = 1.959964


def error_inflation(floors, found, counted, prior):
    """Return factors on the standard errors of each set, shape (n_sets,).

    With them, the interval of 1.96 standard errors contains the truth with a probability of
    95 %, although the floor is uncertain. The floor is marginalised over its restricted
    likelihood with a weak prior, as t-intervals are wider than those of a known variance
    (Hartung & Knapp 2001, Stat. Med. 20, 3875; Bayesian forms: Spiegelhalter, Abrams & Myles
    2004, Bayesian Approaches to Clinical Trials, ch. 5). The factor is near 1 if a floor is
    unlikely, and never less than 1. It is 1 in sets without a loop, of more than 60 degrees of
    freedom, or with a given floor. All sets together show how many of them have a floor.

    Parameters
    ----------
    floors : `~levelmatch.solve.floors.Floors`
        The pairs and their sets.
    found : `~numpy.ndarray`, shape (n_sets,)
        The estimated floors.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs that determine the floors.
    prior : float or None
        Standard deviation of the prior on the slopes.
    """
    inflation = np.ones(floors.n_sets)
    freedom = floors.freedom(counted)
    small = (freedom > 0) & (freedom <= MAX_FREEDOM)
    if floors.fixed is not None or not small.any():
        return inflation
    part, _ = floors.part(small, counted & floors.long)
    solver = Solver(part.equations, part.free, prior)
    inflation[small] = _factors(part, solver, found[small])
    return inflation


def _terms(floors, solver, grid):
    """Return d(log likelihood) / d(floor**2) and the variance of the fit, shape (n_floors, n_sets).

    The variance is that of the fitted differences of the pairs, summed over them. It is the same
    in any gauge.
    """
    own, n_terms = floors.equations.gram[:, 0, 0], floors.equations.n_terms
    precision = np.array([floors.precision(values) for values in grid])
    found = solver.solve_dense(precision)
    if found is None:
        found = map(np.array, zip(*(_solved(solver, factor) for factor in precision), strict=True))
    quadratic, left = found
    slope = 0.5 * own * precision * (precision * quadratic - left)
    variance = (n_terms - left) / (own * precision)
    return tuple(np.array([floors.sum(row) for row in rows]) for rows in (slope, variance))


def _solved(solver, factor):
    """Return the solution for one set of weights, in the form of `Solver.solve_dense`."""
    solved = solver.finish(solver.solve(factor))
    left = np.trace(redundancy(solved), axis1=1, axis2=2)
    return solver.equations.quadratic(solved.coefficients), left


def _factors(floors, solver, found):
    """Return the factor of each set, given its floor."""
    odds, variance, likely = _posterior(floors, solver)
    _, known = _terms(floors, solver, found[None])
    ratio = np.sqrt(known / variance)
    low, high = np.ones(len(found)), np.full(len(found), 1e4)
    for _ in range(50):
        middle = np.sqrt(low * high)
        outside = np.sum(odds * 2 * ndtr(-NORMAL_95 * middle * ratio), axis=0)
        low = np.where(outside > 0.05, middle, low)
        high = np.where(outside > 0.05, high, middle)
    return low ** (1 / (1 + (LIKELY / np.maximum(likely, 1e-3)) ** SHARPNESS))


def _posterior(floors, solver):
    """Return the posterior of the floor on a grid.

    Returns
    -------
    odds, variance : `~numpy.ndarray`, shape (n_floors, n_sets)
        Probability of each floor, if there is one, and the variance with it.
    likely : `~numpy.ndarray`, shape (n_sets,)
        Probability that there is a floor.
    """
    own = floors.equations.gram[:, 0, 0]
    # A floor is unknown scatter, whose size does not grow with the effect of the flux scales.
    of_scales = floors.equations.known.of_scales
    unknown = (1 if of_scales is None else 1 - of_scales) / own
    sigma = np.sqrt(floors.sum(unknown) / floors.sum(np.ones(len(own))))
    solved = solver.solve(floors.precision(np.zeros(floors.n_sets)))
    freedom = floors.freedom(np.ones(len(own), dtype=bool))
    square = floors.sum(floors.equations.quadratic(solved.coefficients))
    shown = np.sqrt(np.maximum(square / freedom, 1.0))
    step = np.log(MOST_FLOOR * shown / LEAST_FLOOR) / (N_FLOORS - 1)
    ratio = LEAST_FLOOR * np.exp(np.arange(N_FLOORS)[:, None] * step)
    below = np.broadcast_to(BELOW[:, None], (len(BELOW), len(sigma)))
    grid = np.concatenate([below, ratio]) * sigma
    slope, variance = _terms(floors, solver, grid)
    prior = np.minimum(1.0, USUAL_FLOOR * shown / ratio)
    logarithm = _integral(slope, grid)
    above = logarithm[len(BELOW) :]
    top = above.max(axis=0)
    odds = prior * np.exp(above - top)
    evidence = odds.sum(axis=0) / prior.sum(axis=0)
    evidence *= np.exp(np.clip(top - logarithm[0], -700, 700))
    return odds / odds.sum(axis=0), variance[len(BELOW) :], _likely(evidence)


def _likely(evidence):
    """Return the probability that each set has a floor, given the Bayes factors of all sets.

    The fraction of the sets that have one is unknown. Its prior is a beta distribution, so each
    set is judged by the others, too: one loop alone hardly tells.
    """
    quantiles = (np.arange(N_FRACTIONS) + 0.5) / N_FRACTIONS
    fractions = betaincinv(1 - NO_FLOOR, NO_FLOOR, quantiles)
    # Arrays of all fractions and sets would take much memory.
    weights = np.array([np.log(f * evidence + 1 - f).sum() for f in fractions])
    weights = np.exp(weights - weights.max())
    likely = np.zeros(len(evidence))
    for f, weight in zip(fractions, weights / weights.sum(), strict=True):
        likely += weight * f * evidence / (f * evidence + 1 - f)
    return likely


def _integral(slope, grid):
    """Return the integrals of a derivative by the squared floor from 0 to each floor of a grid.

    Beyond the first steps, the integral is over the logarithm of the floor, in which the product
    of derivative and squared floor is smooth.
    """
    n = len(BELOW)
    rise = 0.5 * (slope[1:] + slope[:-1]) * np.diff(grid**2, axis=0)
    product = slope[n:] * grid[n:] ** 2
    rise[n:] = (product[1:] + product[:-1]) * np.diff(np.log(grid[n:]), axis=0)
    return np.concatenate([np.zeros((1, grid.shape[1])), np.cumsum(rise, axis=0)])
