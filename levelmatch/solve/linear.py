# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sparse symmetric positive systems, factorised by fronts of dense matrices.

A matrix is of blocks of k by k, one row of blocks a group, scaled to a diagonal of ones. The
method is multifrontal (Duff & Reid 1983, ACM Trans. Math. Softw. 9, 302): each front of a nested
dissection is a dense Cholesky factorisation, whose Schur complement is added to the front of its
parent. By BLAS in one thread, so that the last bit does not depend on the number of threads.
"""

import threading
from functools import cache, wraps
from logging import getLogger

import numpy as np
from threadpoolctl import ThreadpoolController

from levelmatch.solve._fronts import Work, eliminate, invert, substitute

__all__ = ["Factors", "conjugate_gradients", "inverses", "one_thread", "sum_by"]


logger = getLogger(__name__)

# Sound chains of thousands of planes have pivots down to 1e-12 of the diagonal.
LEAST_PIVOT = 1e-14
# What is added to the diagonal of a singular matrix.
RIDGE = 1e-10


def sum_by(label, values, n):
    """Sums of arrays, shape (m, ...), of each of n labels."""
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


class Factors:
    """Cholesky factors of a system; where it is singular, of it and the least of priors.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_matrix` or `~scipy.sparse.bsr_matrix`
        The system.
    dissection : `~levelmatch.solve.dissection.Dissection`
        The order of elimination, for the pattern of the matrix.
    """

    @one_thread
    def __init__(self, matrix, dissection):
        self._dissection = dissection
        self._k = k = matrix.blocksize[0] if matrix.format == "bsr" else 1
        self._work = Work(dissection, k)
        blocks = matrix.data.reshape(-1, k, k)
        self._n_blocks = len(blocks)
        if not self._factorise(blocks):
            logger.info("the normal matrix is singular: slopes that no pair sees stay near zero")
            blocks = blocks.copy()
            blocks[dissection.source[dissection.row == dissection.column]] += RIDGE * np.eye(k)
            self._factorise(blocks)

    def _factorise(self, blocks):
        """Return whether the matrix is positive, and if so, keep its factors."""
        self._panels = np.zeros(self._work.offset[-1])
        return eliminate(self._work, blocks, self._panels, LEAST_PIVOT)

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
        """Return the blocks of the inverse where the matrix has its own, shape (n, k, k).

        The last front first: each needs only the inverse in its parent's groups and boundary
        (Takahashi, Fagan & Chen 1973, 8th PICA Conference, 63; Erisman & Tinney 1975, Comm. ACM
        18, 177). Those above the diagonal of the reordered matrix are zero: they are the
        transposes of those below it.
        """
        out = np.zeros((self._n_blocks, self._k, self._k))
        invert(self._work, self._panels, out)
        return out

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
