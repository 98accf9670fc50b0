# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Redundancies and studentised residuals of pairs."""

from dataclasses import dataclass

import numpy as np

from levelmatch.solve.linear import inverses

__all__ = ["Studentised", "redundancy", "studentised"]

# Redundancy below which a term of a pair cannot be tested, because the pair is nearly the only link
# between two sets.
LEAST_REDUNDANCY = 1e-3
# Leverages are reused for other weights if only a few weights differ by more than this factor.
MAX_CHANGE = 5.0


def redundancy(equations, solved):
    """Return the redundancy of each pair: the fraction of its error left in its residual.

    The redundancy is I - H, shape (n, k, k), where H is the pair's block of the hat matrix of
    differences in units of their standard errors. If the weights are inverse variances, it is the
    covariance of the pair's residual. Its trace is the redundancy number (Baarda 1968, A testing
    procedure for use in geodetic networks): k for a pair among many, 0 for the only link between
    two sets. In a large system, the redundancy for earlier weights is reused. It is corrected for
    the change of the weights of the pair and of the links around it, to about 1 %.

    Parameters
    ----------
    equations : `~levelmatch.solve.equations.Equations`
        Pairs.
    solved : `~levelmatch.solve.solver.Solved`
        Solution.
    """
    one = np.eye(equations.n_terms)
    others = [] if solved.inverted else solved.served_by()
    known = next((s for s in others if solved.near(s, MAX_CHANGE)), None)
    if known is None:
        return one - solved.hat
    # Change of the weight of the pair over the change of the weight of the links around its images.
    ratio = solved.factor / known.factor * known.around / solved.links_around()
    inverse, _ = inverses(known.hat + (one - known.hat) / ratio[:, None, None])
    return one - inverse @ known.hat


@dataclass(frozen=True, eq=False)
class Studentised:
    """Distance of each pair's difference from its prediction by all other pairs.

    Parameters
    ----------
    square : `~numpy.ndarray`, shape (n,)
        Squared Mahalanobis distance. For a pair that is part of the solution, the decrease of the
        weighted sum of squares without this pair.
    terms : `~numpy.ndarray` of int, shape (n,)
        Degrees of freedom: number of terms that can be tested; 0 for the only link of two sets.
    """

    square: np.ndarray
    terms: np.ndarray

    @property
    def n_sigma(self):
        """Root mean square distance per tested term, shape (n,); 0 without tested terms."""
        return np.sqrt(self.square / np.maximum(self.terms, 1))


def studentised(equations, solved, left, precision, counted):
    """Return the `Studentised` differences of all pairs.

    Parameters
    ----------
    equations, solved
        See `redundancy`.
    left : `~numpy.ndarray`, shape (n, k, k)
        Redundancies, from `redundancy`.
    precision : `~numpy.ndarray`, shape (n,)
        Factors by which normal matrices of pairs become inverse covariances.
    counted : `~numpy.ndarray` of bool, shape (n,)
        Pairs with full weight in the solution. The others are treated as without weight.
    """
    root = np.sqrt(precision)[:, None, None] * equations.root
    residual = np.einsum("pij,pj->pi", root, equations.residuals(solved.coefficients))
    k = equations.n_terms
    variance = left.copy()
    if not counted.all():
        ratio = (precision / solved.factor)[~counted, None, None]
        # The variances of a pair without weight and of its prediction add up.
        variance[~counted] = np.eye(k) + ratio * (np.eye(k) - left[~counted])
    square, terms = _squares(variance, residual)
    # Terms that the pair does not measure have no residual.
    return Studentised(square, np.minimum(terms, equations.rank))


def _squares(variance, residual):
    """Return the squared Mahalanobis distances of residuals, and their degrees of freedom."""
    if residual.shape[1] == 1:
        return _seen_squares(variance[:, :, 0], residual)
    inverse, least = inverses(variance)
    # Rounding errors can make squares negative.
    square = np.maximum(np.einsum("pi,pij,pj->p", residual, inverse, residual), 0.0)
    terms = np.full(square.shape, residual.shape[1], dtype=np.int8)
    rows = np.flatnonzero(~(least > LEAST_REDUNDANCY))
    size, turn = np.linalg.eigh(variance[rows])
    part = np.einsum("pij,pi->pj", turn, residual[rows])
    square[rows], terms[rows] = _seen_squares(size, part)
    return square, terms


def _seen_squares(size, part):
    """Return the sums of squares over terms that can be tested, and the numbers of terms."""
    seen = (size > LEAST_REDUNDANCY) & np.isfinite(size)
    square = np.sum(np.divide(part**2, size, out=np.zeros_like(part), where=seen), axis=1)
    return square, seen.sum(axis=1, dtype=np.int8)
