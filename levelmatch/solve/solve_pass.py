# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Solve one pass, and subtract its solution from the pairs."""

from dataclasses import replace
from functools import partial

import numpy as np

from levelmatch.exceptions import DisconnectedError, DisconnectedWarning, warn_user
from levelmatch.options import fit_terms
from levelmatch.sky.vectors import tangent_axes
from levelmatch.solve.equations import NONE_KNOWN, Equations
from levelmatch.solve.flatness import find_tilts
from levelmatch.solve.gauge import members_of
from levelmatch.solve.groups import solve_groups
from levelmatch.solve.image_outliers import find_disagreeing, find_scattered
from levelmatch.solve.linear import sum_by
from levelmatch.solve.offsets import OFFSET_PASSES, share_offsets
from levelmatch.solve.plane_choice import solve_auto, solve_shrunk
from levelmatch.solve.reference import DISAGREES, Reference, held_choice
from levelmatch.solve.shared_pattern import subtract_pattern
from levelmatch.solve.weights import limits_of, select_pairs, short_overlaps
from levelmatch.text import list_names

__all__ = [
    "equations_of",
    "loop_levels",
    "shift_levels",
    "solve_pass",
    "subtract_solution",
    "suspect_images",
    "tested_equations",
]


def solve_pass(
    grouped,
    frames,
    table,
    rows,
    options,
    *,
    sky=None,
    unpooled=None,
    known=NONE_KNOWN,
    carried=None,
):
    """Solve one pass.

    Parameters
    ----------
    grouped : `~levelmatch.solve.passes.Pass`
        The pass, with its groups.
    frames : list of `~levelmatch.images.frame.Frame`
        All images, sorted by name.
    table : `~levelmatch.measure.table.PairTable`
        All pairs, with the earlier passes subtracted.
    rows : `~numpy.ndarray` of int
        The rows of this pass.
    options : `~levelmatch.options.SolveOptions`
        Options of the solution.
    sky : `~numpy.ndarray`, shape (n_images,), or None
        Clipped sky levels, with the earlier passes subtracted, which tie the sets
        that do not overlap if ``options.disconnected`` is ``"sky"``.
    unpooled : `~levelmatch.measure.table.PairTable` or None
        The same pairs with the errors of the cells alone, which test the images; by default
        ``table``.
    known : `~levelmatch.solve.equations.KnownErrors`
        Parts of the errors of all pairs.
    carried : `~levelmatch.solve.cumulative_covariance.Carried` or None
        Covariance of the corrections of the earlier passes.

    Returns
    -------
    solved : `~levelmatch.solve.passes.Pass`
        The pass with its solution. A group without a pair has a zero correction and is
        flagged.

    Warns
    -----
    DisconnectedWarning
        If the groups of a domain fall into sets with no overlap between them.

    Raises
    ------
    DisconnectedError
        If they do, and ``options.disconnected`` is ``"error"``.
    """
    pairs = table.without_strips().take(rows)
    kept, reason = select_pairs(pairs, grouped.group, limits_of(grouped.fit_type, options))
    counted = pairs.take(kept)
    # A group's centre is the mean of its images'.
    centres = np.array([frame.whole_grid.axes[0] for frame in frames])
    group_axes = tangent_axes(sum_by(grouped.group, centres, int(grouped.group.max()) + 1))
    terms = fit_terms(grouped.fit_type)
    short = short_overlaps(counted.extent, grouped.fit_type, options)
    known = known.take(rows[kept])
    equations = equations_of(counted, grouped.group, group_axes, terms, known, short)
    if grouped.held == "science":
        # Its plane stays zero, too.
        options = replace(options, slope_gauge="reference")
    ready = replace(grouped, rows=rows, kept=kept, reason=reason, group_axes=group_axes)
    suspects = partial(suspect_images, ready, table if unpooled is None else unpooled)
    pick, references = held_choice(grouped, frames, equations, counted, suspects)
    solve, options = _solver_of(grouped.fit_type, options)
    solution = solve(equations, options, npix=counted.npix, scatter=counted.scatter, reference=pick)
    solved = replace(ready, solution=solution, references=list(references.values()))
    if options.share_offsets and grouped.name in OFFSET_PASSES:
        inherited = carried and carried.inherited(solved, frames, table)
        solved = _with_shared_offsets(solved, frames, inherited)
    residual = _residuals(pairs, grouped.group, group_axes, solved.solution)
    solved = replace(solved, residual=residual)
    solved = replace(solved, references=_tilted(solved, frames, options))
    _warn_lone_reference(solved, frames)
    _warn_suspect_reference(solved)
    sets, isolated = _disconnected(grouped, solved.solution)
    if sets and options.disconnected == "sky":
        solved = _tie_sets(solved, frames, sky)
    elif sets:
        _report_disconnected(grouped, frames, sets, isolated, options)
    return replace(solved, isolated=isolated)


def _solver_of(fit_type, options):
    """Return the function that solves a pass of a fit type, and its options."""
    solvers = {"auto": solve_auto, "level+slope": solve_groups}
    if options.slope_prior == "auto":
        options = replace(options, slope_prior=None)
        solvers["level+slope"] = solve_shrunk
    return solvers.get(fit_type, solve_groups), options


def equations_of(table, group, group_axes, terms, known=NONE_KNOWN, short=None):
    """Return the `~levelmatch.solve.equations.Equations` of pairs of groups.

    Parameters
    ----------
    table : `~levelmatch.measure.table.PairTable`
        The pairs, with the earlier passes subtracted.
    group : `~numpy.ndarray` of int, shape (n_images,)
        The group of each image.
    group_axes : `~numpy.ndarray`, shape (n_groups, 3, 3)
        Centre, East and North of each group.
    terms : int
        Coefficients of each group: 1 for levels, 3 for planes.
    known : `~levelmatch.solve.equations.KnownErrors`
        Parts of the errors of the pairs.
    short : `~numpy.ndarray` of bool, shape (n,), or None
        Flags of short overlaps, which do not determine the floor.
    """
    counts = table.multiplicity[:, None]
    has_shared = known.shared is not None and terms > 1
    return Equations(
        first=group[table.first],
        second=group[table.second],
        gram=counts[:, None] * table.gram[:, :terms, :terms],
        rhs=counts * table.rhs[:, :terms],
        # Levels have no directions.
        axes=table.axes if terms > 1 else np.broadcast_to(np.eye(3), table.axes.shape),
        group_axes=group_axes,
        short=short,
        known=replace(known, shared=counts[:, None] * known.shared if has_shared else None),
    )


def tested_equations(p, pairs, terms):
    """Return the rows of the pairs that test the groups of a pass, and their equations.

    Pairs rejected for their scatter are included: most pairs of a wrong image may be rejected.

    Parameters
    ----------
    p : `~levelmatch.solve.passes.Pass`
        The pass, with its pairs.
    pairs : `~levelmatch.measure.table.PairTable`
        All pairs, with the earlier passes subtracted.
    terms : int
        Coefficients of each group.
    """
    tested = p.kept | np.char.startswith(np.asarray(p.reason, dtype=str), "scatter")
    rows = p.rows[tested & (pairs.gram[p.rows, 0, 0] > 0)]
    return rows, equations_of(pairs.take(rows), p.group, p.group_axes, terms)


def suspect_images(p, pairs):
    """Return the images that disagree with their neighbours in a pass, a set of indices.

    Parameters
    ----------
    p, pairs
        See `tested_equations`.
    """
    rows, equations = tested_equations(p, pairs, fit_terms(p.fit_type))
    groups = [group for group, _ in find_disagreeing(equations)] if len(rows) else []
    found = np.flatnonzero(np.isin(p.group, groups)).tolist()
    return {*found, *find_scattered(pairs.first, pairs.second, pairs.chi2)}


def loop_levels(p, before, after, rows):
    """Return the groups of some pairs, shape (2, n), and the levels that loops add up.

    The level of a fitted plane refers to the centre of the pair, so planes are subtracted. Pairs
    before the pass are without the pattern of the detectors.
    """
    pairs = (before if p.fit_type == "level" else after).take(rows)
    return np.stack([p.group[pairs.first], p.group[pairs.second]]), pairs.level


def _residuals(pairs, group, group_axes, solution):
    """Return the residual of the level of each pair, shape (n,); NaN without common pixels."""
    residual, measured = np.full(len(pairs), np.nan), pairs.npix > 0
    terms = solution.coefficients.shape[1]
    equations = equations_of(pairs.take(measured), group, group_axes, terms)
    residual[measured] = equations.level_residuals(solution.coefficients)
    return residual


def _with_shared_offsets(solved, frames, inherited):
    """Return the pass with the offsets that tiles share; see `share_offsets` for ``inherited``."""
    solution, offsets = share_offsets(solved.solution, solved, frames, inherited)
    more = _science_references(solved, frames, solution, solved.references)
    return replace(solved, solution=solution, references=solved.references + more, offsets=offsets)


def _science_references(grouped, frames, solution, references):
    """Return the science parts that hold the sets of shared offsets, beside the references."""
    if grouped.held != "science":
        return []
    known = {int(solution.component[r.group]) for r in references}
    out = []
    for s in np.flatnonzero(np.bincount(solution.component) > 1).tolist():
        if s not in known:
            group = int(solution.reference[s])
            name = frames[int(np.argmax(grouped.group == group))].name
            out.append(Reference(group, name, "the science part is held at zero"))
    return out


def _tilted(solved, frames, options):
    """Return the references with the tilt that each puts into a mosaic of planes."""
    planes = solved.solution.coefficients.shape[1] > 1 and solved.held != "science"
    if not planes or options.slope_gauge != "reference":
        return solved.references
    corners = [
        np.concatenate([frames[i].grid.polygon for i in members])
        for members in members_of(solved.group)
    ]
    return find_tilts(solved.references, solved.solution, solved.group_axes, corners)


def _warn_lone_reference(solved, frames):
    """Warn of a named reference that overlaps no other group: another image takes its place."""
    named, component = solved.held, solved.solution.component
    if named is None or isinstance(named, str) or len(component) == 1:
        return
    if np.count_nonzero(component == component[named]) > 1:
        return
    name = frames[int(np.argmax(solved.group == named))].name
    msg = f"reference: {name} has no pair that is kept, and no other image is relative to it"
    if solved.references:
        msg += f"; instead {list_names([r.name for r in solved.references])} is held at zero"
    warn_user(f"{msg}; name an image that overlaps others")


def _warn_suspect_reference(solved):
    """Warn of references that disagree with their neighbours: all levels are relative to them."""
    for reference in solved.references:
        if reference.suspect:
            warn_user(
                f"reference: {reference.name} {DISAGREES}, and all levels are relative to it; name "
                "another, or use 'mean'"
            )


def _disconnected(grouped, solution):
    """Return the sets of each disconnected domain, and flags of groups without a pair in it."""
    n_groups = len(solution.component)
    domain = np.zeros(n_groups, dtype=int)
    domain[grouped.group] = grouped.domain
    size = np.bincount(solution.component)
    # A set lies in one domain: pairs are within domains.
    of_set = np.zeros(len(size), dtype=int)
    of_set[solution.component] = domain
    number = np.bincount(of_set)
    isolated = (size[solution.component] == 1) & (number[domain] > 1)
    sets = members_of(of_set)
    return {int(d): sets[d] for d in np.flatnonzero(number > 1)}, isolated


def _report_disconnected(grouped, frames, sets, isolated, options):
    """Warn of the disconnected domains, or refuse them."""
    n_sets = sum(len(s) for s in sets.values())
    domains, one = np.unique(grouped.domain, return_index=True)
    one = dict(zip(domains.tolist(), one.tolist(), strict=True))
    tiles = [frames[one[d]].tile for d in sets]
    where = f"tiles {list_names(tiles)}: " if grouped.name != "mosaic" else ""
    msg = f"pass {grouped.name}: {where}the images form {n_sets} sets without overlap between them"
    if options.disconnected == "error":
        raise DisconnectedError(msg)
    msg += (
        "; each has its own zero point, unless a later pass joins them "
        "or disconnected='sky' ties them by their sky"
    )
    if isolated.any():
        alone = [f.name for f, g in zip(frames, grouped.group, strict=True) if isolated[g]]
        msg += f"; without any overlap in this pass: {list_names(alone)}"
    warn_user(msg, DisconnectedWarning)


def _tie_sets(grouped, frames, sky):
    """Return the pass with all sets of a domain brought to one mean sky level.

    The level of the domain's largest set (the first of equals) is kept.
    """
    component = grouped.solution.component
    left = np.array(
        [
            sky[i] - grouped.correction(i).coefficients(frame.whole_grid.axes)[0]
            for i, frame in enumerate(frames)
        ]
    )
    tie = np.zeros(len(component))
    set_of = component[grouped.group]
    for d in np.unique(grouped.domain):
        members = grouped.domain == d
        sets, first, count = np.unique(set_of[members], return_index=True, return_counts=True)
        largest = sets[np.lexsort((first, -count))[0]]
        level = {s: left[members & (set_of == s)].mean() for s in sets}
        for s in sets:
            tie[component == s] = level[s] - level[largest]
    return replace(grouped, tie=tie)


def shift_levels(table, levels):
    """Return the pair table with a level subtracted from each image, shape (n_images,)."""
    step = levels[table.first] - levels[table.second]
    return replace(table, rhs=table.rhs - table.gram[:, :, 0] * step[:, None])


def subtract_solution(table, solved):
    """Return the pair table with a pass's corrections subtracted."""
    table = subtract_pattern(table, solved.pattern)
    group, coefficients = solved.group, solved.solution.coefficients
    if solved.tie is not None:
        table = shift_levels(table, solved.tie[group])
    if coefficients.shape[1] == 1:
        return shift_levels(table, coefficients[group, 0])
    ok = table.npix > 0
    planes = np.zeros_like(table.rhs)
    for sign, side in ((1, group[table.first[ok]]), (-1, group[table.second[ok]])):
        change = solved.transfer(side, table.axes[ok])
        planes[ok] += sign * np.einsum("pij,pj->pi", change, coefficients[side])
    return table.minus(planes)
