# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redundancy of the pairs, and their studentised residuals."""

from dataclasses import dataclass

import numpy as np

from levelmatch.solve.linear import inverses

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
    others = [] if solved.inverted else solved.served_by()
    known = next((s for s in others if solved.near(s, MAX_CHANGE)), None)
    if known is None:
        return one - solved.hat
    # How much stronger a pair is, against how much stronger the links around its images are.
    ratio = solved.factor / known.factor * known.around / solved.links_around()
    inverse, _ = inverses(known.hat + (one - known.hat) / ratio[:, None, None])
    return one - inverse @ known.hat


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
    square, terms = _squares(variance, residual)
    # Directions that the pair does not measure have no residual.
    return Studentised(square, np.minimum(terms, equations.rank))


def _squares(variance, residual):
    """Return the squared distances of residuals from zero, and how many directions they have."""
    if residual.shape[1] == 1:
        return _seen_squares(variance[:, :, 0], residual)
    inverse, least = inverses(variance)
    # Rounding errors may be negative.
    square = np.maximum(np.einsum("pi,pij,pj->p", residual, inverse, residual), 0.0)
    terms = np.full(square.shape, residual.shape[1], dtype=np.int8)
    rows = np.flatnonzero(~(least > LEAST_REDUNDANCY))
    size, turn = np.linalg.eigh(variance[rows])
    part = np.einsum("pij,pi->pj", turn, residual[rows])
    square[rows], terms[rows] = _seen_squares(size, part)
    return square, terms


def _seen_squares(size, part):
    """Return the sums of squares over directions that can be tested, and their number."""
    seen = (size > LEAST_REDUNDANCY) & np.isfinite(size)
    square = np.sum(np.divide(part**2, size, out=np.zeros_like(part), where=seen), axis=1)
    return square, seen.sum(axis=1, dtype=np.int8)
