# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of stars whose wings differ between images, on analytic skies of Moffat profiles."""

import numpy as np
import pytest
from astropy.nddata import CCDData

import levelmatch as lm
from conftest import painted_wcs

SIDE = 200
STEP = 170
SCALE = 0.1
NOISE = 0.25


def moffat(x, y, flux, fwhm, beta):
    """Return a Moffat profile of a given flux, at distances in pixels."""
    width = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return flux * (beta - 1) / (np.pi * width**2) * (1 + (x**2 + y**2) / width**2) ** -beta


def draw_stars(rng, number, most=3e4):
    """Return columns, rows and fluxes of stars, in pixels of the middle image."""
    uniform = rng.uniform(size=number)
    flux = (100**-0.8 + uniform * (most**-0.8 - 100**-0.8)) ** (-1 / 0.8)
    return np.stack([*rng.uniform(-STEP - 60, STEP + SIDE + 60, (2, number)), flux], axis=1)


def render(stars, shift, fwhm, beta=3.0):
    """Return an image, at a shift (x, y), of the stars through a PSF: means of 3 x 3 points."""
    fine = np.arange(3 * SIDE) / 3 - 1 / 3
    out = np.zeros((SIDE, SIDE))
    for x, y, flux in stars:
        reach = 20 + 40 * min(flux / 1e4, 1)
        x, y = x - shift[0], y - shift[1]
        if max(abs(x - SIDE / 2), abs(y - SIDE / 2)) > SIDE / 2 + reach:
            continue
        rows, columns = (np.flatnonzero(np.abs(np.arange(SIDE) - at) < reach) for at in (y, x))
        fine_y, fine_x = ((3 * part[:, None] + np.arange(3)).ravel() for part in (rows, columns))
        values = moffat(fine[fine_x][None] - x, fine[fine_y][:, None] - y, flux, fwhm, beta)
        means = values.reshape(len(rows), 3, len(columns), 3).mean((1, 3))
        out[np.ix_(rows, columns)] += means
    return out


def image_of(rng, sky, shift, name):
    """Return an image of a sky, with the noise of photons and of the detector."""
    data = sky + rng.normal(0, 1, sky.shape) * np.sqrt(NOISE**2 + 0.02 * sky)
    wcs = painted_wcs(shape=(SIDE, SIDE), scale=SCALE)
    wcs.wcs.crpix -= shift
    return CCDData(data, unit="MJy/sr", wcs=wcs, meta={"FILENAME": name})


def draw_set(seed, layout, widths, number=1400, beta=3.0):
    """Return images of one sky, and their levels: a mosaic of 3 x 3, or dithers."""
    rng = np.random.default_rng([seed, 77])
    widths = rng.uniform(*widths, 9 if layout == "mosaic" else 6)
    stars, levels = draw_stars(rng, number), rng.uniform(0, 3, len(widths))
    images = []
    for k, (fwhm, level) in enumerate(zip(widths, levels, strict=True)):
        shift = STEP * (k % 3 - 1), STEP * (k // 3 - 1)
        shift = shift if layout == "mosaic" else rng.uniform(-12, 12, 2)
        image = image_of(rng, render(stars, shift, fwhm, beta) + 2, shift, f"{k}.fits")
        images.append(image.add(level * image.unit, handle_meta="first_found"))
    return images, levels


def test_equal_psfs_have_no_effect():
    for seed in range(3):
        images, _ = draw_set(seed, "dithers", (3.5, 3.5))
        measured = lm.match_dithers(images[:3]).measured
        assert np.all(np.abs(measured.wings) < 3.5 * measured.wings_error)
        assert np.all(measured.wings_light > 0)


@pytest.fixture(scope="module")
def two():
    """Return two dithers with different PSFs, and the measured pair."""
    images = draw_set(1, "dithers", (2.5, 4.5))[0][:2]
    measured = lm.match_dithers(images).measured
    assert abs(measured.wings[0]) > 3 * measured.wings_error[0]
    return images, measured


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_effects_have_the_unit_of_the_images(two, factor):
    images, measured = two
    scaled = [CCDData(factor * im.data, unit=im.unit, wcs=im.wcs, meta=im.meta) for im in images]
    other = lm.match_dithers(scaled).measured
    np.testing.assert_allclose(other.wings, factor * measured.wings, rtol=1e-6)
    np.testing.assert_allclose(other.wings_error, factor * measured.wings_error, rtol=1e-6)
    np.testing.assert_allclose(other.wings_term, measured.wings_term, rtol=1e-6)
    np.testing.assert_allclose(other.wings_light, factor * measured.wings_light, rtol=1e-6)


def test_the_order_of_images_changes_the_sign(two):
    images, measured = two
    renamed = [
        CCDData(im, meta={"FILENAME": name}) for im, name in zip(images, ("b", "a"), strict=True)
    ]
    other = lm.match_dithers(renamed).measured
    np.testing.assert_allclose(other.wings, -measured.wings, rtol=1e-6)
    np.testing.assert_allclose(other.wings_error, measured.wings_error, rtol=1e-6)
