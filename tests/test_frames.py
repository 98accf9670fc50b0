# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of inputs as frames."""

import sys
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, StdDevUncertainty
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.background import source_mask
from levelmatch.images.corrections import AppliedCorrection, Correction
from levelmatch.images.inputs import collect_frames
from levelmatch.images.scales import compare_scales
from levelmatch.images.sources import FileSource, MemorySource, flagged


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", ">i2", "u4", "i4", ">i4", "u8", "i8"])
def test_flags_at_full_width(dtype):
    width = 8 * np.dtype(dtype).itemsize
    unsigned = np.array([0, 1, 1 << (width - 1), (1 << width) - 1], dtype=f"u{width // 8}")
    dq = unsigned.astype(dtype, casting="unsafe")
    assert_array_equal(flagged(dq, ~0), [False, True, True, True])
    assert_array_equal(flagged(dq, 1), [False, True, False, True])
    assert_array_equal(flagged(dq, 1 << (width - 1)), [False, False, True, True])
    assert_array_equal(flagged(dq, 0), False)
    # A bit beyond the type is never set.
    assert_array_equal(flagged(dq, 1 << width), False)


def test_image_in_memory(paint, with_planes):
    image = with_planes(paint("folder/a.fits"))
    (frame,) = collect_frames([image])
    assert frame.name == "a.fits"
    assert frame.shape == (48, 64)
    assert frame.unit == u.MJy / u.sr
    assert isinstance(frame.source, MemorySource)
    data = frame.load()
    assert data.dtype == np.float32
    assert_array_equal(np.isnan(data), image.mask)
    assert_array_equal(data[~image.mask], image.data[~image.mask])
    assert not np.isnan(image.data).any()


def test_names_of_images_in_memory(paint):
    images = [paint("a.fits"), paint("a.fits", (0, 5)), paint("x")]
    del images[2].meta["FILENAME"]
    assert [f.name for f in collect_frames(images)] == ["a.fits", "a.fits#1", "image0002"]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("f4", "f4"),
        (">f4", "f4"),
        ("f8", "f8"),
        (">f8", "f8"),
        ("i2", "f4"),
        ("u2", "f4"),
        ("i4", "f8"),
        ("u1", "f4"),
        ("f2", "f4"),
    ],
)
def test_types_of_pixels(paint, dtype, expected):
    image = paint(sky=(100, 0, 0))
    image.data = image.data.astype(dtype)
    data = collect_frames([image])[0].load()
    assert data.dtype == np.dtype(expected)
    assert data.dtype.isnative
    assert data.flags.c_contiguous
    assert_array_equal(data, image.data.astype(expected))


def test_fortran_order_and_scalar_mask(paint):
    image = paint()
    image.data = np.asfortranarray(image.data)
    assert collect_frames([image])[0].load().flags.c_contiguous


def test_file_is_read_when_asked_for(paint, write, tmp_path, monkeypatch):
    path = write(paint("a.fits"), tmp_path / "a.fits", dq=np.zeros((48, 64), "u4"))
    reads = []
    original = FileSource.read
    monkeypatch.setattr(FileSource, "read", lambda *a: reads.append(a) or original(*a))
    (frame,) = collect_frames([path])
    assert frame.grid.polygon.shape == (16, 3)
    assert not reads
    frame.load()
    assert len(reads) == 1


def test_to_read_sets_no_filters_of_warnings(paint, write, tmp_path, monkeypatch):
    path = write(paint("a.fits", dtype="f8"), tmp_path / "a.fits", dq=np.zeros((48, 64), "u4"))
    (frame,) = collect_frames([path])
    assert frame.source.read_rows(0, 1, frame.dq_bits) is None
    callers = []

    class Noted(warnings.catch_warnings):
        def __init__(self, **options):
            callers.append(sys._getframe(1).f_globals["__name__"])
            super().__init__(**options)

    monkeypatch.setattr(warnings, "catch_warnings", Noted)
    assert np.isfinite(frame.load()).all()
    assert frame.source.identity["digest"]
    # The level is unchanged if there are no sources.
    assert not source_mask(frame.load()).any()
    assert not [name for name in callers if name.startswith("levelmatch")]


@pytest.mark.parametrize("lost", [1, 3000, 20000])
def test_file_cut_after_it_was_looked_at(paint, write, tmp_path, lost):
    path = write(paint("a.fits", dtype="f8"), tmp_path / "a.fits")
    (frame,) = collect_frames([path])
    path.write_bytes(path.read_bytes()[:-lost])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(lm.FrameError, match=r"a\.fits: the pixels cannot be read: .*truncated"):
            frame.load()


def test_header_of_a_file_is_of_both_hdus(paint, write, tmp_path):
    path = write(paint("a.fits", meta={"OBJECT": "M 42"}), tmp_path / "a.fits")
    (frame,) = collect_frames([path])
    assert frame.meta["OBJECT"] == "M 42"
    assert frame.meta["SCICARD"] == 42
    assert frame.unit == u.MJy / u.sr


@pytest.mark.parametrize("hdu", [None, 0, "PRIMARY"])
def test_image_in_the_primary_hdu(paint, tmp_path, hdu):
    image = paint("a.fits")
    fits.PrimaryHDU(image.data, image.wcs.to_header()).writeto(tmp_path / "a.fits")
    (frame,) = collect_frames([tmp_path / "a.fits"], lm.ReadOptions(hdu=hdu))
    assert frame.unit is None
    assert_array_equal(frame.load(), image.data)


def test_extension_by_name_number_or_version(paint, write, tmp_path):
    image = paint("a.fits")
    other = fits.ImageHDU(image.data + 1, image.wcs.to_header(), name="MODEL")
    path = write(image, tmp_path / "a.fits", extra=[other])
    for hdu in ("MODEL", 2, ("MODEL", 1), "model"):
        (frame,) = collect_frames([path], lm.ReadOptions(hdu=hdu))
        assert_array_equal(frame.load(), image.data + 1)


def test_file_that_ccddata_wrote_keeps_its_mask(paint, with_planes, tmp_path):
    image = with_planes(paint("a.fits"), fraction=0.3)
    image.write(tmp_path / "a.fits")
    (frame,) = collect_frames([tmp_path / "a.fits"])
    assert_array_equal(np.isnan(frame.load()), image.mask)


def test_scaled_integers(paint, tmp_path):
    image = paint("a.fits", sky=(40000, 0, 0), noise=5)
    data = image.data.astype("u2")
    fits.PrimaryHDU(data, image.wcs.to_header()).writeto(tmp_path / "a.fits")
    (frame,) = collect_frames([tmp_path / "a.fits"])
    assert_array_equal(frame.load(), data)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("DN", u.adu),
        ("counts", u.ct),
        ("ELECTRONS", u.electron),
        ("MJy/sr", u.MJy / u.sr),
        ("  ", None),
        ("N/A", None),
        ("none", None),
        ("electron/s", u.electron / u.s),
        ("ELECTRONS/S", u.electron / u.s),
        ("e-/s", u.electron / u.s),
        ("E-", u.electron),
        ("COUNTS/S", u.ct / u.s),
        ("cps", u.ct / u.s),
        ("DN/S", u.DN / u.s),
        ("JY/BEAM", u.Jy / u.beam),
        ("JY/PIXEL", u.Jy / u.pix),
        ("MJY/SR", u.MJy / u.sr),
        ("mJy/sr", u.mJy / u.sr),
        ("nanomaggies", u.nmgy),
        ("K (Tb)", u.K),
        ("mK (Ta*)", u.mK),
        ("UNITLESS", u.dimensionless_unscaled),
        ("erg/s/cm2/A", u.erg / u.s / u.cm**2 / u.AA),
        ("ERG/S/CM2/HZ", u.erg / u.s / u.cm**2 / u.Hz),
        ("mV", u.mV),
    ],
)
def test_units_of_headers(paint, tmp_path, text, unit):
    image = paint("a.fits")
    header = image.wcs.to_header()
    header["BUNIT"] = text
    fits.PrimaryHDU(image.data, header).writeto(tmp_path / "a.fits")
    assert collect_frames([tmp_path / "a.fits"])[0].unit == unit


def test_corrections_and_scale_come_after_each_other(paint):
    image = paint()
    (frame,) = collect_frames([image])
    applied = AppliedCorrection("mosaic", Correction(2.0), np.zeros(3), "mean")
    frame = frame.with_keys(corrections=(applied, applied), scale=10.0)
    assert_allclose(frame.load(), (image.data - 4) * 10, rtol=1e-6)
    assert frame.correction.constant == 4


def test_geometry_is_kept_with_other_keys(paint):
    (frame,) = collect_frames([paint()])
    grid = frame.grid
    assert frame.with_keys(tile="t").grid is grid
    assert frame.with_keys(part="lyot", region=(slice(10, 20), slice(0, 30))).grid.box == (
        10,
        20,
        0,
        30,
    )


def test_scales_of_units(paint):
    frames = collect_frames(
        [
            paint("b.fits", unit="Jy / arcsec2"),
            paint("a.fits", unit="MJy / sr"),
            paint("c.fits", unit="uJy / arcsec2"),
        ]
    )
    scales, unit = compare_scales(frames)
    assert unit == u.MJy / u.sr
    arcsec2 = (1 * u.arcsec**2).to_value(u.sr)
    assert_allclose(scales, [1e-6 / arcsec2, 1, 1e-12 / arcsec2])


@pytest.mark.parametrize(
    ("unit", "area"),
    [
        ("Jy", True),
        ("adu", True),
        ("ct / s", True),
        ("electron / s", True),
        ("nmgy", True),
        ("W / m2", True),
        ("erg / (s cm2 AA)", True),
        ("K / pix", True),
        ("Jy / beam", False),
        ("electron / (s arcsec2)", False),
        ("K", False),
        ("mK", False),
        ("K km / s", False),
    ],
)
def test_what_each_pixel_collects_scales_by_area(paint, unit, area):
    frames = collect_frames([paint("a.fits", unit=unit), paint("b.fits", unit=unit, scale=2.0)])
    scales, _ = compare_scales(frames)
    assert_allclose(scales, [1, 0.25 if area else 1], rtol=1e-5)


@pytest.mark.parametrize("unit", [None, "", "1 / s"])
def test_pixel_scales_without_a_telling_unit(paint, unit):
    images = [paint("a.fits"), paint("b.fits", scale=2.0), paint("c.fits", scale=1.005)]
    images = [NDData(i.data, wcs=i.wcs, unit=unit, meta=i.meta) for i in images]
    frames = collect_frames(images)
    with pytest.warns(lm.FluxScaleWarning, match=r"b\.fits and a\.fits differ in pixel scale"):
        scales, _ = compare_scales(frames)
    assert_array_equal(scales, 1)
    compare_scales([frames[0], frames[2]])


def test_no_units_at_all(paint):
    image = paint()
    frames = collect_frames([NDData(image.data, wcs=image.wcs)])
    scales, unit = compare_scales(frames)
    assert unit is None
    assert_array_equal(scales, 1)


def test_split_of_a_miri_image(paint):
    image = paint("jw01234001001_02101_00001_mirimage_cal.fits", shape=(760, 320))
    science, lyot = collect_frames([image])[0].split_lyot()
    assert (science.part, lyot.part) == ("science", "lyot")
    assert lyot.name == "jw01234001001_02101_00001_mirimagel_cal.fits"
    assert science.product == lyot.product == image.meta["FILENAME"]
    assert lyot.grid.box == (735, 760, 0, 291)
    assert_array_equal(np.isfinite(lyot.load()), ~np.isfinite(science.load()))
    assert np.isfinite(lyot.load()).sum() == 25 * 291


def test_uncertainty_and_mask_may_be_absent(paint):
    image = paint()
    bare = NDData(image.data, wcs=image.wcs, uncertainty=StdDevUncertainty(None))
    assert np.isfinite(collect_frames([bare])[0].load()).all()
    assert isinstance(image, CCDData)
