"""
wiimatch's ``match_lsq``, on images brought to one common grid.

https://wiimatch.readthedocs.io/en/latest/wiimatch/match.html: all images "share a common pixel
grid", with masks and sigmas. wiimatch does not make that grid, so ``reproject_interp`` brings all
images to their optimal WCS, rotated for the smallest grid; the time includes this. Data are in
single precision and each image has one sigma, the median of its errors, because arrays of sigmas
would double the memory. Polynomials have degree 0 for levels, and degree 1 in each axis for planes,
which includes a term x y.
"""

import numpy as np
from common import fit_plane, main, read, sample_grid
from reproject import reproject_interp
from reproject.mosaicking import find_optimal_celestial_wcs
from wiimatch.match import match_lsq


def find(paths, fit, scratch):
    """Return the polynomial of each image."""
    images, sigmas = [], []
    for path in paths:
        data, error, good, wcs = read(path)
        sigmas.append(float(np.median(error[good])))
        data[~good] = np.nan
        images.append((data, wcs))
    geometry = [(data.shape, wcs) for data, wcs in images]
    grid, shape = find_optimal_celestial_wcs(geometry, auto_rotate=True)
    stack, masks = [], []
    for _ in paths:
        image = images.pop(0)
        there = reproject_interp(image, grid, shape_out=shape, return_footprint=False)
        good = np.isfinite(there)
        stack.append(np.where(good, there, 0).astype(np.float32))
        masks.append(good)
    center = (shape[0] // 2, shape[1] // 2)
    degree = 0 if fit == "level" else 1
    found = match_lsq(stack, masks, sigmas, degree=degree, center=center)
    if fit == "level":
        return found[:, 0]
    return [plane(*g, grid, center, c) for g, c in zip(geometry, found, strict=True)]


def plane(shape, wcs, grid, center, coefficients):
    """Convert a polynomial on the common grid to a plane about an image's centre."""
    y, x = sample_grid(shape)
    there = grid.world_to_pixel_values(*wcs.all_pix2world(x.ravel(), y.ravel(), 0))
    dx, dy = there[0] - center[1], there[1] - center[0]
    # Coefficients are ordered by the powers of the first axis, then of the second.
    c00, c01, c10, c11 = coefficients
    return fit_plane(y, x, c00 + c01 * dx + c10 * dy + c11 * dx * dy, wcs, shape)


if __name__ == "__main__":
    main(find)
