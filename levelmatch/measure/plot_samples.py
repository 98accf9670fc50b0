# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""All pixel differences of one pair of images, for plots."""

import numpy as np

from levelmatch.measure._cells import Lattice, difference_samples, rough_scatter
from levelmatch.measure._summary import summarise_cells
from levelmatch.measure.pairs import (
    Image,
    as_cells,
    clipping_of,
    least_step,
    map_cells,
    measure_cells,
    same_type,
    second_has_cells,
)

__all__ = ["pair_samples"]


def pair_samples(a, b, grid_a, grid_b, options):
    """Return the differences of two images, sampled and clipped as `measure_pair` does.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad.
    grid_a, grid_b : `~levelmatch.sky.grid.Grid`
        Their positions.
    options : `~levelmatch.options.MeasureOptions`
        How to measure; ``method`` is ignored and taken as ``"direct"``.

    Returns
    -------
    samples : dict of `~numpy.ndarray`, shape (n,)
        ``difference``, the first image minus the second; ``x`` and ``y``, its pixel in the
        image that has the cells; ``kept``, whether neither the difference nor its cell is
        clipped. Empty if no pixel is good in both images.
    swapped : bool
        Whether the second image has the cells, see `~levelmatch.measure.pairs.second_has_cells`.
    """
    swapped = second_has_cells(grid_a, grid_b)
    if swapped:
        a, b, grid_a, grid_b = b, a, grid_b, grid_a
    a, b = same_type(a, b)
    images = Image(a, grid_a), Image(b, grid_b)
    grid, map_x, map_y, cells = map_cells(grid_a, grid_b)
    measured = None
    if len(cells):
        measured = measure_cells(*images, grid, (map_x, map_y), cells, options)
    if measured is None:
        return {}, swapped
    counts = _cells_that_count(measured, grid, options, least_step(a, b))
    lattice = Lattice(grid.ys, grid.xs, map_x, map_y)
    clipping = clipping_of(options, rough_scatter(a, b, lattice, cells))
    peaks = images[0].peaks, images[1].peaks
    sections = [
        difference_samples(a, b, lattice, cell, clipping, peaks)
        for cell in map(tuple, cells.tolist())
    ]
    samples = np.concatenate(sections)
    good_cell = np.repeat(
        [cell in counts for cell in map(tuple, cells.tolist())], list(map(len, sections))
    )
    difference = samples["difference"].astype(float)
    return {
        "difference": -difference if swapped else difference,
        "x": samples["x"],
        "y": samples["y"],
        "kept": good_cell & (samples["weight"] > 0),
    }, swapped


def _cells_that_count(measured, grid, options, eps):
    """Return the indices (y, x) of the cells that agree with the plane of the pair, as a set."""
    cells = as_cells(measured, grid, options, eps).cells
    cells["depth"] = 2
    _, agree = summarise_cells(cells, 1.0, 1.0)
    return set(map(tuple, measured[0][agree].tolist()))
