# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redundancy of the pairs, and their studentised residuals."""

from dataclasses import dataclass

import numpy as np

__all__ = ["Studentised", "redundancy", "studentised"]

# Directions of a pair's difference with less redundancy cannot be tested: the pair is the only
# link of two sets, or nearly so.
LEAST_REDUNDANCY = 1e-3
# Leverages for some weights serve others, of which only a few differ by more than this factor.
MAX_CHANGE = 5.0


def redundancy(equations, solved):
    """Return the redundancy: the fraction of a pair's error left in its residual, shape (n, k, k).

    It is I - H, where H is the pair's block of the hat matrix of differences in standard errors.
    If the weights are inverse variances, it is the covariance of the pair's residual. Its trace
    is the redundancy number (Baarda 1968, A testing procedure for use in geodetic networks): k
    for a pair among many, 0 for the only link of two sets. In a large system, the redundancy for
    earlier weights is corrected for the change of the weights around each pair, to about 1 %.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        The pairs.
    solved : `~levelmatch.solve.solver.Solved`
        The solution.
    """
    one = np.eye(equations.n_terms)
    known = next((s for s in solved.served_by() if solved.near(s, MAX_CHANGE)), None)
    if known is None:
        return one - _hat(equations, solved)
    hat = _hat(equations, known)
    ratio = solved.factor / known.factor
    ratio = (ratio / _around_ratio(equations, solved.factor, known.factor))[:, None, None]
    change = hat + (one - hat) / ratio
    return one - (hat / change if len(one) == 1 else np.linalg.solve(change, hat))


def _around_ratio(equations, factor, before):
    """Return how much stronger the links around each pair's images are than for other factors."""
    ends = equations.first, equations.second
    around = []
    for values in (factor, before):
        weight = values * equations.gram[:, 0, 0]
        total = equations.sum_at_groups(weight, weight)
        one, two = (total[end] - weight for end in ends)
        # In series; beyond its rounding errors, so that the only link has a ratio of one.
        around.append(one * two / (one + two + weight) + 1e-6 * weight)
    return around[0] / around[1]


def _hat(equations, solved):
    """Return each pair's block of the hat matrix, in units of its errors, shape (n, k, k)."""
    root = np.sqrt(solved.factor)[:, None, None] * equations.root
    own, across = solved.covariance_blocks()
    one, two = (root @ transfer for transfer in equations.transfer)
    cross = one @ across @ two.swapaxes(1, 2)
    hat = one @ own[equations.first] @ one.swapaxes(1, 2)
    hat += two @ own[equations.second] @ two.swapaxes(1, 2)
    return hat - (cross + cross.swapaxes(1, 2))


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
