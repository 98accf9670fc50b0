# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Render the simulated sky on a detector."""

from functools import lru_cache

import numpy as np
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from scipy.interpolate import CubicSpline
from scipy.special import erf

from levelmatch.testing.detectors import DEAD, DO_NOT_USE, HOT, JUMP_DET, NON_SCIENCE
from levelmatch.testing.sky import (
    STREAM_DETECTOR,
    STREAM_IMAGE,
    SURFACE_BRIGHTNESS,
    center_of,
    jacobian,
    lonlat,
    plane_basis,
    random_stream,
    sky_grid,
)

__all__ = ["SURFACE_BRIGHTNESS", "render"]


# Signal (MJy/sr) above the background whose photon noise equals the background's.
PHOTON_SCALE = 10.0


@lru_cache(maxsize=16)
def _spline_matrix(n, m):
    """Return the matrix (n, m) of cubic spline interpolation from m nodes to n pixels."""
    return CubicSpline(np.linspace(0, n - 1, m), np.eye(m))(np.arange(n))


def _upsample(nodes, shape):
    """Interpolate values on nodes, which span the image edge to edge, to all pixels."""
    ymatrix, xmatrix = (_spline_matrix(n, m) for n, m in zip(shape, nodes.shape, strict=True))
    return ymatrix @ nodes @ xmatrix.T


def _n_nodes(shape, step):
    """Return the numbers of nodes ``step`` pixels apart or less, edge to edge."""
    return tuple(max(5, -(-(n - 1) // step) + 1) for n in shape)


def _node_grid(wcs, shape):
    """Return unit vectors on the nodes from which positions are interpolated."""
    y, x = (np.linspace(0, n - 1, m) for n, m in zip(shape, _n_nodes(shape, 16), strict=True))
    return sky_grid(wcs, y, x)


def _smooth_scene(scene, nodes, shape, step):
    """Return the brightness of disc and nebula at all pixels, evaluated every ``step`` pixels."""
    fine = _n_nodes(shape, step)
    y, x = (_upsample(values, fine) for values in scene.positions(nodes))
    return _upsample(scene.smooth(y, x), shape)


def render(i, exposure, planes, scene, recipe):
    """Return image ``i`` of a set as CCDData."""
    shape = exposure.detector.shape
    rng = random_stream(recipe.seed, STREAM_IMAGE, i)
    wcs = exposure.wcs
    nodes = _node_grid(wcs, shape)
    data = _smooth_scene(scene, nodes, shape, recipe.node_step)
    _add_stars(data, scene, wcs, recipe.pixel_scale)
    sigma = recipe.noise * np.sqrt(1 + np.clip(data, 0, None) / PHOTON_SCALE)
    _add_planes(data, planes, nodes, center_of(wcs, shape), recipe)
    flags = np.zeros(shape, dtype=np.uint32)
    if recipe.noise > 0:
        data += sigma * rng.standard_normal(shape, dtype=np.float32)
    if recipe.cosmic_rays:
        _add_cosmic_rays(data, flags, recipe.noise, rng)
    science = recipe.science(shape)
    data[~science] = 0.4 * data[~science] + 10.0  # no sky there
    flags[~science] |= DO_NOT_USE | NON_SCIENCE
    if recipe.bad_pixels:
        _add_bad_pixels(data, flags, exposure.detector.name, recipe.seed)
    return _to_ccddata(data, sigma, flags, wcs, exposure, recipe)


def _to_ccddata(data, sigma, flags, wcs, exposure, recipe):
    """Bundle the arrays of an image."""
    uncertainty = StdDevUncertainty(sigma.astype(np.float32)) if recipe.noise > 0 else None
    return CCDData(
        data.astype(np.float32),
        unit=recipe.unit,
        uncertainty=uncertainty,
        mask=(flags & DO_NOT_USE) != 0,
        flags=flags,
        wcs=wcs,
        meta=fits.Header(exposure.cards),
    )


def _add_planes(data, planes, nodes, center, recipe):
    """Add an image's background to its data in place."""
    data += _evaluate_plane(planes[0], nodes, center, data.shape)
    if recipe.lyot:
        lyot = recipe.regions(data.shape)[1]
        extra = _evaluate_plane(planes[1], nodes, center, data.shape)
        data[lyot] += np.broadcast_to(extra, data.shape)[lyot]


def _evaluate_plane(plane, nodes, center, shape):
    """Return a plane at all pixels of an image; a scalar if it is level."""
    level, slope_u, slope_v = plane
    if slope_u == 0 and slope_v == 0:
        return level
    uu, vv = plane_basis(nodes, center)
    return level + _upsample(slope_u * uu + slope_v * vv, shape)


def _add_stars(data, scene, wcs, pixel_scale):
    """Add all stars of the scene to an image in place, each within 16 pixels."""
    half = 16
    y, x, peaks = _stars_on_image(scene, wcs, data.shape, half)
    padded = np.zeros(np.add(data.shape, 4 * half))
    for start in range(0, len(peaks), 256):
        part = slice(start, start + 256)
        stamps = _stamps(y[part], x[part], wcs, half, scene, pixel_scale)
        stamps *= peaks[part, np.newaxis, np.newaxis]
        corners = np.rint([y[part], x[part]]).astype(int).T + half
        for (j, i), stamp in zip(corners, stamps, strict=True):
            padded[j : j + 2 * half + 1, i : i + 2 * half + 1] += stamp
    data += padded[2 * half : -2 * half, 2 * half : -2 * half]


def _stars_on_image(scene, wcs, shape, pad):
    """Return y, x and peaks of the stars within ``pad`` pixels of an image."""
    center = center_of(wcs, shape)
    corners = sky_grid(wcs, [-2 * pad, shape[0] + 2 * pad], [-2 * pad, shape[1] + 2 * pad])
    near = scene.stars @ center >= (corners @ center).min()
    ra, dec = np.degrees(lonlat(scene.stars[near]))
    peaks = scene.peaks[near]
    # The inverse of SIP diverges far from the detector, so distant stars are left out first.
    x, y = wcs.wcs_world2pix(ra, dec, 0) if near.any() else (ra, dec)
    close = _inside(y, x, shape, 2 * pad)
    if not close.any():
        return np.empty(0), np.empty(0), np.empty(0)
    x, y = wcs.all_world2pix(ra[close], dec[close], 0, quiet=True)
    inside = _inside(y, x, shape, pad)
    return y[inside], x[inside], peaks[close][inside]


def _inside(y, x, shape, pad):
    """Return which positions are on an image or within ``pad`` pixels of it."""
    ny, nx = shape
    return (y > -pad) & (y < ny - 1 + pad) & (x > -pad) & (x < nx - 1 + pad)


def _stamps(y, x, wcs, half, scene, pixel_scale):
    """
    Return the profiles of stars (n, 2 half + 1, 2 half + 1), of peak one before pixelation.

    A Gaussian core, integrated over each pixel, and a Moffat wing that ends after 15 pixels.
    """
    offset = np.arange(-half, half + 1)
    dy = offset - (y - np.rint(y))[:, np.newaxis]
    dx = offset - (x - np.rint(x))[:, np.newaxis]
    jy, jx = jacobian(y, x, wcs, scene)
    sigma = scene.fwhm / 2.3548
    core = _pixel_gaussian(dy, np.hypot(*jy), sigma)[:, :, np.newaxis]
    core = core * _pixel_gaussian(dx, np.hypot(*jx), sigma)[:, np.newaxis, :]
    dy, dx = dy[:, :, np.newaxis], dx[:, np.newaxis, :]
    r2 = sum(
        (a[:, np.newaxis, np.newaxis] * dy + b[:, np.newaxis, np.newaxis] * dx) ** 2
        for a, b in zip(jy, jx, strict=True)
    )
    wing = 0.03 / (1 + r2 / (2.5 * pixel_scale) ** 2) ** 2
    return 0.97 * core + wing * np.clip(1 - r2 / (15 * pixel_scale) ** 2, 0, None) ** 2


def _pixel_gaussian(offset, scale, sigma):
    """Return the mean over each pixel of a Gaussian of peak one, along one axis."""
    z = scale[:, np.newaxis] / (np.sqrt(2) * sigma)
    return (erf((offset + 0.5) * z) - erf((offset - 0.5) * z)) * np.sqrt(np.pi) / (2 * z)


def _add_cosmic_rays(data, flags, noise, rng):
    """Add cosmic rays to an image in place: short tracks, all but 4 per cent flagged."""
    ny, nx = data.shape
    n = rng.poisson(3e-3 * data.size)
    y, x = rng.integers(0, ny, n), rng.integers(0, nx, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    length = rng.geometric(0.5, n).clip(max=5)
    amplitude = noise * np.minimum(3 + rng.exponential(25, n), 100)
    flagged = rng.uniform(size=n) > 0.04
    for step in range(5):
        j = np.rint(y + step * np.sin(angle)).astype(int)
        i = np.rint(x + step * np.cos(angle)).astype(int)
        hit = (step < length) & (j >= 0) & (j < ny) & (i >= 0) & (i < nx)
        np.add.at(data, (j[hit], i[hit]), amplitude[hit])
        hit &= flagged
        flags[j[hit], i[hit]] |= DO_NOT_USE | JUMP_DET


def _add_bad_pixels(data, flags, detector, seed):
    """Add the bad pixels of a detector to an image in place, equal in all of its images."""
    rng = random_stream(seed, STREAM_DETECTOR, *detector.encode())
    index = rng.choice(data.size, size=max(3, data.size // 200), replace=False)
    unknown, dead, hot = np.array_split(index, 3)
    for pixels, value, bit in ((unknown, np.nan, 0), (dead, 0.0, DEAD), (hot, 1e4, HOT)):
        data.flat[pixels] = value
        flags.flat[pixels] |= DO_NOT_USE | bit
