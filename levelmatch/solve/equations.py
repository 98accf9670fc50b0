# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The normal equations of the pairs of one pass."""

from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import numpy as np
from scipy.sparse import bsr_array, csr_array

from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve._pairs import level_diagonal, level_gradient, level_links, level_squares
from levelmatch.solve.dissection import Dissection
from levelmatch.solve.linear import NormalMatrix, sum_by

__all__ = ["NONE_KNOWN", "Equations", "KnownErrors", "times"]

# Number of coefficients that are eliminated at once as a dense matrix. Fewer need more calls, more
# need more operations.
LARGEST_FRONT = 48


@dataclass(frozen=True, eq=False)
class KnownErrors:
    """Parts of the errors of pairs, by their causes; `None` for none.

    Parameters
    ----------
    shared : `~numpy.ndarray`, shape (n, k, k), or None
        Covariance of the right-hand sides by noise that is not in the normal matrices.
    of_scales : `~numpy.ndarray`, shape (n,), or None
        Fraction of each pair's variance that is the effect of unequal flux scales.
    of_wings : `~numpy.ndarray`, shape (n,), or None
        Effect of the wings of stars on the level of each pair, which loops do not show.
    """

    shared: np.ndarray | None = None
    of_scales: np.ndarray | None = None
    of_wings: np.ndarray | None = None

    def take(self, rows):
        """Return the parts of some pairs."""
        parts = (self.shared, self.of_scales, self.of_wings)
        return KnownErrors(*(None if part is None else part[rows] for part in parts))


# For pairs whose errors have no known part.
NONE_KNOWN = KnownErrors()


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
    short : `~numpy.ndarray` of bool, shape (n,), or None
        Flags of short overlaps, which do not determine the floor; `None` for none.
    known : `KnownErrors`
        Parts of the errors of the pairs.
    """

    first: np.ndarray
    second: np.ndarray
    gram: np.ndarray
    rhs: np.ndarray
    axes: np.ndarray
    group_axes: np.ndarray
    short: np.ndarray | None = None
    known: KnownErrors = NONE_KNOWN

    def part(self, rows, groups):
        """Return the equations of some pairs and groups alone, without shared noise.

        Parameters
        ----------
        rows : `~numpy.ndarray` of int
            Pairs.
        groups : `~numpy.ndarray` of int
            Groups, ascending, among them those of the pairs.
        """
        return replace(
            self,
            first=np.searchsorted(groups, self.first[rows]),
            second=np.searchsorted(groups, self.second[rows]),
            gram=self.gram[rows],
            rhs=self.rhs[rows],
            axes=self.axes[rows],
            group_axes=self.group_axes[groups],
            short=None if self.short is None else self.short[rows],
            known=replace(self.known.take(rows), shared=None),
        )

    def forget(self):
        """Free the memory of everything that is computed from the pairs."""
        for name in set(vars(self)) - {f.name for f in fields(self)}:
            del vars(self)[name]

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
            return (self.gram[:, 0, 0] > 0).astype(np.int8)
        scale = np.sqrt(np.einsum("pii->pi", self.gram))
        scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        size = np.linalg.eigvalsh(self.gram * scale[:, :, None] * scale[:, None, :])
        return np.sum(size > 1e-10, axis=1, dtype=np.int8)

    def differences(self, coefficients):
        """Return the first minus the second correction of each pair at its centre, shape (n, k)."""
        if self.n_terms == 1:
            return coefficients.take(self.first, axis=0) - coefficients.take(self.second, axis=0)
        return (self._design[0] @ coefficients.ravel()).reshape(-1, self.n_terms)

    def residuals(self, coefficients):
        """Return the residual of each pair's coefficients, shape (n, k)."""
        differences = self.differences(coefficients)
        return np.subtract(self.measured, differences, out=differences)

    def level_residuals(self, coefficients):
        """Return the residual of each pair's weighted mean difference, shape (n,)."""
        residual = self.residuals(coefficients)
        return np.einsum("pj,pj->p", self.gram[:, 0], residual) / self.gram[:, 0, 0]

    def quadratic(self, coefficients):
        """Return the contribution of each pair to the objective for unit weight, shape (n,)."""
        if self.n_terms == 1:
            columns = self.gram[:, 0, 0], self.measured[:, 0], coefficients[:, 0]
            return level_squares(self.first, self.second, *columns)
        residual = self.residuals(coefficients)
        return np.einsum("pi,pi->p", residual, times(self.gram, residual))

    def gradient(self, weights, coefficients, prior=None):
        """Return the residual of the normal equations for given coefficients, shape (m, k).

        It is computed from the residuals of the pairs, because the normal matrix has larger
        rounding errors.
        """
        if self.n_terms == 1:
            columns = self.gram[:, 0, 0], self.rhs[:, 0], weights, coefficients[:, 0]
            return level_gradient(self.first, self.second, *columns)[:, None]
        left = self.rhs
        if coefficients.any():
            left = left - times(self.gram, self.differences(coefficients))
        left = weights[:, None] * left
        vector = (self._design[1] @ left.ravel()).reshape(-1, self.n_terms)
        if prior is not None:
            vector[:, 1:] -= coefficients[:, 1:] / prior**2
        return vector

    @cached_property
    def _design(self):
        """Sparse matrix from the coefficients of the groups to differences, and its transpose."""
        n, k = self.rhs.shape
        blocks = np.concatenate([self.transfer[0], -self.transfer[1]], axis=1).reshape(-1, k, k)
        columns = np.stack([self.first, self.second], axis=1).ravel()
        shape = n * k, self.n_groups * k
        design = bsr_array((blocks, columns, 2 * np.arange(n + 1)), shape=shape)
        return design, design.T

    def of_pairs(self, across):
        """Return the block of each pair's first group with its second, shape (n, k, k).

        Parameters
        ----------
        across : `~numpy.ndarray`, shape (n_links, k, k)
            Blocks of a symmetric matrix, see `assemble`.
        """
        link, _ = self._links
        swapped = self.first > self.second
        across = across.copy() if link is None else across[link]
        across[swapped] = across[swapped].swapaxes(1, 2)
        return across

    def leverages(self, weights, own, across):
        """Return each pair's block of the hat matrix in units of its errors, shape (n, k, k).

        Parameters
        ----------
        weights : `~numpy.ndarray`, shape (n,)
            Factors on the pairs' normal matrices.
        own, across : `~numpy.ndarray`, shape (m, k, k) and (n, k, k)
            Covariances of each group's coefficients, and between each pair's groups.
        """
        one, two = own.take(self.first, axis=0), own.take(self.second, axis=0)
        if self.n_terms == 1:
            one += two
            one -= 2 * across
            return one * (weights[:, None, None] * self.gram)
        first, second = np.sqrt(weights)[:, None, None] * self.root @ self.transfer
        cross = first @ across @ second.swapaxes(1, 2)
        hat = first @ one @ first.swapaxes(1, 2) + second @ two @ second.swapaxes(1, 2)
        return hat - cross - cross.swapaxes(1, 2)

    @cached_property
    def _links(self):
        """Linked pairs of groups, which are the same for all weights.

        Returns
        -------
        link : `~numpy.ndarray` of intp, shape (n,), or None
            The link of each pair; `None` if each pair has its own, in the same order.
        ends : `~numpy.ndarray` of intc, shape (2, n_links)
            The two groups of each link, low and high.
        """
        n = self.n_groups
        code = np.minimum(self.first, self.second).astype(np.int64) * n
        code += np.maximum(self.first, self.second)
        if (code[1:] > code[:-1]).all():
            link = None
        else:
            code, link = np.unique(code, return_inverse=True)
        return link, np.stack([code // n, code % n]).astype(np.intc)

    @cached_property
    def dissection(self):
        """Order in which the groups are eliminated."""
        centres = self.group_axes[:, 0]
        return Dissection(*self._links[1], centres, LARGEST_FRONT // self.n_terms)

    @cached_property
    def _products(self):
        """Normal matrices of pairs in the bases of their groups, and where they add up.

        Returns
        -------
        own : callable
            Function of the weights, which returns the sums of each pair's first group
            with itself, and of its second, at the groups.
        across : callable
            The same of the lower of each pair's groups with the higher, at the links.
        """
        n, k = self.rhs.shape
        left = self.transfer[0].swapaxes(1, 2) @ self.gram
        across = -left @ self.transfer[1]
        swapped = self.first > self.second
        across[swapped] = across[swapped].swapaxes(1, 2)
        second = self.transfer[1].swapaxes(1, 2) @ self.gram @ self.transfer[1]
        own = np.concatenate([left @ self.transfer[0], second])
        link, ends = self._links
        at = np.concatenate([self.first, self.second])
        return _sums(at, own, self.n_groups), _sums(link, across, ends.shape[1])

    def diagonal(self, weights, prior=None):
        """Return the diagonal of the normal matrix for weights of shape (n,), shape (m, k)."""
        if self.n_terms == 1:
            columns = self.gram[:, 0, 0], weights, self.n_groups
            return level_diagonal(self.first, self.second, *columns)[:, None]
        diagonal = np.einsum("mii->mi", self._products[0](weights)).copy()
        if prior is not None:
            diagonal[:, 1:] += prior**-2
        return diagonal

    def assemble(self, weights, prior=None, scale=None):
        """Return the `~levelmatch.solve.linear.NormalMatrix` for weights of shape (n,).

        With factors of its rows and columns, shape (m, k), zeros on the diagonal become ones.
        """
        link, ends = self._links
        if self.n_terms == 1:
            own = self.diagonal(weights)[:, :, None]
            factors = np.ones(self.n_groups) if scale is None else scale[:, 0]
            columns = self.gram[:, 0, 0], weights, factors
            across = level_links(self.first, self.second, *columns)[:, None, None]
            if link is not None:
                across = sum_by(link, across, ends.shape[1])
        else:
            own, across = (sums(weights) for sums in self._products)
            if prior is not None:
                own[:, [1, 2], [1, 2]] += prior**-2
            if scale is not None:
                across *= scale.take(ends[0], axis=0)[:, :, None]
                across *= scale.take(ends[1], axis=0)[:, None, :]
        if scale is not None:
            own *= scale[:, :, None] * scale[:, None, :]
            diagonal = np.einsum("mii->mi", own)
            diagonal[diagonal <= 0] = 1.0
        return NormalMatrix(own, across, ends)


def _sums(label, matrices, n):
    """Return a function of the pairs' weights: weighted sums of matrices of each of n labels.

    A pair of several rows has the same weight in all of them. `None` for the labels leaves each
    matrix by itself. The sums have shape (n, k, k).
    """
    shape = n, *matrices.shape[1:]
    matrices = matrices.reshape(len(matrices), shape[1] * shape[2])
    if label is None:
        return partial(_weighted, shape, matrices)
    order = np.argsort(label, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=n))])
    return partial(_weighted_sums, shape, matrices, order, start)


def _weighted(shape, matrices, weights):
    return (weights[:, None] * matrices).reshape(shape)


def _weighted_sums(shape, matrices, order, start, weights):
    weights = weights[order % max(len(weights), 1)]
    sums = csr_array((weights, order, start), shape=(shape[0], len(matrices)))
    return (sums @ matrices).reshape(shape)


def times(matrices, vectors):
    """Return the products of matrices, shape (n, k, k), and vectors, shape (n, k)."""
    if vectors.shape[1] == 1:
        return matrices[:, 0] * vectors
    return np.einsum("pij,pj->pi", matrices, vectors)
