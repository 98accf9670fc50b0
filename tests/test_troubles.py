# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of stated errors under troubles of real images, by a simulator of their own."""

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS

import levelmatch as lm

SIDE = 200
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)


def ghost(rng):
    """Return a ring of light, as of a bright star out of focus."""
    y, x = rng.uniform(50, 150, 2)
    radius = np.hypot(Y - y, X - x)
    return 0.3 * ((radius > 15) & (radius < 45))


def bad_quadrant(rng):
    """Return a step of a readout channel."""
    return 0.2 * ((Y < 100) ^ (rng.uniform() < 0.5)) * (X < 100)


def dithers(seed, trouble):
    """Return six dithers of a dark sky, one of them with a trouble, their levels and its index."""
    rng = np.random.default_rng(seed)
    levels, bad, images = rng.normal(0, 3, 6), int(rng.integers(6)), []
    for k, level in enumerate(levels):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 30.0, 1.0
        wcs.wcs.crpix = 100 + rng.uniform(-15, 15, 2)
        wcs.wcs.cdelt = -1e-4, 1e-4
        data = level + 0.5 * rng.standard_normal((SIDE, SIDE)) + (k == bad) * trouble(rng)
        images.append(CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": f"i{k}.fits"}))
    return images, levels, bad


@pytest.mark.parametrize("trouble", [ghost, bad_quadrant])
def test_a_pattern_of_one_image_widens_its_error(trouble):
    """The true errors were 3.0 and 2.9 stated errors, and no image was named."""
    pulls, ratios = [], []
    for seed in range(10):
        images, levels, bad = dithers(seed, trouble)
        table = lm.match_mosaic(images, group_by="FILENAME", reference="mean").table
        error, stated = table["level"].value - levels, table["error"].value
        # The mean of all levels is free.
        pulls.append((error - error.mean()) / stated)
        ratios.append(stated[bad] / np.median(np.delete(stated, bad)))
    assert np.sqrt(np.mean(np.square(pulls))) < 1.9
    assert np.median(ratios) > 1.5
