# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Growth with the number of images, on the footprints of a simulated survey of the whole sky."""

from dataclasses import replace

import numpy as np

from levelmatch.sky import ARCMIN, tangent_axes, unit_vectors
from levelmatch.solve import Equations

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


def simulated_pairs(axes, side, pairs, *, planes, floor=0.003, noise=0.5, n_pixels=1e6, seed=0):
    """Equations of pairs of square fields about known corrections.

    White noise over each overlap, a systematic scatter of the pairs' levels on top, and
    one pair in a thousand wrong by far more.

    Returns
    -------
    equations : `~levelmatch.solve.Equations`
        The pairs.
    true : `~numpy.ndarray`, shape (n, 1) or (n, 3)
        The corrections.
    """
    rng = np.random.default_rng([seed, len(axes)])
    first, second = pairs.T
    middle = tangent_axes(axes[first, 0] + axes[second, 0])
    ends = [np.einsum("pki,pi->pk", middle, axes[side_, 0]) for side_ in (first, second)]
    apart = np.abs(ends[0][:, 1:] / ends[0][:, :1] - ends[1][:, 1:] / ends[1][:, :1])
    extent = np.maximum(side - apart, 1e-3 * side)
    weight = n_pixels * extent.prod(axis=1) / side**2 / (2 * noise**2)
    k = 3 if planes else 1
    true = rng.standard_normal((len(axes), k))
    gram = np.zeros((len(pairs), k, k))
    gram[:, 0, 0] = weight
    if planes:
        true[:, 1:] /= ARCMIN * side / 2
        for c in (1, 2):
            gram[:, c, c] = weight * (ARCMIN * extent[:, c - 1]) ** 2 / 12
    equations = Equations(first, second, gram, np.zeros((len(pairs), k)), middle, axes)
    d = equations.differences(true)
    d += rng.standard_normal(d.shape) / np.sqrt(np.einsum("pii->pi", gram))
    d[:, 0] += floor * rng.standard_normal(len(d))
    wrong = rng.choice(len(d), len(d) // 1000, replace=False)
    d[wrong, 0] += rng.normal(0, 1, len(wrong))
    return replace(equations, rhs=(gram @ d[:, :, None])[:, :, 0]), true
