# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redundancy of the pairs, and their studentised residuals."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Studentised", "redundancy", "studentised"]

# Directions of a pair's difference with less redundancy cannot be tested: the pair is the only
# link of two sets, or nearly so.
LEAST_REDUNDANCY = 1e-3


def redundancy(equations, solved):
    """Return the redundancy: the fraction of a pair's error left in its residual, shape (n, k, k).

    It is I - H, where H is the pair's block of the hat matrix of differences in standard errors.
    If the weights are inverse variances, it is the covariance of the pair's residual. Its trace
    is the redundancy number (Baarda 1968, A testing procedure for use in geodetic networks): k
    for a pair among many, 0 for the only link of two sets. It is exact if the system is
    factorised, and otherwise estimated from the pairs of the same images.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs.
    solved : `~levelmatch.solve.solver.Solved`
        The solution.
    """
    k = equations.n_terms
    root = np.sqrt(solved.factor)[:, None, None] * equations.root
    entries = None if solved.system.iterative else solved.system.entries(solved.matrix)
    if entries is None:
        return _local_redundancy(equations, solved, root)
    own, across = equations.split_blocks(entries.reshape(-1, k, k))
    scale = solved.scale
    one = root @ (equations.transfer[0] * scale[equations.first][:, None, :])
    two = root @ (equations.transfer[1] * scale[equations.second][:, None, :])
    cross = one @ across @ two.swapaxes(1, 2)
    hat = one @ own[equations.first] @ one.swapaxes(1, 2)
    hat += two @ own[equations.second] @ two.swapaxes(1, 2)
    hat -= cross + cross.swapaxes(1, 2)
    return np.eye(k) - hat


def _local_redundancy(equations, solved, root):
    """Return the redundancy by the other pairs of each pair's two images.

    All other images are taken as fixed, which makes the leverages too small. They are scaled so
    that their sum is the number of unknowns.
    """
    k = equations.n_terms
    if k == 1:
        weight = np.square(root[:, 0, 0])
        total = equations.sum_at_groups(weight, weight)
        one, two = total[equations.first] - weight, total[equations.second] - weight
        both = one + two
        around = np.divide(one * two, both, out=np.zeros_like(both), where=both > 0)
        hat = (weight / (weight + around))[:, None, None]
        return _scaled(hat, solved)
    gram = root.swapaxes(1, 2) @ root
    transfer = equations.transfer
    total = equations.sum_at_groups(*(t.swapaxes(1, 2) @ gram @ t for t in transfer))
    one, two = (
        back.swapaxes(1, 2) @ total[side] @ back - gram
        for side, back in zip(
            (equations.first, equations.second), np.linalg.inv(transfer), strict=True
        )
    )
    # The weights of both images' other pairs, in series.
    around = one @ np.linalg.pinv(one + two, rcond=1e-10, hermitian=True) @ two
    hat = root @ np.linalg.pinv(gram + around, rcond=1e-10, hermitian=True) @ root.swapaxes(1, 2)
    return _scaled(hat, solved)


def _scaled(hat, solved):
    """Return the redundancy, with leverages that are scaled up to the number of unknowns."""
    found = np.trace(hat, axis1=1, axis2=2).sum()
    unknown = np.count_nonzero(solved.scale)
    return np.eye(hat.shape[1]) - hat * (max(unknown / found, 1.0) if found > 0 else 1.0)


@dataclass(frozen=True, eq=False)
class Studentised:
    """Distance of each pair's difference from its prediction by all others.

    Parameters
    ----------
    square : `~numpy.ndarray`, shape (n,)
        Squared Mahalanobis distance. For a counted pair, the drop of the weighted sum of squares
        without it.
    terms : `~numpy.ndarray` of int, shape (n,)
        Its degrees of freedom: number of directions that can be tested, 0 for the only link.
    """

    square: np.ndarray
    terms: np.ndarray

    @property
    def n_sigma(self):
        """Root mean square over the directions that can be tested, shape (n,); 0 without any."""
        return np.sqrt(self.square / np.maximum(self.terms, 1))


def studentised(equations, solved, left, precision, counted):
    """Return the `Studentised` differences of all pairs.

    Parameters
    ----------
    equations, solved
        See `redundancy`.
    left : `~numpy.ndarray`, shape (n, k, k)
        From `redundancy`.
    precision : `~numpy.ndarray`, shape (n,)
        Factors on the pairs' normal matrices that make them inverse covariances.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs with their full weight in the solution. The others count as without weight.
    """
    root = np.sqrt(precision)[:, None, None] * equations.root
    residual = np.einsum("pij,pj->pi", root, equations.residuals(solved.coefficients))
    k = equations.n_terms
    variance = left.copy()
    if not counted.all():
        ratio = (precision / solved.factor)[~counted, None, None]
        # A pair without weight differs from its prediction by both variances.
        variance[~counted] = np.eye(k) + ratio * (np.eye(k) - left[~counted])
    if k == 1:
        size, part = variance[:, :, 0], residual
    else:
        size, turn = np.linalg.eigh(variance)
        part = np.einsum("pij,pi->pj", turn, residual)
    seen = (size > LEAST_REDUNDANCY) & np.isfinite(size)
    square = np.sum(np.divide(part**2, size, out=np.zeros_like(part), where=seen), axis=1)
    # Directions that the pair does not measure have no residual.
    return Studentised(square, np.minimum(seen.sum(axis=1), equations.rank))
