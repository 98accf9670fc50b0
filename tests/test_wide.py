# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of positions on the sky: images of a large part of it are refused with the reason."""

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.wcs import WCS, Sip
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import unit_vectors


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


@pytest.mark.parametrize("lonpole", [180.0, 0.0, -57.0])
@pytest.mark.parametrize("crval", [(10.0, 20.0), (350.0, -90.0), (123.0, 90.0)])
@pytest.mark.parametrize("scale", ["cd", "pc", "crota"])
@pytest.mark.parametrize("swapped", [False, True])
def test_gnomonic_positions_are_those_of_wcslib(lonpole, crval, scale, swapped):
    wcs = WCS(naxis=2)
    names, order = ["RA---TAN-SIP", "DEC--TAN-SIP"], -1 if swapped else 1
    wcs.wcs.ctype, wcs.wcs.crval = names[::order], crval[::order]
    wcs.wcs.crpix, wcs.wcs.radesys, wcs.wcs.lonpole = (-30.5, 200.25), "ICRS", lonpole
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    if scale == "cd":
        wcs.wcs.cd = 1e-3 * turn
    else:
        wcs.wcs.cdelt = (-2e-3, 1e-3)
    if scale == "pc":
        wcs.wcs.pc = turn
    if scale == "crota":
        wcs.wcs.crota = (0, 37.0)
    bend = np.zeros((3, 3))
    bend[2, 0], bend[1, 1] = 1e-5, -2e-5
    wcs.sip = Sip(bend, bend.T, None, None, wcs.wcs.crpix)
    x, y = np.meshgrid(np.linspace(-100, 900, 7), np.linspace(0, 500, 5))
    lon, lat = wcs.all_pix2world(x, y, 0)[::order]
    vectors = SkyTransform(wcs, "image").to_sky(x, y)
    assert_allclose(vectors, unit_vectors(lon, lat), rtol=0, atol=5e-15)
