# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Patterns that stay with the detector.

A flat-field residual, or a bowl, is the same in all images of a detector. All loops of pairs close
with it, and it adds up along a mosaic. It leaves two traces. If levels are fitted, each overlap has
a slope proportional to the offset between its images. If planes are fitted, they follow the
pattern, and their slopes grow linearly across the mosaic.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import fdtrc

from levelmatch.sky.vectors import ARCMIN, plane_terms, tangent_axes, transfer_matrix
from levelmatch.solve.slope_fit import LEAST_FREEDOM, SlopeFit

__all__ = ["DetectorPattern", "find_patterns"]

# Chance of a false alarm for one detector.
CHANCE = 1e-3
# The same for all detectors, where slopes repeat at equal offsets: a test of few terms.
CHANCE_REPEATED = 0.01
# Largest number of overlaps that are tested.
MAX_PAIRS = 4000
# An overlap is sampled at every second node of an image's grid along each axis.
NODE_STEP = 2
# Smallest number of these for a plane.
LEAST_NODES = 6
# The cubic terms of a pattern are tried if the quadratic ones, which come first, are not
# significant.
N_QUADRATIC, N_CUBIC = 3, 7
# Offsets of images repeat within such a step in detector coordinates, and in so many pairs.
OFFSET_STEP, LEAST_REPEATED = 0.25, 3
SHIFTS = [(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)]
# Direction, neither along an axis nor a diagonal, that gives each offset a sign.
HALF_PLANE = np.array([1.0, 0.4])
# Images have patterns of their own if the mean square of the overlaps' slopes, after planes are
# fitted to them, exceeds its expectation by this factor.
MIN_SHAPES = 5.0
# Smallest number of degrees of freedom, and largest number of groups, of that test.
LEAST_SHAPES = 6
MAX_GROUPS = 300
# Loops close too well if the mean square of the slopes exceeds its expectation by the first factor,
# and if the p-value of its ratio to the mean square of the closures is below the second number.
MIN_SLOPES, CLOSED = 2.0, 0.02
# Smallest reported pattern, as a fraction of the standard errors of the levels.
FRACTION = 0.3


@dataclass(frozen=True)
class DetectorPattern:
    """A pattern common to the images of a detector.

    Parameters
    ----------
    pass_name : str
        The pass whose pairs show it.
    detector : str
        The detector; blank if images name none.
    n_images : int
        Number of images.
    size : float
        Rms of the pattern over the detector, or of its sum over the mosaic where planes
        follow it, in the common unit.
    followed : bool
        Whether the planes of the solution follow the pattern.
    common : bool
        Whether all images share it; else each may have its own.
    closes : bool
        Whether it was found because loops close better than expected from the overlaps.
    """

    pass_name: str
    detector: str
    n_images: int
    size: float
    followed: bool
    common: bool = True
    closes: bool = False

    def sentence(self, unit: str) -> str:
        """Return the finding and its consequence as a sentence without a full stop."""
        whose = f"detector {self.detector}" if self.detector else "the detector"
        if not self.common:
            ways = "in ways that neither levels nor planes follow"
            if self.closes:
                ways = "while loops close too well for noise"
            return (
                f"pass {self.pass_name}: differences change across overlaps by {self.size:.3g} "
                f"{unit} (rms) {ways}: the "
                f"{self.n_images} images have patterns, such as bowls or flat errors, of their own "
                "or of the detector; stated errors exclude them; correct the images"
            )
        found = (
            f"the {self.n_images} images of {whose} share a pattern, such as a bowl or flat error"
        )
        if self.followed:
            return (
                f"pass {self.pass_name}: {found}: the slopes of their planes grow linearly across "
                f"the mosaic and bend it by {self.size:.3g} {unit} (rms); stated errors exclude "
                "this; correct the flat field, fit levels, or solve for it (pattern quadratic)"
            )
        return (
            f"pass {self.pass_name}: {found}, of {self.size:.3g} {unit} (rms without its "
            "gradient): it adds up along a mosaic, and stated errors exclude it; correct the flat "
            "field, or solve for it (pattern quadratic)"
        )


def find_patterns(result, frames, table, noise=None):
    """Return the patterns that the pairs of one pass show.

    Parameters
    ----------
    result : `~levelmatch.solve.passes.Pass`
        The solved pass.
    frames : list of `~levelmatch.images.frame.Frame`
        All images, sorted by name.
    table : `~levelmatch.measure.table.PairTable`
        All pairs, with the earlier passes subtracted.
    noise : `~numpy.ndarray`, shape (n, 3, 3), or None
        Covariance of the pairs' right-hand sides by offsets of rows and columns.

    Returns
    -------
    patterns : list of `DetectorPattern`
        At most one for each detector; only patterns larger than the stated errors.
    """
    noise = np.zeros((len(table), 1, 1)) if noise is None else noise
    if result.fit_type == "level":
        found = _in_overlaps(result, frames, table, noise)
    else:
        found = _in_slopes(result, frames)
    errors = result.solution.errors[:, 0]
    errors = errors[np.isfinite(errors) & (errors > 0)]
    least = np.median(errors) if len(errors) else 0.0
    # The error of a level may grow by more than the pattern along a mosaic.
    small = {True: least, False: FRACTION * least}
    found = [p for p in found if p.size > small[p.followed]]
    if found:
        return found
    slopes = _slopes_left(result, table, noise)
    if slopes is None:
        return []
    square, freedom, size, linked = slopes
    if square > MIN_SHAPES * freedom and size > least:
        # Planes do not follow the slopes of the overlaps.
        return [DetectorPattern(result.name, "", len(linked), size, False, common=False)]
    return [p for p in _that_close(result, table, noise, slopes) if p.size > FRACTION * least]


# --------------------------------------------------------------------------------------
# Images with patterns of their own


def _that_close(result, table, noise, slopes):
    """Compare the slopes of the overlaps that planes do not follow with the closures of loops.

    Stripes and other noise change the differences across overlaps, and loops close no better than
    their errors. A pattern that stays with the detector changes them, and loops still close.
    """
    solution = result.solution
    if solution.coefficients.shape[1] > 1:
        return
    square, of_slopes, size, linked = slopes
    rows = result.kept_rows
    pairs, level = table.take(rows), solution.coefficients[:, 0]
    first, second = result.group[pairs.first], result.group[pairs.second]
    freedom = len(rows) - len(linked) + len(np.unique(solution.component[linked]))
    left = pairs.level - (level[first] - level[second])
    own = pairs.gram[:, 0, 0]
    closure = float(np.sum(own**2 / (own + noise[rows, 0, 0]) * np.square(left)))
    if freedom < LEAST_FREEDOM or square < MIN_SLOPES * of_slopes:
        return
    ratio = square / of_slopes / max(closure / freedom, 1e-300)
    chance = float(fdtrc(of_slopes, freedom, ratio))
    if chance < CLOSED:
        yield DetectorPattern(result.name, "", len(linked), size, False, common=False, closes=True)


def _slopes_left(result, table, noise):
    """Fit a slope to each group by the slopes of its overlaps, and return the residuals.

    `None` if there are too few pairs, or too many groups.

    Returns
    -------
    square : float
        Weighted sum of the squared residuals.
    freedom : int
        Its degrees of freedom.
    size : float
        Rms of the differences by the residual slopes.
    linked : `~numpy.ndarray` of int
        The groups that have pairs.
    """
    rows = result.kept_rows
    pairs, m = table.take(rows), len(result.group_axes)
    first, second = result.group[pairs.first], result.group[pairs.second]
    linked = np.unique([first, second])
    freedom = 2 * len(rows) - 2 * (len(linked) - 1)
    if freedom < LEAST_SHAPES or len(linked) > MAX_GROUPS:
        return None
    weight, asked = _slope_equations(pairs, noise[rows])
    normal, right = np.zeros((m, 2, m, 2)), np.zeros((m, 2))
    ends = [
        (end, sign * transfer_matrix(result.group_axes[end], pairs.axes)[:, 1:, 1:])
        for end, sign in ((first, 1), (second, -1))
    ]
    for end, turn in ends:
        np.add.at(right, end, np.einsum("pji,pj->pi", turn, asked))
        for other, back in ends:
            np.add.at(normal, (end, slice(None), other), turn.swapaxes(1, 2) @ weight @ back)
    normal = normal.reshape(2 * m, 2 * m)
    slopes = np.linalg.lstsq(normal, right.ravel(), rcond=1e-9)[0].reshape(m, 2)
    model = sum(np.einsum("pij,pj->pi", turn, slopes[end]) for end, turn in ends)
    inverse = np.linalg.pinv(weight, rcond=1e-9, hermitian=True)
    left = np.einsum("pij,pj->pi", inverse, asked) - model
    square = float(np.einsum("pi,pij,pj->", left, weight, left))
    size = float(np.sqrt(max(square, 0.0) / pairs.gram[:, 0, 0].sum()))
    return square, freedom, size, linked


def _slope_equations(pairs, noise):
    """Return the `PairTable.slope_equations` of pairs, with the weights of shared noise."""
    normal, asked = pairs.slope_equations()
    if not noise.any():
        return normal, asked
    mixed = pairs.gram[:, 0, 1:] / pairs.gram[:, :1, 0]
    free = np.concatenate([-mixed[:, :, None], np.broadcast_to(np.eye(2), normal.shape)], axis=2)
    covariance = normal + free @ noise @ free.swapaxes(1, 2)
    change = normal @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
    return change @ normal, np.einsum("pij,pj->pi", change, asked)


# --------------------------------------------------------------------------------------
# Levels: the slopes of the overlaps


def _in_overlaps(result, frames, table, noise):
    """Fit quadratic patterns to the slopes of the overlaps of each detector's images."""
    rows = result.kept_rows
    detector = np.array([frame.detector for frame in frames])
    first, second = table.first[rows], table.second[rows]
    same = (detector[first] == detector[second]) & (table.npix[rows] > 0)
    names = np.unique(detector[first[same]]).tolist()
    for name in names:
        own = rows[same & (detector[first] == name)]
        own = own[:: max(1, len(own) // MAX_PAIRS)]
        images = np.unique([table.first[own], table.second[own]])
        slopes = _OverlapSlopes.of(frames, table, own, noise, len(images))
        for n_terms in (N_QUADRATIC, N_CUBIC):
            fitted = slopes and slopes.fit(slopes.design[:, :, :n_terms])
            if fitted is not None and fitted[1] < CHANCE:
                size = _rms_over_detector(fitted[0])
                yield DetectorPattern(result.name, name, len(images), size, False)
                break
        else:
            repeated = slopes and slopes.repeated()
            fitted = repeated and repeated.fit(repeated.design)
            if fitted is not None and fitted[1] * len(names) < CHANCE_REPEATED:
                size = repeated.rms(fitted[0])
                yield DetectorPattern(result.name, name, len(images), size, False)


@dataclass(frozen=True, eq=False)
class _OverlapSlopes:
    """Slopes of the overlaps of a detector's images, and the slopes by each term of a pattern."""

    slopes: np.ndarray
    weights: np.ndarray
    design: np.ndarray
    n_images: int
    level_weights: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, frames, table, rows, noise, n_images):
        """Return the slopes of pairs, for free levels; `None` if there are too few pairs."""
        rows = rows[table.gram[rows, 0, 0] > 0]
        own = {k: _own_terms(frames[k]) for k in np.unique(table.first[rows]).tolist()}
        good, normal, right = [], [], []
        for second in np.unique(table.second[rows]).tolist():
            part = rows[table.second[rows] == second]
            firsts = [own[k] for k in table.first[part].tolist()]
            found = _pattern_equations(firsts, frames[second], table.axes[part])
            for p, fit in zip(part.tolist(), found, strict=True):
                if fit is not None:
                    good.append(p)
                    normal.append(fit[0])
                    right.append(fit[1])
        if len(good) < LEAST_FREEDOM:
            return None
        pairs = table.take(np.array(good))
        weights, asked = _slope_equations(pairs, noise[good])
        # A narrow overlap has no slope along its short side.
        inverse = np.linalg.pinv(weights, rcond=1e-9, hermitian=True)
        slopes = np.einsum("pij,pj->pi", inverse, asked)
        planes = np.linalg.pinv(normal, rcond=1e-12, hermitian=True) @ np.array(right)
        return cls(
            slopes, weights, planes[:, 1:], n_images, pairs.gram[:, 0, 0], _offsets(frames, pairs)
        )

    def repeated(self):
        """Return the pairs whose offsets repeat, with a slope of each offset as terms, or `None`.

        A pattern of any shape gives images of one orientation the same slopes at the same offset.
        """
        sign = np.sign(self.offsets @ HALF_PLANE)
        steps = self.offsets * sign[:, None] / OFFSET_STEP
        # Offsets about the border of two steps are in one step of the shifted ones.
        kind, number = min(
            (
                np.unique(np.floor(steps + shift), axis=0, return_inverse=True, return_counts=True)
                for shift in SHIFTS
            ),
            key=lambda found: len(found[0]),
        )[1:]
        chosen = number[kind.ravel()] >= LEAST_REPEATED
        kinds, kind = np.unique(kind.ravel()[chosen], return_inverse=True)
        if len(kinds) == 0:
            return None
        design = np.zeros((len(kind), 2, len(kinds), 2))
        design[np.arange(len(kind)), :, kind] = sign[chosen, None, None] * np.eye(2)
        return _OverlapSlopes(
            self.slopes[chosen],
            self.weights[chosen],
            design.reshape(len(kind), 2, -1),
            self.n_images,
            self.level_weights[chosen],
            self.offsets[chosen],
        )

    def rms(self, coefficients):
        """Return the rms of the differences that coefficients of the design give the overlaps."""
        slopes = self.design @ coefficients
        square = np.einsum("pi,pij,pj->", slopes, self.weights, slopes)
        return float(np.sqrt(square / self.level_weights.sum()))

    def fit(self, design):
        """Return the pattern's coefficients and the chance of their statistic, or `None`.

        The fit is by weighted least squares. Pairs that share images are not independent, so the
        degrees of freedom come from the number of images.
        """
        weights, n, n_terms = self.weights, len(self.slopes), design.shape[2]
        freedom = 2 * min(n, self.n_images - 1) - n_terms
        normal = np.einsum("pik,pij,pjl->kl", design, weights, design)
        if freedom < LEAST_FREEDOM or np.linalg.cond(normal) > 1e10:
            return None
        right = np.einsum("pik,pij,pj->k", design, weights, self.slopes)
        coefficients = np.linalg.solve(normal, right)
        left = self.slopes - design @ coefficients
        spread = np.einsum("pi,pij,pj->", left, weights, left) / (2 * n - n_terms)
        spread *= max(1.0, n / (self.n_images - 1))
        statistic = coefficients @ normal @ coefficients / (n_terms * max(spread, 1e-300))
        return coefficients, float(fdtrc(n_terms, freedom, statistic))


def _own_terms(frame):
    """Return some nodes of an image on the sky and the terms of a pattern there, shape (n, 7)."""
    nodes = frame.grid.nodes[::NODE_STEP, ::NODE_STEP].reshape(-1, 3)
    place = _place(frame, nodes)
    good = np.isfinite(place[0])
    return nodes[good], _terms(place[:, good])


def _pattern_equations(firsts, second, axes):
    """Yield normal equations, (3, 3) and (3, 7), of the planes that a pattern gives pairs.

    They are fitted to the difference of each term at the two images' pixels. The pairs share their
    second image; for one with few nodes, `None` is yielded.
    """
    nodes, terms = (np.concatenate(parts) for parts in zip(*firsts, strict=True))
    place = _place(second, nodes)
    good = np.isfinite(place[0])
    ends = np.cumsum([0, *(len(first[0]) for first in firsts)])
    ends = np.concatenate([[0], np.cumsum(good)])[ends].tolist()
    nodes, off = nodes[good], terms[good] - _terms(place[:, good])
    for own, start, stop in zip(axes, ends[:-1], ends[1:], strict=True):
        plane = plane_terms(nodes[start:stop], own)
        enough = stop - start >= LEAST_NODES
        yield (plane.T @ plane, plane.T @ off[start:stop]) if enough else None


def _offsets(frames, pairs):
    """Return the offset (x, y) of the images at each pair's centre, in detector coordinates."""
    out = np.zeros((len(pairs), 2))
    for sign, ends in ((1, pairs.first), (-1, pairs.second)):
        for k in np.unique(ends).tolist():
            own = ends == k
            x, y = frames[k].grid.to_pixel(np.ascontiguousarray(pairs.axes[own, 0]))
            out[own] += sign * _scaled(frames[k], x, y).T
    return out


def _scaled(frame, x, y):
    """Return pixel coordinates as detector coordinates from -1 to 1."""
    ny, nx = frame.shape
    return np.array([2 * x / (nx - 1) - 1, 2 * y / (ny - 1) - 1])


def _place(frame, vectors):
    """Return detector coordinates (x, y) from -1 to 1 of unit vectors; NaN outside."""
    place = _scaled(frame, *frame.grid.to_pixel(vectors))
    place[:, ~(np.abs(place).max(axis=0) <= 1 + 1e-6)] = np.nan
    return place


def _terms(place):
    """Return the terms of a pattern at detector coordinates from -1 to 1, shape (n, 7)."""
    x, y = place
    xx, yy = x * x, y * y
    return np.stack([xx, x * y, yy, x * xx, xx * y, x * yy, y * yy], axis=1)


def _rms_over_detector(coefficients):
    """Return the standard deviation of a pattern over the detector."""
    x = (np.arange(40) + 0.5) / 20 - 1
    place = np.stack(np.meshgrid(x, x)).reshape(2, -1)
    return float(np.std(_terms(place)[:, : len(coefficients)] @ coefficients))


# --------------------------------------------------------------------------------------
# Planes: slopes that grow across the mosaic


def _in_slopes(result, frames):
    """Fit a gradient to the slopes of the groups of each connected set."""
    solution, axes = result.solution, result.group_axes
    detector_of = {g: frames[i].detector for i, g in reversed(list(enumerate(result.group)))}
    for s in np.unique(solution.component):
        groups = np.flatnonzero(solution.component == s)
        if 2 * len(groups) - 5 < LEAST_FREEDOM or not solution.active[groups, 1:].any():
            continue
        centre = tangent_axes(axes[groups, 0].sum(axis=0))
        offsets = ARCMIN * axes[groups, 0] @ centre[1:].T
        fit = SlopeFit.of(offsets, solution.coefficients[groups, 1:])
        # The covariance takes time, and a pattern is less significant with it.
        if fit.chance() >= CHANCE or fit.chance(_covariance(solution, groups, fit)) >= CHANCE:
            continue
        bent = 0.5 * np.einsum("gi,ij,gj->g", offsets, fit.gradient, offsets)
        detectors = {detector_of[g] for g in groups.tolist()}
        name = detectors.pop() if len(detectors) == 1 else ""
        yield DetectorPattern(result.name, name, len(groups), float(np.std(bent)), True)


def _covariance(solution, groups, fit):
    """Return the covariance that the errors of the slopes give the terms of a fit, (3, 3)."""
    m, k = solution.coefficients.shape
    columns = np.zeros((m, k, 3))
    for axis in range(2):
        columns[groups, 1 + axis] = fit.weights[:, axis].T
    return solution.covariance_of_sums(columns.reshape(m * k, 3))
