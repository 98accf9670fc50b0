# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the four functions and of the whole run, against truth."""

import copy
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, NDDataRef
from ccdproc import ImageFileCollection
from helpers import CLEAN
from numpy.testing import assert_allclose, assert_array_equal

import levelmatch as lm
from levelmatch.cli.printing import print_result
from levelmatch.record.solving import solve_record
from levelmatch.summary import summary_lines
from levelmatch.testing import (
    level_errors,
    plane_errors,
    simulate_generic,
    simulate_miri,
    simulate_nircam_short,
)


def levels_of(result, name="level"):
    """Return a column of the table as numbers."""
    return np.asarray(result.table[name])


def planes_of(result):
    """Return level and slopes, shape (n, 3)."""
    return np.transpose([levels_of(result, n) for n in ("level", "slope_u", "slope_v")])


@pytest.fixture(scope="module")
def miri():
    """Return two tiles of three dithers on small detectors, with sources and cosmic rays."""
    return simulate_miri(tiles=(1, 2), n_dithers=3, shape=(128, 129), noise=0.2, seed=2)


@pytest.fixture(scope="module")
def lyot():
    """Return two tiles at full size, whose dithers let the Lyot region overlap the main chip."""
    sim = simulate_miri(
        tiles=(1, 2), n_dithers=3, lyot=True, noise=0.1, dither_size=24.0, seed=4, **CLEAN
    )
    return sim, list(sim.images)


@pytest.fixture(scope="module")
def nircam():
    """Return two tiles of two dithers of four chips."""
    return simulate_nircam_short(
        n_tiles=2, n_dithers=2, shape=(96, 96), noise=0.1, dither_size=30.0, seed=3, **CLEAN
    )


# Each function against the truth


def test_match_dithers(miri):
    result = lm.match_dithers(list(miri.images))
    tiles = np.asarray(miri.truth["tile"])
    errors = np.asarray(level_errors(levels_of(result), miri.truth, groups=tiles))
    assert np.std(errors) < 0.01
    for tile in (1, 2):
        assert_allclose(levels_of(result)[tiles == tile].mean(), 0, atol=1e-12)
    assert result.reference == "mean"
    assert result.reference_reason == "the mean correction is zero"
    assert len(result.pairs) == 6
    assert set(result.pairs["pass"]) == {"dithers"}


def test_match_mosaic_after_dithers(miri):
    dithers = lm.match_dithers(list(miri.images))
    result = lm.match_mosaic(dithers)
    errors = np.asarray(level_errors(levels_of(result), miri.truth))
    assert np.std(errors) < 0.03
    assert set(result.table["tile"]) == {"jw02107001001_02101", "jw02107002001_02101"}
    mosaic = levels_of(result, "level_mosaic")
    reference = np.asarray(result.table["reference"])
    assert reference.sum() == 1
    tiles = np.asarray(result.table["tile"])
    assert_array_equal(mosaic[tiles == tiles[reference][0]], 0)
    assert len(set(mosaic)) == 2


@pytest.mark.parametrize("fit_type", ["level+slope", "level+match"])
def test_planes(fit_type):
    sim = simulate_generic(
        n_images=9, shape=(96, 96), overlap=0.35, slope=1.0, noise=0.02, seed=1, **CLEAN
    )
    result = lm.match_mosaic(list(sim.images), fit_type=fit_type)
    assert plane_errors(planes_of(result), sim.truth).value.max() < 0.01
    one = result.table["reference"]
    assert_array_equal(planes_of(result)[one], 0)


def test_recombine_lyot(lyot):
    sim, images = lyot
    dithers = lm.match_dithers(images)
    result = lm.recombine_lyot(dithers)
    table = result.table
    assert len(result) == len(images)
    assert result.names == list(sim.truth["name"])
    science = table["part"] == "science"
    assert_array_equal(np.asarray(table["level_lyot"])[science], 0)
    found = np.asarray(table["level_lyot"])[~science]
    assert_allclose(found, sim.truth["lyot_level"].value, atol=0.02)
    # The corrected images are seamless, because the added Lyot background is removed.
    for image, corrected in zip(images, result, strict=True):
        assert corrected.data.shape == image.data.shape
        assert_array_equal(corrected.mask, image.mask)
        assert_array_equal(corrected.flags, image.flags)


def test_combine_nircam_short(nircam):
    dithers = lm.match_dithers(list(nircam.images))
    result = lm.combine_nircam_short(dithers)
    truth = nircam.truth
    errors = np.asarray(level_errors(levels_of(result), truth, groups=np.asarray(truth["tile"])))
    assert np.abs(errors).max() < 0.05
    for tile in set(result.table["tile"]):
        rows = result.table["tile"] == tile
        assert_allclose(levels_of(result, "level_nircam_short")[rows].mean(), 0, atol=1e-12)
    mosaic = lm.match_mosaic(result)
    assert np.abs(np.asarray(level_errors(levels_of(mosaic), truth))).max() < 0.05
    # Afterwards a module of a tile counts as one image.
    shares = levels_of(mosaic, "level_mosaic")
    for tile in set(mosaic.table["tile"]):
        assert len(set(shares[mosaic.table["tile"] == tile])) == 1


def test_chips_stay_apart_unless_combined(nircam):
    images = list(nircam.images)
    mosaic = lm.match_mosaic(lm.match_dithers(images))
    assert len(set(levels_of(mosaic, "level_mosaic"))) == 8
    one = lm.match_mosaic(lm.match_dithers(images), combine_chips=True)
    assert len(set(levels_of(one, "level_mosaic"))) == 2


# The whole job is the four functions


@pytest.mark.parametrize(("fit_type", "tolerance"), [("level", 1e-5), ("level+slope", 2e-2)])
@pytest.mark.parametrize("way", ["result", "images", "files"])
def test_match_levels_is_the_functions_in_turn(miri, tmp_path, way, fit_type, tolerance):
    images = list(miri.images)
    whole = lm.match_levels(images, fit_type_dithers=fit_type, fit_type_mosaic_tiles="level")
    first = lm.match_dithers(images, fit_type=fit_type)
    if way == "images":
        first = list(first)
    elif way == "files":
        first = first.write(tmp_path)
    second = lm.match_mosaic(first)
    for a, b in zip(second, whole, strict=True):
        assert_allclose(a.data, b.data, atol=tolerance)
        assert_array_equal(a.mask, b.mask)
    names = {"result": second.names, "images": second.names, "files": second.names}[way]
    assert names == whole.names


def test_match_levels_with_lyot(lyot):
    sim, images = lyot
    whole = lm.match_levels(images, recombine_lyot=True)
    parts = [part for image in images for part in lm.separate_lyot(image)]
    turns = lm.match_mosaic(lm.recombine_lyot(lm.match_dithers(parts)))
    assert len(turns) == len(whole) == len(images)
    for a, b in zip(turns, whole, strict=True):
        assert_allclose(a.data, b.data, atol=2e-5)
        assert_array_equal(a.mask, b.mask)
        assert_array_equal(a.uncertainty.array, b.uncertainty.array)
    science = whole.table["part"] == "science"
    found = np.asarray(whole.table["level"])
    assert np.abs(np.asarray(level_errors(found[science], sim.truth))).max() < 0.02
    shares = np.asarray(whole.table["level_dithers"])
    lyot_only = (found - shares)[~science] - (found - shares)[science]
    assert_allclose(lyot_only, sim.truth["lyot_level"].value, atol=0.02)


def test_match_levels_with_chips(nircam):
    images = list(nircam.images)
    whole = lm.match_levels(images, combine_nircam_short=True)
    turns = lm.match_mosaic(lm.combine_nircam_short(lm.match_dithers(images)))
    assert_allclose(levels_of(turns), levels_of(whole), atol=1e-6)
    assert whole.reference == turns.reference
    assert [p.name for p in whole.passes] == ["dithers", "nircam_short", "mosaic"]


# Kinds of input


@pytest.fixture(scope="module")
def small():
    return simulate_generic(n_images=4, overlap=0.3, **CLEAN)


@pytest.fixture(scope="module")
def small_images(small):
    return list(small.images)


@pytest.fixture
def small_paths(small, tmp_path):
    return small.write(tmp_path / "in")


def test_kinds_of_input_agree(small_images, small_paths):
    expected = levels_of(lm.match_mosaic(small_images))
    collection = ImageFileCollection(small_paths[0].parent)
    for images in (
        tuple(small_images),
        iter(small_images),
        small_paths,
        [str(p) for p in small_paths],
        collection,
        (p for p in small_paths),
        [small_images[0], *small_paths[1:]],
        {k: [image] for k, image in enumerate(small_images)},
        {
            "x": [small_paths[0]],
            "y": small_paths[1:2],
            "z": small_paths[2:3],
            "zz": small_paths[3:],
        },
    ):
        result = lm.match_mosaic(images, group_by="auto")
        # A header rounds the WCS.
        assert_allclose(levels_of(result), expected, atol=1e-6)


def test_mapping_gives_the_tiles(small_images):
    tiles = {"left": small_images[::2], "right": small_images[1::2]}
    result = lm.match_dithers(tiles)
    assert list(result.table["tile"]) == ["left", "left", "right", "right"]
    assert len(result.pairs) == 2
    mosaic = lm.match_mosaic(result, reference="right")
    assert_array_equal(levels_of(mosaic, "level_mosaic")[2:], 0)


@pytest.mark.parametrize("cls", [CCDData, NDData, NDDataRef])
def test_class_of_an_image_is_kept(small_images, cls):
    images = [
        cls(
            i.data,
            wcs=i.wcs,
            unit=i.unit,
            mask=i.mask,
            uncertainty=i.uncertainty,
            meta=dict(i.meta),
        )
        for i in small_images
    ]
    result = lm.match_mosaic(images)
    for before, after in zip(images, result, strict=True):
        assert type(after) is cls
        assert after.unit == before.unit
        assert after.wcs.wcs.compare(before.wcs.wcs)
        assert_array_equal(after.uncertainty.array, before.uncertainty.array)
        assert_array_equal(after.mask, before.mask)
    assert_array_equal(levels_of(result), levels_of(lm.match_mosaic(small_images)))


@pytest.mark.parametrize("dtype", ["f8", ">f4", ">f8", "i2", "u2", "i4"])
def test_types_of_pixels(paint, dtype):
    images = []
    for k, name in enumerate(("a.fits", "b.fits")):
        image = paint(name, (0.3, 20.4 * k), level=100.0 * k, sky=(1000, 0, 0), noise=3)
        image.data = image.data.astype(dtype)
        images.append(image)
    result = lm.match_mosaic(images, group_by="FILENAME", reference=0)
    assert_allclose(levels_of(result)[1], 100, atol=0.6)
    assert result[1].data.dtype.kind == "f"
    assert result[1].data.dtype.isnative
    assert_allclose(result[1].data, images[1].data - levels_of(result)[1], rtol=1e-6)


@pytest.mark.parametrize("fit_type", ["level", "auto"])
@pytest.mark.parametrize("step", [1.0, 3.0])
def test_integers_under_strict_numpy_errors(paint, fit_type, step):
    images = []
    for k, name in enumerate("abcd"):
        place = (20.3 * (k // 2), 20.4 * (k % 2))
        image = paint(name, place, level=100.0 * k, sky=(1000, 0, 0), noise=3, seed=k)
        image.data = (image.data / step).astype("i2")
        images.append(image)
    expected = lm.match_mosaic(images, fit_type=fit_type, group_by="FILENAME").summary()
    with np.errstate(all="raise"):
        result = lm.match_mosaic(images, fit_type=fit_type, group_by="FILENAME")
        assert result.summary() == expected


# Tiles


@pytest.mark.parametrize(
    "group_by",
    [
        "TILE",
        ["TILE"],
        ("TILE", "FILTER"),
        lambda name, meta: meta["TILE"],
        lambda name, meta: name < "c",
    ],
)
def test_group_by(paint, group_by):
    images = [
        paint(f"{n}.fits", (0, 20 * k), level=k, meta={"TILE": k // 2, "FILTER": "J "})
        for k, n in enumerate("abcd")
    ]
    result = lm.match_dithers(images, group_by=group_by)
    tiles = list(result.table["tile"])
    assert tiles[0] == tiles[1] != tiles[2] == tiles[3]
    assert_allclose(levels_of(result), [-0.5, 0.5, -0.5, 0.5], atol=0.01)


def test_group_by_overlap(paint):
    images = [paint(f"{n}.fits", (0, s)) for n, s in zip("abcd", (0, 20, 60, 80), strict=True)]
    for group_by in ("auto", "overlap"):
        tiles = list(lm.match_dithers(images, group_by=group_by).table["tile"])
        assert tiles == ["a.fits", "a.fits", "c.fits", "c.fits"]


def test_group_by_jwst_header(paint):
    keys = {
        "TELESCOP": "JWST",
        "PROGRAM": "01234",
        "OBSERVTN": "001",
        "VISIT": "001",
        "VISITGRP": "02",
        "SEQ_ID": "1",
        "ACT_ID": "01",
        "DETECTOR": "MIRIMAGE",
    }
    images = [
        paint(f"{n}.fits", (0, 40 * k), meta={**keys, "EXPOSURE": str(k + 1)})
        for k, n in enumerate("ab")
    ]
    for group_by in ("auto", "jwst"):
        table = lm.match_dithers(images, group_by=group_by).table
        assert set(table["tile"]) == {"jw01234001001_02101"}
        assert set(table["detector"]) == {"mirimage"}


# Gauge and reference


@pytest.fixture
def tiles(paint):
    """Return three tiles of two images, with levels and times from the backgrounds."""
    images = [
        paint(
            f"{n}.fits",
            (0.3 * k, 32.0 * k),
            level=float(k**2),
            meta={"TILE": n.upper() if k % 2 else "abcdef"[k].upper(), "DT_BGR": 3.0 - k},
        )
        for k, n in enumerate("abcdef")
    ]
    for k, image in enumerate(images):
        image.meta["TILE"] = f"T{k // 2}"
    return images


@pytest.mark.parametrize(
    ("reference", "tile", "reason"),
    [
        ("auto", 1, r"closest in time to the backgrounds \(\|DT_BGR\| = 0\)"),
        ("a.fits", 0, "named by the user"),
        ("a", 0, "named by the user"),
        ("T2", 2, "named by the user"),
        (0, 0, "named by the user"),
        (5, 2, "named by the user"),
        (-1, 2, "named by the user"),
        (np.int64(2), 1, "named by the user"),
        ("mean", None, "the mean correction is zero"),
    ],
)
def test_reference(tiles, reference, tile, reason):
    import re

    result = lm.match_mosaic(tiles, reference=reference, group_by="TILE")
    assert re.fullmatch(reason, result.reference_reason)
    levels = levels_of(result, "level_mosaic")
    if tile is None:
        assert_allclose(levels[::2].mean(), 0, atol=1e-12)
        assert result.reference == "mean"
    else:
        assert_array_equal(levels[2 * tile : 2 * tile + 2], 0)
        assert result.reference in {"ab", "cd", "ef"} or result.reference[0] in "abcdef"


@pytest.mark.parametrize("as_files", [True, False])
def test_plain_images_are_known_by_their_files(one_tile, write, tmp_path, as_files):
    for image in one_tile:
        del image.meta["FILENAME"]
    names = [f"image000{k}" for k in range(3)]
    if as_files:
        names = ["x.fits", "y.fits", "z.fits"]
        one_tile = [write(i, tmp_path / n) for i, n in zip(one_tile, names, strict=True)]
    result = lm.match_mosaic(one_tile, group_by="FILENAME")
    assert list(result.table["tile"]) == names
    with pytest.raises(lm.FrameError, match="the header has no keyword 'FILTER'"):
        lm.match_mosaic(one_tile, group_by=["FILENAME", "FILTER"])


@pytest.fixture
def one_tile(paint):
    """Return three dithers of one tile with levels 0, 1 and 2."""
    return [paint(f"{name}.fits", (3.0 * k, 4.0 * k), level=k) for k, name in enumerate("abc")]


@pytest.mark.parametrize("fit_type", ["level", "level+slope", "auto"])
def test_a_named_reference_of_one_tile_is_held(one_tile, fit_type):
    result = lm.match_levels(one_tile, fit_type_dithers=fit_type, reference="b.fits")
    assert result.reference == "b.fits"
    assert result.reference_reason == "named by the user"
    assert_array_equal(result.table["reference"], [False, True, False])
    assert_array_equal(planes_of(result)[1], 0)
    assert_allclose(levels_of(result), [-1, 0, 1], atol=0.01)
    assert result.table["error"][1] == 0
    assert "dithers: the correction of b.fits is zero" in result.gauge
    assert "Reference: b.fits, named by the user." in summary_lines(result)
    assert lm.match_levels(one_tile).reference == "mean"


def test_a_record_of_one_tile_gets_another_reference(one_tile):
    record = lm.match_levels(one_tile, reference="b.fits").record
    new = solve_record(record, reference="c.fits")
    assert (record.reference, new.reference) == ("b.fits", "c.fits")
    assert_allclose(levels_of(new), [-2, -1, 0], atol=0.01)
    assert solve_record(new, reference="mean").reference == "mean"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"recombine_lyot": True}, "recombine_lyot: no image is a Lyot image"),
        ({"combine_nircam_short": True}, "combine_nircam_short: no image is of NIRCam"),
        (
            {"solve": lm.SolveOptions(time_from_background="DT")},
            "time_from_background: no image has the keyword 'DT'",
        ),
        ({"solve": lm.SolveOptions(slope_prior=1.0)}, "slope_prior: no pass fits slopes"),
        ({"solve": lm.SolveOptions(slope_gauge="mean")}, "slope_gauge: the mosaic fits no slopes"),
    ],
)
def test_options_without_effect_are_warned_of(one_tile, options, words):
    with pytest.warns(lm.LevelMatchWarning, match=f"{words}.*: it has no effect"):
        lm.match_levels(one_tile, **options)


def test_a_pattern_is_no_list():
    with pytest.raises(TypeError, match=r"give sorted\(glob\.glob\('raw/\*\.fits'\)\)"):
        lm.match_levels("raw/*.fits")
    with pytest.raises(TypeError, match=r"'raw/a\.fits' is one path, not a list"):
        lm.match_mosaic(Path("raw/a.fits"))


def test_each_pass_has_its_own_fit_type(one_tile):
    fit_types = {"dithers": "level+slope", "mosaic_tiles": "auto"}
    for result in (
        lm.match_levels(one_tile, fit_type=fit_types),
        lm.match_levels(one_tile, fit_type_dithers="level+slope", fit_type_mosaic_tiles="auto"),
    ):
        assert [p.fit_type for p in result.passes] == ["level+slope", "auto"]
    named = lm.match_levels(one_tile, fit_type={"dithers": "level+slope", "mosaic": "auto"})
    assert [p.fit_type for p in named.passes] == ["level+slope", "auto"]
    with pytest.raises(
        ValueError, match="fit_type: 'chips' is not a pass; the passes are dithers, "
    ):
        lm.match_levels(one_tile, fit_type={"chips": "level"})
    with pytest.raises(TypeError, match="unexpected keyword argument 'wait'$"):
        lm.match_levels(one_tile, wait=1)


def test_images_have_names(one_tile):
    result = lm.match_levels(one_tile)
    assert_array_equal(result["b.fits"].data, result[1].data)
    for found in (result, result.record):
        assert_array_equal(found.covariance("a.fits", "c.fits"), found.covariance(0, 2))
    with pytest.raises(KeyError, match="there is no image 'z'; the first is 'a.fits'"):
        result["z"]
    with pytest.raises(KeyError, match="there is no image 'z'"):
        result.covariance(0, "z")


def test_a_reference_without_effect_is_warned_of(one_tile):
    dithers = lm.match_dithers(one_tile)
    with pytest.warns(lm.LevelMatchWarning, match=r"b\.fits has no effect: all 3 images are one"):
        lm.match_mosaic(dithers, reference="b.fits")


def test_reference_by_another_keyword(tiles):
    for k, image in enumerate(tiles):
        image.meta["DT_MINE"] = -(k - 4.2)
    result = lm.match_mosaic(
        tiles, group_by="TILE", solve=lm.SolveOptions(time_from_background="DT_MINE")
    )
    assert result.reference == "e.fits"
    for image in tiles:
        del image.meta["DT_MINE"], image.meta["DT_BGR"]
    # T1 lies between the two others.
    result = lm.match_mosaic(tiles, group_by="TILE")
    assert result.reference == "c.fits"
    assert result.reference_reason == "most overlaps (2)"


@pytest.mark.parametrize("value", ["", "unknown", "nan", None])
def test_blank_times_do_not_count(tiles, value):
    for image in tiles:
        image.meta["DT_BGR"] = value
    tiles[0].meta["DT_BGR"] = -7.0
    result = lm.match_mosaic(tiles, group_by="TILE")
    assert result.reference == "a.fits"


def test_backgrounds_of_a_simulation():
    sim = simulate_miri(tiles=(1, 2), n_dithers=2, shape=(96, 97), backgrounds=True, **CLEAN)
    images = list(sim.images)
    times = [abs(image.meta["DT_BGR"]) for image in images]
    result = lm.match_levels(images)
    assert result.reference == images[int(np.argmin(times))].meta["FILENAME"]


@pytest.mark.parametrize("weights", ["ivar", "equal", "npix", "rms"])
def test_weights(small, small_images, weights):
    result = lm.match_mosaic(small_images, solve=lm.SolveOptions(weights=weights))
    errors = np.asarray(level_errors(levels_of(result), small.truth))
    assert np.abs(errors).max() < 0.15
    assert (levels_of(result, "error") >= 0).all()
    assert levels_of(result, "error").max() < 0.2


# Options


@pytest.mark.parametrize("method", ["interp", "exact", "adaptive"])
@pytest.mark.parametrize("rotation", [0.0, 17.0])
def test_methods_agree(method, rotation):
    sim = simulate_generic(
        n_images=4,
        shape=(64, 64),
        overlap=0.4,
        noise=0.02,
        rotation_rms=rotation,
        seed=6,
        stars=False,
    )
    images = list(sim.images)
    direct = lm.match_mosaic(images, reference="mean")
    other = lm.match_mosaic(images, reference="mean", measure=lm.MeasureOptions(method=method))
    assert_allclose(levels_of(other), levels_of(direct), atol=0.02)
    assert_allclose(other.pairs["level"].value, direct.pairs["level"].value, atol=0.02)


def test_median_agrees_with_mean(small_images):
    mean = lm.match_mosaic(small_images)
    median = lm.match_mosaic(small_images, measure=lm.MeasureOptions(location="median"))
    assert_allclose(levels_of(median), levels_of(mean), atol=0.1)
    assert not np.array_equal(levels_of(median), levels_of(mean))


def test_stacks_agree_with_images(miri):
    dithers = lm.match_dithers(list(miri.images))
    direct = lm.match_mosaic(dithers)
    stacked = lm.match_mosaic(dithers, measure=lm.MeasureOptions(stacked=True))
    assert_allclose(levels_of(stacked), levels_of(direct), atol=0.1)
    assert stacked.reference == direct.reference
    assert not np.array_equal(levels_of(stacked), levels_of(direct))


def test_subtract_local(paint):
    sky = (7.0, 0.0, 0.0)
    images = [
        paint(f"{n}.fits", (0.2, 20.0 * k), level=float(k), sky=sky, shape=(64, 64))
        for k, n in enumerate("ab")
    ]
    images[0].data[30:34, 30:34] += 500
    result = lm.match_dithers(
        images, group_by=lambda name, meta: "t", solve=lm.SolveOptions(subtract_local=True)
    )
    assert_allclose(levels_of(result, "level_dithers"), [-0.5, 0.5], atol=0.01)
    assert_allclose(levels_of(result, "level_local"), 7.5, atol=0.01)
    for image in result:
        assert_allclose(np.median(image.data), 0, atol=0.01)
        assert "LMBLEV" in image.meta


def test_tiles_are_matched_after_their_local_levels():
    simulation = simulate_miri(tiles=(1, 2), n_dithers=3, shape=(96, 100), stars=False, seed=2)
    images = list(simulation.images)
    at_once = lm.match_levels(images, solve=lm.SolveOptions(subtract_local=True))
    in_turn = lm.match_mosaic(lm.match_dithers(images, solve=lm.SolveOptions(subtract_local=True)))
    for one, two in zip(at_once, in_turn, strict=True):
        assert_allclose(one.data, two.data, atol=1e-3)
    # The residuals of the tiles' pairs are noise, and the scatter of images agrees.
    left = lm.match_levels(list(at_once), read=lm.ReadOptions(rematch=True))
    assert np.abs(left.table["level"].value).max() < 0.02
    levels = dict(zip(at_once.names, levels_of(at_once), strict=True))
    assert np.abs(level_errors(levels, simulation.truth).value).max() < 0.1


def test_sky_levels_tie_tiles_after_their_local_levels(paint):
    images = [
        paint(f"{n}.fits", (0.2, 20.0 * k + gap), level=float(k), sky=(7.0, 0, 0), shape=(64, 64))
        for n, k, gap in (("a", 0, 0), ("b", 1, 0), ("c", 2, 500), ("d", 3, 500))
    ]
    result = lm.match_levels(
        images,
        group_by=lambda name, meta: "t" if name < "c" else "u",
        solve=lm.SolveOptions(disconnected="sky", subtract_local=True),
    )
    for image in result:
        assert_allclose(np.median(image.data), np.median(result[0].data), atol=0.01)


def test_progress_bar(small_images):
    seen = []

    def bar(iterable):
        for item in iterable:
            seen.append(item)
            yield item

    result = lm.match_mosaic(small_images, progress_bar=bar)
    assert len(seen) == len(result.pairs)


# The result


def test_result_is_a_lazy_sequence(small_images, monkeypatch):
    from levelmatch.results import result as results

    result = lm.match_mosaic(small_images)
    made = []
    original = results.corrected_image
    monkeypatch.setattr(
        results,
        "corrected_image",
        lambda product, *rest: made.append(product.name) or original(product, *rest),
    )
    assert isinstance(result, Sequence)
    assert len(result) == 4
    assert result.names == [i.meta["FILENAME"] for i in small_images]
    assert not made
    image = result[1]
    assert made == ["image_00001.fits"]
    assert_array_equal(result[-3].data, image.data)
    assert len(result[1:3]) == 2
    assert len(list(result)) == 4
    with pytest.raises(IndexError, match="index out of range"):
        result[4]
    assert "4 images" in repr(result)
    assert "passes: mosaic" in repr(result)
    image.data[:] = 0
    assert result[1].data.any()


@pytest.mark.parametrize("kind", ["image", "hdus"])
def test_images_that_change_after_matching_are_refused(small_images, small_paths, tmp_path, kind):
    images = [image.copy() for image in small_images]
    if kind == "hdus":
        images = []
        for path in small_paths:
            with fits.open(path) as hdus:
                images.append(fits.HDUList([hdu.copy() for hdu in hdus]))
    result = lm.match_mosaic(images)
    first = images[1].data if kind == "image" else images[1]["SCI"].data
    first[3, 5] += 1
    assert result[0].data.any()
    words = r"image_00001\.fits: its pixels or its unit changed after they were read; match it anew"
    for use in (
        lambda: result[1],
        lambda: result.record,
        lambda: result.write(tmp_path / "out"),
        lambda: lm.match_mosaic(result, read=lm.ReadOptions(rematch=True)),
    ):
        with pytest.raises(lm.FrameError, match=words):
            use()
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    first[3, 5] -= 1
    assert_allclose(result[1].data, lm.match_mosaic(images)[1].data, rtol=1e-6)


def test_images_whose_unit_changes_after_matching_are_refused(small_images):
    images = [image.copy() for image in small_images]
    result = lm.match_mosaic(images)
    images[1].unit = "Jy/sr"
    with pytest.raises(lm.FrameError, match=r"image_00001\.fits: its pixels or its unit changed"):
        result[1]


@pytest.mark.parametrize("fit_type", ["level", "level+slope", "auto"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_results_can_be_copied_and_sent(small_images, small_paths, fit_type, copied):
    for images in (small_images, small_paths):
        result = lm.match_mosaic(images, fit_type=fit_type)
        other = copied(result)
        assert other.names == result.names
        assert_array_equal(other[2].data, result[2].data)
        assert_array_equal(other.covariance(0, 1), result.covariance(0, 1))
        assert other.summary() == result.summary()


def test_table_and_pairs_have_units(small_images):
    result = lm.match_mosaic(small_images, fit_type="level+slope")
    unit = u.MJy / u.sr
    table, pairs = result.table, result.pairs
    assert table["level"].unit == table["error"].unit == pairs["level"].unit == unit
    assert table["slope_u"].unit == unit / u.arcmin
    assert pairs["weight"].unit == unit**-2
    assert pairs["ra"].unit == u.deg
    kept = pairs[pairs["kept"]]
    assert np.isfinite(kept["residual"]).all()
    assert (kept["weight"].value > 0).all()
    assert table["n_pairs"].sum() == 2 * len(kept)


def test_units_that_differ_are_a_column(small_images, capsys):
    images = list(small_images)
    last = images[-1].copy()
    last.data, last.unit = last.data * 1000, u.kJy / u.sr
    expected = lm.match_mosaic(images).table
    mixed = lm.match_mosaic([*images[:-1], last])
    table = mixed.table
    assert list(table["unit"]) == ["MJy/sr"] * 3 + ["kJy/sr"]
    assert "unit" not in expected.colnames
    for name in ("level", "error"):
        found = [x * u.Unit(unit) for x, unit in zip(table[name], table["unit"], strict=True)]
        assert_allclose(u.Quantity(found, expected[name].unit), expected[name], rtol=1e-4)
    print_result(mixed)
    lines = capsys.readouterr().out.splitlines()
    assert [row.split()[-2] for row in lines[:5]] == ["unit", *["MJy/sr"] * 3, "kJy/sr"]


def test_levels_of_pairs_are_first_minus_second(small, small_images):
    truth = dict(zip(small.truth["name"], small.truth["level"].value, strict=True))
    pairs = lm.match_mosaic(small_images).pairs
    for row in pairs:
        expected = truth[row["image1"]] - truth[row["image2"]]
        assert_allclose(row["level"].value, expected, atol=6 * row["sigma"].value)


def test_errors_are_those_of_many_runs(paint):
    # The noise is 0.5 per pixel, and the stated error is the scatter of repeated draws.
    levels, errors = [], []
    for seed in range(40):
        images = [
            paint(f"{n}.fits", (0.4, 30.3 * k), noise=0.5, seed=seed) for k, n in enumerate("ab")
        ]
        result = lm.match_mosaic(images, group_by="FILENAME", reference=0)
        levels.append(levels_of(result)[1])
        errors.append(levels_of(result, "error")[1])
    assert 0.7 < np.std(levels) / np.mean(errors) < 1.4
    assert abs(np.mean(levels)) < 4 * np.mean(errors) / np.sqrt(40)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_write_and_read_back(small_images, small_paths, tmp_path, kind):
    result = lm.match_mosaic(small_images if kind == "memory" else small_paths)
    seen = []
    paths = result.write(
        tmp_path / "a" / "b", progress_bar=lambda work: seen.append(len(work)) or work
    )
    assert seen == [4]
    assert [p.name for p in paths] == result.names
    assert all(isinstance(p, Path) for p in paths)
    again = lm.match_mosaic(paths, read=lm.ReadOptions(rematch=True))
    assert_allclose(levels_of(again), 0, atol=1e-5)
    for before, after in zip(result, again, strict=True):
        assert_allclose(after.data, before.data, atol=1e-5)
        assert_array_equal(after.mask, before.mask)
        assert_allclose(after.uncertainty.array, before.uncertainty.array)


def test_a_result_contains_names(small_images):
    """Images are computed when indexed, so that names alone can be found."""
    result = lm.match_levels(small_images, group_by="FILENAME")
    assert result.names[0] in result
    assert "other" not in result
    assert 0 not in result
    assert all(result[name] is not None for name in result.names[:1])
