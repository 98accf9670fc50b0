# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Robust weights and the systematic floor."""

import numpy as np
from scipy.special import gammaincinv

__all__ = ["N_REWEIGHT", "Reweighting"]

# Tuning constants for 95 % efficiency with normal errors.
HUBER = 1.345
TUKEY = 4.685
# A pair's weight is never less than this part of its own: what it links stays linked.
LEAST_WEIGHT = 1e-4
# Loops that it takes to tell which of the pairs is wrong.
MIN_LOOPS = 10
N_REWEIGHT = 50
# Steps to a floor; it takes some five.
N_NEWTON = 100
# Weights have settled if no more than this part of them still changes.
UNSETTLED = 1e-4


def _medians(labels, values):
    """Return the labels there are, and the median of the values of each."""
    if len(labels) > 0 and labels.min() == labels.max():
        return labels[:1], np.median(values, keepdims=True)
    order = np.lexsort((values, labels))
    labels, values = labels[order], values[order]
    found, start, count = np.unique(labels, return_index=True, return_counts=True)
    return found, 0.5 * (values[start + (count - 1) // 2] + values[start + count // 2])


class Reweighting:
    """The floor of each set, and the weight that each pair keeps, found together.

    The floor is such that the pairs agree as well as their errors say: the weighted sum of
    squares equals its expectation, the number of the pairs' coefficients less that of the
    groups'. That is the method of moments of random-effects models (Paule & Mandel 1982,
    J. Res. Natl. Bur. Stand. 87, 377). In sets of enough loops, pairs that disagree with
    the rest lose weight: by Huber's weights until these settle, then, where asked
    for, by Tukey's biweight (Huber & Ronchetti 2009, Robust Statistics, 2nd ed., ch. 7).
    """

    def __init__(self, equations, component, n_sets, free, fit_floor, kind):
        self.equations = equations
        self.n_sets = n_sets
        self.fit_floor = fit_floor
        self.kind = kind
        self.set_of = component[equations.first]
        k = equations.n_terms
        measured = k * np.bincount(self.set_of, minlength=n_sets)
        unknown = np.bincount(component, free.sum(axis=1), minlength=n_sets)
        self.freedom = np.maximum(measured - unknown, 0)
        # Mean part of a pair's squared residual that the fit leaves.
        self.left = np.divide(self.freedom, measured, out=np.ones(n_sets), where=measured > 0)
        self.many = (self.freedom / k >= MIN_LOOPS)[self.set_of]

    def run(self, floors, solve):
        """Return the floors, the robust weights and the factorised system."""
        robust = np.ones(len(self.set_of))
        factorised = solve(floors, robust)
        if not (
            (self.fit_floor or (self.kind is not None and self.many.any())) and self.freedom.any()
        ):
            return floors, robust, factorised
        if self.kind is None or not self.many.any():
            return self._iterate(floors, robust, factorised, solve, None)
        floors, robust, factorised = self._iterate(floors, robust, factorised, solve, "huber")
        if self.kind == "tukey":
            floors, robust, factorised = self._iterate(floors, robust, factorised, solve, "tukey")
        if self.kind == "tukey" and self.fit_floor:
            floors = self._floors(self.equations.quadratic(factorised.coefficients), robust)
            factorised = solve(floors, robust)
        return floors, robust, factorised

    def _iterate(self, floors, robust, factorised, solve, kind):
        """Alternate floors, weights and solution until they settle."""
        for _ in range(N_REWEIGHT):
            before = floors, robust
            quadratic = self.equations.quadratic(factorised.coefficients)
            if self.fit_floor and kind != "tukey":
                floors = self._floors(quadratic, robust)
            if self.fit_floor and kind == "huber":
                # An outlier's pull on a sum of squares has no end; on the median it has.
                floors = self._median_floors(quadratic, floors)
            if kind is not None:
                robust = self._weights(quadratic, floors, kind)
            factorised = solve(floors, robust)
            if self._settled(before, floors, robust) or not factorised.moved:
                break
        return floors, robust, factorised

    def _settled(self, before, floors, robust):
        same = np.abs(floors - before[0]) <= 1e-3 * floors
        changed = np.abs(robust - before[1]) >= 1e-3
        return same.all() and np.count_nonzero(changed) <= UNSETTLED * len(robust)

    def _floors(self, quadratic, robust):
        """Floor of each set, the residuals and robust weights being given.

        By Newton's method for the inverse of the weighted sum of squares, which is concave in
        the floor's square: from zero it cannot go too far.
        """
        own = self.equations.gram[:, 0, 0]
        counted = np.where(self.many, robust > LEAST_WEIGHT, True) * np.maximum(quadratic, 0)
        number = self._sum(np.where(self.many, robust > LEAST_WEIGHT, True))
        target = self.freedom * number / np.maximum(self._sum(np.ones(len(own))), 1)
        square = np.zeros(self.n_sets)
        for _ in range(N_NEWTON):
            factor = 1 / (1 + square[self.set_of] * own)
            value = self._sum(counted * factor)
            slope = self._sum(counted * np.square(factor) * own)
            more = (value > target) & (target > 0)
            step = np.zeros(self.n_sets)
            step[more] = (value[more] / target[more] - 1) * value[more] / slope[more]
            square += step
            if (step <= 1e-12 * square).all():
                break
        return np.sqrt(square)

    def _sum(self, values):
        """Sum over the pairs of each set."""
        return np.bincount(self.set_of, values, minlength=self.n_sets)

    def _median_floors(self, quadratic, floors):
        """Floors of the sets of many loops such that the median residual is as expected."""
        own = self.equations.gram[:, 0, 0]
        rows = np.flatnonzero(self.many)
        sets = self.set_of[rows]
        target = 2 * gammaincinv(self.equations.n_terms / 2, 0.5) * self.left[sets]
        # The floor's square that each pair by itself asks for: half ask for more.
        square = (quadratic[rows] / target - 1) / own[rows]
        floors = floors.copy()
        found, median = _medians(sets, square)
        floors[found] = np.sqrt(np.maximum(median, 0))
        return floors

    def _z(self, quadratic, floors):
        own = self.equations.gram[:, 0, 0]
        factor = 1 / (1 + np.square(floors[self.set_of]) * own)
        expected = self.equations.n_terms * np.maximum(self.left[self.set_of], 0.05)
        return np.sqrt(factor * np.maximum(quadratic, 0) / expected)

    def _weights(self, quadratic, floors, kind):
        z = self._z(quadratic, floors)
        if kind == "huber":
            weight = HUBER / np.maximum(z, HUBER)
        else:
            weight = np.square(np.maximum(1 - np.square(z / TUKEY), 0))
        return np.where(self.many, np.maximum(weight, LEAST_WEIGHT), 1.0)

    def n_sigma(self, floors, factorised):
        """What is left of each pair over its expected error."""
        return self._z(self.equations.quadratic(factorised.coefficients), floors)
