# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Numbers of a result, or of its record, for the summary, the report and the plots."""

import warnings
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from levelmatch.exceptions import LevelMatchWarning
from levelmatch.images.frame import HOLD
from levelmatch.images.units import unit_words
from levelmatch.options import SolveOptions
from levelmatch.record.solved_again import SolvedAgain
from levelmatch.sky.vectors import transfer_matrix
from levelmatch.solve.flux_scales import flux_differences
from levelmatch.solve.image_outliers import find_disagreeing, find_scattered
from levelmatch.solve.loops import find_closures
from levelmatch.solve.shared_pattern import subtract_pattern
from levelmatch.solve.solve_pass import loop_levels, subtract_solution, tested_equations
from levelmatch.text import values

__all__ = [
    "Diagnostics",
    "Seams",
    "Suspect",
    "find_suspects",
    "has_slopes",
]


# Largest residual of a seam that agrees within the errors, in standard errors.
BAD_SIGMA = 5.0
# Smallest robust weight of a pair that agrees with the others.
ODD_WEIGHT = 0.5
# Smallest change of differences across overlaps for which planes are tried: its median in standard
# errors, and its rms relative to the rms of the residuals.
MIN_SLOPE_SIGMA, MIN_SLOPE_RATIO = 5.0, 0.5
# Largest number of images for which the fit type "auto" is tried; beyond, "level+slope" is used.
MAX_AUTO = 100
# Largest ratio of the residuals of planes to the residuals of levels for which planes help.
MAX_PLANE_RATIO = 0.7


def has_slopes(table):
    """Return whether a correction in a table of images is a plane."""
    return any(values(table[f"slope_{axis}"]).any() for axis in "uv")


def _rms(numbers):
    return float(np.sqrt(np.mean(np.square(numbers)))) if len(numbers) else np.nan


class Diagnostics:
    """Quantities of a result or its record, each computed once.

    Parameters
    ----------
    result : `~levelmatch.record.run_result.RunResult`
        The result, or its record.
    """

    def __init__(self, result):
        if not hasattr(result, "frames"):
            msg = f"result: expected a MatchResult or a Record, not {type(result).__name__}"
            raise TypeError(msg)
        self.result = result
        self.frames = result.frames
        self.passes = result.passes
        self.unit = result.unit

    @classmethod
    def of(cls, result):
        """Return the facts of a result; return facts unchanged."""
        return result if isinstance(result, cls) else cls(result)

    @property
    def unit_words(self):
        """The common unit as text for labels."""
        return unit_words(self.unit)

    @cached_property
    def labels(self):
        """Names of the images in sentences, by full name. The report sets short names."""
        return {name: name for name in self.names}

    @cached_property
    def names(self):
        """Names of the images, in the order of the input."""
        return [frame.name for frame in self.frames]

    @cached_property
    def table(self):
        """The table of images."""
        return self.result.table

    @cached_property
    def pairs(self):
        """The table of pairs."""
        return self.result.pairs

    @cached_property
    def closures(self):
        """The table of loops."""
        return self.result.closures

    @cached_property
    def n_images(self):
        """Number of output images; a joined MIRI image counts once."""
        whole = {frame.product for frame in self.frames}
        return len(whole) if self.result.run.recombine else len(self.frames)

    @cached_property
    def order(self):
        """Rows of the images, sorted by name, in the table of images; passes use this order."""
        return np.argsort(self.result.rank)

    @cached_property
    def ends(self):
        """Rows of the two images of each pair in the table of images, shape (n, 2)."""
        measured = self.result.measured
        return self.order[np.stack([measured.first, measured.second], axis=1).astype(int)]

    @cached_property
    def kept(self):
        """Flags of the kept pairs, shape (n,)."""
        return np.asarray(self.pairs["kept"], dtype=bool)

    @cached_property
    def n_sigma(self):
        """Residual of each pair divided by its standard error, shape (n,); NaN if rejected."""
        return values(self.pairs["n_sigma"])

    @cached_property
    def references(self):
        """Names of the reference images."""
        return {r.name for r in self.result.references}

    @cached_property
    def sets(self):
        """Index of each image's connected set in the last pass, shape (n,); 0 is the largest."""
        out = np.zeros(len(self.frames), dtype=int)
        for p in self.passes[-1:]:
            label = p.solution.component[p.group]
            _, first, inverse, n = np.unique(
                label, return_index=True, return_inverse=True, return_counts=True
            )
            rank = np.argsort(np.lexsort((first, -n)))
            out[self.order] = rank[inverse]
        return out

    @cached_property
    def linked(self):
        """Flags of images whose group a kept pair or shared offsets link to another, shape (n,).

        Images that the caller holds count as linked, because their corrections are known.
        """
        linked = np.array([frame.role == HOLD for frame in self.frames])
        for p in self.passes:
            groups = p.group[self.result.rank[self.ends[p.kept_rows]]]
            linked[self.order] |= np.isin(p.group, groups)
            if p.offsets:
                component = p.solution.component
                linked[self.order] |= (np.bincount(component)[component] > 1)[p.group]
        return linked

    @cached_property
    def levels(self):
        """Level of each image and its error in the common unit, shape (2, n)."""
        scale = np.array([frame.scale for frame in self.frames])
        return np.stack([values(self.table["level"]), values(self.table["error"])]) * scale

    @cached_property
    def seams(self):
        """The `Seams` of the kept pairs."""
        before, after = (values(self.pairs[name])[self.kept] for name in ("level", "residual"))
        # Rounding errors count as zero.
        after = np.where(np.abs(after) > 1e-9 * np.abs(before).max(initial=0.0), after, 0.0)
        sigmas = self.n_sigma[self.kept]
        sigmas = sigmas[np.isfinite(sigmas)]
        return Seams(
            _rms(before),
            np.abs(before).max(initial=0.0),
            _rms(after),
            np.abs(after).max(initial=0.0),
            _rms(sigmas),
            sigmas.max(initial=0.0),
            int(np.count_nonzero(sigmas > BAD_SIGMA)),
            max((p.solution.floor for p in self.passes), default=0.0),
            float(np.median(values(self.pairs["sigma"])[self.kept])) if len(before) else np.nan,
        )

    @cached_property
    def odd(self):
        """Flags of the kept pairs that disagree with the others, shape (n,)."""
        robust = values(self.pairs["robust"])
        return self.kept & (robust < ODD_WEIGHT)

    @cached_property
    def suspects(self):
        """Images that disagree with their neighbours, the worst first.

        A dictionary from the row of the image, or of a tile's first image, to its `Suspect`.
        """
        by_row = {}
        for suspect in find_suspects(self.result):
            by_row.setdefault(int(self.order[suspect.images[0]]), suspect)
        return by_row

    @cached_property
    def worst_seam(self):
        """Row of the pair with the largest residual in standard errors; `None` if none is kept."""
        sigmas = np.where(self.kept, self.n_sigma, np.nan)
        return int(np.nanargmax(sigmas)) if np.isfinite(sigmas).any() else None

    def seam_error(self, row):
        """Return the standard error of the difference of a pair's corrections at its centre."""
        ends = self.ends[row].tolist()
        axes = self.result.measured.axes[row]
        to_pair = [transfer_matrix(self.frames[k].whole_grid.axes, axes)[0] for k in ends]
        variance = 0.0
        for a, i in enumerate(ends):
            for b, j in enumerate(ends):
                sign = 1 if a == b else -1
                variance += sign * to_pair[a] @ self.result.covariance(i, j) @ to_pair[b]
        return float(np.sqrt(max(variance, 0.0)))

    def rms_of_pass(self, matched):
        """Return the rms difference and the rms residual of a pass's kept pairs.

        The differences are those before all passes, the residuals those after this pass. Both
        are NaN without a kept pair.
        """
        rows = matched.kept_rows
        return _rms(values(self.pairs["level"])[rows]), _rms(matched.residual[matched.kept])

    @property
    def flux_limit(self):
        """Smallest relative difference of flux scales that is reported."""
        return self.result.options.get("solve", {}).get("flux_limit", SolveOptions.flux_limit)

    @cached_property
    def flux_differences(self):
        """Images whose flux scale differs, the most significant first.

        An image is given by its index among all images, sorted by name.
        """
        return flux_differences(self.result.measured, self.flux_limit)

    @cached_property
    def slope_step(self):
        """Rms change of the differences across overlaps due to slopes, or 0 if it is small.

        It is computed from the plane of each kept pair, if all passes fit levels.
        """
        measured = self.result.measured
        good = self.kept & (measured.npix > 0)
        if not good.any() or any(p.fit_type != "level" for p in self.passes):
            return 0.0
        pairs = measured.without_strips().take(good)
        normal, asked = pairs.slope_equations()
        chi2 = np.einsum("pi,pij,pj->p", asked, np.linalg.pinv(normal, hermitian=True), asked)
        chi2 = np.maximum(chi2, 0.0)
        step = _rms(np.sqrt(chi2 / pairs.gram[:, 0, 0]))
        helps = np.median(np.sqrt(chi2 / 2)) > MIN_SLOPE_SIGMA
        return step if helps and step > MIN_SLOPE_RATIO * self.seams.after else 0.0

    @cached_property
    def left_by_planes(self):
        """Rms of the residuals if planes are fitted, or NaN if planes do not help.

        The pairs are solved again with the fit type ``"auto"``, or for many images with
        ``"level+slope"``, which is faster.
        """
        few = len(self.frames) <= MAX_AUTO
        levels = all(p.fit_type == "level" for p in self.passes)
        # Suspect images must not suggest planes.
        if not levels or not self.kept.any() or self.suspects or not (few or self.slope_step > 0):
            return np.nan
        fit_type = "auto" if few else "level+slope"
        run = self.result.run
        run = replace(run, planned=[replace(p, fit_type=fit_type) for p in run.planned])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LevelMatchWarning)
            rows = [p.rows for p in self.passes]
            again = SolvedAgain(
                self.frames, rows, self.result.measured, run, self.passes[0].pattern
            )
            left = _rms(np.concatenate([p.residual[p.kept] for p in again.passes]))
        return left if left < MAX_PLANE_RATIO * self.seams.after else np.nan


# --------------------------------------------------------------------------------------
# Seams


@dataclass(frozen=True)
class Seams:
    """Steps between images before and after matching, over all kept pairs.

    Parameters
    ----------
    before, before_worst, after, after_worst : float
        Rms and largest absolute value of the differences and of the residuals, in the common
        unit.
    sigma, sigma_worst : float
        Rms and largest absolute value of the residuals divided by their standard errors.
    n_bad : int
        Number of pairs whose residual exceeds `BAD_SIGMA` standard errors.
    floor, noise : float
        Largest systematic floor of a pass, and median standard error of the pairs without the
        floor.
    """

    before: float
    before_worst: float
    after: float
    after_worst: float
    sigma: float
    sigma_worst: float
    n_bad: int
    floor: float
    noise: float


# --------------------------------------------------------------------------------------
# Suspects


@dataclass(frozen=True)
class Suspect:
    """Images that disagree with their neighbours.

    Parameters
    ----------
    images : tuple of int
        Indices of the images among all images sorted by name; more than one for a tile that has
        one correction in the pass.
    scatter : float
        Variance within the overlaps divided by the variance of other images; 0 if it is normal.
    n_sigma : float
        Rms deviation of the differences from the prediction of all other images, in standard
        errors; 0 if they agree.
    with_it, without_it : float
        Rms closure of the loops of the pass with and without the images; NaN without a loop.
    """

    images: tuple
    scatter: float
    n_sigma: float
    with_it: float
    without_it: float


def find_suspects(result):
    """Return the `Suspect` images of a result or record, the worst first.

    Images whose differences disagree with others precede images whose differences only scatter
    too much within the overlaps.

    Parameters
    ----------
    result : `~levelmatch.record.run_result.RunResult`
        The result, or its record.

    Returns
    -------
    suspects : list of `Suspect`
        The suspects.
    """
    measured = result.measured
    scatter = find_scattered(measured.first, measured.second, measured.chi2)
    found, pairs = [], measured
    for p in result.passes:
        after = subtract_solution(pairs, p)
        found += _of_pass(p, subtract_pattern(pairs, p.pattern), after, scatter)
        pairs = after
    disagree = {image for suspect in found for image in suspect.images}
    alone = [image for image in scatter if image not in disagree]
    return found + [_scattered(result.passes, measured, i, scatter[i]) for i in alone]


def _of_pass(p, pairs, after, scatter):
    """Return the suspects of one pass; suspects with a large scatter come first."""
    rows, equations = tested_equations(p, pairs, p.solution.coefficients.shape[1])
    found = []
    for group, n_sigma in find_disagreeing(equations):
        images = tuple(np.flatnonzero(p.group == group).tolist())
        ratio = max((scatter.get(image, 0.0) for image in images), default=0.0)
        closures = _closures(p, pairs, after, rows, group)
        found.append(Suspect(images, ratio, n_sigma, *closures))
    return sorted(found, key=lambda suspect: suspect.scatter == 0)


def _scattered(passes, pairs, image, ratio):
    """Return the suspect of an image whose differences scatter too much."""
    for p in passes:
        after = subtract_solution(pairs, p)
        rows, group = p.kept_rows, p.group[image]
        if group in p.group[[pairs.first[rows], pairs.second[rows]]]:
            before = subtract_pattern(pairs, p.pattern)
            closures = _closures(p, before, after, rows, group)
            return Suspect((image,), ratio, 0.0, *closures)
        pairs = after
    return Suspect((image,), ratio, 0.0, np.nan, np.nan)


def _closures(p, pairs, after, rows, group):
    """Return the rms closure of the loops of a pass with and without a group."""
    ends, level = loop_levels(p, pairs, after, rows)
    return [
        _rms(find_closures(*ends[:, used], level[used], np.ones(np.count_nonzero(used)))[2])
        for used in (np.ones(len(rows), dtype=bool), (ends != group).all(axis=0))
    ]
