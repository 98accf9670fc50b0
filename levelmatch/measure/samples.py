# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Every difference of a pair of images, for those who look at one."""

from dataclasses import dataclass

import numpy as np

from levelmatch.measure._cells import difference_samples
from levelmatch.measure.pairs import (
    as_cells,
    centroid_vectors,
    least_step,
    map_cells,
    run_kernel,
    summarise,
)
from levelmatch.sky.vectors import plane_terms

__all__ = ["PairSamples", "pair_samples"]


# As where pairs are measured: cells of as many or more are clipped, at so many sigma.
MIN_CELLS = 6
CELL_CLIP = 4.0


@dataclass(frozen=True, eq=False)
class PairSamples:
    """The differences of two images, first less second; ``n`` of them.

    Parameters
    ----------
    difference : `~numpy.ndarray`, shape (n,)
        The differences.
    x, y : `~numpy.ndarray` of int, shape (n,)
        Their pixels, in the finer image.
    kept : `~numpy.ndarray` of bool, shape (n,)
        Which count: neither clipped in their cell, nor with all of it.
    swapped : bool
        Whether the finer image is the second.
    """

    difference: np.ndarray
    x: np.ndarray
    y: np.ndarray
    kept: np.ndarray
    swapped: bool


def pair_samples(a, b, grid_a, grid_b, options):
    """Return the differences of two images, sampled and clipped as `measure_pair` does.

    Parameters
    ----------
    a, b : 2D `~numpy.ndarray`
        The images, NaN where bad.
    grid_a, grid_b : `~levelmatch.sky.grid.Grid`
        Where they lie.
    options : `~levelmatch.options.MeasureOptions`
        How; ``method`` is taken as ``"direct"``.

    Returns
    -------
    samples : `PairSamples` or None
        `None` where no pixel is good in both.
    """
    swapped = grid_a.pixel_area > grid_b.pixel_area * (1 + 1e-6)
    if swapped:
        a, b, grid_a, grid_b = b, a, grid_b, grid_a
    if a.dtype != b.dtype:
        a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    grid, map_x, map_y, cells = map_cells(grid_a, grid_b)
    measured = run_kernel(a, b, grid, map_x, map_y, cells, options) if len(cells) else None
    if measured is None:
        return None
    place = grid.ys, grid.xs, map_x, map_y
    width = _clip_widths(*measured, cells, grid, options, least_step(a, b))
    parts = []
    for (iy, ix), (location, reach) in zip(cells.tolist(), width.tolist(), strict=True):
        difference, _, x, y = difference_samples(a, b, *place, iy, ix)
        parts.append((difference, x, y, np.abs(difference - location) <= reach))
    difference, x, y, kept = (np.concatenate(part) for part in zip(*parts, strict=True))
    sign = -1 if swapped else 1
    return PairSamples(sign * difference.astype(float), x, y, kept, swapped)


def _clip_widths(filled, values, cells, grid, options, eps):
    """Location of each cell and how far from it a difference counts, shape (n, 2).

    Nothing counts in cells that were not filled, or that do not agree with the pair's plane.
    """
    index = cells[filled]
    vectors = centroid_vectors(grid, index, values)
    measured = as_cells(values, vectors, grid, index, (1.0, 1.0), False, options, 1.0, eps)
    out = np.full((len(cells), 2), -np.inf)
    # Of counts nearly all were kept.
    whole = values[:, 6] == values[:, 7]
    reach = np.where(whole, np.inf, options.clip * values[:, 1] * (1 + 1e-6))
    reach = np.where(_agree(measured), reach, -np.inf)
    out[filled] = np.stack([values[:, 0], reach], axis=1)
    return out


def _agree(cells):
    """Whether each cell agrees with the plane of all that do."""
    row = summarise(cells, np.full(len(cells.npix), 2))
    plane = np.linalg.pinv(row["gram"], rcond=1e-12, hermitian=True) @ row["rhs"]
    residual = cells.location - plane_terms(cells.vectors, row["axes"]) @ plane
    z = np.abs(residual) / np.sqrt(cells.variance)
    if len(z) < MIN_CELLS:
        return np.ones(len(z), dtype=bool)
    return z <= CELL_CLIP * max(1.4826 * np.median(z), 1.0)
