# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Trials of pairs: scatter beyond the errors, wild pairs, few loops, bad images.

The scatter is put into pixels, so that only public functions are called. Images of a grid overlap
their four neighbours in strips, and their corners are masked: each pixel belongs to one pair at
most, and a constant added to a strip of one image changes one pair's difference alone.
"""

from functools import partial

import numpy as np

import levelmatch as lm
from realnoise import scores, sky
from realnoise.pixels import levels_of, simple

SIZE, OVERLAP, NOISE = 48, 16, 0.5
# Standard error of the difference of two images in a strip of 16 x 16 pixels with white noise.
STRIP_ERROR = NOISE * np.sqrt(2) / OVERLAP


def strip_grid(rng, ny, nx, shifts, levels):
    """Make the images of a grid, whose pairs differ by given shifts.

    Parameters
    ----------
    rng : `~numpy.random.Generator`
        Of noise and positions.
    ny, nx : int
        Rows and columns of the grid.
    shifts : `~numpy.ndarray`, shape (n_pairs,)
        Added to the difference of each pair; see `n_strips`.
    levels : `~numpy.ndarray`, shape (ny * nx,)
        True levels.
    """
    inner = slice(OVERLAP, SIZE - OVERLAP)
    far = slice(SIZE - OVERLAP, SIZE)
    near = slice(0, OVERLAP)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    for y in (near, far):
        for x in (near, far):
            mask[y, x] = True
    extra = np.zeros((ny, nx, SIZE, SIZE))
    shifts = iter(shifts)
    for y in range(ny):
        for x in range(nx - 1):
            extra[y, x, inner, far] += next(shifts)
    for y in range(ny - 1):
        for x in range(nx):
            extra[y, x, far, inner] += next(shifts)
    step = SIZE - OVERLAP
    grids = sky.mosaic(rng, ny, nx, size=SIZE, step=step, jitter=0.4)
    pictures = [
        sky.Picture(g, v, noise=NOISE, extra=e, mask=mask)
        for g, v, e in zip(grids, levels, extra.reshape(-1, SIZE, SIZE), strict=True)
    ]
    return [sky.make_image(rng, p, f"{k:03d}.fits", sky=5.0) for k, p in enumerate(pictures)]


def n_strips(ny, nx):
    """Return the number of pairs of a grid."""
    return ny * (nx - 1) + nx * (ny - 1)


def scattered(rng, ny, nx, size=3.0, **options):
    """Match a grid whose pairs scatter by a multiple of their errors."""
    levels = levels_of(rng, ny * nx)
    shifts = size * STRIP_ERROR * rng.standard_normal(n_strips(ny, nx))
    return scores.match_mosaic(strip_grid(rng, ny, nx, shifts, levels), levels, **options)


def few_pairs(rng):
    """Grids with 1 to 4 loops and scatter: coverage of 95 % intervals."""
    out = {}
    for loops, (ny, nx) in enumerate(((2, 2), (2, 3), (2, 4), (3, 3)), 1):
        found = scattered(rng, ny, nx)
        out[f"{loops} loops" if loops > 1 else "1 loop"] = np.abs(found.pulls) < 1.96
    return out


def grids(rng):
    """Grids with scatter and without outliers."""
    out = {}
    for label, (ny, nx) in {"5 x 5": (5, 5), "3 x 8": (3, 8)}.items():
        found = scattered(rng, ny, nx)
        out[f"{label}, floor over truth"] = scores.floor_of(found) / (3 * STRIP_ERROR)
        out[f"{label}, pull"] = found.pulls
    return out


def bad_at_corners(n, bad):
    """Return those of some pairs of an n x n grid that belong to images at its corners."""
    corner = np.zeros((n, n - 1), dtype=bool)
    corner[np.ix_([0, -1], [0, -1])] = True
    return bad[np.concatenate([corner.ravel(), corner.T.ravel()])[bad]]


def wild_pairs(rng):
    """Grids without scatter, in which 5 % of the pairs are off by 50 times their errors.

    Where the loops do not tell which pair of an image is wild, as at a corner, the stated error
    must say so. Levels are told where it is under four times the median without wild pairs.

    The least possible errors are those without wild pairs, and half of the shift of each wild pair
    of an image at a corner: both pairs of such an image are in the same loops.
    """
    out = {}
    for n in (5, 8):
        levels, m = levels_of(rng, n * n), n_strips(n, n)
        state = rng.bit_generator.state
        shifts = np.zeros(m)
        clean = scores.match_mosaic(strip_grid(rng, n, n, shifts, levels), levels)
        # The same noise as before.
        rng.bit_generator.state = state
        bad = np.random.default_rng(rng.integers(2**32)).choice(m, round(0.05 * m), replace=False)
        rng.bit_generator.state = state
        shifts[bad] = 50 * STRIP_ERROR * np.where(np.arange(len(bad)) % 2, 1, -1)
        found = scores.match_mosaic(strip_grid(rng, n, n, shifts, levels), levels)
        label = f"{n} x {n}"
        told = found.stated < 4 * np.median(clean.stated)
        doubt = np.sum(np.square(shifts[bad_at_corners(n, bad)] / 2))
        out[f"{label}, growth"] = np.sum(found.errors**2), np.sum(clean.errors**2)
        out[f"{label}, growth over the least"] = (
            np.sum(found.errors**2),
            np.sum(clean.errors**2) + doubt,
        )
        out[f"{label}, growth where told"] = (
            np.sum(found.errors[told] ** 2),
            np.sum(clean.errors**2) * told.mean(),
        )
        out[f"{label}, told"] = told
        out[f"{label}, pull"] = found.pulls
    return out


def striped_grid(rng):
    """A 6 x 6 mosaic in which each image has independent row offsets as large as the noise."""
    out = {}
    grids = sky.mosaic(rng, 6, 6)
    levels = levels_of(rng, 36)
    images = [
        sky.make_image(
            rng, sky.Picture(g, v, extra=sky.stripes(rng, g.shape)), f"{k:03d}.fits", sky=5.0
        )
        for k, (g, v) in enumerate(zip(grids, levels, strict=True))
    ]
    for label, options in {
        "default": {},
        "robust=None": {"solve": lm.SolveOptions(robust=None)},
    }.items():
        out[label] = scores.match_mosaic(images, levels, **options).pulls
    return out


def bad_image(rng, *, fault):
    """One of 3 x 3 images with wrong astrometry or flux scale, on stars and a nebula."""
    bad = int(rng.integers(9))
    angle = rng.uniform(0, 2 * np.pi)
    changes = {
        "misplaced": {"offset": (30 * np.cos(angle), 30 * np.sin(angle))},
        "misscaled": {"gain": float(rng.choice([0.8, 1.2]))},
    }

    def sources(grids):
        return [sky.Nebula.draw(rng, grids), sky.Stars.draw(rng, grids, 1e-3)]

    state = rng.bit_generator.state
    good = simple(rng, "mosaic", lambda k, g: {}, sources=sources)
    rng.bit_generator.state = state
    found = simple(rng, "mosaic", lambda k, g: changes[fault] if k == bad else {}, sources=sources)
    others = np.arange(9) != bad
    suspects = scores.suspects_of(found)[:2]
    return {
        "named among the first two": float(f"{bad:03d}.fits" in suspects),
        "nobody named without it": float(not scores.suspects_of(good)),
        "growth of the others' errors": tuple(
            np.sum(np.square(m.errors[others] - m.errors[others].mean())) for m in (found, good)
        ),
    }


misplaced_image = partial(bad_image, fault="misplaced")
misscaled_image = partial(bad_image, fault="misscaled")


def apart(rng):
    """Two disconnected sets of three images, and a lone image."""
    places = [(0, 0), (30, 20), (10, 50), (0, 600), (40, 630), (20, 580), (700, 300)]
    grids = [sky.Grid(tuple(np.add(p, rng.uniform(-1, 1, 2))), (100, 100)) for p in places]
    levels = levels_of(rng, len(grids))
    images = [
        sky.make_image(rng, sky.Picture(g, v), f"{k:03d}.fits", sky=5.0)
        for k, (g, v) in enumerate(zip(grids, levels, strict=True))
    ]
    found = scores.match_mosaic(images, levels, reference="auto")
    variance = found.covariance(0, 0) + found.covariance(3, 3) - 2 * found.covariance(0, 3)
    return {
        "difference of two sets unknown": float(not np.isfinite(variance)),
        "isolated image unknown": float(not np.isfinite(found.stated[6])),
        "others known": float(np.isfinite(found.stated[:3]).all()),
    }
