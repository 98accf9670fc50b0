# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of pixel areas, beams, zero points and filters."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.filters import check_filters, filters_of
from levelmatch.images.inputs import collect_frames
from levelmatch.images.known_levels import pending_levels
from levelmatch.images.scales import area_factors, compare_scales, flux_factors
from levelmatch.summary import notes

PER_PIXEL = ["ct", "electron", "adu", "DN", "ct / s", "nmgy", "Jy / pix"]


# Pixel area


@pytest.mark.parametrize("unit", PER_PIXEL)
def test_flat_fielded_images_of_one_camera_compare_directly(paint, unit):
    rng = np.random.default_rng(3)
    images = [
        paint(f"{k}.fits", (0, 45.0 * k), sky=(2000, 0, 0), noise=1.0, unit=unit, scale=scale)
        for k, scale in enumerate(1 + 1e-3 * rng.standard_normal(5))
    ]
    result = lm.match_mosaic(images, group_by="FILENAME", reference="mean")
    assert_allclose(result.table["level"].value, 0, atol=0.2)


@pytest.mark.parametrize(
    ("pixel_area", "expected"),
    [("auto", [1, 1, 1, 0.2525, 0.2525]), (True, None), (False, [1, 1, 1, 1, 1])],
)
def test_cameras_are_told_apart_by_their_pixel_areas(paint, pixel_area, expected):
    sides = np.sqrt([1.0, 1.04, 0.96, 3.96, 3.9602])
    images = [paint(f"{k}.fits", unit="adu", scale=side) for k, side in enumerate(sides)]
    found = area_factors(collect_frames(images), pixel_area)
    assert_allclose(found, 1 / sides**2 if expected is None else expected, rtol=2e-4)


def test_the_summary_says_what_was_scaled(paint, tmp_path):
    images = [
        paint("a.fits", unit="adu"),
        paint("b.fits", (0, 20), unit="adu", scale=2.0, level=3),
        paint("c.fits", (0, 30), unit="adu"),
    ]
    result = lm.match_mosaic(images, group_by="FILENAME")
    (note,) = [n for n in notes(result) if "pixel area" in n]
    assert note.lower().startswith("values per pixel are compared after division by the pixel")
    assert note.endswith("relative to the first image by name: b.fits (times 0.25).")
    result.write(tmp_path)
    assert note in notes(lm.read_record(tmp_path / "levelmatch.asdf"))
    assert not [n for n in notes(lm.match_mosaic(images[::2])) if "pixel area" in n]


def distorted_halves(unit):
    """Return two overlapping halves of an exposure whose pixel area changes by 8 % along x."""
    cards = {
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "CRVAL1": 40.0,
        "CRVAL2": -5.0,
        "CRPIX1": 200.5,
        "CRPIX2": 50.5,
        "CD1_1": -5e-5,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": 5e-5,
        "A_ORDER": 2,
        "B_ORDER": 2,
        "A_2_0": 8e-5,
        "B_1_1": 6e-5,
    }
    sky = 300 + np.random.default_rng(8).normal(0, 2, (100, 400))
    out = []
    for name, x0, x1 in (("l.fits", 0, 240), ("r.fits", 160, 400)):
        header = fits.Header({**cards, "CRPIX1": 200.5 - x0})
        data = sky[:, x0:x1].astype("f4")
        out.append(CCDData(data, unit=unit, wcs=WCS(header), meta={"FILENAME": name}))
    return out


def test_halves_of_a_distorted_exposure_agree():
    left, right = distorted_halves("electron")
    result = lm.match_mosaic([left, right], group_by="FILENAME", reference=0)
    assert_allclose(result.table["level"].value, 0, atol=1e-6)
    assert_array_equal(result[0].data[:, 160:], result[1].data[:, :80])
    own = area_factors(collect_frames([left, right]), True)
    assert abs(own[1] / own[0] - 1) > 0.01


def test_an_option_decides_without_a_unit(paint):
    images = [paint("a.fits"), paint("b.fits", scale=2.0)]
    for image in images:
        image.unit = u.dimensionless_unscaled
    frames = collect_frames(images)
    assert_allclose(compare_scales(frames, True)[0], [1, 0.25], rtol=1e-5)
    assert_array_equal(compare_scales(frames, False)[0], 1)
    surface = collect_frames([paint("a.fits"), paint("b.fits", scale=2.0)])
    assert_array_equal(compare_scales(surface, True)[0], 1)


def test_pixel_area_is_checked():
    with pytest.raises(ValueError, match="pixel_area: 'yes' is none of"):
        lm.ReadOptions(pixel_area="yes")


# Beams


def beam(image, major, minor):
    image.meta["BMAJ"], image.meta["BMIN"] = major, minor
    return image


def test_beams_are_scaled(paint):
    images = [
        beam(paint("a.fits", sky=(5, 0, 0), unit="Jy / beam"), 2e-3, 1e-3),
        beam(paint("b.fits", (0, 30), sky=(10, 0, 0), level=3, unit="Jy / beam"), 2e-3, 2e-3),
    ]
    assert_allclose(compare_scales(collect_frames(images))[0], [1, 0.5])
    result = lm.match_mosaic(images, group_by="FILENAME", reference=0)
    assert_allclose(result.table["level"].value, [0, 3], atol=0.01)


def test_a_missing_beam_is_named(paint):
    images = [
        beam(paint("a.fits", unit="Jy / beam"), 1e-3, 1e-3),
        paint("b.fits", unit="Jy / beam"),
    ]
    with pytest.raises(u.UnitsError, match=r"b\.fits: its unit is per beam, .*no beam.*a\.fits"):
        compare_scales(collect_frames(images))
    assert_array_equal(compare_scales(collect_frames(images[1:]))[0], 1)


# Zero points


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EXPTIME", (60.0, 300.0)),
        ("EXPTIME", (20.0, 21.0)),
        ("GAIN", (1.5, 2.5)),
        ("PHOTFLAM", (1e-19, 3e-19)),
        ("MAGZP", (25.0, 33.0)),
        ("MAGZP", (25.0, 2.5e7)),
    ],
)
def test_numbers_that_are_no_zero_points_are_refused(paint, keyword, values):
    images = [paint(f"{k}.fits", meta={keyword: v}) for k, v in enumerate(values)]
    match = rf"1\.fits: flux_scale: the keyword '{keyword}' is {values[1]:g} .*the factor is"
    with pytest.raises(ValueError, match=match.replace("+", r"\+")):
        flux_factors(collect_frames(images), keyword)


@pytest.mark.parametrize("factors", [[1, 1, 2e3], [1, 1, 1e-4], [1e-20] * 3])
def test_absurd_factors_are_refused(paint, factors):
    frames = collect_frames([paint(f"{k}.fits") for k in range(3)])
    with pytest.raises(ValueError, match=r"\d\.fits: flux_scale: the factor"):
        flux_factors(frames, factors)


def test_zero_points_give_factors(paint):
    frames = collect_frames([paint(f"{k}.fits", meta={"ZP": 25 + 2.5 * k}) for k in range(3)])
    assert_allclose(flux_factors(frames, "ZP"), [1, 0.1, 0.01])


# Filters


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"FILTER": "F770W"}, {"FILTER": "F1000W"}, False),
        ({"FILTER": "f770w "}, {"FILTER": "F770W"}, True),
        ({"FILTER": "r"}, {"FILTER": "R"}, False),
        (
            {"FILTER": "F150W2", "PUPIL": "F162M", "INSTRUME": "NIRCAM"},
            {"FILTER": "F150W2", "PUPIL": "CLEAR", "INSTRUME": "NIRCAM"},
            False,
        ),
        (
            {"FILTER": "CLEAR", "PUPIL": "F150W", "INSTRUME": "NIRISS", "TELESCOP": "JWST"},
            {"FILTER": "F150W", "PUPIL": "CLEARP", "INSTRUME": "NIRCAM", "TELESCOP": "JWST"},
            True,
        ),
        (
            {"FILTER": "zd", "PUPIL": "MzLS_1-pgt", "TELESCOP": "KPNO 4.0 meter telescope"},
            {"FILTER": "zd", "PUPIL": "MzLS_2-pgt", "TELESCOP": "KPNO 4.0 meter telescope"},
            True,
        ),
        ({"FILTER": "zd", "PUPIL": "MzLS_1-pgt"}, {"FILTER": "zd", "PUPIL": "MzLS_2-pgt"}, True),
        (
            {"FILTER1": "F606W", "FILTER2": "CLEAR2L"},
            {"FILTER1": "CLEAR1L", "FILTER2": "F814W"},
            False,
        ),
        (
            {"FILTER1": "open1-6", "FILTER2": "r_G0303"},
            {"FILTER1": "r_G0303", "FILTER2": "Open"},
            True,
        ),
        ({"BAND": 1}, {"BAND": 2}, False),
        ({"BAND": "g"}, {"FILTER": "r"}, False),
        ({"FILT_ID": "OCAM_g_SDSS"}, {"FILT_ID": "OCAM_i_SDSS"}, False),
        ({"FILT_ID": "OCAM_g_SDSS"}, {"FILT_ID": "OCAM_g_SDSS"}, True),
        ({"WAVELNTH": 500.0}, {"WAVELNTH": 350.0}, False),
        ({"FILTER": "g DECam SDSS", "BAND": "g"}, {"FILTER": "g DECam SDSS"}, True),
        ({"FILTER": "V"}, {}, True),
        ({"FILTER": "V"}, {"FILTER": ""}, True),
        ({"FILTER": "V"}, {"FILTER": "CLEAR"}, False),
        ({"INSTRUME": "ACS", "FILTER1": "F814W"}, {"INSTRUME": "WFC3", "FILTER": "F814W"}, True),
        ({"INSTRUME": "ACS", "FILTER1": "F814W"}, {"INSTRUME": "WFC3", "FILTER": "F606W"}, False),
    ],
)
def test_filters(paint, one, other, same):
    frames = collect_frames([paint("a.fits", meta=one), paint("b.fits", meta=other)])
    if same:
        check_filters(frames)
        return
    with pytest.raises(lm.FrameError, match=r"a\.fits is of the filter .*, b\.fits of .*mix_filt"):
        check_filters(frames)


def _radio(frequency=1.4e9, stokes=1.0, order=(3, 4)):
    """Return the cards of the axes of one pixel of a radio image."""
    axes = (("FREQ", frequency, 1e6), ("STOKES", stokes, 1.0))
    cards = {}
    for k, (kind, value, step) in zip(order, axes, strict=True):
        cards |= {f"CTYPE{k}": kind, f"CRVAL{k}": value, f"CDELT{k}": step, f"CRPIX{k}": 1.0}
    return cards


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (_radio(), _radio(order=(4, 3)), ""),
        (_radio(), _radio(1.5e9), ""),
        (_radio(), {}, ""),
        (_radio(), _radio() | {"CRVAL3": "unknown", "CRVAL4": "unknown"}, ""),
        # The reference pixel is not the pixel of the image.
        (_radio(), _radio(0.4e9) | {"CDELT3": 1e9, "CRPIX3": 0.0}, ""),
        (_radio(), _radio(5e9), r"a\.fits is of the frequency 1\.4 GHz, b\.fits of 5 GHz"),
        (_radio(5e9), _radio(order=(4, 3)), r"b\.fits is of the frequency 1\.4 GHz, a\.fits of 5"),
        (_radio(), _radio(stokes=2.0), r"a\.fits is of the filter Stokes I, b\.fits of Stokes Q"),
        (_radio(stokes=-5), _radio(stokes=-7), r"filter Stokes XX, b\.fits of Stokes XY"),
    ],
)
def test_axes_of_one_pixel_of_radio_images(paint, one, other, message):
    images = [paint("a.fits", meta=one), paint("b.fits", (0, 20.0), level=1, meta=other)]
    if message:
        with pytest.raises(lm.FrameError, match=message + ".*mix_filters=True"):
            lm.match_levels(images)
    mixed = lm.match_levels(images, read=lm.ReadOptions(mix_filters=bool(message)))
    assert_allclose(np.ptp(mixed.table["level"].value), 1, atol=0.02)


def test_elements_of_headers():
    assert filters_of({"FILTER": "N/A"}) == {}
    nircam = {"INSTRUME": "NIRCAM", "FILTER": None, "PUPIL": "EMPTY"}
    assert filters_of(nircam) == {"FILTER": {"CLEAR"}}


def test_filters_are_refused_unless_they_are_to_be_mixed(paint):
    images = [
        paint(f"{k}.fits", (0, 20.0 * k), level=k, meta={"FILTER": "gr"[k // 2], "T": str(k // 2)})
        for k in range(4)
    ]
    for match in (lm.match_levels, lm.match_mosaic):
        with pytest.raises(lm.FrameError, match=r"0\.fits is of the filter g, 2\.fits of r"):
            match(images, group_by="FILENAME")
    mixed = lm.match_levels(images, group_by="FILENAME", read=lm.ReadOptions(mix_filters=True))
    assert np.ptp(mixed.table["level"].value - range(4)) < 0.02
    # Each tile has one filter, so filters are not mixed.
    dithers = lm.match_dithers(images, group_by="T")
    assert_allclose(dithers.table["level"].value, [-0.5, 0.5, -0.5, 0.5], atol=0.02)


# Sky levels of headers


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"BKGLEVEL": 2.5, "BKGSUB": False}, {"BKGLEVEL": 2.5}),
        ({"BKGLEVEL": 2.5}, {"BKGLEVEL": 2.5}),
        ({"BKGLEVEL": 2.5, "BKGSUB": True}, {}),
        ({"BKGLEVEL": 0.0, "BKGSUB": False}, {}),
        ({"MDRIZSKY": 71.2}, {"MDRIZSKY": 71.2}),
        ({"MDRIZSKY": "none"}, {}),
    ],
)
def test_levels_that_a_later_step_subtracts(cards, expected):
    assert pending_levels(cards) == expected


@pytest.mark.parametrize("key", ["BKGLEVEL", "MDRIZSKY"])
def test_cards_of_sky_levels_are_cleared_and_restored(paint, write, tmp_path, key):
    levels = [3.0, -1.0, 2.0]
    paths = []
    (tmp_path / "in").mkdir()
    for k, level in enumerate(levels):
        path = write(
            paint(f"{k}.fits", (0, 40.0 * k), sky=(9, 0, 0), level=level),
            tmp_path / "in" / f"{k}.fits",
        )
        fits.setval(path, key, value=10 + level, extname="SCI")
        fits.setval(path, "BKGSUB", value=False, extname="SCI")
        paths.append(path)
    with pytest.warns(lm.LevelMatchWarning, match=rf"sky level that .*: 0\.fits \({key} = 13"):
        result = lm.match_mosaic(paths, group_by="FILENAME", reference=0)
    out = result.write(tmp_path / "out")
    skies = [fits.getdata(p, "SCI").mean() - fits.getval(p, key, extname="SCI") for p in out]
    assert_allclose(skies, skies[0], atol=0.01)
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    for back, path in zip(lm.undo_record(record, out, tmp_path / "back"), paths, strict=True):
        assert list(fits.getheader(back, "SCI").items()) == list(
            fits.getheader(path, "SCI").items()
        )
