# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Match mosaic tiles by their stacks."""

from dataclasses import replace

import numpy as np

from levelmatch.docstrings import share_parameters
from levelmatch.images.inputs import collect_frames
from levelmatch.measure.correlated_errors import pooled_passes
from levelmatch.measure.pair_selection import Overlaps
from levelmatch.options import ReadOptions
from levelmatch.results.mosaic import comparable_frames, stack_frames
from levelmatch.settings import Settings
from levelmatch.solve.reference import time_from_background
from levelmatch.solve.run import correct_frames
from levelmatch.solve.solve_pass import solve_pass

__all__ = ["solve_stacks", "stack_tile"]


@share_parameters
def stack_tile(images, *, method="interp", read=None, **moved):
    """Return the mean of a tile's images on a common grid.

    Parameters
    ----------
    <<images>>
    method : {"interp", "exact", "adaptive"}
        The function of `reproject`.
    read : `ReadOptions` or None
        How images are read.
    **moved
        Keywords of earlier releases that are now fields of `ReadOptions`.

    Returns
    -------
    stack : `~astropy.nddata.CCDData`
        The mean, in the unit of the first image by name, on a tangential grid with North up and
        the pixel scale of the finest image. Pixels without a good image are masked.

    Raises
    ------
    ValueError
        If the method is unknown.
    FrameError
        If an image cannot be used.
    NoOverlapError
        If no image has a good pixel.
    """
    read = Settings.of("stack_tile", moved, options=(read, None, None)).read
    frames, unit = comparable_frames(images, read)
    name = f"{frames[0].tile or 'stack'}.fits"
    return stack_frames(frames, method=method, name=name, unit=unit)


def solve_stacks(collection, settings, matched):
    """Measure and solve the mosaic pass between stacks of its tiles.

    Parameters
    ----------
    collection : `~levelmatch.images.collection.Collection`
        The images.
    settings : `~levelmatch.settings.Settings`
        The settings of the run.
    matched : `~levelmatch.solve.passes.Pass`
        The mosaic pass, before it is solved.

    Returns
    -------
    frames : list of `~levelmatch.images.frame.Frame`
        The images with their corrections.
    solved : `~levelmatch.solve.passes.Pass`
        The solved pass, with the groups of the images.
    measured : `~levelmatch.measure.table.PairTable`
        The pairs of tiles, with the first image of each tile in place of its stack.
    sky : `~numpy.ndarray` or None
        Sigma-clipped sky level of the stack of each image, if it was measured.
    """
    frames, solve = collection.frames, settings.solve
    mosaic = matched.grouped(frames)
    stacks = _stacks(collection, settings.measure, mosaic)
    between = replace(
        mosaic, domain=np.zeros(len(stacks), dtype=np.intp), group=np.arange(len(stacks))
    )
    overlaps = Overlaps.of(stacks, [between], solve)
    overlaps.check(stacks, [between])
    measured, sky = overlaps.measure(stacks, settings)
    rows = np.arange(len(measured))
    grids = [stack.whole_grid for stack in stacks]
    pairs = pooled_passes(measured, np.zeros(len(measured), dtype=int), [between.fit_type], grids)
    solved = solve_pass(between, stacks, pairs, rows, solve, sky=sky, unpooled=measured)
    first = np.array([np.flatnonzero(mosaic.group == g)[0] for g in range(len(stacks))])
    references = [replace(r, name=frames[first[r.group]].name) for r in solved.references]
    solved = replace(solved, domain=mosaic.domain, group=mosaic.group, references=references)
    measured = replace(measured, first=first[measured.first], second=first[measured.second])
    sky = None if sky is None else sky[mosaic.group]
    return correct_frames(frames, solved), solved, measured, sky


def _stacks(collection, measure, mosaic):
    """Return the frames of the stacks, one for each group of a pass."""
    method = "interp" if measure.method == "direct" else measure.method
    stacks = []
    for g in range(int(mosaic.group.max()) + 1):
        members = [collection.frames[i].opened() for i in np.flatnonzero(mosaic.group == g)]
        science = [f for f in members if f.part != "lyot"] or members
        stack = stack_frames(members, method=method, name=f"{g:06d}", unit=collection.unit)
        times = (time_from_background(frame, mosaic.keyword) for frame in science)
        known = (time for time in times if time is not None)
        stack.meta[mosaic.keyword] = min(known, default="")
        stacks.append(stack)
    return [replace(f, part="science") for f in collect_frames(stacks, ReadOptions(blank=False))]
