# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Rejection of wrong pairs and images, by the prediction of all others."""

import numpy as np

from levelmatch.solve.alternatives import find_ambiguity
from levelmatch.solve.floors import LARGE
from levelmatch.solve.outlier_tests import SIGNIFICANCE, SUSPICION, Agreement
from levelmatch.solve.solver import Solver
from levelmatch.solve.weights import LEAST_WEIGHT, MIN_LOOPS, RobustFit, medians

__all__ = ["Rejection"]

# A set is searched if a pair exceeds the largest of normal errors by this factor.
SPREAD = 1.3
# Median of the absolute value of a normal variable of unit variance.
HALF_NORMAL = 0.6745
# Largest fraction of a set's pairs that may be rejected.
MAX_REJECTED = 0.15
# Largest number of rounds of rejection.
N_ROUNDS = 40
# Pairs that are removed in one round have at least this fraction of the largest excess.
ALIKE = 0.5
# A pair is clearly wrong at this multiple of the critical value.
CLEAR = 2.0
# If more than this fraction of the rejected pairs (and more than one) is not clearly wrong, they
# are the tail of the scatter, and none is rejected.
MAX_UNCLEAR = 0.2
# An image is wrong if at least this many of its pairs, and half of them, are rejected.
MIN_OF_IMAGE = 3
# Largest fraction of a set's images that may be wrong; one may be in any set.
MAX_IMAGES = 0.1
# Iterations of the scatter of a wrong image's pairs.
N_SPOILT = 3


class Rejection(Agreement):
    """Reject wrong pairs, and estimate the floor from the others.

    In sets of at least 10 independent loops, by the generalised extreme studentised
    deviate test (Rosner 1983, Technometrics 25, 165; for regression Paul & Fung 1991,
    Technometrics 33, 339). It finds several wrong pairs, although one can hide another:

    1. Remove the pairs of largest studentised deleted residual, one or a few at a time, and
       estimate the floor again. Stop at 15 % of the pairs of the set. A set of more than 2000
       pairs starts without those that are far off, and loses all significant ones at once. Its
       search goes on only if the others are not normally distributed, with long tails.
    2. All pairs that were removed up to the last significant one are wrong. Put back those
       that the solution without them predicts within their errors.
    3. An image is wrong if most of its pairs would be rejected, or if they scatter more than the
       others. It keeps its pairs, with an extra variance.
    4. Reject no pair of a set whose remaining pairs are not normally distributed, or whose
       wrong pairs are not clearly apart from the right ones: large differences are part of
       its scatter.

    Each residual is divided by its own standard deviation: that of the difference times the
    root of the redundancy (data snooping: Baarda 1968, A testing procedure for use in geodetic
    networks). The only link of two sets has no redundancy and is never rejected. If another
    pair may be wrong in place of a rejected one, the solution is the mean over the
    explanations, and their spread enters the errors.

    Parameters
    ----------
    floors : `~levelmatch.solve.floors.Floors`
        Estimates the floor of each set.
    solver : `~levelmatch.solve.solver.Solver`
        Solves the equations of the pairs.
    """

    def run(self):
        """Return the floors, the robust weights and the solution."""
        far = self.floors.sum(self.floors.far) > 0
        # A search, which settles the floors, follows for sets with pairs that are far off.
        steps = {"n_steps": 1} if far.all() else {}
        fit = self.fit(self.floors.start, ~self.floors.far, **steps)
        loops = fit.freedom / self.equations.n_terms
        searched = self._suspicious(fit) & (loops >= MIN_LOOPS)
        searched |= far
        if searched.any():
            fit = self._search(fit) if searched.all() else self._search_some(fit, searched)
        robust = self.robust(fit.floors, fit.counted, fit.extra)
        if fit.counted.all():
            return RobustFit(fit.floors, robust, fit.solved)
        precision = self.floors.precision(fit.floors, fit.extra)
        doubt = find_ambiguity(fit.solved, fit.left, precision, fit.counted)
        if doubt is not None:
            robust[doubt.rows] = np.clip(doubt.right, LEAST_WEIGHT, 1.0)
        return RobustFit(fit.floors, robust, fit.solved, doubt)

    def _suspicious(self, fit):
        """Return flags of sets that may have wrong pairs or images, shape (n_sets,)."""
        _, p_value = self.excess(fit)
        number = np.maximum(self.number, 2)
        out = self.floors.sum(p_value * number[self.set_of] < SUSPICION) > 0
        sigmas = np.sqrt(fit.distance / np.maximum(fit.terms, 1))
        found, median = medians(self.set_of, sigmas)
        typical = np.full(self.floors.n_sets, np.inf)
        typical[found] = median / HALF_NORMAL
        # The largest of n normal errors is about sqrt(2 log n).
        far = SPREAD * np.sqrt(2 * np.log(number)) * typical
        out |= self.floors.sum(sigmas > far[self.set_of]) > 0
        out[self.floors.component[self._wrong_images(fit, SUSPICION)]] = True
        return out

    def _fit_all(self, first, fit):
        """Return the fit to all pairs, given the first and the last fit."""
        if first.counted.all():
            return first
        counted = np.ones(len(self.set_of), dtype=bool)
        floors = self.floors.shown(fit.solved, counted, self.floors.freedom(counted))
        return self.fit(floors, counted)

    def _search_some(self, first, searched):
        """Return the fit without the wrong pairs of some sets, which are searched on their own."""
        floors, rows = self.floors.part(searched)
        prior = self.solver.prior
        alone = Rejection(floors, Solver(floors.equations, floors.free, prior))
        found = alone._search(first.part(rows, searched))
        if found.solved is None:
            return first
        values, counted, extra = first.floors.copy(), first.counted.copy(), first.extra.copy()
        values[searched], counted[rows], extra[rows] = found.floors, found.counted, found.extra
        return self.fit(values, counted, extra)

    def _search(self, first):
        """Return the fit without the wrong pairs, given the first fit."""
        fit, number, far = first, self.number, ~first.counted
        budget = np.minimum(MAX_REJECTED * number, fit.freedom / (2 * self.equations.n_terms))
        budget = np.floor(budget).astype(int)
        batch, large = np.ceil(budget / N_ROUNDS).astype(int), number > LARGE
        taken, last = np.where(far, 0, -1).astype(np.int8), np.full(self.floors.n_sets, -1)
        last[self.set_of[far]] = 0
        budget -= np.minimum(self.floors.sum(far).astype(int), budget)
        n_steps = 1 if large.any() else 3
        for turn in range(1, N_ROUNDS + 1):
            rows, significant = self._next(fit, budget, batch, large)
            if len(rows) == 0:
                break
            last[self.set_of[rows[significant]]] = turn
            taken[rows] = turn
            budget -= np.bincount(self.set_of[rows], minlength=len(budget))
            counted = fit.counted.copy()
            counted[rows] = False
            # One fit of many pairs at a time is in memory.
            floors, fit = fit.floors, None
            fit = self.fit(floors, counted, n_steps=n_steps)
        wrong = (taken >= 0) & (taken <= last[self.set_of])
        floors, fit = fit.floors, None
        fit, images = self._find_images(self._put_back(first, floors, wrong))
        return self._keep_natural(first, fit, images)

    def _next(self, fit, budget, batch, large):
        """Return the rows to remove next, and whether each is significant.

        Large sets without significant rows, and without reason to go on, lose their budget.
        """
        excess, p_value = self.excess(fit)
        excess[~fit.counted | (budget[self.set_of] <= 0)] = 0.0
        significant = self.significant(p_value) & (excess > 0)
        n_found = self.floors.sum(significant).astype(int)
        if large.any():
            none = large & (n_found == 0) & (budget > 0)
            if none.any():
                budget[none & ~self.not_normal(fit)[1]] = 0
                excess[(budget <= 0)[self.set_of]] = 0.0
            excess[(large & (n_found > 0))[self.set_of] & ~significant] = 0.0
        most = np.minimum(np.where(large, np.maximum(batch, n_found), batch), budget)
        rows = self._largest(excess, most, np.where(large, 0.0, ALIKE))
        return rows, significant[rows]

    def _largest(self, excess, batch, alike):
        """Return the rows of the largest values of each set, at most one per image.

        ``batch`` is the largest number of rows of each set. Their values are at least the
        fraction ``alike`` of the largest. Both have shape (n_sets,).
        """
        largest = np.zeros(self.floors.n_sets)
        np.maximum.at(largest, self.set_of, excess)
        found = np.flatnonzero((excess > 0) & (excess >= (alike * largest)[self.set_of]))
        most = 8 * int(batch.sum())
        if self.floors.n_sets == 1 and 0 < most < len(found):
            found = found[excess[found] >= np.partition(excess[found], -most)[-most]]
        order = found[np.lexsort((-excess[found], self.set_of[found]))]
        order = _head(order, self.set_of, 8 * batch)
        labels = self.set_of, self.equations.first, self.equations.second
        columns = [order, *(label[order] for label in labels)]
        left, busy, rows = batch.tolist(), set(), []
        for row, of_set, *ends in zip(*(column.tolist() for column in columns), strict=True):
            if left[of_set] > 0 and busy.isdisjoint(ends):
                rows.append(row)
                busy.update(ends)
                left[of_set] -= 1
        return np.array(rows, dtype=int)

    def _put_back(self, first, floors, wrong):
        """Return the fit without the wrong pairs; put back pairs that it predicts."""
        fit = first
        while wrong.any():
            fit = None
            fit = self.fit(floors, ~wrong)
            floors = fit.floors
            _, p_value = self.excess(fit)
            back = wrong & ~self.significant(p_value)
            if not back.any():
                return fit
            wrong = wrong & ~back
        return self._fit_all(first, fit)

    def _find_images(self, fit):
        """Give the pairs of wrong images an extra variance, in place of rejecting them.

        Returns
        -------
        fit : `~levelmatch.solve.outlier_tests.Fit`
            All pairs of these images count, with ``extra``.
        images : list of int
            The images.
        """
        images = self._mostly_rejected(~fit.counted)
        in_set = np.bincount(self.floors.component, minlength=self.floors.n_sets)
        most = np.maximum(np.ceil(MAX_IMAGES * in_set), 1)
        while True:
            if images:
                fit = self._fit_images(fit, images)
            new = self._wrong_images(fit, SIGNIFICANCE)
            found = np.bincount(self.floors.component[images], minlength=len(most))
            new = _head(new, self.floors.component, most - found).tolist()
            if not new:
                return fit, images
            images = images + new

    def _wrong_images(self, fit, level):
        """Return the worst images of each set that are significant among its images, by sets.

        One of each set; of large sets all that have no worse neighbour, since the pairs of a wrong
        image count for its neighbours, too.
        """
        p_value = self.images(fit)
        component = self.floors.component
        number = np.bincount(component, minlength=self.floors.n_sets)
        found = np.flatnonzero(p_value * number[component] < level)
        order = found[np.lexsort((p_value[found], component[found]))]
        rank = np.full(len(p_value), len(order))
        rank[order] = np.arange(len(order))
        first, second = rank[self.equations.first], rank[self.equations.second]
        worse = np.full(len(order) + 1, len(order))
        np.minimum.at(worse, first, second)
        np.minimum.at(worse, second, first)
        alone = order[worse[: len(order)] > np.arange(len(order))]
        large = self.number > LARGE
        return _head(alone, component, np.where(large, number, 1))

    def _mostly_rejected(self, wrong):
        """Return the images whose pairs are mostly wrong, the worst first."""
        degree, images = self.degree(np.ones(len(wrong), dtype=bool)), []
        single, component = wrong.copy(), self.floors.component
        while True:
            bad = self.degree(single)
            bad[bad < np.maximum(MIN_OF_IMAGE, 0.5 * degree)] = 0
            found = np.flatnonzero(bad)
            if len(found) == 0:
                return images
            # The worst image of each set at once.
            found = found[np.lexsort((-bad[found], component[found]))]
            worst = found[np.unique(component[found], return_index=True)[1]]
            images += worst.tolist()
            taken = np.isin(np.arange(len(bad)), worst)
            single &= ~(taken[self.equations.first] | taken[self.equations.second])

    def _fit_images(self, fit, images):
        """Return the fit in which the pairs of each of these images have an extra variance.

        The variance is a moment estimate, in `N_SPOILT` iterations. All of the pairs count.
        """
        n, own = self.equations.n_groups, self.equations.gram[:, 0, 0]
        # The images by their order, of which the first of two takes their pair.
        place = np.full(n, len(images))
        place[images] = np.arange(len(images))
        first = np.minimum(place[self.equations.first], place[self.equations.second])
        label = np.append(images, n)[first]
        of_image = label < n
        # These pairs alone determine the image's coefficients.
        target = np.bincount(label, np.where(of_image, self.equations.rank, 0)).astype(float)
        target[np.unique(label[of_image])] -= self.equations.n_terms
        counted, extra = fit.counted | of_image, np.where(of_image, 1 / own, 0.0)
        for _ in range(N_SPOILT):
            fit = self.fit(fit.floors, counted, extra)
            quadratic = self.equations.quadratic(fit.solved.coefficients)
            squares = self.floors.moment_squares(
                np.where(of_image, quadratic, 0.0),
                np.maximum(target, 0),
                label,
                np.square(fit.floors[self.set_of]),
            )
            extra = np.where(of_image, np.maximum(squares[label], 1e-3 / own), 0.0)
        return self.fit(fit.floors, counted, extra)

    def _keep_natural(self, first, fit, images):
        """Return the fit; put back all pairs of sets whose scatter has large differences."""
        natural = self.not_normal(fit)[0] | self._unclear(fit, images)
        changed = ~fit.counted | (fit.extra > 0)
        if not changed.any():
            return fit
        changed &= natural[self.set_of]
        if not changed.any():
            return fit
        counted = fit.counted | changed
        extra = np.where(changed, 0.0, fit.extra)
        if counted.all() and not extra.any():
            return self._fit_all(first, fit)
        return self.fit(first.floors, counted, extra)

    def _unclear(self, fit, images):
        """Return flags of sets with too many wrong pairs that are not clearly wrong, (n_sets,)."""
        wrong = ~fit.counted
        excess, _ = self.excess(fit)
        critical = self.critical(fit)
        unclear = self.floors.sum(wrong & (excess < CLEAR**2 * critical[self.set_of]))
        units = self.floors.sum(wrong)
        units += np.bincount(self.floors.component[images], minlength=len(units))
        return (unclear > 1) & (unclear > MAX_UNCLEAR * units)


def _head(order, set_of, most):
    """Return the first ``most`` rows of each set, of rows that are ordered by set."""
    if len(order) == 0:
        return order
    _, start, count = np.unique(set_of[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(start, count)
    return order[rank < most[set_of[order]]]
