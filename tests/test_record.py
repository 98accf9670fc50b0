# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""Tests of the record: its content, its refusals, and its use."""

import io
import os
import re
import shutil
import warnings
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.testing import assert_allclose, assert_array_equal
from xxhash import xxh3_128

import levelmatch as lm
from levelmatch.exceptions import RecordError
from levelmatch.measure.table import PairTable
from levelmatch.record.record import RECORD_NAME, Record
from levelmatch.record.record_files import read_record
from levelmatch.results.recorded_frames import recorded_files
from levelmatch.testing import simulate_miri

SHAPE = (128, 129)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Return files of two tiles of three dithers, with planes."""
    simulated = simulate_miri(tiles=(1, 2), n_dithers=3, shape=SHAPE, slope=0.4, seed=4)
    return simulated.write(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def result(raw):
    """Return the result of matching by levels, then planes, with local sky levels."""
    return lm.match_levels(
        raw, fit_type_mosaic_tiles="level+slope", solve=lm.SolveOptions(subtract_local=True)
    )


@pytest.fixture(scope="module")
def matched(result, tmp_path_factory):
    """Return the corrected files."""
    return result.write(tmp_path_factory.mktemp("matched") / "out")


@pytest.fixture(scope="module")
def path(matched):
    return matched[0].with_name(RECORD_NAME)


@pytest.fixture
def record(path):
    return read_record(path)


def tree_of(path):
    """Return the tree of a record, as asdf reads it without levelmatch, with arrays in memory."""
    with (
        asdf.config_context() as config,
        warnings.catch_warnings(),
    ):
        config.remove_extension(package="levelmatch")
        warnings.simplefilter("ignore")
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            return asdf.tagged.TaggedDict(_plain(dict(file["levelmatch"])), file["levelmatch"]._tag)


def _plain(node):
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return np.array(node) if hasattr(node, "dtype") else node


def rewritten(path, change, folder):
    """Return a record with a changed tree."""
    tree = tree_of(path)
    change(tree)
    new = folder / "changed.asdf"
    with asdf.config_context() as config:
        config.remove_extension(package="levelmatch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asdf.AsdfFile({"levelmatch": tree}).write_to(new)
    return new


def test_everything_comes_back(result, record, raw):
    assert record.names == result.names
    for name in ("table", "pairs", "closures"):
        before, after = getattr(result, name), getattr(record, name)
        assert before.colnames == after.colnames
        for column in before.colnames:
            assert_array_equal(after[column], before[column])
    for name in ("reference", "reference_reason", "gauge", "options", "versions", "created"):
        assert getattr(record, name) == getattr(result, name)
    for field in fields(PairTable):
        assert_array_equal(
            getattr(record.measured, field.name), getattr(result.measured, field.name)
        )
    assert record.unit == result.unit
    for a, b in zip(record.frames, result.frames, strict=True):
        assert a.name == b.name
        assert a.corrections[-1].correction.constant == b.corrections[-1].correction.constant
        assert_array_equal(a.correction.vector, b.correction.vector)
    assert_allclose(record.covariance(0, 4), result.covariance(0, 4), rtol=1e-9, atol=1e-15)
    again = lm.recorded_result(record, raw)
    assert_allclose(again.covariance(0, 4), result.covariance(0, 4), rtol=1e-9, atol=1e-15)
    assert_allclose(
        again.passes[-1].solution.covariance_matrix,
        result.passes[-1].solution.covariance_matrix,
        rtol=1e-9,
        atol=1e-15,
    )


def test_what_it_says_of_the_inputs(record, raw):
    row = record.sorted_frames.index(record.frames[0])
    with fits.open(raw[0]) as hdus:
        content = hdus["SCI"].data.astype(">f4").tobytes()
        wcs = record.wcs(record.frames[0].name)
        there = wcs.pixel_to_world_values(3, 4)
    assert record.inputs["digest"][row] == xxh3_128(content).hexdigest()
    assert record.inputs["size"][row] == raw[0].stat().st_size
    assert record.inputs["file"][row] == raw[0].name
    vector = record.frames[0].whole_grid.axes[0]
    assert_allclose(
        vector[2], np.sin(np.radians(wcs.pixel_to_world_values(64, 63.5)[1])), atol=1e-9
    )
    assert np.isfinite(there).all()
    with pytest.raises(RecordError, match="nobody: the record has no such image"):
        record.wcs("nobody")


def test_it_opens_as_an_object_of_asdf(path):
    with asdf.open(path) as file:
        assert isinstance(file["levelmatch"], Record)
        file.validate()


def test_it_opens_without_levelmatch(path, result):
    tree = tree_of(path)
    assert tree["images"]["name"].tolist() == sorted(result.names)
    totals = dict(zip(result.table["name"], result.table["level"].value, strict=True))
    assert_allclose(tree["images"]["level"], [totals[n] for n in tree["images"]["name"]])
    assert tree["options"]["function"] == "match_levels"
    assert tree["history"][0]["images"] == 6
    assert tree["passes"][0]["name"] == "dithers"
    assert_array_equal(tree["pairs"]["rhs"], result.measured.rhs)


def test_schema_is_kept(path, tmp_path):
    def drop(tree):
        del tree["images"]["size"]

    with pytest.raises(RecordError, match=r"changed\.asdf: .*size"):
        read_record(rewritten(path, drop, tmp_path))


def test_an_old_record_still_opens():
    """The file was written by version 0.1 and must never be replaced."""
    old = read_record(Path(__file__).parent / "data" / "record-1.0.0.asdf")
    assert old.names == ["image_00000.fits", "image_00001.fits", "image_00002.fits"]
    assert_allclose(old.table["level"].value, [0.0, 0.7931, 4.8561], atol=1e-3)
    assert lm.solve_record(old, weights="equal").reference == old.reference


# Replay


def test_early_records_are_applied_by_force(path, raw, matched, tmp_path):
    def age(tree):
        del tree["images"]["digest"], tree["images"]["mask_digest"]

    old = rewritten(path, age, tmp_path)
    with pytest.raises(RecordError, match=r"cal.fits: an early version made .* force=True"):
        lm.apply_record(old, raw, tmp_path / "again")
    # Verifying has no such option.
    with pytest.raises(RecordError, match=r"so its pixels cannot be compared$"):
        lm.verify_record(old, matched, raw)
    for new, before in zip(
        lm.apply_record(old, raw, tmp_path / "again", force=True), matched, strict=True
    ):
        assert_array_equal(fits.getdata(new, "SCI"), fits.getdata(before, "SCI"))


def test_applied_again(record, raw, matched, tmp_path):
    again = lm.apply_record(record, reversed(raw), tmp_path / "again")
    for new, old in zip(again, matched, strict=True):
        assert new.read_bytes() == old.read_bytes()
    assert (tmp_path / "again" / RECORD_NAME).read_bytes() == record.content


def test_undone(record, raw, matched, tmp_path):
    for back, before, after in zip(
        lm.undo_record(record, matched, tmp_path / "back"), raw, matched, strict=True
    ):
        with fits.open(back) as new, fits.open(before) as old, fits.open(after) as corrected:
            assert len(new) == len(old)
            for a, b in zip(new, old, strict=True):
                assert a.header.tostring() == b.header.tostring()
            data, true = new["SCI"].data, old["SCI"].data
            assert_array_equal(np.isnan(data), np.isnan(true))
            last_place = np.spacing(np.maximum(np.abs(true), np.abs(corrected["SCI"].data)))
            good = np.isfinite(true)
            assert (np.abs(data - true) <= last_place)[good].all()
            assert_array_equal(new["ERR"].data, old["ERR"].data)
            assert_array_equal(new["DQ"].data, old["DQ"].data)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4"])
def test_whole_numbers_are_undone_exactly(paint, tmp_path, dtype):
    paths = []
    (tmp_path / "raw").mkdir()
    for k, n in enumerate("ab"):
        image = paint(f"{n}.fits", (0.3, 20.5 * k), level=10.3 * k, sky=(80, 0, 0), noise=3)
        # Values exceed half of the range of the smaller unsigned types.
        image.data += {"u1": 80, "u2": 40000}.get(dtype, 0)
        paths.append(tmp_path / "raw" / f"{n}.fits")
        fits.PrimaryHDU(image.data.astype(dtype), image.wcs.to_header()).writeto(paths[-1])
    result = lm.match_mosaic(paths, group_by=lambda name, meta: name)
    out = result.write(tmp_path / "out")
    back = lm.undo_record(result.record, out, tmp_path / "back")
    for a, b in zip(back, paths, strict=True):
        assert fits.getdata(a).dtype == fits.getdata(b).dtype
        assert_array_equal(fits.getdata(a), fits.getdata(b))
        for key in ("BITPIX", "BZERO"):
            assert fits.getheader(a).get(key) == fits.getheader(b).get(key)


def test_verified(record, matched, raw, tmp_path):
    assert lm.verify_record(record, matched) == [p.name for p in matched]
    moved = [tmp_path / p.name for p in raw]
    for old, new in zip(raw, moved, strict=True):
        shutil.copy(old, new)
    assert len(lm.verify_record(record, matched, recorded_files(record, tmp_path))) == 6


def copies(paths, folder):
    folder.mkdir()
    return [shutil.copy(path, folder / path.name) and folder / path.name for path in paths]


def test_one_changed_pixel_is_found(record, matched, tmp_path):
    outputs = copies(matched, tmp_path / "copy")
    with fits.open(outputs[2], mode="update") as hdus:
        hdus["SCI"].data[5, 7] = np.nextafter(hdus["SCI"].data[5, 7], np.float32(9e9))
    with pytest.raises(RecordError, match=rf"{outputs[2].name}: 1 pixels .*\(5, 7\)"):
        lm.verify_record(record, outputs)


def test_one_changed_number_of_the_record_is_found(path, matched, tmp_path):
    def shift(tree):
        tree["corrections"]["constant"][1] *= 1 + 1e-3

    with pytest.raises(RecordError, match="do not follow|names another record"):
        lm.verify_record(rewritten(path, shift, tmp_path), matched)

    def rename(tree):
        tree["passes"][0]["residual"][0] += 1e-9

    with pytest.raises(RecordError, match="names another record"):
        lm.verify_record(rewritten(path, rename, tmp_path), matched)


def test_a_changed_byte_of_the_record_is_found(path, tmp_path):
    content = bytearray(path.read_bytes())
    start = content.find(b"\xd3BLK") + 100
    content[start] ^= 1
    (tmp_path / "bad.asdf").write_bytes(content)
    with pytest.raises(RecordError, match=r"bad\.asdf: "):
        read_record(tmp_path / "bad.asdf")


def test_other_pixels_are_refused(record, raw, tmp_path):
    files = copies(raw, tmp_path / "copy")
    with fits.open(files[1], mode="update") as hdus:
        hdus["SCI"].data[3, 3] += 1
    with pytest.raises(RecordError, match=f"{files[1].name}: its pixels are not the recorded"):
        lm.apply_record(record, files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(lm.apply_record(record, files, tmp_path / "out", force=True)) == 6


def turned(header, factor):
    """Multiply the matrix of a header's WCS; the middle of the image stays where it is."""
    nx, ny = header["NAXIS1"], header["NAXIS2"]
    middle = WCS(header).all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    header["CRVAL1"], header["CRVAL2"] = map(float, middle)
    header["CRPIX1"], header["CRPIX2"] = (nx + 1) / 2, (ny + 1) / 2
    for key in ("PC1_1", "PC1_2", "PC2_1", "PC2_2"):
        header[key] *= factor


@pytest.mark.parametrize("function", [lm.apply_record, lm.undo_record])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda header: header.set("CRPIX1", header["CRPIX1"] + 0.5),
            "WCS is not the recorded one",
        ),
        (lambda header: header.set("CRVAL1", 10.0), "WCS is not the recorded one"),
        (lambda header: turned(header, -1), "WCS is not the recorded one"),
        (lambda header: turned(header, 1.01), "WCS is not the recorded one"),
        (lambda header: header.set("BUNIT", "DN/s"), "unit is DN / s, the recorded MJy / sr"),
    ],
    ids=["moved", "elsewhere", "turned", "scaled", "unit"],
)
def test_a_changed_header_is_refused(record, raw, matched, tmp_path, function, change, match):
    files = copies(raw if function is lm.apply_record else matched, tmp_path / "copy")
    with fits.open(files[1], mode="update") as hdus:
        change(hdus["SCI"].header)
    with pytest.raises(RecordError, match=f"{files[1].name}: its {match}; force=True accepts"):
        function(record, files, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(function(record, files, tmp_path / "out", force=True)) == 6


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda files: files[1:], "00001_mirimage_cal.fits: the image is missing; a record"),
        (lambda files: files[2:], "missing, and 1 more"),
        (lambda files: [*files, files[0]], "it is given twice"),
        (lambda files: [*files, "/tmp/other.fits"], "other.fits: the record has no such image"),
    ],
)
def test_missing_and_other_files(record, raw, tmp_path, change, match):
    with pytest.raises(RecordError, match=match):
        lm.apply_record(record, change(raw), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_undo_wants_the_outputs(record, raw, tmp_path):
    with pytest.raises(RecordError, match="its header names no record"):
        lm.undo_record(record, raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_run_adds_to_the_first_s_story(result, matched, tmp_path):
    second = lm.match_mosaic(matched, reference=1, read=lm.ReadOptions(rematch=True))
    out = second.write(tmp_path / "second")
    header = fits.getheader(out[0], "SCI")
    history = [str(line) for line in header["HISTORY"]]
    assert sum("record levelmatch.asdf" in line for line in history) == 2
    assert header["LMRECSHA"] == second.record.sha256
    first = fits.getheader(matched[0], "SCI")
    level = second.table["level"].value[0]
    assert_allclose(header["LMMLEV"], first["LMMLEV"] + level)
    # After undoing the second run, the header equals that of the first.
    (back, *_) = lm.undo_record(second.record, out, tmp_path / "back")
    assert fits.getheader(back, "SCI")["LMRECSHA"] == result.record.sha256
    assert len(fits.getheader(back, "SCI")["HISTORY"]) == len(first["HISTORY"])
    assert_allclose(fits.getheader(back, "SCI")["LMMERR"], first["LMMERR"], rtol=1e-6)
    assert fits.getheader(back, "SCI")["LMMREF"] == first["LMMREF"]
    assert_allclose(fits.getheader(back, "SCI")["LMMLEV"], first["LMMLEV"], atol=1e-12)


# Solved again


def test_solving_again_changes_nothing(record):
    again = lm.solve_record(record)
    assert_allclose(again.table["level"].value, record.table["level"].value, atol=1e-12)
    assert_allclose(again.table["error"].value, record.table["error"].value, rtol=1e-9)
    assert_array_equal(again.pairs["kept"], record.pairs["kept"])
    assert again.parent == {"name": RECORD_NAME, "sha256": record.sha256}
    assert [entry["function"] for entry in again.history] == ["match_levels", "solve_record"]


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"fit_type": "level"}, {"fit_type_mosaic_tiles": "level"}),
        ({"weights": "npix"}, {"solve": lm.SolveOptions(weights="npix")}),
        ({"reference": 4}, {"reference": 4}),
        ({"solve": {"slope_prior": 0.01}}, {"solve": lm.SolveOptions(slope_prior=0.01)}),
        (
            {"fit_type": {"dithers": "level+slope"}, "reference": "mean"},
            {"fit_type_dithers": "level+slope", "reference": "mean"},
        ),
    ],
)
def test_solving_again_is_running_again(record, raw, changes, options):
    options = {"fit_type_mosaic_tiles": "level+slope", **options}
    whole = lm.match_levels(raw, **options)
    plain = lm.match_levels(raw, fit_type_mosaic_tiles="level+slope").record
    again = lm.solve_record(plain, **changes)
    for name in ("level", "error", "slope_u", "slope_v"):
        assert_allclose(again.table[name].value, whole.table[name].value, rtol=1e-6, atol=1e-9)
    assert again.reference == whole.reference
    assert again.gauge == whole.gauge


def test_images_are_left_out(raw, record, tmp_path):
    gone = raw[1].name
    again = lm.solve_record(record, exclude=[gone])
    assert gone not in again.names
    assert len(again) == 5
    rest = [p for p in raw if p.name != gone]
    whole = lm.match_levels(rest, fit_type_mosaic_tiles="level+slope")
    # The depths of common areas equal those of the run with all images.
    assert_allclose(
        again.table["level"].value - again.table["level_local"].value,
        whole.table["level"].value,
        atol=3 * whole.table["error"].value.max(),
    )
    new = read_record(again.write(tmp_path / "new.asdf"))
    assert_array_equal(new.table["level"], again.table["level"])
    assert len(lm.apply_record(new, rest, tmp_path / "out")) == 5
    assert new.history[-1]["excluded"] == [gone]


def test_local_levels_move_along(record):
    again = lm.solve_record(record, reference=4)
    # Local levels are kept: their sum is the loss of a tile's first image.
    first = record.frames[0].name
    row = list(record.table["name"]).index(first)
    level = [t["level_dithers"][row] + t["level_local"][row] for t in (record.table, again.table)]
    assert_allclose(level[0].value, level[1].value, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"weights": "best"}, ValueError, "weights: 'best'"),
        ({"fit_type": "cubic"}, ValueError, "fit_type: 'cubic'"),
        ({"fit_type": {"lyot": "level"}}, ValueError, "the record has no pass 'lyot'"),
        ({"reference": "nobody"}, ValueError, "reference: 'nobody'"),
        ({"reference": 17}, ValueError, "there is no image 17"),
        ({"exclude": ["nobody"]}, RecordError, "exclude: nobody: the record has no such image"),
        ({"solve": {"speed": 1}}, TypeError, "solve: 'speed' is not an option"),
        ({"solve": {"floor": -1}}, ValueError, "floor: -1 is not"),
    ],
)
def test_changes_are_checked(record, changes, error, match):
    with pytest.raises(error, match=match):
        lm.solve_record(record, **changes)


def test_nothing_left(record):
    with pytest.raises(RecordError, match="no image would be left"):
        lm.solve_record(record, exclude=record.names)


# Hostile records


def set_item(*keys, value):
    """Return a change of one item of a tree."""

    def change(tree):
        node = tree
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


def name_of(name):
    def change(tree):
        names = tree["images"]["file"].tolist()
        tree["images"]["file"] = np.array([name, *names[1:]])

    return change


def double_name(tree):
    names = tree["images"]["name"].tolist()
    tree["images"]["name"] = np.array([names[0], *names[:-1]])


def drop_image(tree):
    for key, column in tree["images"].items():
        tree["images"][key] = column[1:]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (name_of("../../etc/passwd"), "is a path, not the name of an image"),
        (name_of("/etc/passwd"), "is a path, not the name of an image"),
        (name_of(".."), "is a path, not the name of an image"),
        (double_name, "occurs twice"),
        (drop_image, "damaged"),
        (set_item("corrections", "constant", 0, value=np.nan), "not a finite number"),
        (set_item("corrections", "vector", 0, value=np.inf), "not a finite number"),
        (set_item("corrections", "image", 0, value=99), "a correction of image 99"),
        (set_item("pairs", "first", 0, value=-1), "a pair names an image beyond"),
        (set_item("pairs", "rhs", 0, value=np.nan), "pair 0 has numbers that are not finite"),
        (set_item("passes", value=[]), "0 passes recorded, 2 asked for"),
        (set_item("unit", value=["Jy"]), "unit|damaged|is not of type"),
        (set_item("images", "scale", 0, value=np.nan), "'scale' is not finite"),
        (set_item("pairs", "sigma", value=np.zeros((8, 2))), "damaged"),
        (set_item("pairs", "first", value=np.zeros(8)), "damaged"),
        (set_item("passes", 1, "isolated", value=np.array(True)), "'isolated' of type bool"),
        (set_item("passes", 1, "kept", value=np.zeros(2)), "'kept' of type float64"),
        (set_item("passes", 1, "coefficients", value=np.zeros((1, 2))), "damaged"),
        (set_item("passes", 1, "group", 0, value=99), "refers to missing groups or sets"),
        (set_item("passes", 1, "component", 0, value=-1), "refers to missing groups or sets"),
        (set_item("passes", 1, "tie", value=np.zeros(99)), "refers to missing groups or sets"),
        (
            set_item("passes", 1, "fit_type", value="cubic"),
            "damaged: .*fit_type: 'cubic'",
        ),
        (set_item("options", "solve", "floor", value=-1), "its options: floor: -1"),
        (set_item("options", "solve", "odd", value=1), "its options: .*'odd'"),
        (set_item("options", "passes", 0, "fit_type", value=7), "its options: fit_type: 7"),
        (set_item("subsets", value=np.array(["a"])), "damaged"),
        (lambda tree: tree["options"].pop("function"), "'function' is a required property"),
    ],
)
def test_damaged_records_are_refused(path, raw, tmp_path, change, match):
    bad = rewritten(path, change, tmp_path)
    with pytest.raises(RecordError, match=match):
        lm.apply_record(bad, raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_version_is_refused(path, raw, tmp_path):
    content = path.read_bytes().replace(b"tags/record-1.0.0", b"tags/record-9.0.0")
    (tmp_path / "new.asdf").write_bytes(content)
    with pytest.raises(RecordError, match=r"new\.asdf: not a record of this version.*record-9"):
        lm.apply_record(tmp_path / "new.asdf", raw, tmp_path / "out")


def test_an_enormous_array_is_refused(path, tmp_path):
    content = bytearray(path.read_bytes())
    start = content.find(b"\xd3BLK")
    # The size after decompression.
    content[start + 30 : start + 38] = (1 << 50).to_bytes(8, "big")
    (tmp_path / "bomb.asdf").write_bytes(content)
    with pytest.raises(RecordError, match=r"bomb\.asdf: an array declares 1125899906842624 bytes"):
        read_record(tmp_path / "bomb.asdf")


SOURCE = rb"(    first: !core/ndarray-1\.\d\.0\n      source: )(\d+)\n"
SHAPE_OF = rb"(    first: (?:.*\n){4}      shape: )\[.*\]\n"
HOSTILE = {
    "strides": (SHAPE_OF, rb"\1[200000000]\n      strides: [0]\n", "not laid out .*strides"),
    "quoted": (SHAPE_OF, rb'\1[200000000]\n      "strides": [0]\n', "not laid out .*strides"),
    "spaced": (SHAPE_OF, rb"\1[200000000]\n      strides : [0]\n", "not laid out .*strides"),
    "tagged": (SHAPE_OF, rb"\1[200000000]\n      ? strides\n      : !!seq [0]\n", "not laid out"),
    "merged": (SHAPE_OF, rb"\1[2]\n      <<: {strides: [0]}\n", "a key that no record has"),
    "large": (SHAPE_OF, rb"\1[200000000]\n", "declares 1600000000 bytes, its block has"),
    "negative": (SHAPE_OF, rb"\1[-1]\n", "shape is not a whole number"),
    "rows of nothing": (SHAPE_OF, rb"\1[100000000, 0]\n", "declares 0 bytes, its block has"),
    "file": (SOURCE, rb'\1"file:///etc/hostname"\n', "source is not a whole number"),
    "url": (SOURCE, rb"\1http://127.0.0.1:9/x.asdf\n", "source is not a whole number"),
    "text": (SOURCE, rb'\1"\2"\n', "source is not a whole number"),
    "tagged number": (SOURCE, rb"\1!!str \2\n", "source is not a whole number"),
    "last block": (SOURCE, rb"\1-1\n", "source is not a whole number"),
    "no block": (SOURCE, rb"\g<1>99999\n", "not laid out"),
    "reference": (
        rb"(  order: )!core(?:.*\n){5}",
        rb'\1{$ref: "file:///x#/y"}\n',
        r"a key .*\$ref",
    ),
    "inline": (rb"(  order: !core/ndarray-1\.\d\.0)(?:.*\n){5}", rb"\1 [0, 1]\n", "inline values"),
    "alias": (rb"(  recombine: )", rb"  zz: [&a [x, x], *a]\n\1", "tree is not laid out"),
    "depth": (rb"(  recombine: )", rb"  zz: " + b"[" * 99 + b"]" * 99 + rb"\n\1", "not laid out"),
    "table": (
        rb"(  recombine: )",
        rb"  zz: !core/complex-1.0.0 1j\n\1",
        "holds a tag that no record has",
    ),
    "twice": (rb"(  recombine: )", rb"  recombine: true\n\1", "a key that no record has"),
    "two trees": (rb"\n\.\.\.\n", b"\n--- {a: 1}\n...\n", "tree is not laid out"),
}


@pytest.mark.parametrize(("pattern", "new", "match"), HOSTILE.values(), ids=HOSTILE)
def test_arrays_lie_in_the_file_and_are_as_large_as_that(
    path, tmp_path, monkeypatch, pattern, new, match
):
    content, n = re.subn(pattern, new, path.read_bytes(), count=1)
    assert n == 1
    (tmp_path / "bad.asdf").write_bytes(content)
    monkeypatch.setattr(asdf, "open", None)
    with pytest.raises(RecordError, match=rf"bad\.asdf: .*{match}"):
        read_record(tmp_path / "bad.asdf")


def test_a_block_index_is_not_followed(path, tmp_path):
    content = path.read_bytes()
    start = content.index(b"#ASDF BLOCK INDEX")
    numbers = content.index(b"\n- ", start)
    (tmp_path / "bad.asdf").write_bytes(content[:numbers] + b"\n- 7\n- 8\n...\n")
    assert read_record(tmp_path / "bad.asdf").names == read_record(path).names


def test_arrays_do_not_share_a_block_many_times(path, tmp_path):
    content = path.read_bytes()
    array = re.search(rb"    gram: (!core/ndarray(?:.*\n){5})", content)[1]
    more = b"".join(b"    x%d: " % k + array for k in range(1000))
    content = content.replace(b"    gram: !core", more + b"    gram: !core")
    (tmp_path / "bad.asdf").write_bytes(content)
    with pytest.raises(RecordError, match=r"its arrays declare \d+ bytes, its blocks"):
        read_record(tmp_path / "bad.asdf")


def test_what_is_no_record(tmp_path, raw):
    (tmp_path / "text.asdf").write_text("hello")
    asdf.AsdfFile({"levelmatch": {"a": 1}}).write_to(tmp_path / "other.asdf")
    for name, match in (
        ("none.asdf", "the record cannot be read: No such file"),
        ("text.asdf", "not a readable record"),
        ("other.asdf", "it holds no level match"),
    ):
        with pytest.raises(RecordError, match=match):
            read_record(tmp_path / name)
    with pytest.raises(RecordError, match="not a readable record"):
        read_record(raw[0])


def test_records_are_whole_or_not_there(record, tmp_path):
    record.write(tmp_path / "a.asdf")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        record.write(tmp_path / "a.asdf")
    record.write(tmp_path / "a.asdf", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.asdf"]


def test_images_in_memory(paint, tmp_path):
    images = [paint(f"{n}.fits", (0.3, 20.5 * k), level=k) for k, n in enumerate("abc")]
    result = lm.match_mosaic(images, group_by=lambda name, meta: name)
    paths = result.write(tmp_path / "out")
    record = read_record(tmp_path / "out" / RECORD_NAME)
    with pytest.raises(RecordError, match=r"a\.fits: the image was in memory"):
        lm.verify_record(record, paths)
    (tmp_path / "raw").mkdir()
    for image in images:
        image.write(tmp_path / "raw" / image.meta["FILENAME"])
    inputs = recorded_files(record, tmp_path / "raw")
    assert lm.verify_record(record, paths, inputs) == ["a.fits", "b.fits", "c.fits"]


def test_images_in_memory_without_names(paint, tmp_path):
    images = [paint(n, (0.3, 20.5 * k), level=k) for k, n in enumerate("ab")]
    for image in images:
        del image.meta["FILENAME"]
    result = lm.match_mosaic(images, group_by=lambda name, meta: name)
    outputs = result.write(tmp_path / "out")
    (tmp_path / "raw").mkdir()
    for image, path in zip(images, outputs, strict=True):
        image.write(tmp_path / "raw" / path.name)
    record = read_record(tmp_path / "out" / RECORD_NAME)
    inputs = recorded_files(record, tmp_path / "raw")
    assert lm.verify_record(record, outputs, inputs) == ["image0000", "image0001"]
    again = lm.apply_record(record, inputs, tmp_path / "again")
    back = lm.undo_record(record, outputs, tmp_path / "back")
    for image, *paths in zip(images, outputs, again, back, strict=True):
        assert {path.name for path in paths} == {paths[0].name}
        assert_array_equal(fits.getdata(paths[0]), fits.getdata(paths[1]))
        assert_allclose(fits.getdata(paths[2]), image.data, rtol=1e-6)
    with pytest.raises(RecordError, match=r"image0000.*: it is given twice"):
        lm.verify_record(record, [*outputs, back[0]], inputs)


@pytest.mark.skipif(os.sep != "/", reason="a backslash separates folders here")
def test_a_backslash_in_a_name(paint, write, tmp_path):
    folders = [tmp_path / name for name in ("raw", "out", "again", "back")]
    folders[0].mkdir()
    raw = [
        write(paint("a.fits", (0.3, 20.5 * k), level=k), folders[0] / f"night\\{k}.fits")
        for k in range(2)
    ]
    out = lm.match_mosaic(raw, group_by="FILENAME").write(folders[1])
    record = read_record(folders[1] / RECORD_NAME)
    assert lm.verify_record(record, out) == [path.name for path in raw]
    again = lm.apply_record(record, raw, folders[2])
    assert [a.read_bytes() for a in again] == [o.read_bytes() for o in out]
    for back, before in zip(lm.undo_record(record, out, folders[3]), raw, strict=True):
        assert_allclose(fits.getdata(back, "SCI"), fits.getdata(before, "SCI"), rtol=1e-6)


def test_chained_functions_are_recorded_together(raw, tmp_path):
    tiles = lm.match_dithers(raw)
    mosaic = lm.match_mosaic(tiles)
    out = mosaic.write(tmp_path / "out")
    record = read_record(tmp_path / "out" / RECORD_NAME)
    assert record.n_earlier == 1
    again = lm.apply_record(record, raw, tmp_path / "again")
    assert [a.read_bytes() for a in again] == [a.read_bytes() for a in out]
    solved = lm.solve_record(record, reference=3)
    whole = lm.match_mosaic(tiles, reference=3)
    assert_allclose(solved.table["level"].value, whole.table["level"].value, atol=1e-9)


def test_recombined_images(tmp_path):
    simulated = simulate_miri(tiles=(1, 1), lyot=True, dither_size=24, stars=False, nebula=False)
    raw = simulated.write(tmp_path / "raw")
    result = lm.match_levels(raw, recombine_lyot=True)
    out = result.write(tmp_path / "out")
    assert any(frame.part == "lyot" for frame in result.frames)
    record = read_record(tmp_path / "out" / RECORD_NAME)
    assert record.names == [p.name for p in raw]
    assert lm.verify_record(record, out) == record.names
    back = lm.undo_record(record, out, tmp_path / "back")
    for a, b in zip(back, raw, strict=True):
        assert_allclose(fits.getdata(a, "SCI"), fits.getdata(b, "SCI"), rtol=1e-5, atol=2e-6)
        assert fits.getheader(a, "SCI").tostring() == fits.getheader(b, "SCI").tostring()
    gone = record.names[0]
    assert lm.solve_record(record, exclude=[gone]).names == record.names[1:]


def test_docs_and_schema_agree():
    """Each tag of the manifest has a schema, and the converter accepts it."""
    from levelmatch.record.extension import get_extensions, get_resource_mappings

    resources = {uri: content for m in get_resource_mappings() for uri, content in m.items()}
    (extension,) = get_extensions()
    for tag in extension.tags:
        (uri,) = tag.schema_uris
        assert uri in resources
        asdf.schema.check_schema(asdf.util.load_yaml(io.BytesIO(resources[uri])))
        assert any(fnmatch(tag.tag_uri, pattern) for pattern in extension.converters[0].tags)


def test_options_that_are_missing_are_named(path, tmp_path):
    for group in ("read", "measure", "solve"):

        def drop(tree, group=group):
            tree["options"] = {k: v for k, v in tree["options"].items() if k != group}

        match = r"changed\.asdf: the record is damaged"
        if group == "read":
            # The tree has the flat layout of old records.
            match = r"changed\.asdf"
        with pytest.raises(RecordError, match=match):
            read_record(rewritten(path, drop, tmp_path))


def test_folders_stand_for_their_images(tmp_path):
    paths = simulate_miri(tiles=(1, 1), n_dithers=2, shape=(48, 48)).write(tmp_path / "in")
    lm.match_levels(paths).write(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("another file")
    record = tmp_path / "out" / RECORD_NAME
    names = [path.name for path in paths]
    assert lm.verify_record(record, tmp_path / "out") == names
    assert lm.verify_record(record, tmp_path / "out", tmp_path / "in") == names
    back = lm.undo_record(record, tmp_path / "out", tmp_path / "back")
    again = lm.apply_record(record, str(tmp_path / "in"), tmp_path / "again")
    assert [path.name for path in (*back, *again)] == names * 2
    for one, other in zip(again, sorted((tmp_path / "out").glob("*.fits")), strict=True):
        assert one.read_bytes() == other.read_bytes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="empty: the folder has no image of the record"):
        lm.verify_record(record, tmp_path / "empty")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
@pytest.mark.parametrize("compressed", [False, True])
def test_good_pixels_may_reach_the_blank_value(tmp_path, dtype, compressed):
    """The value of blank pixels in the original is a good value of the corrected image."""
    rng, paths = np.random.default_rng(1), []
    for k in range(2):
        header = fits.Header()
        for key, value in {"CTYPE": ("RA---TAN", "DEC--TAN"), "CRVAL": (150.0, 2.0)}.items():
            header[f"{key}1"], header[f"{key}2"] = value
        header["CDELT1"], header["CDELT2"] = -1e-4, 1e-4
        header["CRPIX1"], header["CRPIX2"] = 30 + 10 * k, 30
        data = (100 + rng.integers(-3, 4, (60, 60))).astype(dtype)
        data[3, 3] = 95
        kind = fits.CompImageHDU if compressed else fits.ImageHDU
        hdu = kind(data, header)
        hdu.header["BLANK"] = 95 - (1 << 15 if dtype == "u2" else 0)
        paths.append(tmp_path / f"k{k}.fits")
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(paths[-1])
    solve = lm.SolveOptions(hold={"k0.fits": 5.0, "k1.fits": 5.0})
    out = lm.match_levels(paths, group_by="FILENAME", solve=solve).write(tmp_path / "out")
    assert np.count_nonzero(fits.getdata(out[0], 1) == 95) > 100
    back = lm.undo_record(tmp_path / "out" / RECORD_NAME, out, tmp_path / "back")
    for one, other in zip(back, paths, strict=True):
        found, expected = fits.getdata(one, 1), fits.getdata(other, 1)
        good = np.ones(found.shape, dtype=bool)
        good[3, 3] = False
        assert_array_equal(found[good], expected[good])
