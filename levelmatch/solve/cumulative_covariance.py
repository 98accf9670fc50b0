# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Covariance of the corrections of all passes.

A later pass solves the residuals of the earlier corrections, so it inherits their errors. All
pairs of an image share the error of its earlier correction. Let c be the earlier corrections,
with covariance C, and x the solution of the pass, with covariance X for exact c. An error e of c
changes x by -R e. The covariance of c + x is therefore M C M^T + X, with M = 1 - R.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy.sparse import coo_array, csr_array

from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve.linear import one_thread
from levelmatch.solve.shared_pattern import follow
from levelmatch.solve.solution import MAX_DENSE

__all__ = ["Carried"]


@dataclass(frozen=True, eq=False)
class Carried:
    """Covariance of the corrections of all images after one or more passes.

    Parameters
    ----------
    matrix_of : callable
        Returns `matrix`; called once, when it is needed.
    n_terms : int
        k: 1 if all corrections are levels, else 3.
    exact : bool
        Whether the covariance is zero.
    spread : `~numpy.ndarray`, shape (n, 3, r), or None
        Square root of the covariance that a pattern of the detectors adds.
    columns : `~numpy.ndarray`, shape (n_pairs, 3, r), or None
        The same for the differences of the pairs: the part that the corrections leave.
    """

    matrix_of: Callable[[], np.ndarray]
    n_terms: int
    exact: bool = False
    spread: np.ndarray | None = None
    columns: np.ndarray | None = None

    @cached_property
    def matrix(self):
        """Covariance of the coefficients of the images' corrections, shape (n * k, n * k).

        Each is about its image's own centre, in the common unit.
        """
        return self.matrix_of()

    @classmethod
    def of(cls, frames, pattern=None):
        """Return the covariance before the first pass: the variances of known corrections.

        `None` if it is too large. ``pattern`` is the pattern of the detectors, if the run has one.
        """
        if len(frames) > MAX_DENSE:
            return None
        totals = (sum((a.variance for a in f.corrections), np.zeros(3)) for f in frames)
        variances = np.array([t * f.scale**2 for t, f in zip(totals, frames, strict=True)])
        n_terms = 3 if variances[:, 1:].any() else 1
        variances = np.nan_to_num(variances[:, :n_terms]).ravel()
        matrix_of, exact = partial(np.diag, variances), not variances.any()
        if pattern is None:
            return cls(matrix_of, n_terms, exact)
        spread = np.zeros((len(frames), 3, pattern.columns.shape[2]))
        return cls(matrix_of, n_terms, exact, spread, pattern.columns)

    @property
    def variances(self):
        """Variance of each image's level and slopes, shape (n, 3)."""
        out = np.zeros((len(self.matrix) // self.n_terms, 3))
        out[:, : self.n_terms] = np.diagonal(self.matrix).reshape(-1, self.n_terms)
        return out if self.spread is None else out + np.square(self.spread).sum(axis=2)

    def covariance(self, i, j):
        """Return the covariance of the corrections of images i and j, shape (3, 3)."""
        k = self.n_terms
        out = np.zeros((3, 3))
        out[:k, :k] = self.matrix[k * i : k * (i + 1), k * j : k * (j + 1)]
        return out if self.spread is None else out + self.spread[i] @ self.spread[j].T

    def with_mean(self, weights):
        """Return the covariances of the levels with their weighted mean, shape (n,)."""
        k = self.n_terms
        out = self.matrix[::k, ::k] @ weights
        if self.spread is not None:
            level = self.spread[:, 0]
            out = out + level @ (weights @ level)
        return out

    def inherited(self, result, frames, table):
        """Return the covariance that the earlier corrections give to a pass, shape (m, m).

        `None` if it is zero or too large, or if the pass fits planes.

        Parameters
        ----------
        result, frames, table
            See `after`.
        """
        n_groups, terms = result.solution.coefficients.shape
        most = max(len(frames) * self.n_terms, n_groups)
        if self.exact or terms > 1 or most > MAX_DENSE:
            return None
        axes = np.array([frame.whole_grid.axes for frame in frames])
        response = _response(result, axes, table, self.n_terms)
        return response @ self.matrix @ response.T

    def after(self, result, frames, table):
        """Return the covariance after one more pass, or `None` if it is too large.

        Parameters
        ----------
        result : `~levelmatch.solve.passes.Pass`
            The solved pass.
        frames : list of `~levelmatch.images.frame.Frame`
            All images, sorted by name.
        table : `~levelmatch.measure.table.PairTable`
            All pairs.
        """
        k = max(self.n_terms, result.solution.coefficients.shape[1])
        if len(frames) * k > MAX_DENSE or result.solution.coefficients.size > MAX_DENSE:
            return None
        axes = np.array([frame.whole_grid.axes for frame in frames])
        spread = columns = None
        if self.columns is not None:
            response, columns = follow(result, table, self.columns)
            more = result.transfer(result.group, axes) @ response[result.group]
            spread = self.spread.copy()
            spread[:, : more.shape[1]] += more
        matrix_of = partial(_after, self, result, axes, table, k)
        return Carried(matrix_of, k, spread=spread, columns=columns)


@one_thread
def _after(before, result, axes, table, k):
    """Return the covariance after a pass, shape (n * k, n * k)."""
    spread = _to_images(result, axes, k)
    # The unknown error of an isolated group enters no other.
    new = spread @ (spread @ np.nan_to_num(result.solution.covariance_matrix)).T
    if before.exact:
        return new
    own = _with_terms(before.matrix, before.n_terms, k)
    response = _response(result, axes, table, k)
    half = own - spread @ (response @ own)
    return half - (spread @ (response @ half.T)).T + new


def _with_terms(matrix, old, new):
    """Return a covariance with more terms of each image; the variance of new terms is zero."""
    if old == new:
        return matrix
    n = len(matrix) // old
    out = np.zeros((n, new, n, new))
    out[:, :old, :, :old] = matrix.reshape(n, old, n, old)
    return out.reshape(n * new, n * new)


def _to_images(result, axes, k):
    """Return the sparse matrix from the groups' coefficients to the images'."""
    group, change = result.group, result.transfer(result.group, axes)
    terms = change.shape[2]
    blocks = np.zeros((len(group), k, terms))
    blocks[:, :terms] = change
    return _sparse(blocks, np.arange(len(group)), group, len(result.group_axes))


def _response(result, axes, table, k):
    """Return the matrix R: an error e of the earlier corrections changes the solution by -R e."""
    rows = result.kept_rows
    first, second = table.first[rows], table.second[rows]
    solution, group = result.solution, result.group
    terms = solution.coefficients.shape[1]
    gram = table.multiplicity[rows, None, None] * table.gram[rows]
    factor = solution.weight / gram[:, 0, 0]
    weighted = factor[:, None, None] * gram[:, :terms]
    n_images, n_groups = len(axes), len(result.group_axes)
    total = csr_array((n_groups * terms, n_images * k))
    ends = (first, 1.0), (second, -1.0)
    for at, sign in ends:
        to_group = result.transfer(group[at], table.axes[rows])
        left = to_group.swapaxes(1, 2) @ weighted
        for image, other in ends:
            to_pair = transfer_matrix(axes[image], table.axes[rows])[:, :, :k]
            blocks = sign * other * left @ to_pair
            total = total + _sparse(blocks, group[at], image, n_images, n_groups)
    return solution.respond(total.toarray())


def _sparse(blocks, rows, columns, n_columns, n_rows=None):
    """Return the sparse matrix that is the sum of blocks, shape (n, a, b), at their places."""
    n, a, b = blocks.shape
    n_rows = n if n_rows is None else n_rows
    row = (a * rows[:, None, None] + np.arange(a)[None, :, None]) + np.zeros((1, 1, b), int)
    column = (b * columns[:, None, None] + np.arange(b)[None, None, :]) + np.zeros((1, a, 1), int)
    shape = n_rows * a, n_columns * b
    return coo_array((blocks.ravel(), (row.ravel(), column.ravel())), shape=shape).tocsr()
