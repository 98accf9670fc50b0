# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests that images of a large part of the sky are refused with the reason."""

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose

import levelmatch as lm


def sky_map(name, projection, side, level=0.0, shape=(60, 120)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = f"RA---{projection}", f"DEC--{projection}"
    wcs.wcs.crval = 0.0, 0.0
    wcs.wcs.crpix = shape[1] / 2 + 0.5, shape[0] / 2 + 0.5
    wcs.wcs.cdelt = -side, side
    noise = np.random.default_rng(0).normal(0, 0.01, shape)
    return CCDData(noise + level, unit="K", wcs=wcs, meta={"FILENAME": name})


@pytest.mark.parametrize("projection", ["CAR", "AIT", "MOL", "SIN", "ZEA", "CEA", "HPX"])
def test_maps_of_all_the_sky(projection):
    images = [sky_map(name, projection, 3.0) for name in ("a.fits", "b.fits")]
    with pytest.raises(
        lm.FrameError,
        match=r"^a\.fits: the image(.s borders| reaches \d+ degrees).*all-sky map.*cut",
    ):
        lm.match_levels(images)


@pytest.mark.parametrize("projection", ["CAR", "AIT", "ZEA", "TAN"])
def test_wide_images_that_are_matched(projection):
    images = [sky_map(f"{k}.fits", projection, 0.6, level=float(k)) for k in range(2)]
    result = lm.match_levels(images)
    assert_allclose(np.diff(result.table["level"].value), 1, atol=0.01)
