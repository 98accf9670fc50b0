# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Find pairs and images that are wrong, by what all others predict for them."""

import numpy as np

from levelmatch.solve.agreement import SIGNIFICANCE, Agreement
from levelmatch.solve.explanations import find_doubt
from levelmatch.solve.weights import LEAST_WEIGHT, MIN_LOOPS, Adapted, medians

__all__ = ["Rejection"]

# Wrong pairs are sought where a p-value is under this over the number of pairs or images, or
# where a pair lies so many times farther out than the farthest of normal errors.
SUSPICION = 0.2
SPREAD = 1.3
# Median of the absolute value of a normal variable of unit variance.
HALF_NORMAL = 0.6745
# At most this fraction of a set's pairs can be wrong, and in so many rounds they are sought. Of
# those taken away together none is much less than the largest.
MAX_REJECTED = 0.15
N_ROUNDS = 40
ALIKE = 0.5
# In larger sets all significant pairs are taken away at once, and hidden ones are sought only if
# the others do not scatter as normal errors do.
LARGE = 2000
# A pair is clearly wrong at this many times the critical value. Where more than this fraction of
# the rejected pairs (and more than one) is not, sizes go over into those of the others: they
# are the tail of the scatter.
CLEAR = 2.0
MAX_UNCLEAR = 0.2
# An image is wrong, not its pairs, if at least so many and half of them are rejected. At
# most this fraction of a set's images, or one, can be.
MIN_OF_IMAGE = 3
MAX_IMAGES = 0.1
# Steps to the scatter of wrong images' pairs.
N_SPOILT = 3


class Rejection:
    """Pairs that are wrong lose their weight; the floor comes from the others.

    In sets of at least 10 independent loops, by the generalised extreme studentised
    deviate test (Rosner 1983, Technometrics 25, 165; for regression Paul & Fung 1991,
    Technometrics 33, 339), which sees several wrong pairs although they hide one another:

    1. The pairs of largest studentised deleted residual are taken away, one or a few
       at a time, and the floor is estimated anew, up to 15 % of the pairs of the set.
    2. Those taken away up to the last significant one are wrong; those that the
       solution without them predicts within their errors are put back.
    3. An image of which most pairs would be rejected, or all scatter more than the
       others, keeps them, with a scatter of its own.
    4. If the others do not scatter as normal errors do, or if wrong and right ones differ by
       degree only, large differences belong to the scatter: no pair of the set is rejected.

    A residual is divided by its own standard deviation, which is less than that of the
    difference by the root of the redundancy (data snooping: Baarda 1968, A testing procedure
    for use in geodetic networks). The only link of two sets has none and is never rejected.
    Where another pair may be wrong in the place of a rejected one, the solution is the mean
    over the explanations, and their spread enters the errors.

    Parameters
    ----------
    floors : `~levelmatch.solve.floors.Floors`
        Estimates the floor of each set.
    """

    def __init__(self, floors):
        self.floors = floors
        self.equations = floors.equations
        self.set_of = floors.set_of

    def run(self, solve):
        """Return the floors, the robust weights and the solution.

        Parameters
        ----------
        solve : callable
            Returns the solution for floors, shape (n_sets,), and robust weights, shape (n,).
        """
        self.agreement = Agreement(self.floors, solve)
        fit = self.agreement.fit(self.floors.start(), np.ones(len(self.set_of), dtype=bool))
        loops = fit.freedom / self.equations.n_terms
        searched = self._suspicious(fit) & (loops >= MIN_LOOPS)
        if searched.any():
            fit = self._search(fit, searched)
        robust = self.agreement.robust(fit.floors, fit.counted, fit.extra)
        if fit.counted.all():
            return Adapted(fit.floors, robust, fit.solved)
        precision = self.floors.precision(fit.floors, fit.extra)
        doubt = find_doubt(self.equations, fit.solved, fit.left, precision, fit.counted)
        if doubt is not None:
            robust[doubt.rows] = np.clip(doubt.right, LEAST_WEIGHT, 1.0)
        return Adapted(fit.floors, robust, fit.solved, doubt)

    def _suspicious(self, fit):
        """Sets in which something stands out, or several pairs may hide one another, (n_sets,)."""
        _, p_value = self.agreement.excess(fit)
        number = np.maximum(self.agreement.number, 2)
        out = self.floors.sum(p_value * number[self.set_of] < SUSPICION) > 0
        sigmas = fit.tests.n_sigma
        found, median = medians(self.set_of, sigmas)
        typical = np.full(self.floors.n_sets, np.inf)
        typical[found] = median / HALF_NORMAL
        # The largest of normal errors is about the root of twice the logarithm of their number.
        far = SPREAD * np.sqrt(2 * np.log(number)) * typical
        out |= self.floors.sum(sigmas > far[self.set_of]) > 0
        out[self.floors.component[self._wrong_images(fit, SUSPICION)]] = True
        return out

    def _search(self, whole, searched):
        """Return the fit without the wrong pairs of some sets."""
        fit, number = whole, self.agreement.number
        budget = np.minimum(MAX_REJECTED * number, fit.freedom / (2 * self.equations.n_terms))
        budget = np.where(searched, np.floor(budget), 0).astype(int)
        batch, large = np.ceil(budget / N_ROUNDS).astype(int), number > LARGE
        taken, last = np.full(len(self.set_of), -1), np.full(self.floors.n_sets, -1)
        for turn in range(N_ROUNDS):
            excess, p_value = self.agreement.excess(fit)
            excess[~fit.counted | (budget[self.set_of] <= 0)] = 0.0
            significant = self.agreement.significant(p_value) & (excess > 0)
            n_found = self.floors.sum(significant).astype(int)
            if large.any():
                none = large & (n_found == 0) & (budget > 0)
                if none.any():
                    budget[none & ~self.agreement.not_normal(fit)] = 0
                    excess[(budget <= 0)[self.set_of]] = 0.0
                excess[(large & (n_found > 0))[self.set_of] & ~significant] = 0.0
            most = np.minimum(np.where(large, np.maximum(batch, n_found), batch), budget)
            rows = self._largest(excess, most, np.where(large, 0.0, ALIKE))
            if len(rows) == 0:
                break
            last[self.set_of[rows[significant[rows]]]] = turn
            taken[rows] = turn
            budget -= np.bincount(self.set_of[rows], minlength=len(budget))
            counted = fit.counted.copy()
            counted[rows] = False
            fit = self.agreement.fit(fit.floors, counted, n_steps=1 if large.any() else 3)
        wrong = (taken >= 0) & (taken <= last[self.set_of])
        fit, images = self._find_images(self._put_back(whole, wrong), searched)
        return self._keep_natural(whole, fit, images)

    def _largest(self, excess, batch, alike):
        """Rows of the largest values of each set, at most one of each image.

        ``batch`` is the number of rows of each set, and ``alike`` the fraction of the largest
        value that they have at least, shape (n_sets,).
        """
        largest = np.zeros(self.floors.n_sets)
        np.maximum.at(largest, self.set_of, excess)
        order = np.lexsort((-excess, self.set_of))
        order = order[((excess > 0) & (excess >= (alike * largest)[self.set_of]))[order]]
        left = batch.copy()
        busy = np.zeros(self.equations.n_groups, dtype=bool)
        rows = []
        for p in _head(order, self.set_of, 8 * batch):
            ends = [self.equations.first[p], self.equations.second[p]]
            if left[self.set_of[p]] > 0 and not busy[ends].any():
                rows.append(p)
                busy[ends] = True
                left[self.set_of[p]] -= 1
        return np.array(rows, dtype=int)

    def _put_back(self, whole, wrong):
        """Return the fit without wrong pairs, but with those that it predicts."""
        fit = whole
        while wrong.any():
            fit = self.agreement.fit(fit.floors, ~wrong)
            _, p_value = self.agreement.excess(fit)
            back = wrong & ~self.agreement.significant(p_value)
            if not back.any():
                return fit
            wrong = wrong & ~back
        return whole

    def _find_images(self, fit, searched):
        """Let the pairs of wrong images scatter more, in place of rejecting them.

        Returns
        -------
        fit : `~levelmatch.solve.agreement.Fit`
            With ``extra`` for their pairs, which all count.
        images : list of int
            The images.
        """
        images = self._mostly_rejected(~fit.counted)
        in_set = np.bincount(self.floors.component, minlength=self.floors.n_sets)
        most = np.maximum(MAX_IMAGES * in_set, 1)
        while True:
            if images:
                fit = self._fit_images(fit, images)
            new = self._wrong_images(fit, SIGNIFICANCE)
            of_set = self.floors.component[new]
            found = np.bincount(self.floors.component[images], minlength=len(most))
            new = new[searched[of_set] & (found[of_set] < most[of_set])].tolist()
            if not new:
                return fit, images
            images = images + new

    def _wrong_images(self, fit, level):
        """The worst image of each set, if it is worse than chance makes one of its images."""
        p_value = self.agreement.images(fit)
        component = self.floors.component
        number = np.bincount(component, minlength=self.floors.n_sets)
        order = np.lexsort((p_value, component))
        worst = order[np.unique(component[order], return_index=True)[1]]
        return worst[p_value[worst] * number[component[worst]] < level]

    def _mostly_rejected(self, wrong):
        """Images of which most pairs are wrong, the worst first."""
        degree, images = self.agreement.degree(np.ones(len(wrong), dtype=bool)), []
        single = wrong.copy()
        while True:
            bad = self.agreement.degree(single)
            bad[bad < np.maximum(MIN_OF_IMAGE, 0.5 * degree)] = 0
            worst = int(np.argmax(bad))
            if bad[worst] == 0:
                return images
            images.append(worst)
            single &= (self.equations.first != worst) & (self.equations.second != worst)

    def _fit_images(self, fit, images):
        """Return the fit in which the pairs of images have a scatter of their own."""
        n, own = self.equations.n_groups, self.equations.gram[:, 0, 0]
        label = np.full(len(own), n)
        for image in reversed(images):
            label[(self.equations.first == image) | (self.equations.second == image)] = image
        of_image = label < n
        # The image's coefficients are found from these pairs alone.
        target = np.bincount(label, np.where(of_image, self.equations.rank, 0)).astype(float)
        target[np.unique(label[of_image])] -= self.equations.n_terms
        counted, extra = fit.counted | of_image, np.where(of_image, 1 / own, 0.0)
        for _ in range(N_SPOILT):
            fit = self.agreement.fit(fit.floors, counted, extra)
            quadratic = self.equations.quadratic(fit.solved.coefficients)
            squares = self.floors.moment_squares(
                np.where(of_image, quadratic, 0.0),
                np.maximum(target, 0),
                label,
                np.square(fit.floors[self.set_of]),
            )
            extra = np.where(of_image, np.maximum(squares[label], 1e-3 / own), 0.0)
        return self.agreement.fit(fit.floors, counted, extra)

    def _keep_natural(self, whole, fit, images):
        """Return the fit, with all pairs of the sets that scatter widely by nature."""
        natural = self.agreement.not_normal(fit)
        natural |= self._unclear(fit, images)
        changed = ~fit.counted | (fit.extra > 0)
        if not changed.any():
            return whole
        changed &= natural[self.set_of]
        if not changed.any():
            return fit
        counted = fit.counted | changed
        extra = np.where(changed, 0.0, fit.extra)
        if counted.all() and not extra.any():
            return whole
        return self.agreement.fit(whole.floors, counted, extra)

    def _unclear(self, fit, images):
        """Sets in which too many of the wrong pairs differ by degree only, shape (n_sets,)."""
        wrong = ~fit.counted
        excess, _ = self.agreement.excess(fit)
        critical = self.agreement.critical(fit)
        unclear = self.floors.sum(wrong & (excess < CLEAR**2 * critical[self.set_of]))
        units = self.floors.sum(wrong)
        units += np.bincount(self.floors.component[images], minlength=len(units))
        return (unclear > 1) & (unclear > MAX_UNCLEAR * units)


def _head(order, set_of, most):
    """The first places of each set, of rows that are ordered by set."""
    if len(order) == 0:
        return order
    _, start, count = np.unique(set_of[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(start, count)
    return order[rank < most[set_of[order]]]
