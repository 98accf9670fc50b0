# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve the passes one after another."""

from dataclasses import replace
from functools import partial

import numpy as np

from levelmatch.exceptions import PatternWarning, warn_user
from levelmatch.images.background import local_level
from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.measure.correlated_errors import pooled_passes, shared_by_planes, shared_noise
from levelmatch.measure.noise import widened
from levelmatch.solve.cumulative_covariance import Carried
from levelmatch.solve.equations import KnownErrors
from levelmatch.solve.flux_scales import scale_scatter, shift_variances
from levelmatch.solve.linear import one_thread
from levelmatch.solve.patterns import find_patterns
from levelmatch.solve.shared_pattern import find_shared_pattern, subtract_pattern
from levelmatch.solve.solve_pass import shift_levels, solve_pass, subtract_solution
from levelmatch.solve.weights import short_variances
from levelmatch.solve.wings import find_wings

__all__ = ["correct_frames", "run_passes"]


@one_thread
@np.errstate(under="ignore")
def run_passes(
    frames, passes, measured, pass_of, options, *, sky=None, local=local_level, pattern=None
):
    """Solve the passes one after another, each on the residuals of the earlier ones.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, sorted by name.
    passes : list of `~levelmatch.solve.passes.Pass`
        The passes as planned.
    measured : `~levelmatch.measure.table.PairTable`
        The pairs.
    pass_of : `~numpy.ndarray` of int, shape (n,)
        Index of the pass that uses each pair, -1 for none.
    options : `~levelmatch.options.SolveOptions`
        Options of the solution.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Clipped sky levels, if they are to tie sets.
    local : callable
        Function of a frame that returns its local level, in the common unit.
    pattern : `~levelmatch.solve.shared_pattern.SharedPattern` or None
        Known pattern of the detectors; by default it is solved for according to
        ``options.pattern``.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        With their corrections.
    solved : list of `~levelmatch.solve.passes.Pass`
        The passes with their solutions.
    """
    passes = _hold_named(passes, frames, pass_of)
    fit_types = [p.fit_type for p in passes]
    of_short = short_variances(measured, pass_of, fit_types, options)
    # Recorded images have no WCS.
    if pattern is None and options.pattern is not None and frames[0].transform is not None:
        widened_pairs = _with_variances(measured, of_short)
        after_pass = partial(_after_pass, options)
        pattern = find_shared_pattern(frames, passes, widened_pairs, pass_of, options, after_pass)
    # Errors from strips and blocks would absorb a pattern of the detector. Patterns are therefore
    # searched for with the errors of the cells alone.
    grids = [frame.whole_grid for frame in frames]
    unpooled = _with_variances(subtract_pattern(measured, pattern), of_short)
    pooled = _pooled(measured, pass_of, fit_types, grids)
    of_scales, _ = scale_scatter(measured)
    of_scales[_of_planes(pass_of, fit_types)] = 0
    pooled = _with_variances(pooled, of_scales + of_short)
    shared = shared_by_planes(measured, pass_of, fit_types, pooled)
    of_wings = find_wings(measured).effects
    known = KnownErrors(shared, _fraction(of_scales, np.square(pooled.sigma)), of_wings)
    done, table, carried = [], subtract_pattern(pooled, pattern), Carried.of(frames, pattern)
    for k, p in enumerate(passes):
        rows = np.flatnonzero(pass_of == k)
        more = {"sky": sky, "unpooled": unpooled, "known": known, "carried": carried}
        solved = solve_pass(p.grouped(frames), frames, table, rows, options, **more)
        tested = _with_variances(unpooled, of_scales)
        solved = replace(solved, patterns=_find_patterns(solved, frames, tested, measured))
        after = carried and carried.after(solved, frames, table)
        variances = _added_variances(carried, after, frames, solved)
        before, carried = frames, after
        table, unpooled = (subtract_solution(pairs, solved) for pairs in (table, unpooled))
        if k == 0:
            solved = replace(solved, pattern=pattern)
        done.append(replace(solved, carried_of=partial(_identity, carried)))
        frames = correct_frames(frames, solved, variances, _subsets(solved))
        if p.subtract_local:
            levels = _local_levels(frames, solved, local)
            frames = _subtract_local(frames, levels)
            table, unpooled = (shift_levels(pairs, levels) for pairs in (table, unpooled))
        if sky is not None:
            sky = sky - _steps(before, frames)
    return frames, done


def _pooled(measured, pass_of, fit_types, grids):
    """Return the pairs with errors from strips and blocks, or from shifts of the images.

    The blocks of an overlap show wrong astrometry, too: the larger variance is used.
    """
    pooled = pooled_passes(measured, pass_of, fit_types, grids)
    variance = shift_variances(measured)
    counts = (variance > 0) & ~_of_planes(pass_of, fit_types)
    more = np.square(measured.sigma) + variance - np.square(pooled.sigma)
    return _with_variances(pooled, np.where(counts, np.maximum(more, 0), 0))


def _of_planes(pass_of, fit_types):
    """Return whether each pair is of a pass of planes, or of none; shape (n,)."""
    planes = [fit_type == "level+slope" for fit_type in fit_types]
    return np.array([*planes, True])[pass_of]


def _with_variances(table, variance):
    """Return the pair table with variances added to those of the levels."""
    if not variance.any():
        return table
    return widened(table, _fraction(variance, np.square(table.sigma)))


def _fraction(part, whole):
    """Return the ratio of variances of pairs, zero for those without common pixels."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=part > 0)


def _after_pass(options, p, frames, table, rows):
    """Solve one pass; return it, the frames after it and the pairs without its corrections."""
    solved = solve_pass(
        p.grouped(frames), frames, table, rows, replace(options, disconnected="warn")
    )
    subsets = zip(frames, _subsets(solved), strict=True)
    frames = [frame.with_keys(subset=subset) for frame, subset in subsets]
    return solved, frames, subtract_solution(table, solved)


def _find_patterns(solved, frames, table, measured):
    """Return the patterns that stay with a detector; warn of each."""
    if solved.name == "fit_exclude" or not len(solved.rows) or frames[0].transform is None:
        # Recorded images have no WCS.
        return ()
    rows = solved.kept_rows
    patterns = tuple(find_patterns(solved, frames, table))
    # Offsets of rows and columns also change the slopes of overlaps.
    noise = shared_noise(measured.take(rows), with_blocks=False) if patterns else None
    if noise is not None:
        whole = np.zeros(measured.gram.shape)
        whole[rows] = noise
        patterns = tuple(find_patterns(solved, frames, table, whole))
    for pattern in patterns:
        unit = "" if frames[0].unit is None else str(frames[0].unit)
        warn_user(pattern.sentence(unit), PatternWarning)
    return patterns


def _hold_named(passes, frames, pass_of):
    """Return the passes, with a named reference held in an earlier pass if the last has one group.

    If all images are of one tile, the mosaic pass has only one group. The last earlier pass with
    pairs, other than the Lyot pass, then holds the reference.
    """
    last = max((k for k, p in enumerate(passes) if p.name != "fit_exclude"), default=0)
    mosaic = passes[last]
    if mosaic.reference != "image" or mosaic.grouped(frames).group.max() > 0:
        return passes
    for k in reversed(range(last)):
        if passes[k].name != "lyot" and (pass_of == k).any():
            held = replace(passes[k], reference="image", image=mosaic.image)
            return [*passes[:k], held, *passes[k + 1 :]]
    return passes


def _steps(before, after):
    """Return the change of each correction at its image's centre, in the common unit."""
    return np.array(
        [
            (new.correction.coefficients(axes)[0] - old.correction.coefficients(axes)[0])
            * new.scale
            for old, new in zip(before, after, strict=True)
            for axes in [new.whole_grid.axes]
        ]
    )


def _identity(value):
    return value


def _added_variances(before, after, frames, solved):
    """Return the variance that a pass adds to each image's correction, shape (n, 3)."""
    own = np.array([solved.variance(i, f.whole_grid.axes) for i, f in enumerate(frames)])
    if after is None or (before.exact and after.spread is None):
        return own
    known = np.isfinite(own)
    # The difference is negative if the pass corrects an error of an earlier one.
    return np.where(known, after.variances - before.variances, own)


def correct_frames(frames, solved, variances=None, subsets=None):
    """Return the frames with a pass's corrections appended, each in its own unit.

    Parameters
    ----------
    frames : list of `~levelmatch.images.frame.Frame`
        The images, sorted by name.
    solved : `~levelmatch.solve.passes.Pass`
        The solved pass.
    variances : `~numpy.ndarray`, shape (n, 3), or None
        Variance that the pass adds to each correction; by default that of the pass alone.
    subsets : list of int or None
        New index of the disconnected set of each frame; by default as before.
    """
    out = []
    names = {}
    for choice in solved.references:
        names[solved.solution.component[choice.group]] = choice.name
    for i, frame in enumerate(frames):
        correction = solved.correction(i).scaled(1 / frame.scale)
        variance = solved.variance(i, frame.whole_grid.axes) if variances is None else variances[i]
        if frame.scale != 1:
            variance = variance / frame.scale**2
        component = solved.solution.component[solved.group[i]]
        applied = AppliedCorrection(solved.name, correction, variance, names.get(component, "mean"))
        subset = frame.subset if subsets is None else subsets[i]
        out.append(frame.with_keys(corrections=(*frame.corrections, applied), subset=subset))
    return out


def _subsets(solved):
    """Return the rank of each image's connected set in its domain, a list; 0 is the largest.

    A later pass, in which other images may connect the sets, corrects each set on its own.
    """
    component = solved.solution.component[solved.group]
    sets, first, count = np.unique(component, return_index=True, return_counts=True)
    # A set lies in one domain: pairs are within domains.
    domain = solved.domain[first]
    order = np.lexsort((first, -count, domain))
    rank = np.empty(len(sets), dtype=int)
    _, start = np.unique(domain[order], return_index=True)
    rank[order] = np.arange(len(sets)) - np.repeat(start, np.diff([*start, len(sets)]))
    return rank[np.searchsorted(sets, component)].tolist()


def _local_levels(frames, dithers, local):
    """Return the local level of each frame's tile: that of its first frame, in the common unit."""
    levels = {}
    for i, frame in enumerate(frames):
        if dithers.domain[i] not in levels:
            levels[dithers.domain[i]] = local(frame)
    return np.array([levels[domain] for domain in dithers.domain.tolist()])


def _subtract_local(frames, levels):
    """Return the frames with the corrections by their local levels (common unit) appended."""
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
