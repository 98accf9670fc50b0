# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Wider errors where few loops determine the floor."""

import numpy as np
from scipy.special import ndtr

from levelmatch.solve.equations import Equations
from levelmatch.solve.floors import Floors
from levelmatch.solve.leverage import redundancy
from levelmatch.solve.solver import Solver

__all__ = ["error_inflation"]

# Sets of more degrees of freedom determine their floor well enough.
MAX_FREEDOM = 60
# Prior probability that pairs scatter as their errors say. Otherwise the logarithm of the
# floor is uniform from 1.25 of the pairs' errors to 3 of the scatter that they show, and falls
# beyond.
NO_FLOOR = 0.35
LEAST_FLOOR = 1.25
USUAL_FLOOR = 3.0
MOST_FLOOR = 300.0
# Posterior probability of a floor from which the errors allow for one, and how sharply. With one
# to four loops, 93 to 99 % of the intervals then hold the truth if the floor is 3 errors.
LIKELY = 0.325
SHARPNESS = 8
N_FLOORS = 20
BELOW = np.array([0.0, 0.4, 0.8, 1.1])
NORMAL_95 = 1.959964


def error_inflation(floors, found, counted, prior):
    """Return factors on the standard errors of each set, shape (n_sets,).

    With them, the interval of 1.96 standard errors contains the truth with a probability of
    95 % although the floor is uncertain: it is marginalised over its restricted
    likelihood with a weak prior, as t-intervals widen those of a known variance (Hartung &
    Knapp 2001, Stat. Med. 20, 3875; Bayesian forms: Spiegelhalter, Abrams & Myles 2004,
    Bayesian Approaches to Clinical Trials, ch. 5). Where the pairs are likely to scatter as their
    errors say, the factor is near 1. It is never less than 1, and 1 in sets without a loop,
    of more than 60 degrees of freedom, or with a given floor.

    Parameters
    ----------
    floors : `~levelmatch.solve.floors.Floors`
        The pairs and their sets.
    found : `~numpy.ndarray`, shape (n_sets,)
        The estimated floors.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs that the floors were estimated from.
    prior : float or None
        Prior on the slopes.
    """
    inflation = np.ones(floors.n_sets)
    freedom = floors.freedom(counted)
    small = (freedom > 0) & (freedom <= MAX_FREEDOM)
    if floors.fixed is not None or not small.any():
        return inflation
    part = _SmallSets(floors, small, counted, prior)
    if part.solver.iterative:
        return inflation
    inflation[small] = part.inflation(found[small])
    return inflation


class _SmallSets:
    """The pairs of some sets, solved for floors on a grid."""

    def __init__(self, floors, chosen, counted, prior):
        equations = floors.equations
        rows = np.flatnonzero(chosen[floors.set_of] & counted)
        groups = np.flatnonzero(chosen[floors.component])
        number = np.full(equations.n_groups, -1)
        number[groups] = np.arange(len(groups))
        self.equations = Equations(
            number[equations.first[rows]],
            number[equations.second[rows]],
            equations.gram[rows],
            equations.rhs[rows],
            equations.axes[rows],
            equations.group_axes[groups],
        )
        label = np.cumsum(chosen) - 1
        self.floors = Floors(
            self.equations,
            label[floors.component[groups]],
            int(chosen.sum()),
            floors.free[groups],
            None,
        )
        self.solver = Solver(self.equations, self.floors.free, prior)

    def _terms(self, values):
        """Slope of the likelihood in the floor's square, and mean variance, of each set."""
        floors, own = self.floors, self.equations.gram[:, 0, 0]
        precision = floors.precision(values)
        solved = self.solver.finish(self.solver.solve(precision))
        left = np.trace(redundancy(self.equations, solved), axis1=1, axis2=2)
        quadratic = self.equations.quadratic(solved.coefficients)
        slope = 0.5 * floors.sum(own * precision * (precision * quadratic - left))
        return slope, self._variance(solved)

    def _variance(self, solved):
        """Sum over the groups of each set of the variances of their levels, shape (n_sets,)."""
        k = self.equations.n_terms
        entries = solved.system.entries(solved.matrix)
        if entries is None:
            return np.ones(self.floors.n_sets)
        blocks, _ = self.equations.split_blocks(entries.reshape(-1, k, k))
        variance = blocks[:, 0, 0] * solved.scale[:, 0] ** 2
        return np.bincount(self.floors.component, variance, minlength=self.floors.n_sets)

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
        """Probabilities of floors on a grid, if there is one, with their mean variances.

        Returns
        -------
        odds, variance : `~numpy.ndarray`, shape (n_floors, n_sets)
            Probability and mean variance.
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
        # The likelihood is integrated from zero, in steps.
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
    """Integrals in the square of a grid, from its start at zero, shape of the grid.

    Beyond the first steps the product of slope and square is smooth in the logarithm.
    """
    n = len(BELOW)
    rise = 0.5 * (slope[1:] + slope[:-1]) * np.diff(grid**2, axis=0)
    product = slope[n:] * grid[n:] ** 2
    rise[n:] = (product[1:] + product[:-1]) * np.diff(np.log(grid[n:]), axis=0)
    return np.concatenate([np.zeros((1, grid.shape[1])), np.cumsum(rise, axis=0)])
