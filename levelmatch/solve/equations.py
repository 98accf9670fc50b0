# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The normal equations of the pairs of one pass."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import bsr_matrix, coo_array, csr_matrix

from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve.dissection import Dissection
from levelmatch.solve.linear import sum_by

__all__ = ["Equations"]

# Number of coefficients that are eliminated at once as a dense matrix. Fewer take more calls, more
# take more operations.
LARGEST_FRONT = 96


@dataclass(frozen=True, eq=False)
class Equations:
    """The normal equations of the pairs of one pass.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of intp, shape (n,)
        Groups of each pair.
    gram : `~numpy.ndarray`, shape (n, k, k)
        Normal matrix of each pair; k is 1 for levels and 3 for planes.
    rhs : `~numpy.ndarray`, shape (n, k)
        Right-hand side of each pair.
    axes : `~numpy.ndarray`, shape (n, 3, 3)
        Centre, East and North of each pair.
    group_axes : `~numpy.ndarray`, shape (m, 3, 3)
        Centre, East and North of each group.
    """

    first: np.ndarray
    second: np.ndarray
    gram: np.ndarray
    rhs: np.ndarray
    axes: np.ndarray
    group_axes: np.ndarray

    @property
    def n_terms(self):
        """Number of coefficients of a group."""
        return self.rhs.shape[1]

    @property
    def n_groups(self):
        """Number of groups."""
        return len(self.group_axes)

    @cached_property
    def transfer(self):
        """Changes of basis from the two groups of each pair to the pair, shape (2, n, k, k)."""
        if self.n_terms == 1:
            return np.broadcast_to(np.ones((1, 1)), (2, len(self.first), 1, 1))
        return np.stack(
            [
                transfer_matrix(self.group_axes[side], self.axes)
                for side in (self.first, self.second)
            ]
        )

    @cached_property
    def measured(self):
        """Minimum-norm solution of each pair alone, shape (n, k)."""
        if self.n_terms == 1:
            own = self.gram[:, 0]
            return np.divide(self.rhs, own, out=np.zeros_like(self.rhs, dtype=float), where=own > 0)
        return np.einsum(
            "pij,pj->pi", np.linalg.pinv(self.gram, rcond=1e-12, hermitian=True), self.rhs
        )

    @cached_property
    def root(self):
        """Square roots of the pairs' normal matrices, shape (n, k, k)."""
        if self.n_terms == 1:
            return np.sqrt(self.gram)
        size, turn = np.linalg.eigh(self.gram)
        return (turn * np.sqrt(np.maximum(size, 0.0))[:, None]) @ turn.swapaxes(1, 2)

    @cached_property
    def rank(self):
        """Number of coefficients that each pair measures, shape (n,)."""
        if self.n_terms == 1:
            return (self.gram[:, 0, 0] > 0).astype(int)
        scale = np.sqrt(np.einsum("pii->pi", self.gram))
        scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        size = np.linalg.eigvalsh(self.gram * scale[:, :, None] * scale[:, None, :])
        return np.sum(size > 1e-10, axis=1)

    def differences(self, coefficients):
        """Return the first minus the second correction of each pair at its centre, shape (n, k)."""
        if self.n_terms == 1:
            return coefficients[self.first] - coefficients[self.second]
        model = np.einsum("pij,pj->pi", self.transfer[0], coefficients[self.first])
        model -= np.einsum("pij,pj->pi", self.transfer[1], coefficients[self.second])
        return model

    def residuals(self, coefficients):
        """Return the residual of each pair's coefficients, shape (n, k)."""
        return self.measured - self.differences(coefficients)

    def level_residuals(self, coefficients):
        """Return the residual of each pair's weighted mean difference, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pj,pj->p", self.gram[:, 0], residual) / self.gram[:, 0, 0]

    def quadratic(self, coefficients):
        """Return the contribution of each pair to the objective for unit weight, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pi,pi->p", residual, _times(self.gram, residual))

    def gradient(self, weights, coefficients, prior=None):
        """Return the residual of the normal equations for given coefficients, shape (m, k).

        It is computed from the residuals of the pairs, because the normal matrix has larger
        rounding errors.
        """
        left = self.rhs
        if coefficients.any():
            left = left - _times(self.gram, self.differences(coefficients))
        vector = self._scatter(weights[:, None] * left)
        if prior is not None:
            vector[:, 1:] -= coefficients[:, 1:] / prior**2
        return vector

    def _scatter(self, values):
        """Return the sums of values of pairs, shape (n, k), at their groups, shape (m, k)."""
        right = [values, values]
        if self.n_terms > 1:
            right = [np.einsum("pji,pj->pi", change, values) for change in self.transfer]
        added = sum_by(self.first, right[0], self.n_groups)
        return added - sum_by(self.second, right[1], self.n_groups)

    def sum_at_groups(self, first, second):
        """Return the sums at the groups of values of pairs for their two groups, shape (n, ...)."""
        n = self.n_groups
        return sum_by(self.first, first, n) + sum_by(self.second, second, n)

    def split_blocks(self, blocks):
        """Split blocks in the order of `assemble` into diagonal (groups) and off-diagonal (pairs).

        Parameters
        ----------
        blocks : `~numpy.ndarray`, shape (m + 2 n_joined, k, k)
            Blocks of a symmetric matrix. One of each two transposed blocks is zero.

        Returns
        -------
        own : `~numpy.ndarray`, shape (m, k, k)
            Diagonal block of each group.
        across : `~numpy.ndarray`, shape (n, k, k)
            Block of the first and the second group of each pair.
        """
        joined, order, *_ = self._pattern
        place = np.argsort(order)
        low, high = place[self.n_groups :].reshape(2, -1)[:, joined]
        across = blocks[low] + blocks[high].swapaxes(1, 2)
        swapped = self.first > self.second
        across[swapped] = across[swapped].swapaxes(1, 2)
        return blocks[place[: self.n_groups]], across

    @cached_property
    def _pattern(self):
        """Positions of the blocks of the normal matrix, which are the same for all weights.

        Returns
        -------
        joined : `~numpy.ndarray` of intp, shape (n,)
            Index of the linked pair of groups, low and high, of each pair.
        order : `~numpy.ndarray` of intp, shape (m + 2 n_joined,)
            The block at each place: diagonal blocks, blocks above the diagonal, and blocks below.
        row, column, start : `~numpy.ndarray`
            Row and column of each place, and the first place of each row.
        """
        n = self.n_groups
        code = np.minimum(self.first, self.second).astype(np.int64) * n
        code += np.maximum(self.first, self.second)
        code, joined = np.unique(code, return_inverse=True)
        low, high = code // n, code % n
        own = np.arange(n)
        rows, columns = np.concatenate([own, low, high]), np.concatenate([own, high, low])
        numbers = np.arange(1, len(rows) + 1)
        placed = coo_array((numbers, (rows, columns)), shape=(n, n)).tocsr()
        placed.sort_indices()
        row = np.repeat(own, np.diff(placed.indptr))
        return joined, placed.data - 1, row, placed.indices, placed.indptr

    @cached_property
    def dissection(self):
        """Order in which the groups are eliminated."""
        _, _, row, column, _ = self._pattern
        return Dissection(row, column, self.group_axes[:, 0], LARGEST_FRONT // self.n_terms)

    def assemble(self, weights, prior=None):
        """Return the sparse normal matrix for weights of shape (n,), in blocks of (k, k)."""
        joined, order, row, column, start = self._pattern
        k, n = self.n_terms, self.n_groups
        n_joined = (len(order) - n) // 2
        gram = weights[:, None, None] * self.gram
        left = gram if k == 1 else self.transfer[0].swapaxes(1, 2) @ gram
        across = -left if k == 1 else -left @ self.transfer[1]
        if k > 1:
            swapped = self.first > self.second
            across[swapped] = across[swapped].swapaxes(1, 2)
        own = [left, left]
        if k > 1:
            own = [left @ self.transfer[0], self._turned(gram)]
        blocks = np.concatenate(
            [
                sum_by(self.first, own[0], n) + sum_by(self.second, own[1], n),
                across := sum_by(joined, across, n_joined),
                across.swapaxes(1, 2),
            ]
        )
        if prior is not None and k > 1:
            blocks[:n, [1, 2], [1, 2]] += prior**-2
        if k == 1:
            return csr_matrix((blocks.ravel()[order], column, start), shape=(n, n))
        return bsr_matrix((blocks[order], column, start), shape=(k * n, k * n))

    def _turned(self, gram):
        """Return normal matrices of pairs in the bases of their second groups."""
        return self.transfer[1].swapaxes(1, 2) @ gram @ self.transfer[1]


def _times(matrices, vectors):
    """Return the products of matrices, shape (n, k, k), and vectors, shape (n, k)."""
    if vectors.shape[1] == 1:
        return matrices[:, 0] * vectors
    return np.einsum("pij,pj->pi", matrices, vectors)
