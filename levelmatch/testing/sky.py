# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Positions on the sky for the simulator, independent of the package."""

import numpy as np
from scipy.spatial.transform import Rotation

__all__ = [
    "ARCMIN",
    "ARCSEC",
    "deproject",
    "jacobian",
    "lonlat",
    "pointing_frame",
    "project",
    "shift",
    "sky_grid",
    "tangent_frame",
]


ARCSEC = np.pi / 648000.0  # radian
ARCMIN = 60.0 * ARCSEC

# Independent streams of random numbers, so that the order of rendering has no effect.
STREAM_IMAGE, STREAM_DETECTOR, STREAM_SCENE, STREAM_LEVELS, STREAM_LAYOUT = range(5)


def random_stream(seed, *key):
    """Return the generator of one stream of a simulation."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _unit_vectors(lon, lat):
    """Return unit vectors (..., 3) of longitudes and latitudes in radian."""
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def tangent_frame(lon, lat):
    """Return the matrix whose columns are a position (radian), its East and its North."""
    east = [-np.sin(lon), np.cos(lon), 0.0]
    north = [-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)]
    return np.column_stack([_unit_vectors(lon, lat), east, north])


def lonlat(s):
    """Return longitude (0 to 2 pi) and latitude in radian of unit vectors (..., 3)."""
    lon = np.arctan2(s[..., 1], s[..., 0]) % (2 * np.pi)
    return lon, np.arctan2(s[..., 2], np.hypot(s[..., 0], s[..., 1]))


def pointing_frame(center, angle):
    """Return the frame at ``center`` (ra, dec; degrees), its third axis at ``angle`` E of N."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return tangent_frame(*np.radians(center)) @ [[1, 0, 0], [0, c, s], [0, -s, c]]


def shift(offset):
    """Return the rotation that moves the first axis by ``offset`` (two arcsec values)."""
    a, b = np.asarray(offset) * ARCSEC
    return Rotation.from_rotvec([0.0, -b, a]).as_matrix()


def project(frame, s):
    """Return y and x (arcsec) of unit vectors on a zenithal equidistant projection."""
    cos, x, y = np.moveaxis(s @ frame, -1, 0)
    sin = np.hypot(x, y)
    factor = np.arctan2(sin, cos) / np.where(sin == 0, 1.0, sin) / ARCSEC
    return y * factor, x * factor


def deproject(frame, y, x):
    """Return unit vectors of positions in arcsec: the inverse of `project`."""
    r = np.hypot(x, y)
    factor = np.sinc(r * ARCSEC / np.pi) * ARCSEC
    return np.stack([np.cos(r * ARCSEC), x * factor, y * factor], axis=-1) @ frame.T


def sky_grid(wcs, y, x):
    """Return unit vectors (len(y), len(x), 3) at pixel rows ``y`` and columns ``x``."""
    ygrid, xgrid = np.meshgrid(y, x, indexing="ij")
    ra, dec = wcs.all_pix2world(xgrid.ravel(), ygrid.ravel(), 0)
    return _unit_vectors(np.radians(ra), np.radians(dec)).reshape(*ygrid.shape, 3)


def plane_basis(s, center):
    """Return u and v (arcmin) of unit vectors (..., 3) about a central unit vector."""
    axes = tangent_frame(*lonlat(center))[:, 1:]
    return np.moveaxis(s @ axes / ARCMIN, -1, 0)


def center_of(wcs, shape):
    """Return the unit vector of an image's central position."""
    return sky_grid(wcs, [(shape[0] - 1) / 2], [(shape[1] - 1) / 2])[0, 0]


def jacobian(y, x, wcs, scene):
    """Return the scene's (y, x) steps (arcsec) per pixel along rows' and columns' axes."""

    def positions(dy, dx):
        ra, dec = wcs.all_pix2world(x + dx, y + dy, 0)
        return np.array(scene.positions(_unit_vectors(np.radians(ra), np.radians(dec))))

    origin = positions(0, 0)
    return positions(1, 0) - origin, positions(0, 1) - origin
