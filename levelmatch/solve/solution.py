# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The solution of one pass, with its covariance."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from levelmatch.solve.solver import MIN_BORROWED, WeightedSolution

__all__ = ["Solution"]

# Largest number of coefficients whose covariance is held as a whole.
MAX_DENSE = 3000
# The largest relative change of a weight in a difference quotient.
SMALL_STEP = 1e-4


@dataclass(frozen=True, eq=False)
class Solution:
    """Corrections of the groups of one pass.

    Parameters
    ----------
    coefficients : `~numpy.ndarray`, shape (m, k)
        Correction of each group about its own centre, to be subtracted.
    component : `~numpy.ndarray` of int, shape (m,)
        The connected set of each group.
    reference : `~numpy.ndarray` of int, shape (n_components,)
        The group held at zero in each set, or -1 for a zero mean.
    floors : `~numpy.ndarray`, shape (n_components,)
        The systematic scatter of the pairs of each set.
    weight : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level in the objective.
    robust : `~numpy.ndarray`, shape (n,)
        Fraction of its weight that each pair keeps.
    n_sigma : `~numpy.ndarray`, shape (n,)
        Distance of each pair from its prediction by the others, in standard errors.
    active : `~numpy.ndarray` of bool, shape (m, k)
        Coefficients that were free.
    covariance_of : callable
        Returns the `GaugedCovariance` of the coefficients; called once, when it is needed.
    known_errors : `~numpy.ndarray`, shape (m, k), or None
        Standard errors read from a record; by default computed from the covariance.
    residual : float
        Norm of the residual of the normal equations over the norm of their right-hand side, both
        scaled by the root of the diagonal.
    """

    coefficients: np.ndarray
    component: np.ndarray
    reference: np.ndarray
    floors: np.ndarray
    weight: np.ndarray
    robust: np.ndarray
    n_sigma: np.ndarray
    active: np.ndarray
    covariance_of: Callable[[], "GaugedCovariance"]
    known_errors: np.ndarray | None = None
    residual: float = 0.0

    @cached_property
    def _covariance(self):
        return self.covariance_of()

    @property
    def floor(self):
        """The largest systematic scatter of any set."""
        return float(self.floors.max(initial=0.0))

    @cached_property
    def covariance_matrix(self):
        """Covariance of all coefficients relative to the gauge, shape (m * k, m * k).

        Raises
        ------
        MemoryError
            If it would be too large; `covariance` gives any part of it.
        """
        n = self.coefficients.size
        if n > MAX_DENSE:
            msg = f"the covariance of {n} coefficients is too large to be held as a whole"
            raise MemoryError(msg)
        return self._covariance.matrix()

    @cached_property
    def covariances(self):
        """Covariance of each group's coefficients, shape (m, k, k)."""
        n, k = self.coefficients.shape
        if "covariance_matrix" in vars(self):
            return np.einsum("gigj->gij", self.covariance_matrix.reshape(n, k, n, k))
        return self._covariance.blocks(k)

    def covariance(self, i, j):
        """Return the (k, k) covariance of the coefficients of groups i and j."""
        n, k = self.coefficients.shape
        if i == j:
            return self.covariances[i]
        rows = slice(k * i, k * (i + 1))
        if n * k <= MAX_DENSE:
            return self.covariance_matrix[rows, k * j : k * (j + 1)]
        unit = np.zeros((n * k, k))
        unit[k * j : k * (j + 1)] = np.eye(k)
        return self._covariance.apply(unit)[rows]

    def covariance_of_sums(self, columns):
        """Return the covariance of sums of the coefficients, shape (n, n).

        Parameters
        ----------
        columns : `~numpy.ndarray`, shape (m * k, n)
            Weights of the coefficients in each sum.
        """
        return columns.T @ self._covariance.apply(columns)

    def respond(self, rhs):
        """Return the changes of the coefficients for changes of the right-hand side.

        Parameters
        ----------
        rhs : `~numpy.ndarray`, shape (m * k, n)
            Columns of right-hand sides of the normal equations.
        """
        return self._covariance.respond(rhs)

    @cached_property
    def errors(self):
        """Standard errors of the coefficients, shape (m, k)."""
        if self.known_errors is not None:
            return self.known_errors
        variance = np.einsum("gii->gi", self.covariances)
        return np.sqrt(np.maximum(variance, 0)).reshape(self.coefficients.shape)


def _with_gram(equations, gram):
    """Return equations of the same groups with other normal matrices of the pairs."""
    other = replace(equations, gram=gram)
    vars(other)["dissection"] = equations.dissection
    return other


class GaugedCovariance:
    """The covariance of the coefficients of solved equations, relative to a gauge.

    Parameters
    ----------
    solved : `~levelmatch.solve.solver.WeightedSolution`
        The equations.
    gauge : `~levelmatch.solve.gauge.Gauge` or None
        The gauge, or `None` if the coefficients are in it already.
    noise : `~numpy.ndarray`, shape (n, k, k), or None
        Covariance of each pair's right-hand side, if the weights are not its inverse; the
        covariance of the coefficients is then a sandwich.
    inflation : `~numpy.ndarray`, shape (m, k)
        Factors on the standard errors, of levels and of slopes the same in a connected set.
    spread : `~numpy.ndarray`, shape (m * k, r), or None
        Vectors whose outer products with themselves are added to the covariance.
    """

    def __init__(self, solved, gauge, *, noise, inflation, spread):
        self.solved = solved
        self.gauge = gauge
        self.inflation = inflation.ravel()
        self.scale = solved.scale.ravel()
        self.spread = spread if spread is None or gauge is None else gauge.apply(spread)
        self.noise = noise
        self.middle = None
        if noise is not None:
            self.middle = _with_gram(solved.equations, noise).assemble(
                solved.factor**2, solved.prior
            )

    def matrix(self):
        """Return the whole covariance, shape (m * k, m * k)."""
        # The product of the gauge and the inverse of the normal matrix.
        half = self.scale[:, None] * self.solved.factors.inverse() * self.scale
        if self.gauge is not None:
            half = self.gauge.apply(half)
        matrix = half if self.middle is None else half @ (self.middle @ half.T)
        if self.gauge is not None and self.middle is None:
            matrix = self.gauge.apply(half.T)
        matrix = self.inflation[:, None] * matrix * self.inflation
        if self.spread is not None:
            matrix = matrix + self.spread @ self.spread.T
        return 0.5 * (matrix + matrix.T)

    def widened(self, factors):
        """Return the covariance with other factors on the standard errors, shape (m, k)."""
        out = copy(self)
        out.inflation = self.inflation * factors.ravel()
        return out

    def blocks(self, k):
        """Return the (k, k) blocks on its diagonal."""
        inflation = self.inflation.reshape(-1, k)
        blocks = inflation[:, :, None] * inflation[:, None, :] * self._gauged_blocks
        if self.spread is None:
            return blocks
        rows = self.spread.reshape(len(blocks), k, -1)
        return blocks + rows @ rows.swapaxes(1, 2)

    @cached_property
    def _gauged_blocks(self):
        """The blocks in the gauge, before all factors and spreads; they are expensive."""
        blocks = self._blocks()
        if self.gauge is not None:
            blocks = self.gauge.apply_to_blocks(blocks, self._times)
        if len(blocks) >= MIN_BORROWED:
            # These take more memory than all else, and are seldom needed.
            self.solved.forget()
            self.solved.equations.forget()
        return blocks

    def _blocks(self):
        """Return the blocks on the diagonal before the gauge.

        For a sandwich, they come from the change of the inverse for a small change of the weights.
        """
        solved, equations = self.solved, self.solved.equations
        if self.noise is None:
            return solved.covariance_blocks()
        noise = solved.factor[:, None, None] * self.noise
        size, own = (np.einsum("pii->pi", matrix) for matrix in (noise, equations.gram))
        ratio = np.divide(size, own, where=own > 0, out=np.zeros_like(size))
        step = SMALL_STEP / ratio.max(initial=SMALL_STEP)
        less, more = (
            WeightedSolution(
                _with_gram(equations, equations.gram + change * noise),
                solved.factor,
                solved.scale > 0,
                # The prior's own scatter enters like that of the pairs.
                None if solved.prior is None else solved.prior / np.sqrt(1 + change),
            ).covariance_blocks()
            for change in (-step, step)
        )
        return (less - more) / (2 * step)

    def _times(self, vectors):
        """Return the covariance before the gauge times vectors."""
        out = self._inverse(vectors)
        return out if self.middle is None else self._inverse(self.middle @ out)

    def apply(self, vectors):
        """Return the covariance times vectors, shape (m * k, n)."""
        right = self.inflation[:, None] * vectors
        if self.gauge is not None:
            right = self.gauge.apply_transposed(right)
        out = self._times(right)
        if self.gauge is not None:
            out = self.gauge.apply(out)
        out = self.inflation[:, None] * out
        return out if self.spread is None else out + self.spread @ (self.spread.T @ vectors)

    def respond(self, rhs):
        """Return the solutions for right-hand sides, shape (m * k, n), in the gauge."""
        out = self._inverse(rhs)
        return out if self.gauge is None else self.gauge.apply(out)

    def _inverse(self, vectors):
        """Solutions of the equations for right-hand sides in their own units."""
        scale = self.scale[:, None]
        return scale * self.solved.factors.solve(scale * vectors)
