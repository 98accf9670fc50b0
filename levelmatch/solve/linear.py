# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Sparse symmetric positive systems: factorised where that is cheap, else by conjugate gradients.

A matrix is of blocks of k by k, one row of blocks a group, scaled to a diagonal of ones.
"""

from logging import getLogger

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.sparse import bsr_matrix, diags_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from scipy.sparse.linalg import LinearOperator, splu

from levelmatch.sky.vectors import tangent_axes, transfer_matrix
from levelmatch.solve._selected import selected_inverse

__all__ = ["Direct", "Iterative", "direct_work", "sum_by"]


logger = getLogger(__name__)

# The operations of a factorisation in a band from which conjugate gradients take less time,
# where weights change some twenty times: ``benchmarks/scaling.py --switch`` measures both.
MAX_WORK = 1e9
# Those of planes for which, before each step, the factors for other weights are better
# than a multigrid.
MAX_WORK_ONCE = 3e10
MAX_STEPS = 1000
# A multigrid, or factors, for other weights may take so many, or twice their own.
MAX_BORROWED = 40
# The largest aggregate of images, and how often its planes are smoothed. Smaller ones, and
# smoother, make fewer steps, each of more work.
AGGREGATE = 8
N_SMOOTH = 2
# The largest last level, in coefficients, which is factorised.
MAX_COARSE = 3000
# The largest system whose inverse is found as a whole if its factors do not serve.
MAX_INVERSE = 3000
# Neighbours that pull less than this part of the strongest are in other aggregates.
STRENGTH = 0.08


def sum_by(label, values, n):
    """Sums of arrays, shape (m, ...), of each of n labels."""
    out = np.empty((n, *values.shape[1:]))
    for at in np.ndindex(values.shape[1:]):
        out[:, *at] = np.bincount(label, values[:, *at], minlength=n)
    return out


def direct_work(graph, k):
    """Return a bound on the operations of a banded factorisation of k by k blocks.

    It grows as the length of a chain, and as the square of the number of images of a field.

    Parameters
    ----------
    graph : `~scipy.sparse.csr_matrix`, shape (m, m)
        Which blocks are not zero; those of the diagonal among them.
    k : int
        Size of the blocks.
    """
    order = reverse_cuthill_mckee(graph, symmetric_mode=True)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    lowest = np.minimum.reduceat(place[graph.indices], graph.indptr[:-1])
    return float(k**3 * np.sum(np.square(place - lowest + 1.0)))


class Direct:
    """A system solved by LU factors; where it is singular, of it and the least of priors.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_matrix` or `~scipy.sparse.bsr_matrix`
        The system.
    """

    iterative = False

    def __init__(self, matrix):
        self.n_steps = 0
        self._matrix, self._lu = _factorised(matrix.tocsc())

    def solve(self, rhs, *, tolerance=0.0):
        """Return the solution for right-hand sides of shape (n,) or (n, m)."""
        return self._lu.solve(rhs)

    def entries(self, matrix):
        """Return the inverse's entries where a matrix of the same pattern has its own.

        By the factors, see `~levelmatch.solve._selected.selected_inverse`. `None` for
        a large system if the factors' pattern does not hold them.

        Parameters
        ----------
        matrix : `~scipy.sparse.csr_matrix` or `~scipy.sparse.bsr_matrix`
            The system.
        """
        lower, rows = self._lu.L.tocsc(), _places(matrix)
        lower.sort_indices()
        turn, n = self._lu.perm_c, lower.shape[0]
        values, whole = selected_inverse(
            lower.indptr, lower.indices, lower.data, self._lu.U.diagonal()
        )
        if not (whole and np.array_equal(turn, self._lu.perm_r)):
            return self.inverse()[rows] if n <= MAX_INVERSE else None
        known = np.repeat(np.arange(n, dtype=np.int64), np.diff(lower.indptr)) * n + lower.indices
        row, column = (turn[index].astype(np.int64) for index in rows)
        wanted = np.minimum(row, column) * n + np.maximum(row, column)
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        # Factors hold no zeros: those are of coefficients that are held.
        return np.where(known[place] == wanted, values[place], 0.0)

    def inverse(self):
        """Return the inverse, dense and symmetric: by LAPACK, faster than column by column."""
        lower, failed = dpotrf(self._matrix.toarray(order="F"), lower=1, overwrite_a=1)
        if not failed:
            lower, failed = dpotri(lower, lower=1, overwrite_c=1)
        if failed:
            inverse = self._lu.solve(np.eye(self._matrix.shape[0]))
            return 0.5 * (inverse + inverse.T)
        lower = np.tril(lower)
        diagonal = np.diagonal(lower).copy()
        lower += lower.T
        np.fill_diagonal(lower, diagonal)
        return lower


def _places(matrix):
    """Rows and columns of the entries of a sparse matrix, in the order of its data."""
    size = matrix.blocksize[0] if matrix.format == "bsr" else 1
    row = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
    within = np.arange(size)
    rows = size * row[:, None, None] + within[:, None] + 0 * within
    columns = size * matrix.indices[:, None, None] + within + 0 * within[:, None]
    return rows.ravel(), columns.ravel()


def _factorise(matrix):
    return _factorised(matrix)[1]


def _factorised(matrix):
    """Return a matrix, or where it is singular one near it, and its factors."""
    options = {
        "permc_spec": "MMD_AT_PLUS_A",
        "diag_pivot_thresh": 0.0,
        "options": {"SymmetricMode": True},
    }
    try:
        lu = splu(matrix, **options)
        # Sound chains of thousands of planes have pivots down to 1e-12 of the diagonal.
        if lu.U.diagonal().min() > 1e-14:
            return matrix, lu
    except RuntimeError:
        pass
    logger.info("the normal matrix is singular: the slopes that no pair sees stay near zero")
    matrix = (matrix + diags_array(np.full(matrix.shape[0], 1e-10))).tocsc()
    return matrix, splu(matrix, **options)


class Iterative:
    """A system solved by conjugate gradients, with algebraic multigrid before each step.

    Smoothed aggregation (Vanek, Mandel & Brezina 1996, Computing 56, 179): of levels that of
    pyamg, by strength of connection; of planes, whose energy is of fourth order,
    compact aggregates in which the mosaic-wide planes are exact, smoothed more. Of
    planes that are not too many the factors for some weights, in place of a multigrid, serve
    others. Nothing in it is random.

    Parameters
    ----------
    matrix : `~scipy.sparse.csr_matrix` or `~scipy.sparse.bsr_matrix`
        The system.
    modes : `~numpy.ndarray`, shape (m, k, k)
        What no overlap sees: the level, or plane, common to all groups, in the
        coefficients of the system; zero where a coefficient is fixed.
    centres : `~numpy.ndarray`, shape (m, 3)
        Unit vectors of the groups.
    work : float
        See `direct_work`.
    like : `Iterative` or None
        A system of other weights, whose multigrid is good enough for this one.
    """

    iterative = True

    def __init__(self, matrix, modes, centres, *, work=np.inf, like=None):
        self._matrix = matrix
        self.n_steps = 0
        self.borrowed = like is not None
        self.own_steps = None if like is None else like.own_steps
        if like is not None:
            self._before = like._before
        elif modes.shape[1] == 1:
            self._before = _level_multigrid(matrix, modes)
        elif work <= MAX_WORK_ONCE:
            self._before = LinearOperator(matrix.shape, _factorise(matrix.tocsc()).solve)
        else:
            self._before = _plane_multigrid(matrix, modes, centres)

    def solve(self, rhs, *, tolerance, most=None):
        """Return the solution for a right-hand side of shape (n,), and note the steps.

        ``tolerance`` is the norm of what may be left of it, if ``most`` steps get there.
        """
        most = MAX_STEPS if most is None else most
        solution = np.zeros(len(rhs))
        left = rhs.copy()
        self.n_steps = 0
        across = along = None
        while self.n_steps < most and np.sqrt(_dot(left, left)) > tolerance:
            better = self._before @ left
            before, along = along, _dot(left, better)
            across = better if across is None else better + (along / before) * across
            image = self._matrix @ across
            size = along / _dot(across, image)
            solution += size * across
            left -= size * image
            self.n_steps += 1
        if self.own_steps is None:
            self.own_steps = self.n_steps
        return solution


def _dot(a, b):
    """Scalar product, not by the threads of BLAS: its last bit does not depend on their number."""
    return np.einsum("i,i", a, b)


def _level_multigrid(matrix, modes):
    from pyamg import smoothed_aggregation_solver

    solver = smoothed_aggregation_solver(
        matrix,
        B=modes.reshape(-1, 1),
        symmetry="symmetric",
        strength=("symmetric", {"theta": STRENGTH}),
        # With local weights: the others come from random vectors.
        smooth=("jacobi", {"weighting": "local", "filter_entries": True}),
        improve_candidates=None,
        presmoother=("gauss_seidel", {"sweep": "forward"}),
        postsmoother=("gauss_seidel", {"sweep": "backward"}),
        max_coarse=200,
    )
    return solver.aspreconditioner(cycle="V")


def _plane_multigrid(matrix, modes, centres):
    from pyamg.multilevel import MultilevelSolver
    from pyamg.relaxation.smoothing import change_smoothers

    levels = []
    while True:
        level = MultilevelSolver.Level()
        level.A = matrix
        level.B = modes.reshape(-1, modes.shape[2])
        levels.append(level)
        if matrix.shape[0] <= MAX_COARSE:
            break
        level.P, modes, centres = _interpolation(matrix, modes, centres)
        level.R = level.P.T.tobsr((3, 3))
        matrix = _with_diagonal((level.R @ matrix @ level.P).tobsr((3, 3)))
    solver = MultilevelSolver(levels, coarse_solver=_Coarsest())
    smoother = {"iterations": 1, "blocksize": 3}
    change_smoothers(
        solver,
        ("block_gauss_seidel", {"sweep": "forward", **smoother}),
        ("block_gauss_seidel", {"sweep": "backward", **smoother}),
    )
    return solver.aspreconditioner(cycle="V")


class _Coarsest:
    """Solve the last level, factorised at its first use."""

    def __init__(self):
        self._lu = None

    def __call__(self, matrix, rhs):
        if self._lu is None:
            self._scale = 1 / np.sqrt(matrix.diagonal())
            scale = diags_array(self._scale)
            self._lu = _factorise((scale @ matrix @ scale).tocsc())
        flat = self._scale * np.ravel(rhs)
        return (self._scale * self._lu.solve(flat)).reshape(rhs.shape)


def _interpolation(matrix, modes, centres):
    """Return the smoothed interpolation from aggregates, and their modes and centres."""
    m = len(modes)
    label = _aggregates(centres, AGGREGATE)
    n = int(label.max()) + 1
    middle = sum_by(label, centres, n)
    # The planes about the aggregate's centre, made orthonormal over its groups.
    local = modes @ transfer_matrix(tangent_axes(middle), np.eye(3))[label]
    gram = sum_by(label, np.einsum("gik,gil->gkl", local, local), n)
    norm = np.sqrt(np.einsum("gii->gi", gram))
    norm = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
    size, turn = np.linalg.eigh(gram * norm[:, :, None] * norm[:, None, :])
    size = np.where(size > 1e-10, size, np.inf)
    local = local @ (norm[:, :, None] * turn / np.sqrt(size)[:, None, :])[label]
    coarse = sum_by(label, np.einsum("gik,gil->gkl", local, modes), n)
    interpolation = bsr_matrix((local, label, np.arange(m + 1)), shape=(3 * m, 3 * n))
    return _smoothed(matrix, interpolation), coarse, middle


def _smoothed(matrix, interpolation):
    """Smooth an interpolation by damped steps of the block diagonal's inverse."""
    m = matrix.shape[0] // 3
    inverse = bsr_matrix(
        (np.linalg.inv(_diagonal_blocks(matrix)), np.arange(m), np.arange(m + 1)),
        shape=matrix.shape,
    )
    step = (inverse @ matrix).tobsr((3, 3))
    vector = np.random.default_rng(0).standard_normal(3 * m)
    for _ in range(15):
        vector = step @ vector
        largest = np.linalg.norm(vector)
        vector /= largest
    # Of vectors the norm grows to the largest eigenvalue from below.
    damping = 4 / 3 / (1.05 * largest)
    for _ in range(N_SMOOTH):
        interpolation = (interpolation - damping * (step @ interpolation)).tobsr((3, 3))
    return interpolation


def _diagonal_blocks(matrix):
    row = np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))
    return matrix.data[row == matrix.indices]


def _with_diagonal(matrix):
    """Put ones where a diagonal is zero: coefficients of modes that an aggregate lacks."""
    lacking = matrix.diagonal() <= 0
    if lacking.any():
        matrix = (matrix + diags_array(lacking.astype(float))).tobsr((3, 3))
    matrix.sort_indices()
    return matrix


def _aggregates(centres, size):
    """Label groups by halving the set along its longest side until it is of ``size`` at most."""
    label = np.zeros(len(centres), dtype=np.int64)
    while True:
        count = np.bincount(label)
        if count.max() <= size:
            return label
        start = np.cumsum(count) - count
        by_label = centres[np.argsort(label, kind="stable")]
        extent = np.maximum.reduceat(by_label, start) - np.minimum.reduceat(by_label, start)
        along = centres[np.arange(len(centres)), extent.argmax(axis=1)[label]]
        order = np.lexsort((along, label))
        rank = np.empty(len(centres), dtype=np.int64)
        rank[order] = np.arange(len(centres))
        rank -= start[label]
        upper = (rank >= count[label] // 2) & (count[label] > size)
        label = np.unique(2 * label + upper, return_inverse=True)[1]
