# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The solution of one pass, with its covariance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Solution"]

COVARIANCE_TOLERANCE = 1e-8
# Random vectors that the variances of a very large solution are estimated from.
N_PROBES = 64
N_MODES = 64
PROBE_TOLERANCE = 1e-4
# The largest system whose covariance is held as a whole.
MAX_DENSE = 3000


@dataclass(frozen=True, eq=False)
class Solution:
    """Corrections of the groups of one pass.

    Parameters
    ----------
    coefficients : `~numpy.ndarray`, shape (m, k)
        Of each group, about its own centre: what to subtract.
    component : `~numpy.ndarray` of int, shape (m,)
        The connected set of each group.
    reference : `~numpy.ndarray` of int, shape (n_components,)
        The group held at zero in each set, or -1 where the mean is.
    floors : `~numpy.ndarray`, shape (n_components,)
        The systematic scatter of the pairs of each set.
    weight : `~numpy.ndarray`, shape (n,)
        Weight of each pair's level in the objective.
    robust : `~numpy.ndarray`, shape (n,)
        The part of its weight that each pair kept: 1 if it agrees with the rest.
    n_sigma : `~numpy.ndarray`, shape (n,)
        What is left of each pair over its expected error.
    active : `~numpy.ndarray` of bool, shape (m, k)
        Coefficients that were free.
    covariance_of : callable
        Returns the `GaugedCovariance` of the coefficients; called once, when it is needed.
    known_errors : `~numpy.ndarray`, shape (m, k), or None
        Standard errors read from a record; by default computed from the covariance.
    residual : float
        What is left of the normal equations' right-hand side, as a part of it; of both the
        norm in units of the diagonal's root.
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
    def _own_covariances(self):
        """Covariance of each group's coefficients, shape (m, k, k), of what can be held whole."""
        n, k = self.coefficients.shape
        if "covariance_matrix" in vars(self):
            return np.einsum("gigj->gij", self.covariance_matrix.reshape(n, k, n, k))
        return self._covariance.blocks(k)

    def covariance(self, i, j):
        """Return the (k, k) covariance of the coefficients of groups i and j."""
        n, k = self.coefficients.shape
        if i == j and n * k <= MAX_DENSE:
            return self._own_covariances[i]
        rows = slice(k * i, k * (i + 1))
        if n * k <= MAX_DENSE:
            return self.covariance_matrix[rows, k * j : k * (j + 1)]
        unit = np.zeros((n * k, k))
        unit[k * j : k * (j + 1)] = np.eye(k)
        return self._covariance.apply(unit)[rows]

    def respond(self, rhs):
        """Return the changes of the coefficients for changes of the right-hand side.

        Parameters
        ----------
        rhs : `~numpy.ndarray`, shape (m * k, n)
            Columns of right-hand sides of the normal equations.
        """
        return self._covariance.respond(rhs)

    def _probe_variance(self, n):
        rng = np.random.default_rng(0)
        # In units in which levels and slopes are alike: the one must not drown the other.
        scale = self._covariance.scale
        unit = np.where(scale > 0, scale, 1.0)

        def apply(vectors):
            applied = self._covariance.apply(vectors / unit[:, None], PROBE_TOLERANCE)
            return applied / unit[:, None]

        start = rng.choice([-1.0, 1.0], (n, N_MODES))
        modes = np.linalg.qr(apply(apply(start)))[0]
        applied = apply(modes)
        inner = modes.T @ applied
        smooth = 2 * np.sum(modes * applied, axis=1) - np.sum((modes @ inner) * modes, axis=1)
        probes = rng.choice([-1.0, 1.0], (n, N_PROBES))
        rest = apply(probes - modes @ (modes.T @ probes))
        rest -= modes @ (modes.T @ rest)
        return np.square(unit) * (smooth + np.mean(probes * rest, axis=1))

    @cached_property
    def errors(self):
        """Standard errors of the coefficients, shape (m, k).

        Exact up to 3000 coefficients. Beyond, the variances of the smooth modes, which
        lead, are found by subspace iteration, and the rest from random vectors
        (Bekas, Kokiopoulou & Saad 2007, Appl. Numer. Math. 57, 1214): to a few per cent.
        """
        if self.known_errors is not None:
            return self.known_errors
        n = self.coefficients.size
        if n <= MAX_DENSE:
            variance = np.einsum("gii->gi", self._own_covariances)
        else:
            variance = self._probe_variance(n)
        return np.sqrt(np.maximum(variance, 0)).reshape(self.coefficients.shape)


class GaugedCovariance:
    """The covariance of the coefficients of solved equations, relative to a gauge.

    Parameters
    ----------
    solved : `_Solved`
        The equations.
    gauge : `_ZeroMean` or None
        What the gauge does to coefficients, if not nothing.
    variance : `~numpy.ndarray`, shape (n,), or None
        That of the pairs' unit weight, where their weights are not its inverse; the
        sandwich then takes it in.
    """

    def __init__(self, solved, gauge, variance):
        self.system = solved.system
        self.gauge = gauge
        self.scale = solved.scale.ravel()
        self.middle = (
            None if variance is None else solved.equations.assemble(solved.factor**2 * variance)
        )

    def matrix(self):
        """Return it whole, shape (m * k, m * k)."""
        half = self._half()
        matrix = half if self.middle is None else half @ (self.middle @ half.T)
        if self.gauge is not None and self.middle is None:
            matrix = self.gauge.apply(half.T)
        return 0.5 * (matrix + matrix.T)

    def blocks(self, k):
        """Return the (k, k) blocks on its diagonal, for less than the whole."""
        half = self._half()
        if self.middle is None:
            matrix = half if self.gauge is None else self.gauge.apply(half.T)
            return np.einsum("gigj->gij", matrix.reshape(2 * (len(matrix) // k, k))).copy()
        rows = half.reshape(-1, k, len(half))
        return np.einsum("gin,gjn->gij", (half @ self.middle).reshape(rows.shape), rows)

    def _half(self):
        """Gauge times the inverse of the equations."""
        if self.system.iterative:
            inverse = self._inverse(np.eye(len(self.scale)), COVARIANCE_TOLERANCE)
        else:
            inverse = self.system.inverse()
        inverse = self.scale[:, None] * inverse * self.scale
        return inverse if self.gauge is None else self.gauge.apply(inverse)

    def apply(self, vectors, tolerance=COVARIANCE_TOLERANCE):
        """Return it times vectors, shape (m * k, n), to a part of their norms."""
        if self.gauge is not None:
            vectors = self.gauge.apply_transposed(vectors)
        scale = self.scale[:, None]
        out = scale * self._inverse(scale * vectors, tolerance)
        if self.middle is not None:
            out = scale * self._inverse(scale * (self.middle @ out), tolerance)
        return out if self.gauge is None else self.gauge.apply(out)

    def respond(self, rhs):
        """Return the solutions for right-hand sides, shape (m * k, n), in the gauge."""
        scale = self.scale[:, None]
        out = scale * self._inverse(scale * rhs, COVARIANCE_TOLERANCE)
        return out if self.gauge is None else self.gauge.apply(out)

    def _inverse(self, vectors, tolerance):
        """Solutions for each column, to a part of its norm."""
        if not self.system.iterative:
            return self.system.solve(vectors)
        columns = [self.system.solve(v, tolerance=tolerance * np.linalg.norm(v)) for v in vectors.T]
        return np.stack(columns, axis=1)
