# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Wider standard errors of sets with few loops, whose floor is uncertain."""

import numpy as np
from scipy.special import ndtr

from levelmatch.solve.outlier_tests import redundancy
from levelmatch.solve.solver import Solver

__all__ = ["error_inflation"]

# The errors of sets with more degrees of freedom are unchanged.
MAX_FREEDOM = 60
# Prior probability that there is no floor.
NO_FLOOR = 0.35
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
    freedom, or with a given floor.

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
    part = _SmallSets(floors, small, counted, prior)
    inflation[small] = part.inflation(found[small])
    return inflation


class _SmallSets:
    """The pairs of small sets, solved for floors on a grid."""

    def __init__(self, floors, chosen, counted, prior):
        self.floors, _ = floors.part(chosen, counted)
        self.equations = self.floors.equations
        self.solver = Solver(self.equations, self.floors.free, prior)

    def _terms(self, values):
        """Return d(log likelihood) / d(floor**2) and the variance of the levels, (n_sets,)."""
        floors, own = self.floors, self.equations.gram[:, 0, 0]
        precision = floors.precision(values)
        solved = self.solver.finish(self.solver.solve(precision))
        left = np.trace(redundancy(self.equations, solved), axis1=1, axis2=2)
        quadratic = self.equations.quadratic(solved.coefficients)
        slope = 0.5 * floors.sum(own * precision * (precision * quadratic - left))
        return slope, self._variance(solved)

    def _variance(self, solved):
        """Return the sum of the variances of the levels of each set, shape (n_sets,)."""
        own = solved.covariance_blocks()
        return np.bincount(self.floors.component, own[:, 0, 0], minlength=self.floors.n_sets)

    def inflation(self, found):
        """Return the factor of each set."""
        odds, variance, likely = self._posterior()
        _, known = self._terms(found)
        ratio = np.sqrt(known / variance)
        low, high = np.ones(len(found)), np.full(len(found), 1e4)
        for _ in range(50):
            middle = np.sqrt(low * high)
            outside = np.sum(odds * 2 * ndtr(-NORMAL_95 * middle * ratio), axis=0)
            low = np.where(outside > 0.05, middle, low)
            high = np.where(outside > 0.05, high, middle)
        return low ** (1 / (1 + (LIKELY / np.maximum(likely, 1e-3)) ** SHARPNESS))

    def _posterior(self):
        """Return the posterior of the floor on a grid.

        Returns
        -------
        odds, variance : `~numpy.ndarray`, shape (n_floors, n_sets)
            Probability of each floor, if there is one, and the variance with it.
        likely : `~numpy.ndarray`, shape (n_sets,)
            Probability that there is a floor.
        """
        own = self.equations.gram[:, 0, 0]
        sigma = np.sqrt(self.floors.sum(1 / own) / self.floors.sum(np.ones(len(own))))
        zero = np.zeros(self.floors.n_sets)
        solved = self.solver.solve(self.floors.precision(zero))
        freedom = self.floors.freedom(np.ones(len(own), dtype=bool))
        square = self.floors.sum(self.equations.quadratic(solved.coefficients))
        shown = np.sqrt(np.maximum(square / freedom, 1.0))
        step = np.log(MOST_FLOOR * shown / LEAST_FLOOR) / (N_FLOORS - 1)
        ratio = LEAST_FLOOR * np.exp(np.arange(N_FLOORS)[:, None] * step)
        below = np.broadcast_to(BELOW[:, None], (len(BELOW), len(sigma)))
        grid = np.concatenate([below, ratio]) * sigma
        slope, variance = (np.array(t) for t in zip(*map(self._terms, grid), strict=True))
        prior = np.minimum(1.0, USUAL_FLOOR * shown / ratio)
        logarithm = _integral(slope, grid)
        above = logarithm[len(BELOW) :]
        top = above.max(axis=0)
        odds = prior * np.exp(above - top)
        some = (1 - NO_FLOOR) * odds.sum(axis=0) / prior.sum(axis=0)
        some *= np.exp(np.clip(top - logarithm[0], -700, 700))
        likely = some / (some + NO_FLOOR)
        return odds / odds.sum(axis=0), variance[len(BELOW) :], likely


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
