# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""The job: which pairs each pass uses, their measurement, and the passes one after another."""

import warnings
from dataclasses import dataclass, replace
from logging import getLogger

import numpy as np

from levelmatch import jwst
from levelmatch.corrections import AppliedCorrection, Correction
from levelmatch.exceptions import FluxScaleWarning, NoOverlapError
from levelmatch.local import local_level
from levelmatch.measure import pair_table
from levelmatch.overlaps import DepthMap, find_pairs, thin_pairs
from levelmatch.passes import (
    Pass,
    assign_pairs,
    labels,
    shift_levels,
    solve_pass,
    subtract_solution,
)
from levelmatch.schedule import measure_pairs
from levelmatch.solve import FIT_TYPES

__all__ = ["Overlaps", "Step", "correct_frames", "run_steps", "warn_flux_scales"]

logger = getLogger(__name__)

# How sure a difference of flux scales must be to be warned of.
FLUX_SIGMA = 4.0


@dataclass(frozen=True)
class Step:
    """A pass before its images are known: plain values, which a record can hold.

    Parameters
    ----------
    name : {"dithers", "lyot", "nircam_short", "mosaic"}
        The pass.
    fit_type : {"level", "level+slope", "level+match", "auto"}
        What it fits.
    reference : {"auto", "mean", "image"}
        What the mosaic's corrections are relative to.
    image : str
        The name of that image, if the user named it.
    keyword : str
        Header keyword of the time from the backgrounds.
    combine_chips : bool
        Whether the short-wavelength chips of a module are one image of the mosaic.
    recombined : bool
        Whether science and Lyot parts are one image of the mosaic.
    subtract_local : bool
        Whether each tile's local level is subtracted after the pass.
    """

    name: str
    fit_type: str = "level"
    reference: str = "mean"
    image: str = ""
    keyword: str = "DT_BGR"
    combine_chips: bool = False
    recombined: bool = False
    subtract_local: bool = False

    def plan(self, frames):
        """Return the `~levelmatch.passes.Pass` of frames, sorted by name."""
        domain, group = _LABELS[self.name](frames, self)
        reference = {"mean": None, "auto": "auto"}.get(self.reference)
        if self.name == "lyot":
            reference = "science"
        elif self.reference == "image":
            names = [frame.name for frame in frames]
            reference = int(group[names.index(self.image)])
        return Pass(self.name, FIT_TYPES[self.fit_type], domain, group, reference, self.keyword)


def _dither_labels(frames, step):
    return labels([(f.tile, f.detector, f.part) for f in frames]), np.arange(len(frames))


def _lyot_labels(frames, step):
    return (
        labels([(f.tile, f.detector) for f in frames]),
        labels([(f.tile, f.detector, f.part, f.subset) for f in frames]),
    )


def _nircam_labels(frames, step):
    return (
        labels([(f.tile, jwst.module_of(f.detector)) for f in frames]),
        labels([(f.tile, f.detector, f.subset) for f in frames]),
    )


def _mosaic_labels(frames, step):
    groups = [
        (
            f.tile,
            jwst.module_of(f.detector) if step.combine_chips else f.detector,
            "" if step.recombined else f.part,
            f.subset,
        )
        for f in frames
    ]
    return np.zeros(len(frames), dtype=np.intp), labels(groups)


_LABELS = {
    "dithers": _dither_labels,
    "lyot": _lyot_labels,
    "nircam_short": _nircam_labels,
    "mosaic": _mosaic_labels,
}


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The pairs to measure: which pass uses each, and what shares their noise."""

    pairs: np.ndarray
    used: np.ndarray
    part: np.ndarray
    depth_maps: list

    @classmethod
    def of(cls, frames, passes, options):
        """Find the pairs of frames that passes use, thinned to their budget."""
        grids = [frame.grid for frame in frames]
        found, area = find_pairs(grids)
        used = assign_pairs(passes, found)
        keep, part = used >= 0, np.ones(len(found))
        if options.max_pairs is not None:
            for k in range(len(passes)):
                rows = np.flatnonzero(used == k)
                kept, part[rows] = thin_pairs(
                    found[rows], area[rows], len(frames), options.max_pairs
                )
                keep[rows[~kept]] = False
        maps = [
            _depth_maps(grids, found, p.domain, np.unique(found[used == k]))
            for k, p in enumerate(passes)
        ]
        pairs, used, part = found[keep], used[keep], part[keep]
        depth_maps = [
            (maps[k][i], maps[k][j])
            for k, (i, j) in zip(used.tolist(), pairs.tolist(), strict=True)
        ]
        return cls(pairs, used, part, depth_maps)

    def check(self, frames, passes):
        """Refuse a mosaic in which nothing overlaps."""
        if len(self.pairs) == 0 and passes[-1].name == "mosaic" and passes[-1].group.max() > 0:
            msg = (
                f"none of the {len(frames)} images overlap: there is nothing to match; "
                "look at their WCSs"
            )
            raise NoOverlapError(msg)

    def measure(self, frames, settings, known=None):
        """Return the table of the pairs, and the sky levels if they will tie sets.

        Parameters
        ----------
        frames : list of `~levelmatch.frames.Frame`
            The images.
        settings : object
            With ``measure``, ``solve`` and ``progress_bar``.
        known : `~levelmatch.store.PairStore` or None
            Pairs that need no second measurement, and where new ones are kept.
        """
        rows, keep = ({}, None) if known is None else known.open(frames, self, settings.measure)
        todo = np.array([p for p in range(len(self.pairs)) if p not in rows], dtype=np.intp)

        def add(indices, new):
            rows.update(zip(todo[indices].tolist(), new, strict=True))
            keep(todo[indices], new)

        measured, sky = measure_pairs(
            frames,
            self.pairs[todo],
            [self.depth_maps[p] for p in todo],
            settings.measure,
            with_sky=settings.solve.disconnected == "sky",
            progress_bar=settings.progress_bar,
            on_rows=None if known is None else add,
        )
        if known is not None:
            measured = pair_table(self.pairs, [rows[p] for p in range(len(self.pairs))])
        return replace(measured, multiplicity=1 / self.part), sky


def _depth_maps(grids, found, domain, images):
    """Return the depth map of each of some images: of all of its domain that overlap it.

    A pass's noise is shared by all images of a domain, those of one group too.
    """
    same = found[domain[found[:, 0]] == domain[found[:, 1]]]
    ends = np.concatenate([same, same[:, ::-1]])
    ends = ends[np.argsort(ends[:, 0], kind="stable")]
    start = np.searchsorted(ends[:, 0], images, side="left").tolist()
    stop = np.searchsorted(ends[:, 0], images, side="right").tolist()
    others = ends[:, 1].tolist()
    return {
        i: DepthMap(grids[i], [grids[j] for j in others[a:b]])
        for i, a, b in zip(images.tolist(), start, stop, strict=True)
    }


def run_steps(frames, steps, measured, used, weights, options, *, sky=None, local=local_level):
    """Solve the passes one after another, each on what the earlier ones left.

    Parameters
    ----------
    frames : list of `~levelmatch.frames.Frame`
        The images, sorted by name.
    steps : list of `Step`
        The passes.
    measured : `~levelmatch.measure.PairTable`
        The pairs.
    used : `~numpy.ndarray` of int, shape (n,)
        The pass that each pair is used in.
    weights : {"ivar", "equal", "npix", "rms"}
        Weights of the pairs.
    options : `~levelmatch.solve.SolveOptions`
        How.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Clipped sky levels, if they are to tie sets.
    local : callable
        The local level of a frame, in the common unit.

    Returns
    -------
    frames : list of `~levelmatch.frames.Frame`
        With their corrections.
    results : list of `~levelmatch.passes.PassResult`
        What each pass found.
    """
    results, table = [], measured
    for k, step in enumerate(_hold_named(steps, frames, used)):
        rows = np.flatnonzero(used == k)
        result = solve_pass(step.plan(frames), frames, table, rows, weights, options, sky=sky)
        table = subtract_solution(table, result)
        results.append(result)
        before, frames = frames, _mark_subsets(correct_frames(frames, result), result)
        if step.subtract_local:
            levels = _local_levels(frames, result.matched, local)
            frames = _subtract_local(frames, levels)
            table = shift_levels(table, levels)
        if sky is not None:
            sky = sky - _steps(before, frames)
        logger.info(
            "pass %s: %d pairs, %d kept, floor %.3g",
            step.name,
            len(result.rows),
            result.kept.sum(),
            result.solution.floor,
        )
    return frames, results


def _hold_named(steps, frames, used):
    """Return the steps; a named reference is held where it can be.

    Of images of one tile the mosaic corrects all alike: the last pass before it that has pairs
    holds the reference then.
    """
    mosaic = steps[-1]
    if mosaic.reference != "image" or mosaic.plan(frames).group.max() > 0:
        return steps
    for k in reversed(range(len(steps) - 1)):
        if steps[k].name != "lyot" and (used == k).any():
            held = replace(steps[k], reference="image", image=mosaic.image)
            return [*steps[:k], held, *steps[k + 1 :]]
    return steps


def _steps(before, after):
    """What was subtracted at each image's centre between two states, in the common unit."""
    return np.array(
        [
            (new.correction.coefficients(axes)[0] - old.correction.coefficients(axes)[0])
            * new.scale
            for old, new in zip(before, after, strict=True)
            for axes in [new.whole_grid.axes]
        ]
    )


def warn_flux_scales(frames, measured, limit):
    """Warn, once, of pairs whose difference depends on brightness."""
    error = np.hypot(measured.gain_error, 1e-3)
    wrong = (np.abs(measured.gain) > limit) & (np.abs(measured.gain) > FLUX_SIGMA * error)
    if not wrong.any():
        return
    p = np.flatnonzero(wrong)[np.argmax(np.abs(measured.gain[wrong]) / error[wrong])]
    i, j = measured.first[p], measured.second[p]
    msg = (
        f"{wrong.sum()} pairs differ in flux scale by more than {limit:.0%}, such as "
        f"{frames[i].name} and {frames[j].name} by {measured.gain[p]:+.1%} +- "
        f"{measured.gain_error[p]:.1%}: their levels depend on brightness; flux_scale brings "
        "images to one scale"
    )
    warnings.warn(msg, FluxScaleWarning, stacklevel=4)


def correct_frames(frames, result):
    """Return the frames with a pass's corrections appended, each in its own unit."""
    out = []
    names = {}
    for choice in result.references:
        names[result.solution.component[choice.group]] = choice.name
    for i, frame in enumerate(frames):
        correction = result.correction(i).scaled(1 / frame.scale)
        variance = result.variance(i, frame.whole_grid.axes) / frame.scale**2
        component = result.solution.component[result.matched.group[i]]
        applied = AppliedCorrection(
            result.matched.name, correction, variance, names.get(component, "mean")
        )
        out.append(frame.with_keys(corrections=(*frame.corrections, applied)))
    return out


def _mark_subsets(frames, result):
    """Return the frames, those of a domain that fell into sets marked by their set.

    A later pass, in which other images may join the sets, then corrects each for
    itself. The largest set keeps the mark 0.
    """
    component = result.solution.component[result.matched.group]
    sets, first, count = np.unique(component, return_index=True, return_counts=True)
    # A set lies in one domain: pairs are within domains.
    domain = result.matched.domain[first]
    order = np.lexsort((first, -count, domain))
    rank = np.empty(len(sets), dtype=int)
    _, start = np.unique(domain[order], return_index=True)
    rank[order] = np.arange(len(sets)) - np.repeat(start, np.diff([*start, len(sets)]))
    subset = rank[np.searchsorted(sets, component)]
    return [frame.with_keys(subset=int(s)) for frame, s in zip(frames, subset, strict=True)]


def _local_levels(frames, dithers, local):
    """The local level of each frame's tile, that of its first frame, in the common unit."""
    levels = {}
    for i, frame in enumerate(frames):
        if dithers.domain[i] not in levels:
            levels[dithers.domain[i]] = local(frame)
    return np.array([levels[domain] for domain in dithers.domain.tolist()])


def _subtract_local(frames, levels):
    """Return the frames with their local levels, in the common unit, appended."""
    return [
        frame.with_keys(
            corrections=(
                *frame.corrections,
                AppliedCorrection(
                    "local",
                    Correction(level / frame.scale),
                    np.zeros(3),
                    "the local background",
                ),
            )
        )
        for frame, level in zip(frames, levels.tolist(), strict=True)
    ]
