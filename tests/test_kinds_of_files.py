# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of common kinds of files: the level is right, or the image is refused by name."""

import gzip
import tracemalloc
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import BarycentricMeanEcliptic, Galactic, SkyCoord, Supergalactic
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, NDData, StdDevUncertainty
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.wcsapi import SlicedLowLevelWCS
from helpers import succeed
from numpy.testing import assert_allclose, assert_equal
from scipy.ndimage import gaussian_filter, shift

import levelmatch as lm
from levelmatch.cli.options import blank as blank_option
from levelmatch.images.fill import find_fill, masked_values, scattered_zeros
from levelmatch.images.inputs import collect_frames
from levelmatch.images.mask_arrays import bad_bits
from levelmatch.results.recorded_frames import frames_with_pixels
from levelmatch.sky.transform import SkyTransform
from levelmatch.sky.vectors import lonlat
from levelmatch.summary import notes

match = partial(lm.match_mosaic, group_by="FILENAME")


def write_plain(image, path, **cards):
    """Write an image as one HDU of a plain file, with some changed cards."""
    header = image.wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    header.update(cards)
    fits.PrimaryHDU(image.data, header).writeto(path)
    return path


def set_card(path, key, value, *, repeat=False):
    """Write the value of a card as text, in place of the card or at the end; keep the length."""
    content = path.read_bytes()
    card = f"{key:8}= {value}".ljust(80).encode()
    places = [i for i in range(0, len(content), 80) if content[i : i + 8] == f"{key:8}".encode()]
    if repeat or not places:
        # Overwrite the first blank card after END.
        end = next(i for i in range(0, len(content), 80) if content[i : i + 80].strip() == b"END")
        content = content[:end] + card + b"END".ljust(80) + content[end + 160 :]
    else:
        content = content[: places[0]] + card + content[places[0] + 80 :]
    path.write_bytes(content)


@pytest.fixture
def pair(paint, tmp_path):
    """Return two plain files with a step of 3 between them."""
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


@pytest.mark.parametrize("radesys", ["ICRS", "FK5"])
@pytest.mark.parametrize("scale", [{}, {"CDELT1": -1 / 3600}, {"CDELT2": 1 / 3600}])
def test_a_header_without_pixel_scale_is_refused(pair, radesys, scale):
    """The default of the standard, a degree, fits hardly any image."""
    with fits.open(pair[1], mode="update") as hdus:
        header = hdus[0].header
        for key in ("PC1_1", "PC1_2", "PC2_1", "PC2_2", "CDELT1", "CDELT2"):
            header.remove(key, ignore_missing=True)
        header.update(RADESYS=radesys, **scale)
    with pytest.raises(lm.FrameError, match=r"b\.fits: the header has no pixel scale: .*CD"):
        match(pair)


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
    """Return a tangential WCS about one position on the sky, in a given frame."""
    there = SkyCoord(150, 2, unit="deg").transform_to(frame).spherical
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = f"{kind}-TAN", f"{kind[0]}LAT-TAN"
    wcs.wcs.crval = there.lon.deg, there.lat.deg
    wcs.wcs.cdelt, wcs.wcs.crpix = (-1 / 3600, 1 / 3600), (32.5, 24.5)
    for key, value in attributes.items():
        setattr(wcs.wcs, key, value)
    return wcs


@pytest.fixture
def plane_in(plane_of):
    """Return a function of a kind of axes: the WCS of an image, and a plane on the sky."""

    def make(kind):
        wcs = wcs_in(kind, FRAMES[kind])
        x, y = np.meshgrid(np.arange(64), np.arange(48))
        there = SkyCoord(*wcs.wcs_pix2world(x, y, 0), unit="deg", frame=FRAMES[kind]).icrs

        class Positions:
            def pixel_to_world_values(self, x, y):
                return there.ra.deg, there.dec.deg

        return wcs, plane_of(Positions(), (48, 64), SKY)

    return make


SKY = (5.0, 0.6, -0.9)
METHODS = ["direct", "interp", "exact", "adaptive"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FRAMES)
def test_axes_of_other_frames_are_converted(paint, plane_in, tmp_path, kind, method):
    wcs, plane = plane_in(kind)
    header = wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    path = tmp_path / "b.fits"
    fits.PrimaryHDU((plane + 3).astype("f4"), header).writeto(path)
    write_plain(paint("a.fits"), tmp_path / "a.fits")
    result = match([tmp_path / "a.fits", path], measure=lm.MeasureOptions(method=method))
    assert_allclose(np.diff(result.table["level"].value), 3, atol=0.01)
    assert result.pairs["npix"][0] > 1000


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("kind", FRAMES)
def test_mosaic_of_other_frames(plane_in, plane_of, kind, method):
    wcs, plane = plane_in(kind)
    # Equal pixels would be a copy.
    matched = match([CCDData(plane + level, wcs=wcs, unit="adu") for level in (0, 1e-3)])
    mosaic, covered = lm.make_mosaic(matched, coadd=lm.CoaddOptions(method=method))
    expected = plane_of(mosaic.wcs, mosaic.shape, SKY)
    # A pixel at an edge takes the value half a pixel inside.
    assert_allclose(mosaic.data[covered > 0], expected[covered > 0], atol=0.015)
    assert (covered > 0).sum() > 2000


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


# Extensions


def write_chips(folder, name, chips, *, primary=(), extra=()):
    """Write a file with several images: mapping of (name, version) to image."""
    folder.mkdir(exist_ok=True)
    hdus = [fits.PrimaryHDU(header=fits.Header(dict(primary)))]
    for (extension, version), image in chips.items():
        header = image.wcs.to_header()
        header["BUNIT"] = "electron"
        hdus.append(fits.ImageHDU(image.data, header, name=extension, ver=version))
    fits.HDUList([*hdus, *extra]).writeto(folder / name)
    return folder / name


@pytest.fixture
def chips(paint, tmp_path):
    """Return three files of two chips, with different steps of the chips."""
    steps = {("CCD1", 1): (0.0, 4.0, 9.0), ("CCD2", 1): (0.0, -3.0, 5.0)}
    (tmp_path / "in").mkdir()
    paths = []
    for k in range(3):
        images = {
            key: paint("x", (60 * c, 20.5 * k), level=step[k])
            for c, (key, step) in enumerate(steps.items())
        }
        paths.append(write_chips(tmp_path / "in", f"e{k}.fits", images))
    return paths, [np.array(step) for step in steps.values()]


@pytest.mark.parametrize(("extension", "chip"), [(1, 0), (2, 1), ("CCD2", 1), ("ccd2", 1)])
@pytest.mark.parametrize("as_tiles", [False, True])
def test_extension_of_a_collection_is_matched(chips, tmp_path, extension, chip, as_tiles):
    from ccdproc import ImageFileCollection

    paths, steps = chips
    images = ImageFileCollection(paths[0].parent, glob_include="e*.fits", ext=extension)
    result = match({"one": images} if as_tiles else images, reference=0)
    levels = result.table["level"].value
    assert_allclose(levels - levels[0], steps[chip], atol=0.01)
    for before, after in zip(paths, result.write(tmp_path / "out"), strict=True):
        other = 2 - chip
        assert_allclose(fits.getdata(after, other), fits.getdata(before, other), rtol=0)
        assert (fits.getdata(after, chip + 1) != fits.getdata(before, chip + 1)).any() or (
            before == paths[0]
        )


def test_record_knows_the_extension_of_a_collection(chips, tmp_path):
    from ccdproc import ImageFileCollection

    paths, _ = chips
    images = ImageFileCollection(paths[0].parent, glob_include="e*.fits", ext=2)
    result = match(images, reference=0)
    written = result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    for known, frame in zip(result.frames, frames_with_pixels(record, paths), strict=True):
        assert_allclose(frame.load(), known.load(), atol=1e-5)
    assert len(lm.verify_record(record, written)) == 3


def test_extension_of_the_options_goes_before_that_of_a_collection(chips):
    from ccdproc import ImageFileCollection

    paths, steps = chips
    images = ImageFileCollection(paths[0].parent, glob_include="e*.fits", ext=2)
    result = match(images, reference=0, read=lm.ReadOptions(hdu="CCD1"))
    assert_allclose(result.table["level"].value, steps[0], atol=0.01)


@pytest.mark.parametrize("name", ["SCI", "CHIP"])
@pytest.mark.parametrize("hdu", ["as it is", "lower case", None])
def test_name_of_several_extensions_means_all(paint, tmp_path, name, hdu):
    images = {(name, 1): paint("x"), (name, 2): paint("x", (60, 0))}
    path = write_chips(tmp_path, "a.fits", images)
    hdu = hdu and (name if hdu == "as it is" else name.lower())
    frames = collect_frames([path], lm.ReadOptions(hdu=hdu))
    assert [frame.name for frame in frames] == [f"a.fits[{name},{v}]" for v in (1, 2)]
    (frame,) = collect_frames([path], lm.ReadOptions(hdu=(name, 2)))
    assert (frame.name, frame.source.hdu) == ("a.fits", 2)


@pytest.fixture
def copies(paint, tmp_path):
    """Return three files of two images that show the same sky."""
    (tmp_path / "copies").mkdir()
    paths = []
    for k in range(3):
        images = {(f"B{c}", 1): paint("x", (4 * c, 20.5 * k), level=2 * k) for c in (1, 2)}
        paths.append(write_chips(tmp_path / "copies", f"e{k}.fits", images))
    return paths


def test_file_with_images_of_one_sky_says_which_is_matched(copies):
    with pytest.warns(
        lm.LevelMatchWarning, match=r"e0\.fits \(B1 of 2: B1, B2\), e1\.fits .*e2\.fits"
    ) as caught:
        result = match(copies, reference=0)
    assert len(caught) == 1
    assert_allclose(result.table["level"].value, [0, 2, 4], atol=0.01)
    with pytest.warns(lm.LevelMatchWarning, match=r"no header names.*e0\.fits \(B1, B2\)"):
        both = match(copies, reference=0, read=lm.ReadOptions(hdu="all"))
    assert_allclose(both.table["level"].value, [0, 0, 2, 2, 4, 4], atol=0.02)


@pytest.mark.parametrize(
    "plane", ["WHT", "ERR", "CTX", "VAR_POISSON", "VARIANCE", "SEGMAP", "STAT", "STDEV"]
)
def test_arrays_beside_an_image_are_no_images(paint, tmp_path, plane):
    image = paint("x")
    other = fits.ImageHDU(np.ones(image.data.shape, "f4"), image.wcs.to_header(), name=plane)
    path = write_chips(tmp_path, "a.fits", {("IMAGE", 1): image}, extra=[other])
    assert len(collect_frames([path])) == 1


# Missing data

FILLS = [0.0, -999.0, 2.78e-17, 1e-30, 1e20, "two", "rounding"]
SIDE = 120


def exposed_in(kind):
    """Return where an image of 120 by 120 pixels has data."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    return {
        "turned": (abs(c * x + s * y) < 38) & (abs(c * y - s * x) < 38),
        "disc": np.hypot(x, y) < 45,
        "margin": (abs(x) < 54) & (abs(y) < 53),
        "corner": x + y < 60,
        "gap": abs(x - 10) > 4,
    }[kind]


def filled(data, exposed, fill, rng):
    """Return the image with filled missing pixels."""
    data, x = data.copy(), np.indices(data.shape)[1]
    if fill == "two":
        data[~exposed] = np.where(x < SIDE / 2, 0.0, -999.0)[~exposed]
    elif fill == "rounding":
        data[~exposed] = rng.normal(0, 1e-17, data.shape)[~exposed]
    else:
        data[~exposed] = fill
    return data


def filled_set(paint, fill, kind, *, unit="MJy/sr", dtype="f4"):
    """Return four images in a row with missing pixels, and their levels."""
    levels = np.array([100.0, 103.0, 98.0, 101.0])
    images = []
    for k, level in enumerate(levels):
        image = paint(
            f"f{k}.fits", (0, 45.0 * k), level=level, sky=(0, 0, 0), noise=0.5, shape=(SIDE, SIDE)
        )
        data = filled(image.data.astype(float), exposed_in(kind), fill, np.random.default_rng(k))
        image.data = data.astype(dtype)
        image.unit = unit
        images.append(image)
    return images, levels


def errors_of(result, levels):
    """Return the errors of the levels, without their mean."""
    errors = result.table["level"].value - levels
    return errors - errors.mean()


@pytest.mark.parametrize("kind", ["turned", "disc", "margin", "corner", "gap"])
@pytest.mark.parametrize("fill", FILLS)
def test_fill_values_are_missing_data(paint, fill, kind):
    images, levels = filled_set(paint, fill, kind)
    with pytest.warns(lm.LevelMatchWarning, match="large regions of one value") as caught:
        result = match(images)
    assert len(caught) == 1
    said, share = str(caught[0].message), 1 - exposed_in(kind).mean()
    value = {"rounding": 0.0}.get(fill, fill)
    for k in range(4):
        assert f"f{k}.fits (" in said
        if fill != "two":
            assert f"f{k}.fits ({np.float32(value):.7g} in {share:.2g} of the pixels)" in said
    if fill == "two":
        assert kind in ("corner", "gap") or "(0 in 0." in said or " 0 in 0." in said
        assert "-999 in 0." in said
    good, _ = filled_set(paint, np.nan, kind)
    assert_allclose(errors_of(result, levels), errors_of(match(good), levels), atol=2e-3)
    assert_allclose(errors_of(result, levels), 0, atol=0.05)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fits.fz"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u2", "i4"])
def test_fill_values_in_files(paint, tmp_path, suffix, dtype):
    images, levels = filled_set(paint, 0.0, "turned", dtype=dtype)
    paths = []
    for image in images:
        header = image.wcs.to_header()
        header["BUNIT"] = "MJy/sr"
        hdu = fits.PrimaryHDU(image.data, header)
        if suffix.endswith(".fz"):
            hdu = fits.CompImageHDU(image.data, header, compression_type="GZIP_1", quantize_level=0)
        paths.append(tmp_path / image.meta["FILENAME"].replace(".fits", suffix))
        hdu.writeto(paths[-1])
    with pytest.warns(lm.LevelMatchWarning, match="large regions of one value"):
        result = match(paths)
    assert_allclose(errors_of(result, levels), 0, atol=0.05)


def test_blank_decides(paint):
    images, levels = filled_set(paint, 0.0, "turned")
    for blank in (0, 0.0, [0, -999], np.float32(0)):
        result = match(images, read=lm.ReadOptions(blank=blank))
        assert_allclose(errors_of(result, levels), 0, atol=0.05)
    # The missing regions are at the same place on the detector.
    with pytest.warns(lm.PatternWarning, match="share a pattern"):
        result = match(images, read=lm.ReadOptions(blank=False))
    assert np.abs(errors_of(result, levels)).max() > 1


@pytest.mark.parametrize("blank", ["0", True, [], ["x"], [None], {}])
def test_blank_that_is_no_value(blank):
    with pytest.raises(TypeError, match="blank: .* is neither"):
        lm.ReadOptions(blank=blank)


def test_blank_values_are_bad_wherever_they_are(paint):
    image = paint("a.fits", shape=(SIDE, SIDE))
    scattered = np.random.default_rng(0).random(image.data.shape) < 0.05
    image.data[scattered] = -1
    (frame,) = collect_frames([image])
    assert not np.isnan(frame.load()).any()
    (frame,) = collect_frames([image], lm.ReadOptions(blank=-1))
    np.testing.assert_array_equal(np.isnan(frame.load()), scattered)


DATA = {
    "counts of 0.01": lambda rng: rng.poisson(0.01, (SIDE, SIDE)),
    "counts of 0.1": lambda rng: rng.poisson(0.1, (SIDE, SIDE)),
    "counts of 1": lambda rng: rng.poisson(1.0, (SIDE, SIDE)),
    "scattered zeros": lambda rng: (
        rng.normal(9, 1, (SIDE, SIDE)) * (rng.random((SIDE, SIDE)) > 0.1)
    ),
    "quiet integers": lambda rng: np.round(rng.normal(100.3, 0.25, (SIDE, SIDE))),
    "quiet integers with a slope": lambda rng: np.round(
        rng.normal(100.3, 0.3, (SIDE, SIDE)) + np.linspace(0, 5, SIDE)
    ),
    "enlarged pixels": lambda rng: np.kron(rng.normal(9, 1, (12, 12)), np.ones((10, 10))),
    "saturated star": lambda rng: np.minimum(
        rng.normal(9, 1, (SIDE, SIDE))
        + 1e6 * np.exp(-(np.hypot(*(np.indices((SIDE, SIDE)) - [[[60]], [[40]]])) ** 2) / 60),
        65535,
    ),
    "star saturated at the border": lambda rng: np.minimum(
        rng.normal(9, 1, (SIDE, SIDE))
        + 1e6 * np.exp(-(np.hypot(*(np.indices((SIDE, SIDE)) - [[[60]], [[0]]])) ** 2) / 60),
        65535,
    ),
    "a dead block": lambda rng: np.where(
        (np.indices((SIDE, SIDE)) // 8 == 5).all(axis=0), 0, rng.normal(9, 1, (SIDE, SIDE))
    ),
}


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_repeated_values_that_are_data(make):
    for seed in range(5):
        data = np.array(make(np.random.default_rng(seed)), dtype="f4")
        assert find_fill(data) == ((), None)


@pytest.mark.parametrize("mean", [0.02, 0.2, 2.0])
def test_zeros_about_a_field_of_counts(mean):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:600, :600] - 300
    exposed = np.hypot(x, y) < 200
    data = np.where(exposed, rng.poisson(mean, (600, 600)), 0).astype("f4")
    fills, missing = find_fill(data)
    assert fills[0].value == 0
    assert (missing & ~exposed).sum() > 0.97 * (~exposed).sum()
    # Zeros near the edge of the field may count as missing, but not zeros within.
    assert not (missing & (np.hypot(x, y) < 150)).any()


@pytest.mark.parametrize("shape", [(3, 3), (64, 70), (300, 211)])
@pytest.mark.parametrize("corner", [None, 0, 1])
@pytest.mark.parametrize("value", [0.0, 7.5, 1e-14, np.nan, np.inf])
def test_fill_values_do_not_depend_on_the_type(shape, corner, value):
    """The border of each corner is the only sample of a small region."""
    data = np.random.default_rng(0).normal(100, 3, shape).astype("f4")
    size = max(shape[0] // 8, 3)
    if corner is not None:
        data[-corner * size :, -corner * size :][:size, :size] = value
    fills, missing = find_fill(data)
    # Doubles have no quick test.
    for dtype in (">f4", "f8"):
        others, same = find_fill(data.astype(dtype))
        assert fills == others
        assert_equal(missing, same)
    if corner is not None and np.isfinite(value) and shape[0] > 3:
        assert len(fills) == 1


@pytest.mark.parametrize("value", [0.0, 7.5, -32768.0])
@pytest.mark.parametrize("masked", [False, True])
def test_image_of_one_value_is_isolated(paint, value, masked):
    images = [paint(f"{n}.fits", (0, 15.5 * k), level=2.0 * k) for k, n in enumerate("abcd")]
    images[1].data[:] = value
    if masked:
        images[1].mask = np.random.default_rng(0).random(images[1].data.shape) < 0.3
    with pytest.warns(lm.LevelMatchWarning) as caught:
        result = match(images)
    said = [str(w.message) for w in caught]
    assert sum("one value" in s and f"b.fits ({value:g})" in s for s in said) == 1
    table = result.table
    assert result.reference != "b.fits"
    assert table["isolated"].tolist() == [False, True, False, False]
    levels = table["level"].value
    assert levels[1] == 0
    assert_allclose(levels[[2, 3]] - levels[0], [4, 6], atol=0.01)
    assert not result.pairs["kept"][(result.pairs["image1"] == "b.fits")].any()


# Weights and masks


@pytest.mark.parametrize("plane", ["WHT", "wgt", "WEIGHT", "IVAR", "COVERAGE", "EXP", "INVVAR"])
@pytest.mark.parametrize("outside", [0.0, -1.0, np.nan])
def test_weights_beside_an_image(paint, tmp_path, plane, outside):
    check_planes(paint, tmp_path, plane, np.where(exposed_in("disc"), 2.5, outside).astype("f4"))


@pytest.mark.parametrize("plane", ["MASK", "BPM", "DQM", "MSK", "DQ", "FLAGS", "FLG"])
@pytest.mark.parametrize("value", [1, 64, 127])
def test_masks_beside_an_image(paint, tmp_path, plane, value):
    check_planes(paint, tmp_path, plane, np.where(exposed_in("disc"), 0, value).astype("i2"))


def check_planes(paint, tmp_path, name, plane):
    """Match images whose missing data are marked by a plane."""
    images, levels = filled_set(paint, np.nan, "disc")
    paths = []
    for k, image in enumerate(images):
        rng = np.random.default_rng([9, k])
        noise = rng.normal(50 * k, 3, image.data.shape)
        image.data = np.where(exposed_in("disc"), image.data, noise).astype("f4")
        other = fits.ImageHDU(plane, name=name)
        paths.append(write_chips(tmp_path, f"f{k}.fits", {("SCI", 1): image}, extra=[other]))
    result = match(paths)
    assert_allclose(errors_of(result, levels), 0, atol=0.05)
    (frame,) = collect_frames(paths[:1])
    np.testing.assert_array_equal(np.isnan(frame.load()), ~exposed_in("disc"))
    np.testing.assert_array_equal(result[0].mask, ~exposed_in("disc"))
    if name not in ("DQ", "DQM", "MSK", "FLAGS", "FLG"):
        (frame,) = collect_frames(paths[:1], lm.ReadOptions(mask_extensions=False))
        assert not np.isnan(frame.load()).any()


MOSTLY_MASKED = "most pixels are masked, although they have values"


@pytest.mark.parametrize("plane", ["MASK", "BPM", "WHT", "DQ"])
@pytest.mark.parametrize("form", ["memory", "files"])
def test_inverted_masks_are_named(paint, tmp_path, form, plane):
    """The few bad pixels of an inverted mask may agree within their errors."""
    good = np.random.default_rng(3).random((48, 64)) < 0.85
    images = [paint("a.fits"), paint("b.fits", (8, 12), level=3)]
    for k, image in enumerate(images):
        image.mask = good
        if form == "files":
            values = (~good if plane == "WHT" else good).astype("i4")
            other = fits.ImageHDU(values, name=plane)
            path = write_chips(tmp_path, f"{k}.fits", {("SCI", 1): image}, extra=[other])
            images[k] = path
    with pytest.warns(lm.LevelMatchWarning, match=f"{MOSTLY_MASKED}: .*0.85 of the pixels") as said:
        match(images)
    assert len(said) == 1


@pytest.mark.parametrize("hidden", [0.0, np.nan, 1e30])
def test_masks_of_pixels_without_data_need_no_note(paint, hidden):
    """Images on a large common grid are mostly empty."""
    images = [paint("a.fits"), paint("b.fits", (3, 2), level=3)]
    for image in images:
        image.mask = np.ones(image.data.shape, bool)
        image.mask[10:34, 20:44] = False
        image.data[image.mask] = hidden
    assert_allclose(np.diff(match(images).table["level"].value), 3, atol=0.01)


def test_large_masks_take_little_memory():
    data = np.random.default_rng(4).normal(size=(3000, 3000)).astype("f4")
    bad = np.arange(3000) < np.full((3000, 1), 2700)
    tracemalloc.start()
    (found,) = masked_values(data, bad)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_allclose(found.fraction, 0.9, atol=1e-3)
    assert peak < data.nbytes
    data[bad] = 0
    assert not masked_values(data, bad)


@pytest.mark.parametrize("nothing", [0.0, np.nan])
@pytest.mark.parametrize("form", ["memory", "files", "hdus"])
def test_pixels_without_inverse_variance_are_bad(paint, tmp_path, form, nothing):
    images, levels = filled_set(paint, np.nan, "disc")
    for k, image in enumerate(images):
        image.data[~exposed_in("disc")] = 50 * k
        image.uncertainty = InverseVariance(np.where(exposed_in("disc"), 4.0, nothing))
        if form != "memory":
            image.write(tmp_path / f"{k}.fits")
            images[k] = tmp_path / f"{k}.fits"
        if form == "hdus":
            with fits.open(images[k]) as hdus:
                images[k] = fits.HDUList([hdu.copy() for hdu in hdus])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the uncertainty is NaN")
        result = match(images)
    assert_allclose(errors_of(result, levels), 0, atol=0.05)
    (frame,) = collect_frames(images[:1])
    np.testing.assert_array_equal(np.isnan(frame.for_workers().load()), ~exposed_in("disc"))


def test_uncertainties_that_are_nan_are_named(paint):
    images = [paint("a.fits"), paint("b.fits")]
    errors = np.full(images[0].data.shape, 0.5)
    errors[3, 4:7] = np.nan
    images[0].data[3, 4] = np.nan
    images[0].uncertainty = StdDevUncertainty(errors)
    images[1].uncertainty = StdDevUncertainty(errors)
    images[1].mask = np.isnan(errors)
    with pytest.warns(lm.LevelMatchWarning, match=r"NaN at .* good: a\.fits \(2 pixels\); mask"):
        match(images)


def files_with(paint, tmp_path, other, name="SCI"):
    """Write two files of one image and another HDU."""
    return [
        write_chips(tmp_path, f"{k}.fits", {(name, 1): paint("x", (0, 9 * k))}, extra=[other])
        for k in range(2)
    ]


@pytest.mark.parametrize("name", ["QUALITY", "SATMASK", "PIXELDQ", "BADPIX", "SCI_FLAGS2"])
def test_extension_that_looks_like_a_mask_is_named(paint, tmp_path, name):
    shape = paint("x").data.shape
    paths = files_with(paint, tmp_path, fits.ImageHDU(np.ones(shape, "i2"), name=name))
    with pytest.warns(lm.LevelMatchWarning, match=rf"0\.fits \({name}\), 1.*Rename it to DQ"):
        match(paths)
    for read in (lm.ReadOptions(mask_extensions=False), lm.ReadOptions(mask_files=[None, None])):
        match(paths, read=read)
    small = fits.ImageHDU(np.ones((5, 6), "i2"), name=name)
    match(files_with(paint, tmp_path / "small", small))


@pytest.mark.parametrize("pack", [fits.ImageHDU, fits.CompImageHDU])
def test_extension_of_integers_without_a_name_may_be_a_mask(paint, tmp_path, pack):
    """Files of FITS tools hold a mask, if at all, often in an extension without a name."""
    shape = paint("x").data.shape
    paths = files_with(paint, tmp_path, pack(np.zeros(shape, "u1")))
    with pytest.warns(lm.LevelMatchWarning, match=r"no name.* 0\.fits \((2|COMP\w+)\), 1.*MASK"):
        match(paths)
    for read in (lm.ReadOptions(mask_extensions=False), lm.ReadOptions(mask_files=[None, None])):
        match(paths, read=read)


@pytest.mark.parametrize(
    ("dtype", "note"), [("f4", "if it is a mask"), ("i2", "without celestial")]
)
def test_integers_without_name_and_wcs_have_one_note(paint, tmp_path, dtype, note):
    image = paint("x", noise=1.0, sky=(500, 0, 0))
    scaled = CCDData(image.data.astype(dtype), wcs=image.wcs, unit=image.unit)
    other = fits.ImageHDU(np.zeros(image.data.shape, "i2"))
    path = write_chips(tmp_path, "a.fits", {("", 1): scaled}, extra=[other])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        collect_frames([path])
    (warning,) = caught
    assert note in str(warning.message)


@pytest.mark.parametrize(
    "extension",
    [
        fits.ImageHDU(np.zeros((5, 6), "i2")),
        fits.ImageHDU(np.zeros((48, 64), "f4")),
        fits.ImageHDU(np.zeros((48, 64), "i2"), name="GUESS"),
        fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(3))]),
        fits.ImageHDU(),
    ],
    ids=["small", "floats", "named", "table", "empty"],
)
def test_other_extensions_need_no_note(paint, tmp_path, extension):
    assert paint("x").data.shape == (48, 64)
    match(files_with(paint, tmp_path, extension))


@pytest.mark.parametrize(
    ("sections", "noted"),
    [
        ({"DATASEC": "[1:56,1:48]", "BIASSEC": "[57:64,1:48]"}, True),
        ({"TRIMSEC": "[9:64, 1:48]", "BIASSEC": "[2:8, 1:48]"}, True),
        ({"DATASEC": "[64:1,9:48]", "BIASSEC": "[1:64,1:8]"}, True),
        # Cards that trimming left.
        ({"DATASEC": "[1:64,1:48]", "BIASSEC": "[65:80,1:48]"}, False),
        ({"DATASEC": "[17:80,1:48]", "BIASSEC": "[1:16,1:48]"}, False),
        # Amplifiers joined to one image.
        ({"DATASEC": "[9:24,1:48]", "BIASSEC": "[1:8,1:48]"}, False),
        ({"DATASEC": "[1:64,1:48]", "BIASSEC": "[57:64,1:48]"}, False),
        ({"DATASEC": "[1:56,1:48]"}, False),
        ({"DATASEC": "[1:56,1:48]", "BIASSEC": "none"}, False),
        ({"DATASEC": "[1:56,1:48]", "BIASSEC": 0}, False),
    ],
)
def test_overscan_within_an_image_is_named(paint, sections, noted):
    images = [paint(f"{k}.fits", (0, 9.0 * k), level=k, meta=sections) for k in range(2)]
    if not noted:
        match(images)
        return
    with pytest.warns(lm.LevelMatchWarning, match=r"overscan .*: 0\.fits \(BIASSEC = .*, 1\.fits"):
        match(images)


@pytest.mark.parametrize(("name", "ver"), [("SCI", 2), ("CHIP7", 1)])
def test_image_without_wcs_beside_another_is_named(paint, tmp_path, name, ver):
    other = fits.ImageHDU(paint("x").data, name=name, ver=ver)
    paths = files_with(paint, tmp_path, other, name.replace("7", "1"))
    label = f"{name},2" if ver == 2 else name
    with pytest.warns(lm.LevelMatchWarning, match=rf"without celestial .* 0\.fits \({label}\), 1"):
        match(paths)
    match(paths, read=lm.ReadOptions(hdu=1))


def test_weights_of_another_shape(paint, tmp_path):
    other = fits.ImageHDU(np.ones((5, 6), "f4"), name="WHT")
    path = write_chips(tmp_path, "a.fits", {("SCI", 1): paint("x")}, extra=[other])
    with pytest.raises(lm.FrameError, match=r"a\.fits: the WHT extension has shape \(5, 6\), the"):
        collect_frames([path])


@pytest.mark.parametrize("option", ["weight_files", "mask_files"])
def test_an_image_is_no_mask_of_its_own(pair, option):
    with pytest.raises(lm.FrameError, match=rf"a\.fits: {option}: a\.fits is the file of the"):
        match(pair, read=lm.ReadOptions(**{option: "{name}"}))


@pytest.mark.parametrize("option", ["weight_files", "mask_files"])
@pytest.mark.parametrize("form", ["{stem}.weight.fits", "{stem}_ivar.fits", "mapping", "list"])
def test_weights_in_files_of_their_own(paint, tmp_path, monkeypatch, option, form):
    plain = fits.open
    images, levels = filled_set(paint, np.nan, "disc")
    paths, partners = [], []
    plane = exposed_in("disc").astype("f4")
    for k, image in enumerate(images):
        noise = np.random.default_rng([9, k]).normal(50 * k, 3, image.data.shape)
        image.data = np.where(exposed_in("disc"), image.data, noise).astype("f4")
        paths.append(write_plain(image, tmp_path / f"f{k}.fits"))
        name = form.replace("{stem}", f"f{k}") if "{" in form else f"w{k}.fits"
        partners.append(tmp_path / name)
        fits.PrimaryHDU(plane if option == "weight_files" else 1 - plane).writeto(partners[-1])
    given = {"mapping": dict(zip([p.name for p in paths], partners, strict=True)), "list": partners}
    read = lm.ReadOptions(**{option: given.get(form, form)})
    result = match(paths, read=read)
    assert_allclose(errors_of(result, levels), 0, atol=0.05)
    frame, opened = collect_frames(paths, read)[0], []
    with monkeypatch.context() as patch:
        patch.setattr(fits, "open", lambda path, **k: opened.append(path) or plain(path, **k))
        frame.load()
    assert opened.count(partners[0]) == 1
    record = result.record
    assert len(set(record.inputs["mask_digest"])) == 1
    assert record.inputs["mask_digest"][0]
    partners[1].unlink()
    with pytest.raises(
        lm.FrameError, match=rf"f1\.fits: {option}: there is no file .*{partners[1].name}"
    ):
        match(paths, read=read)
    fits.PrimaryHDU(plane[1:]).writeto(partners[1])
    with pytest.raises(lm.FrameError, match=rf"f1\.fits: {option}: .* has shape \(119, 120\)"):
        match(paths, read=read)


@pytest.mark.parametrize("option", ["weight_files", "mask_files"])
@pytest.mark.parametrize("tiles", [False, True])
def test_masks_in_the_order_of_the_images(paint, tmp_path, option, tiles):
    """The order is that of all images, also if these are in tiles."""
    paths, partners = [], []
    for k in range(4):
        paths.append(write_plain(paint(f"{k}.fits", (0, 9 * k)), tmp_path / f"{k}.fits"))
        plane = np.full((48, 64), option == "weight_files", "u1")
        plane[10 * k : 10 * k + 9] = option == "mask_files"
        partners.append(tmp_path / f"{k}.m.fits")
        fits.PrimaryHDU(plane).writeto(partners[-1])
    given = {"one": paths[:1], "two": paths[1:]} if tiles else paths
    for k, frame in enumerate(collect_frames(given, lm.ReadOptions(**{option: partners}))):
        bad = np.isnan(frame.load()).all(axis=1)
        assert np.flatnonzero(bad).tolist() == list(range(10 * k, 10 * k + 9))
    more = [*partners[:2], partners[0], *partners[2:]]
    with pytest.raises(lm.FrameError, match=rf"{option}: there are 5 files for 4 images; give one"):
        collect_frames(given, lm.ReadOptions(**{option: more}))


@pytest.mark.parametrize("name", ["", "CCD"])
def test_masks_of_chips_without_names(paint, tmp_path, name):
    """The mask of the first chip must not be that of all chips."""
    shape = paint("x").data.shape
    keys = [(f"{name}{k}", 1) if name else ("", k) for k in (1, 2)]
    chips = {key: paint("x", centre=(150 + keys.index(key), 2)) for key in keys}
    path = write_chips(tmp_path, "a.fits", chips)
    masks = [np.zeros(shape, "u1") for _ in chips]
    masks[0][:, :5], masks[1][:, 7:9] = 1, 1
    planes = [fits.ImageHDU(mask) for mask in masks]
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(tmp_path / "m.fits")
    read = lm.ReadOptions(mask_files=[tmp_path / "m.fits"])
    if name:
        with pytest.raises(lm.FrameError, match=r"a\.fits\[CCD1\]: mask_files: m\.fits has 2 arr"):
            collect_frames([path], read)
        return
    (second,) = collect_frames([path], replace(read, hdu=2))
    np.testing.assert_array_equal(np.isnan(second.read()[0]), masks[1] == 1)
    for frame, mask in zip(collect_frames([path], read), masks, strict=True):
        np.testing.assert_array_equal(np.isnan(frame.read()[0]), mask == 1)


# Pixels that are not linear


@pytest.mark.parametrize("radesys", ["ICRS", "FK5"])
def test_stacks_of_pan_starrs_are_refused(pair, radesys):
    """Their pixels are the asinh of the flux, so no constant corrects a level."""
    for key, value in {"BSOFTEN": 90.0, "BOFFSET": 0.1, "RADESYS": radesys}.items():
        fits.setval(pair[1], key, value=value)
    images = [CCDData.read(path, unit="adu") for path in pair]
    for given in (pair, images):
        with pytest.raises(lm.FrameError, match=r": its pixels are not linear: .*remove these"):
            match(given)


# Copies


def test_copies_are_named(pair, tmp_path):
    """A pattern such as *.fits* finds a file and its compressed copy."""
    content = pair[0].read_bytes()
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.warns(lm.LevelMatchWarning, match=r"equal pixels .*: a\.fits and a\.fits\.gz\. C"):
        match([*pair, packed])


def test_equal_pixels_at_another_place_are_no_copy(pair, tmp_path):
    other = tmp_path / "c.fits"
    with fits.open(pair[0]) as hdus:
        hdus[0].header["CRPIX1"] += 7
        hdus[0].data[:] = 5.0
        hdus[0].data[::2] += 1.0
        hdus.writeto(other)
    match([*pair, other])


@pytest.mark.parametrize("change", ["level", "few pixels"])
def test_versions_of_one_exposure_are_named(paint, change):
    """A folder may hold two calibrations of each exposure."""
    images = [paint(f"{n}.fits", (0, 9 * k), noise=0.3, level=k) for k, n in enumerate("abc")]
    other = images[0].copy()
    other.meta["FILENAME"] = "a_sub.fits"
    if change == "level":
        other.data -= np.float32(3.2)
    else:
        changed = np.random.default_rng(1).random(other.data.shape) < 0.02
        other.data[changed] += 0.4
    with pytest.warns(lm.LevelMatchWarning, match=r"same noise at one place: a\.fits and a_sub\."):
        match([*images, other])


def test_the_noise_of_each_version_is_found_once(paint, monkeypatch):
    found = []
    monkeypatch.setattr(
        "levelmatch.measure.copies._noise", lambda frame: found.append(frame.name) or 1.0
    )
    images = [paint(f"{n}.fits", (0, 9 * k), noise=0.3) for k, n in enumerate("abc")]
    for k in range(3):
        images.append(images[0].copy())
        images[-1].meta["FILENAME"] = f"a{k}.fits"
        images[-1].data += np.float32(k + 1)
    with pytest.warns(lm.LevelMatchWarning, match="same noise at one place: a"):
        match(images)
    assert sorted(found) == ["a.fits", "a0.fits", "a1.fits", "a2.fits"]


def test_exposures_of_a_crowded_field_are_no_versions(paint):
    """Stars look like noise, and are the same in both exposures of a split."""
    stars = np.zeros((60, 90))
    rng = np.random.default_rng(4)
    np.add.at(stars, tuple(rng.integers(0, stars.shape, (12000, 2)).T), 5.0)
    images = []
    for k, name in enumerate(("a1", "a2", "b", "c")):
        image = paint(f"{name}.fits", noise=0.1)
        # Undersampled stars change with the place.
        image.data += np.roll(stars, 30 * max(k - 1, 0))[:48, :64].astype("f4")
        image.meta["DATE-OBS"] = f"2020-01-01T00:0{k}:00"
        images.append(image)
    match(images)
    for image in images:
        image.meta["DATE-OBS"] = "2020-01-01"
    with pytest.warns(lm.LevelMatchWarning, match=r"noise at one place: a1\.fits and a2\.fits"):
        match(images)


@pytest.mark.parametrize("fwhm", [1.6, 2.6])
def test_repeated_exposures_of_crowded_stars_are_no_versions(paint, fwhm):
    """Without times, only the pixels between the stars tell."""
    shape, images = (200, 240), []
    rng = np.random.default_rng(6)
    stars = np.zeros((260, 300))
    n = stars.size // 12
    np.add.at(stars, tuple(rng.integers(0, stars.shape, (n, 2)).T), 60 * (1 + rng.pareto(1.0, n)))
    stars = gaussian_filter(stars, fwhm / 2.355)
    for k in range(6):
        image = paint(f"{k}.fits", (0.5 * (k // 2), 7.5 * (k // 2)), shape=shape, noise=0.3)
        moved = shift(stars, (-0.5 * (k // 2), -7.5 * (k // 2)), order=3)
        image.data += moved[20:220, 20:260].astype("f4")
        images.append(image)
    match(images)


def test_deep_images_at_one_place_are_no_versions(paint):
    """Their noises are independent, though much smaller than those of the others."""
    images = [paint(f"{n}.fits", (0, 9 * k), noise=0.5) for k, n in enumerate("abcd")]
    match([*images, paint("deep.fits", noise=0.02), paint("deeper.fits", noise=0.02)])


COADD = r"coadds cover several images: {} \(a\.fits, b\.fits, c\.fits\)\. If they are made"


@pytest.mark.parametrize(
    ("name", "meta"),
    [
        ("coadd.fits", {"NCOMBINE": 3}),
        ("coadd.fits", {"NDRIZIM": 3}),
        ("coadd.fits", {"STACKCNT": 3}),
        ("jw01234-o001_t001_miri_f770w_i2d.fits", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:flux scales")
def test_coadds_beside_their_exposures_are_named(paint, name, meta):
    images = [paint(f"{n}.fits", (3 * k, 9 * k), noise=0.3, level=k) for k, n in enumerate("abc")]
    coadd = paint(name, (5, 10), shape=(90, 120), meta=meta, noise=0.2)
    with pytest.warns(lm.LevelMatchWarning, match=COADD.format(name.replace(".", r"\."))):
        match([*images, coadd])


def test_coadds_of_other_images_are_not_named(paint):
    """All images are coadds, or one beside several images, or it holds a single one."""
    many = [
        paint(f"{n}.fits", (3 * k, 9 * k), noise=0.3, meta={"NCOMBINE": 3})
        for k, n in enumerate("abc")
    ]
    match([*many, paint("d.fits", (5, 10), shape=(90, 120), meta={"NCOMBINE": 3})])
    images = [paint(f"{n}.fits", (0, 40 * k), noise=0.3) for k, n in enumerate("abc")]
    match([*images, paint("d.fits", (0, 20), shape=(48, 70), meta={"NCOMBINE": 3})])


def test_coadds_of_several_nights_are_not_named(paint):
    """Their numbers of exposures differ; only a coadd of all has as many as all others in sum."""
    nights = [
        paint(f"{n}.fits", (3 * k, 2 * k), noise=0.3, meta={"NCOMBINE": count})
        for k, (n, count) in enumerate({"a": 9, "b": 5, "c": 3}.items())
    ]
    match(nights)
    coadd = paint("coadd.fits", (5, 5), shape=(90, 120), meta={"NCOMBINE": 17}, noise=0.2)
    with pytest.warns(lm.LevelMatchWarning, match=COADD.format(r"coadd\.fits")):
        match([*nights, coadd])


@pytest.mark.parametrize(
    ("exposures", "contained"),
    [("jw01234001001", True), ("jw01234002001", False), ("jw04321001001", False)],
)
@pytest.mark.parametrize("coadd", ["jw01234-o001", "jw01234-c1001"])
def test_coadds_of_other_observations_are_not_named(paint, coadd, exposures, contained):
    """The names of JWST give program and observation; a candidate has several observations."""
    names = [f"{exposures}_02101_0000{k}_mirimage_cal.fits" for k in range(3)]
    images = [paint(name, (3 * k, 9 * k), noise=0.3) for k, name in enumerate(names)]
    images.append(paint(f"{coadd}_t001_miri_f770w_i2d.fits", (5, 10), shape=(90, 120), noise=0.2))
    contained |= "-c" in coadd and "jw01234" in exposures
    said = pytest.warns(lm.LevelMatchWarning, match="coadds cover") if contained else nullcontext()
    with said:
        match(images)


def test_files_of_one_exposure_are_named(paint):
    """An image that the pipeline resampled lies on another grid than the exposure."""
    first, second = (f"jw01234001001_02101_0000{k}_mirimage" for k in (1, 2))
    images = [paint(f"{n}_cal.fits", (0, 9 * k)) for k, n in enumerate((first, second))]
    resampled = paint(f"{first}_i2d.fits", (0.3, 0.4), shape=(50, 66))
    said = rf"one exposure by their names: {first}_cal\.fits and {first}_i2d\.fits\. V"
    with pytest.warns(lm.LevelMatchWarning, match=said):
        match([*images, resampled])


def test_sections_of_one_exposure_are_not_named(paint):
    name = "jw01234001001_02101_00001_nrca1_cal_{}.fits"
    match([paint(name.format(k), (0, 40 * k), noise=0.3) for k in range(3)])


def test_integrations_of_one_exposure_are_not_named(paint):
    name = "jw01234001001_02101_00001_nrca1_calints_{}.fits"
    images = [paint(name.format(k), (0.1 * k, 0), noise=0.3) for k in range(3)]
    match(images)
    # The mean of all integrations is a version of each.
    images.append(paint(name.replace("ints_{}", ""), (0.1, 0), noise=0.3))
    with pytest.warns(lm.LevelMatchWarning, match=r"by their names: .*_cal\.fits and .*_calints_0"):
        match(images)


@pytest.mark.parametrize("shape", [(6, 60), (60, 6), (2, 80), (30, 2)])
def test_versions_of_small_images_are_named(paint, shape):
    """They have no block of 8 x 8 pixels."""
    images = [paint(f"{n}.fits", shape=shape, noise=0.5) for n in "abc"]
    version = images[0].copy()
    version.meta["FILENAME"] = "version.fits"
    version.data += 1e-4 * np.random.default_rng(2).normal(size=shape)
    with pytest.warns(lm.LevelMatchWarning, match=r"same noise at one place: a\.fits and version"):
        match([*images, version])


# Scattered pixels without data


@pytest.mark.parametrize("level", [-6, -1, 3, -100])
def test_scattered_zeros_are_named(paint, level):
    """Some pipelines set bad pixels to zero, which is no outlier in images without a sky."""
    rng = np.random.default_rng(3)
    images = [paint(f"{k}.fits", (0, 9.3 * k), level=level + k, noise=0.3) for k in range(3)]
    images[1].data[rng.random(images[1].shape) < 0.05] = 0
    with pytest.warns(lm.LevelMatchWarning, match=r"are exactly 0 .*good: 1\.fits \(0\.0\d+ of"):
        match(images)
    # Neither mark nor mask.
    match(images, read=lm.ReadOptions(blank=False))
    result = match(images, read=lm.ReadOptions(blank=0))
    assert_allclose(np.diff(result.table["level"].value), 1, atol=0.05)


@pytest.mark.parametrize("mean", [2.0, 2.5, 4.0])
def test_zeros_of_photon_rates_are_data(mean):
    rng = np.random.default_rng(1)
    times = rng.uniform(0.7, 1.3, (200, 200))
    assert scattered_zeros(rng.poisson(mean * times) / times) == ()
    assert scattered_zeros(rng.poisson(mean * times) * 0.1) == ()


@pytest.mark.parametrize("mean", [0.003, 0.1, 1.0])
def test_few_photons_are_named(paint, mean):
    """Clipping takes rare photons for cosmic rays, unless many differences are equal."""
    rng = np.random.default_rng(1)
    images = [paint(f"{k}.fits", (0, 9.3 * k), shape=(100, 100)) for k in range(3)]
    for image in images:
        # An exposure for each column, as of drift scans.
        times = rng.uniform(0.7, 1.3, (1, 100)) * np.ones((100, 1))
        image.data = rng.poisson(mean * times) / times
    with pytest.warns(lm.LevelMatchWarning, match=r"0\.fits \(.*few photons"):
        match(images)
    assert scattered_zeros(rng.poisson(mean, (100, 100)) / 7.0) == ()


@pytest.mark.parametrize("tile", [(1, 200), (50, 10)])
@pytest.mark.parametrize("level", [4.0, 16.0])
def test_zeros_of_compressed_values_are_data(level, tile, tmp_path):
    """Each tile has a step of its own; without dither, a multiple of it is zero."""
    values = np.random.default_rng(1).normal(0, 1, (200, 200)).astype("f4")
    kind = {"compression_type": "RICE_1", "quantize_level": level, "quantize_method": -1}
    kind["tile_shape"] = tile
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(values, **kind)]).writeto(tmp_path / "a")
    stored = fits.getdata(tmp_path / "a")
    assert np.count_nonzero(stored == 0) > 500
    assert scattered_zeros(stored) == ()


@pytest.mark.parametrize("noise", [0.2, 1.0, 5.0])
def test_zeros_of_rounded_values_are_data(noise):
    rounded = np.round(np.random.default_rng(1).normal(0, noise, (200, 200)))
    assert scattered_zeros(rounded) == ()


@pytest.mark.parametrize("noise", [2.0, 20.0])
@pytest.mark.parametrize("level", [0.0, 1.5])
def test_zeros_of_integers_over_a_flat_field_are_data(noise, level):
    rng = np.random.default_rng(1)
    radius = np.hypot(*(np.indices((300, 300)) - 149.5)) / 210
    flat = (1 - 0.5 * radius**2) * rng.normal(1, 0.02, radius.shape)
    values = rng.normal(level * noise, noise, flat.shape)
    rounded = np.round(values)
    assert np.mean(rounded == 0) > 0.005
    assert scattered_zeros(rounded / flat) == ()
    # As many zeros among values that are not rounded.
    values[rng.permuted(rounded == 0)] = 0
    assert scattered_zeros(values / flat)[0].scattered


# Integers, bits and cards


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "u4", "u1"])
@pytest.mark.parametrize("packing", ["plain", "RICE_1", "GZIP_2", "scaled"])
def test_blank_integers(paint, tmp_path, dtype, packing):
    if packing == "scaled" and dtype[0] == "u":
        pytest.skip("FITS has no scaled unsigned integers")
    levels, blank = np.array([100.0, 110.0, 93.0]), np.zeros((SIDE, SIDE), bool)
    blank[:, :30] = True
    least = int(np.iinfo(dtype).min)
    half = 1 << (8 * np.dtype(dtype).itemsize - 1)
    stored = least - half if dtype in ("u2", "u4") else least
    paths = []
    for k, level in enumerate(levels):
        image = paint("x", (0, 60.0 * k), level=level, sky=(0, 0, 0), noise=3, shape=(SIDE, SIDE))
        data = np.round(image.data).astype(dtype)
        data[blank] = least
        header = image.wcs.to_header()
        if packing in ("plain", "scaled"):
            hdu = fits.PrimaryHDU(data, header)
        else:
            hdu = fits.CompImageHDU(data, header, compression_type=packing)
        hdu.header["BLANK"] = stored
        paths.append(tmp_path / f"b{k}.fits")
        hdu.writeto(paths[-1])
        if packing == "scaled":
            set_card(paths[-1], "BSCALE", "0.5")
            set_card(paths[-1], "BZERO", "50.0")
    result = match(paths)
    factor = 0.5 if packing == "scaled" else 1.0
    assert_allclose(errors_of(result, factor * levels), 0, atol=0.3)
    for frame, image in zip(collect_frames(paths), result, strict=True):
        np.testing.assert_array_equal(np.isnan(frame.load()), blank)
        np.testing.assert_array_equal(image.mask, blank)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("~64", ~64),
        ("~(64,128)", ~192),
        ("~(64+128)", ~192),
        ("~64,128", ~192),
        (~64, ~64),
        ("~HOT", ~2048),
        ("~(HOT, WARM)", ~(2048 + 4096)),
        ("HOT,64", 2048 + 64),
        (["HOT", 64], 2048 + 64),
    ],
)
def test_bits_as_astropy_writes_them(flags, expected):
    assert bad_bits(flags) == bad_bits(flags, True) == expected


LSST = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5, "NO_DATA": 8}


@pytest.mark.parametrize("name", ["MASK", "DQ"])
@pytest.mark.parametrize(
    ("bits", "bad"),
    [
        (None, {"BAD", "SAT", "INTRP", "CR", "EDGE", "NO_DATA"}),
        ("DETECTED", {"DETECTED"}),
        ("sat,CR", {"SAT", "CR"}),
        (["BAD", "DETECTED"], {"BAD", "DETECTED"}),
        (1, {"BAD"}),
        ("~DETECTED", set(LSST) - {"DETECTED"}),
        (0, set()),
    ],
)
@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
def test_bits_with_names_in_the_header(paint, tmp_path, name, bits, bad):
    image = paint("x")
    mask = fits.ImageHDU(np.zeros(image.data.shape, "i4"), name=name)
    for row, (plane, bit) in enumerate(LSST.items()):
        mask.header[f"MP_{plane}"] = bit
        mask.data[row] = 1 << bit
    path = write_chips(tmp_path, "a.fits", {("IMAGE", 1): image}, extra=[mask])
    (frame,) = collect_frames([path], lm.ReadOptions(dq_bits=bits))
    found = np.isnan(frame.load()).all(axis=1)
    expected = [plane in bad for plane in LSST]
    assert found[: len(LSST)].tolist() == expected
    assert not found[len(LSST) :].any()
    with pytest.raises(ValueError, match=r"dq_bits: 'GOOD' is not among the bits BAD, SAT"):
        collect_frames([path], lm.ReadOptions(dq_bits="GOOD"))


SPHEREX = {"TRANSIENT": 0, "OVERFLOW": 1, "SUR_ERROR": 2, "NONFUNC": 6, "MISSING_DATA": 9}
SPHEREX |= {"HOT": 10, "COLD": 11, "NONLINEAR": 15, "PERSIST": 17, "OUTLIER": 19}


@pytest.mark.parametrize(
    ("bad", "good"),
    [(SPHEREX, {"FULLSAMPLE": 12, "SOURCE": 21}), ({"ODD": 0, "STRANGE": 3}, {})],
    ids=["SPHEREx", "unknown"],
)
@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
def test_bits_with_names_of_other_telescopes(paint, tmp_path, bad, good):
    """If none of the names is known, every flag makes a pixel bad."""
    image = paint("x")
    flags = fits.ImageHDU(np.zeros(image.data.shape, "i4"), name="FLAGS")
    for row, (plane, bit) in enumerate((bad | good).items()):
        flags.header[f"MP_{plane}"] = bit
        flags.data[row] = 1 << bit
    path = write_chips(tmp_path, "a.fits", {("IMAGE", 1): image}, extra=[flags])
    (frame,) = collect_frames([path])
    found = np.isnan(frame.load()).all(axis=1)
    assert found.tolist() == [row < len(bad) for row in range(len(found))]


@pytest.mark.parametrize("own", [None, "", "  "])
def test_unit_of_the_primary_header(paint, tmp_path, own):
    path = write_chips(tmp_path, "a.fits", {("SCI", 1): paint("x")}, primary={"BUNIT": "ct"})
    with fits.open(path, mode="update") as hdus:
        del hdus[1].header["BUNIT"]
        if own is not None:
            hdus[1].header["BUNIT"] = own
    assert collect_frames([path])[0].unit == u.ct
    fits.setval(path, "BUNIT", value="MJy/sr", ext=1)
    assert collect_frames([path])[0].unit == u.MJy / u.sr


# Axes of one pixel


def with_axes(image, axes, order=(1, 2)):
    """Return data and WCS of an image with axes of one pixel for frequency and Stokes."""
    n = 2 + axes
    wcs = WCS(naxis=n)
    kinds = ["FREQ", "STOKES"][:axes]
    celestial = [k - 1 for k in order]
    others = [k for k in range(n) if k not in celestial]
    ctype, shape = [""] * n, [1] * n
    for k, axis in enumerate(celestial):
        ctype[axis] = image.wcs.wcs.ctype[k]
        shape[axis] = image.data.shape[1 - k]
    for kind, axis in zip(kinds, others, strict=True):
        ctype[axis] = kind
    wcs.wcs.ctype = ctype
    for name in ("crval", "crpix"):
        values = np.ones(n)
        values[celestial] = getattr(image.wcs.wcs, name)
        setattr(wcs.wcs, name, values)
    cd = np.eye(n)
    cd[np.ix_(celestial, celestial)] = image.wcs.wcs.cd
    wcs.wcs.cd = cd
    wcs.wcs.cunit = ["deg" if k in celestial else "" for k in range(n)]
    return image.data.reshape(shape[::-1]), wcs


@pytest.mark.parametrize(("axes", "order"), [(1, (1, 2)), (2, (1, 2)), (1, (2, 3)), (2, (1, 3))])
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_axes_of_one_pixel(paint, tmp_path, kind, axes, order):
    images = []
    for k, n in enumerate("ab"):
        data, wcs = with_axes(paint(f"{n}.fits", (0, 20.5 * k), level=3.0 * k), axes, order)
        if kind == "file":
            header = wcs.to_header()
            header["BUNIT"] = "JY/BEAM"
            images.append(tmp_path / f"{n}.fits")
            fits.PrimaryHDU(data, header).writeto(images[-1])
        else:
            mask = np.zeros(data.shape, bool)
            images.append(
                CCDData(data, unit="Jy/beam", wcs=wcs, mask=mask, meta={"FILENAME": f"{n}.fits"})
            )
    result = match(images)
    assert_allclose(np.diff(result.table["level"].value), 3, atol=0.01)
    assert result.frames[0].shape == (48, 64)


# Names


def test_files_of_one_name_in_two_folders(paint, tmp_path):
    paths = []
    for k, folder in enumerate(("n0", "n1", "n2")):
        (tmp_path / folder).mkdir()
        paths.append(
            write_plain(paint("x", (0, 20.5 * k), level=3.0 * k), tmp_path / folder / "img.fits")
        )
    other = write_plain(paint("x", (0, 61.5), level=9.0), tmp_path / "other.fits.gz")
    result = match([*paths, other], reference=0)
    assert result.names == ["img_n0.fits", "img_n1.fits", "img_n2.fits", "other.fits.gz"]
    assert_allclose(result.table["level"].value, [0, 3, 6, 9], atol=0.01)
    written = result.write(tmp_path / "out")
    assert [path.name for path in written] == result.names
    assert_allclose(
        [fits.getdata(p).mean() for p in written[:3]], fits.getdata(paths[0]).mean(), atol=1
    )


def test_folders_that_only_differ_higher_up(paint, tmp_path):
    paths = []
    for night in ("n0", "n1"):
        (tmp_path / night / "red").mkdir(parents=True)
        paths.append(write_plain(paint("x"), tmp_path / night / "red" / "a.fits"))
    assert [f.name for f in collect_frames(paths)] == ["a_n0_red.fits", "a_n1_red.fits"]


# Hopeless images


@pytest.mark.parametrize(
    "how", ["no FITS", "cut", "no WCS", "NaN WCS", "no good pixel", "bad gzip"]
)
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_hopeless_image_is_left_out_if_asked(pair, paint, tmp_path, how):
    path = tmp_path / "in" / "bad.fits"
    write_plain(paint("bad.fits", (0, 10.0)), path)
    if how == "no FITS":
        path.write_bytes(b"nothing" * 1000)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif how == "no WCS":
        fits.PrimaryHDU(np.ones((9, 9), "f4")).writeto(path, overwrite=True)
    elif how == "NaN WCS":
        set_card(path, "CRVAL1", "NaN")
    elif how == "no good pixel":
        with fits.open(path, mode="update") as hdus:
            hdus[0].data[:] = np.nan
    else:
        content = gzip.compress(path.read_bytes())
        path = path.with_name("bad.fits.gz")
        path.write_bytes(content[:-8] + bytes(8))
    files = [pair[0], path, pair[1]]
    with pytest.raises(lm.FrameError, match=r"bad\.fits"):
        match(files)
    with pytest.warns(lm.LevelMatchWarning, match=r"left out .*: bad\.fits(\.gz)? \("):
        result = match(files, read=lm.ReadOptions(on_error="skip"))
    assert result.names == ["a.fits", "b.fits"]
    assert_allclose(np.diff(result.table["level"].value), 3, atol=0.01)


def test_nothing_but_hopeless_images(tmp_path):
    path = tmp_path / "bad.fits"
    path.write_bytes(b"nothing" * 1000)
    with pytest.raises(
        lm.FrameError, match=r"images: there are none; .*bad\.fits \(not a readable"
    ):
        match([path], read=lm.ReadOptions(on_error="skip"))


# Outputs and records


def corrected_pixels(before, after, hdu=0):
    """Return the corrected pixels of two files as floats."""
    return (fits.getdata(path, hdu).astype(float) for path in (before, after))


@pytest.mark.parametrize("fill", [0.0, -999.0, "two"])
@pytest.mark.parametrize("suffix", [".fits", ".fits.fz"])
@pytest.mark.filterwarnings("ignore::levelmatch.LevelMatchWarning")
def test_fill_values_stay_in_the_outputs(paint, tmp_path, fill, suffix):
    images, _ = filled_set(paint, fill, "turned")
    paths, exposed = [], exposed_in("turned")
    (tmp_path / "in").mkdir()
    for image in images:
        header = image.wcs.to_header()
        if suffix == ".fits":
            hdu = fits.PrimaryHDU(image.data, header)
        else:
            hdu = fits.CompImageHDU(image.data, header, compression_type="GZIP_1", quantize_level=0)
        paths.append(tmp_path / "in" / image.meta["FILENAME"].replace(".fits", suffix))
        hdu.writeto(paths[-1])
    result = match(paths)
    written = result.write(tmp_path / "out")
    hdu = 0 if suffix == ".fits" else 1
    for k, (before, after) in enumerate(zip(paths, written, strict=True)):
        old, new = corrected_pixels(before, after, hdu)
        np.testing.assert_array_equal(new[~exposed], old[~exposed])
        assert_allclose((old - new)[exposed], result.table["level"].value[k], atol=1e-4)
        np.testing.assert_array_equal(result[k].mask, ~exposed)
        np.testing.assert_array_equal(result[k].data, fits.getdata(after, hdu))
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert lm.verify_record(record, written) == result.names
    back = lm.undo_record(record, written, tmp_path / "back")
    for before, after in zip(paths, back, strict=True):
        old, new = corrected_pixels(before, after, hdu)
        np.testing.assert_array_equal(new[~exposed], old[~exposed])
        assert_allclose(new[exposed], old[exposed], atol=1e-4)


@pytest.fixture
def write_integers(paint, tmp_path):
    """Return a function that writes two images of whole numbers.

    It takes a function that makes the HDU, or the list of HDUs, of data and header.
    """

    def write(make, suffix=".fits"):
        (tmp_path / "in").mkdir()
        paths = []
        for k, n in enumerate("ab"):
            image = paint(f"{n}.fits", (0, 20.5 * k), level=30 * k, sky=(100, 0, 0), noise=2)
            paths.append(tmp_path / "in" / f"{n}{suffix}")
            make(np.round(image.data), image.wcs.to_header()).writeto(paths[-1])
        return paths

    return write


def scaled_hdu(data, header, scale, zero):
    """Return an HDU of 16-bit integers with a scale."""
    hdu = fits.PrimaryHDU(data.astype("i2"), header)
    hdu.header["BSCALE"], hdu.header["BZERO"] = scale, zero
    return hdu


def matched_and_undone(paths, folder):
    """Return the outputs for some files, and the files that undo restores from them."""
    written = match(paths).write(folder / "out")
    return written, lm.undo_record(folder / "out" / "levelmatch.asdf", written, folder / "back")


@pytest.mark.parametrize("dtype", ["i2", "u2"])
def test_blank_integers_in_the_outputs(write_integers, tmp_path, dtype):
    blank = np.zeros((48, 64), bool)
    blank[:, :10] = True

    def make(data, header):
        hdu = fits.PrimaryHDU(np.where(blank, np.iinfo(dtype).min, data).astype(dtype), header)
        hdu.header["BLANK"] = -32768
        return hdu

    paths = write_integers(make)
    result = match(paths)
    written = result.write(tmp_path / "out")
    for path in written:
        np.testing.assert_array_equal(np.isnan(fits.getdata(path)), blank)
        assert "BLANK" not in fits.getheader(path)
    assert len(lm.verify_record(tmp_path / "out" / "levelmatch.asdf", written)) == 2
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    for before, after in zip(paths, back, strict=True):
        assert after.read_bytes() == before.read_bytes()


@pytest.mark.parametrize("dtype", ["i2", "i4"])
def test_compressed_blank_integers_are_restored(write_integers, tmp_path, dtype):
    least = int(np.iinfo(dtype).min)

    def make(data, header):
        data[:, :10], header["BLANK"] = least, least
        return fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data.astype(dtype), header)])

    paths = write_integers(make, ".fits.fz")
    _, back = matched_and_undone(paths, tmp_path)
    for before, after in zip(paths, back, strict=True):
        stored = [fits.getdata(path, 1, do_not_scale_image_data=True) for path in (before, after)]
        assert stored[1].dtype == stored[0].dtype
        np.testing.assert_array_equal(stored[1], stored[0])
        np.testing.assert_array_equal(fits.getdata(after), fits.getdata(before))
        assert list(fits.getheader(after, 1)) == list(fits.getheader(before, 1))


@pytest.mark.parametrize("scale", [1e-3, 1e-4])
def test_integers_with_more_digits_than_floats(write_integers, tmp_path, scale):
    """Undone pixels stay floats, because their integers would be wrong."""
    paths = write_integers(partial(scaled_hdu, scale=scale, zero=1e4))
    _, back = matched_and_undone(paths, tmp_path)
    for before, after in zip(paths, back, strict=True):
        old, new = fits.getdata(before), fits.getdata(after)
        assert fits.getheader(after)["BITPIX"] == -32
        np.testing.assert_allclose(new, old, rtol=2e-7)


def large_hdu(data, header, value):
    """Return an HDU of 64-bit integers about a value."""
    return fits.PrimaryHDU(data.astype("i8") + value, header)


def test_large_integers_are_restored(write_integers, tmp_path):
    paths = write_integers(partial(large_hdu, value=2**49 + 1))
    _, back = matched_and_undone(paths, tmp_path)
    for before, after in zip(paths, back, strict=True):
        assert after.read_bytes() == before.read_bytes()


def test_larger_integers_stay_floats_with_a_warning(write_integers, tmp_path):
    """Double precision does not hold their last digit."""
    paths = write_integers(partial(large_hdu, value=2**54 + 1))
    with pytest.warns(lm.LevelMatchWarning, match="its integers have more digits") as caught:
        _, back = matched_and_undone(paths, tmp_path)
    for warning, before, after in zip(caught, paths, back, strict=True):
        text = str(warning.message)
        assert text.startswith(before.name)
        old, new = fits.getdata(before), fits.getdata(after)
        assert new.dtype.kind == "f"
        largest = max(abs(int(x) - int(y)) for x, y in zip(old.flat, new.flat, strict=True))
        assert 0 < largest <= float(text.rpartition(" ")[2])


def test_a_repeated_scale_does_not_scale_the_outputs(write_integers, tmp_path):
    """Of two cards, the second would scale the corrected floats."""
    paths = write_integers(partial(scaled_hdu, scale=0.5, zero=10.0))
    for path in paths:
        set_card(path, "BSCALE", "0.001", repeat=True)
    originals = [fits.getdata(path) for path in paths]
    result = match(paths)
    written = result.write(tmp_path / "out")
    for path, before, level in zip(written, originals, result.table["level"], strict=True):
        header = fits.getheader(path)
        assert header["BITPIX"] == -32
        assert "BSCALE" not in header
        np.testing.assert_allclose(before - fits.getdata(path), float(level), atol=1e-4)


@pytest.mark.parametrize("compressed", [False, True])
def test_axes_of_one_pixel_in_the_outputs(paint, tmp_path, compressed):
    (tmp_path / "in").mkdir()
    paths = []
    for k, n in enumerate("ab"):
        data, wcs = with_axes(paint(f"{n}.fits", (0, 20.5 * k), level=3.0 * k), 2)
        error = fits.ImageHDU(np.full(data.shape, 0.1, "f4"), name="ERR")
        kind = fits.CompImageHDU if compressed else fits.ImageHDU
        sci = kind(data, wcs.to_header(), name="SCI")
        paths.append(tmp_path / "in" / f"{n}.fits")
        fits.HDUList([fits.PrimaryHDU(), sci, error]).writeto(paths[-1])
    result = match(paths, reference=0)
    written = result.write(tmp_path / "out")
    for k, (before, after) in enumerate(zip(paths, written, strict=True)):
        with fits.open(before) as old, fits.open(after) as new:
            assert new[1].data.shape == (1, 1, 48, 64)
            assert new[1].header["NAXIS"] == 4
            assert_allclose(old[1].data - new[1].data, result.table["level"].value[k], atol=1e-5)
        assert result[k].data.shape == (48, 64)
        assert result[k].uncertainty.array.shape == (48, 64)
        assert_allclose(result[k].wcs.wcs.crval, (150, 2))
    assert len(lm.verify_record(tmp_path / "out" / "levelmatch.asdf", written)) == 2
    back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    assert fits.getdata(back[0], 1).shape == (1, 1, 48, 64)


def test_memory_keeps_its_axes_of_one_pixel(paint):
    images = []
    for k, order in enumerate([(1, 2), (2, 3)]):
        data, wcs = with_axes(paint(f"{k}.fits", (0, 20.5 * k), level=3.0 * k), 1, order)
        images.append(CCDData(data, unit="Jy/beam", wcs=wcs, meta={"FILENAME": f"{k}.fits"}))
    result = match(images, reference=0)
    for before, after, level in zip(images, result, (0, 3), strict=True):
        assert after.data.shape == before.data.shape
        assert_allclose(before.data - after.data, level, atol=0.01)


def test_record_of_files_of_one_name(paint, tmp_path):
    paths = []
    for k, folder in enumerate(("n0", "n1")):
        (tmp_path / folder).mkdir()
        paths.append(
            write_plain(paint("x", (0, 20.5 * k), level=3.0 * k), tmp_path / folder / "img.fits")
        )
    written = match(paths, reference=0).write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert lm.verify_record(record, written) == lm.verify_record(record, written, paths)
    again = lm.apply_record(record, paths, tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in written]
    back = lm.undo_record(record, written, tmp_path / "back")
    assert [path.name for path in back] == ["img_n0.fits", "img_n1.fits"]


def test_record_with_weights_in_files_of_their_own(paint, tmp_path):
    images, levels = filled_set(paint, np.nan, "disc")
    paths, weights = [], []
    for k, image in enumerate(images):
        image.data = np.where(exposed_in("disc"), image.data, 7.0 * k + np.indices((SIDE, SIDE))[0])
        paths.append(write_plain(image, tmp_path / f"f{k}.fits"))
        weights.append(tmp_path / f"w{k}.fits")
        fits.PrimaryHDU(exposed_in("disc").astype("f4")).writeto(weights[-1])
    for files in (
        [str(w) for w in weights],
        weights,
        {f"f{k}.fits": w for k, w in enumerate(weights)},
    ):
        result = match(paths, read=lm.ReadOptions(weight_files=files))
        assert_allclose(errors_of(result, levels), 0, atol=0.05)
        written = result.write(tmp_path / "out", overwrite=True)
        record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
        assert len(lm.verify_record(record, written)) == 4
        images_again = lm.recorded_result(record, paths)
        np.testing.assert_array_equal(images_again[3].mask, ~exposed_in("disc"))


@pytest.mark.parametrize("how", ["checkpoint", "extend"])
@pytest.mark.filterwarnings("ignore:pass mosaic")
def test_pairs_that_are_known_keep_their_notes(paint, tmp_path, how):
    images, _ = filled_set(paint, 0.0, "turned")
    paths = [write_plain(image, tmp_path / image.meta["FILENAME"]) for image in images]
    measure = lm.MeasureOptions(checkpoint=tmp_path / "pairs") if how == "checkpoint" else None
    with pytest.warns(lm.LevelMatchWarning, match="large regions"):
        first = lm.match_levels(paths, group_by="FILENAME", measure=measure)
    measure = measure or lm.MeasureOptions(extend=first.record)
    with pytest.warns(lm.LevelMatchWarning, match=r"f0\.fits \(0 in .*f3\.fits \(0 in"):
        second = lm.match_levels(paths, group_by="FILENAME", measure=measure)
    assert second.table.meta["notes"] == first.table.meta["notes"]


def test_notes_are_in_the_table_the_record_and_the_summary(copies, tmp_path):
    paths = copies
    with pytest.warns(lm.LevelMatchWarning, match="several images of a file show the same sky"):
        result = match(paths)
    (note,) = result.table.meta["notes"]
    assert "e0.fits (B1 of 2: B1, B2)" in note
    result.write(tmp_path / "out")
    record = lm.read_record(tmp_path / "out" / "levelmatch.asdf")
    assert record.table.meta["notes"] == [note]
    assert notes(record)[-1] == notes(result)[-1]
    assert notes(record)[-1].removesuffix(".").lower() == note.lower()
    assert lm.solve_record(record, weights="equal").table.meta["notes"] == [note]
    # A user who selects the extension gets no warning.
    chosen = match(paths, read=lm.ReadOptions(hdu="B2"))
    (note,) = chosen.table.meta["notes"]
    assert "e2.fits (B2 of 2: B2, B1)" in note


def test_command_says_notes_once(copies, paint, tmp_path):
    paths = copies
    images, _ = filled_set(paint, -999.0, "disc")
    filled_paths = [write_plain(image, tmp_path / image.meta["FILENAME"]) for image in images]
    for files, options, warned in (
        (paths, [], True),
        (paths, ["--hdu", "B2"], False),
        (filled_paths, [], True),
    ):
        out = tmp_path / f"out{len(options)}{files[0].stem}"
        done = succeed("run", *files, "-o", out, "--group-by", "FILENAME", *options)
        what = "several images of a file" if files is paths else "large regions of one value"
        assert (f"Warning: {what}" in done.stderr) == warned
        assert ("note: only the images chosen" in done.stdout.lower()) == (not warned)
        assert "note: large" not in done.stdout.lower()
        shown = succeed("show", out / "levelmatch.asdf")
        assert f"{files[0].name} (" in shown.stdout


@pytest.mark.parametrize(
    ("text", "blank"), [("none", False), ("auto", None), ("0", 0.0), ("0,-999", [0.0, -999.0])]
)
def test_blank_of_the_command(text, blank):
    assert blank_option(text) == blank


def test_edited_pixels_are_no_integers(write_integers, tmp_path):
    paths = write_integers(lambda data, header: fits.PrimaryHDU(data.astype("i2"), header))
    written = match(paths).write(tmp_path / "out")
    with fits.open(written[1], mode="update") as hdus:
        hdus[0].data *= 1.3
    with pytest.warns(
        lm.LevelMatchWarning, match=r"b\.fits: its pixels were changed after"
    ) as caught:
        back = lm.undo_record(tmp_path / "out" / "levelmatch.asdf", written, tmp_path / "back")
    assert len(caught) == 1
    assert back[0].read_bytes() == paths[0].read_bytes()
    assert fits.getdata(back[1]).dtype.kind == "f"


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize(("scale", "zero"), [(0.5, 0), (1, 32768), (1, 7)])
def test_pixels_in_memory_without_their_scale(write_integers, scale, zero, used):
    """Stored integers differ from the values of pixels by the scale of the header."""
    paths = write_integers(lambda data, header: scaled_hdu(data, header, scale, zero))
    lists = [fits.open(path, memmap=False) for path in paths]
    assert used is False or all(hdus[0].data.size for hdus in lists)
    levels = lm.match_mosaic(lists, group_by="FILENAME").table["level"]
    assert_allclose(levels, lm.match_mosaic(paths, group_by="FILENAME").table["level"], atol=1e-4)
    stored = [fits.open(path, memmap=False, do_not_scale_image_data=True) for path in paths]
    with pytest.raises(lm.FrameError, match=rf"^a\.fits: .*BSCALE = {scale} and BZERO = {zero}"):
        lm.match_mosaic(stored, group_by="FILENAME")
    for hdus in lists + stored:
        hdus.close()
