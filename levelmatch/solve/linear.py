# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sparse symmetric positive systems, factorised by fronts of dense matrices.

A matrix consists of blocks of k by k, with one row of blocks for each group, and is scaled to a
diagonal of ones. The method is multifrontal (Duff & Reid 1983, ACM Trans. Math. Softw. 9, 302):
each front of a nested dissection is a dense Cholesky factorisation, whose Schur complement is added
to the front of its parent. BLAS runs in one thread, so that the last bit does not depend on the
number of threads.
"""

import threading
from dataclasses import dataclass
from functools import cache, wraps
from logging import getLogger

import numpy as np
from scipy.sparse import coo_array
from threadpoolctl import ThreadpoolController

from levelmatch.solve._fronts import Work, eliminate, invert, multiply, substitute

__all__ = [
    "Factors",
    "NormalMatrix",
    "conjugate_gradients",
    "inverses",
    "one_thread",
    "sum_by",
]


logger = getLogger(__name__)

# Sound chains of thousands of planes have pivots down to 1e-12 of the diagonal.
LEAST_PIVOT = 1e-14
# What is added to the diagonal of a singular matrix.
RIDGE = 1e-10


def sum_by(label, values, n):
    """Return the sums of arrays, shape (m, ...), of each of n labels, shape (n, ...)."""
    out = np.empty((n, *values.shape[1:]))
    for at in np.ndindex(values.shape[1:]):
        out[:, *at] = np.bincount(label, values[:, *at], minlength=n)
    return out


def inverses(matrices):
    """Return the inverses of symmetric matrices, shape (n, k, k), and bounds of their eigenvalues.

    By cofactors, for k of 1 or 3. A singular matrix gives values that are not finite. The least
    eigenvalue of a positive matrix is larger than its bound, shape (n,).
    """
    if matrices.shape[1] == 1:
        return 1 / matrices, matrices[:, 0, 0]
    x = np.ascontiguousarray(np.moveaxis(matrices, 0, -1))
    adjugate = np.stack([np.cross(x[i - 2], x[i - 1], axis=0) for i in range(3)])
    determinant = np.einsum("in,in->n", x[0], adjugate[0])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # The two others are largest if they are equal.
        least = determinant / np.square(0.5 * np.einsum("iin->n", x))
        return np.moveaxis(adjugate / determinant, -1, 0), least


@cache
def _blas():
    return ThreadpoolController()


_state = threading.local()


def one_thread(function):
    """Return a function that runs with one thread of BLAS.

    Finding the libraries and limiting them takes longer than small systems: functions within do
    not do it again.
    """

    @wraps(function)
    def limited(*args, **keywords):
        if getattr(_state, "limited", False):
            return function(*args, **keywords)
        _state.limited = True
        try:
            with _blas().limit(limits=1, user_api="blas"):
                return function(*args, **keywords)
        finally:
            _state.limited = False

    return limited


@dataclass(frozen=True, eq=False)
class NormalMatrix:
    """Symmetric sparse matrix of blocks of k by k.

    Parameters
    ----------
    own : `~numpy.ndarray`, shape (m, k, k)
        Blocks on the diagonal.
    across : `~numpy.ndarray`, shape (n, k, k)
        Blocks above the diagonal.
    ends : `~numpy.ndarray` of intc, shape (2, n)
        Their rows and columns.
    """

    own: np.ndarray
    across: np.ndarray
    ends: np.ndarray

    def __matmul__(self, vectors):
        x = np.ascontiguousarray(vectors, dtype=float).reshape(len(vectors), -1)
        out = np.zeros_like(x)
        multiply(self.own, self.across, self.ends, x, out)
        return out.reshape(vectors.shape)

    def tocsc(self):
        """Return the matrix as one of scipy."""
        m, k, _ = self.own.shape
        (low, high), own = self.ends, np.arange(m)
        places = [(own, own), (low, high), (high, low)]
        blocks = [self.own, self.across, self.across.swapaxes(1, 2)]
        row, column = np.concatenate(places, axis=1)[:, :, None, None]
        each = np.arange(k)
        row, column = np.broadcast_arrays(k * row + each[:, None], k * column + each)
        values = np.concatenate(blocks).ravel()
        return coo_array((values, (row.ravel(), column.ravel())), shape=(m * k, m * k)).tocsc()

    def toarray(self):
        """Return the matrix, dense."""
        return self.tocsc().toarray()


class Factors:
    """Cholesky factors of a system. A small prior is added to a singular system.

    Parameters
    ----------
    matrix : `NormalMatrix`
        The system.
    dissection : `~levelmatch.solve.dissection.Dissection`
        The order of elimination, for the links of the matrix.
    """

    @one_thread
    def __init__(self, matrix, dissection):
        self._dissection = dissection
        self._shape, self._n_across = matrix.own.shape, len(matrix.across)
        self._k = self._shape[1]
        self._work = Work(dissection, self._k)
        if not self._factorise(matrix.own, matrix.across):
            logger.info("the normal matrix is singular: slopes that no pair sees stay near zero")
            self._factorise(matrix.own + RIDGE * np.eye(self._k), matrix.across)

    def _factorise(self, own, across):
        """Return whether the matrix is positive, and if so, keep its factors."""
        self._panels = np.zeros(self._work.offset[-1])
        return eliminate(self._work, own, across, self._panels, LEAST_PIVOT)

    @one_thread
    def solve(self, rhs):
        """Return the solution for right-hand sides of shape (n,) or (n, m)."""
        order = self._dissection.order
        shape = len(order), self._k, -1
        x = rhs.reshape(shape)[order].reshape(len(rhs), -1)
        substitute(self._work, self._panels, x)
        out = np.empty_like(x)
        out.reshape(shape)[order] = x.reshape(shape)
        return out.reshape(rhs.shape)

    @one_thread
    def blocks(self):
        """Return the blocks of the inverse where the matrix has its own, see `NormalMatrix`.

        The last front first: each needs only the inverse in its parent's groups and boundary
        (Takahashi, Fagan & Chen 1973, 8th PICA Conference, 63; Erisman & Tinney 1975, Comm. ACM
        18, 177).
        """
        own, across = np.empty(self._shape), np.empty((self._n_across, *self._shape[1:]))
        invert(self._work, self._panels, own, across)
        return own, across

    def inverse(self):
        """Return the inverse, dense and symmetric."""
        inverse = self.solve(np.eye(self._k * len(self._dissection.order)))
        return 0.5 * (inverse + inverse.T)


def conjugate_gradients(matrix, solve, rhs, *, tolerance, most):
    """Return an approximate solution, by the factors of a similar matrix, and the steps it took.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_matrix` or `~scipy.sparse.bsr_matrix`
        The system.
    solve : callable
        Solves the similar system.
    rhs : `~numpy.ndarray`, shape (n,)
        Right-hand side.
    tolerance : float
        Norm of the residual at which it ends.
    most : int
        The largest number of steps.
    """
    solution, left = np.zeros(len(rhs)), rhs.copy()
    across = along = None
    for step in range(most):
        better = solve(left)
        before, along = along, _dot(left, better)
        across = better if across is None else better + (along / before) * across
        image = matrix @ across
        size = along / _dot(across, image)
        solution += size * across
        left -= size * image
        if np.sqrt(_dot(left, left)) <= tolerance:
            return solution, step + 1
    return solution, most


def _dot(a, b):
    """Scalar product, not by the threads of BLAS: its last bit does not depend on their number."""
    return np.einsum("i,i", a, b)
