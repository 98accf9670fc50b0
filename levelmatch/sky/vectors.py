# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Unit vectors on the sphere, and planes that are linear in them."""

import numpy as np

__all__ = ["ARCMIN", "lonlat", "plane_terms", "tangent_axes", "transfer_matrix", "unit_vectors"]

# One radian in arcmin, the unit of distance in slopes.
ARCMIN = 180 * 60 / np.pi


def unit_vectors(lon, lat):
    """Return the unit vectors, shape (..., 3), of longitudes and latitudes in degrees."""
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def lonlat(vectors):
    """Return the longitudes (0 to 360) and latitudes, in degrees, of vectors, shape (..., 3)."""
    vectors = np.asarray(vectors)
    lon = np.degrees(np.arctan2(vectors[..., 1], vectors[..., 0])) % 360
    lat = np.degrees(np.arctan2(vectors[..., 2], np.hypot(vectors[..., 0], vectors[..., 1])))
    return lon, lat


def tangent_axes(centre):
    """Return unit vectors (centre, East, North), shape (..., 3, 3), at vectors (..., 3)."""
    centre = np.asarray(centre, dtype=float)
    centre = centre / np.linalg.norm(centre, axis=-1, keepdims=True)
    lon, lat = np.radians(lonlat(centre))
    zero = np.zeros_like(lon)
    east = np.stack([-np.sin(lon), np.cos(lon), zero], axis=-1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=-1)
    return np.stack([centre, east, north], axis=-2)


def plane_terms(vectors, axes):
    """Return the terms (1, u, v), shape (..., 3), of a plane at unit vectors.

    The terms u and v are the components of the vectors, in arcmin, toward East and North at the
    centre of ``axes``, see `tangent_axes`.
    """
    terms = np.empty((*vectors.shape[:-1], 3))
    terms[..., 0] = 1.0
    terms[..., 1:] = np.einsum("...i,ji->...j", vectors, ARCMIN * axes[1:])
    return terms


def transfer_matrix(axes, to):
    """Return the matrix that transfers a plane's coefficients from one centre to another.

    A plane is linear in the sky unit vector, so a change of centre is exact everywhere on the
    sky.

    Parameters
    ----------
    axes, to : `~numpy.ndarray`, shape (..., 3, 3)
        Axes of the old and the new centre, see `tangent_axes`.

    Returns
    -------
    matrix : `~numpy.ndarray`, shape (..., 3, 3)
        The matrix.
    """
    weight = np.array([1.0, ARCMIN, ARCMIN])
    return np.einsum("...ik,...jk->...ij", to / weight[:, None], axes * weight[:, None])
