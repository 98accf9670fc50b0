# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Images of a result, or of its record, that disagree with their neighbours."""

from dataclasses import dataclass

import numpy as np

from levelmatch.solve.image_outliers import find_disagreeing, find_scattered
from levelmatch.solve.loops import find_closures
from levelmatch.solve.shared_pattern import subtract_pattern
from levelmatch.solve.solve_pass import equations_of, subtract_solution

__all__ = ["Suspect", "find_suspects"]


@dataclass(frozen=True)
class Suspect:
    """Images that disagree with their neighbours.

    Parameters
    ----------
    pass_name : str
        Name of the pass whose pairs disagree.
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

    pass_name: str
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
    result : `~levelmatch.record.solved_run.SolvedRun`
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
    # Pairs rejected for their scatter are included: most pairs of a wrong image may be rejected.
    tested = p.kept | np.char.startswith(np.asarray(p.reason, dtype=str), "scatter")
    rows = p.rows[tested & (pairs.gram[p.rows, 0, 0] > 0)]
    terms = p.solution.coefficients.shape[1]
    equations = equations_of(pairs.take(rows), p.group, p.group_axes, terms)
    found = []
    for d in find_disagreeing(equations):
        images = tuple(np.flatnonzero(p.group == d.group).tolist())
        ratio = max((scatter.get(image, 0.0) for image in images), default=0.0)
        closures = _closures(p, pairs, after, rows, d.group)
        found.append(Suspect(p.name, images, ratio, d.n_sigma, *closures))
    return sorted(found, key=lambda suspect: suspect.scatter == 0)


def _scattered(passes, pairs, image, ratio):
    """Return the suspect of an image whose differences scatter too much."""
    for p in passes:
        after = subtract_solution(pairs, p)
        rows = p.rows[p.kept]
        if (p.group[pairs.first[rows]] == p.group[image]).any() or (
            p.group[pairs.second[rows]] == p.group[image]
        ).any():
            before = subtract_pattern(pairs, p.pattern)
            closures = _closures(p, before, after, rows, p.group[image])
            return Suspect(p.name, (image,), ratio, 0.0, *closures)
        pairs = after
    return Suspect("", (image,), ratio, 0.0, np.nan, np.nan)


def _closures(p, pairs, after, rows, group):
    """Return the rms closure of the loops of a pass with and without a group."""
    ends = np.stack([p.group[pairs.first[rows]], p.group[pairs.second[rows]]], axis=1)
    # The level of a fitted plane refers to the centre of the pair, so planes are subtracted.
    level = (pairs if p.fit_type == "level" else after).take(rows).level
    return [
        _rms(find_closures(*ends[used].T, level[used], np.ones(np.count_nonzero(used))).closure)
        for used in (np.ones(len(rows), dtype=bool), (ends != group).all(axis=1))
    ]


def _rms(values):
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else np.nan
