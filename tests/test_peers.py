# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of known faults of other packages for the same task."""

import re
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS
from helpers import CLEAN, DARK
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images import jwst
from levelmatch.testing import plane_errors, simulate_generic, simulate_miri


def levels_of(result):
    """Return levels by name, without unit."""
    table = result.table
    return dict(zip(table["name"], np.asarray(table["level"]), strict=True))


def surface(frame):
    """Return a frame's correction at each pixel."""
    return np.broadcast_to(frame.correction.evaluate(frame.whole_grid), frame.shape)


# Planes


@pytest.mark.parametrize("shift", [(3.4, 41.7), (30.2, 5.1), (-29.6, 38.3), (12.5, -44.8)])
@pytest.mark.parametrize("angle", [0.0, 73.0])
def test_plane_constant_where_origin_of_overlap_has_x_unlike_y(paint, plane_of, shift, angle):
    # PJPipe's get_level_match took the overlap's x for y in the plane's constant.
    plane = np.array([2.0, 1.3, -0.7])
    first = paint("a.fits")
    second = paint("b.fits", shift, plane=plane, angle=angle)
    result = lm.match_mosaic(
        [first, second], fit_type="level+slope", reference="a.fits", group_by="FILENAME"
    )
    assert_array_equal(surface(result.frames[0]), 0)
    # Noise of 0.01 in some hundred pixels, extrapolated over the image.
    expected = plane_of(second.wcs, second.data.shape, plane)
    assert_allclose(surface(result.frames[1]), expected, atol=0.03)
    sky = plane_of(second.wcs, second.data.shape, [5.0, 0.6, -0.9])
    assert_allclose(result[1].data, sky, atol=0.08)


@pytest.mark.parametrize("shift", [(3.4, 41.7), (-29.6, 38.3)])
@pytest.mark.parametrize(("method", "tolerance"), [("direct", 1e-3), ("interp", 3e-3)])
def test_plane_is_that_of_the_places_that_were_sampled(paint, plane_of, shift, method, tolerance):
    # Without noise, a plane is recovered, because samples have exact positions.
    # (reproject_interp repeats an image's edge for half a pixel.)
    plane = np.array([2.0, 1.3, -0.7])
    first = paint("a.fits", noise=1e-4, dtype="f8")
    second = paint("b.fits", shift, plane=plane, noise=1e-4, dtype="f8")
    result = lm.match_mosaic(
        [first, second],
        fit_type="level+slope",
        reference=0,
        group_by="FILENAME",
        measure=lm.MeasureOptions(method=method),
    )
    expected = plane_of(second.wcs, second.data.shape, plane)
    assert_allclose(surface(result.frames[1]), expected, atol=tolerance)


# Data quality


@pytest.mark.parametrize("bit", [0, 7, 8, 9, 15, 16, 30, 31])
@pytest.mark.parametrize("dtype", ["u4", "i4"])
def test_every_dq_bit_counts(paint, write, tmp_path, bit, dtype):
    # PJPipe cast DQ to uint8: bits from 256 on were lost.
    paths, bad = [], np.zeros((48, 64), dtype=bool)
    bad[:, 30:] = True
    for name, shift, level in (("a.fits", (0, 0), 0.0), ("b.fits", (0.5, 20.5), 1.0)):
        image = paint(name, shift, level=level)
        if name == "a.fits":
            image.data[bad] += 7.0
        dq = (bad * np.uint32(1 << bit)).astype("u4").view(dtype) if name == "a.fits" else None
        paths.append(write(image, tmp_path / name, dq=dq))
    found = levels_of(lm.match_mosaic(paths, reference="a.fits", group_by="FILENAME"))
    assert_allclose(found["b.fits"], 1.0, atol=0.005)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "u4", "i4", "i8"])
def test_dq_of_any_integer_type(paint, write, tmp_path, dtype):
    bad = np.zeros((48, 64), dtype=bool)
    bad[:, 30:] = True
    first = paint("a.fits")
    first.data[bad] += 7.0
    paths = [
        write(first, tmp_path / "a.fits", dq=(bad * 64).astype(dtype)),
        write(paint("b.fits", (0.5, 20.5), level=1.0), tmp_path / "b.fits"),
    ]
    assert_allclose(
        levels_of(lm.match_mosaic(paths, reference=0, group_by="FILENAME"))["b.fits"], 1, atol=0.005
    )
    mask = lm.match_mosaic(paths, group_by="FILENAME")[0].mask
    assert_array_equal(mask, bad)


@pytest.mark.parametrize(
    ("bits", "dq_bits", "used"),
    [
        (512, None, False),
        (1, None, False),
        (4, None, True),
        (1 << 31, None, True),
        (1 << 31, "REFERENCE_PIXEL", False),
        (4, "JUMP_DET,HOT", False),
        (512, 4, True),
        (512, 0, True),
    ],
)
def test_jwst_bits(paint, write, tmp_path, bits, dq_bits, used):
    # By default, JWST's bits DO_NOT_USE and NON_SCIENCE (512) are bad.
    jump = np.zeros((48, 64))
    jump[:, 20:] = 7.0
    dq = np.where(jump > 0, np.uint32(bits), np.uint32(0))
    first = paint("a.fits", meta={"TELESCOP": "JWST"})
    first.data += jump.astype("f4")
    paths = [
        write(first, tmp_path / "a.fits", dq=dq),
        write(paint("b.fits", (0.5, 2.5), level=1.0), tmp_path / "b.fits"),
    ]
    result = lm.match_mosaic(
        paths, reference=0, read=lm.ReadOptions(dq_bits=dq_bits), group_by="FILENAME"
    )
    found = levels_of(result)["b.fits"]
    assert (abs(found - 1) > 0.5) == used
    assert result[0].mask.any() != used
    assert result[0].flags.dtype == np.uint32


# The reference


def test_reference_zero_is_the_first_image():
    # reproject's background_reference=0 was taken for none.
    sim = simulate_generic(n_images=9, **DARK)
    images = list(sim.images)
    assert lm.match_mosaic(images).reference == "image_00004.fits"
    for order in (images, images[::-1]):
        result = lm.match_mosaic(order, reference=0)
        name = order[0].meta["FILENAME"]
        assert result.reference == name
        assert result.reference_reason == "named by the user"
        assert levels_of(result)[name] == 0.0
        assert list(result.table["name"][result.table["reference"]]) == [name]


def test_reference_has_most_overlaps(paint):
    # PJPipe's documents say so, its code took the first file.
    shifts = {"a": (0, -45), "b": (-34, 0), "c": (34, 0), "h": (0, 0), "z": (0, 45)}
    images = [paint(f"{n}.fits", s, level=k) for k, (n, s) in enumerate(shifts.items())]
    result = lm.match_mosaic(images, group_by="FILENAME")
    assert result.reference == "h.fits"
    assert result.reference_reason == "most overlaps (4)"


def test_tie_of_overlaps_goes_to_the_larger_area_then_to_the_name(paint):
    shifts = {"d": 0.0, "c": 30.0, "b": 70.0}
    images = [paint(f"{n}.fits", (0, s)) for n, s in shifts.items()]
    # Image c has both overlaps. Without d, b and c have equal overlaps, and the name decides.
    assert lm.match_mosaic(images, group_by="FILENAME").reference == "c.fits"
    assert lm.match_mosaic(images[1:], group_by="FILENAME").reference == "b.fits"
    # In a ring each image has two overlaps. Images c and d share the largest areas.
    ring = [
        paint("b.fits", (0, 0)),
        paint("c.fits", (0, 30.0)),
        paint("d.fits", (20.0, 34.0)),
    ]
    result = lm.match_mosaic(ring, group_by="FILENAME")
    pairs = result.pairs
    area = {
        n: pairs["npix"][(pairs["image1"] == n) | (pairs["image2"] == n)].sum()
        for n in ("b.fits", "c.fits", "d.fits")
    }
    assert len(pairs) == 3
    assert result.reference == max(area, key=area.get) == "c.fits"


# Images on their own


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("reference", ["auto", "mean", "d.fits"])
def test_isolated_image_gets_zero_and_no_nan_spreads(row, fit_type, reference):
    levels, images = row
    images[3].wcs.wcs.crval = 151.0, 3.0
    with pytest.warns(lm.LevelMatchWarning) as caught:
        result = lm.match_mosaic(
            images, fit_type=fit_type, reference=reference, group_by="FILENAME"
        )
    words = [str(w.message) for w in caught]
    assert any(re.search(r"2 sets.*: d\.fits", text) for text in words)
    named = any("d.fits has no pair that is kept" in text for text in words)
    assert named == (reference == "d.fits")
    table = result.table
    assert list(table["isolated"]) == [False, False, False, True]
    assert table["level"][3] == 0
    assert table["slope_u"][3] == 0
    for name in ("level", "slope_u", "slope_v"):
        assert np.isfinite(table[name]).all(), name
    for name in ("error", "slope_u_error", "slope_v_error"):
        assert np.isfinite(table[name][:3]).all(), name
    assert np.isnan(table["error"][3])
    found = np.asarray(table["level"])[:3]
    true = np.array(list(levels.values()))[:3]
    tolerance = 0.02 if fit_type == "level" else 0.3
    assert_allclose(found - found.mean(), true - true.mean(), atol=tolerance)
    assert_array_equal(result[3].data, images[3].data)


def test_disconnected_sets_have_their_own_gauge(paint):
    # stcal gave two sets without overlap an arbitrary offset.
    images, truth = [], []
    for k, (set_shift, level) in enumerate(
        [((0, 0), 1.0), ((0, 40.5), 2.0), ((0, 300), 10.0), ((0, 340.5), 13.0)]
    ):
        images.append(paint(f"{k}.fits", set_shift, level=level))
        truth.append(level)
    with pytest.warns(lm.DisconnectedWarning, match="2 sets"):
        result = lm.match_mosaic(images, group_by="FILENAME")
    assert_allclose(np.asarray(result.table["level"]), [0, 1, 0, 3], atol=0.01)
    assert not result.table["isolated"].any()
    assert list(result.table["reference"]) == [True, False, True, False]
    with pytest.warns(lm.DisconnectedWarning, match="2 sets"):
        result = lm.match_mosaic(images, reference="mean", group_by="FILENAME")
    assert_allclose(np.asarray(result.table["level"]), [-0.5, 0.5, -1.5, 1.5], atol=0.01)


# Determinism; long chains of pairs and of images are in test_solve.py and test_trust.py


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_runs_are_the_same_to_the_bit(n_workers):
    sim = simulate_generic(n_images=9, cosmic_rays=True, bad_pixels=True, slope=0.5)
    images = list(sim.images)
    options = lm.MeasureOptions(n_workers=n_workers)
    first = lm.match_mosaic(images, fit_type="level+slope")
    again = lm.match_mosaic(images[::-1], fit_type="level+slope", measure=options)
    for name in ("level", "slope_u", "slope_v", "error"):
        assert_array_equal(again.table[name][::-1], first.table[name])


# Lyot


def miri_images():
    """Return two tiles of MIRI, whose dithers let the Lyot region overlap."""
    sim = simulate_miri(
        tiles=(1, 1), n_dithers=3, lyot=True, noise=0.05, dither_size=24.0, seed=4, **CLEAN
    )
    return sim, list(sim.images)


@pytest.fixture(scope="module")
def miri():
    return miri_images()


def test_recombined_lyot_takes_every_plane(miri):
    # PJPipe copied data and DQ, and left the errors of the science image.
    _, images = miri
    parts = [lm.separate_lyot(image) for image in images]
    region = jwst.lyot_region(images[0].meta, images[0].data.shape)
    for science, lyot in parts:
        lyot.uncertainty = StdDevUncertainty(np.full(lyot.data.shape, 9.0, dtype="f4"))
        lyot.flags[region] |= np.uint32(1 << 31)
        lyot.mask[region[0].start, 3] = True
        science.mask[region[0].start, 3] = False
    result = lm.recombine_lyot([p for p, _ in parts], [q for _, q in parts])
    assert len(result) == len(images)
    inside = np.zeros(images[0].data.shape, dtype=bool)
    inside[region] = True
    for (science, lyot), out, frame in zip(parts, result, result.frames[1::2], strict=True):
        correction = surface(frame)
        assert_allclose(out.data[inside], (lyot.data - correction)[inside], atol=1e-5)
        assert_array_equal(out.data[~inside], science.data[~inside])
        assert (out.uncertainty.array[inside] == 9).all()
        assert_array_equal(out.uncertainty.array[~inside], science.uncertainty.array[~inside])
        assert_array_equal(out.flags[inside], lyot.flags[inside])
        assert_array_equal(out.flags[~inside], science.flags[~inside])
        assert_array_equal(out.mask[inside], lyot.mask[inside])
        assert_array_equal(out.mask[~inside], science.mask[~inside])
        assert correction[0, 0] != 0


def test_recombined_lyot_files_take_err_and_dq(miri, tmp_path):
    _, images = miri
    inside = np.zeros(images[0].data.shape, dtype=bool)
    region = jwst.lyot_region(images[0].meta, images[0].data.shape)
    inside[region] = True
    folder = tmp_path / "in"
    folder.mkdir()
    parts = {}
    for image in images:
        for part, letter in zip(lm.separate_lyot(image), "sl", strict=True):
            err = np.full(image.data.shape, {"s": 1.0, "l": 2.0}[letter], dtype="f4")
            name = image.meta["FILENAME"].replace("mirimage", f"mirimage{letter}")
            hdus = fits.HDUList(
                [
                    fits.PrimaryHDU(),
                    fits.ImageHDU(part.data, part.wcs.to_header(relax=True), "SCI"),
                    fits.ImageHDU(err, name="ERR"),
                    fits.ImageHDU(part.flags, name="DQ"),
                    fits.ImageHDU(err**2, name="VAR_RNOISE"),
                ]
            )
            hdus[0].header.extend(part.meta, update=True)
            hdus["SCI"].header["BUNIT"] = "MJy/sr"
            hdus.writeto(folder / name)
            parts[name] = part
    result = lm.recombine_lyot(sorted(folder.iterdir()))
    for path in result.write(tmp_path / "out"):
        assert "mirimage_" in path.name
        with fits.open(path) as hdus:
            assert [h.name for h in hdus] == ["PRIMARY", "SCI", "ERR", "DQ", "VAR_RNOISE"]
            assert_array_equal(hdus["ERR"].data, np.where(inside, 2, 1))
            assert_array_equal(hdus["VAR_RNOISE"].data, np.where(inside, 4, 1))
            lyot = parts[path.name.replace("mirimage", "mirimagel")]
            science = parts[path.name.replace("mirimage", "mirimages")]
            assert_array_equal(hdus["DQ"].data, np.where(inside, lyot.flags, science.flags))
            assert_array_equal(hdus["SCI"].data[~inside], science.data[~inside])
            assert hdus["SCI"].header["HISTORY"]


def test_lyot_region_moves_with_the_subarray():
    # Fixed slices hit the wrong pixels of a subarray.
    assert jwst.lyot_region({}, (1024, 1032)) == (slice(735, 1024), slice(0, 291))
    shifted = jwst.lyot_region({"SUBSTRT1": 51, "SUBSTRT2": 701}, (324, 400))
    assert shifted == (slice(35, 324), slice(0, 241))
    assert jwst.lyot_region({"SUBSTRT1": 413, "SUBSTRT2": 51}, (512, 512)) is None


def test_subarray_without_lyot_passes_through(paint):
    images = [
        paint(
            f"jw01234001001_02101_0000{k}_mirimage_cal.fits",
            (0.5, 20.5 * k),
            level=k,
            meta={"SUBSTRT1": 413, "SUBSTRT2": 51},
        )
        for k in (1, 2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = lm.recombine_lyot(images)
    for image, out in zip(images, result, strict=True):
        assert_array_equal(out.data, image.data)


# Overlaps


def test_overlap_is_of_valid_pixels_not_of_the_outline(paint):
    # MIRI's two regions: outlines overlap, good pixels do not (stcal, jwst issue 10259).
    first, second = paint("a.fits"), paint("b.fits", (0, 30), level=4.0)
    first.mask = np.zeros(first.data.shape, dtype=bool)
    first.mask[:, 28:] = True
    with pytest.warns(lm.DisconnectedWarning, match="2 sets"):
        result = lm.match_mosaic([first, second], group_by="FILENAME")
    assert_array_equal(np.asarray(result.table["level"]), 0)
    assert result.table["isolated"].all()
    assert list(result.pairs["npix"]) == [0]
    assert list(result.pairs["reason"]) == ["no common good pixel"]
    assert not result.pairs["kept"].any()


def test_level_is_of_the_common_good_pixels_alone(paint):
    # Pixels that are bad in either image have no effect.
    first, second = paint("a.fits"), paint("b.fits", (0.5, 20.5), level=4.0)
    mask = np.zeros(first.data.shape, dtype=bool)
    mask[:30] = True
    first.data[:30] += 50
    first.mask = mask
    second.data[35:] -= 80
    second.mask = np.flipud(mask)[::-1][::-1]
    second.mask = np.zeros_like(mask)
    second.mask[35:] = True
    result = lm.match_mosaic([first, second], reference=0, group_by="FILENAME")
    assert_allclose(levels_of(result)["b.fits"], 4, atol=0.005)


def test_zero_is_a_value(paint):
    # Zero was taken for blank: an image of zeros then has no overlap at all.
    first = paint("a.fits", sky=(0, 0, 0), noise=0)
    second = paint("b.fits", (0.5, 20.5), sky=(0, 0, 0), level=2.0, noise=0.1)
    first.data[:] = np.random.default_rng(1).integers(-1, 2, first.data.shape)
    second.data[::3] -= second.data[::3].mean()
    result = lm.match_mosaic([first, second], reference=0, group_by="FILENAME")
    assert result.pairs["npix"][0] > 1000
    assert not result.table["isolated"].any()


def test_zero_in_half_of_the_pixels(paint):
    rng = np.random.default_rng(2)
    first = paint("a.fits", sky=(0, 0, 0), noise=0.1)
    half = rng.random(first.data.shape) < 0.5
    first.data[half] = 0
    second = CCDData(
        first.data + 1.5, unit=first.unit, wcs=first.wcs.deepcopy(), meta={"FILENAME": "b.fits"}
    )
    second.data += rng.normal(0, 0.1, first.data.shape).astype("f4")
    # Zeros count as data, although they may be bad pixels.
    with pytest.warns(lm.LevelMatchWarning, match=r"exactly 0 .*: a\.fits \(0\.5 of"):
        result = lm.match_mosaic([first, second], group_by="FILENAME", reference=0)
    assert_allclose(levels_of(result)["b.fits"], 1.5, atol=0.01)
    assert result.pairs["npix"][0] > 0.95 * first.data.size


def test_identical_footprints(paint):
    images = [paint(f"{k}.fits", level=k, seed=k) for k in range(3)]
    result = lm.match_mosaic(images, group_by="FILENAME", reference=0)
    assert_allclose(np.asarray(result.table["level"]), [0, 1, 2], atol=0.002)
    assert len(result.pairs) == 3


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_identical_images(paint, fit_type):
    # The differences have no scatter.
    image = paint("a.fits")
    other = image.copy()
    other.meta["FILENAME"] = "b.fits"
    with pytest.warns(lm.LevelMatchWarning, match=r"equal pixels .*: a\.fits and b\.fits\. C"):
        result = lm.match_mosaic([image, other], group_by="FILENAME", fit_type=fit_type)
    for name in ("level", "error", "slope_u"):
        assert_allclose(np.asarray(result.table[name]), 0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:images have equal pixels")
def test_identical_images_beside_noisy_ones(paint):
    # The weight of a pair without scatter must not dominate the equations.
    image = paint("a.fits")
    other = image.copy()
    other.meta["FILENAME"] = "b.fits"
    third = paint("c.fits", (0.5, 30.5), level=2.0)
    for reference in ("a.fits", "c.fits"):
        result = lm.match_mosaic([image, other, third], group_by="FILENAME", reference=reference)
        found = levels_of(result)
        assert_allclose(found["c.fits"] - found["a.fits"], 2, atol=0.01)
        assert_allclose(found["b.fits"] - found["a.fits"], 0, atol=0.01)


@pytest.mark.parametrize("shape", [(2, 64), (64, 6), (9, 200)])
def test_sliver_footprints(paint, shape):
    images = [
        paint("a.fits", shape=shape),
        paint("b.fits", (0, 0.4 * shape[1]), shape=shape, level=1.0),
        paint("c.fits", (0.3 * shape[0], 0), shape=shape, level=-1.0),
    ]
    result = lm.match_mosaic(images, group_by="FILENAME", reference=0)
    found = levels_of(result)
    assert not result.table["isolated"].any()
    assert_allclose([found["b.fits"], found["c.fits"]], [1, -1], atol=0.05)


def test_sliver_overlap_is_never_the_complement(paint):
    images = [paint("a.fits"), paint("b.fits", (0, 61.9), level=1.0)]
    result = lm.match_mosaic(images, group_by="FILENAME", reference=0)
    assert 0 < result.pairs["npix"][0] <= 2 * 48
    assert_allclose(levels_of(result)["b.fits"], 1.0, atol=0.02)


# The sphere


PLACES = pytest.mark.parametrize(
    "centre", [(0.0, 0.0), (359.9999, -35.0), (180.0, 10.0), (12.0, 90.0), (77.0, -89.9999)]
)
SMALL = {"n_images": 9, "shape": (48, 48), "seed": 3, **DARK}


@PLACES
def test_same_levels_anywhere_on_the_sky(centre):
    found = []
    for place in ((150.1, 2.2), centre):
        result = lm.match_mosaic(list(simulate_generic(center=place, **SMALL).images))
        found.append(result)
    home, there = found
    assert len(there.pairs) == len(home.pairs)
    assert_array_equal(there.pairs["npix"] > 0, home.pairs["npix"] > 0)
    assert_allclose(there.table["level"].value, home.table["level"].value, atol=5e-3)
    for result in found:
        # Overlaps of 72 pixels do not determine slopes.
        assert np.max(result.table["error"].value) < 0.05


@PLACES
def test_same_planes_anywhere_on_the_sky(centre):
    # At the poles, East differs between images, so planes are compared on the sky.
    sim = simulate_generic(center=centre, slope=1.0, overlap=0.4, **{**SMALL, "noise": 0.02})
    table = lm.match_mosaic(list(sim.images), fit_type="level+slope").table
    found = np.transpose([table[name].value for name in ("level", "slope_u", "slope_v")])
    assert plane_errors(found, sim.truth).value.max() < 0.006


# Repetition and provenance


def test_repeating_a_run_is_refused(row, tmp_path, write):
    # ccdproc's cards are replaced, and romancal subtracts nothing more: both in silence.
    _, images = row
    folder = tmp_path / "in"
    folder.mkdir()
    paths = [write(image, folder / image.meta["FILENAME"]) for image in images]
    first = lm.match_mosaic(paths, group_by="FILENAME")
    written = first.write(tmp_path / "out")
    for again in (written, list(first)):
        with pytest.raises(lm.FrameError, match=r"a\.fits: already matched by .*mosaic.*rematch"):
            lm.match_mosaic(again, group_by="FILENAME")
    with pytest.raises(lm.FrameError, match="already matched"):
        lm.match_levels(written, group_by="FILENAME")
    # Another pass may follow.
    assert len(lm.match_dithers(written, group_by="FILENAME")) == 4
    second = lm.match_mosaic(written, group_by="FILENAME", read=lm.ReadOptions(rematch=True))
    assert_allclose(np.asarray(second.table["level"]), 0, atol=1e-6)


def test_repeating_a_run_on_its_result_is_refused(row):
    _, images = row
    first = lm.match_mosaic(images, group_by="FILENAME")
    with pytest.raises(lm.FrameError, match="already matched"):
        lm.match_mosaic(first, group_by="FILENAME")
    assert len(lm.match_mosaic(first, group_by="FILENAME", read=lm.ReadOptions(rematch=True))) == 4


def test_second_run_keeps_the_provenance_of_the_first(row, tmp_path):
    levels, images = row
    first = lm.match_mosaic(images, group_by="FILENAME", reference="a.fits")
    corrected = list(first)
    for image in corrected[1:]:
        image.data += np.float32(0.5)
    second = lm.match_mosaic(
        corrected, group_by="FILENAME", reference="a.fits", read=lm.ReadOptions(rematch=True)
    )
    for image, name in zip(second, levels, strict=True):
        history = [str(line) for line in image.meta["HISTORY"]]
        text = " ".join(" ".join(history).split())
        assert text.count("mosaic: subtracted level") == 2
        total = levels[name] - levels["a.fits"] + (0.5 if name != "a.fits" else 0)
        assert_allclose(image.meta["LMMLEV"], total, atol=0.02)
        assert image.meta["LMMREF"] == "a.fits"
        assert image.meta["LMMERR"] >= 0
    dithers = lm.match_dithers(second, group_by=lambda name, meta: "one")
    header = dithers[1].meta
    assert "LMDLEV" in header
    assert_allclose(header["LMMLEV"], second[1].meta["LMMLEV"], rtol=1e-12)


# Files


def test_files_keep_extensions_headers_and_wcs(paint, write, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    paths = []
    for k in range(2):
        image = paint(f"{k}.fits", (0, 20.5 * k), level=k, meta={"OBJECT": "M 42"})
        table = fits.BinTableHDU.from_columns(
            [fits.Column("n", "J", array=np.arange(3))], name="HDRTAB"
        )
        cube = fits.ImageHDU(np.arange(24, dtype="i2").reshape(2, 3, 4), name="CUBE")
        cube.header["COMMENT"] = "a comment"
        second = fits.ImageHDU(np.ones((48, 64), dtype=">f8"), name="ERR", ver=2)
        paths.append(
            write(
                image,
                folder / f"{k}.fits",
                err=np.full((48, 64), 0.01, "f4"),
                dq=np.zeros((48, 64), "u4"),
                extra=(table, cube, second),
            )
        )
    result = lm.match_mosaic(paths, reference=0, group_by="FILENAME")
    for path, out in zip(paths, result.write(tmp_path / "out"), strict=True):
        with fits.open(path) as before, fits.open(out) as after:
            assert [(h.name, h.ver) for h in after] == [(h.name, h.ver) for h in before]
            for i, (b, a) in enumerate(zip(before, after, strict=True)):
                ours = {"HISTORY", *(k for k in a.header if k.startswith("LM"))}
                kept = [tuple(c) for c in a.header.cards if c.keyword not in ours]
                assert kept == [tuple(c) for c in b.header.cards]
                assert bool(ours - {"HISTORY"}) == (i == 1)
                if i == 1:
                    level = a.header["LMMLEV"]
                    # The solution is not exact in float32, so the test uses double precision.
                    assert_array_equal(a.data, (b.data.astype(float) - level).astype("f4"))
                    assert a.data.dtype == b.data.dtype
                    assert WCS(a.header).wcs.compare(WCS(b.header).wcs)
                elif b.data is not None:
                    assert_array_equal(a.data, b.data)
                    assert a.data.dtype == b.data.dtype
            assert u.Unit(after["SCI"].header["BUNIT"]) == u.MJy / u.sr
