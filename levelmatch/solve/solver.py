# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve the normal equations for one set of weights after another."""

from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix

from levelmatch.exceptions import ConvergenceError
from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve import linear

__all__ = [
    "Solver",
]

# Steps of iterative refinement of a factorised system.
N_REFINE = 2
# Systems of at least so many groups are solved by iterations, if factors are dear.
MIN_ITERATIVE = 2000
# A multigrid serves other weights as long as few of them change by more than this factor:
# a pair that lost its weight is only one of its images' many.
MAX_CHANGE = 3.0
FEW = 0.01
# What may be left of the right-hand side: of the solution, of those between which pairs are
# weighted again, and of the covariance's columns; the first is promised to be under the fourth.
TOLERANCE = 1e-10
ROUGH_TOLERANCE = 1e-6
PROMISED = 1e-8
INVERSE_TOLERANCE = 1e-8


class Solver:
    """Solves the equations for one set of weights after another."""

    def __init__(self, equations, free, prior):
        self.equations = equations
        self.free = free
        self.prior = prior
        self._built = self._last = None

    @cached_property
    def work(self):
        """A bound on the operations of factors: see `~levelmatch.solve.linear.direct_work`."""
        n = self.equations.n_groups
        _, _, _, column, start = self.equations._pattern
        graph = csr_matrix((np.ones(len(column), dtype=np.int8), column, start), shape=(n, n))
        return linear.direct_work(graph, self.equations.n_terms)

    @cached_property
    def iterative(self):
        """Return whether iterations take less time than factors."""
        return self.equations.n_groups >= MIN_ITERATIVE and self.work > linear.MAX_WORK

    def solve(self, factor):
        """Return the solution for factors on the pairs' normal matrices, shape (n,).

        One by iterations starts from the last, and is rough: `finish` ends it.
        """
        solved = Solved(self.equations, factor, self.free, self.prior)
        if not self.iterative:
            solved.system = linear.Direct(solved.matrix)
            # Long chains are badly conditioned, the pairs' own residuals are not.
            for _ in range(N_REFINE + 1):
                solved.add(solved.left())
            solved.left()
            return solved
        if self._last is not None:
            solved.coefficients = self._last.coefficients.copy()
            solved.moved = False
        self._build(solved, like=self._near(factor))
        most = linear.MAX_STEPS
        if solved.system.borrowed:
            most = max(linear.MAX_BORROWED, 2 * solved.system.own_steps)
        solved.reach(ROUGH_TOLERANCE, most)
        if solved.residual > ROUGH_TOLERANCE and solved.system.borrowed:
            self._build(solved)
            solved.reach(ROUGH_TOLERANCE)
        self._last = solved
        return solved

    def _build(self, solved, like=None):
        """Make the system ready, by what served another one or by something of its own."""
        solved.system = linear.Iterative(
            solved.matrix,
            self._modes(solved),
            self.equations.group_axes[:, 0],
            work=self.work,
            like=like,
        )
        if like is None:
            self._built = solved.factor, solved.system

    def _near(self, factor):
        """Return the last system built from weights that these are near to, or None."""
        if self._built is not None:
            ratio = factor / self._built[0]
            changed = (ratio > MAX_CHANGE) | (ratio < 1 / MAX_CHANGE)
            if np.count_nonzero(changed) <= FEW * len(ratio):
                return self._built[1]
        return None

    def _modes(self, solved):
        """Return the changes of the scaled coefficients that no overlap sees, shape (m, k, k)."""
        if self.equations.n_terms == 1:
            modes = np.ones((self.equations.n_groups, 1, 1))
        else:
            modes = transfer_matrix(np.eye(3), self.equations.group_axes)
        scale = solved.scale[:, :, None]
        return np.divide(modes, scale, out=np.zeros_like(modes), where=scale > 0)

    def finish(self, solved):
        """Return the solution, as exact as is promised.

        Raises
        ------
        ConvergenceError
            If iterations do not get there.
        """
        if self.iterative:
            solved.reach(TOLERANCE)
            if solved.residual > PROMISED and solved.system.borrowed:
                self._build(solved)
                solved.reach(TOLERANCE)
            if solved.residual > PROMISED:
                msg = (
                    f"{len(self.equations.first)} pairs of {self.equations.n_groups} groups: "
                    f"iterations leave {solved.residual:.1e} of the right-hand side, over "
                    f"{PROMISED:g}"
                )
                raise ConvergenceError(msg)
        return solved


class Solved:
    """The normal equations for one set of weights, scaled to a diagonal of ones, and solved.

    Coefficients that are not free have a row and a column of their own, and stay zero.
    """

    def __init__(self, equations, factor, free, prior):
        self.equations = equations
        self.factor = factor
        self.prior = prior
        self.system = None
        self.moved = True
        self.coefficients = np.zeros(free.shape)
        self.matrix = equations.assemble(factor, prior)
        _, _, row, column, _ = equations._pattern
        diagonal = self.matrix.diagonal().reshape(free.shape)
        self.scale = free / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        blocks = self.matrix.data.reshape(-1, free.shape[1], free.shape[1])
        blocks *= self.scale[row][:, :, None] * self.scale[column][:, None, :]
        own = np.flatnonzero(row == column)
        for c in range(free.shape[1]):
            held = ~free[:, c] | (diagonal[:, c] <= 0)
            blocks[own[held], c, c] = 1.0
        self._norm = np.linalg.norm(self.scale * equations.gradient(factor, self.coefficients))
        self.residual = 1.0 if self._norm > 0 else 0.0

    def left(self):
        """Return the residual of the scaled normal equations, shape (m, k)."""
        left = self.scale * self.equations.gradient(self.factor, self.coefficients, self.prior)
        self.residual = float(np.linalg.norm(left) / self._norm) if self._norm > 0 else 0.0
        return left

    def add(self, left, **limits):
        """Add the solution of the scaled equations for a right-hand side."""
        self.moved = True
        step = self.system.solve(left.ravel(), **limits)
        self.coefficients += self.scale * step.reshape(self.scale.shape)

    def inverse(self, columns, tolerance=INVERSE_TOLERANCE):
        """Return the inverse of the scaled matrix times columns, shape (m * k, n)."""
        if not self.system.iterative:
            return self.system.solve(columns)
        return np.stack(
            [
                self.system.solve(v, tolerance=tolerance * max(np.linalg.norm(v), 1e-300))
                for v in columns.T
            ],
            axis=1,
        )

    def reach(self, tolerance, most=None):
        """Iterate until the residual is a small fraction of the right-hand side, or stays."""
        before = np.inf
        while True:
            left = self.left()
            if self.residual <= tolerance or self.residual > 0.5 * before:
                return
            before = self.residual
            self.add(left, tolerance=0.5 * tolerance * self._norm, most=most)
