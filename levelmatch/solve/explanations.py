# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Other pairs that may be wrong in place of the rejected ones."""

from dataclasses import dataclass

import numpy as np

from levelmatch.sky.overlaps import components
from levelmatch.solve.leverage import LEAST_REDUNDANCY

__all__ = ["Doubt", "find_doubt"]

# An explanation counts if it is at least this fraction as probable as the best.
LEAST_RATIO = 0.01
# Rejected pairs that are compared with others, those beside the least redundant pairs first,
# and the most alternatives of each.
MAX_DOUBTED = 100
MAX_ALTERNATIVES = 12


@dataclass(frozen=True, eq=False)
class Doubt:
    """Pairs that cannot be told from rejected ones, and how much depends on the choice.

    Parameters
    ----------
    rows : `~numpy.ndarray` of int, shape (d,)
        The pairs.
    right : `~numpy.ndarray`, shape (d,)
        The probability that each is not wrong.
    shift : `~numpy.ndarray`, shape (m, k)
        What the mean over all explanations adds to the coefficients.
    spread : `~numpy.ndarray`, shape (m * k, n)
        Differences of the coefficients from their mean, times the root of the
        probability; the covariance of the choice is the product with the transpose.
    """

    rows: np.ndarray
    right: np.ndarray
    shift: np.ndarray
    spread: np.ndarray


def find_doubt(equations, solved, left, precision, counted):
    """Compare the rejected pairs with others that may be wrong in their place.

    Each explanation is a set of wrong pairs: the rejected ones, or these with one exchanged.
    With a flat prior on the error of a wrong pair, its probability goes as the exponential of
    half the drop of the sum of squares, over the root of the pair's redundancy (Bayesian
    model averaging: Hoeting et al. 1999, Stat. Sci. 14, 382).

    Parameters
    ----------
    equations, solved, left, precision, counted
        See `~levelmatch.solve.leverage.studentised`.

    Returns
    -------
    doubt : `Doubt` or None
        `None` if every rejected pair is the best explanation by far.
    """
    models = _Models(equations, solved, left, precision, counted)
    exchanges = [e for q in models.doubted() for e in models.exchanges(q)]
    if not exchanges:
        return None
    out = np.array([e.out for e in exchanges])
    pairs = np.unique(np.concatenate([[e.back for e in exchanges], out]))
    ends = np.searchsorted(pairs, [[e.back, e.out] for e in exchanges])
    n_clusters, cluster = components(ends, len(pairs))
    right = np.where(counted[pairs], 1.0, 0.0)
    total, spread = 0.0, []
    for c in range(n_clusters):
        own = [e for e, (a, _) in zip(exchanges, ends, strict=True) if cluster[a] == c]
        odds = np.exp(np.minimum([0.0, *(e.log_odds for e in own)], 50.0))
        odds /= odds.sum()
        shifts = np.stack([np.zeros_like(own[0].shift), *(e.shift for e in own)], axis=1)
        mean = shifts @ odds
        total = total + mean
        spread.append(np.sqrt(odds) * (shifts - mean[:, None]))
        for probability, e in zip(odds[1:], own, strict=True):
            right[pairs == e.back] += probability
            right[pairs == e.out] -= probability
    return Doubt(
        pairs, right, total.reshape(solved.coefficients.shape), np.concatenate(spread, axis=1)
    )


@dataclass(frozen=True, eq=False)
class _Exchange:
    """One rejected pair taken back, and another one rejected in its place.

    ``log_odds`` are relative to the best explanation, ``shift`` is what the exchange adds to the
    coefficients, shape (m * k,).
    """

    back: int
    out: int
    log_odds: float
    shift: np.ndarray


class _Models:
    """The solution without the rejected pairs, and its changes."""

    def __init__(self, equations, solved, left, precision, counted):
        self.equations = equations
        self.solved = solved
        self.left = left
        self.counted = counted
        self.root = np.sqrt(precision)[:, None, None] * equations.root
        residual = equations.residuals(solved.coefficients)
        self.residual = np.einsum("pij,pj->pi", self.root, residual)

    def doubted(self):
        """Rejected pairs to compare, those beside pairs of little redundancy first."""
        equations = self.equations
        own = np.trace(self.left, axis1=1, axis2=2)
        least = np.full(equations.n_groups, np.inf)
        for side in (equations.first, equations.second):
            np.minimum.at(least, side[self.counted], own[self.counted])
        beside = np.minimum(least[equations.first], least[equations.second])
        rejected = np.flatnonzero(~self.counted)
        return rejected[np.argsort(beside[rejected], kind="stable")][:MAX_DOUBTED]

    def _columns(self, p):
        """Response of the coefficients to a pair's difference, shape (m, k, k)."""
        equations, scale = self.equations, self.solved.scale
        k = equations.n_terms
        right = np.zeros((equations.n_groups, k, k))
        for side, change, sign in zip(
            (equations.first, equations.second), equations.transfer, (1, -1), strict=True
        ):
            right[side[p]] += sign * (self.root[p] @ change[p]).T
        right = (scale[:, :, None] * right).reshape(-1, k)
        return scale[:, :, None] * self.solved.inverse(right).reshape(-1, k, k)

    def _seen(self, columns):
        """Response of the pairs' differences, in units of their errors, shape (n, k, k)."""
        equations = self.equations
        one, two = equations.transfer
        model = one @ columns[equations.first] - two @ columns[equations.second]
        return self.root @ model

    def exchanges(self, q):
        """Return the exchanges of a rejected pair that explain the data about as well."""
        columns = self._columns(q)
        seen = self._seen(columns)
        k = self.equations.n_terms
        own = np.linalg.inv(np.eye(k) + seen[q])
        pull = own @ self.residual[q]
        drop = self.residual[q] @ pull - np.linalg.slogdet(own)[1]
        residual = self.residual - seen @ pull
        variance = self.left + seen @ own @ seen.swapaxes(1, 2)
        drops = _drops(residual, variance)
        log_odds = 0.5 * (drops - drop)
        log_odds[~self.counted | ~np.isfinite(log_odds)] = -np.inf
        rows = np.argsort(-log_odds, kind="stable")[:MAX_ALTERNATIVES]
        found = []
        for p in rows[log_odds[rows] > np.log(LEAST_RATIO)]:
            inverse = np.linalg.pinv(variance[p], rcond=LEAST_REDUNDANCY, hermitian=True)
            response = self._columns(p) - columns @ (own @ seen[p].T)
            shift = columns @ pull - response @ (inverse @ residual[p])
            found.append(_Exchange(int(q), int(p), float(log_odds[p]), shift.ravel()))
        return found


def _drops(residual, variance):
    """Drop of the sum of squares without each pair, less the logarithm of its redundancy."""
    if residual.shape[1] == 1:
        size, part = variance[:, :, 0], residual
    else:
        size, turn = np.linalg.eigh(variance)
        part = np.einsum("pij,pi->pj", turn, residual)
    seen = size > LEAST_REDUNDANCY
    size = np.where(seen, size, 1.0)
    drops = np.sum(np.where(seen, part**2 / size - np.log(size), 0.0), axis=1)
    return np.where(seen.any(axis=1), drops, -np.inf)
