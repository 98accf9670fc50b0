# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The systematic scatter of the pairs of each set."""

import numpy as np

__all__ = ["Floors"]

# Newton steps to a floor, and solutions until floors and solution agree.
N_NEWTON = 100
N_SETTLE = 50


class Floors:
    """The floor of each connected set, with which its pairs agree as well as their errors say.

    The weighted sum of squared residuals equals its expectation, the number of the
    pairs' coefficients minus that of the groups': the method of moments of
    random-effects models (Paule & Mandel 1982, J. Res. Natl. Bur. Stand. 87, 377).

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs.
    component : `~numpy.ndarray` of int, shape (m,)
        The set of each group.
    n_sets : int
        Number of sets.
    free : `~numpy.ndarray` of bool, shape (m, k)
        Coefficients that are solved for.
    fixed : float or None
        The floor of all sets, or `None` to estimate each.
    """

    def __init__(self, equations, component, n_sets, free, fixed):
        self.equations = equations
        self.n_sets = n_sets
        self.fixed = fixed
        self.component = component
        self.free = free
        self.set_of = component[equations.first]

    def sum(self, values):
        """Sum over the pairs of each set, shape (n_sets,)."""
        return np.bincount(self.set_of, values, minlength=self.n_sets)

    def freedom(self, counted):
        """Degrees of freedom of each set with the pairs that count, shape (n_sets,)."""
        equations, linked = self.equations, np.zeros(len(self.component), dtype=bool)
        linked[equations.first[counted]] = linked[equations.second[counted]] = True
        unknown = np.where(linked, self.free.sum(axis=1), 0)
        measured = self.sum(np.where(counted, equations.rank, 0))
        return np.maximum(measured - np.bincount(self.component, unknown, self.n_sets), 0)

    def precision(self, floors, extra=0.0):
        """Factors on the pairs' normal matrices that make them inverse covariances, (n,).

        ``extra`` is the square of what adds to a pair's floor, shape (n,).
        """
        square = np.square(floors[self.set_of]) + extra
        return 1 / (1 + square * self.equations.gram[:, 0, 0])

    def start(self):
        """Return the floors to begin with, shape (n_sets,)."""
        return np.full(self.n_sets, 0.0 if self.fixed is None else self.fixed)

    def settle(self, floors, counted, solve, n_steps=N_SETTLE):
        """Return floors and solution that agree with each other.

        Parameters
        ----------
        floors : `~numpy.ndarray`, shape (n_sets,)
            Where to start.
        counted : `~numpy.ndarray` of bool, shape (n,)
            Pairs that the floor is estimated from.
        solve : callable
            Returns the solution for floors.
        n_steps : int
            The largest number of solutions.
        """
        solved = solve(floors)
        freedom = self.freedom(counted)
        if self.fixed is not None or not freedom.any():
            return floors, solved
        for _ in range(n_steps):
            before = floors
            quadratic = self.equations.quadratic(solved.coefficients)
            quadratic = np.where(counted, quadratic, 0.0)
            floors = np.sqrt(self.moment_squares(quadratic, freedom, self.set_of))
            if (np.abs(floors - before) <= 1e-3 * floors).all():
                return before, solved
            solved = solve(floors)
            if not solved.moved:
                break
        return floors, solved

    def moment_squares(self, quadratic, target, label, known=0.0):
        """Return the squares of the floors of pairs by which their sums are as expected.

        By Newton's method for the inverse of the sum, which is concave in the
        floor's square: from zero it cannot go too far.

        Parameters
        ----------
        quadratic : `~numpy.ndarray`, shape (n,)
            Squared residuals in units of the pairs' own errors.
        target : `~numpy.ndarray`, shape (n_labels,)
            The expected weighted sums.
        label : `~numpy.ndarray` of int, shape (n,)
            The pairs that share a floor.
        known : float or `~numpy.ndarray`, shape (n,)
            Square of a floor that they have already.
        """
        own = self.equations.gram[:, 0, 0]
        quadratic, n = np.maximum(quadratic, 0), len(target)
        square = np.zeros(n)
        for _ in range(N_NEWTON):
            factor = 1 / (1 + ((square if n == 1 else square[label]) + known) * own)
            weighted = quadratic * factor
            value = _sums(label, weighted, n)
            factor *= own
            factor *= weighted
            slope = _sums(label, factor, n)
            more = (value > target) & (target > 0)
            step = np.zeros(n)
            step[more] = (value[more] / target[more] - 1) * value[more] / slope[more]
            square += step
            if (step <= 1e-10 * square).all():
                break
        return square


def _sums(label, values, n):
    """Sums of values of each of n labels."""
    return np.array([values.sum()]) if n == 1 else np.bincount(label, values, n)
