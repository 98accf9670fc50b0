# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve for a pattern that stays with the detector, jointly with the levels or planes.

The pattern of a detector is a polynomial of its pixel coordinates. The difference of two images
contains the difference of two polynomials, which a plane describes: exactly for images of one
orientation, and to a good approximation for others. Each pass eliminates the corrections from
the columns of the pattern, and the residuals of the pairs after all passes determine it.

Corrections can take the place of a pattern. With images of one orientation, for example, a gradient
of the detector looks like a trend of the levels along the mosaic. In this case the corrections are
taken as normal variables without a trend: the pattern is zero unless the trend is significant, and
the scatter of the corrections gives its error. A gradient that the planes of all images can replace
is zero.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import fdtrc

from levelmatch.images.filters import filters_of
from levelmatch.sky.vectors import ARCMIN, plane_terms, tangent_axes, transfer_matrix
from levelmatch.solve.linear import sum_by

__all__ = [
    "PATTERN_TERMS",
    "SharedPattern",
    "find_shared_pattern",
    "follow",
    "subtract_pattern",
]

# Terms in detector coordinates x and y from -1 to 1: x, y, x**2 - 1/3, x y, y**2 - 1/3.
N_ALL = 5
PATTERN_TERMS = {"gradient": 2, "quadratic": 5}
# Largest number of iterations.
N_ROUNDS = 4
# Smallest number of nodes to which the plane of an overlap is fitted.
LEAST_NODES = 6
# Step of the derivatives in narrower overlaps, in arcmin.
STEP = 0.01
# A term is undetermined if the pairs give less than this fraction of its information.
DETERMINED = 0.5
# A coefficient is known if pairs and trends give more than this fraction of its information. The
# remainder comes from the prior on its size.
LEAST_KNOWN = 0.1
# Probability by chance below which a trend is significant.
CHANCE = 1e-3
# The solution has converged if it changes by less than this fraction of its standard errors.
SETTLED = 0.02
# Smallest number of groups of a set whose trend is fitted.
LEAST_GROUPS = 4


@dataclass(frozen=True, eq=False)
class SharedPattern:
    """Patterns of detectors.

    Parameters
    ----------
    detectors : list of str
        The detector of each pattern; blank if images name none.
    of_image : `~numpy.ndarray` of int, shape (n_images,)
        The pattern of each image.
    coefficients, errors : `~numpy.ndarray`, shape (n_detectors, 5)
        Coefficients of the terms x, y, x**2 - 1/3, x y and y**2 - 1/3 in detector coordinates from
        -1 to 1, in the common unit, and their standard errors.
    trends : list of str
        Names of terms that pairs do not determine.
    step : `~numpy.ndarray`, shape (n_pairs, 3)
        Plane that the pattern subtracts from each pair.
    columns : `~numpy.ndarray`, shape (n_pairs, 3, r)
        Planes by each column of the square root of the coefficients' covariance.
    """

    detectors: list
    of_image: np.ndarray
    coefficients: np.ndarray
    errors: np.ndarray
    trends: list
    step: np.ndarray
    columns: np.ndarray

    def take(self, images, rows):
        """Return the pattern of selected images and pairs."""
        return replace(
            self,
            of_image=self.of_image[images],
            step=self.step[rows],
            columns=self.columns[rows],
        )

    def of(self, i):
        """Return the coefficients of image ``i``, shape (5,)."""
        return self.coefficients[self.of_image[i]]

    def words(self, unit):
        """Return a sentence on the patterns and on terms that overlaps do not determine."""
        size = np.sqrt(np.square(self.coefficients) @ _VARIANCES)
        error = np.sqrt(np.square(self.errors) @ _VARIANCES)
        found = ", ".join(
            f"{name or 'the detector'} {s:.3g} +- {e:.2g} {unit} (rms)"
            for name, s, e in zip(self.detectors, size, error, strict=True)
        )
        text = f"a pattern of {found} is subtracted from all images"
        if self.trends:
            text += (
                f"; overlaps do not determine its {' and '.join(self.trends)}, as a trend of the "
                "corrections along the mosaic can replace it: it is zero unless there is a "
                "significant trend, and the scatter of the corrections is its error"
            )
        return text


# Variances of the terms over the detector.
_VARIANCES = np.array([1 / 3, 1 / 3, 4 / 45, 1 / 9, 4 / 45])


def subtract_pattern(table, pattern):
    """Return the pair table without the pattern, which may be `None`."""
    return table if pattern is None else table.minus(pattern.step)


# --------------------------------------------------------------------------------------
# Geometry


def _labels(frames):
    """Return the detector of each pattern, and the pattern of each image.

    Images of one detector, filter, part and shape share one.
    """
    keys = [
        (f.detector, f.part, f.shape, repr(sorted(map(repr, filters_of(f.meta).items()))))
        for f in frames
    ]
    distinct = sorted(set(keys))
    names = [f"{key[0]} lyot" if key[1] == "lyot" else key[0] for key in distinct]
    return names, np.array([distinct.index(key) for key in keys], dtype=np.intp)


def _terms(frame, vectors):
    """Return the terms at unit vectors, inside and outside of the image, shape (n, 5)."""
    x, y = frame.whole_grid.to_pixel(vectors)
    ny, nx = frame.shape
    x, y = 2 * x / (nx - 1) - 1, 2 * y / (ny - 1) - 1
    return np.stack([x, y, x**2 - 1 / 3, x * y, y**2 - 1 / 3], axis=1)


def _planes(first, second, axes):
    """Fit a plane (1, u, v) to each term of both images over their overlap.

    Return the coefficients, shape (2 images, 3 coefficients, 5 terms). They are zero if the overlap
    has fewer than 3 nodes.
    """
    nodes = first.grid.nodes.reshape(-1, 3)
    terms = [_terms(frame, nodes) for frame in (first, second)]
    inside = np.logical_and(*(np.abs(t[:, :2]).max(axis=1) <= 1 + 1e-6 for t in terms))
    if np.count_nonzero(inside) < LEAST_NODES:
        # In a narrow overlap, the plane comes from derivatives at its centre.
        steps = STEP * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]])
        nodes = axes[0] + (steps / ARCMIN) @ axes[1:]
        nodes /= np.linalg.norm(nodes, axis=1, keepdims=True)
        terms = [_terms(frame, nodes) for frame in (first, second)]
        inside = np.isfinite(terms[0]).all(axis=1) & np.isfinite(terms[1]).all(axis=1)
    plane = plane_terms(nodes[inside], axes)
    both = np.concatenate([t[inside] for t in terms], axis=1)
    if len(plane) < 3:
        return np.zeros((2, 3, N_ALL))
    found = np.linalg.lstsq(plane, both, rcond=1e-9)[0]
    return np.stack([found[:, :N_ALL], found[:, N_ALL:]])


def _pair_columns(frames, table, of_image, n_detectors, n_terms):
    """Return the plane of each pair by each coefficient, shape (n, 3, q)."""
    out = np.zeros((len(table), 3, n_detectors, n_terms))
    for p in np.flatnonzero(table.npix > 0).tolist():
        i, j = int(table.first[p]), int(table.second[p])
        one, two = _planes(frames[i], frames[j], table.axes[p])
        out[p, :, of_image[i]] += one[:, :n_terms]
        out[p, :, of_image[j]] -= two[:, :n_terms]
    return out.reshape(len(table), 3, -1)


# --------------------------------------------------------------------------------------
# Elimination


def follow(solved, table, columns):
    """Return the response of a pass to columns of differences of all pairs.

    Parameters
    ----------
    solved : `~levelmatch.solve.passes.Pass`
        The solved pass.
    table : `~levelmatch.measure.table.PairTable`
        All pairs.
    columns : `~numpy.ndarray`, shape (n_pairs, 3, q)
        Planes of the pairs' differences.

    Returns
    -------
    response : `~numpy.ndarray`, shape (m, k, q)
        Corrections of the groups.
    left : `~numpy.ndarray`, shape (n_pairs, 3, q)
        The columns minus these corrections.
    """
    solution, group = solved.solution, solved.group
    m, k = solution.coefficients.shape
    rows = solved.kept_rows
    right = _weights(solved, table)[:, None, None] * (table.gram[rows, :k] @ columns[rows])
    total = np.zeros((m, k, columns.shape[2]))
    for end, sign in ((group[table.first[rows]], 1), (group[table.second[rows]], -1)):
        turned = solved.transfer(end, table.axes[rows]).swapaxes(1, 2) @ right
        total += sign * sum_by(end, turned, m)
    response = solution.respond(total.reshape(m * k, -1)).reshape(total.shape)
    left, ok = columns.copy(), table.npix > 0
    for end, sign in ((group[table.first[ok]], 1), (group[table.second[ok]], -1)):
        left[ok, :k] -= sign * solved.transfer(end, table.axes[ok]) @ response[end]
    return response, left


def _weights(solved, table):
    """Return the weight of the normal matrix of each kept pair of a pass."""
    rows = solved.kept_rows
    return solved.solution.weight / table.gram[rows, 0, 0]


# --------------------------------------------------------------------------------------
# Solution


def find_shared_pattern(frames, passes, measured, pass_of, options, solve):
    """Return the `SharedPattern` of the detectors of all images.

    Parameters
    ----------
    frames, passes, measured, pass_of, options
        See `~levelmatch.solve.run.run_passes`.
    solve : callable
        Solves a pass. Takes the pass, the frames, a pair table and the rows of the pass. Returns
        the solved pass, the frames after it and the pair table minus its corrections.
    """
    n_terms = PATTERN_TERMS[options.pattern]
    names, of_image = _labels(frames)
    columns = _pair_columns(frames, measured, of_image, len(names), n_terms)
    found = np.zeros(columns.shape[2])
    half_side = np.array([_half_side(frame) for frame in frames]).mean()
    scatter = 0.0
    for _ in range(N_ROUNDS):
        normal = _Normal(len(found), half_side)
        table, left, current = measured.minus(columns @ found), columns, frames
        for k, p in enumerate(passes):
            rows = np.flatnonzero(pass_of == k)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                solved, current, after = solve(p, current, table, rows)
            response, left = follow(solved, table, left)
            table = after
            normal.add_pairs(solved, table, left)
            normal.add_trends(solved, response)
        scatter = max(scatter, normal.scatter)
        change = normal.solve(found, scatter)
        found = found + change
        if (np.abs(change) <= SETTLED * np.sqrt(np.diagonal(normal.covariance))).all():
            break
    found, covariance = normal.without_trends(found)
    return _shared(names, of_image, columns, found, covariance, normal.fraction)


def _half_side(frame):
    """Return half of the side of an image, in arcmin."""
    return 0.5 * ARCMIN * np.sqrt(frame.whole_grid.pixel_area * frame.shape[0] * frame.shape[1])


def _shared(names, of_image, columns, found, covariance, fraction):
    size, turn = np.linalg.eigh(covariance)
    root = turn * np.sqrt(np.maximum(size, 0.0))
    shape = len(names), -1
    whole = np.zeros((2, len(names), N_ALL))
    n_terms = len(found) // len(names)
    whole[0, :, :n_terms] = found.reshape(shape)
    whole[1, :, :n_terms] = np.sqrt(np.diagonal(covariance)).reshape(shape)
    open_terms = (fraction.reshape(shape) < DETERMINED).any(axis=0)
    trends = ["gradient"] * bool(open_terms[:2].any())
    trends += ["quadratic part"] * bool(open_terms[2:].any())
    return SharedPattern(
        names, of_image, whole[0], whole[1], trends, columns @ found, columns @ root
    )


class _Normal:
    """Normal equations of the coefficients, from pairs and from trends of the corrections.

    Attributes
    ----------
    scatter, freedom : float, int
        Scatter of the corrections, and their number minus that of the coefficients of their trends.
    inverse, covariance : `~numpy.ndarray`, shape (q, q)
        Inverse of the solved equations, and covariance of the coefficients.
    fraction : `~numpy.ndarray`, shape (q,)
        Fraction of the information on each coefficient that comes from pairs.
    known : `~numpy.ndarray` of bool, shape (q,)
        False for coefficients without information from pairs or trends.
    """

    def __init__(self, size, half_side):
        self.half_side = half_side
        self.of_pairs, self.of_trends, self.spread = np.zeros((3, size, size))
        self.right = np.zeros(size)
        self.scatter, self.freedom = 0.0, 0
        self._scores = []

    def add_pairs(self, solved, table, columns):
        """Add the residuals of the pairs of a solved pass."""
        rows = solved.kept_rows
        weighted = _weights(solved, table)[:, None, None] * columns[rows].swapaxes(1, 2)
        self.of_pairs += np.einsum("pqi,pij,pjr->qr", weighted, table.gram[rows], columns[rows])
        score = np.einsum("pqi,pi->pq", weighted, table.rhs[rows])
        self.right += score.sum(axis=0)
        n = len(solved.group)
        self._scores.append(sum(sum_by(end[rows], score, n) for end in (table.first, table.second)))

    def add_trends(self, solved, response):
        """Add the condition that the corrections of a pass have no trend along the mosaic."""
        solution = solved.solution
        m, k, size = response.shape
        for s in np.unique(solution.component):
            groups = np.flatnonzero(solution.component == s)
            if len(groups) < LEAST_GROUPS:
                continue
            terms = np.zeros((len(groups), max(k - 1, 1), m, k))
            turn = np.ones((len(groups), 1, 1))
            if k > 1:
                centre = tangent_axes(solved.group_axes[groups, 0].sum(axis=0))
                turn = transfer_matrix(solved.group_axes[groups], centre)[:, 1:]
            terms[np.arange(len(groups)), :, groups] = turn
            terms = (terms - terms.mean(axis=0)).reshape(-1, m * k)
            self._add_trend(solution, terms, response.reshape(m * k, size), k)

    def _add_trend(self, solution, terms, response, k):
        own, known = terms @ solution.coefficients.ravel(), terms @ response
        fitted, _, rank, _ = np.linalg.lstsq(known, own, rcond=1e-6)
        freedom, left = len(own) - max(k - 1, 1) - int(rank), own - known @ fitted
        if freedom < 1:
            # Trends reproduce the few corrections, whose own scatter counts then.
            freedom, left = 1, own / np.sqrt(len(own))
        self.freedom += freedom
        variance = np.sum(np.square(left)) / freedom
        unit = self.half_side if k > 1 else 1.0
        self.scatter = max(self.scatter, unit * np.sqrt(np.mean(np.square(own))))
        if not variance > 0:
            return
        self.of_trends += known.T @ known / variance
        self.right += known.T @ own / variance
        noise = solution.covariance_of_sums(terms.T @ known)
        self.spread += known.T @ known / variance + np.nan_to_num(noise) / variance**2

    def solve(self, found, scatter):
        """Solve the equations, and return the change of the coefficients.

        The prior of each coefficient is normal, with the scatter of the corrections.
        """
        prior = np.eye(len(found)) / max(scatter, 1e-12) ** 2
        whole = self.of_pairs + self.of_trends + prior
        scale = 1 / np.sqrt(np.diagonal(whole))
        inverse = np.linalg.inv(whole * np.outer(scale, scale)) * np.outer(scale, scale)
        change = inverse @ (self.right - prior @ found)
        spread = self._inflation(change) * self.of_pairs + self.spread + prior
        self.fraction = np.diagonal(inverse @ self.of_pairs)
        self.known = np.diagonal(inverse @ (self.of_pairs + self.of_trends)) > LEAST_KNOWN
        self.inverse, self.covariance = inverse, inverse @ spread @ inverse
        return change

    def _inflation(self, change):
        """Return the variance of the images' sums of residuals over that of independent pairs."""
        n = len(change)
        scores = np.concatenate(self._scores)
        scores = scores[np.abs(scores).max(axis=1) > 0]
        used = len(scores)
        # The change reduces the sums of all images alike.
        left = scores - 2 * (self.of_pairs @ change) / max(used, 1)
        size = np.sqrt(np.maximum(np.diagonal(self.of_pairs), 1e-300))
        square = np.sum(np.square(left / size))
        # Each pair counts in two images.
        return max(1.0, 0.5 * square / n * used / max(used - n, 1))

    def without_trends(self, found):
        """Return the coefficients without insignificant trends, and their covariance."""
        found, covariance = found.copy(), self.covariance.copy()
        from_trends = self.known & (self.fraction < DETERMINED)
        if from_trends.any():
            own = np.ix_(from_trends, from_trends)
            trend = found[from_trends]
            square = trend @ np.linalg.pinv(covariance[own], hermitian=True) @ trend
            if fdtrc(len(trend), max(self.freedom, 1), square / len(trend)) > CHANCE:
                # The terms that are set to zero may exist: their size enters the covariance.
                covariance[own] += np.outer(trend, trend)
                self._set_to_zero(found, from_trends)
        self._set_to_zero(found, ~self.known)
        covariance[~self.known] = covariance[:, ~self.known] = 0.0
        return found, covariance

    def _set_to_zero(self, found, chosen):
        """Set chosen coefficients to zero, and change the others to the solution without them."""
        others = ~chosen
        if chosen.any() and others.any():
            pull = self.inverse[np.ix_(others, chosen)]
            pull = pull @ np.linalg.inv(self.inverse[np.ix_(chosen, chosen)])
            found[others] -= pull @ found[chosen]
        found[chosen] = 0.0
