# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Real tiles: medians of the overlaps after matching, computed with reproject.

Nothing of the package measures here. One tile of a pair is resampled on the pixels of the
other, and the median of the difference is taken before and after the corrections.
"""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from reproject import reproject_interp

import levelmatch as lm
from realnoise.goals import Skip

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "2mass_orion100"
# Largest number of evenly spread differences of a pair from which the median is computed.
MOST = 20000


@cache
def tiles():
    """Return data and WCS of each tile, by name."""
    paths = sorted(FOLDER.glob("*.fits.fz")) if FOLDER.is_dir() else []
    if not paths:
        msg = f"the 100 real tiles are not in {FOLDER.parent.name}/{FOLDER.name}"
        raise Skip(msg)
    out = {}
    for path in paths:
        with fits.open(path) as hdus, warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            hdu = next(h for h in hdus if h.is_image and h.shape)
            out[path.name] = hdu.data.astype(float), WCS(hdu.header)
    return out


def overlaps():
    """Yield names, compared pixels and differences of each overlapping pair.

    The pixels are (y, x) in the first tile, and the same places in the second, shape (2, 2, n).
    """
    named = list(tiles().items())
    for i, (a, (first, wcs)) in enumerate(named):
        for b, (second, other) in named[i + 1 :]:
            box = _common_box(second.shape, other, first.shape, wcs)
            if box is None:
                continue
            shape = tuple(s.stop - s.start for s in box)
            there = reproject_interp((second, other), wcs[box], shape, return_footprint=False)
            y, x = np.nonzero(np.isfinite(there) & np.isfinite(first[box]))
            if len(y) == 0:
                continue
            step = max(len(y) // MOST, 1)
            y, x = y[::step], x[::step]
            difference = first[box][y, x] - there[y, x]
            y, x = y + box[0].start, x + box[1].start
            xy = other.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
            yield a, b, np.array([(y, x), xy[::-1]], dtype="f4"), difference


def _common_box(shape, wcs, onto_shape, onto):
    """Return the slices of one tile within reach of another's outline, or `None`."""
    ny, nx = shape
    edge = np.linspace(-0.5, 0.5, 33)
    y = np.concatenate([edge * ny, edge * ny, np.full(33, -ny / 2), np.full(33, ny / 2)])
    x = np.concatenate([np.full(33, -nx / 2), np.full(33, nx / 2), edge * nx, edge * nx])
    with np.errstate(invalid="ignore"):
        world = wcs.pixel_to_world_values(x + (nx - 1) / 2, y + (ny - 1) / 2)
        at = np.array(onto.world_to_pixel_values(*world))[::-1]
    if not np.isfinite(at).all():
        return None
    low = np.maximum(np.floor(at.min(axis=1)).astype(int), 0)
    high = np.minimum(np.ceil(at.max(axis=1)).astype(int) + 1, onto_shape)
    return None if (high - low < 2).any() else tuple(map(slice, low, high))


@cache
def compared():
    """Return all overlaps."""
    return list(overlaps())


def medians(planes):
    """Return the median of each overlap, after planes in (1, y, x) are subtracted by name."""
    return np.array(
        [
            np.median(
                d - planes[a] @ [np.ones(len(d)), *at[0]] + planes[b] @ [np.ones(len(d)), *at[1]]
            )
            for a, b, at, d in compared()
        ]
    )


def planes_of(result):
    """Return the plane in (1, y, x) subtracted from each tile, by name."""
    planes = {}
    for name, (data, _) in tiles().items():
        difference = (data - result[name].data)[::16, ::16]
        good = np.isfinite(difference)
        y, x = 16.0 * np.array(np.nonzero(good))
        terms = np.stack([np.ones(len(y)), y, x], axis=1)
        planes[name] = np.linalg.lstsq(terms, difference[good], rcond=None)[0]
    return planes


def real_tiles(_rng):
    """100 tiles of 2MASS around Orion: rms of the medians of overlaps after matching, in DN."""
    paths = [FOLDER / name for name in tiles()]
    out = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for fit_type in ("level", "level+slope"):
            result = lm.match_levels(paths, fit_type_mosaic_tiles=fit_type)
            out[fit_type] = medians(planes_of(result))
    return out
