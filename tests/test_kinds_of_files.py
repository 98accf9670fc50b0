# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Kinds of files that observers have: the level is right, or the image is refused by name."""

import warnings
from functools import partial

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import BarycentricMeanEcliptic, Galactic, SkyCoord, Supergalactic
from astropy.io import fits
from astropy.nddata import NDData
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.wcsapi import SlicedLowLevelWCS
from numpy.testing import assert_allclose

import levelmatch as lm
from levelmatch.images.collect import collect_frames
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat

match = partial(lm.match_mosaic, group_by="FILENAME")


def write_plain(image, path, **cards):
    """Write an image as one HDU of a plain file, with some cards changed."""
    header = image.wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    header.update(cards)
    fits.PrimaryHDU(image.data, header).writeto(path)
    return path


def set_card(path, key, value, *, repeat=False):
    """Write the value of a card as text, instead of the card or after it; length is kept."""
    content = path.read_bytes()
    card = f"{key:8}= {value}".ljust(80).encode()
    places = [i for i in range(0, len(content), 80) if content[i : i + 8] == f"{key:8}".encode()]
    if repeat or not places:
        # Over the first blank card after END of the padded header.
        end = next(i for i in range(0, len(content), 80) if content[i : i + 80].strip() == b"END")
        content = content[:end] + card + b"END".ljust(80) + content[end + 160 :]
    else:
        content = content[: places[0]] + card + content[places[0] + 80 :]
    path.write_bytes(content)


@pytest.fixture
def pair(paint, tmp_path):
    """Two plain files with a step of 3 between them."""
    (tmp_path / "in").mkdir()
    return [
        write_plain(paint(f"{n}.fits", (0, 20.5 * k), level=3.0 * k), tmp_path / "in" / f"{n}.fits")
        for k, n in enumerate("ab")
    ]


# Cards of the WCS

UNREADABLE = ["NaN", "'N/A'", "12,5", "", "T", "inf", "-Inf", "'50.0'", "1E400", "(1.0, 2.0)"]


@pytest.mark.parametrize("radesys", ["ICRS", "FK5"])
@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.filterwarnings("ignore")
def test_wcs_card_that_is_no_number(pair, value, radesys):
    set_card(pair[1], "RADESYS", f"'{radesys}'")
    set_card(pair[1], "CRPIX2", value)
    shown = value.replace("(", r"\(").replace(")", r"\)") or "blank"
    with pytest.raises(lm.FrameError, match=rf"b\.fits: the WCS card CRPIX2 = {shown} is not a"):
        match(pair)


@pytest.mark.parametrize(
    "key",
    ["CRPIX1", "CRVAL1", "CRVAL2", "CDELT1", "PC1_1", "PC2_1", "CD1_2", "CROTA2", "LONPOLE"]
    + ["LATPOLE", "PV1_1", "PV2_3", "EQUINOX", "A_ORDER", "A_2_0", "B_0_2", "AP_1_0"],
)
@pytest.mark.filterwarnings("ignore")
def test_every_card_of_the_wcs_is_checked(pair, key):
    set_card(pair[1], key, "NaN")
    with pytest.raises(lm.FrameError, match=rf"b\.fits: the WCS card {key} = NaN is not a finite"):
        match(pair)


@pytest.mark.parametrize(("key", "value"), [("CRPIX3", "NaN"), ("CRPIX1A", "NaN"), ("MJD", "NaN")])
@pytest.mark.filterwarnings("ignore")
def test_cards_that_do_not_matter_may_be_unreadable(pair, key, value):
    set_card(pair[1], key, value)
    assert_allclose(np.diff(match(pair).table["level"].value), 3, atol=0.01)


@pytest.mark.parametrize("value", ["'2000.0'", "'J2000'"])
@pytest.mark.filterwarnings("ignore")
def test_equinox_in_quotes(pair, value):
    set_card(pair[1], "EQUINOX", value)
    assert_allclose(np.diff(match(pair).table["level"].value), 3, atol=0.01)
    set_card(pair[1], "EQUINOX", value.replace("2000", "1950"))
    with pytest.raises(lm.FrameError, match=r"b\.fits: the WCS card EQUINOX = '.?1950"):
        match(pair)


@pytest.mark.parametrize("radesys", ["ICRS", "FK5"])
def test_exponents_of_double_precision(pair, radesys):
    # wcslib reads 3.25D1 as 3.25.
    before = collect_frames(pair)[1].grid.nodes
    for key in ("CRPIX1", "CRVAL1"):
        value = fits.getheader(pair[1])[key]
        set_card(pair[1], key, f"{value / 10!r}D+01")
    set_card(pair[1], "RADESYS", f"'{radesys}'")
    after = collect_frames(pair)[1].grid.nodes
    assert_allclose(after, before, atol=2e-7 if radesys == "FK5" else 1e-13)


@pytest.mark.parametrize("radesys", ["ICRS", "FK5"])
@pytest.mark.parametrize("key", ["CRPIX1", "CRVAL2", "PC1_1", "CTYPE1"])
def test_the_last_of_two_cards_counts_as_in_astropy(pair, key, radesys):
    header = fits.getheader(pair[1])
    other = f"'{header[key]}'" if key == "CTYPE1" else repr(header[key] * 1.0001 + 1e-4)
    set_card(pair[1], "RADESYS", f"'{radesys}'")
    set_card(pair[1], key, other, repeat=True)
    found = collect_frames(pair)[1].transform
    expected = SkyTransform(WCS(fits.getheader(pair[1])), "b.fits")
    assert_allclose(found.to_sky(3.0, 5.0), expected.to_sky(3.0, 5.0), atol=1e-13)


@pytest.mark.parametrize("attribute", ["crval", "crpix", "cdelt", "cd", "pc"])
def test_wcs_in_memory_that_is_not_finite(paint, attribute):
    image, wcs = paint("b.fits", (0, 20.5)), WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ("RA---TAN", "DEC--TAN"), (150, 2)
    values = np.full((2, 2) if attribute in ("cd", "pc") else 2, 1e-3)
    values.flat[1] = np.nan
    setattr(wcs.wcs, attribute, values)
    bad = NDData(image.data, wcs=wcs, unit=image.unit, meta={"FILENAME": "b.fits"})
    with pytest.raises(lm.FrameError, match=rf"b\.fits: the WCS has {attribute} = .*nan.*not fin"):
        match([paint("a.fits"), bad])


@pytest.mark.parametrize("value", ["NaN", "'N/A'"])
def test_header_in_memory_that_wcslib_could_not_read(paint, pair, value):
    set_card(pair[1], "CRPIX2", value)
    header = fits.getheader(pair[1])
    header["FILENAME"] = "b.fits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(header)
    image = paint("b.fits")
    bad = NDData(image.data, wcs=wcs, unit=image.unit, meta=header)
    shown = value.strip("'")
    with pytest.raises(lm.FrameError, match=rf"b\.fits: the WCS card CRPIX2 = .{shown}. is not"):
        match([paint("a.fits"), bad])
    wcs.wcs.crpix = 32.5, 24.5
    assert len(match([paint("a.fits"), bad])) == 2


# Frames of the sky

FRAMES = {
    "ELON": BarycentricMeanEcliptic(),
    "GLON": Galactic(),
    "SLON": Supergalactic(),
}


def wcs_in(kind, frame, **attributes):
    """A tangential WCS about one place on the sky, in coordinates of a frame."""
    there = SkyCoord(150, 2, unit="deg").transform_to(frame).spherical
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = f"{kind}-TAN", f"{kind[0]}LAT-TAN"
    wcs.wcs.crval = there.lon.deg, there.lat.deg
    wcs.wcs.cdelt, wcs.wcs.crpix = (-1 / 3600, 1 / 3600), (32.5, 24.5)
    for key, value in attributes.items():
        setattr(wcs.wcs, key, value)
    return wcs


@pytest.mark.parametrize("kind", FRAMES)
def test_axes_of_other_frames_are_converted(paint, plane_of, tmp_path, kind):
    wcs = wcs_in(kind, FRAMES[kind])
    shape, sky = (48, 64), (5.0, 0.6, -0.9)
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    there = SkyCoord(*wcs.wcs_pix2world(x, y, 0), unit="deg", frame=FRAMES[kind]).icrs

    class Positions:
        def pixel_to_world_values(self, x, y):
            return there.ra.deg, there.dec.deg

    data = plane_of(Positions(), shape, sky) + 3
    header = wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    path = tmp_path / "b.fits"
    fits.PrimaryHDU(data.astype("f4"), header).writeto(path)
    write_plain(paint("a.fits"), tmp_path / "a.fits")
    result = match([tmp_path / "a.fits", path])
    assert_allclose(np.diff(result.table["level"].value), 3, atol=0.01)
    assert result.pairs["npix"][0] > 1000


@pytest.mark.parametrize(
    ("attributes", "equinox"),
    [
        ({"radesys": "FK5", "equinox": 1975.0}, 1975.0),
        ({"radesys": "FK5"}, 2000.0),
        ({"radesys": "ICRS"}, 2000.0),
    ],
)
def test_equinox_of_the_ecliptic(attributes, equinox):
    frame = BarycentricMeanEcliptic(equinox=Time(equinox, format="jyear"))
    wcs = wcs_in("ELON", frame, **attributes)
    for given in (wcs, SlicedLowLevelWCS(wcs, (slice(None), slice(None)))):
        transform = SkyTransform(given, "a.fits")
        assert_allclose(lonlat(transform.to_sky(31.5, 23.5)), (150, 2), atol=1e-9)
        assert_allclose(transform.to_pixel(transform.to_sky(3.0, 4.0)), (3, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("ctype", "attributes"),
    [
        (("HLON-TAN", "HLAT-TAN"), {}),
        (("TLON-TAN", "TLAT-TAN"), {}),
        (("HPLN-TAN", "HPLT-TAN"), {}),
        (("CRLN-CAR", "CRLT-CAR"), {}),
        (("MALN-TAN", "MALT-TAN"), {}),
        (("ELON-TAN", "ELAT-TAN"), {"radesys": "FK4", "equinox": 1950.0}),
    ],
)
def test_axes_that_are_not_of_the_sky_are_refused(paint, ctype, attributes):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ctype, (150, 2), (-1e-3, 1e-3)
    for key, value in attributes.items():
        setattr(wcs.wcs, key, value)
    image = paint("b.fits")
    bad = NDData(image.data, wcs=wcs, unit=u.MJy / u.sr, meta={"FILENAME": "b.fits"})
    with pytest.raises(lm.FrameError, match=rf"b\.fits: the WCS has the axes {ctype[0][:4]} and"):
        match([paint("a.fits"), bad])
