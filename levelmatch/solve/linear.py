# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sparse symmetric positive systems, factorised by fronts of dense matrices.

A matrix is of blocks of k by k, one row of blocks a group, scaled to a diagonal of ones. The
method is multifrontal (Duff & Reid 1983, ACM Trans. Math. Softw. 9, 302): each front of a nested
dissection is a dense Cholesky factorisation, whose Schur complement is added to the front of its
parent. By BLAS in one thread, so that the last bit does not depend on the number of threads.
"""

from functools import cache, cached_property, wraps
from logging import getLogger

import numpy as np
from scipy.linalg.blas import dsyrk, dtrsm
from scipy.linalg.lapack import dpotrf, dpotri, dtrtri
from threadpoolctl import ThreadpoolController

__all__ = ["Factors", "conjugate_gradients", "sum_by"]


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


@cache
def _blas():
    return ThreadpoolController()


def _one_thread(function):
    """Return a function that runs with one thread of BLAS."""

    @wraps(function)
    def limited(*args, **keywords):
        with _blas().limit(limits=1, user_api="blas"):
            return function(*args, **keywords)

    return limited


class _SingularError(Exception):
    """A pivot is zero, but for rounding."""


class Factors:
    """Cholesky factors of a system; where it is singular, of it and the least of priors.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_matrix` or `~scipy.sparse.bsr_matrix`
        The system.
    dissection : `~levelmatch.solve.dissection.Dissection`
        The order of elimination, for the pattern of the matrix.
    """

    @_one_thread
    def __init__(self, matrix, dissection):
        self._dissection = dissection
        self._k = matrix.blocksize[0] if matrix.format == "bsr" else 1
        try:
            self._factorise(matrix)
        except _SingularError:
            logger.info("the normal matrix is singular: slopes that no pair sees stay near zero")
            matrix = matrix.copy()
            diagonal = dissection.source[dissection.row == dissection.column]
            matrix.data.reshape(-1, self._k, self._k)[diagonal] += RIDGE * np.eye(self._k)
            self._factorise(matrix)
        self._matrix = matrix

    def _factorise(self, matrix):
        k, dissection = self._k, self._dissection
        blocks = matrix.data.reshape(-1, k, k)
        self._factors, complement = [], {}
        for f, front in enumerate(dissection.fronts):
            n_own, n_later = front.stop - front.start, len(front.boundary)
            # Rows are columns of the front, of which the parts below the diagonal count.
            own, at = np.zeros((n_own, k, n_own + n_later, k)), front.entries
            own[dissection.column[at], :, dissection.row[at], :] = blocks[
                dissection.source[at]
            ].swapaxes(1, 2)
            own = own.reshape(k * n_own, -1)
            later = np.zeros((k * n_later, k * n_later))
            for child in front.children:
                place, shared = self._into_parent(dissection.fronts[child])
                added = complement.pop(child)
                own[place[:shared, None], place] += added[:shared]
                place = place[shared:] - k * n_own
                later[place[:, None], place] += added[shared:, shared:]
            lower, failed = dpotrf(own[:, : k * n_own].T, lower=1)
            if failed or np.diagonal(lower).min(initial=np.inf) ** 2 <= LEAST_PIVOT:
                raise _SingularError
            below = np.zeros((0, k * n_own))
            if n_later:
                below = dtrsm(1.0, lower, own[:, k * n_own :].T, side=1, lower=1, trans_a=1)
                complement[f] = dsyrk(-1.0, below, 1.0, later.T, lower=1, overwrite_c=1).T
            self._factors.append((lower, below))

    def _into_parent(self, front):
        """Return the places of a front's boundary in its parent, and how many are its own."""
        return _terms(front.into_parent, self._k), self._k * front.n_shared

    @cached_property
    def _places(self):
        """Coefficients of the groups of each front, and of its boundary."""
        k, fronts = self._k, self._dissection.fronts
        parts = [slice(k * front.start, k * front.stop) for front in fronts]
        return parts, [_terms(front.boundary, k) for front in fronts]

    @_one_thread
    def solve(self, rhs):
        """Return the solution for right-hand sides of shape (n,) or (n, m)."""
        k, dissection = self._k, self._dissection
        shape = len(dissection.order), k, -1
        x = rhs.reshape(shape)[dissection.order].reshape(len(rhs), -1)
        parts, later = self._places
        for (lower, below), part, places in zip(self._factors, parts, later, strict=True):
            x[part] = own = dtrsm(1.0, lower, x[part].T, side=1, lower=1, trans_a=1).T
            if len(places):
                x[places] -= below @ own
        for f in reversed(range(len(parts))):
            (lower, below), own = self._factors[f], x[parts[f]]
            if len(later[f]):
                own = own - below.T @ x[later[f]]
            x[parts[f]] = dtrsm(1.0, lower, own.T, side=1, lower=1).T
        out = np.empty_like(x)
        out.reshape(shape)[dissection.order] = x.reshape(shape)
        return out.reshape(rhs.shape)

    @_one_thread
    def blocks(self):
        """Return the blocks of the inverse where the matrix has its own, shape (n, k, k).

        The last front first: each needs only the inverse in its parent's groups and boundary
        (Takahashi, Fagan & Chen 1973, 8th PICA Conference, 63; Erisman & Tinney 1975, Comm. ACM
        18, 177). Those above the diagonal of the reordered matrix are zero: they are the
        transposes of those below it.
        """
        k, dissection = self._k, self._dissection
        out = np.zeros((self._matrix.data.size // k**2, k, k))
        inverses, waiting = {}, [len(front.children) for front in dissection.fronts]
        for f in reversed(range(len(waiting))):
            front, (lower, below) = dissection.fronts[f], self._factors[f]
            n_own = len(lower)
            root, _ = dtrtri(lower, lower=1)
            inverse = root.T @ root
            if len(below):
                place, _ = self._into_parent(front)
                later = inverses[front.parent][place[:, None], place]
                waiting[front.parent] -= 1
                if not waiting[front.parent]:
                    del inverses[front.parent]
                below = below @ root
                across = later @ below
                whole = np.empty((n_own + len(later),) * 2)
                whole[:n_own, :n_own] = inverse + below.T @ across
                whole[n_own:, :n_own] = -across
                whole[:n_own, n_own:] = -across.T
                whole[n_own:, n_own:] = later
                inverse = whole
            if waiting[f]:
                inverses[f] = inverse
            at = front.entries
            inverse = inverse.reshape(len(inverse) // k, k, -1, k)
            found = inverse[dissection.row[at], :, dissection.column[at], :]
            out[dissection.source[at]] = found
        return out

    @_one_thread
    def inverse(self):
        """Return the inverse, dense and symmetric."""
        lower, failed = dpotrf(self._matrix.toarray(order="F"), lower=1, overwrite_a=1)
        if not failed:
            lower, failed = dpotri(lower, lower=1, overwrite_c=1)
        if failed:
            inverse = self.solve(np.eye(self._matrix.shape[0]))
            return 0.5 * (inverse + inverse.T)
        lower = np.tril(lower)
        diagonal = np.diagonal(lower).copy()
        lower += lower.T
        np.fill_diagonal(lower, diagonal)
        return lower


def _terms(places, k):
    """Places of the k coefficients of groups."""
    return places if k == 1 else (k * places[:, None] + np.arange(k)).ravel()


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
