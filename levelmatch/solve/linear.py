# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve sparse, symmetric, positive definite systems by a multifrontal Cholesky factorisation.

A matrix consists of blocks of k by k, with one row of blocks per group. Its diagonal is scaled to
one. Each front of a nested dissection is factorised as a dense matrix, and its Schur complement is
added to its parent (Duff & Reid 1983, ACM Trans. Math. Softw. 9, 302). Two threads process the two
halves of a large dissection. BLAS runs in one thread. Results depend on neither.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, wraps
from logging import getLogger

import numpy as np
from scipy.sparse import coo_array
from threadpoolctl import ThreadpoolController

from levelmatch.solve._fronts import Work, backward, eliminate, forward, invert, multiply

__all__ = [
    "LEAST_PIVOT",
    "Factors",
    "NormalMatrix",
    "conjugate_gradients",
    "inverses",
    "one_thread",
    "sum_by",
]


logger = getLogger(__name__)

# Smallest pivot. Regular chains of thousands of planes have pivots down to 1e-12.
LEAST_PIVOT = 1e-14
# Added to the diagonal of a singular matrix.
RIDGE = 1e-10


def sum_by(label, values, n):
    """Return the sum of the values, shape (m, ...), with each of n labels, shape (n, ...)."""
    out = np.empty((n, *values.shape[1:]))
    for at in np.ndindex(values.shape[1:]):
        out[:, *at] = np.bincount(label, values[:, *at], minlength=n)
    return out


def inverses(matrices):
    """Invert symmetric matrices of 1 by 1 or 3 by 3 by cofactors.

    Parameters
    ----------
    matrices : `~numpy.ndarray`, shape (n, k, k)
        Matrices.

    Returns
    -------
    inverse : `~numpy.ndarray`, shape (n, k, k)
        Inverses; not finite for singular matrices.
    least : `~numpy.ndarray`, shape (n,)
        Lower bounds of the eigenvalues of positive definite matrices.
    """
    if matrices.shape[1] == 1:
        return 1 / matrices, matrices[:, 0, 0]
    x = np.ascontiguousarray(np.moveaxis(matrices, 0, -1))
    adjugate = np.stack([np.cross(x[i - 2], x[i - 1], axis=0) for i in range(3)])
    determinant = np.einsum("in,in->n", x[0], adjugate[0])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # The product of the other two eigenvalues is at most the square of half of the trace.
        least = determinant / np.square(0.5 * np.einsum("iin->n", x))
        return np.moveaxis(adjugate / determinant, -1, 0), least


@cache
def _blas():
    return ThreadpoolController()


_state = threading.local()


def one_thread(function):
    """Decorate a function to run with one thread of BLAS.

    Setting the limit takes longer than solving a small system, so nested calls do not set it again.
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
    """Sparse symmetric matrix of blocks of k by k.

    Parameters
    ----------
    own : `~numpy.ndarray`, shape (m, k, k)
        Blocks on the diagonal.
    across : `~numpy.ndarray`, shape (n, k, k)
        Blocks above the diagonal.
    ends : `~numpy.ndarray` of intc, shape (2, n)
        Rows and columns of the blocks above the diagonal.
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
        """Return the matrix as a `~scipy.sparse.csc_array`."""
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
        """Return the matrix as a dense array."""
        return self.tocsc().toarray()


class Factors:
    """Cholesky factors of a matrix. A small number is added to the diagonal of a singular matrix.

    Parameters
    ----------
    matrix : `NormalMatrix`
        Matrix.
    dissection : `~levelmatch.solve.dissection.Dissection`
        Order of elimination, for the links of the matrix.
    """

    @one_thread
    def __init__(self, matrix, dissection):
        self._dissection = dissection
        self._shape, self._n_across = matrix.own.shape, len(matrix.across)
        self._k = self._shape[1]
        self._work = Work(dissection, self._k)
        if not self._factorise(matrix.own, matrix.across):
            logger.info("the normal matrix is singular: slopes without constraints are near zero")
            self._factorise(matrix.own + RIDGE * np.eye(self._k), matrix.across)

    def __getstate__(self):
        """Return all but the compiled fronts, which follow from the dissection."""
        return {key: value for key, value in self.__dict__.items() if key != "_work"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._work = Work(self._dissection, self._k)

    def _factorise(self, own, across):
        """Factorise a matrix. Return whether it is positive definite."""
        self._panels = np.zeros(self._work.offset[-1])
        given = self._work, own, across, self._panels, LEAST_PIVOT
        try:
            good = self._in_halves(lambda _, first, stop: eliminate(*given, first, stop))
            return all(good) and eliminate(*given, *self._dissection.last_fronts)
        finally:
            self._work.clear()

    def _in_halves(self, function):
        """Call a function for the halves of the dissection (number, first, stop), in two threads.

        Return both results. A small dissection has no halves.
        """
        halves = self._dissection.halves
        if not halves:
            return ()
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(function, 1, *halves[1])
            return function(0, *halves[0]), second.result()

    @one_thread
    def solve(self, rhs):
        """Return the solutions for right-hand sides of shape (n,) or (n, m)."""
        order = self._dissection.order
        shape = len(order), self._k, -1
        # Products of broadcast arrays may be stored by columns.
        x = np.ascontiguousarray(rhs).reshape(shape)[order].reshape(len(rhs), -1)
        if x.size:
            self._substitute(x)
        out = np.empty_like(x)
        out.reshape(shape)[order] = x.reshape(shape)
        return out.reshape(rhs.shape)

    def _substitute(self, x):
        """Replace right-hand sides, shape (n, m), in order of elimination, by the solutions."""
        given, last = (self._work, self._panels, x), self._dissection.last_fronts
        n_last = self._k * (len(self._dissection.order) - self._dissection.start[last[0]])
        added = np.zeros((2, n_last, x.shape[1]))
        self._in_halves(lambda half, *fronts: forward(*given, added[half], *fronts))
        for part in added:
            x[len(x) - n_last :] += part
        forward(*given, added[0, :0], *last)
        backward(*given, *last)
        self._in_halves(lambda _, *fronts: backward(*given, *fronts))

    @one_thread
    def blocks(self):
        """Return the blocks of the inverse at the places of the blocks of the matrix.

        See `NormalMatrix` for their order. Fronts are processed from the last to the first,
        because each needs the inverse at its parent's groups and boundary (Takahashi, Fagan & Chen
        1973, 8th PICA Conference, 63; Erisman & Tinney 1975, Comm. ACM 18, 177).
        """
        own, across = np.empty(self._shape), np.empty((self._n_across, *self._shape[1:]))
        given = self._work, self._panels, own, across
        try:
            invert(*given, *self._dissection.last_fronts)
            self._in_halves(lambda _, first, stop: invert(*given, first, stop))
        finally:
            self._work.clear()
        return own, across

    def inverse(self):
        """Return the inverse as a dense array."""
        inverse = self.solve(np.eye(self._k * len(self._dissection.order)))
        return 0.5 * (inverse + inverse.T)


def conjugate_gradients(matrix, solve, rhs, *, tolerance, most):
    """Solve a system approximately by preconditioned conjugate gradients.

    Parameters
    ----------
    matrix : `NormalMatrix`
        Matrix.
    solve : callable
        Preconditioner: returns the solution of a similar system.
    rhs : `~numpy.ndarray`, shape (n,)
        Right-hand side.
    tolerance : float
        Norm of the residual at which the iteration ends.
    most : int
        Largest number of steps.

    Returns
    -------
    solution : `~numpy.ndarray`, shape (n,)
        Approximate solution.
    n_steps : int
        Number of steps.
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
    """Return the scalar product, without BLAS: it does not depend on the number of threads."""
    return np.einsum("i,i", a, b)
