# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Trials of whole surveys: planes along a mosaic, automatic slopes, several passes."""

import numpy as np

import levelmatch as lm
from realnoise import scores, sky
from realnoise.pixels import levels_of


def without_plane(values, y, x):
    """Return values minus the best-fitting plane."""
    terms = np.stack([np.ones(np.size(values)), np.ravel(y), np.ravel(x)], axis=1)
    rest = np.ravel(values) - terms @ np.linalg.lstsq(terms, np.ravel(values), rcond=None)[0]
    return rest.reshape(np.shape(values))


def detector_bowl(rng):
    """Planes over 10 x 10 images with a bowl of 0.5 that stays with the detector.

    Once without, and once with a solution for the pattern.
    """
    grids = sky.mosaic(rng, 10, 10, size=64, step=44)
    levels = levels_of(rng, 100)
    images = [
        sky.make_image(rng, sky.Picture(g, v, extra=sky.bowl(g, 0.5)), f"{k:03d}.fits", sky=5.0)
        for k, (g, v) in enumerate(zip(grids, levels, strict=True))
    ]
    found = scores.match_mosaic(images, levels, fit_type="level+slope")
    centres = np.array([g.origin for g in grids]).T
    errors = without_plane(found.errors, *centres)
    solve = lm.SolveOptions(pattern="quadratic")
    solved = scores.match_mosaic(images, levels, fit_type="level+slope", solve=solve)
    left = without_plane(solved.errors, *centres)
    return {
        "error over stated": errors / found.stated,
        "error over stated: warned": found.warned,
        "warned of": found.warned,
        "with pattern, error over stated": left / solved.stated,
        "with pattern, error over that without": np.sqrt(np.mean(left**2) / np.mean(errors**2)),
    }


def automatic_slopes(rng):
    """A 6 x 6 mosaic with stripes as large as the noise, without slopes and with random slopes.

    The errors are those of the corrections at every 10th pixel. A plane over the whole mosaic is
    fitted to the errors and left out, as overlaps do not determine it.
    """
    out = {}
    for label, size in (("no slopes", 0.0), ("slopes", 0.3)):
        grids = sky.mosaic(rng, 6, 6, size=100, step=70)
        levels = levels_of(rng, len(grids))
        planes, images = [], []
        for k, (grid, level) in enumerate(zip(grids, levels, strict=True)):
            (v, u), (y, x) = size * rng.standard_normal(2), grid.fractions()
            planes.append(level + v * y + u * x)
            extra = planes[-1] + sky.stripes(rng, grid.shape)
            images.append(
                sky.make_image(rng, sky.Picture(grid, extra=extra), f"{k:03d}.fits", sky=5.0)
            )
        squares = []
        for fit_type in ("auto", "level", "level+slope"):
            found = scores.match_mosaic(images, levels, fit_type=fit_type)
            squares.append(_surface_error(found, images, planes, grids))
            if fit_type == "auto" and size == 0:
                out["fraction given slopes"] = np.mean(scores.fitted_slopes(found))
        out[f"{label}, error over that of the better"] = tuple(squares)
    return out


def _surface_error(found, images, planes, grids):
    """Return the sum of squares of the corrections minus the true planes."""
    some = np.s_[:, 5::10, 5::10]
    errors = np.subtract(scores.surfaces(found, images), planes)[some]
    places = [np.broadcast_arrays(*grid.centres()) for grid in grids]
    y, x = np.moveaxis(places, 1, 0)
    return float(np.sum(without_plane(errors, y[some], x[some]) ** 2))


def nircam_short(rng):
    """Tiles of NIRCam's short-wavelength chips in three passes, with dithers of two sizes."""
    return {
        f"tiles, dithers of {spread} of 128 pixels": short_tiles(rng, spread=spread)
        for spread in (20, 40)
    }


def short_tiles(rng, *, spread, n_dithers=4, size=128, gap=10.0):
    """Return the pulls of four tiles of the four chips of a NIRCam module.

    The level of an image is the sum of those of its tile, its chip in the tile, and itself. The
    dithers go round a square, so that they bridge the gaps between the chips.
    """
    pitch = size + gap
    images, levels, tiles = [], [], []
    for tile in range(4):
        corner = np.array([tile // 2, tile % 2]) * 1.8 * pitch
        of_tile = rng.normal(0, 3)
        of_chips = rng.normal(0, 1, 4)
        for dither in range(n_dithers):
            turn = np.pi * (0.25 + 2 * dither / n_dithers)
            shift = spread * np.array([np.sin(turn), np.cos(turn)]) + rng.uniform(-2, 2, 2)
            for chip in range(4):
                origin = corner + shift + pitch * np.array([chip // 2, chip % 2])
                level = of_tile + of_chips[chip] + rng.normal(0, 1)
                name = f"jw01234001001_02{tile + 1}01_{dither + 1:05d}_nrca{chip + 1}_cal.fits"
                picture = sky.Picture(sky.Grid(tuple(origin), (size, size)), level)
                images.append(sky.make_image(rng, picture, name, sky=5.0))
                levels.append(level)
                tiles.append(tile)
    found = scores.match_short_chips(images, levels)
    tiles = np.array(tiles)
    weights = [(tiles == t) / np.sum(tiles == t) - 1 / len(tiles) for t in range(4)]
    return [error / stated for error, stated in map(found.contrast, weights)]


# Error of the offset of a Lyot part in a tile of `lyot_tiles` with large dithers.
OFFSET_ERROR = 0.017


def shared_offsets(rng):
    """Lyot parts of MIRI in eight tiles that determine their offsets, and in two that do not.

    The offset from the science part is stable, or scatters by 1 or 10 of its errors.
    """
    out = {}
    for label, scatter in (("stable", 0), ("1 error", 1), ("10 errors", 10)):
        pulls = lyot_tiles(rng, 8, scatter * OFFSET_ERROR)
        out[f"{label}, own offset"], out[f"{label}, none"] = pulls[:8], pulls[8:]
    return out


def lyot_tiles(rng, n_known, scatter, n_open=2):
    """Return the pulls of the offsets of Lyot parts, one for each tile."""
    images, levels, parts = [], [], []
    for tile, spread in enumerate([40] * n_known + [3] * n_open):
        offset = 1.5 + scatter * rng.standard_normal()
        of_tile = rng.normal(0, 3)
        for dither, shift in enumerate([(-0.5, -0.5), (0.5, 0.5), (-0.4, 0.6)]):
            y, x = spread * np.array(shift) + rng.uniform(-0.5, 0.5, 2)
            own = of_tile + rng.normal(0, 1)
            for part, left, shape in (("s", 0, (90, 100)), ("l", -60, (70, 50))):
                level = own + (offset if part == "l" else 0)
                grid = sky.Grid((y, 90 * tile + x + left), shape)
                name = f"jw01234{tile + 1:03d}001_02101_{dither + 1:05d}_mirimage{part}_cal.fits"
                picture = sky.Picture(grid, level)
                images.append(sky.make_image(rng, picture, name, sky=5.0))
                levels.append(level)
                parts.append((tile, part == "l"))
    found = scores.match_lyot(images, levels)
    tiles, lyot = np.array(parts).T
    signs = np.where(lyot, 1, -1) / 3
    pairs = [found.contrast(signs * (tiles == t)) for t in range(n_known + n_open)]
    return np.array([error / stated for error, stated in pairs])
