# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Alternatives to a rejection: other pairs that may be wrong in place of the rejected ones."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from levelmatch.sky.overlaps import components
from levelmatch.solve.outlier_tests import LEAST_REDUNDANCY

__all__ = ["Ambiguity", "Neighbours", "find_ambiguity"]


# Explanations less probable than this fraction of the best are ignored.
LEAST_RATIO = 0.003
# Odds of one more wrong pair, if all wrong pairs are off by the same amount.
ONE_MORE = 0.015
# Smallest factor on these odds, if all amounts differ, and the factor of a single wrong pair.
LEAST_ALIKE, UNKNOWN_ALIKE = 0.1, 0.6
# Two wrong pairs are off by the same amount within this many standard errors.
ALIKE = 4.0
# Explanations more probable than this fraction of the best enter the mean of the solutions. The
# others enter only its errors.
LIKELY = 0.3
# Largest number of rejected pairs that are compared with alternatives, in all and of many groups.
# Neighbours of the least redundant pairs come first.
MAX_DOUBTED = 200
MANY_GROUPS = 2000
MAX_DOUBTED_OF_MANY = 8
# Largest number of alternatives to a rejected pair, and of explanations of neighbouring ones.
MAX_ALTERNATIVES = 12
MAX_EXPLANATIONS = 60


@dataclass(frozen=True, eq=False)
class Ambiguity:
    """The ambiguity of a rejection: which pairs are wrong, and its effect on the solution.

    Parameters
    ----------
    rows : `~numpy.ndarray` of int, shape (d,)
        The pairs.
    right : `~numpy.ndarray`, shape (d,)
        Probability that each pair is right.
    shift : `~numpy.ndarray`, shape (m, k)
        Change of the coefficients to their mean over the likely explanations.
    spread : `~numpy.ndarray`, shape (m * k, n)
        Square root of the covariance that the ambiguity adds: for each explanation, the
        coefficients minus their mean, times the root of the probability.
    """

    rows: np.ndarray
    right: np.ndarray
    shift: np.ndarray
    spread: np.ndarray


def find_ambiguity(solved, left, precision, counted):
    """Compare the rejected pairs with others that may be wrong in their place.

    Each explanation is a set of wrong pairs. The probabilities follow from Bayesian model
    averaging (Hoeting et al. 1999, Stat. Sci. 14, 382), with a flat prior on the errors of wrong
    pairs. The probability of an explanation increases with the drop of the sum of
    squares, and decreases with the determinant of the redundancies. Each further wrong pair
    reduces it by a constant factor.

    Parameters
    ----------
    solved, left, precision, counted
        See `~levelmatch.solve.outlier_tests.studentised`.

    Returns
    -------
    doubt : `Ambiguity` or None
        `None` if the rejected pairs are by far the best explanation.
    """
    models = _Models(solved, left, precision, counted)
    right = np.where(counted, 1.0, 0.0)
    total, spread = 0.0, []
    for cluster in models.clusters():
        found = models.explanations(cluster)
        if len(found) == 1:
            continue
        odds = np.array(list(found.values()))
        odds = np.exp(odds - odds.max())
        odds /= odds.sum()
        shifts = np.stack([models.shift(*e) for e in found], axis=1)
        likely = np.where(odds >= LIKELY * odds.max(), odds, 0.0)
        mean = shifts @ (likely / likely.sum())
        total = total + mean
        spread.append(np.sqrt(odds) * (shifts - mean[:, None]))
        for probability, (back, out) in zip(odds, found, strict=True):
            right[list(back)] += probability
            right[list(out)] -= probability
    if not spread:
        return None
    rows = np.flatnonzero(right != np.where(counted, 1.0, 0.0))
    return Ambiguity(
        rows, right[rows], total.reshape(solved.coefficients.shape), np.concatenate(spread, axis=1)
    )


class _Models:
    """Changes of the solution if other pairs are rejected.

    An explanation is a tuple of two sets: rejected pairs that are taken back, and pairs that are
    rejected in their place.
    """

    def __init__(self, solved, left, precision, counted):
        self.equations = equations = solved.equations
        self.solved = solved
        self.left = left
        self.counted = counted
        self.root = np.sqrt(precision)[:, None, None] * equations.root
        residual = equations.residuals(solved.coefficients)
        self.residual = np.einsum("pij,pj->pi", self.root, residual)
        self.neighbours = Neighbours(equations.first, equations.second, equations.n_groups)
        self.one_more = ONE_MORE * _alike(self.residual[~counted, 0])
        self._known = {}

    def clusters(self):
        """Return the rejected pairs to compare, in lists of neighbouring pairs.

        If there are too many, neighbours of the least redundant pairs come first.
        """
        equations = self.equations
        own = np.trace(self.left, axis1=1, axis2=2)
        least = np.full(equations.n_groups, np.inf)
        for side in (equations.first, equations.second):
            np.minimum.at(least, side[self.counted], own[self.counted])
        beside = np.minimum(least[equations.first], least[equations.second])
        rejected = np.flatnonzero(~self.counted)
        rejected = rejected[self.neighbours.in_doubt(rejected)]
        most = MAX_DOUBTED if equations.n_groups < MANY_GROUPS else MAX_DOUBTED_OF_MANY
        rows = rejected[np.argsort(beside[rejected], kind="stable")][:most]
        ends, among = self.neighbours.ends, {int(q) for q in rows}
        links = [(q, q) for q in among]
        for q in among:
            for image in ends[q].tolist():
                around = {image} | self.neighbours.others(image)
                links += [(q, p) for i in around for p in self.neighbours.pairs(i) if p in among]
        order = sorted(among)
        n, label = components(np.searchsorted(order, links), len(order))
        return [[q for q, c in zip(order, label, strict=True) if c == k] for k in range(n)]

    def _columns(self, p):
        """Return the response of the coefficients to a pair's difference, shape (m, k, k)."""
        if p not in self._known:
            equations, scale = self.equations, self.solved.scale
            k = equations.n_terms
            right = np.zeros((equations.n_groups, k, k))
            for side, change, sign in zip(
                (equations.first, equations.second), equations.transfer, (1, -1), strict=True
            ):
                right[side[p]] += sign * (self.root[p] @ change[p]).T
            right = (scale[:, :, None] * right).reshape(-1, k)
            columns = self.solved.factors.solve(right).reshape(-1, k, k)
            self._known[p] = scale[:, :, None] * columns
        return self._known[p]

    def _seen(self, columns, rows=slice(None)):
        """Return the response of pairs' predicted differences, in standard errors, (n, k, k)."""
        equations = self.equations
        one, two = (change[rows] for change in equations.transfer)
        model = one @ columns[equations.first[rows]] - two @ columns[equations.second[rows]]
        return self.root[rows] @ model

    def explanations(self, cluster):
        """Return the explanations of neighbouring rejected pairs, and their log odds.

        The odds are relative to the original rejection, which comes first.
        """
        start = frozenset(), frozenset()
        found, known = [start], {start: 0.0}
        wrong = frozenset(np.flatnonzero(~self.counted).tolist())
        turn = 0
        while turn < len(found) and len(found) < MAX_EXPLANATIONS:
            now = found[turn]
            others = [*self._flips(*now, wrong, cluster)]
            if turn == 0:
                others += [
                    (frozenset([q]), frozenset([p])) for q in cluster for p in self._exchanges(q)
                ]
            least = max(known[e] for e in found) + np.log(LEAST_RATIO)
            for e in others:
                if e not in known:
                    known[e] = self._log_odds(*e)
                    if known[e] > least:
                        found.append(e)
            turn += 1
        least = max(known[e] for e in found) + np.log(LEAST_RATIO)
        return {e: known[e] for e in found if e == start or known[e] > least}

    def _flips(self, back, out, wrong, cluster):
        """Yield the neighbours of an explanation: pairs to take back and pairs to reject."""
        there = (wrong - back) | out
        for row in sorted((set(cluster) - back) | out):
            for right, bad in self.neighbours.flips(row, there):
                new = (there - right) | bad
                yield wrong - new, new - wrong

    def _exchanges(self, q):
        """Return pairs that explain the data about as well as q if they are wrong in its place."""
        seen = self._seen(self._columns(q))
        k = self.equations.n_terms
        own = np.linalg.inv(np.eye(k) + seen[q])
        pull = own @ self.residual[q]
        drop = self.residual[q] @ pull - np.linalg.slogdet(own)[1]
        residual = self.residual - seen @ pull
        variance = self.left + seen @ own @ seen.swapaxes(1, 2)
        log_odds = 0.5 * (_drops(residual, variance) - drop)
        log_odds[~self.counted | ~np.isfinite(log_odds)] = -np.inf
        rows = np.argsort(-log_odds, kind="stable")[:MAX_ALTERNATIVES]
        return rows[log_odds[rows] > np.log(LEAST_RATIO)].tolist()

    def _log_odds(self, back, out):
        """Return the log odds of an explanation."""
        log_odds, _ = self._change(sorted(back), sorted(out))
        return float((len(out) - len(back)) * np.log(self.one_more) + log_odds)

    def _change(self, back, out):
        """Return the log odds of pairs taken back and others rejected, and their pull.

        The sum of the pairs' columns times ``pull`` is the change of the solution. The log odds
        are -inf if the change leaves groups without a link.
        """
        rows, k = np.array(back + out, dtype=int), self.equations.n_terms
        size, n = len(rows) * k, len(back) * k
        hat = np.stack([self._seen(self._columns(p), rows) for p in rows.tolist()], axis=2)
        hat = hat.reshape(size, size)
        return _log_odds_and_pull(0.5 * (hat + hat.T), self.residual[rows].ravel(), n)

    def shift(self, back, out):
        """Return the change of the coefficients under an explanation, shape (m * k,)."""
        rows = sorted(back) + sorted(out)
        shift = np.zeros(self.solved.coefficients.size)
        if rows:
            _, pull = self._change(sorted(back), sorted(out))
            for p, own in zip(rows, pull.reshape(len(rows), -1), strict=True):
                shift += (self._columns(p) @ own).ravel()
        return shift


def _log_odds_and_pull(hat, residual, n):
    """Return the log odds of pairs taken back and others taken out, and their pull.

    Parameters
    ----------
    hat : `~numpy.ndarray`, shape (n, n)
        Response of the differences to each other, in standard errors.
    residual : `~numpy.ndarray`, shape (n,)
        Their residuals.
    n : int
        Number of rows that are taken back; they come first.
    """
    one = np.eye(len(hat))
    own = np.linalg.inv(one[:n, :n] + hat[:n, :n])
    pull = own @ residual[:n]
    drop = residual[:n] @ pull - np.linalg.slogdet(own)[1]
    rest = residual[n:] - hat[n:, :n] @ pull
    variance = one[n:, n:] - hat[n:, n:] + hat[n:, :n] @ own @ hat[:n, n:]
    size, turn = np.linalg.eigh(variance)
    if size.min(initial=1.0) < LEAST_REDUNDANCY:
        return -np.inf, None
    out = turn @ ((turn.T @ rest) / size)
    gain = rest @ out - np.sum(np.log(size))
    return 0.5 * float(gain - drop), np.concatenate([pull + own @ hat[:n, n:] @ out, -out])


def _alike(sizes):
    """Return how often wrong pairs are off by the same amount, from 0 to 1.

    Parameters
    ----------
    sizes : `~numpy.ndarray`, shape (n,)
        Their residuals in standard errors.
    """
    if len(sizes) < 2:
        return UNKNOWN_ALIKE
    size = np.sort(np.abs(sizes))
    near = np.searchsorted(size, size + ALIKE, side="right") - np.arange(len(size)) - 1
    return max(np.square(2 * near.sum() / (len(size) * (len(size) - 1))), LEAST_ALIKE)


def _drops(residual, variance):
    """Return the drop of the sum of squares without each pair, minus the log of its redundancy."""
    if residual.shape[1] == 1:
        size, part = variance[:, :, 0], residual
    else:
        size, turn = np.linalg.eigh(variance)
        part = np.einsum("pij,pi->pj", turn, residual)
    seen = size > LEAST_REDUNDANCY
    size = np.where(seen, size, 1.0)
    drops = np.sum(np.where(seen, part**2 / size - np.log(size), 0.0), axis=1)
    return np.where(seen.any(axis=1), drops, -np.inf)


# --------------------------------------------------------------------------------------
# Neighbouring pairs

# Largest number of images that are shifted together, and of the pairs that connect them to others.
MAX_MOVED = 3
MAX_CUT = 9
# Images with more pairs than this are shifted alone.
MAX_DEGREE = 8
# A pair is in doubt if one of its images has at most this many more right pairs than wrong ones.
MAX_SPARE = 3
# Largest number of additional wrong pairs of an explanation.
MAX_MORE = 1


class Neighbours:
    """The graph of images and pairs.

    A constant added to some images changes only the differences of the pairs that connect them to
    the others. These pairs are a cut of the graph. If some pairs of a cut are wrong by
    the same amount, the other pairs of the cut may be wrong in their place.

    Parameters
    ----------
    first, second : `~numpy.ndarray` of int, shape (n,)
        The images of each pair.
    n_images : int
        Number of images.
    """

    def __init__(self, first, second, n_images):
        self.ends = np.stack([first, second], axis=1)
        ends = np.concatenate([first, second])
        self._rows = np.argsort(ends, kind="stable") % max(len(first), 1)
        self._start = np.searchsorted(np.sort(ends), np.arange(n_images + 1))
        self._others, self._cuts = {}, {}

    def in_doubt(self, rows):
        """Return flags of wrong pairs with an image that has few right pairs, shape (r,)."""
        wrong = np.bincount(self.ends[rows].ravel(), minlength=len(self._start) - 1)
        right = np.diff(self._start) - 2 * wrong
        return right[self.ends[rows]].min(axis=1, initial=MAX_SPARE + 1) <= MAX_SPARE

    def pairs(self, image):
        """Return the rows of the pairs of an image."""
        return self._rows[self._start[image] : self._start[image + 1]].tolist()

    def others(self, image):
        """Return the images that share a pair with an image."""
        if image not in self._others:
            ends = self.ends[self.pairs(image)]
            self._others[image] = set(ends.ravel().tolist()) - {image}
        return self._others[image]

    def cut(self, images):
        """Return the rows of the pairs between a set of images and all others, a frozenset."""
        if images not in self._cuts:
            rows = set()
            for image in images:
                rows ^= set(self.pairs(image))
            self._cuts[images] = frozenset(rows)
        return self._cuts[images]

    def near(self, image):
        """Yield the connected sets of up to `MAX_MOVED` images that contain an image."""
        new = {frozenset([image])}
        for _ in range(MAX_MOVED):
            yield from sorted(new, key=sorted)
            new = {
                images | {other}
                for images in new
                if all(len(self.pairs(i)) <= MAX_DEGREE for i in images)
                for i in images
                for other in self.others(i) - images
            }

    def flips(self, row, wrong):
        """Yield explanations in which a wrong pair is right, and others are wrong in its place.

        Parameters
        ----------
        row : int
            The pair.
        wrong : frozenset of int
            Rows of all wrong pairs.

        Yields
        ------
        back, out : frozenset of int
            Rows of the pairs that are right, and of those that are wrong in their place.
        """
        for image in self.ends[row].tolist():
            for images in self.near(image):
                cut = self.cut(images)
                if row not in cut or len(cut) > MAX_CUT:
                    continue
                out = cut - wrong
                inside = sorted(cut & wrong - {row})
                for n in range(max(len(out) - MAX_MORE - 1, 0), len(inside) + 1):
                    for more in combinations(inside, n):
                        yield frozenset([row, *more]), out
