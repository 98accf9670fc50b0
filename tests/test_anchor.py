# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of absolute levels, on a sky given by a formula."""

import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.convolution import Gaussian2DKernel
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS
from helpers import succeed
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.summary import summary_lines

RA, DEC, SIDE, OWN = 150.0, 2.0, 120, 1.0
rng = np.random.default_rng(8)
# Offsets to East and North, fluxes and widths (arcsec) of Gaussian sources; two are large.
SOURCES = [(*rng.uniform(-140, 140, 2), np.exp(rng.normal(3, 1)), 0.0) for _ in range(40)]
SOURCES += [(20.0, -30.0, 2000.0, 40.0), (-60.0, 50.0, 4000.0, 70.0)]


def grid(scale, n, east=0.0, north=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = RA, DEC
    wcs.wcs.cdelt = -scale / 3600, scale / 3600
    wcs.wcs.crpix = n / 2 + 0.5 + east / scale, n / 2 + 0.5 - north / scale
    return wcs


def sky(wcs, n, sigma, samples=1):
    """Return the sky convolved with a Gaussian PSF, averaged over samples of each pixel."""
    y, x = np.indices((n, n))
    out = np.zeros((n, n))
    for dy in (np.arange(samples) + 0.5) / samples - 0.5:
        for dx in (np.arange(samples) + 0.5) / samples - 0.5:
            ra, dec = wcs.pixel_to_world_values(x + dx, y + dy)
            east, north = (ra - RA) * np.cos(np.radians(DEC)) * 3600, (dec - DEC) * 3600
            for a, b, flux, width in SOURCES:
                v = width**2 + sigma**2
                out += (
                    flux / (2 * np.pi * v) * np.exp(-((east - a) ** 2 + (north - b) ** 2) / 2 / v)
                )
    return out / samples**2


def image(name, data, wcs, unit="MJy/sr"):
    return CCDData(data, wcs=wcs, unit=unit, meta={"FILENAME": name})


PLACES = {f"{i}{j}.fits": (80.0 * (i - 1), 80.0 * (j - 1)) for i in range(3) for j in range(3)}
TRUTH = {k: sky(grid(1.0, SIDE, *place), SIDE, OWN) for k, place in PLACES.items()}


def made(noise):
    """Return nine images, each with a level and noise of its own."""
    return [
        image(
            name,
            TRUTH[name] + noise.normal(3 + noise.normal(), 0.05, (SIDE, SIDE)),
            grid(1.0, SIDE, *place),
        )
        for name, place in PLACES.items()
    ]


def matched(seed, slope=0.0):
    """Return nine matched images, and the generator of the anchor's noise."""
    noise = np.random.default_rng(seed)
    tilt = slope * (np.arange(SIDE) - 60)
    images = made(noise)
    for one, (_, north) in zip(images, PLACES.values(), strict=True):
        one.data += slope * north + tilt[:, None]
    return lm.match_mosaic(images, group_by="FILENAME"), noise


def offset(result):
    """Return the mean of the corrected images minus the true sky."""
    return np.mean([np.mean(result[k].data - TRUTH[k]) for k in PLACES])


def anchor_of(noise, scale, fwhm, colour=1.0, unit=u.MJy / u.sr):
    n = int(360 / scale)
    sigma = np.hypot(OWN, fwhm / 2.3548)
    data = colour * sky(grid(scale, n), n, sigma, max(1, int(scale)))
    data += noise.normal(0, 0.02, data.shape)
    return image("wide.fits", (data * u.MJy / u.sr).to_value(unit), grid(scale, n), unit)


@pytest.mark.parametrize(
    ("scale", "fwhm", "options", "most"),
    [
        (4.0, 12.0, {"fwhm": 12.0}, 0.001),
        (4.0, 12.0, {"fwhm": 0.2 * u.arcmin}, 0.001),
        (20.0, 0.0, {}, 0.004),
        (4.0, 12.0, {"fwhm": 12.0, "colour": "fit"}, 0.002),
        (4.0, 12.0, {"fwhm": 12.0, "kernel": Gaussian2DKernel(8 / 2.3548)}, 0.002),
    ],
    ids=["beam", "angle", "large pixels", "colour", "kernel"],
)
def test_the_absolute_level(scale, fwhm, options, most):
    found, errors = [], []
    colour = 1.3 if "colour" in options else 1.0
    for seed in range(4):
        result, noise = matched(seed)
        anchored = lm.anchor_levels(result, anchor_of(noise, scale, fwhm, colour), **options)
        assert abs(offset(result)) > 0.2
        found.append(offset(anchored))
        told = anchored.run.options["anchor"]
        errors.append(told["error"])
        assert_allclose(told["colour"], colour, rtol=0.01)
    assert np.sqrt(np.mean(np.square(found))) < most
    assert np.sqrt(np.mean(np.square(np.array(found) / errors))) < 2.5
    assert np.mean(errors) < most


def test_regions_that_were_left_out():
    """A ghost in one image biases neither the match nor the anchor."""
    regions = pytest.importorskip("regions")
    noise = np.random.default_rng(0)
    images = made(noise)
    images[4].data[40:90, 40:90] += 50
    corner = grid(1.0, SIDE, *PLACES[images[4].meta["FILENAME"]]).pixel_to_world(64.5, 64.5)
    ghost = regions.RectangleSkyRegion(corner, 54 * u.arcsec, 54 * u.arcsec)
    result = lm.match_mosaic(images, group_by="FILENAME", read=lm.ReadOptions(regions=ghost))
    anchored = lm.anchor_levels(result, anchor_of(noise, 4.0, 12.0), fwhm=12.0)
    others = [k for k in PLACES if k != images[4].meta["FILENAME"]]
    errors = [np.mean(anchored[k].data - TRUTH[k]) for k in others]
    assert abs(np.mean(errors)) < 0.01


def test_a_given_colour_and_another_unit():
    result, noise = matched(3)
    anchor = anchor_of(noise, 4.0, 12.0, 2.0, u.Jy / u.arcsec**2)
    anchored = lm.anchor_levels(result, anchor, fwhm=12, colour=2.0)
    assert abs(offset(anchored)) < 0.001


def test_a_beam_in_the_header():
    result, noise = matched(3)
    anchor = anchor_of(noise, 4.0, 12.0)
    expected = lm.anchor_levels(result, anchor, fwhm=12).run.options["anchor"]["level"]
    anchor.meta |= {"BMAJ": 12 / 3600, "BMIN": 12 / 3600}
    assert lm.anchor_levels(result, anchor).run.options["anchor"]["level"] == expected


def test_a_plane():
    result, noise = matched(5, slope=2e-3)
    anchored = lm.anchor_levels(
        result, anchor_of(noise, 4.0, 12.0), fwhm=12, fit_type="level+slope"
    )
    (east, north) = anchored.run.options["anchor"]["slopes"]
    assert_allclose([east, north], [0, 60 * 2e-3], atol=1e-3)
    for name in PLACES:
        assert np.mean(anchored[name].data - TRUTH[name]) == pytest.approx(0, abs=0.005)


def test_the_sky_at_a_place():
    result, _ = matched(6)
    place = SkyCoord(RA - 100 / 3600, DEC + 100 / 3600, unit="deg")
    wcs = grid(0.5, 8, 100 * np.cos(np.radians(DEC)) * -1, 100)
    value = sky(wcs, 8, OWN).mean()
    for item in ((place, value), (place, value * u.MJy / u.sr), (place.galactic, value)):
        anchored = lm.anchor_levels(result, item, fwhm=10)
        assert abs(offset(anchored)) < 4 * anchored.run.options["anchor"]["error"] < 0.1
    told = lm.anchor_levels(result, (place, value, 0.3), fwhm=10).run.options["anchor"]
    assert told["error"] == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ((np.nan,), TypeError, "anchor: nan is not a finite number"),
        ((np.nan * u.MJy / u.sr,), TypeError, "anchor: .*nan .* is not a finite number"),
        (([1.0, 2.0] * u.MJy / u.sr,), TypeError, "anchor: .* is not a finite number"),
        ((1.0 * u.Jy,), u.UnitsError, r"anchor: 1\.0 Jy cannot be converted to MJy / sr, the"),
        ((1.0, np.inf), TypeError, "anchor: inf is not a finite number"),
        ((1.0, -0.1), ValueError, r"anchor: the error of the sky value is negative: -0\.1"),
    ],
)
def test_sky_values_are_checked(values, error, match):
    result, _ = matched(6)
    with pytest.raises(error, match=match):
        lm.anchor_levels(result, (SkyCoord(RA, DEC, unit="deg"), *values), fwhm=10)
    with pytest.raises(TypeError, match="expected .SkyCoord, value."):
        lm.anchor_levels(result, (SkyCoord([RA], [DEC], unit="deg"), *values), fwhm=10)


def test_an_anchor_without_a_name():
    result, noise = matched(7)
    anchor = anchor_of(noise, 4.0, 12.0)
    del anchor.meta["FILENAME"]
    anchored = lm.anchor_levels(result, anchor, fwhm=12.0)
    assert "FILENAME" not in anchor.meta
    assert anchored.gauge.endswith("the absolute level is that of the anchor")
    anchor.unit = u.K
    with pytest.raises(u.UnitsError, match=r"the anchor: its unit \(K\) .* that of 00\.fits"):
        lm.anchor_levels(result, anchor)


def test_several_anchors_are_averaged():
    result, noise = matched(7)
    anchors = [anchor_of(noise, 4.0, 12.0), anchor_of(noise, 20.0, 12.0)]
    ones = [lm.anchor_levels(result, a, fwhm=12).run.options["anchor"] for a in anchors]
    both = lm.anchor_levels(result, anchors, fwhm=12).run.options["anchor"]
    weights = np.array([one["error"] ** -2 for one in ones])
    levels = np.array([one["level"] for one in ones])
    assert both["level"] == pytest.approx((weights * levels).sum() / weights.sum())
    assert both["error"] == pytest.approx(weights.sum() ** -0.5)


def test_anchors_that_disagree_are_told():
    result, noise = matched(7)
    anchors = [anchor_of(noise, 4.0, 12.0), anchor_of(noise, 4.0, 12.0)]
    anchors[1].data += 2.0
    anchors[1].meta["FILENAME"] = "other.fits"
    match = r"wide\.fits, other\.fits: the levels of the anchors differ by (2|1\.99)"
    with pytest.warns(lm.LevelMatchWarning, match=match):
        told = lm.anchor_levels(result, anchors, fwhm=12).run.options["anchor"]
    # The standard error of the mean of two values of equal weight is half of their difference.
    assert told["error"] == pytest.approx(1.0, rel=0.2)


def test_units_and_repeated_anchors_are_refused_by_name(tmp_path):
    result, noise = matched(7)
    anchor = anchor_of(noise, 4.0, 12.0)
    anchor.write(tmp_path / "wide.fits")
    paths = [tmp_path / "wide.fits", str(tmp_path / "wide.fits")]
    with pytest.raises(ValueError, match=r"anchor: wide\.fits is named twice"):
        lm.anchor_levels(result, paths)
    with pytest.raises(ValueError, match="anchor: the list is empty"):
        lm.anchor_levels(result, [])
    anchor.unit = u.K
    with pytest.raises(u.UnitsError, match=r"wide\.fits: its unit \(K\) .* that of 00\.fits"):
        lm.anchor_levels(result, anchor)


def test_the_table_the_cards_and_the_summary_say_it():
    result, noise = matched(1)
    anchored = lm.anchor_levels(result, anchor_of(noise, 4.0, 12.0), fwhm=12)
    told = anchored.run.options["anchor"]
    table, before = anchored.table, result.table
    assert_allclose(table["level_anchor"].value, told["level"])
    assert_allclose(table["level"].value, before["level"].value + told["level"])
    assert (table["error"].value > told["error"]).all()
    assert anchored[0].meta["LMALEV"] == pytest.approx(told["level"])
    assert anchored[0].meta["LMAERR"] == pytest.approx(table["error"].value[0])
    assert "absolute level is that of wide.fits" in anchored.gauge
    assert any("subtracted, by wide.fits" in line for line in summary_lines(anchored))
    with pytest.raises(lm.FrameError, match=r"wide\.fits: the result already has this anchor"):
        lm.anchor_levels(anchored, anchor_of(noise, 4.0, 12.0))


def chain_of_levels(seed, reference):
    """Return a chain of five matched images of an empty sky, anchored, and the true levels."""
    noise = np.random.default_rng(seed)
    true = noise.normal(0, 3, 5)
    images = [
        image(f"{k}.fits", level + noise.normal(0, 1, (48, 48)), grid(1.0, 48, 36.0 * k))
        for k, level in enumerate(true)
    ]
    wide = grid(4.0, 60, 72.0)
    result = lm.match_mosaic(images, group_by="FILENAME", reference=reference)
    anchor = image("wide.fits", noise.normal(0, 0.01, (60, 60)), wide)
    return lm.anchor_levels(result, anchor), true


def test_errors_are_those_of_absolute_levels():
    """The reference has an error, too, and no level's error depends on the reference."""
    pulls = []
    for seed in range(12):
        anchored, true = chain_of_levels(seed, "0.fits")
        errors = anchored.table["error"].value
        pulls.append((anchored.table["level"].value - true) / errors)
        # The reference is at the end of the chain, as uncertain as the other end.
        assert errors[0] > 3 * anchored.run.options["anchor"]["error"]
        assert_allclose(errors[0], errors[-1], rtol=0.2)
    assert 0.8 < np.sqrt(np.mean(np.square(pulls))) < 1.25
    other, _ = chain_of_levels(11, "3.fits")
    assert_allclose(other.table["error"].value, errors, rtol=1e-3)
    again = lm.solve_record(anchored.record, reference="3.fits")
    assert_allclose(again.table["error"].value, errors, rtol=1e-9)


def test_files_records_and_undo(tmp_path):
    result, noise = matched(2)
    raw = []
    for k, place in PLACES.items():
        path = tmp_path / k
        data = (TRUTH[k] + noise.normal(3 + noise.normal(), 0.05, TRUTH[k].shape)).astype("f4")
        image(k, data, grid(1.0, SIDE, *place)).write(path)
        raw.append(path)
    wide = tmp_path / "wide.fits"
    anchor_of(noise, 4.0, 12.0).write(wide)
    out = tmp_path / "out"
    anchor = "--anchor", wide, "--anchor-fwhm", 12
    done = succeed("run", *raw, "-o", out, "--group-by", "FILENAME", *anchor)
    assert "subtracted, by wide.fits" in done.output
    record = lm.read_record(out / "levelmatch.asdf")
    paths = [out / p.name for p in raw]
    assert lm.verify_record(record, paths) == record.names
    assert record.options["anchor"]["names"] == ["wide.fits"]
    again = lm.solve_record(record, reference=4)
    level = [
        dict(zip(r.table["name"], r.table["level"].value, strict=True)) for r in (record, again)
    ]
    assert_allclose(list(level[0].values()), [level[1][k] for k in level[0]], atol=1e-9)
    restored = lm.undo_record(record, paths, tmp_path / "back")
    for one, other in zip(restored, raw, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_allclose(CCDData.read(one).data, CCDData.read(other).data, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"fit_type": "auto"}, ValueError, "fit_type: an anchor fits 'level' or 'level.slope'"),
        ({"fwhm": -1}, ValueError, "fwhm: -1 is not positive"),
        ({"fwhm": "wide"}, TypeError, "fwhm: 'wide': expected an angle"),
        ({"colour": 0}, ValueError, "colour: 0 is neither a positive number nor 'fit'"),
        ({"kernel": np.ones((3, 3))}, ValueError, "kernel: give fwhm"),
        ({"kernel": np.ones((4, 3)), "fwhm": 9}, ValueError, r"kernel: shape \(4, 3\)"),
    ],
)
def test_options_are_checked(options, error, match):
    result, noise = matched(0)
    with pytest.raises(error, match=match):
        lm.anchor_levels(result, anchor_of(noise, 20.0, 0.0), **options)


def test_anchors_are_checked():
    result, noise = matched(0)
    away = anchor_of(noise, 20.0, 0.0)
    away.wcs.wcs.crval = 30.0, 2.0
    with pytest.raises(lm.NoOverlapError, match=r"wide\.fits"):
        lm.anchor_levels(result, away)
    with pytest.raises(TypeError, match="expected .SkyCoord, value."):
        lm.anchor_levels(result, (1.0, 2.0))
    with pytest.raises(lm.NoOverlapError, match="the images have no good pixel there"):
        lm.anchor_levels(result, (SkyCoord(30, 2, unit="deg"), 1.0))
    with pytest.warns(lm.LevelMatchWarning, match="only . independent blocks"):
        lm.anchor_levels(result, anchor_of(noise, 72.0, 0.0))


def test_a_record_and_a_file_of_many_images_are_refused(tmp_path):
    result, noise = matched(0)
    with pytest.raises(TypeError, match="result: expected a MatchResult, not Record"):
        lm.anchor_levels(result.record, anchor_of(noise, 20.0, 0.0))
    one = anchor_of(noise, 20.0, 0.0).to_hdu()[0]
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(one.data, one.header, f"A{k}") for k in (1, 2))]
    hdus[2].header["CRVAL1"] += 1.0
    fits.HDUList(hdus).writeto(tmp_path / "two.fits")
    with pytest.raises(lm.FrameError, match=r"two\.fits.*: the anchor's file has 2 images"):
        lm.anchor_levels(result, tmp_path / "two.fits")


# The error of the sky at a place


def places_on(structure, width, n_seeds=24):
    """Return errors, true and stated, of absolute levels from a place on a sky with structure."""
    true, stated = [], []
    half = width / 2
    disc = np.stack(np.meshgrid(*[np.linspace(-half, half, 101)] * 2))
    disc = disc[:, np.hypot(*disc) <= half]
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        levels, images = rng.normal(0, 2, 4), []
        for k, level in enumerate(levels):
            crpix = [50 + 40 * (k % 2 - 0.5), 50 + 40 * (k // 2 - 0.5)]
            y, x = np.indices((100, 100))
            data = structure(crpix[0] - 1 - x, y + 1 - crpix[1]) + level
            wcs = WCS(naxis=2)
            wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
            wcs.wcs.crval, wcs.wcs.cdelt = [150.0, 2.0], [-1 / 3600, 1 / 3600]
            wcs.wcs.crpix = crpix
            noisy = data + rng.normal(0, 0.5, data.shape)
            images.append(CCDData(noisy, wcs=wcs, unit=u.MJy / u.sr, meta={"FILENAME": f"{k}"}))
        result = lm.match_levels(images, group_by="FILENAME")
        place = SkyCoord(150, 2, unit="deg"), structure(*disc).mean()
        table = lm.anchor_levels(result, place, fwhm=width).table
        true.append(table["level"].value - levels)
        stated.append(table["error"].value)
    return np.array(true), np.array(stated)


@pytest.mark.parametrize("width", [10.0, 30.0])
@pytest.mark.parametrize("slope", [0.0, 0.02])
def test_errors_of_the_sky_at_a_place(width, slope):
    true, stated = places_on(lambda x, y: slope * x + 0 * y, width)
    assert 0.6 < np.sqrt(np.mean(np.square(true / stated))) < 1.5


def test_the_mean_of_a_curved_sky_at_a_place():
    """The disc's mean is that of the sky, which a median is not."""
    bump = places_on(lambda x, y: 2 * np.exp(-(np.hypot(x - 5, y + 8) ** 2) / 1250), 30.0)
    assert abs(bump[0].mean()) < 0.01
    assert 0.4 < np.sqrt(np.mean(np.square(bump[0] / bump[1]))) < 1.35
