# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve the normal equations for one set of weights after another."""

from functools import cached_property

import numpy as np

from levelmatch.exceptions import ConvergenceError
from levelmatch.solve._pairs import links_in_series
from levelmatch.solve.linear import LEAST_PIVOT, Factors, conjugate_gradients

__all__ = ["Solver", "WeightedSolution"]

# Largest number of steps of iterative refinement, and the size of the last step as a fraction of
# the solution.
N_REFINE = 2
REFINED = 1e-8
# From this number of groups on, factors are reused for other weights, if at most a fraction of the
# weights differs by more than a factor, and if this number of steps suffices.
MIN_BORROWED = 2000
MAX_CHANGE = 3.0
FEW = 0.01
MAX_STEPS = 10
# Largest number of elements of the design matrix of a dense system.
MOST_DENSE = 2**13
# At least so many weights determine their common factor.
N_MEDIAN = 100_000
# Number of steps of a rough solution, which needs no factors; relative residual at which it ends.
N_ROUGH = 30
LEFT_ROUGH = 1e-3
# Residual of an intermediate solution as a fraction of the residual from which it starts. Relative
# residual at which the final solution aims, and which it guarantees.
ROUGH = 1e-2
TOLERANCE = 1e-10
PROMISED = 1e-8


class Solver:
    """Solver of the equations for successive sets of weights."""

    def __init__(self, equations, free, prior):
        self.equations = equations
        self.free = free
        self.prior = prior
        self._last = None

    def solve(self, factor):
        """Return the solution for factors on the pairs' normal matrices, shape (n,).

        In a large system, the factors for other weights are reused. The solution starts from the
        last one and is approximate; `finish` completes it.
        """
        solved = WeightedSolution(self.equations, factor, self.free, self.prior)
        last, self._last = self._last, solved
        if last is not None and self.equations.n_groups >= MIN_BORROWED:
            solved.known = last.last_known()
            solved.start(last.coefficients)
            lender = last.lender or last
            if lender.ready and solved.near(lender, MAX_CHANGE):
                solved.lender = lender
                if solved.iterate(max(ROUGH * solved.residual, TOLERANCE)):
                    return solved
            lender.forget()
            solved.lender = None
        solved.refine()
        return solved

    def solve_dense(self, factors):
        """Solve a small system for several sets of weights at once, as dense matrices.

        Parameters
        ----------
        factors : `~numpy.ndarray`, shape (f, n)
            Factors on the pairs' normal matrices.

        Returns
        -------
        quadratic, left : `~numpy.ndarray`, shape (f, n)
            Contribution of each pair to the objective for unit weight, and its redundancy.

            `None` in place of both for a large or singular system.
        """
        n, k = self.equations.rhs.shape
        if n * k * self.free.size > MOST_DENSE:
            return None
        design, measured = self._dense_design()
        weights = np.repeat(factors, k, axis=1)
        normal = design.T @ (weights[:, :, None] * design)
        diagonal = np.einsum("fii->fi", normal)
        if self.prior is not None:
            diagonal += (self.free * (np.arange(k) > 0) / self.prior**2).ravel()
        scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        normal *= scale[:, :, None] * scale[:, None, :]
        diagonal[diagonal <= 0] = 1.0
        try:
            pivots = np.einsum("fii->fi", np.linalg.cholesky(normal)) ** 2
        except np.linalg.LinAlgError:
            return None
        if pivots.min() < LEAST_PIVOT:
            return None
        inverse = np.linalg.inv(normal) * (scale[:, :, None] * scale[:, None, :])
        solution = inverse @ ((weights * measured) @ design)[:, :, None]
        quadratic = np.square(measured - (design @ solution)[:, :, 0]).reshape(-1, n, k)
        hat = weights * np.einsum("fri,ri->fr", design @ inverse, design)
        return quadratic.sum(axis=2), k - hat.reshape(-1, n, k).sum(axis=2)

    def _dense_design(self):
        """Return the design matrix and the measured values of the pairs, in their errors."""
        equations = self.equations
        n, k = equations.rhs.shape
        one, two = equations.root @ equations.transfer
        design = np.zeros((n, k, equations.n_groups, k))
        design[np.arange(n), :, equations.first] += one
        design[np.arange(n), :, equations.second] -= two
        measured = np.einsum("pij,pj->pi", equations.root, equations.measured)
        return (design * self.free).reshape(n * k, -1), measured.ravel()

    def rough(self, factor):
        """Return a rough solution for some factors, or `None` for few groups.

        It needs no factors of the matrix: the residuals of most pairs settle in a few steps.
        """
        if self.equations.n_groups < MIN_BORROWED:
            return None
        solved = WeightedSolution(self.equations, factor, self.free, self.prior)
        solved.relax(N_ROUGH)
        return solved

    def finish(self, solved):
        """Return the solution with the guaranteed accuracy.

        Raises
        ------
        ConvergenceError
            If a large system does not reach the guaranteed accuracy.
        """
        if solved.rough:
            if not (solved.can_iterate and solved.iterate(TOLERANCE)):
                solved.refine()
            if solved.residual > PROMISED:
                msg = (
                    f"{len(self.equations.first)} pairs of {self.equations.n_groups} groups: "
                    f"the solution leaves {solved.residual:.1e} of the right-hand side, over "
                    f"{PROMISED:g}"
                )
                raise ConvergenceError(msg)
        return solved


class WeightedSolution:
    """Solution of the normal equations for one set of weights.

    The matrix is scaled to a unit diagonal. Coefficients that are not free are decoupled and stay
    zero.
    """

    def __init__(self, equations, factor, free, prior):
        self.equations = equations
        self.factor = factor
        self.prior = prior
        # Solutions whose factors and whose covariances are reused here; `None` to use its own.
        self.lender = self.known = None
        self.moved = self.rough = False
        self._matrix = self._factors = self._covariances = self._hat = None
        diagonal = equations.diagonal(factor, prior)
        self.scale = free / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        self.start(np.zeros(free.shape))
        self._norm = np.linalg.norm(self.left())

    def start(self, coefficients):
        """Set the coefficients from which the solution starts."""
        self.coefficients, self._left = coefficients.copy(), None

    @property
    def residual(self):
        """Norm of the residual of the scaled equations over the norm of their right-hand side."""
        return float(np.linalg.norm(self.left()) / self._norm) if self._norm > 0 else 0.0

    @property
    def matrix(self):
        """The scaled matrix; only as long as it is needed in memory."""
        if self._matrix is None:
            self._matrix = self.equations.assemble(self.factor, self.prior, self.scale)
        return self._matrix

    @property
    def factors(self):
        """Factors of the scaled matrix."""
        if self._factors is None:
            if self.lender is not None:
                # Free the factors for other weights first, because both need twice the memory.
                self.lender.forget()
                self.lender = None
            self._factors = Factors(self.matrix, self.equations.dissection)
            self._matrix = None
        return self._factors

    @property
    def ready(self):
        """True while the factors are in memory."""
        return self._factors is not None

    @property
    def can_iterate(self):
        """True while its own factors or the reused factors are in memory."""
        return (self.lender or self).ready

    @property
    def inverted(self):
        """True if its covariances are known."""
        return self._covariances is not None

    def last_known(self):
        """Return the latest solution whose covariances are known, or `None`."""
        others = (self, self.lender, self.known)
        return next((s for s in others if s is not None and s.inverted), None)

    def served_by(self):
        """Return solutions for other weights whose covariances need no factorisation."""
        lender = self.lender if self.lender is not None and self.lender.ready else None
        return [other for other in (self.known, lender) if other is not None]

    def forget(self):
        """Free the memory of the factors."""
        self._factors = None

    def near(self, other, change):
        """Return whether only a few weights differ much from the weights of another solution.

        A factor common to all weights is ignored.
        """
        ratio = self.factor / other.factor
        # Some weights determine the factor well enough.
        ratio /= np.median(ratio[:: max(len(ratio) // N_MEDIAN, 1)])
        far = (ratio > change) | (ratio < 1 / change)
        return np.count_nonzero(far) <= FEW * len(ratio)

    def left(self):
        """Return the residual of the scaled normal equations, shape (m, k)."""
        if self._left is None:
            gradient = self.equations.gradient(self.factor, self.coefficients, self.prior)
            self._left = self.scale * gradient
        return self._left

    def refine(self):
        """Solve the equations by their own factors."""
        self.rough = False
        # The matrix of a long chain is ill-conditioned; the residuals of its pairs are accurate.
        size = 0.0
        for _ in range(N_REFINE + 1):
            step = self.factors.solve(self.left().ravel())
            self._add(step)
            size = max(size, np.linalg.norm(step))
            if np.linalg.norm(step) < REFINED * size:
                break

    def relax(self, n_steps):
        """Take steps of conjugate gradients towards the solution."""
        left = self.left().ravel()
        step, _ = conjugate_gradients(
            self.matrix, np.array, left, tolerance=LEFT_ROUGH * self._norm, most=n_steps
        )
        self._add(step)

    def iterate(self, tolerance):
        """Iterate with reused factors; return whether the residual is below a tolerance."""
        lender, self.rough = self.lender or self, tolerance > TOLERANCE
        # Each of the two systems is scaled by its own diagonal.
        ones = np.ones_like(self.scale)
        turn = np.divide(lender.scale, self.scale, out=ones, where=self.scale > 0).ravel()
        n_steps = MAX_STEPS
        while self.residual > tolerance and n_steps > 0:
            step, used = conjugate_gradients(
                self.matrix,
                lambda values: turn * lender.factors.solve(turn * values),
                self.left().ravel(),
                tolerance=0.5 * tolerance * self._norm,
                most=n_steps,
            )
            self._add(step)
            n_steps -= used
        done = self.residual <= tolerance
        if done:
            self._matrix = None
        return done

    def _add(self, step):
        self.moved = True
        self.start(self.coefficients + self.scale * step.reshape(self.scale.shape))

    def covariance_blocks(self):
        """Return the covariance of each group's coefficients, shape (m, k, k)."""
        self._invert()
        return self._covariances

    @property
    def hat(self):
        """Each pair's block of the hat matrix, in units of its errors, shape (n, k, k)."""
        self._invert()
        return self._hat

    def _invert(self):
        """Take the blocks of the groups and the pairs from the inverse of the matrix."""
        if self.inverted:
            return
        equations, scale = self.equations, self.scale
        own, across = self.factors.blocks()
        across = equations.of_pairs(across)
        own *= scale[:, :, None] * scale[:, None, :]
        across *= scale.take(equations.first, axis=0)[:, :, None]
        across *= scale.take(equations.second, axis=0)[:, None, :]
        hat = equations.leverages(self.factor, own, across)
        self._covariances, self._hat, self.known = own, hat, None

    @cached_property
    def around(self):
        """See `links_around`; those of factors that serve others are kept."""
        return self.links_around()

    def links_around(self):
        """Return the weight of the links around each pair's images, in series, shape (n,)."""
        equations = self.equations
        own, n = equations.gram[:, 0, 0], equations.n_groups
        return links_in_series(equations.first, equations.second, own, self.factor, n)
