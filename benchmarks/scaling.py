# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Growth with the number of images, on the footprints of a simulated survey of the whole sky."""

import numpy as np

from levelmatch.sky import tangent_axes, unit_vectors

# Vertices of an outline.
N_VERTICES = 16


def survey(n_images, *, overlap=0.06, seed=0):
    """Centres and axes of the fields of a survey of the whole sky, and their side in radian.

    Square fields in rings of declination, each in two dithers a third of the overlap apart, as
    2MASS, VISTA and the like tile the sky; fields of neighbouring rings share a part
    of their sides.
    """
    rng = np.random.default_rng(seed)
    n_fields = n_images // 2
    step = np.sqrt(4 * np.pi / n_fields)
    side = step * (1 + overlap)
    n_rings = round(np.pi / step)
    lat = (np.arange(n_rings) + 0.5) / n_rings * np.pi - np.pi / 2
    in_ring = np.maximum(np.round(2 * np.pi * np.cos(lat) / step), 3).astype(int)
    lon = np.concatenate([(np.arange(n) + rng.random()) / n * 2 * np.pi for n in in_ring])
    lat = np.repeat(lat, in_ring)
    dither = overlap * step / 3 * rng.normal(0, 1, (2, 2, len(lat))).clip(-1, 1)
    lon = (lon + dither[0] / np.cos(lat)).ravel()
    lat = np.clip(lat + dither[1], -1.57, 1.57).ravel()
    axes = tangent_axes(unit_vectors(np.degrees(lon), np.degrees(lat)))
    return axes, side


def outlines(axes, side):
    """Outlines of square fields, shape (n, 16, 3), and their radii."""
    half = np.tan(side / 2)
    corners = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    vectors = axes[:, None, 0] + np.einsum("kc,ncx->nkx", corners, axes[:, 1:])
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vertices = np.empty((len(axes), N_VERTICES, 3))
    vertices[:, :4] = vectors
    vertices[:, 4:] = vectors[:, 3:]
    return vertices, np.full(len(axes), np.arctan(np.sqrt(2) * half))
