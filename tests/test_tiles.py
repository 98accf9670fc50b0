# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the assignment to tiles, and of tiles without a dithers pass in a mosaic."""

import warnings

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.images.jwst import fitted_region

LEVELS = np.array([0.0, 6.0, -4.0, 3.0])


def close(paint, step=20.0, **options):
    """Return four images that share most of their area, each with its own level."""
    return [
        paint(f"{k}.fits", (0.3 * k, step * k), level=level, **options)
        for k, level in enumerate(LEVELS)
    ]


def off(result):
    error = result.table["level"].value - LEVELS
    return np.abs(error - error.mean()).max()


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_mosaic_of_one_tile_is_matched(paint, fit_type):
    result = lm.match_mosaic(close(paint), fit_type=fit_type)
    assert [p.name for p in result.passes] == ["dithers", "mosaic"]
    assert off(result) < 0.03
    same = lm.match_levels(close(paint), fit_type=fit_type)
    assert_array_equal(result.table["level"], same.table["level"])
    assert [p.name for p in result.run.planned] == ["dithers", "mosaic"]


def test_tiles_that_are_matched_get_no_second_pass(paint, tmp_path):
    images = close(paint)
    dithers = lm.match_dithers(images)
    assert [p.name for p in lm.match_mosaic(dithers).passes] == ["mosaic"]
    paths = dithers.write(tmp_path / "out")
    assert [p.name for p in lm.match_mosaic(paths).passes] == ["mosaic"]


def test_a_pass_that_cannot_be_added_is_warned_of(paint, write, tmp_path):
    images = close(paint)
    done = lm.match_dithers(images[:2]).write(tmp_path / "out")
    mixed = [*done, *(write(image, tmp_path / image.meta["FILENAME"]) for image in images[2:])]
    with pytest.warns(lm.LevelMatchWarning, match=r"2\.fits and 3\.fits are of one tile, which no"):
        lm.match_mosaic(mixed)
    with pytest.warns(lm.LevelMatchWarning, match=r"0\.fits and 1\.fits are of one .*stacked=True"):
        lm.match_mosaic(images, measure=lm.MeasureOptions(stacked=True))


def test_a_stale_file_name_merges_no_files(paint, write, tmp_path):
    images = close(paint, step=40.0)
    paths = []
    for k, image in enumerate(images):
        image.meta["FILENAME"] = "parent.fits"
        paths.append(write(image, tmp_path / f"{k}.fits"))
    result = lm.match_mosaic(paths, group_by="FILENAME")
    assert list(result.table["tile"]) == ["0.fits", "1.fits", "2.fits", "3.fits"]
    assert off(result) < 0.02


def test_arrays_of_one_file_name_are_tiles_of_their_own(paint):
    images = close(paint, step=40.0)
    for image in images:
        image.meta["FILENAME"] = "exposure.fits"
    result = lm.match_mosaic(images, group_by="FILENAME")
    assert len(set(result.table["tile"])) == 4
    assert off(result) < 0.02
    assert len(set(lm.match_mosaic(images, group_by=["FILENAME"]).table["tile"])) == 4


def test_a_keyword_that_joins_distant_images_is_warned_of(paint):
    images = [
        paint(f"{k}.fits", (0, x), level=level, meta={"OBJECT": "M 83"})
        for k, (x, level) in enumerate(zip((0, 30, 300, 330), LEVELS, strict=True))
    ]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = lm.match_levels(images, group_by="OBJECT")
    assert any(
        "0.fits and 2.fits are one tile by group_by='OBJECT' ('M 83'), and do not overlap"
        in str(w.message)
        for w in seen
    )
    assert_allclose(np.diff(result.table["level"].value)[[0, 2]], [6, 7], atol=0.02)


def test_a_blank_keyword_makes_no_tile(paint):
    images = [paint(f"{k}.fits", (0, 20.0 * k), meta={"OBJECT": " "}) for k in range(2)]
    with pytest.raises(lm.FrameError, match=r"0\.fits: group_by: the header has no value for"):
        lm.match_dithers(images, group_by="OBJECT")


# MIRI's two parts

SUBARRAY = {"DETECTOR": "MIRIMAGE", "SUBSTRT1": 201, "SUBSTRT2": 601}
# In this subarray, rows from 135 and columns up to 90 are the coronagraph.
LYOT = np.s_[135:, :91]


def miri(paint, offset, *, flagged=False):
    """Return three images of a MIRI subarray with levels 0, 1 and 2, and larger Lyot levels."""
    images = []
    for k in range(3):
        name = f"jw0100000{k + 1}001_02101_00001_mirimage_cal.fits"
        image = paint(name, (20.0 * k, 80.0 * k), level=k, shape=(240, 260), meta=SUBARRAY)
        image.data[LYOT] += offset
        if flagged:
            image.mask = np.zeros(image.data.shape, bool)
            image.mask[LYOT] = True
        images.append(image)
    return images


@pytest.mark.parametrize("offset", [-0.4, 7.0])
def test_a_lyot_region_that_is_not_flagged_is_left_out(paint, offset):
    images = miri(paint, offset)
    with pytest.warns(lm.LevelMatchWarning, match=r"region of MIRI's Lyot .*: jw01.*, jw01"):
        result = lm.match_levels(images, reference=0)
    assert_allclose(result.table["level"].value, [0, 1, 2], atol=0.005)
    # The Lyot pixels get the correction of the image.
    for image, out, level in zip(images, result, result.table["level"].value, strict=True):
        assert_allclose(out.data, image.data - level, atol=1e-5)
    _, coverage = lm.make_mosaic(result)
    _, whole = lm.make_mosaic(images)
    assert_array_equal(coverage, whole)


def test_nothing_is_said_of_a_flagged_lyot_region(paint):
    result = lm.match_levels(miri(paint, 7.0, flagged=True), reference=0)
    assert_allclose(result.table["level"].value, [0, 1, 2], atol=0.005)


def test_the_lyot_subarray_is_an_image(paint):
    masklyot = {"DETECTOR": "MIRIMAGE", "SUBSTRT1": 1, "SUBSTRT2": 717}
    images = [
        paint(f"{k}.fits", (0, 30.0 * k), level=k, shape=(304, 320), meta=masklyot)
        for k in range(2)
    ]
    result = lm.match_levels(images)
    assert_allclose(np.diff(result.table["level"].value), 1, atol=0.005)


@pytest.mark.parametrize(("first_row", "last_column"), [(735, 290), (735, 289), (738, 284)])
def test_the_region_of_split_images_is_that_of_their_flags(first_row, last_column):
    good = np.random.default_rng(1).random((1024, 1032)) > 0.02
    inside = np.zeros_like(good)
    inside[first_row:, : last_column + 1] = True
    region = fitted_region(good & ~inside, good & inside, np.s_[735:1024, 0:291])
    assert region == np.s_[first_row:1024, 0 : last_column + 1]


def test_images_split_by_columns_below_290_lose_no_column(paint, tmp_path):
    """The Lyot part of PJPipe consists of columns 0 to 289."""
    paths = {"s": [], "l": []}
    images = []
    for k in range(2):
        image = paint("x.fits", (3.0 * k, 4.0 * k), shape=(240, 260), meta=SUBARRAY)
        image.data[135:, :90] += 2
        images.append(image)
        for part, path in paths.items():
            dq = np.zeros(image.data.shape, "u4")
            dq[135:, :90] = 0 if part == "l" else 513
            if part == "l":
                dq[:135], dq[:, 90:] = 513, 513
            header = image.wcs.to_header()
            header["BUNIT"] = "MJy/sr"
            hdus = [fits.PrimaryHDU(), fits.ImageHDU(image.data, header, name="SCI")]
            hdus[0].header.update({"TELESCOP": "JWST", **SUBARRAY})
            hdus.append(fits.ImageHDU(dq, name="DQ"))
            path.append(tmp_path / f"jw01000001001_02101_0000{k + 1}_mirimage{part}_cal.fits")
            fits.HDUList(hdus).writeto(path[-1])
    result = lm.recombine_lyot(paths["s"] + paths["l"])
    assert len(result) == 2
    assert_allclose(result.table["level"].value[result.table["part"] == "lyot"], 2, atol=0.01)
    for out, path in zip(result.write(tmp_path / "out"), paths["s"], strict=True):
        with fits.open(out) as hdus:
            assert_array_equal(hdus["DQ"].data, 0)
            assert np.isfinite(hdus["SCI"].data).all()
        assert out.name == path.name.replace("mirimages", "mirimage")


def halves(image):
    """Return the parts of a MIRI image, named by their headers."""
    return [part for part in lm.separate_lyot(image) if part is not None]


@pytest.mark.parametrize("version", ["cal", "destriped"])
@pytest.mark.parametrize("parts", ["sl", "s", "l"])
@pytest.mark.parametrize("recombine", [True, False])
def test_full_images_beside_their_parts_are_refused(paint, recombine, parts, version):
    """Their pixels would count twice."""
    images = miri(paint, 7.0)
    for image in images:
        image.meta["FILENAME"] = image.meta["FILENAME"].replace("cal", version)
    halved = dict(zip("sl", halves(miri(paint, 7.0)[1]), strict=True))
    given = [*images, *(halved[part] for part in parts)]
    with pytest.raises(lm.FrameError, match="mirimage_.*: jw01.*mirimage[sl]_cal.fits is a part"):
        lm.match_levels(given, recombine_lyot=recombine)


def test_full_images_beside_parts_of_others_are_split(paint):
    """Otherwise, their Lyot regions would count as main chips."""
    images = miri(paint, 7.0)
    options = {"recombine_lyot": True, "group_by": lambda name, meta: "tile"}
    result = lm.match_levels([*halves(images[0]), *images[1:]], **options)
    assert len(result) == 3
    same = lm.match_levels(images, **options)
    assert_allclose(result.table["level"].value, same.table["level"].value, atol=1e-6)
    assert list(result.table["part"]) == list(same.table["part"])


def test_a_function_that_names_no_tile(paint):
    """It would join all images in one tile named None."""

    def tile(name, header):
        return header.get("NOSUCH") if name == "2.fits" else "a"

    with pytest.raises(lm.FrameError, match=r"^2\.fits: group_by: the function returned None"):
        lm.match_dithers(close(paint), group_by=tile)
